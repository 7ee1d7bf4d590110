//! The events that a spine's rows may see, grouped by entity and ordered by when each became visible.
//!
//! Reading is parallel over row groups. Each batch is cut down at once to events of the spine's entities that lie
//! before the entity's last moment (and within its reach, where windows bound it), so that memory is taken by events
//! that matter only. What remains stays in the batches it came in; an order over it costs 16 bytes an event.

use super::entities::{Entities, range};
use super::plan::ViewPlan;
use super::spine::Spine;
use crate::error::JobError;
use crate::pool::Pool;
use crate::progress::Progress;
use crate::table::{Scan, TimeRange, Unit};
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, interleave_record_batch};
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use ondol_feature_store_api::wire::columns;
use ondol_vocabulary::key::EntityKeyColumns;
use std::ops::Range;
use std::sync::Mutex;

/// Events of the entities in one range, in memory.
pub(crate) struct Events {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    /// By entity of the range, then by visibility.
    order: Vec<Place>,
    ends: Vec<usize>,
    first_entity: u32,
}

/// Where an event lies and from when on it is seen.
#[derive(Clone, Copy, Default)]
struct Place {
    visible: i64,
    batch: u32,
    row: u32,
}

/// A batch cut down to what matters, and the entity of each row.
struct Part {
    batch: RecordBatch,
    entities: Vec<u32>,
}

/// The first moment at which a row may see an event: strictly after its event time, and not before it was known.
pub(super) fn visible_from(event_time: i64, known: i64) -> i64 {
    event_time.saturating_add(1).max(known)
}

/// What is wanted of a view's source.
pub(super) struct Wanted<'a> {
    pub view: &'a ViewPlan,
    pub spine: &'a Spine,
    pub entities: &'a Entities,
    /// The entities of this pass.
    pub range: Range<u32>,
}

impl Wanted<'_> {
    /// Event times that any row of the spine could see.
    pub(super) fn time_range(&self) -> TimeRange {
        let (Some(first), Some(last)) = (self.spine.times.iter().min(), self.spine.times.iter().max()) else {
            return TimeRange { from: 0, before: 0 };
        };
        let from = self
            .view
            .lookback_us
            .map_or(i64::MIN, |lookback| first.saturating_sub(lookback));
        TimeRange { from, before: *last }
    }

    /// Cuts `batch` down to events that a row of the range may see.
    fn cut(&self, batch: &RecordBatch) -> Result<Option<Part>, JobError> {
        let column = |name: &str| {
            batch
                .column_by_name(name)
                .ok_or_else(|| JobError::internal(format!("column `{name}` was not read")))
        };
        let keys = self
            .view
            .engine
            .definition()
            .key
            .iter()
            .map(|field| column(&field.name));
        let keys = EntityKeyColumns::new(keys.collect::<Result<Vec<_>, _>>()?).map_err(JobError::internal)?;
        let times = column(&self.view.source.time)?
            .as_primitive::<TimestampMicrosecondType>()
            .values();
        let known = column(columns::INGESTED_AT)?
            .as_primitive::<TimestampMicrosecondType>()
            .values();
        let mut entities = Vec::new();
        let mut buffer = Vec::with_capacity(32);
        let mut keep = Vec::with_capacity(batch.num_rows());
        for (row, (&time, &known)) in times.iter().zip(known).enumerate() {
            let found = if keys.encode(row, &mut buffer) {
                self.entities.find(&buffer)
            } else {
                None
            };
            let wanted = found.filter(|entity| self.range.contains(entity) && self.may_see(*entity, time, known));
            entities.extend(wanted);
            keep.push(wanted.is_some());
        }
        if entities.is_empty() {
            return Ok(None);
        }
        let batch = if entities.len() == keep.len() {
            batch.clone()
        } else {
            filter_record_batch(batch, &BooleanArray::from(keep))?
        };
        Ok(Some(Part { batch, entities }))
    }

    fn may_see(&self, entity: u32, time: i64, known: i64) -> bool {
        let (first, last) = self.entities.span(entity);
        let in_reach = self
            .view
            .lookback_us
            .is_none_or(|lookback| time >= first.saturating_sub(lookback));
        in_reach && visible_from(time, known) <= last
    }
}

impl Events {
    /// Reads what is wanted from the row groups `units` of `scan`.
    pub(super) fn read(
        wanted: &Wanted<'_>,
        scan: &Scan,
        units: &[Unit],
        pool: &Pool,
        progress: &Progress,
    ) -> Result<Self, JobError> {
        let parts: Mutex<Vec<(usize, Vec<Part>)>> = Mutex::new(Vec::with_capacity(units.len()));
        pool.for_each(units, |index, unit| {
            let mut cut = Vec::new();
            for batch in scan.read(unit, pool.io())? {
                let batch = batch?;
                progress.checkpoint()?;
                cut.extend(wanted.cut(&batch)?);
                progress.add(batch.num_rows() as u64);
            }
            parts
                .lock()
                .map_err(|_| JobError::internal("a reader panicked"))?
                .push((index, cut));
            Ok(())
        })?;
        let mut parts = parts
            .into_inner()
            .map_err(|_| JobError::internal("a reader panicked"))?;
        // The units' order, so that a run repeats exactly.
        parts.sort_by_key(|(index, _)| *index);
        Self::arrange(
            wanted,
            scan.schema().clone(),
            parts.into_iter().flat_map(|(_, parts)| parts).collect(),
        )
    }

    fn arrange(wanted: &Wanted<'_>, schema: SchemaRef, parts: Vec<Part>) -> Result<Self, JobError> {
        let first_entity = wanted.range.start;
        let mut next = vec![0usize; wanted.range.len()];
        for entity in parts.iter().flat_map(|part| &part.entities) {
            next[(entity - first_entity) as usize] += 1;
        }
        let mut ends = Vec::with_capacity(next.len());
        let mut end = 0;
        for count in &mut next {
            let start = end;
            end += *count;
            ends.push(end);
            *count = start;
        }
        let mut order = vec![Place::default(); end];
        let mut batches = Vec::with_capacity(parts.len());
        for (index, part) in parts.into_iter().enumerate() {
            let batch = u32::try_from(index).map_err(JobError::internal)?;
            let column = |name: &str| {
                let column = part
                    .batch
                    .column_by_name(name)
                    .ok_or_else(|| JobError::internal(name))?;
                Ok::<_, JobError>(column.as_primitive::<TimestampMicrosecondType>().values())
            };
            let (times, known) = (column(&wanted.view.source.time)?, column(columns::INGESTED_AT)?);
            for (row, entity) in part.entities.iter().enumerate() {
                let place = &mut next[(entity - first_entity) as usize];
                order[*place] = Place {
                    visible: visible_from(times[row], known[row]),
                    batch,
                    row: row as u32,
                };
                *place += 1;
            }
            batches.push(part.batch);
        }
        for entity in 0..ends.len() as u32 {
            if let Some(events) = order.get_mut(range(&ends, entity))
                && !events.is_sorted_by_key(|place| place.visible)
            {
                // Events that become visible together are absorbed before any row looks, and a row's state does not
                // depend on their order: visibility alone is the key.
                events.sort_unstable_by_key(|place| place.visible);
            }
        }
        Ok(Self {
            schema,
            batches,
            order,
            ends,
            first_entity,
        })
    }

    /// Number of events.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Number of events of `entity`.
    pub(super) fn count(&self, entity: u32) -> usize {
        range(&self.ends, entity - self.first_entity).len()
    }

    /// The events of the entities `entities`, one after the other, each in order of visibility.
    pub(super) fn batch(&self, entities: &Range<u32>) -> Result<RecordBatch, JobError> {
        let start = range(&self.ends, entities.start - self.first_entity).start;
        let end = match entities.end.checked_sub(self.first_entity + 1) {
            Some(last) if !entities.is_empty() => range(&self.ends, last).end,
            _ => start,
        };
        let places = self.order.get(start..end).unwrap_or_default();
        if places.is_empty() {
            return Ok(RecordBatch::new_empty(self.schema.clone()));
        }
        let indices: Vec<(usize, usize)> = places
            .iter()
            .map(|place| (place.batch as usize, place.row as usize))
            .collect();
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        Ok(interleave_record_batch(&batches, &indices)?)
    }
}
