//! Events into online rows: project, group by entity, read rows, absorb, replace; whoever loses a row reads it again.
//!
//! All views of a delivery share one read and one conditional write, so the cost to the online store is two round
//! trips for a delivery without conflicts. Projecting and absorbing are computation: they run on the blocking pool
//! once a delivery is large enough to matter. Expressions are total (see `ondol_transform::expression`), so no event can
//! hold up its source.
//!
//! A row's fence moves to just after its own last event, not to the end of the delivery's range. So the stored
//! bytes depend on the events alone, however they were batched or repeated, and a row holds fences only of partitions
//! that ever had an event for it. What lies between two events of an entity belongs to others.

use crate::online::{Life, OnlineStore, RowKey, RowWrite, blocking};
use crate::views::CompiledView;
use arrow::array::RecordBatch;
use bytes::Bytes;
use ondol_feature_store_api::FeatureStoreError;
use ondol_transform::{Projection, Row};
use std::sync::Arc;
use std::time::Duration;

/// How often a lost row is read again before the delivery is refused: ingest repeats it.
const ATTEMPTS: u32 = 64;

/// Rows absorbed on the caller's thread.
const INLINE_ROWS: usize = 32;

/// Events into which rows, and how.
#[derive(Clone)]
pub(crate) struct Absorption {
    /// The life of the online store in which all that came before was absorbed.
    pub(crate) life: Life,
    /// Names the generation of the positions.
    pub(crate) generation: u64,
    /// Generations that came after this one, where old events are read again. A row that is in one of them has
    /// absorbed everything of this one: generations are absorbed one after the other.
    pub(crate) later: Vec<u64>,
    /// Whether a row of another generation starts over: a table that is read whole again holds all of its rows again,
    /// while what is new in one, and a stream whose topic was created again, go on.
    pub(crate) starts_over: bool,
    /// The views that absorb.
    pub(crate) views: Vec<Arc<CompiledView>>,
    /// What they absorb.
    pub(crate) events: RecordBatch,
}

/// What became of events, counted once for each view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Taken in.
    pub(crate) applied: u64,
    /// Behind the fence.
    pub(crate) duplicate: u64,
    /// Later than their tile is retained.
    pub(crate) late: u64,
    /// Rows that had changed since they were read.
    pub(crate) conflicts: u64,
}

/// A delivery's events as one view sees them.
struct Projected {
    view: Arc<CompiledView>,
    projection: Projection,
}

/// An entity's events on their way into its row.
struct PendingRow {
    projected: Arc<Projected>,
    key: RowKey,
    events: Vec<u32>,
}

/// A row's next value, if it changes.
struct Successor {
    pending: PendingRow,
    write: Option<RowWrite>,
    tally: Tally,
}

impl Absorption {
    /// Absorbs. When it returns, the events are visible to reads; on an error some may be, and repeating the whole is
    /// safe.
    pub(crate) async fn run(self, online: &dyn OnlineStore) -> Result<Tally, FeatureStoreError> {
        let mut tally = Tally::default();
        if self.events.num_rows() == 0 {
            return Ok(tally);
        }
        let mut pending = self.project().await?;
        for attempt in 0..ATTEMPTS {
            if pending.is_empty() {
                return Ok(tally);
            }
            back_off(attempt).await;
            let keys: Vec<RowKey> = pending.iter().map(|row| row.key.clone()).collect();
            let held = online.get(&keys).await?;
            let successors = self.successors(pending, held).await?;
            pending = replace(online, &self.life, successors, &mut tally).await?;
        }
        if pending.is_empty() {
            return Ok(tally);
        }
        Err(FeatureStoreError::Unavailable {
            detail: format!(
                "{} online rows changed under every one of {ATTEMPTS} attempts",
                pending.len()
            ),
        })
    }

    async fn project(&self) -> Result<Vec<PendingRow>, FeatureStoreError> {
        let projections = self.views.iter().map(|view| {
            let (view, events) = (Arc::clone(view), self.events.clone());
            async move {
                if events.num_rows() <= INLINE_ROWS {
                    return project(view, &events);
                }
                blocking(move || project(view, &events)).await
            }
        });
        let mut pending = Vec::new();
        for projected in futures::future::try_join_all(projections).await? {
            let projected = Arc::new(projected);
            let view_id = projected.view.id;
            pending.extend(
                projected
                    .projection
                    .entities()
                    .into_iter()
                    .map(|(entity, events)| PendingRow {
                        projected: Arc::clone(&projected),
                        key: RowKey::new(view_id, entity),
                        events,
                    }),
            );
        }
        Ok(pending)
    }

    async fn successors(
        &self,
        pending: Vec<PendingRow>,
        held: Vec<Option<Bytes>>,
    ) -> Result<Vec<Successor>, FeatureStoreError> {
        let (generation, starts_over) = (self.generation, self.starts_over);
        let later = self.later.clone();
        let compute = move |rows: Vec<(PendingRow, Option<Bytes>)>| {
            rows.into_iter()
                .map(|(row, held)| successor(row, held, generation, &later, starts_over))
                .collect()
        };
        let mut rows: Vec<(PendingRow, Option<Bytes>)> = pending.into_iter().zip(held).collect();
        if rows.len() <= INLINE_ROWS {
            return compute(rows);
        }
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let share = rows.len().div_ceil(workers).max(INLINE_ROWS);
        let mut shares = Vec::with_capacity(workers);
        while !rows.is_empty() {
            let rest = rows.split_off(rows.len().min(share));
            let part = std::mem::replace(&mut rows, rest);
            let compute = compute.clone();
            shares.push(blocking(move || compute(part)));
        }
        let parts: Vec<Vec<Successor>> = futures::future::try_join_all(shares).await?;
        Ok(parts.into_iter().flatten().collect())
    }
}

/// Writes the successors and returns the rows that lost, to be read again.
async fn replace(
    online: &dyn OnlineStore,
    life: &Life,
    successors: Vec<Successor>,
    tally: &mut Tally,
) -> Result<Vec<PendingRow>, FeatureStoreError> {
    let mut writes = Vec::with_capacity(successors.len());
    let mut written = Vec::with_capacity(successors.len());
    for Successor {
        pending,
        write,
        tally: own,
    } in successors
    {
        match write {
            Some(write) => {
                writes.push(write);
                written.push((pending, own));
            }
            None => tally.add(own),
        }
    }
    let lost = online.compare_and_set(life, writes).await?;
    tally.conflicts += lost.len() as u64;
    let mut lost = lost.into_iter().peekable();
    let mut again = Vec::new();
    for (index, (pending, own)) in written.into_iter().enumerate() {
        if lost.next_if_eq(&index).is_some() {
            again.push(pending);
        } else {
            tally.add(own);
        }
    }
    Ok(again)
}

fn successor(
    pending: PendingRow,
    held: Option<Bytes>,
    generation: u64,
    later: &[u64],
    starts_over: bool,
) -> Result<Successor, FeatureStoreError> {
    let engine = &pending.projected.view.engine;
    let projection = &pending.projected.projection;
    let mut row = match &held {
        None => Row::default(),
        Some(bytes) => engine
            .decode(bytes)
            .map_err(|error| unreadable(&pending.projected.view, &error))?,
    };
    if held.is_some() && later.contains(&row.generation()) {
        let tally = Tally {
            duplicate: pending.events.len() as u64,
            ..Tally::default()
        };
        let write = None;
        return Ok(Successor { pending, write, tally });
    }
    let first = pending.events.first().map(|&event| projection.position(event as usize));
    if starts_over && first.is_some_and(|first| row.fence(generation, first.partition).is_none()) {
        row = Row::default();
    }
    let delivered = engine.deliver(&mut row, projection, &pending.events, generation);
    let tally = Tally {
        applied: delivered.applied as u64,
        duplicate: delivered.duplicates as u64,
        late: delivered.too_late as u64,
        ..Tally::default()
    };
    let changed = tally.applied + tally.late > 0;
    let write = changed.then(|| {
        let mut value = Vec::with_capacity(held.as_ref().map_or(256, |held| held.len() + 64));
        engine.encode(&row, &mut value);
        RowWrite {
            key: pending.key.clone(),
            expected: held,
            value: Bytes::from(value),
        }
    });
    Ok(Successor { pending, write, tally })
}

fn project(view: Arc<CompiledView>, events: &RecordBatch) -> Result<Projected, FeatureStoreError> {
    match view.engine.project(events) {
        Ok(projection) => Ok(Projected { view, projection }),
        Err(error) => Err(failed(&view, &error)),
    }
}

/// Lets whoever holds the rows get on: nothing for the first attempts, then up to 20 ms.
async fn back_off(attempt: u32) {
    if attempt > 3 {
        tokio::time::sleep(Duration::from_millis(u64::from(attempt.min(20)))).await;
    }
}

fn unreadable(view: &CompiledView, error: &dyn std::fmt::Display) -> FeatureStoreError {
    let name = &view.engine.definition().name;
    FeatureStoreError::Internal {
        detail: format!("a stored row of `{name}@{}`: {error}", view.version),
    }
}

fn failed(view: &CompiledView, error: &dyn std::fmt::Display) -> FeatureStoreError {
    let name = &view.engine.definition().name;
    FeatureStoreError::Internal {
        detail: format!("view `{name}@{}` can't absorb the events: {error}", view.version),
    }
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.applied += other.applied;
        self.duplicate += other.duplicate;
        self.late += other.late;
        self.conflicts += other.conflicts;
    }
}
