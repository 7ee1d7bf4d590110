//! The point-in-time merge: for each entity, events and spine rows walked together in time.
//!
//! The engine's [`Row`] absorbs what has become visible and is finished at each spine row's moment, exactly as the
//! online store does it; nothing here knows what a feature is. Finishing costs a fixed amount per call (it builds
//! columns), so a chunk of entities advances in *waves*: every entity moves to its next spine row, then all of them are
//! finished in one call. When few entities are left (a spine in which one entity has most rows), rows are cloned into
//! batches instead.

use super::entities::Entities;
use super::events::{Events, Wanted, visible_from};
use crate::error::JobError;
use crate::pool::Pool;
use crate::progress::Progress;
use arrow::array::{Array, ArrayRef};
use ondol_transform::view::FinishedFeature;
use ondol_transform::{Projection, Row, ViewEngine};
use ondol_vocabulary::EventTime;
use std::ops::Range;
use std::sync::Mutex;

/// Events of one chunk, unless a single entity has more.
const CHUNK_EVENTS: usize = 65_536;
/// Spine rows of one chunk, unless a single entity has more.
const CHUNK_ROWS: usize = 16_384;
/// A wave of fewer entities is not worth a call of its own.
const NARROW_WAVE: usize = 64;
/// Rows cloned before they are finished together.
const CLONES: usize = 256;

/// Feature values of some spine rows.
pub(super) struct Finished {
    /// Which spine rows.
    pub rows: Vec<u32>,
    /// A column per feature of the view.
    pub columns: Vec<ArrayRef>,
}

/// One entity on its way through time.
struct Lane<'a> {
    row: Option<Row>,
    events: Vec<u32>,
    next_event: usize,
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
pub(super) fn finish_absent(engine: &ViewEngine, rows: &[u32], times: &[i64]) -> Result<Finished, JobError> {
    let mut output = Output::new(engine);
    for rows in rows.chunks(CHUNK_ROWS) {
        output.finish(rows.iter().map(|&row| (None, row)), times);
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
    let mut lanes = lanes(wanted.entities, chunk, &projection)?;
    // Entities with many rows first: the entities of every wave are then a prefix.
    lanes.sort_by_key(|lane| std::cmp::Reverse(lane.spine.len()));
    let mut output = Output::new(engine);
    let mut wave = 0;
    let mut width = lanes.len();
    loop {
        while width
            .checked_sub(1)
            .and_then(|last| lanes.get(last))
            .is_some_and(|lane| lane.spine.len() <= wave)
        {
            width -= 1;
        }
        let Some(abreast) = lanes.get_mut(..width).filter(|_| width >= NARROW_WAVE) else {
            break;
        };
        for lane in abreast.iter_mut() {
            lane.advance(
                engine,
                &projection,
                lane.spine.get(wave).map_or(i64::MIN, |&row| moment(times, row)),
            );
        }
        output.finish(
            abreast
                .iter()
                .filter_map(|lane| Some((lane.row.as_ref(), *lane.spine.get(wave)?))),
            times,
        );
        progress.add(width as u64);
        wave += 1;
    }
    for lane in lanes.iter_mut().take(width) {
        finish_alone(lane, wave, engine, &projection, times, &mut output);
        progress.add((lane.spine.len() - wave) as u64);
        progress.checkpoint()?;
    }
    output.end()
}

fn lanes<'a>(entities: &'a Entities, chunk: &Range<u32>, projection: &Projection) -> Result<Vec<Lane<'a>>, JobError> {
    let mut lanes: Vec<Lane<'a>> = chunk
        .clone()
        .map(|entity| Lane {
            row: None,
            events: Vec::new(),
            next_event: 0,
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

/// The rest of one lane's rows from `wave` on, with clones of its state where it changes between rows.
fn finish_alone(
    lane: &mut Lane<'_>,
    wave: usize,
    engine: &ViewEngine,
    projection: &Projection,
    times: &[i64],
    output: &mut Output<'_>,
) {
    let rest = lane.spine.get(wave..).unwrap_or_default();
    let mut states: Vec<Option<Row>> = Vec::with_capacity(CLONES.min(rest.len()));
    for batch in rest.chunks(CLONES) {
        states.clear();
        let mut state_of: Vec<usize> = Vec::with_capacity(batch.len());
        for &row in batch {
            let changed = lane.advance(engine, projection, moment(times, row));
            if changed || states.is_empty() {
                states.push(lane.row.clone());
            }
            state_of.push(states.len() - 1);
        }
        let rows = state_of.iter().zip(batch);
        output.finish(
            rows.map(|(&state, &row)| (states.get(state).and_then(Option::as_ref), row)),
            times,
        );
    }
}

fn moment(times: &[i64], row: u32) -> i64 {
    times.get(row as usize).copied().unwrap_or(i64::MIN)
}

impl Lane<'_> {
    /// Absorbs every event visible at `t`; whether there was one.
    fn advance(&mut self, engine: &ViewEngine, projection: &Projection, t: i64) -> bool {
        let before = self.next_event;
        while let Some(&index) = self.events.get(self.next_event) {
            let index = index as usize;
            let (time, known) = (
                projection.event_time(index).micros(),
                projection.ingested_at(index).micros(),
            );
            if visible_from(time, known) > t {
                break;
            }
            // What the row makes of it is the row's to say: too late for its tiles here is too late online.
            engine.absorb(self.row.get_or_insert_default(), projection, index);
            self.next_event += 1;
        }
        self.next_event > before
    }
}

/// Collects finished columns of one chunk.
struct Output<'a> {
    engine: &'a ViewEngine,
    features: Vec<usize>,
    rows: Vec<u32>,
    pieces: Vec<Vec<ArrayRef>>,
}

impl<'a> Output<'a> {
    fn new(engine: &'a ViewEngine) -> Self {
        let features: Vec<usize> = (0..engine.definition().features.len()).collect();
        let pieces = vec![Vec::new(); features.len()];
        Self {
            engine,
            features,
            rows: Vec::new(),
            pieces,
        }
    }

    /// Finishes each state at its spine row's moment.
    fn finish<'r>(&mut self, states: impl Iterator<Item = (Option<&'r Row>, u32)>, times: &[i64]) {
        let start = self.rows.len();
        let mut rows = Vec::with_capacity(states.size_hint().1.unwrap_or(0));
        for (state, row) in states {
            rows.push(state);
            self.rows.push(row);
        }
        let as_of: Vec<EventTime> = (self.rows.iter().skip(start))
            .map(|&row| EventTime::from_micros(moment(times, row)))
            .collect();
        let finished = self.engine.finish(&rows, &as_of, &self.features);
        for (pieces, FinishedFeature { values, .. }) in self.pieces.iter_mut().zip(finished) {
            pieces.push(values);
        }
    }

    fn end(self) -> Result<Finished, JobError> {
        let join = |pieces: Vec<ArrayRef>| {
            let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
            arrow::compute::concat(&pieces)
        };
        // A chunk without spine rows has no pieces to join.
        if self.rows.is_empty() {
            return Ok(Finished {
                rows: Vec::new(),
                columns: Vec::new(),
            });
        }
        let columns = self.pieces.into_iter().map(join).collect::<Result<_, _>>()?;
        Ok(Finished {
            rows: self.rows,
            columns,
        })
    }
}
