//! Arrow record batches as bytes on a wire: the IPC stream format.

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::error::ArrowError;
use arrow::ipc::{reader::StreamDecoder, writer::StreamWriter};

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

/// The schema and batches of one IPC stream. Outside bytes: a malformed stream is an error. The decoder takes from what
/// is there, so that a forged length can't make it allocate (the reader over `io::Read` allocates what a message claims).
pub fn decode(bytes: &[u8]) -> Result<(arrow::datatypes::SchemaRef, Vec<RecordBatch>), ArrowError> {
    guarded(|| decode_stream(bytes))
}

/// Arrow panics on some corrupt streams, such as one whose buffers lie beyond its body, or on an empty one with a type
/// that can't be. It holds no state that outlives the call.
fn guarded<T>(decode: impl FnOnce() -> Result<T, ArrowError> + std::panic::UnwindSafe) -> Result<T, ArrowError> {
    std::panic::catch_unwind(decode).unwrap_or_else(|_| Err(ArrowError::IpcError("the stream is corrupt".to_owned())))
}

fn decode_stream(bytes: &[u8]) -> Result<(arrow::datatypes::SchemaRef, Vec<RecordBatch>), ArrowError> {
    let mut decoder = StreamDecoder::new();
    let mut rest = Buffer::from_slice_ref(bytes);
    let mut batches = Vec::new();
    while !rest.is_empty() {
        batches.extend(decoder.decode(&mut rest)?);
    }
    decoder.finish()?;
    let schema = decoder
        .schema()
        .ok_or_else(|| ArrowError::IpcError("the stream holds no schema".to_owned()))?;
    Ok((schema, batches))
}

/// As [`decode`], all rows in one batch.
pub fn decode_one(bytes: &[u8]) -> Result<RecordBatch, ArrowError> {
    guarded(|| {
        let (schema, batches) = decode_stream(bytes)?;
        match <[RecordBatch; 1]>::try_from(batches) {
            Ok([batch]) => Ok(batch),
            Err(batches) => arrow::compute::concat_batches(&schema, &batches),
        }
    })
}
