//! What the deliveries of one source pass through, one at a time.

use crate::online::{Continuity, Life};
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::{DeliveryHeader, PartitionPosition};
use std::collections::BTreeSet;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedMutexGuard, Semaphore};

/// The gate of one source.
pub(super) struct Gate {
    /// Held while a delivery is written, or a bootstrap hands over.
    turn: Arc<tokio::sync::Mutex<Turn>>,
    pub(super) waiting: Semaphore,
    /// Events written since the last commit.
    pub(super) uncommitted: AtomicUsize,
    /// The online store's life in which the uncommitted events were absorbed; none before the first.
    life: Mutex<Option<Life>>,
    /// View versions that every uncommitted event was absorbed into, or that nobody reads any more. Ids are never
    /// used again, so it only grows.
    covered: Mutex<BTreeSet<u32>>,
}

/// What only the holder of a source's turn may touch.
#[derive(Default)]
pub(super) struct Turn {
    /// How far a table has been written; a stream's positions are the log's.
    pub(super) table: Vec<PartitionPosition>,
}

/// The exclusive right to write a source in this process. Dropping it lets the next delivery in.
pub struct SourceTurn {
    pub(super) gate: Arc<Gate>,
    pub(super) turn: OwnedMutexGuard<Turn>,
}

impl Gate {
    pub(super) fn new(max_pending_deliveries: usize) -> Self {
        Self {
            turn: Arc::default(),
            waiting: Semaphore::new(max_pending_deliveries.max(1)),
            uncommitted: AtomicUsize::new(0),
            life: Mutex::new(None),
            covered: Mutex::default(),
        }
    }

    /// Waits for the turn.
    pub(super) async fn turn(self: &Arc<Self>) -> SourceTurn {
        SourceTurn {
            gate: Arc::clone(self),
            turn: Arc::clone(&self.turn).lock_owned().await,
        }
    }

    /// The life in which the uncommitted events were absorbed; noted when the first of them comes.
    pub(super) async fn lives_since(&self, continuity: &Continuity) -> Result<Life, FeatureStoreError> {
        let noted = self.life().clone();
        let life = match noted {
            Some(life) => return Ok(life),
            None => continuity.life().await?,
        };
        *self.life() = Some(life.clone());
        Ok(life)
    }

    /// Whether the life that was noted, if any, is `life`.
    pub(super) fn lives_in(&self, life: &Life) -> bool {
        self.life().as_ref().is_none_or(|noted| noted == life)
    }

    /// Whether `life`, noted before, still is the one that was noted.
    pub(super) fn lives_on_in(&self, life: &Life) -> bool {
        self.life().as_ref() == Some(life)
    }

    pub(super) fn forget_life(&self) {
        *self.life() = None;
    }

    /// Whether every uncommitted event was absorbed into all of `views`.
    pub(super) fn covers(&self, views: &BTreeSet<u32>) -> bool {
        views.is_subset(&self.covered())
    }

    pub(super) fn covers_one(&self, view: u32) -> bool {
        self.covered().contains(&view)
    }

    pub(super) fn cover(&self, view: u32) {
        self.covered().insert(view);
    }

    fn life(&self) -> MutexGuard<'_, Option<Life>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn covered(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.covered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    pub(super) fn advance_table(&mut self, header: &DeliveryHeader) {
        self.table = header
            .ranges
            .iter()
            .map(|range| PartitionPosition {
                partition: range.partition,
                next_offset: range.to,
            })
            .collect();
    }
}
