//! What the online store holds, across its lives: who takes over from whom, and whether something was lost on the way.
//!
//! Every write of rows names the life in which the rows it builds on were read. A life counts only once it is admitted
//! in the registry (see `registry::losses`), where the marks of earlier syncs are compared with what the store still
//! has. So a failover is noticed by whichever replica comes first, and judged once.
//!
//! What follows from it: events that were not committed are asked for again (see [`crate::write`]); rows behind
//! committed positions that were lost are built anew (see [`crate::bootstrap`]), and until they are, a view that lacks them
//! is not read: an entity without a row may have had one, and a row may begin where the loss ended.
//!
//! A reader need not ask for the life each time. A server that restarts takes the connection with it, which costs a command:
//! while none has failed since the life was looked at, what was read is of that life. Only a cluster's client may hide that
//! from its callers; there a new life is noticed within a second, when the store looks at its health.

use super::{Life, Mark, OnlineStore};
use crate::registry::Registry;
use ondol_feature_store_api::FeatureStoreError;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// The online store's lives and marks, as the registry knows them.
pub struct Continuity {
    registry: Registry,
    online: Arc<dyn OnlineStore>,
    /// The life this process knows to be admitted.
    admitted: Mutex<Option<Life>>,
    /// Ids of rows that serve and lack what was lost.
    lost: RwLock<BTreeSet<u32>>,
    /// How many commands of the store had failed when its life was looked at.
    looked_at: AtomicU64,
    /// Whose turn it is to look, of readers.
    looking: tokio::sync::Mutex<()>,
}

impl Continuity {
    /// Of `online`, whose marks `registry` keeps.
    pub fn new(registry: Registry, online: Arc<dyn OnlineStore>) -> Self {
        Self {
            registry,
            online,
            admitted: Mutex::new(None),
            lost: RwLock::default(),
            looked_at: AtomicU64::new(u64::MAX),
            looking: tokio::sync::Mutex::default(),
        }
    }

    /// The present life, admitted.
    pub async fn life(&self) -> Result<Life, FeatureStoreError> {
        let failures = self.online.failures();
        let life = self.online.life().await?;
        if self.admitted().as_ref() != Some(&life) {
            self.admit(&life).await?;
            let lost = self.registry.lost_rows().await?;
            *self.lost.write().unwrap_or_else(PoisonError::into_inner) = lost;
            *self.admitted() = Some(life.clone());
        }
        self.looked_at.store(failures, Ordering::Release);
        Ok(life)
    }

    /// Which of `view_ids`, whose rows were read just now, lack what was lost: the first.
    pub async fn lost_among(
        &self,
        mut view_ids: impl Iterator<Item = u32> + Send,
    ) -> Result<Option<u32>, FeatureStoreError> {
        if !self.is_looked_at() {
            // One looks for all that wait.
            let _turn = self.looking.lock().await;
            if !self.is_looked_at() {
                self.life().await?;
            }
        }
        let lost = self.lost.read().unwrap_or_else(PoisonError::into_inner);
        Ok(view_ids.find(|id| lost.contains(id)))
    }

    fn is_looked_at(&self) -> bool {
        self.looked_at.load(Ordering::Acquire) == self.online.failures()
    }

    /// Makes everything written so far survive as far as the store can, and records by what a loss would be noticed.
    /// Answers the life in which that is so; rows that were written in another one are not covered.
    pub async fn sync(&self) -> Result<Life, FeatureStoreError> {
        let life = self.life().await?;
        let marks = self.online.sync(&life).await?;
        if marks.is_empty() {
            return Ok(life);
        }
        let marks: Vec<(String, u64)> = marks.into_iter().map(|Mark { shard, value }| (shard, value)).collect();
        if self.registry.record_marks(&life.0, &marks).await? {
            return Ok(life);
        }
        *self.admitted() = None;
        Err(FeatureStoreError::Unavailable {
            detail: "the online store began a new life while it was synced".to_owned(),
        })
    }

    async fn admit(&self, life: &Life) -> Result<(), FeatureStoreError> {
        if life.0.is_empty() {
            return Ok(());
        }
        let admission = self.registry.admission().await?;
        if admission.life == *life.0 {
            return Ok(());
        }
        let shards: Vec<String> = admission.marks.iter().map(|(shard, _)| shard.clone()).collect();
        let held = self.online.marks(&shards).await?;
        let lost = admission
            .marks
            .iter()
            .zip(held)
            .filter(|((_, recorded), held)| held.is_none_or(|held| held < *recorded))
            .count();
        let first = admission.life.is_empty();
        let losses = admission.admit(&life.0, lost > 0).await?;
        if lost > 0 {
            metrics::counter!("ondol_feature_store_online_losses_total").increment(1);
            tracing::error!(
                shards = lost,
                losses,
                "the online store lost rows that it had acknowledged: they must be built anew from the log (ondol rebuild)"
            );
        } else if !first {
            tracing::warn!("the online store began a new life; nothing that was synced is missing");
        }
        Ok(())
    }

    fn admitted(&self) -> MutexGuard<'_, Option<Life>> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
