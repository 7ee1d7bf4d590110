//! Arrow record batches as bytes on a wire: the IPC stream format.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::{reader::StreamReader, writer::StreamWriter};
use std::sync::Arc;

/// The media type of an Arrow IPC stream.
pub const MEDIA_TYPE: &str = "application/vnd.apache.arrow.stream";

/// One IPC stream that holds `batches`, all of the first one's schema. Metadata of the schema travels with it.
pub fn encode(schema: &arrow::datatypes::SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    writer.into_inner()
}

/// The schema and batches of one IPC stream. Outside bytes: a malformed stream is an error.
pub fn decode(bytes: &[u8]) -> Result<(arrow::datatypes::SchemaRef, Vec<RecordBatch>), ArrowError> {
    let reader = StreamReader::try_new(bytes, None)?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    Ok((Arc::clone(&schema), batches))
}

/// As [`decode`], all rows in one batch.
pub fn decode_one(bytes: &[u8]) -> Result<RecordBatch, ArrowError> {
    let (schema, batches) = decode(bytes)?;
    match <[RecordBatch; 1]>::try_from(batches) {
        Ok([batch]) => Ok(batch),
        Err(batches) => arrow::compute::concat_batches(&schema, &batches),
    }
}
