//! Where events stand in their stream: the columns of a delivery, or of a log's rows, that say so.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use ondol_feature_store_api::wire::columns;

/// The partition and the offset of each of `rows`. The error is the column that is missing or of another type.
pub(crate) fn event_positions(rows: &RecordBatch) -> Result<(&[i32], &[i64]), &'static str> {
    let partitions = rows
        .column_by_name(columns::PARTITION)
        .and_then(|column| column.as_primitive_opt::<Int32Type>())
        .ok_or(columns::PARTITION)?;
    let offsets = rows
        .column_by_name(columns::OFFSET)
        .and_then(|column| column.as_primitive_opt::<Int64Type>())
        .ok_or(columns::OFFSET)?;
    Ok((partitions.values(), offsets.values()))
}
