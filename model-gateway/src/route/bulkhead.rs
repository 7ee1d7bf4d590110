//! What one model may have under way. Each has its own bound and its own short queue, so that a model that hangs fills
//! its own and no other's.
//!
//! A request that finds the queue full is refused at once; one that is likely to wait longer than its deadline allows (by
//! what requests took lately) is refused at once too, rather than after it has waited in vain.

use metrics::counter;
use ondol_model_gateway_api::ModelGatewayError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The bound of one model.
#[derive(Debug)]
pub struct Bulkhead {
    model: String,
    room: Arc<Semaphore>,
    size: usize,
    queue: usize,
    waiting: AtomicUsize,
    /// What a request took lately, in microseconds: a moving average.
    typical_us: AtomicU64,
}

/// A request's place among those under way; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    bulkhead: Arc<Bulkhead>,
    entered: Instant,
    waited: Duration,
    _room: OwnedSemaphorePermit,
}

impl Place {
    /// How long it was waited for.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

/// A place in the queue; given back when it is dropped, also when the caller has gone.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Bulkhead {
    /// For `size` requests of `model` under way and `queue` waiting.
    pub fn new(model: &str, size: usize, queue: usize) -> Arc<Self> {
        let size = size.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self {
            model: model.to_owned(),
            room: Arc::new(Semaphore::new(size)),
            size,
            queue,
            waiting: AtomicUsize::new(0),
            typical_us: AtomicU64::new(0),
        })
    }

    /// Requests under way at most.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Waits for a place, at most until `deadline`.
    pub async fn enter(self: &Arc<Self>, deadline: Instant) -> Result<Place, ModelGatewayError> {
        if let Ok(room) = Arc::clone(&self.room).try_acquire_owned() {
            return Ok(self.place(room, Duration::ZERO));
        }
        let arrived = Instant::now();
        let ahead = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if ahead >= self.queue {
            return Err(self.refused("queue_full", &format!("{ahead} more wait (`max_queue_per_model`)")));
        }
        let likely = self.likely_wait(ahead + 1);
        if likely > deadline.saturating_duration_since(Instant::now()) {
            let likely_ms = likely.as_millis();
            return Err(self.refused(
                "too_late",
                &format!("the wait would be about {likely_ms} ms, longer than the deadline"),
            ));
        }
        match tokio::time::timeout_at(deadline, Arc::clone(&self.room).acquire_owned()).await {
            Ok(Ok(room)) => Ok(self.place(room, arrived.elapsed())),
            Ok(Err(_)) | Err(_) => Err(self.refused("waited", "none became free within the deadline")),
        }
    }

    fn place(self: &Arc<Self>, room: OwnedSemaphorePermit, waited: Duration) -> Place {
        Place {
            bulkhead: Arc::clone(self),
            entered: Instant::now(),
            waited,
            _room: room,
        }
    }

    fn likely_wait(&self, place: usize) -> Duration {
        let typical_us = self.typical_us.load(Ordering::Relaxed);
        Duration::from_micros(typical_us.saturating_mul(place as u64) / self.size as u64)
    }

    fn refused(&self, reason: &'static str, detail: &str) -> ModelGatewayError {
        counter!("ondol_gateway_model_overloaded_total", "model" => self.model.clone(), "reason" => reason)
            .increment(1);
        ModelGatewayError::Overloaded {
            detail: format!(
                "{} requests of model `{}` are under way (`max_in_flight`) and {detail}: try again, or add replicas",
                self.size, self.model
            ),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let took = u64::try_from(self.entered.elapsed().as_micros()).unwrap_or(u64::MAX);
        // Requests that end at the same moment may lose one another's share: it is an average.
        let typical = self.bulkhead.typical_us.load(Ordering::Relaxed);
        let next = if typical == 0 {
            took
        } else {
            typical - typical / 8 + took / 8
        };
        self.bulkhead.typical_us.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test]
    async fn a_request_waits_for_a_place_and_gets_it() {
        let bulkhead = Bulkhead::new("m", 1, 1);
        let first = bulkhead.enter(later()).await.unwrap();
        let waiting = tokio::spawn({
            let bulkhead = Arc::clone(&bulkhead);
            async move { bulkhead.enter(later()).await.map(drop) }
        });
        while bulkhead.waiting.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let error = bulkhead.enter(later()).await.unwrap_err();
        assert!(error.to_string().contains("max_queue_per_model"), "{error}");
        drop(first);
        waiting.await.unwrap().unwrap();
        assert_eq!(bulkhead.waiting.load(Ordering::Relaxed), 0);
        assert!(bulkhead.enter(later()).await.is_ok());
    }

    #[tokio::test]
    async fn a_request_that_would_wait_past_its_deadline_is_refused_at_once() {
        let bulkhead = Bulkhead::new("m", 1, 10);
        bulkhead.typical_us.store(5_000_000, Ordering::Relaxed);
        let _first = bulkhead.enter(later()).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(3);
        let error = bulkhead.enter(deadline).await.unwrap_err();
        assert!(error.to_string().contains("about 5000 ms"), "{error}");
    }

    #[tokio::test]
    async fn nobody_waits_past_the_deadline() {
        let bulkhead = Bulkhead::new("m", 1, 10);
        let _first = bulkhead.enter(later()).await.unwrap();
        let error = bulkhead
            .enter(Instant::now() + Duration::from_millis(5))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("within the deadline"), "{error}");
        assert_eq!(bulkhead.waiting.load(Ordering::Relaxed), 0);
    }
}
