//! Views of latest rows only: no event has to be kept.
//!
//! Of the events that a row of the spine is the first of its entity to see, only the latest can be that row's latest, or
//! a later one's. So each row keeps one candidate, a place in a file and what orders it; when all files have been read,
//! the latest of an entity is carried on from row to row. Only then are values read, those of the events that won. Memory
//! is in proportion to the spine, whatever the size of the table.
//!
//! Events of one time and position (a message with several of them, or a table, whose rows have no order) are told apart
//! by their values: where such a tie wins, all of its events are gathered and folded as the stream would.

use super::assembly::Assembly;
use super::beyond::Beyond;
use super::entities::Entities;
use super::view::JoinView;
use crate::error::JobError;
use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use hashbrown::HashMap;
use ondol_transform::Moments;
use ondol_vocabulary::columns;
use std::sync::Mutex;

/// No row.
const NONE: u32 = u32::MAX;
/// Parts of the spine that are locked by themselves.
const SHARDS: usize = 64;

/// Where an event stands among those of its entity.
type Order = (i64, i32, i64);

/// Where an event is: a unit of the scan, and its row among those that the unit gives.
type At = (u32, u32);

/// By entity and order: all events that stand there, where there are several.
type Tied = HashMap<(usize, Order), Vec<At>>;

#[derive(Clone, Copy)]
struct Candidate {
    order: Order,
    at: At,
}

const NOBODY: Candidate = Candidate {
    order: (i64::MIN, i32::MIN, i64::MIN),
    at: (NONE, NONE),
};

/// The latest candidates of each place of the spine.
pub(crate) struct Latest<'a> {
    view: &'a JoinView,
    entities: &'a Entities,
    beyond: &'a Beyond,
    shards: Vec<Mutex<Shard>>,
    /// Places of a shard.
    width: usize,
}

#[derive(Default)]
struct Shard {
    candidates: Vec<Candidate>,
    /// Events that stand where another candidate does: by place.
    ties: Vec<(u32, Candidate)>,
}

/// What won: by unit, the rows and the places they are for, by row.
pub(crate) struct Winners {
    /// By unit.
    units: Vec<Vec<(u32, u32)>>,
    /// Ties that won.
    ties: Mutex<Ties>,
}

#[derive(Default)]
struct Ties {
    /// Where events of ties are, and the tie they are of.
    events: HashMap<At, Vec<u32>>,
    /// By tie: the places it is for.
    places: Vec<Vec<u32>>,
    /// What has been gathered: events, and the tie of each.
    gathered: Vec<(RecordBatch, Vec<u32>)>,
}

impl<'a> Latest<'a> {
    /// For the spine of `entities`; what is too old for it is marked in `beyond`.
    pub(crate) fn new(view: &'a JoinView, entities: &'a Entities, beyond: &'a Beyond) -> Self {
        let places = entities.row_count();
        let width = places.div_ceil(SHARDS).max(1);
        let shard = |number: usize| {
            let places = width.min(places.saturating_sub(number * width));
            Mutex::new(Shard {
                candidates: vec![NOBODY; places],
                ties: Vec::new(),
            })
        };
        Self {
            view,
            entities,
            beyond,
            shards: (0..places.div_ceil(width)).map(shard).collect(),
            width,
        }
    }

    /// Takes the candidates of `batch`, whose first row is `first_row` of those that `unit` gives.
    pub(crate) fn push(&self, batch: &RecordBatch, unit: u32, first_row: u32) -> Result<(), JobError> {
        let seen = self.view.seen((self.entities, None), self.beyond, batch)?;
        let times = batch.column_by_name(&self.view.source().time);
        let times = times.and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
        let times = times
            .ok_or_else(|| JobError::internal("events without a time"))?
            .values();
        let partitions = batch
            .column_by_name(columns::PARTITION)
            .and_then(|column| column.as_primitive_opt::<Int32Type>());
        let offsets = batch
            .column_by_name(columns::OFFSET)
            .and_then(|column| column.as_primitive_opt::<Int64Type>());
        let position = |row: usize| match (partitions, offsets) {
            (Some(partitions), Some(offsets)) => (partitions.value(row), offsets.value(row)),
            _ => (0, 0),
        };
        let mut by_shard: Vec<u32> = vec![0; self.shards.len() + 1];
        for slot in &seen.slots {
            by_shard[*slot as usize / self.width + 1] += 1;
        }
        for shard in 0..self.shards.len() {
            by_shard[shard + 1] += by_shard[shard];
        }
        let ends = by_shard[1..].to_vec();
        let mut order = vec![0u32; seen.slots.len()];
        for (at, slot) in (0..).zip(&seen.slots) {
            let place = &mut by_shard[*slot as usize / self.width];
            order[*place as usize] = at;
            *place += 1;
        }
        let mut start = 0;
        for (number, (shard, end)) in self.shards.iter().zip(ends).enumerate() {
            let events = &order[start..end as usize];
            start = end as usize;
            if events.is_empty() {
                continue;
            }
            let mut shard = shard.lock().map_err(|_| JobError::internal("a reader panicked"))?;
            for event in events {
                let (row, slot) = (seen.rows[*event as usize], seen.slots[*event as usize]);
                let (partition, offset) = position(row as usize);
                let candidate = Candidate {
                    order: (times[row as usize], partition, offset),
                    at: (unit, first_row + row),
                };
                shard.take(slot, slot as usize - number * self.width, candidate);
            }
        }
        Ok(())
    }

    /// Who won, of `units` units.
    pub(crate) fn winners(mut self, units: usize) -> Result<Winners, JobError> {
        let mut candidates = Vec::with_capacity(self.entities.row_count());
        let mut tied = Tied::new();
        let entity_of = |place: u32| self.entities.entity_at(place as usize);
        for shard in std::mem::take(&mut self.shards) {
            let shard = shard
                .into_inner()
                .map_err(|_| JobError::internal("a reader panicked"))?;
            candidates.extend(shard.candidates);
            for (place, tie) in shard.ties {
                tied.entry((entity_of(place), tie.order)).or_default().push(tie.at);
            }
        }
        let mut winners = Winners {
            units: vec![Vec::new(); units],
            ties: Mutex::default(),
        };
        for entity in 0..self.entities.len() {
            self.carry_on(entity, &candidates, &mut tied, &mut winners)?;
        }
        for at in winners.ties.get_mut().map_err(JobError::internal)?.events.keys() {
            // So that the unit is read.
            winners.units[at.0 as usize].push((at.1, NONE));
        }
        for unit in &mut winners.units {
            unit.sort_unstable();
        }
        Ok(winners)
    }

    /// Carries the latest of `entity` on from place to place, and tells who won each.
    fn carry_on(
        &self,
        entity: usize,
        candidates: &[Candidate],
        tied: &mut Tied,
        winners: &mut Winners,
    ) -> Result<(), JobError> {
        let ttl_us = self.view.definition().ttl_us;
        let ties = winners.ties.get_mut().map_err(JobError::internal)?;
        let mut latest = NOBODY;
        // The tie that the latest is of, once it is asked for.
        let mut tie: Option<u32> = None;
        for place in self.entities.slots(&(entity..entity + 1)) {
            let candidate = candidates[place];
            if candidate.is_somebody() && latest.is_somebody() && candidate.order == latest.order {
                // They became known at different moments: to each its place, and from here on to both.
                let events = tied.entry((entity, latest.order)).or_default();
                events.extend([latest.at, candidate.at]);
                tie = None;
            } else if candidate.is_later_than(&latest) {
                (latest, tie) = (candidate, None);
            }
            let age = i128::from(self.entities.times()[place]) - i128::from(latest.order.0);
            if !latest.is_somebody() {
                continue;
            }
            if ttl_us.is_some_and(|ttl_us| age > i128::from(ttl_us)) {
                self.beyond.mark(place);
                continue;
            }
            match tied.get(&(entity, latest.order)) {
                None => winners.units[latest.at.0 as usize].push((latest.at.1, place as u32)),
                Some(events) => {
                    let number = *tie.get_or_insert_with(|| ties.begin(events));
                    ties.places[number as usize].push(place as u32);
                }
            }
        }
        Ok(())
    }
}

impl Candidate {
    fn is_somebody(&self) -> bool {
        self.at.0 != NONE
    }

    fn is_later_than(&self, other: &Self) -> bool {
        self.is_somebody() && (!other.is_somebody() || self.order > other.order)
    }
}

impl Ties {
    /// A tie between `events`, and its number.
    fn begin(&mut self, events: &[At]) -> u32 {
        let number = self.places.len() as u32;
        self.places.push(Vec::new());
        for at in events {
            let ties = self.events.entry(*at).or_default();
            if !ties.contains(&number) {
                ties.push(number);
            }
        }
        number
    }
}

impl Shard {
    fn take(&mut self, place: u32, at: usize, candidate: Candidate) {
        let held = &mut self.candidates[at];
        if candidate.is_later_than(held) {
            *held = candidate;
        } else if candidate.order == held.order {
            self.ties.push((place, *held));
            self.ties.push((place, candidate));
        }
    }
}

impl Winners {
    /// Whether `unit` has any.
    pub(crate) fn has(&self, unit: usize) -> bool {
        !self.units[unit].is_empty()
    }

    /// Whether events that no position tells apart are among them: then positions and arrivals are to be read as well.
    pub(crate) fn has_ties(&self) -> bool {
        self.ties.lock().is_ok_and(|ties| !ties.places.is_empty())
    }

    /// Puts the values of the winners among `batch` in their places. The batch has the columns that features are made
    /// of, and marks if [`Self::has_ties`]; its first row is `first_row` of those that `unit` gives.
    pub(crate) fn place(
        &self,
        view: &JoinView,
        entities: &Entities,
        batch: &RecordBatch,
        (unit, first_row): (usize, u32),
        assembly: &Assembly,
    ) -> Result<(), JobError> {
        let winners = &self.units[unit];
        let from = winners.partition_point(|(row, _)| *row < first_row);
        let to = winners.partition_point(|(row, _)| *row < first_row + batch.num_rows() as u32);
        let (mut rows, mut places, mut tied) = (Vec::new(), Vec::new(), Vec::new());
        for (row, place) in &winners[from..to] {
            match *place {
                NONE => tied.push(*row),
                place => {
                    rows.push(row - first_row);
                    places.push(entities.rows()[place as usize]);
                }
            }
        }
        if !rows.is_empty() {
            let won = take_record_batch(batch, &UInt32Array::from(rows))?;
            assembly.place(&places, view.history().latest(&won)?)?;
        }
        if !tied.is_empty() {
            let mut ties = self.ties.lock().map_err(|_| JobError::internal("a reader panicked"))?;
            let (mut rows, mut numbers) = (Vec::new(), Vec::new());
            for row in tied {
                for number in ties.events.get(&(unit as u32, row)).into_iter().flatten() {
                    rows.push(row - first_row);
                    numbers.push(*number);
                }
            }
            let events = take_record_batch(batch, &UInt32Array::from(rows))?;
            ties.gathered.push((events, numbers));
        }
        Ok(())
    }

    /// Folds the ties that won.
    pub(crate) fn settle(self, view: &JoinView, entities: &Entities, assembly: &Assembly) -> Result<(), JobError> {
        let Ties { places, gathered, .. } = self.ties.into_inner().map_err(JobError::internal)?;
        let Some((first, _)) = gathered.first() else {
            return Ok(());
        };
        let schema = first.schema();
        let lanes: Vec<u32> = gathered.iter().flat_map(|(_, ties)| ties.iter().copied()).collect();
        let events = concat_batches(&schema, gathered.iter().map(|(events, _)| events))?;
        let (mut rows, mut times, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for places in places {
            for place in places {
                rows.push(entities.rows()[place as usize]);
                times.push(entities.times()[place as usize]);
            }
            ends.push(times.len() as u32);
        }
        let moments = Moments {
            times: &times,
            ends: &ends,
        };
        assembly.place(&rows, view.history().answers(&events, &lanes, &moments)?)
    }
}
