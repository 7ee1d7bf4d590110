//! Events brought together by entity: from batches in any order to partitions of a few entities each.
//!
//! Each batch is cut down at once to events that some row may see, and to the columns that features are made of; keys
//! have become numbers by then. What is left is put in order of its partition and [`super::held`], until more is held than
//! the join may hold: then all of it goes to a file, a segment per partition, and is read again when its partition's turn
//! comes. So the tables are read once and what does not fit is written and read once more. A partition that is too large
//! even by itself, since most events happened to one entity, is a [`super::crowd`].

use super::account::{Account, Loan};
use super::beyond::Beyond;
use super::crowd::{Crowd, GROUPS, Part};
use super::entities::Entities;
use super::held::{Held, Run};
use super::seen::Spans;
use super::spill::Spill;
use super::view::JoinView;
use crate::error::JobError;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{DataType as ArrowType, Field as ArrowField, Schema, SchemaRef, UInt32Type};
use ondol_transform::{Answers, Moments};
use ondol_vocabulary::columns;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// The column of entities.
pub(super) const ENTITY: &str = "_entity";
/// Bytes of events of one partition, about: what is worked on lies well in a core's cache then.
const PARTITION_BYTES: u64 = 1 << 20;
/// What a partition takes while it is worked on, in multiples of its events: those, the same in order, running sums.
const WORKING_COPIES: u64 = 5;
/// How much larger a partition may be than it was laid out to be before it is a crowd: twice by the rounding of entities, and
/// as much again by what happened to happen to them.
const UNEVENNESS: u64 = 4;
/// The part of what may be held that is parted at a time.
const PARTED_SHARE: u64 = 8;
/// Most partitions.
const MOST_PARTITIONS: u64 = 4_096;
/// Bytes of a partition's events that are written at a time, about: what one entity may bring by the million.
const SEGMENT_BYTES: u64 = 8 << 20;

/// Events on their way to partitions.
pub(crate) struct Shuffle<'a> {
    view: &'a JoinView,
    entities: &'a Entities,
    spans: Spans,
    beyond: &'a Beyond,
    /// Entities of partition p: those whose number is p after this shift.
    shift: u32,
    /// Bytes held while reading.
    limit: u64,
    /// Bytes held while a partition is worked on.
    room: u64,
    held: Mutex<Held>,
    spill: Spill,
    account: &'a Account,
}

/// How a shuffle is laid out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Events at most.
    pub events: u64,
    /// Bytes that may be held.
    pub limit: u64,
    /// Partitions that are worked on at a time.
    pub threads: usize,
}

impl<'a> Shuffle<'a> {
    /// To the entities of a spine, of events of `view`; what is too old for it is marked in `beyond`.
    pub(crate) fn new(
        view: &'a JoinView,
        (entities, beyond): (&'a Entities, &'a Beyond),
        layout: Layout,
        folder: &Path,
        account: &'a Account,
    ) -> Self {
        let bytes = layout.events.saturating_mul(view.carried_width() + 4);
        // Half for what waits, half for what is worked on.
        let limit = (layout.limit / 2).max(1);
        let at_work = bytes
            .saturating_mul(WORKING_COPIES)
            .saturating_mul(layout.threads as u64);
        let wanted = (bytes / PARTITION_BYTES)
            .max(at_work.div_ceil(limit))
            .max(layout.threads as u64 * 4);
        let wanted = wanted.min(MOST_PARTITIONS).min(entities.len() as u64).max(1);
        let per_partition = (entities.len() as u64).div_ceil(wanted).max(1);
        let shift = per_partition.next_power_of_two().trailing_zeros();
        Self {
            view,
            entities,
            spans: Spans::of(view, entities),
            beyond,
            shift,
            limit,
            room: limit / layout.threads.max(1) as u64,
            held: Mutex::default(),
            spill: Spill::new(folder),
            account,
        }
    }

    /// Number of partitions.
    pub(crate) fn partitions(&self) -> usize {
        (self.entities.len().saturating_sub(1) >> self.shift) + 1
    }

    /// Bytes that went to the file.
    pub(crate) fn spilled_bytes(&self) -> u64 {
        self.spill.bytes()
    }

    /// Takes what matters of `batch`.
    pub(crate) fn push(&self, batch: &RecordBatch) -> Result<(), JobError> {
        let Some(run) = self.run(batch)? else { return Ok(()) };
        self.account.add(run.bytes());
        let mut held = self.held()?;
        held.push(run);
        // Others wait meanwhile: what they would read could not be held.
        if held.bytes() > self.limit {
            return self.spill(&mut held);
        }
        let runs = held.take_to_part(self.partitions(), self.limit / PARTED_SHARE);
        drop(held);
        runs.map_or(Ok(()), |runs| self.part(&runs))
    }

    /// Puts `runs` together, partition by partition.
    fn part(&self, runs: &[Run]) -> Result<(), JobError> {
        let mut bytes = 0;
        let parts = (0..self.partitions()).map(|partition| {
            let mut parts: Vec<RecordBatch> = runs.iter().filter_map(|run| run.part(partition)).collect();
            let Some(first) = parts.first() else { return Ok(None) };
            // One alone would stay a view of all of its run.
            parts.push(RecordBatch::new_empty(first.schema()));
            let part = together(&parts, self.view)?;
            let more = part.get_array_memory_size() as u64;
            self.account.add(more);
            bytes += more;
            Ok(Some(part))
        });
        let parts = parts.collect::<Result<Vec<_>, JobError>>()?;
        self.account.subtract(runs.iter().map(Run::bytes).sum());
        self.held()?.keep(parts, bytes);
        Ok(())
    }

    fn held(&self) -> Result<MutexGuard<'_, Held>, JobError> {
        self.held.lock().map_err(|_| JobError::internal("a reader panicked"))
    }

    /// The entities of `partition`.
    pub(crate) fn entities_of(&self, partition: usize) -> Range<usize> {
        let end = self.entities.len();
        (partition << self.shift).min(end)..((partition + 1) << self.shift).min(end)
    }

    /// The features of the entities of `partition`, a value for each of their places. Its events are gone then.
    pub(crate) fn answers(&self, partition: usize) -> Result<Answers, JobError> {
        let entities = self.entities_of(partition);
        let slots = self.entities.slots(&entities);
        let first = entities.start as u32;
        let ends: Vec<u32> = entities
            .map(|entity| (self.entities.slots(&(entity..entity + 1)).end - slots.start) as u32)
            .collect();
        let moments = Moments {
            times: &self.entities.times()[slots],
            ends: &ends,
        };
        let (parts, taken) = self.held()?.take(partition);
        let _taken = self.account.loan(taken);
        if self.is_crowd(&parts) {
            let mut folding = self.view.history().folding(moments);
            let crowd = Crowd {
                view: self.view,
                spill: &self.spill,
                account: self.account,
                room: self.room,
            };
            crowd.fold(parts, first, &mut folding)?;
            return Ok(folding.finish()?);
        }
        let (events, _loan) = self.load(parts)?;
        let lanes = events
            .column_by_name(ENTITY)
            .and_then(|column| column.as_primitive_opt::<UInt32Type>());
        let lanes = lanes.ok_or_else(|| JobError::internal("events without entities"))?;
        let lanes: Vec<u32> = lanes.values().iter().map(|entity| entity - first).collect();
        Ok(self.view.history().answers(&events, &lanes, &moments)?)
    }

    /// Whether these are too many events to be worked on at once.
    fn is_crowd(&self, parts: &[Part]) -> bool {
        let width = self.view.carried_width() + size_of::<u32>() as u64;
        let bytes: u64 = parts.iter().map(|part| part.bytes(width)).sum();
        bytes.saturating_mul(WORKING_COPIES) > self.room.saturating_mul(UNEVENNESS)
    }

    /// The events of `parts`, held together with what is made of them.
    fn load(&self, parts: Vec<Part>) -> Result<(RecordBatch, Loan<'a>), JobError> {
        let parts = parts.into_iter().map(|part| match part {
            Part::Held(events) => Ok(events),
            Part::Spilled(segment) => self.spill.read(segment),
        });
        let events = together(&parts.collect::<Result<Vec<_>, _>>()?, self.view)?;
        let bytes = events.get_array_memory_size() * WORKING_COPIES as usize;
        Ok((events, self.account.hold(bytes)))
    }

    /// Writes all that is held to the file.
    fn spill(&self, held: &mut Held) -> Result<(), JobError> {
        let width = self.view.carried_width() + size_of::<u32>() as u64;
        // Of a crowd, a few are sorted at a time.
        let most = SEGMENT_BYTES.min(self.room / GROUPS / 2);
        for partition in 0..self.partitions() {
            let mut parts: Vec<RecordBatch> = Vec::new();
            let mut rows = 0;
            let mut segments = Vec::new();
            for part in held.parts(partition) {
                rows += part.num_rows() as u64;
                parts.push(part);
                if rows.saturating_mul(width) >= most {
                    segments.push(self.spill.write(&together(&parts, self.view)?)?);
                    parts.clear();
                    rows = 0;
                }
            }
            if !parts.is_empty() {
                segments.push(self.spill.write(&together(&parts, self.view)?)?);
            }
            held.spilled(partition, segments);
        }
        self.account.subtract(held.clear());
        Ok(())
    }

    /// What matters of `batch`, by partition; none if nothing does.
    fn run(&self, batch: &RecordBatch) -> Result<Option<Run>, JobError> {
        let seen = self.view.seen((self.entities, Some(&self.spans)), self.beyond, batch)?;
        if seen.rows.is_empty() {
            return Ok(None);
        }
        let (order, ends) = self.by_partition(&seen.entities);
        let rows: UInt32Array = order
            .iter()
            .map(|at| seen.rows[*at as usize])
            .collect::<Vec<u32>>()
            .into();
        let entities: UInt32Array = order
            .iter()
            .map(|at| seen.entities[*at as usize])
            .collect::<Vec<u32>>()
            .into();
        let mut fields = Vec::new();
        let mut arrays: Vec<ArrayRef> = Vec::new();
        for field in self.view.history().carried() {
            if field.name == columns::INGESTED_AT && !seen.arrives_later {
                continue;
            }
            let column = batch.column_by_name(&field.name);
            let column = column.ok_or_else(|| JobError::internal(format!("column `{}` was not read", field.name)))?;
            arrays.push(take(column, &rows, None)?);
            fields.push(ArrowField::new(&field.name, column.data_type().clone(), true));
        }
        arrays.push(Arc::new(entities));
        fields.push(ArrowField::new(ENTITY, ArrowType::UInt32, false));
        let events = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?;
        Ok(Some(Run::new(events, ends)))
    }

    /// A counting sort.
    fn by_partition(&self, entities: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let partitions = self.partitions();
        let mut next = vec![0u32; partitions + 1];
        for entity in entities {
            next[(entity >> self.shift) as usize + 1] += 1;
        }
        for partition in 0..partitions {
            next[partition + 1] += next[partition];
        }
        let ends = next[1..].to_vec();
        let mut order = vec![0u32; entities.len()];
        for (at, entity) in (0..).zip(entities) {
            let place = &mut next[(entity >> self.shift) as usize];
            order[*place as usize] = at;
            *place += 1;
        }
        (order, ends)
    }
}

/// The batches as one. Some may lack the arrival: their events were known as soon as they had happened.
fn together(parts: &[RecordBatch], view: &JoinView) -> Result<RecordBatch, JobError> {
    let widest = parts.iter().max_by_key(|part| part.num_columns());
    let schema: SchemaRef = match widest {
        Some(part) => part.schema(),
        None => return Ok(RecordBatch::new_empty(empty_schema(view))),
    };
    if parts.iter().all(|part| part.num_columns() == schema.fields().len()) {
        return Ok(concat_batches(&schema, parts)?);
    }
    let complete = |part: &RecordBatch| -> Result<RecordBatch, JobError> {
        let column = |field: &Arc<ArrowField>| match part.column_by_name(field.name()) {
            Some(column) => Ok(Arc::clone(column)),
            None => {
                let time = part.column_by_name(&view.source().time);
                time.cloned().ok_or_else(|| JobError::internal("events without a time"))
            }
        };
        let arrays = schema.fields().iter().map(column).collect::<Result<Vec<_>, _>>()?;
        Ok(RecordBatch::try_new(Arc::clone(&schema), arrays)?)
    };
    let parts = parts.iter().map(complete).collect::<Result<Vec<_>, _>>()?;
    Ok(concat_batches(&schema, &parts)?)
}

/// `events` with all columns that are carried, and whose they are: the arrival of those that lack it is their time.
pub(super) fn whole(events: &RecordBatch, view: &JoinView) -> Result<RecordBatch, JobError> {
    let schema = empty_schema(view);
    let arrays = schema.fields().iter().map(|field| {
        let column = events.column_by_name(field.name());
        let column = column.or_else(|| events.column_by_name(&view.source().time));
        column
            .cloned()
            .ok_or_else(|| JobError::internal("events without a time"))
    });
    Ok(RecordBatch::try_new(
        Arc::clone(&schema),
        arrays.collect::<Result<_, _>>()?,
    )?)
}

fn empty_schema(view: &JoinView) -> SchemaRef {
    let carried = view.history().carried().iter();
    let mut fields: Vec<ArrowField> = carried
        .map(|field| ArrowField::new(&field.name, field.data_type.arrow(), true))
        .collect();
    fields.push(ArrowField::new(ENTITY, ArrowType::UInt32, false));
    Arc::new(Schema::new(fields))
}
