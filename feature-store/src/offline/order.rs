//! Rows of several deliveries by event date, those of a date in order of (partition, offset).
//!
//! A delivery's rows are mostly in order already: a stream gives runs of one partition. So the rows are cut into runs that
//! are in order and of one date, and the runs are put in order, which copies each row at most once and sorts nothing
//! but the runs. Where runs overlap or are short (dates that alternate), rows are sorted one by one.

use super::data_file::{DAY_US, text, timestamps};
use crate::event_positions::event_positions;
use arrow::array::{Array, ArrayRef, Int32Array, RecordBatch};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::SchemaRef;
use ondol_feature_store_api::wire::columns;
use std::ops::Range;
use std::sync::Arc;

/// Rows that a run has at least, on average, to be worth moving as a whole.
const WORTH_MOVING: usize = 8;

/// Rows that stand in order, all of one date.
#[derive(Clone, Debug)]
struct Run {
    /// Days since the epoch.
    date: i32,
    first: (i32, i64),
    last: (i32, i64),
    batch: usize,
    rows: Range<usize>,
}

/// The rows of `batches`, each of `schema`, by date (days since the epoch), which `time` tells.
pub(super) fn by_date(
    batches: &[RecordBatch],
    schema: &SchemaRef,
    time: &str,
) -> Result<Vec<(i32, RecordBatch)>, String> {
    let mut runs = Vec::new();
    let mut rows = 0;
    for (batch, part) in batches.iter().enumerate() {
        rows += part.num_rows();
        add_runs(batch, part, time, &mut runs)?;
    }
    runs.sort_unstable_by_key(|run| (run.date, run.first));
    let overlap = |pair: &[Run]| matches!(pair, [a, b] if a.date == b.date && a.last > b.first);
    let short = runs.len() > batches.len() && runs.len() * WORTH_MOVING > rows;
    if short || runs.windows(2).any(overlap) {
        return sorted(&concat_batches(schema, batches).map_err(text)?, time);
    }
    let mut parts = Vec::new();
    for of_date in runs.chunk_by(|a, b| a.date == b.date) {
        let slices = of_date.iter().filter_map(|run| {
            let batch = batches.get(run.batch)?;
            Some(batch.slice(run.rows.start, run.rows.len()))
        });
        let slices: Vec<RecordBatch> = slices.collect();
        let rows = match slices.as_slice() {
            [whole] => whole.clone(),
            slices => concat_batches(schema, slices).map_err(text)?,
        };
        parts.extend(of_date.first().map(|run| (run.date, rows)));
    }
    Ok(parts)
}

/// Cuts `rows`, batch `batch`, into runs.
fn add_runs(batch: usize, rows: &RecordBatch, time: &str, runs: &mut Vec<Run>) -> Result<(), String> {
    let dates = dates(rows, time)?;
    let (partitions, offsets) =
        event_positions(rows).map_err(|name| format!("column `{name}` is missing or no integer"))?;
    let positions = partitions.iter().copied().zip(offsets.iter().copied());
    let mut current: Option<Run> = None;
    for (row, (date, position)) in dates.into_iter().zip(positions).enumerate() {
        match &mut current {
            Some(run) if run.date == date && run.last <= position => {
                run.last = position;
                run.rows.end = row + 1;
            }
            _ => runs.extend(current.replace(Run {
                date,
                first: position,
                last: position,
                batch,
                rows: row..row + 1,
            })),
        }
    }
    runs.extend(current);
    Ok(())
}

/// Rows in whatever order, sorted one by one.
fn sorted(rows: &RecordBatch, time: &str) -> Result<Vec<(i32, RecordBatch)>, String> {
    let dates = Int32Array::from(dates(rows, time)?);
    let sort = |values: ArrayRef| SortColumn { values, options: None };
    let column = |name: &str| {
        rows.column_by_name(name)
            .cloned()
            .ok_or_else(|| format!("column `{name}` is missing"))
    };
    let order = lexsort_to_indices(
        &[
            sort(Arc::new(dates.clone())),
            sort(column(columns::PARTITION)?),
            sort(column(columns::OFFSET)?),
        ],
        None,
    )
    .map_err(text)?;
    let sorted = take_record_batch(rows, &order).map_err(text)?;
    let dates: Vec<i32> = order.values().iter().map(|&row| dates.value(row as usize)).collect();
    let mut start = 0;
    let parts = dates.chunk_by(|a, b| a == b).filter_map(|of_date| {
        let part = sorted.slice(start, of_date.len());
        start += of_date.len();
        Some((*of_date.first()?, part))
    });
    Ok(parts.collect())
}

/// The date of each row, in days since the epoch.
fn dates(rows: &RecordBatch, time: &str) -> Result<Vec<i32>, String> {
    let times = timestamps(rows, time)?;
    if times.null_count() > 0 {
        return Err("the time column holds nulls: ingest must not deliver events without a time".to_owned());
    }
    let date = |micros: &i64| {
        i32::try_from(micros.div_euclid(DAY_US)).map_err(|_| format!("event time {micros} us has no date"))
    };
    times.values().iter().map(date).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{AsArray, Int64Array, TimestampMicrosecondArray};
    use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, TimeUnit};
    use proptest::prelude::*;

    /// Partition, offset, and the date of a row.
    type Row = (i32, i64, i32);

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
            Field::new(columns::PARTITION, DataType::Int32, false),
            Field::new(columns::OFFSET, DataType::Int64, false),
        ]))
    }

    fn batch(rows: &[Row]) -> RecordBatch {
        let times = rows.iter().map(|row| i64::from(row.2) * DAY_US + row.1);
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(TimestampMicrosecondArray::from_iter_values(times)),
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.0))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
        ];
        RecordBatch::try_new(schema(), arrays).unwrap()
    }

    fn rows(batch: &RecordBatch) -> Vec<(i32, i64)> {
        let partitions = batch.column(1).as_primitive::<Int32Type>().values().iter();
        let offsets = batch.column(2).as_primitive::<Int64Type>().values().iter();
        partitions.copied().zip(offsets.copied()).collect()
    }

    /// Any deliveries come out by date and position, and none is lost.
    fn check(deliveries: &[Vec<Row>]) {
        let batches: Vec<RecordBatch> = deliveries.iter().map(|rows| batch(rows)).collect();
        let mut expected: Vec<Row> = deliveries.iter().flatten().copied().collect();
        expected.sort_unstable_by_key(|row| (row.2, row.0, row.1));
        let parts = by_date(&batches, &schema(), "at").unwrap();
        assert!(parts.windows(2).all(|pair| pair[0].0 < pair[1].0), "each date once");
        let found: Vec<Row> = parts
            .iter()
            .flat_map(|(date, part)| {
                rows(part)
                    .into_iter()
                    .map(|(partition, offset)| (partition, offset, *date))
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn runs_of_partitions_are_put_in_order() {
        check(&[]);
        check(&[vec![]]);
        check(&[(0..20).map(|offset| (1, offset, -1)).collect()]);
        let run = |partition, from: i64| (from..from + 20).map(move |offset| (partition, offset, 3));
        check(&[
            run(1, 0).chain(run(0, 50)).collect(),
            run(1, 20).collect(),
            run(0, 70).chain(run(2, 0)).collect(),
        ]);
        check(&[run(1, 20).collect(), run(1, 10).collect()]);
        // Rows of one message share its position.
        check(&[vec![(0, 5, 1), (0, 5, 1), (0, 5, 2), (0, 6, 2)]]);
    }

    proptest! {
        #[test]
        fn any_deliveries_come_out_by_date_and_position(
            deliveries in prop::collection::vec(prop::collection::vec((0..3, 0..50_i64, -1..2), 0..30), 0..5),
            ordered: bool,
        ) {
            let mut deliveries = deliveries;
            if ordered {
                deliveries.iter_mut().for_each(|rows| rows.sort_unstable_by_key(|row| (row.2, row.0, row.1)));
            }
            check(&deliveries);
        }
    }
}
