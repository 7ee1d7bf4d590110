//! Events brought together by entity: from batches in any order to partitions of a few entities each.
//!
//! Each batch is cut down at once to events that some row may see, and to the columns that features are made of; keys
//! have become numbers by then. What is left is put in order of its partition and kept, until more is held than the
//! join may hold: then all of it goes to a file, a segment per partition, and is read again when its partition's turn
//! comes. So the tables are read once and what does not fit is written and read once more. A partition that is too large
//! even by itself, since most events happened to one entity, is a [`super::crowd`].

use super::account::{Account, Loan};
use super::beyond::Beyond;
use super::crowd::{Crowd, GROUPS, Part};
use super::entities::{Entities, NO_ENTITY};
use super::spill::{Segment, Spill};
use super::view::JoinView;
use crate::error::JobError;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{
    DataType as ArrowType, Field as ArrowField, Schema, SchemaRef, TimestampMicrosecondType, UInt32Type,
};
use ondol_transform::{Answers, Moments};
use ondol_vocabulary::columns;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The column of entities.
pub(super) const ENTITY: &str = "_entity";
/// Bytes of events of one partition, about: as much as lies well in a core's cache.
const PARTITION_BYTES: u64 = 4 << 20;
/// What a partition takes while it is worked on, in multiples of its events: those, the same in order, running sums.
const WORKING_COPIES: u64 = 5;
/// How much larger a partition may be than it was laid out to be before it is a crowd: twice by the rounding of entities, and
/// as much again by what happened to happen to them.
const UNEVENNESS: u64 = 4;
/// Most partitions.
const MOST_PARTITIONS: u64 = 4_096;
/// Bytes of a partition's events that are written at a time, about: what one entity may bring by the million.
const SEGMENT_BYTES: u64 = 8 << 20;

/// Events on their way to partitions.
pub(crate) struct Shuffle<'a> {
    view: &'a JoinView,
    entities: &'a Entities,
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

/// What has been kept.
#[derive(Default)]
struct Held {
    runs: Vec<Run>,
    bytes: u64,
    /// By partition.
    segments: Vec<Vec<Segment>>,
}

/// Events of one batch by partition.
struct Run {
    events: RecordBatch,
    /// Where each partition's events end.
    ends: Vec<u32>,
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

impl Run {
    fn range(&self, partition: usize) -> Range<usize> {
        let start = partition
            .checked_sub(1)
            .map_or(0, |previous| self.ends[previous] as usize);
        start..self.ends[partition] as usize
    }

    fn part(&self, partition: usize) -> Option<RecordBatch> {
        let range = self.range(partition);
        (!range.is_empty()).then(|| self.events.slice(range.start, range.len()))
    }
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
            beyond,
            shift,
            limit,
            room: limit / layout.threads.max(1) as u64,
            held: Mutex::default(),
            spill: Spill::new(folder),
            account,
        }
    }

    /// As [`Self::new`], with memory for everything, to be worked on by one thread.
    pub(crate) fn in_memory(
        view: &'a JoinView,
        entities: &'a Entities,
        beyond: &'a Beyond,
        account: &'a Account,
    ) -> Self {
        let layout = Layout {
            events: u64::from(u32::MAX).min(entities.row_count() as u64 * 16),
            limit: u64::MAX,
            threads: 1,
        };
        Self::new(view, (entities, beyond), layout, Path::new(""), account)
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
        let bytes = run.events.get_array_memory_size() as u64;
        self.account.add(bytes);
        let mut held = self.held.lock().map_err(|_| JobError::internal("a reader panicked"))?;
        held.runs.push(run);
        held.bytes += bytes;
        // Others wait meanwhile: what they would read could not be held.
        if held.bytes > self.limit {
            self.spill(&mut held)?;
        }
        Ok(())
    }

    /// The entities of `partition`.
    pub(crate) fn entities_of(&self, partition: usize) -> Range<usize> {
        let end = self.entities.len();
        (partition << self.shift).min(end)..((partition + 1) << self.shift).min(end)
    }

    /// The features of the entities of `partition`, a value for each of their places.
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
        let parts = self.parts(partition)?;
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

    /// Where the events of `partition` are.
    fn parts(&self, partition: usize) -> Result<Vec<Part>, JobError> {
        let held = self.held.lock().map_err(|_| JobError::internal("a reader panicked"))?;
        let kept = held.runs.iter().filter_map(|run| run.part(partition)).map(Part::Held);
        let segments = held.segments.get(partition).into_iter().flatten();
        Ok(kept.chain(segments.copied().map(Part::Spilled)).collect())
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
        held.segments.resize_with(self.partitions(), Vec::new);
        let width = self.view.carried_width() + size_of::<u32>() as u64;
        // Of a crowd, a few are sorted at a time.
        let most = SEGMENT_BYTES.min(self.room / GROUPS / 2);
        for partition in 0..self.partitions() {
            let mut parts: Vec<RecordBatch> = Vec::new();
            let mut rows = 0;
            let runs = held.runs.iter().filter_map(|run| run.part(partition));
            let mut segments = Vec::new();
            for part in runs {
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
            held.segments[partition].extend(segments);
        }
        held.runs.clear();
        self.account.subtract(held.bytes);
        held.bytes = 0;
        Ok(())
    }

    /// What matters of `batch`, by partition; none if nothing does.
    fn run(&self, batch: &RecordBatch) -> Result<Option<Run>, JobError> {
        let seen = self.view.seen(self.entities, self.beyond, batch)?;
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
        Ok(Some(Run { events, ends }))
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

/// The events of a batch that some row may see.
pub(crate) struct Seen {
    /// Their rows in the batch.
    pub rows: Vec<u32>,
    /// Whose they are.
    pub entities: Vec<u32>,
    /// The first place of the spine that sees each.
    pub slots: Vec<u32>,
    /// Whether any was known later than as soon as it had happened.
    pub arrives_later: bool,
}

impl JoinView {
    /// What the rows of `entities` may see of `batch`. What is too old for them is marked in `beyond`.
    pub(crate) fn seen(&self, entities: &Entities, beyond: &Beyond, batch: &RecordBatch) -> Result<Seen, JobError> {
        let column = |name: &str| {
            batch
                .column_by_name(name)
                .ok_or_else(|| JobError::internal(format!("column `{name}` was not read")))
        };
        let keys = self.definition().key.iter().map(|field| column(&field.name));
        let mut found = Vec::with_capacity(batch.num_rows());
        entities.find(&keys.collect::<Result<Vec<_>, _>>()?, &mut found)?;
        let admits: Option<BooleanArray> = self.history().admits(batch)?;
        let micros = |column: &'_ ArrayRef| {
            let column = column.as_primitive_opt::<TimestampMicrosecondType>();
            column
                .map(|column| column.values().clone())
                .ok_or_else(|| JobError::internal("a time that is no timestamp"))
        };
        let times = micros(column(&self.source().time)?)?;
        let known = batch.column_by_name(columns::INGESTED_AT).map(micros).transpose()?;
        let mut seen = Seen {
            rows: Vec::with_capacity(batch.num_rows()),
            entities: Vec::with_capacity(batch.num_rows()),
            slots: Vec::with_capacity(batch.num_rows()),
            arrives_later: false,
        };
        for (row, (&entity, &time)) in found.iter().zip(times.iter()).enumerate() {
            if entity == NO_ENTITY || admits.as_ref().is_some_and(|admits| !admits.value(row)) {
                continue;
            }
            let next = time.saturating_add(1);
            let visible = known.as_ref().map_or(next, |known| next.max(known[row]));
            let Some(slot) = entities.first_seeing(entity, visible) else {
                continue;
            };
            // Later rows reach back less far.
            let reaches = |lookback: i64| time >= entities.times()[slot].saturating_sub(lookback);
            if self.lookback_us().is_none_or(reaches) {
                seen.rows.push(row as u32);
                seen.entities.push(entity);
                seen.slots.push(slot as u32);
                seen.arrives_later |= visible > next;
            } else {
                beyond.mark(slot);
            }
        }
        Ok(seen)
    }
}
