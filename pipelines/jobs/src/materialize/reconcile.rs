//! Keeps batch sources online by itself: whenever a view over a table waits to be provisioned, a materialization is
//! submitted, and submitted again with growing pauses until it succeeds.

use crate::queue::Queue;
use ondol_feature_store_api::FeatureStore;
use ondol_pipelines_api::wire::{JobState, MaterializeRequest};
use ondol_vocabulary::{Snapshot, ViewState};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long one wait for a new snapshot lasts. Also how soon the end of a job is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The longest pause between two questions to a registry that does not answer.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// The latest attempt at a source.
struct Attempt {
    /// The source's version. A corrected definition is tried at once, whatever the pause of the wrong one.
    version: u32,
    job: String,
    pause: Duration,
    /// When the next may start, once this one has failed.
    next: Option<Instant>,
}

/// Follows the registry until `shutdown`.
pub(crate) async fn reconcile(store: Arc<dyn FeatureStore>, queue: Arc<Queue>, shutdown: CancellationToken) {
    let mut attempts: HashMap<String, Attempt> = HashMap::new();
    let mut seen = 0;
    // A store that answers at once (its snapshot changed, or it fails) is not asked in a tight loop.
    let mut pause = LOOK_EVERY;
    loop {
        let next = tokio::select! {
            next = store.next_snapshot(seen, LOOK_EVERY) => next,
            () = shutdown.cancelled() => return,
        };
        match next {
            Ok(snapshot) => {
                seen = snapshot.version;
                pause = LOOK_EVERY;
                submit_waiting(&snapshot, &queue, &mut attempts).await;
                if attempts.is_empty() {
                    continue;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the registry can't be followed, trying again");
                pause = (pause * 2).min(LONGEST_SILENCE);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn submit_waiting(snapshot: &Snapshot, queue: &Arc<Queue>, attempts: &mut HashMap<String, Attempt>) {
    let waits = |name: &str| {
        snapshot
            .views_of(name)
            .any(|view| view.state == ViewState::Provisioning)
    };
    let tables = snapshot.sources.iter().filter(|source| !source.definition.is_stream());
    let waiting: HashMap<&str, u32> = tables
        .map(|source| (source.definition.name.as_str(), source.version))
        .filter(|(name, _)| waits(name))
        .collect();
    attempts.retain(|name, attempt| waiting.get(name.as_str()) == Some(&attempt.version));
    for (name, version) in waiting {
        let pause = match attempts.get_mut(name) {
            None => FIRST_PAUSE,
            Some(attempt) => match due(attempt, queue).await {
                true => (attempt.pause * 2).min(LONGEST_PAUSE),
                false => continue,
            },
        };
        match queue.works_on("materialize", name).await {
            Ok(false) => {}
            // Somebody asked for it already; what that run leaves undone is seen the next time.
            Ok(true) => continue,
            Err(error) => {
                tracing::warn!(source = name, %error, "the job ledger can't be read, trying again");
                continue;
            }
        }
        match queue.materialize(snapshot, MaterializeRequest::of(name)).await {
            Ok(job) => {
                attempts.insert(
                    name.to_owned(),
                    Attempt {
                        version,
                        job: job.id,
                        pause,
                        next: None,
                    },
                );
            }
            Err(error) => tracing::warn!(source = name, %error, "materialization not submitted, trying again"),
        }
    }
}

/// Whether the source may be tried again. A job that succeeded and left a view waiting (one that came too late for it)
/// is followed at once; one that failed after its pause.
async fn due(attempt: &mut Attempt, queue: &Queue) -> bool {
    if let Some(next) = attempt.next {
        return Instant::now() >= next;
    }
    match queue.state(&attempt.job).await {
        Ok(Some(JobState::Queued | JobState::Running)) => false,
        Ok(Some(JobState::Succeeded) | None) => {
            attempt.pause = FIRST_PAUSE / 2;
            true
        }
        Ok(Some(JobState::Failed | JobState::Cancelled)) => {
            attempt.next = Some(Instant::now() + attempt.pause);
            false
        }
        Err(error) => {
            tracing::warn!(%error, "the job ledger can't be read, trying again");
            false
        }
    }
}
