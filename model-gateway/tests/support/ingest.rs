//! An ingest that does as it is told.

use async_trait::async_trait;
use ondol_ingest_api::wire::{PushReceipt, PushRequest, SourceStatus};
use ondol_ingest_api::{Ingest, IngestError};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// An ingest that keeps what is pushed, and may be down.
#[derive(Default)]
pub struct FakeIngest {
    pub events: Mutex<Vec<String>>,
    pub outcomes: Mutex<Vec<String>>,
    pub down: AtomicBool,
    /// Whether it is down once it has taken a push.
    pub last: AtomicBool,
    pub refused: AtomicUsize,
}

impl FakeIngest {
    /// Waits until `count` events were pushed.
    pub async fn wait_for(&self, count: usize) -> Vec<serde_json::Value> {
        loop {
            let events = self.events.lock().unwrap().clone();
            if events.len() >= count {
                return events
                    .iter()
                    .map(|event| serde_json::from_str(event).unwrap())
                    .collect();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[async_trait]
impl Ingest for FakeIngest {
    async fn push(&self, source: &str, request: PushRequest) -> Result<PushReceipt, IngestError> {
        if self.down.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(IngestError::Unavailable {
                detail: "it is down".to_owned(),
            });
        }
        let kept = match source {
            "decisions" => &self.events,
            "outcomes" => &self.outcomes,
            other => panic!("the gateway pushes to `{other}`"),
        };
        kept.lock()
            .unwrap()
            .extend(request.events.iter().map(|event| event.get().to_owned()));
        self.down.fetch_or(self.last.load(Ordering::SeqCst), Ordering::SeqCst);
        Ok(PushReceipt { positions: Vec::new() })
    }

    async fn status(&self) -> Result<Vec<SourceStatus>, IngestError> {
        Ok(Vec::new())
    }
}
