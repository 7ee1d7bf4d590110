//! The point-in-time merge: for each entity, events and spine rows walked together in time.
//!
//! The engine's [`Row`] absorbs what has become visible and is finished at each spine row's moment, exactly as the
//! online store does it; nothing here knows what a feature is. One entity after another goes all its way through time,
//! and a chunk of them fills one set of columns.

use super::entities::Entities;
use super::events::{Events, Wanted, visible_from};
use crate::error::JobError;
use crate::pool::Pool;
use crate::progress::Progress;
use arrow::array::ArrayRef;
use ondol_transform::view::Finisher;
use ondol_transform::{Projection, Row, ViewEngine};
use ondol_vocabulary::EventTime;
use std::ops::Range;
use std::sync::Mutex;

/// Events of one chunk, unless a single entity has more.
const CHUNK_EVENTS: usize = 65_536;
/// Spine rows of one chunk, unless a single entity has more.
const CHUNK_ROWS: usize = 16_384;
/// Rows of one entity between two reports of progress.
const PROGRESS_ROWS: usize = 1_024;

/// Feature values of some spine rows.
pub(super) struct Finished {
    /// Which spine rows.
    pub rows: Vec<u32>,
    /// A column per feature of the view.
    pub columns: Vec<ArrayRef>,
}

/// One entity: its events and its spine rows, each by ascending time.
struct Lane<'a> {
    events: Vec<u32>,
    spine: &'a [u32],
}

/// Merges `events` into the spine rows of the entities in `wanted.range`.
pub(super) fn merge(
    wanted: &Wanted<'_>,
    events: &Events,
    pool: &Pool,
    progress: &Progress,
) -> Result<Vec<Finished>, JobError> {
    let chunks = chunks(wanted.entities, events, &wanted.range);
    let finished: Mutex<Vec<Finished>> = Mutex::new(Vec::with_capacity(chunks.len()));
    pool.for_each(&chunks, |_, chunk| {
        progress.checkpoint()?;
        let merged = merge_chunk(wanted, events, chunk, progress)?;
        finished
            .lock()
            .map_err(|_| JobError::internal("a merge panicked"))?
            .push(merged);
        Ok(())
    })?;
    finished
        .into_inner()
        .map_err(|_| JobError::internal("a merge panicked"))
}

/// Values of rows that name no entity: those of an entity without events.
pub(super) fn finish_absent(engine: &ViewEngine, rows: &[u32], times: &[i64]) -> Finished {
    let mut output = Output::new(engine, rows.len());
    for &row in rows {
        output.push(None, row, moment(times, row));
    }
    output.end()
}

fn chunks(entities: &Entities, events: &Events, range: &Range<u32>) -> Vec<Range<u32>> {
    let mut chunks = Vec::new();
    let (mut start, mut event_count, mut row_count) = (range.start, 0, 0);
    for entity in range.clone() {
        event_count += events.count(entity);
        row_count += entities.rows(entity).len();
        if event_count >= CHUNK_EVENTS || row_count >= CHUNK_ROWS {
            chunks.push(start..entity + 1);
            (start, event_count, row_count) = (entity + 1, 0, 0);
        }
    }
    if start < range.end {
        chunks.push(start..range.end);
    }
    chunks
}

fn merge_chunk(
    wanted: &Wanted<'_>,
    events: &Events,
    chunk: &Range<u32>,
    progress: &Progress,
) -> Result<Finished, JobError> {
    let engine = &wanted.view.engine;
    let times = &wanted.spine.times;
    let projection = engine.project(&events.batch(chunk)?)?;
    let lanes = lanes(wanted.entities, chunk, &projection)?;
    let mut output = Output::new(engine, lanes.iter().map(|lane| lane.spine.len()).sum());
    for lane in &lanes {
        lane.walk(engine, &projection, times, &mut output, progress)?;
    }
    Ok(output.end())
}

fn lanes<'a>(entities: &'a Entities, chunk: &Range<u32>, projection: &Projection) -> Result<Vec<Lane<'a>>, JobError> {
    let mut lanes: Vec<Lane<'a>> = chunk
        .clone()
        .map(|entity| Lane {
            events: Vec::new(),
            spine: entities.rows(entity),
        })
        .collect();
    for (key, indexes) in projection.entities() {
        let place = entities
            .find(key.as_bytes())
            .and_then(|entity| entity.checked_sub(chunk.start));
        let lane = place.and_then(|place| lanes.get_mut(place as usize));
        lane.ok_or_else(|| JobError::internal("an event of another chunk's entity"))?
            .events = indexes;
    }
    Ok(lanes)
}

fn moment(times: &[i64], row: u32) -> i64 {
    times.get(row as usize).copied().unwrap_or(i64::MIN)
}

impl Lane<'_> {
    /// Takes the entity through time: at each spine row it has absorbed every event visible by then.
    fn walk(
        &self,
        engine: &ViewEngine,
        projection: &Projection,
        times: &[i64],
        output: &mut Output<'_>,
        progress: &Progress,
    ) -> Result<(), JobError> {
        let mut row: Option<Row> = None;
        let mut events = self.events.iter().map(|&index| index as usize).peekable();
        for rows in self.spine.chunks(PROGRESS_ROWS) {
            for &spine in rows {
                let t = moment(times, spine);
                let visible = |index: &usize| {
                    let (time, known) = (projection.event_time(*index), projection.ingested_at(*index));
                    visible_from(time.micros(), known.micros()) <= t
                };
                while let Some(index) = events.next_if(visible) {
                    // What the row makes of it is the row's to say: too late for its tiles here is too late online.
                    engine.absorb(row.get_or_insert_default(), projection, index);
                }
                output.push(row.as_ref(), spine, t);
            }
            progress.add(rows.len() as u64);
            progress.checkpoint()?;
        }
        Ok(())
    }
}

/// Finished values of one chunk on their way to columns.
struct Output<'e> {
    rows: Vec<u32>,
    finisher: Finisher<'e>,
}

impl<'e> Output<'e> {
    /// Of every feature of the view, with room for `rows` rows.
    fn new(engine: &'e ViewEngine, rows: usize) -> Self {
        let features: Vec<usize> = (0..engine.definition().features.len()).collect();
        Self {
            rows: Vec::with_capacity(rows),
            finisher: engine.finisher(&features, rows),
        }
    }

    /// Finishes an entity's state at the moment `t` of spine row `row`.
    fn push(&mut self, state: Option<&Row>, row: u32, t: i64) {
        self.rows.push(row);
        self.finisher.push(state, EventTime::from_micros(t));
    }

    fn end(self) -> Finished {
        let finished = self.finisher.finish().into_iter();
        Finished {
            rows: self.rows,
            columns: finished.map(|feature| feature.values).collect(),
        }
    }
}
