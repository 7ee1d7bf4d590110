//! A partition that memory has no room for: mostly one entity to which most events happened.
//!
//! Its events are put in order by parts, which go to the file as sorted runs, and the runs are merged: by entity, and each
//! entity's by when they are seen. So they come by once, in the order in which the stream's row absorbs them, and what is
//! kept of an entity is its row ([`ondol_transform::Folding`]); memory holds a piece of each run. That is slower than
//! reading windows off columns in memory, and gives the same bits.

use super::account::Account;
use super::shuffle::{ENTITY, whole};
use super::spill::{Segment, Spill};
use super::view::JoinView;
use crate::error::JobError;
use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, interleave_record_batch, take_record_batch};
use arrow::datatypes::UInt32Type;
use ondol_transform::Folding;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What events take while they are put in order, in multiples of them: as they were read, together, in order.
const SORTING_COPIES: u64 = 3;
/// The part of the room that is sorted at a time: its copies fit, and a batch beyond.
pub(super) const GROUPS: u64 = SORTING_COPIES + 1;
/// Rows of a run that are read at a time, if memory allows.
const PIECE_ROWS: usize = 16_384;
/// Fewest of them: less is all seeking.
const FEWEST_ROWS: usize = 16;

/// Where events are that wait: in memory, or in the file.
pub(super) enum Part {
    Held(RecordBatch),
    Spilled(Segment),
}

/// An entity, and from when on an event of it is seen.
type Order = (u32, i64);

/// What a crowd is folded with.
pub(super) struct Crowd<'a> {
    pub(super) view: &'a JoinView,
    pub(super) spill: &'a Spill,
    pub(super) account: &'a Account,
    /// Bytes that may be held, about.
    pub(super) room: u64,
}

/// A sorted run, and how far it has been read.
struct Run {
    pieces: std::vec::IntoIter<Segment>,
    events: RecordBatch,
    order: Vec<Order>,
    at: usize,
}

impl Part {
    /// Bytes of its events, about.
    pub(super) fn bytes(&self, width: u64) -> u64 {
        match self {
            Self::Held(events) => events.num_rows() as u64 * width,
            Self::Spilled(segment) => segment.bytes(),
        }
    }
}

impl Crowd<'_> {
    /// Folds the events of `parts`, of entities from number `first` on.
    pub(super) fn fold(&self, parts: Vec<Part>, first: u32, folding: &mut Folding<'_>) -> Result<(), JobError> {
        let width = self.view.carried_width() + size_of::<u32>() as u64;
        let groups = self.groups(parts, width);
        // A piece of each run, what is merged of them, and that as columns that features are made of.
        let pieces = (groups.len() as u64 + 2).saturating_mul(width);
        let piece_rows = usize::try_from(self.room / pieces.max(1)).unwrap_or(usize::MAX);
        let piece_rows = piece_rows.clamp(FEWEST_ROWS, PIECE_ROWS);
        let runs = groups.into_iter().map(|group| self.sorted(group, piece_rows));
        let runs = runs.collect::<Result<Vec<_>, _>>()?;
        let _merging = self.account.hold((runs.len() + 2) * piece_rows * width as usize);
        self.merge(runs, piece_rows, |events, mut entities| {
            entities.iter_mut().for_each(|entity| *entity -= first);
            Ok(folding.push(events, &entities)?)
        })
    }

    /// Parts that are sorted together.
    fn groups(&self, parts: Vec<Part>, width: u64) -> Vec<Vec<Part>> {
        let mut groups: Vec<Vec<Part>> = Vec::new();
        let mut bytes = u64::MAX;
        for part in parts {
            let more = part.bytes(width);
            bytes = bytes.saturating_add(more);
            match groups.last_mut().filter(|_| bytes <= self.room / GROUPS) {
                Some(group) => group.push(part),
                None => {
                    groups.push(vec![part]);
                    bytes = more;
                }
            }
        }
        groups
    }

    /// One sorted run of `parts`, in pieces of so many rows.
    fn sorted(&self, parts: Vec<Part>, piece_rows: usize) -> Result<Vec<Segment>, JobError> {
        let events = parts.into_iter().map(|part| {
            let events = match part {
                Part::Held(events) => events,
                Part::Spilled(segment) => self.spill.read(segment)?,
            };
            whole(&events, self.view)
        });
        let events = events.collect::<Result<Vec<_>, _>>()?;
        let Some(first) = events.first() else {
            return Ok(Vec::new());
        };
        let events = concat_batches(&first.schema(), &events)?;
        let width = self.view.carried_width() + size_of::<u32>() as u64;
        let bytes = (events.num_rows() as u64).saturating_mul(width * SORTING_COPIES);
        let _sorting = self.account.hold(usize::try_from(bytes).unwrap_or(usize::MAX));
        let order = order(self.view, &events)?;
        let mut rows: Vec<u32> = (0..).take(order.len()).collect();
        rows.sort_unstable_by_key(|row| (order[*row as usize], *row));
        let pieces = rows.chunks(piece_rows).map(|rows| {
            let piece = take_record_batch(&events, &UInt32Array::from(rows.to_vec()))?;
            self.spill.write(&piece)
        });
        pieces.collect()
    }

    /// Calls `take` with the events of `runs` in order, and whose they are.
    fn merge(
        &self,
        runs: Vec<Vec<Segment>>,
        most: usize,
        mut take: impl FnMut(&RecordBatch, Vec<u32>) -> Result<(), JobError>,
    ) -> Result<(), JobError> {
        let runs = runs.into_iter().filter_map(|pieces| self.open(pieces).transpose());
        let mut runs = runs.collect::<Result<Vec<Run>, _>>()?;
        let next = |(number, run): (usize, &Run)| run.order.get(run.at).map(|order| Reverse((*order, number)));
        let mut heads: BinaryHeap<Reverse<(Order, usize)>> = runs.iter().enumerate().filter_map(next).collect();
        let (mut places, mut entities) = (Vec::new(), Vec::new());
        while let Some(Reverse(((entity, _), number))) = heads.pop() {
            let Some(run) = runs.get_mut(number) else { continue };
            places.push((number, run.at));
            entities.push(entity);
            run.at += 1;
            let is_read = run.at == run.order.len();
            if is_read || places.len() >= most {
                // Before its piece goes.
                let pieces: Vec<&RecordBatch> = runs.iter().map(|run| &run.events).collect();
                take(
                    &interleave_record_batch(&pieces, &places)?,
                    std::mem::take(&mut entities),
                )?;
                places.clear();
            }
            let Some(run) = runs.get_mut(number) else { continue };
            if is_read {
                self.read_on(run)?;
            }
            heads.extend(next((number, run)));
        }
        if places.is_empty() {
            return Ok(());
        }
        let pieces: Vec<&RecordBatch> = runs.iter().map(|run| &run.events).collect();
        take(&interleave_record_batch(&pieces, &places)?, entities)
    }

    fn open(&self, pieces: Vec<Segment>) -> Result<Option<Run>, JobError> {
        let mut pieces = pieces.into_iter();
        let Some(first) = pieces.next() else { return Ok(None) };
        let events = self.spill.read(first)?;
        Ok(Some(Run {
            order: order(self.view, &events)?,
            pieces,
            events,
            at: 0,
        }))
    }

    /// Reads the next piece of `run`, if there is one.
    fn read_on(&self, run: &mut Run) -> Result<(), JobError> {
        if let Some(piece) = run.pieces.next() {
            run.events = self.spill.read(piece)?;
            run.order = order(self.view, &run.events)?;
            run.at = 0;
        }
        Ok(())
    }
}

fn order(view: &JoinView, events: &RecordBatch) -> Result<Vec<Order>, JobError> {
    let entities = events
        .column_by_name(ENTITY)
        .and_then(|column| column.as_primitive_opt::<UInt32Type>());
    let entities = entities.ok_or_else(|| JobError::internal("events without entities"))?;
    let visible = view.history().seen_from(events)?;
    Ok(entities.values().iter().copied().zip(visible.iter().copied()).collect())
}
