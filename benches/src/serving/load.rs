//! Closed-loop load: so many callers, each with a connection of its own, each sending its next request when it has the
//! answer to its last.

use super::http1::Answer;
use super::{grpc, http1};
use crate::measure::Samples;
use anyhow::{Context as _, Result, ensure};
use axum::http::Uri;
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Which requests go where, and what they must be answered.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) door: Door,
    /// Whole requests, as bytes.
    pub(super) requests: Arc<Vec<Bytes>>,
    /// The probability that each must be answered.
    pub(super) expected: Arc<Vec<f32>>,
    /// Finds it in an answer.
    pub(super) probability: fn(&Answer) -> Result<f32>,
}

/// How a server is reached.
#[derive(Clone)]
pub(super) enum Door {
    Http(SocketAddr),
    Grpc(Uri),
}

/// What came of it.
pub(super) struct Load {
    pub(super) answered: u64,
    pub(super) seconds: f64,
    pub(super) latency: Samples,
}

/// What came of requests on the clock.
pub(super) struct Paced {
    /// Since each was due, of those that were answered.
    pub(super) latency: Samples,
    pub(super) failed: u64,
}

/// One caller's connection.
pub(super) enum Caller {
    Http(http1::Connection),
    Grpc(grpc::Connection),
}

impl Caller {
    pub(super) async fn open(door: &Door) -> Result<Self> {
        Ok(match door {
            Door::Http(address) => Self::Http(http1::Connection::open(*address).await?),
            Door::Grpc(server) => Self::Grpc(grpc::Connection::open(server.clone()).await?),
        })
    }

    pub(super) async fn call(&mut self, request: &Bytes) -> Result<Answer> {
        match self {
            Self::Http(connection) => connection.call(request).await,
            Self::Grpc(connection) => Ok(Answer {
                json_bytes: None,
                body: connection.call(request.clone()).await?,
            }),
        }
    }
}

impl Target {
    /// Sends every request once and compares each answer, in single precision: the same vector, the same model, so the same bits.
    pub(super) async fn check(&self) -> Result<()> {
        let mut caller = Caller::open(&self.door).await?;
        for (request, expected) in self.requests.iter().zip(self.expected.iter()) {
            let answer = caller.call(request).await?;
            let probability = (self.probability)(&answer)
                .with_context(|| format!("can't read {}", String::from_utf8_lossy(&answer.body)))?;
            ensure!(probability == *expected, "answered {probability}, and not {expected}");
        }
        Ok(())
    }

    /// Sends requests for `time`.
    pub(super) async fn load(&self, callers: usize, time: Duration) -> Result<Load> {
        let connected = self.callers(callers).await?;
        let mut tasks = JoinSet::new();
        let begun = Instant::now();
        for (place, mut caller) in connected.into_iter().enumerate() {
            let requests = Arc::clone(&self.requests);
            tasks.spawn(async move {
                let mut latency = Samples::new()?;
                // Each starts elsewhere, so that they do not ask for the same entity at once.
                let mut next = place * requests.len() / callers;
                let mut answered = 0;
                let mut sent = Instant::now();
                while sent.duration_since(begun) < time {
                    caller.call(&requests[next % requests.len()]).await?;
                    let now = Instant::now();
                    latency.add(now.duration_since(sent));
                    sent = now;
                    next += 1;
                    answered += 1;
                }
                anyhow::Ok((answered, latency))
            });
        }
        let (mut answered, mut latency) = (0, Samples::new()?);
        while let Some(outcome) = tasks.join_next().await {
            let (own, samples) = outcome??;
            answered += own;
            latency.merge(&samples)?;
        }
        Ok(Load {
            answered,
            seconds: begun.elapsed().as_secs_f64(),
            latency,
        })
    }

    /// So many callers, each with its connection.
    pub(super) async fn callers(&self, callers: usize) -> Result<Vec<Caller>> {
        let mut connected = Vec::with_capacity(callers);
        for _ in 0..callers {
            connected.push(Caller::open(&self.door).await?);
        }
        Ok(connected)
    }

    /// Sends `rate` requests a second for `time`, each when it is due or as soon after as one of `callers` is free. One that
    /// fails is counted; its caller takes another connection.
    pub(super) async fn paced(&self, callers: Vec<Caller>, rate: f64, time: Duration) -> Result<Paced> {
        let mut tasks = JoinSet::new();
        let begun = Instant::now();
        let every = callers.len();
        for (place, mut caller) in callers.into_iter().enumerate() {
            let target = self.clone();
            tasks.spawn(async move {
                let mut paced = Paced {
                    latency: Samples::new()?,
                    failed: 0,
                };
                for turn in (place..).step_by(every) {
                    let due = Duration::from_secs_f64(turn as f64 / rate);
                    if due >= time {
                        break;
                    }
                    tokio::time::sleep_until((begun + due).into()).await;
                    let request = &target.requests[turn % target.requests.len()];
                    if caller.call(request).await.is_ok() {
                        paced.latency.add(begun.elapsed().saturating_sub(due));
                    } else {
                        paced.failed += 1;
                        caller = Caller::open(&target.door).await?;
                    }
                }
                anyhow::Ok(paced)
            });
        }
        let mut all = Paced {
            latency: Samples::new()?,
            failed: 0,
        };
        while let Some(outcome) = tasks.join_next().await {
            let own = outcome??;
            all.latency.merge(&own.latency)?;
            all.failed += own.failed;
        }
        Ok(all)
    }
}
