//! Rows on their way: a schema and batches that come one after the other, so that neither end ever holds them all. On
//! the wire they are an Arrow IPC stream; one that is cut short before its end mark is an error on the receiving end.

use crate::error::PipelinesError;
use crate::wire::JobResult;
use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use http::{HeaderValue, header};
use ondol_vocabulary::batch;
use ondol_wire::problem;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;

/// Rows as they come. Dropping it stops whoever makes them.
pub struct Rows {
    /// The columns.
    pub schema: SchemaRef,
    /// The rows. An error is the last item.
    pub batches: BoxStream<'static, Result<RecordBatch, PipelinesError>>,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl Rows {
    /// Rows that are all there.
    pub fn held(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        let batches = stream::iter(batches.into_iter().map(Ok)).boxed();
        Self { schema, batches }
    }

    /// All of them, in memory.
    ///
    /// # Errors
    /// The one that ended the rows early.
    pub async fn collect(self) -> Result<JobResult, PipelinesError> {
        Ok(JobResult {
            schema: self.schema,
            batches: self.batches.try_collect().await?,
        })
    }
}

/// The answer whose body is `rows`. A failure after the first of them cuts the body off.
pub(crate) fn respond(rows: Rows) -> Response {
    let writer = match StreamWriter::try_new(Vec::new(), &rows.schema) {
        Ok(writer) => writer,
        Err(error) => return problem::respond(&internal(&error)),
    };
    let body = stream::unfold(Some((Box::new(writer), rows.batches)), |state| async {
        let (mut writer, mut batches) = state?;
        let piece = match batches.next().await {
            Some(Ok(rows)) => writer.write(&rows).map(|()| std::mem::take(writer.get_mut())),
            Some(Err(error)) => return Some((Err(cut_off(&error)), None)),
            None => {
                let end = writer.finish().and_then(|()| writer.into_inner());
                return Some((end.map(Bytes::from).map_err(|error| cut_off(&error)), None));
            }
        };
        Some(match piece {
            Ok(bytes) => (Ok(Bytes::from(bytes)), Some((writer, batches))),
            Err(error) => (Err(cut_off(&error)), None),
        })
    });
    (
        [(header::CONTENT_TYPE, HeaderValue::from_static(batch::MEDIA_TYPE))],
        Body::from_stream(body),
    )
        .into_response()
}

/// The rows of an answer whose body is on its way from `base`. Returns once their schema is here.
pub(crate) async fn receive(response: reqwest::Response, base: String) -> Result<Rows, PipelinesError> {
    let pieces = response.bytes_stream().map_err(|error| error.to_string());
    decode(pieces.boxed(), base).await
}

/// The rows of an Arrow IPC stream that comes in pieces from `base`, a name for messages. Returns once their schema is
/// here; the rest is taken as the rows are.
///
/// # Errors
/// When the pieces break off, or are no such stream.
pub async fn decode(pieces: BoxStream<'static, Result<Bytes, String>>, base: String) -> Result<Rows, PipelinesError> {
    let mut arriving = Arriving {
        base,
        pieces,
        decoder: StreamDecoder::new(),
        ready: VecDeque::new(),
        rows: 0,
    };
    let schema = arriving.schema().await?;
    let batches = stream::unfold(Some(arriving), |state| async {
        let mut arriving = state?;
        match arriving.next().await {
            Ok(Some(rows)) => Some((Ok(rows), Some(arriving))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(Rows {
        schema,
        batches: batches.boxed(),
    })
}

/// A body, decoded piece by piece.
struct Arriving {
    base: String,
    pieces: BoxStream<'static, Result<Bytes, String>>,
    decoder: StreamDecoder,
    ready: VecDeque<RecordBatch>,
    rows: u64,
}

impl Arriving {
    async fn schema(&mut self) -> Result<SchemaRef, PipelinesError> {
        while self.decoder.schema().is_none() {
            if !self.more().await? {
                return Err(self.odd("it holds no schema"));
            }
        }
        self.decoder.schema().ok_or_else(|| self.odd("it holds no schema"))
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>, PipelinesError> {
        loop {
            if let Some(rows) = self.ready.pop_front() {
                self.rows += rows.num_rows() as u64;
                return Ok(Some(rows));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// Decodes the next piece; false at the end.
    async fn more(&mut self) -> Result<bool, PipelinesError> {
        match self.pieces.next().await {
            Some(Ok(piece)) => self.decode(piece).map_err(|error| self.odd(error)).map(|()| true),
            Some(Err(error)) => Err(self.broken_off(&error)),
            None => match self.decoder.finish() {
                Ok(()) => Ok(false),
                Err(error) => Err(self.broken_off(&error.to_string())),
            },
        }
    }

    fn decode(&mut self, piece: Bytes) -> Result<(), ArrowError> {
        let mut rest = Buffer::from(piece);
        while !rest.is_empty() {
            // Outside bytes: the decoder panics on some corrupt streams, and is not used again after one.
            let decoder = AssertUnwindSafe(|| self.decoder.decode(&mut rest));
            let decoded = std::panic::catch_unwind(decoder)
                .unwrap_or_else(|_| Err(ArrowError::IpcError("the stream is corrupt".to_owned())));
            self.ready.extend(decoded?);
        }
        Ok(())
    }

    fn broken_off(&self, cause: &str) -> PipelinesError {
        let Self { base, rows, .. } = self;
        PipelinesError::Unavailable {
            detail: format!("the rows of {base} broke off after {rows} of them: {cause}"),
        }
    }

    fn odd(&self, cause: impl std::fmt::Display) -> PipelinesError {
        PipelinesError::Unavailable {
            detail: format!("{} answered outside its contract: {cause}", self.base),
        }
    }
}

fn internal(error: &ArrowError) -> PipelinesError {
    PipelinesError::Internal {
        detail: error.to_string(),
    }
}

/// The error that breaks a body off: the caller sees a cut connection, the log the reason.
pub(crate) fn cut_off(error: &(dyn std::error::Error + 'static)) -> std::io::Error {
    tracing::warn!(%error, "rows were cut off on their way to a caller");
    std::io::Error::other(error.to_string())
}
