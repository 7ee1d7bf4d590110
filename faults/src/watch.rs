//! Watching a run: how far the feature store has committed, how much memory the processes take, and whether one of
//! them has ended by itself (then it is started again, as a supervisor would).

use crate::estate::Estate;
use crate::views::SOURCE;
use anyhow::{Result, bail};
use ondol_feature_store_api::wire::{PartitionPosition, Rebuild};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(400);

/// Positions by partition.
pub(crate) type Positions = BTreeMap<i32, i64>;

/// What was seen.
pub(crate) struct Watch {
    committed: watch::Sender<Positions>,
    ended: Mutex<Vec<String>>,
    /// Rebuilds seen: view and when it was asked for.
    rebuilds: Mutex<BTreeSet<(String, String)>>,
}

impl Watch {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            committed: watch::channel(Positions::new()).0,
            ended: Mutex::default(),
            rebuilds: Mutex::default(),
        })
    }

    /// Looks for ever.
    pub(crate) async fn run(self: Arc<Self>, estate: Arc<Estate>) {
        let http = reqwest::Client::new();
        loop {
            tokio::time::sleep(LOOK).await;
            estate.targets().for_each(super::target::Target::measure);
            self.revive(&estate).await;
            self.look_at_rebuilds(&estate, &http).await;
            for store in &estate.stores {
                let url = format!("{}/v1/sources/{SOURCE}/positions", store.url());
                let asked = http
                    .get(url)
                    .query(&[("generation", &estate.generation)])
                    .timeout(Duration::from_secs(2));
                let Ok(answer) = asked.send().await else { continue };
                let Ok(positions) = answer.json::<Vec<PartitionPosition>>().await else {
                    continue;
                };
                self.committed
                    .send_if_modified(|committed| advance(committed, &positions));
            }
        }
    }

    async fn look_at_rebuilds(&self, estate: &Estate, http: &reqwest::Client) {
        for store in &estate.stores {
            let asked = http
                .get(format!("{}/v1/rebuilds", store.url()))
                .timeout(Duration::from_secs(2));
            let Ok(answer) = asked.send().await else { continue };
            let Ok(rebuilds) = answer.json::<Vec<Rebuild>>().await else {
                continue;
            };
            let mut seen = self.rebuilds.lock().unwrap_or_else(PoisonError::into_inner);
            for rebuild in rebuilds {
                if let Some(at) = rebuild.started_at {
                    seen.insert((rebuild.view, at.to_string()));
                }
            }
            // Replicas share what they know.
            return;
        }
    }

    /// How often each view's rows were built anew.
    pub(crate) fn rebuilds(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (view, _) in self.rebuilds.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            *counts.entry(view.clone()).or_default() += 1;
        }
        counts
    }

    async fn revive(&self, estate: &Estate) {
        let workers = estate.workers.iter().filter(|worker| !worker.is_spare);
        let all = workers.map(|worker| &worker.target).chain(&estate.stores);
        for target in all.chain(&estate.brokers) {
            let Some(mut held) = target.try_hold() else { continue };
            if !held.is_running() {
                let said = format!("{} ended by itself and was started again", target.name);
                self.ended.lock().unwrap_or_else(PoisonError::into_inner).push(said);
                // A program that can't start now is tried again at the next look.
                let _started = held.start();
            }
        }
    }

    /// Processes that ended without being told to.
    pub(crate) fn ended(&self) -> Vec<String> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until everything before `ends` is committed; how long that took.
    pub(crate) async fn reach(&self, ends: &Positions, patience: Duration) -> Result<Duration> {
        let begun = Instant::now();
        let mut committed = self.committed.subscribe();
        let there = committed.wait_for(|committed| is_reached(committed, ends));
        match tokio::time::timeout(patience, there).await {
            Ok(Ok(_)) => Ok(begun.elapsed()),
            Ok(Err(_)) => bail!("nobody watches any more"),
            Err(_) => {
                let committed = self.committed.borrow().clone();
                bail!("not drained within {patience:?}: committed {committed:?}, wanted {ends:?}")
            }
        }
    }
}

fn advance(committed: &mut Positions, positions: &[PartitionPosition]) -> bool {
    let mut changed = false;
    for position in positions {
        let held = committed.entry(position.partition).or_default();
        changed |= position.next_offset > *held;
        *held = position.next_offset.max(*held);
    }
    changed
}

fn is_reached(committed: &Positions, ends: &Positions) -> bool {
    ends.iter()
        .all(|(partition, end)| *end == 0 || committed.get(partition).is_some_and(|held| held >= end))
}
