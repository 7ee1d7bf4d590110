//! The spine as a table of the engine: a row's number, its moment, and the columns that keys are made of.

use crate::fault::EngineError;
use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::{Field, Schema};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use ondol_jobs::engine::JoinRequest;
use std::sync::Arc;

/// The column of the row's number.
pub(crate) const ROW: &str = "_row";
/// The column of its moment.
pub(crate) const TIME: &str = "_time";

/// The spine of `request` in one batch.
pub(crate) fn batch(request: &JoinRequest) -> Result<RecordBatch, EngineError> {
    let count = u32::try_from(request.times.len()).map_err(|cause| EngineError::Internal(cause.to_string()))?;
    let rows: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..count));
    let times: ArrayRef = Arc::new(request.times.clone());
    let mut fields = vec![
        Field::new(ROW, rows.data_type().clone(), false),
        Field::new(TIME, times.data_type().clone(), false),
    ];
    let mut columns = vec![rows, times];
    for (name, column) in &request.keys {
        fields.push(Field::new(name, column.data_type().clone(), true));
        columns.push(Arc::clone(column));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(|cause| EngineError::Internal(cause.to_string()))
}

/// In as many pieces as there are to be partitions.
pub(crate) fn pieces(batch: &RecordBatch, partitions: usize) -> impl Iterator<Item = RecordBatch> {
    let rows = batch.num_rows();
    let each = rows.div_ceil(partitions.max(1)).max(1);
    let starts = (0..rows.max(1)).step_by(each);
    starts.map(move |start| batch.slice(start, each.min(rows - start)))
}

/// As a table in memory.
pub(crate) fn in_memory(request: &JoinRequest, partitions: usize) -> Result<Arc<dyn TableProvider>, EngineError> {
    let batch = batch(request)?;
    let partitions = pieces(&batch, partitions).map(|piece| vec![piece]).collect();
    Ok(Arc::new(MemTable::try_new(batch.schema(), partitions)?))
}
