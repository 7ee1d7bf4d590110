//! A batch of events as one view sees it.

use super::ViewEngine;
use super::column::Column;
use crate::expression::{Expression, ExpressionError};
use crate::row::event::{Event, Position};
use crate::row::scalar::ScalarRef;
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::compute::{cast, filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::{
    DataType as ArrowType, Field as ArrowField, Int32Type, Int64Type, Schema, TimestampMicrosecondType,
};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use ondol_vocabulary::key::EntityKeyColumns;
use ondol_vocabulary::{DataType, EntityKey, EventTime, SourcePosition};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

pub use ondol_vocabulary::columns;

/// A batch of events as one view sees it: keys, times, positions and the evaluated arguments and filters. Events that
/// the view leaves out are not in it; indexes count those that are, in batch order.
#[derive(Debug)]
pub struct Projection {
    keys: Vec<ArrayRef>,
    times: TimestampMicrosecondArray,
    partitions: Int32Array,
    offsets: Int64Array,
    ingested_at: TimestampMicrosecondArray,
    /// Whether positions say which of two events is later. Rows of a table have no order: they are numbered by whoever
    /// reads them, and otherwise once the table has been compacted.
    ordered: bool,
    inputs: Vec<Column>,
    filters: Vec<BooleanArray>,
}

/// Where every row of a table stands among those of its time.
const UNORDERED: SourcePosition = SourcePosition {
    partition: 0,
    offset: 0,
};

/// One event of a projection.
pub(super) struct ProjectedEvent<'a> {
    projection: &'a Projection,
    index: usize,
}

pub(super) fn project(engine: &ViewEngine, events: &RecordBatch) -> Result<Projection, ExpressionError> {
    let events = kept(engine, gather(engine, events)?)?;
    let source_columns = engine.fields.len();
    let keys: Vec<ArrayRef> = engine.key.iter().map(|at| Arc::clone(events.column(*at))).collect();
    // Refused here, so that grouping by key can't fail.
    EntityKeyColumns::new(&keys).map_err(|error| failure("the key", &error))?;
    let inputs = engine.inputs.iter().map(|expression| {
        let values = expression.evaluate(&events)?;
        Column::new(&values)
            .ok_or_else(|| failure("an argument", &format!("no feature has type {}", values.data_type())))
    });
    let filters = engine.filters.iter().map(|filter| condition(filter, &events));
    Ok(Projection {
        inputs: inputs.collect::<Result<_, _>>()?,
        filters: filters.collect::<Result<_, _>>()?,
        keys,
        times: events
            .column(engine.time)
            .as_primitive::<TimestampMicrosecondType>()
            .clone(),
        partitions: events.column(source_columns).as_primitive::<Int32Type>().clone(),
        offsets: events.column(source_columns + 1).as_primitive::<Int64Type>().clone(),
        ingested_at: events
            .column(source_columns + 2)
            .as_primitive::<TimestampMicrosecondType>()
            .clone(),
        ordered: engine.ordered,
    })
}

/// The columns that the engine reads, in its order and types, then position and arrival.
fn gather(engine: &ViewEngine, events: &RecordBatch) -> Result<RecordBatch, ExpressionError> {
    let mut fields = Vec::with_capacity(engine.fields.len() + 3);
    let mut arrays = Vec::with_capacity(engine.fields.len() + 3);
    let position = [
        (columns::PARTITION, ArrowType::Int32),
        (columns::OFFSET, ArrowType::Int64),
        (columns::INGESTED_AT, DataType::Timestamp.arrow()),
    ];
    let own = engine
        .fields
        .iter()
        .map(|field| (field.name.as_str(), field.data_type.arrow()));
    for (name, data_type) in own.chain(position.clone()) {
        let array = events
            .column_by_name(name)
            .ok_or_else(|| failure(name, &format!("the events have no column `{name}`: read it as well")))?;
        // Readers of tables may widen or view what a source declares; a cast of equal types copies nothing.
        let array = if *array.data_type() == data_type {
            Arc::clone(array)
        } else {
            cast(array, &data_type).map_err(|error| failure(name, &error))?
        };
        if position.iter().any(|(required, _)| *required == name) && array.null_count() > 0 {
            return Err(failure(
                name,
                &format!("the events have a null in `{name}`, which every event has"),
            ));
        }
        fields.push(ArrowField::new(name, data_type, true));
        arrays.push(array);
    }
    if let Some(late) = events.column_by_name(columns::LATE) {
        fields.push(ArrowField::new(columns::LATE, ArrowType::Boolean, true));
        arrays.push(Arc::clone(late));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(|error| failure("the events", &error))
}

/// Which events are not late; none when no event can be.
pub(super) fn in_time(events: &RecordBatch) -> Result<Option<BooleanArray>, ExpressionError> {
    let Some(late) = events.column_by_name(columns::LATE) else {
        return Ok(None);
    };
    let late = late
        .as_boolean_opt()
        .ok_or_else(|| failure(columns::LATE, &format!("it is {}, not Boolean", late.data_type())))?;
    if late.true_count() == 0 {
        return Ok(None);
    }
    Ok(Some(late.iter().map(|late| Some(late != Some(true))).collect()))
}

/// The events that the view takes: with a key, with a time, in time, and past its filter.
fn kept(engine: &ViewEngine, events: RecordBatch) -> Result<RecordBatch, ExpressionError> {
    let mut nulls: Option<NullBuffer> = None;
    for at in engine.key.iter().chain([&engine.time]) {
        nulls = NullBuffer::union(nulls.as_ref(), events.column(*at).logical_nulls().as_ref());
    }
    let keep = |events: &RecordBatch, mask: &BooleanArray| {
        if mask.true_count() == events.num_rows() {
            return Ok(events.clone());
        }
        filter_record_batch(events, mask).map_err(|error| failure("the view's filter", &error))
    };
    let events = match nulls {
        Some(nulls) => keep(&events, &BooleanArray::new(nulls.into_inner(), None))?,
        None => events,
    };
    let events = match in_time(&events)? {
        Some(in_time) => keep(&events, &in_time)?,
        None => events,
    };
    match &engine.filter {
        Some(filter) => keep(&events, &condition(filter, &events)?),
        None => Ok(events),
    }
}

/// A condition's values; null is no.
pub(super) fn condition(expression: &Expression, events: &RecordBatch) -> Result<BooleanArray, ExpressionError> {
    let values = expression.evaluate(events)?;
    let values = values
        .as_boolean_opt()
        .ok_or_else(|| failure("a filter", &"it is no condition"))?;
    Ok(if values.null_count() > 0 {
        prep_null_mask_filter(values)
    } else {
        values.clone()
    })
}

pub(super) fn failure(what: &str, error: &impl ToString) -> ExpressionError {
    ExpressionError::Evaluate {
        expression: what.to_owned(),
        message: error.to_string(),
    }
}

impl Projection {
    /// Of events in order of history, which the view takes and whose keys are known: `events` holds what arguments and
    /// filters read and, where that matters, positions. Each counts as known from the moment it is seen.
    pub(super) fn carried(
        engine: &ViewEngine,
        events: &RecordBatch,
        times: ScalarBuffer<i64>,
        visible: ScalarBuffer<i64>,
    ) -> Result<Self, ExpressionError> {
        let inputs = engine.inputs.iter().map(|expression| {
            let values = expression.evaluate(events)?;
            Column::new(&values)
                .ok_or_else(|| failure("an argument", &format!("no feature has type {}", values.data_type())))
        });
        let filters = engine.filters.iter().map(|filter| condition(filter, events));
        let partitions = events
            .column_by_name(columns::PARTITION)
            .and_then(|array| array.as_primitive_opt::<Int32Type>());
        let offsets = events
            .column_by_name(columns::OFFSET)
            .and_then(|array| array.as_primitive_opt::<Int64Type>());
        Ok(Self {
            inputs: inputs.collect::<Result<_, _>>()?,
            filters: filters.collect::<Result<_, _>>()?,
            keys: Vec::new(),
            ordered: engine.ordered,
            partitions: partitions
                .cloned()
                .unwrap_or_else(|| Int32Array::from_value(0, times.len())),
            offsets: offsets
                .cloned()
                .unwrap_or_else(|| Int64Array::from_value(0, times.len())),
            times: TimestampMicrosecondArray::new(times, None),
            ingested_at: TimestampMicrosecondArray::new(visible, None),
        })
    }

    /// The values of input `input`.
    pub(super) fn column(&self, input: usize) -> Option<&Column> {
        self.inputs.get(input)
    }

    /// Which events pass filter `filter`.
    pub(super) fn filter(&self, filter: usize) -> Option<&BooleanArray> {
        self.filters.get(filter)
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether the view takes none of the batch.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The entities of the projection, each with the indexes of its events in batch order. Entities stand in the order
    /// of their first event.
    pub fn entities(&self) -> Vec<(EntityKey, Vec<u32>)> {
        // Projecting has refused every other type of key.
        let Ok(columns) = EntityKeyColumns::new(&self.keys) else {
            return Vec::new();
        };
        let mut entities: Vec<(EntityKey, Vec<u32>)> = Vec::new();
        let mut places: HashTable<usize> = HashTable::new();
        let mut buffer = Vec::with_capacity(32);
        for index in 0..self.len() {
            // Always true: events without a key were left out.
            if !columns.encode(index, &mut buffer) {
                continue;
            }
            let same = |place: &usize| entities[*place].0.as_bytes() == buffer;
            let rehash = |place: &usize| xxh3_64(entities[*place].0.as_bytes());
            let place = match places.entry(xxh3_64(&buffer), same, rehash) {
                Entry::Occupied(entry) => *entry.get(),
                Entry::Vacant(entry) => {
                    let place = entities.len();
                    entry.insert(place);
                    entities.push((EntityKey::from_bytes(buffer.clone()), Vec::new()));
                    place
                }
            };
            entities[place].1.push(index as u32);
        }
        entities
    }

    /// Event `index`'s time.
    pub fn event_time(&self, index: usize) -> EventTime {
        EventTime::from_micros(self.times.value(index))
    }

    /// When event `index` counts as known.
    pub fn ingested_at(&self, index: usize) -> EventTime {
        EventTime::from_micros(self.ingested_at.value(index))
    }

    /// The first moment whose known-at reads see event `index`: it has happened before, and has arrived.
    pub fn visible_from(&self, index: usize) -> EventTime {
        self.event_time(index).plus_micros(1).max(self.ingested_at(index))
    }

    /// Where event `index` stands in its source, as it was read.
    pub fn position(&self, index: usize) -> SourcePosition {
        SourcePosition {
            partition: self.partitions.value(index),
            offset: self.offsets.value(index),
        }
    }

    pub(super) fn event(&self, index: usize) -> ProjectedEvent<'_> {
        ProjectedEvent {
            projection: self,
            index,
        }
    }
}

impl Event for ProjectedEvent<'_> {
    fn position(&self) -> Position {
        Position {
            time: self.projection.times.value(self.index),
            source: if self.projection.ordered {
                self.projection.position(self.index)
            } else {
                UNORDERED
            },
        }
    }

    fn input(&self, input: usize) -> Option<ScalarRef<'_>> {
        self.projection.inputs.get(input)?.get(self.index)
    }

    fn passes(&self, filter: usize) -> bool {
        self.projection
            .filters
            .get(filter)
            .is_some_and(|filter| filter.value(self.index))
    }
}
