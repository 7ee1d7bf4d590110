//! Some rows of a row group: what a scan reads when it is known which events matter.
//!
//! On a disk of this machine, numbers are taken out of their [`pages`](super::pages) one by one. Columns of other kinds,
//! and objects in a store, are decoded as ever, and the rows taken then.

use super::super::local_file::LocalFile;
use super::{Scan, Unit, pages};
use crate::error::JobError;
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, RecordBatchReader as _, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Field as ArrowField, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::errors::ParquetError;
use std::sync::Arc;

impl Scan {
    /// Of the rows that `unit` gives those of numbers `rows`, ascending: the declared columns and, where it is wanted, the
    /// arrival; not positions of a table. `is_whole` says that the unit leaves no row out. Call it on a thread that may
    /// block.
    pub(crate) fn pick(
        &self,
        unit: &Unit,
        rows: &[u32],
        is_whole: bool,
        io: &tokio::runtime::Handle,
    ) -> Result<RecordBatch, JobError> {
        let unreadable = |cause: ParquetError| self.table.unreadable(unit.file, &cause);
        let local = self.table.local_file(unit.file).filter(|_| is_whole);
        let Some(file) = local.transpose().map_err(unreadable)? else {
            let batches = self.read(unit, io)?;
            return taken(self.schema(), batches, rows)?.map_err(|cause| self.table.error(cause));
        };
        let picked = self.pick_local(&file, unit, rows).map_err(unreadable)?;
        self.declared(&picked, unit, unit.first_row)
    }

    /// The rows of the file's wanted columns.
    fn pick_local(&self, file: &LocalFile, unit: &Unit, rows: &[u32]) -> Result<RecordBatch, ParquetError> {
        let shared = Arc::new(file.clone());
        let group = unit.footer.metadata().row_group(unit.row_group);
        let parquet = unit.footer.parquet_schema();
        let (mut fields, mut arrays, mut others) = (Vec::new(), Vec::<ArrayRef>::new(), Vec::new());
        for (index, root) in parquet.root_schema().get_fields().iter().enumerate() {
            if !self.wants(root.name()) {
                continue;
            }
            let field = unit.footer.schema().field_with_name(root.name())?;
            match pages::pick(&shared, group, root.name(), field.data_type(), rows)? {
                Some(array) => {
                    fields.push(field.clone().with_nullable(true));
                    arrays.push(array);
                }
                None => others.push(index),
            }
        }
        if !others.is_empty() {
            let reader = self.read_local(file.clone(), unit, ProjectionMask::roots(parquet, others))?;
            let schema = reader.schema();
            let batches = reader.map(|batch| batch.map_err(ParquetError::from));
            let batch = taken(&schema, batches, rows)??;
            fields.extend(batch.schema().fields().iter().map(|field| ArrowField::clone(field)));
            arrays.extend(batch.columns().iter().map(Arc::clone));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(RecordBatch::try_new_with_options(
            Arc::new(Schema::new(fields)),
            arrays,
            &options,
        )?)
    }
}

/// The rows `rows`, ascending, of `batches` one after another.
fn taken<E>(
    schema: &SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, E>>,
    rows: &[u32],
) -> Result<Result<RecordBatch, arrow::error::ArrowError>, E> {
    let (mut first, mut left, mut parts) = (0u32, rows, Vec::new());
    for batch in batches {
        let batch = batch?;
        let next = first + batch.num_rows() as u32;
        let (here, rest) = left.split_at(left.partition_point(|row| *row < next));
        if !here.is_empty() {
            let here: UInt32Array = here.iter().map(|row| row - first).collect::<Vec<u32>>().into();
            match take_record_batch(&batch, &here) {
                Ok(part) => parts.push(part),
                Err(cause) => return Ok(Err(cause)),
            }
        }
        (first, left) = (next, rest);
        if left.is_empty() {
            break;
        }
    }
    Ok(concat_batches(schema, &parts))
}
