//! What the online store holds, across its lives: who takes over from whom, and whether something was lost on the way.
//!
//! Every write of rows names the life in which the rows it builds on were read. A life counts only once it is admitted
//! in the registry (see `registry::losses`), where the marks of earlier syncs are compared with what the store still
//! has. So a failover is noticed by whichever replica comes first, and judged once.
//!
//! What follows from it: events that were not committed are asked for again (see [`crate::write`]); rows behind
//! committed positions that were lost are built anew (see [`crate::bootstrap`]).

use super::{Life, Mark, OnlineStore};
use crate::registry::Registry;
use ondol_feature_store_api::FeatureStoreError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The online store's lives and marks, as the registry knows them.
pub struct Continuity {
    registry: Registry,
    online: Arc<dyn OnlineStore>,
    /// The life this process knows to be admitted.
    admitted: Mutex<Option<Life>>,
}

impl Continuity {
    /// Of `online`, whose marks `registry` keeps.
    pub fn new(registry: Registry, online: Arc<dyn OnlineStore>) -> Self {
        Self {
            registry,
            online,
            admitted: Mutex::new(None),
        }
    }

    /// The present life, admitted.
    pub async fn life(&self) -> Result<Life, FeatureStoreError> {
        let life = self.online.life().await?;
        if self.admitted().as_ref() != Some(&life) {
            self.admit(&life).await?;
            *self.admitted() = Some(life.clone());
        }
        Ok(life)
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
