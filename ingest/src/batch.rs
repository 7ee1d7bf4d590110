//! Runs of records to one delivery: decode, validate, build. Pure, and CPU work: callers run it on the blocking pool.
//!
//! Cost per event of plain JSON: one pass over its bytes and one append per column; per batch: the columns' buffers.
//! A record may give no event, one, or several: those of a record are taken together or become one dead letter.

use crate::dead_letter::dead_letter;
use crate::decode::Fault;
use crate::decode::columns::Columns;
use crate::decode::decoder::Decoder;
use crate::plan::SourcePlan;
use crate::source::{Record, Records};
use crate::validate::{Times, check_size, validate};
use arrow::array::{ArrayRef, BooleanBuilder, Int32Builder, Int64Builder, RecordBatch, TimestampMicrosecondBuilder};
use arrow::error::ArrowError;
use ondol_feature_store_api::wire::{Delivery, DeliveryHeader};
use ondol_ingest_api::wire::DeadLetter;
use ondol_vocabulary::{DataType, EventTime, PartitionRange};
use std::sync::Arc;

/// What became of a batch of records.
#[derive(Debug)]
pub struct Decoded {
    /// The good events and everything covered.
    pub delivery: Delivery,
    /// The bad ones.
    pub dead_letters: Vec<DeadLetter>,
    /// Records that stand for no event and are no fault: deletion markers that the source ignores, empty arrays.
    pub passed_over: usize,
    /// Events that no view counts, as they came later than the source allows.
    pub late: usize,
    /// Bytes of all messages.
    pub size_bytes: usize,
    /// The newest event time among the good ones.
    pub newest: Option<EventTime>,
}

/// Why a batch can't be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not now: what is missing, and the remedy. The batch may be tried again.
    #[error("{0}")]
    Unavailable(String),
    /// The arrays contradict the plan's schema, which only a fault of the program can cause.
    #[error("decoding failed: {0}")]
    Arrow(#[from] ArrowError),
}

/// Decodes `runs`, accepted at `now`. Runs of one partition must touch and stand in order.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(
    plan: &SourcePlan,
    generation: &str,
    runs: &[Records],
    now: EventTime,
    max_event_bytes: usize,
) -> Result<Decoded, DecodeError> {
    let rows = runs.iter().map(Records::len).sum();
    let mut builder = Builder::new(plan, rows);
    let mut decoder = Decoder::new(&plan.reading, plan.time);
    let mut dead_letters = Vec::new();
    let mut passed_over = 0;
    for record in runs.iter().flat_map(Records::iter) {
        match take(plan, &mut decoder, &mut builder, record, now, max_event_bytes) {
            Ok(0) => passed_over += 1,
            Ok(_) => {}
            Err(Fault::Unavailable(detail)) => return Err(DecodeError::Unavailable(detail)),
            Err(Fault::Rejected(rejection)) => {
                dead_letters.push(dead_letter(&plan.name, &record, rejection, now));
            }
        }
    }
    let header = DeliveryHeader {
        source: plan.name.clone(),
        source_version: plan.version,
        generation: generation.to_owned(),
        ranges: ranges(runs),
        table: None,
    };
    let (newest, late) = (builder.newest, builder.late_events);
    let delivery = Delivery {
        header,
        events: builder.finish(plan)?,
    };
    let size_bytes = runs.iter().map(Records::size_bytes).sum();
    Ok(Decoded {
        delivery,
        dead_letters,
        passed_over,
        late,
        size_bytes,
        newest,
    })
}

/// Adds the events of `record`: how many.
fn take<'a>(
    plan: &SourcePlan,
    decoder: &mut Decoder<'a>,
    builder: &mut Builder,
    record: Record<'a>,
    now: EventTime,
    max_event_bytes: usize,
) -> Result<usize, Fault> {
    check_size(record.value.unwrap_or_default(), max_event_bytes)?;
    let rows = decoder.decode(&record)?;
    builder.times.clear();
    for cells in rows.iter() {
        builder.times.push(validate(plan, cells, record.timestamp, now)?);
    }
    for cells in rows.iter() {
        builder.columns.append(cells);
    }
    builder.place(&record, rows.deleted);
    Ok(builder.times.len())
}

/// At most one range a partition.
fn ranges(runs: &[Records]) -> Vec<PartitionRange> {
    let mut ranges: Vec<PartitionRange> = Vec::new();
    for run in runs {
        match ranges.iter_mut().find(|range| range.partition == run.partition) {
            Some(range) => {
                debug_assert_eq!(range.to, run.from, "runs of a partition touch");
                range.to = run.to;
            }
            None => ranges.push(PartitionRange {
                partition: run.partition,
                from: run.from,
                to: run.to,
            }),
        }
    }
    ranges
}

struct Builder {
    columns: Columns,
    partition: Int32Builder,
    offset: Int64Builder,
    ingested_at: TimestampMicrosecondBuilder,
    deleted: Option<BooleanBuilder>,
    late: Option<BooleanBuilder>,
    newest: Option<EventTime>,
    late_events: usize,
    /// Of the rows of the record at hand.
    times: Vec<Times>,
}

impl Builder {
    fn new(plan: &SourcePlan, rows: usize) -> Self {
        Self {
            columns: Columns::new(&plan.fields, rows),
            partition: Int32Builder::with_capacity(rows),
            offset: Int64Builder::with_capacity(rows),
            ingested_at: TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(DataType::Timestamp.arrow()),
            deleted: plan.has_deletions.then(|| BooleanBuilder::with_capacity(rows)),
            late: plan.late_us.map(|_| BooleanBuilder::with_capacity(rows)),
            newest: None,
            late_events: 0,
            times: Vec::new(),
        }
    }

    fn place(&mut self, record: &Record<'_>, deleted: bool) {
        for times in &self.times {
            self.partition.append_value(record.partition);
            self.offset.append_value(record.offset);
            self.ingested_at.append_value(times.ingested_at.micros());
            if let Some(marks) = &mut self.deleted {
                marks.append_value(deleted);
            }
            if let Some(marks) = &mut self.late {
                marks.append_value(times.late);
            }
            self.late_events += usize::from(times.late);
            self.newest = self.newest.max(Some(times.event_time));
        }
    }

    fn finish(mut self, plan: &SourcePlan) -> Result<RecordBatch, ArrowError> {
        let mut arrays = self.columns.finish();
        let added: [ArrayRef; 3] = [
            Arc::new(self.partition.finish()),
            Arc::new(self.offset.finish()),
            Arc::new(self.ingested_at.finish()),
        ];
        arrays.extend(added);
        // In the order of the source's marks.
        for mut marks in [self.deleted, self.late].into_iter().flatten() {
            arrays.push(Arc::new(marks.finish()));
        }
        RecordBatch::try_new(Arc::clone(&plan.schema), arrays)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::formats::Formats;
    use arrow::array::AsArray;
    use arrow::datatypes::{Int32Type, Int64Type};
    use ondol_vocabulary::{
        Arrival, Field, MessageShape, Snapshot, SourceDefinition, SourceOrigin, SourceVersion, StreamFormat,
    };

    fn plan() -> SourcePlan {
        let field = |name: &str, data_type| Field {
            name: name.to_owned(),
            data_type,
        };
        let definition = SourceDefinition {
            name: "s".to_owned(),
            origin: SourceOrigin::Stream {
                topic: "t".to_owned(),
                format: StreamFormat::Json,
                shape: MessageShape::default(),
            },
            time: "ts".to_owned(),
            late_us: 0,
            arrival: Arrival::Ingest,
            schema: vec![field("id", DataType::String), field("ts", DataType::Timestamp)],
        };
        let snapshot = Snapshot::default();
        let source = SourceVersion { version: 3, definition };
        let compiled = SourcePlan::compile(&snapshot, &source, &Formats::default());
        compiled.unwrap().unwrap()
    }

    #[test]
    fn a_delivery_covers_holes_and_bad_events_and_merges_runs_of_a_partition() {
        let now = EventTime::from_micros(10);
        let good = br#"{"id":"a","ts":5}"#;
        let run = |partition, from, records: &[(i64, Option<&[u8]>)]| {
            let mut run = Records::starting(partition, from);
            records
                .iter()
                .for_each(|(offset, value)| run.push(*offset, now, *value));
            run
        };
        let runs = [
            run(1, 4, &[(6, Some(good)), (7, Some(b"bad"))]),
            run(0, 0, &[(0, Some(good))]),
            run(1, 8, &[(8, None), (9, Some(good))]),
        ];
        let decoded = decode(&plan(), "g", &runs, now, 100).unwrap();
        let range = |partition, from, to| PartitionRange { partition, from, to };
        assert_eq!(decoded.delivery.header.ranges, [range(1, 4, 10), range(0, 0, 1)]);
        assert_eq!(
            (
                decoded.delivery.header.source_version,
                decoded.delivery.header.generation.as_str()
            ),
            (3, "g")
        );
        let events = &decoded.delivery.events;
        assert_eq!(events.column(2).as_primitive::<Int32Type>().values(), &[1, 0, 1]);
        assert_eq!(events.column(3).as_primitive::<Int64Type>().values(), &[6, 0, 9]);
        let bad: Vec<_> = decoded
            .dead_letters
            .iter()
            .map(|l| (l.position.offset, l.reason.as_str()))
            .collect();
        assert_eq!(bad, [(7, "malformed"), (8, "tombstone")]);
        assert_eq!(decoded.newest, Some(EventTime::from_micros(5)));
    }
}
