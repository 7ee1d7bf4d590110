//! Jobs for what the feature store begins by itself: whenever a version over a stream is being provisioned and nobody
//! holds it back, a job that watches it is submitted, unless there is one. A version that serves before anybody has looked
//! gets its job afterwards, which finds that it is done: so there is one for each.

use super::BACKFILL;
use crate::queue::Queue;
use ondol_feature_store_api::FeatureStore;
use ondol_feature_store_api::provisioning::{Provisioning, ProvisioningState};
use ondol_pipelines_api::PipelinesError;
use ondol_vocabulary::{Snapshot, VersionedName, ViewState};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long one wait for a new snapshot lasts while nothing is being provisioned.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How often there is a look while something is.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A version whose job has ended without it gets another one after this long, then after twice as long, …
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// The longest pause between two questions to a store that does not answer.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// When a version may be submitted again.
struct Submitted {
    next: Instant,
    pause: Duration,
}

/// Follows the registry until `shutdown`.
pub(crate) async fn follow(store: Arc<dyn FeatureStore>, queue: Arc<Queue>, shutdown: CancellationToken) {
    let mut submitted: HashMap<u32, Submitted> = HashMap::new();
    let mut serving = None;
    let mut seen = 0;
    let mut silence = LOOK_EVERY;
    loop {
        let look = async {
            let snapshot = store.next_snapshot(seen, LONGEST_WAIT).await?;
            let waiting = match waits(&snapshot) {
                true => store.provisionings().await?,
                false => Vec::new(),
            };
            Ok::<_, ondol_feature_store_api::FeatureStoreError>((snapshot, waiting))
        };
        let look = tokio::select! {
            look = look => look,
            () = shutdown.cancelled() => return,
        };
        let pause = match look {
            Ok((snapshot, waiting)) => {
                silence = LOOK_EVERY;
                submit(&snapshot, &waiting, &queue, &mut submitted).await;
                catch_up(&snapshot, &queue, &mut serving).await;
                // While something is under way the end of its job is waited for, not only the next snapshot.
                seen = if waiting.is_empty() { snapshot.version } else { 0 };
                LOOK_EVERY
            }
            Err(error) => {
                tracing::warn!(%error, "the feature store can't be asked what it provisions, trying again");
                silence = (silence * 2).min(LONGEST_SILENCE);
                silence
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Whether a version over a stream is being provisioned.
fn waits(snapshot: &Snapshot) -> bool {
    let mut provisioned = (snapshot.views.iter()).filter(|view| view.state == ViewState::Provisioning);
    provisioned.any(|view| is_stream(snapshot, &view.definition.source))
}

fn is_stream(snapshot: &Snapshot, source: &str) -> bool {
    snapshot
        .source(source)
        .is_some_and(|source| source.definition.is_stream())
}

async fn submit(snapshot: &Snapshot, waiting: &[Provisioning], queue: &Queue, submitted: &mut HashMap<u32, Submitted>) {
    submitted.retain(|id, _| waiting.iter().any(|found| found.view_id == *id));
    let free = |found: &&Provisioning| found.state != ProvisioningState::Held && is_stream(snapshot, &found.source);
    for found in waiting.iter().filter(free) {
        let (name, now) = (found.name().to_string(), Instant::now());
        if submitted.get(&found.view_id).is_some_and(|before| now < before.next) {
            continue;
        }
        match queue.works_on(BACKFILL, &name).await {
            Ok(false) => {}
            Ok(true) => continue,
            Err(error) => {
                tracing::warn!(feature_view = found.view, %error, "the job ledger can't be read, trying again");
                return;
            }
        }
        match queue.watch_backfill(snapshot, &name, None).await {
            Ok(_) => {
                let before = submitted.get(&found.view_id).map(|before| before.pause * 2);
                let pause = before.unwrap_or(FIRST_PAUSE).min(LONGEST_PAUSE);
                let next = now + pause;
                submitted.insert(found.view_id, Submitted { next, pause });
            }
            // Those that are watched must end first.
            Err(PipelinesError::Overloaded { .. }) => return,
            Err(error) => {
                tracing::warn!(feature_view = found.view, %error, "a backfill goes on without a job, trying again");
            }
        }
    }
}

/// Submits jobs for versions over streams that serve now, did not when it was looked last, and have none. `serving` are
/// those of the last look: what has served at the first one was there before.
async fn catch_up(snapshot: &Snapshot, queue: &Queue, serving: &mut Option<HashSet<u32>>) {
    let active = snapshot.views.iter().filter(|view| {
        let serves = view.state == ViewState::Active;
        serves && is_stream(snapshot, &view.definition.source)
    });
    let Some(known) = serving else {
        *serving = Some(active.map(|view| view.id).collect());
        return;
    };
    for view in active {
        if known.contains(&view.id) {
            continue;
        }
        let name = VersionedName::new(&view.definition.name, view.version).to_string();
        // Another instance may be as late.
        let key = format!("ondol-backfill-{}", view.id).parse().ok();
        let told = match queue.worked_on(BACKFILL, &name).await {
            Ok(true) => Ok(()),
            Ok(false) => queue.watch_backfill(snapshot, &name, key).await.map(drop),
            Err(error) => Err(PipelinesError::Unavailable {
                detail: error.to_string(),
            }),
        };
        match told {
            Ok(()) => {
                known.insert(view.id);
            }
            Err(error) => tracing::warn!(
                feature_view = view.definition.name,
                %error,
                "a version serves without a job that tells of it, trying again"
            ),
        }
    }
}
