//! Starts jobs as places and memory come free.
//!
//! Jobs that work and jobs that only watch go in lanes of their own: neither waits for the other. In each, oldest first. A job whose kind has no place free is passed over; one for which there is no memory is not: what comes
//! free is kept for it, so that large jobs get their turn.

use super::Queue;
use crate::error::JobError;
use crate::kind::WATCHING;
use crate::ledger::{Claimed, Kinds};
use crate::memory::Room;
use ondol_runtime::Shutdown;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How often the ledger is looked at for what other instances have left or submitted.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Jobs that watch at the same time, in an instance.
const WATCHES: usize = 32;

/// Jobs that wait for the same places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Those that work.
    Work,
    /// Those that watch what another service does.
    Watch,
}

impl Lane {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Work, Self::Watch];

    /// The name of the task that serves it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Work => "jobs",
            Self::Watch => "jobs-that-watch",
        }
    }

    /// The lane of jobs of this kind.
    pub(crate) fn of(kind: &str) -> Self {
        if kind == WATCHING { Self::Watch } else { Self::Work }
    }

    /// The kinds in it.
    pub(crate) const fn kinds(self) -> Kinds {
        match self {
            Self::Work => Kinds::AllBut(WATCHING),
            Self::Watch => Kinds::Only(WATCHING),
        }
    }
}

/// Starts jobs of a lane until shutdown.
pub(crate) async fn dispatch(queue: Arc<Queue>, lane: Lane, shutdown: Shutdown) {
    let places = match lane {
        Lane::Work => queue.parts.config.concurrent_jobs.max(1),
        Lane::Watch => WATCHES,
    };
    let places = Arc::new(Semaphore::new(places));
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = shutdown.triggered() => return,
        };
        let Ok(place) = place else { return };
        let Some((claimed, room)) = queue.next(lane, &shutdown).await else {
            return;
        };
        let queue = Arc::clone(&queue);
        let active = queue.begin(&claimed);
        shutdown.spawn("job", async move {
            queue.run(claimed, active, &room).await;
            drop((place, room));
            queue.changed();
        });
    }
}

impl Queue {
    /// The next job to start, claimed; none at shutdown. Not dropped in between: a claim is never forgotten.
    async fn next(&self, lane: Lane, shutdown: &Shutdown) -> Option<(Claimed, Room)> {
        let mut changes = self.changes.subscribe();
        loop {
            changes.mark_unchanged();
            if shutdown.is_triggered() {
                return None;
            }
            match self.try_next(lane).await {
                Ok(Some(next)) => return Some(next),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "the job ledger does not answer, trying again"),
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = shutdown.triggered() => return None,
            }
        }
    }

    async fn try_next(&self, lane: Lane) -> Result<Option<(Claimed, Room)>, JobError> {
        let (ledger, config) = (&self.parts.ledger, &self.parts.config);
        let given_up = ledger.settle_abandoned(config.attempts.max(1), self.now()).await?;
        for job in given_up {
            tracing::error!(job = job.id, kind = job.kind, subject = job.subject, "job given up");
            metrics::counter!("ondol_pipelines_jobs_total", "kind" => job.kind, "state" => "failed").increment(1);
        }
        metrics::gauge!("ondol_pipelines_jobs_queued").set(ledger.queued(Kinds::All).await? as f64);
        for waiting in ledger.waiting(lane.kinds()).await? {
            // Still here, in a work that has not noticed yet that it lost the job.
            if self.active().contains_key(&waiting.id) || !self.has_place(&waiting.kind) {
                continue;
            }
            let Some(room) = self.memory.try_take(waiting.memory_mib) else {
                return Ok(None);
            };
            let claimed = ledger
                .claim(&waiting.id, &self.owner, config.lease(), self.now())
                .await?;
            if let Some(claimed) = claimed {
                return Ok(Some((claimed, room)));
            }
        }
        Ok(None)
    }

    fn has_place(&self, kind: &str) -> bool {
        let Some(places) = self.parts.config.concurrent_of_kind.get(kind) else {
            return true;
        };
        let taken = self
            .active()
            .values()
            .filter(|active| active.job().kind == kind)
            .count();
        taken < (*places).max(1)
    }
}
