//! The spines of jobs, an Arrow IPC stream each: written before a job is accepted, read when it starts, kept for a while
//! after its end so that it can be submitted again.
//!
//! They lie in a folder or an object store, so that every instance with the same ledger can start any job. An object
//! appears whole or not at all.

use crate::error::JobError;
use arrow::array::{Array, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt};
use ondol_pipelines_api::RowsDigest;
use ondol_pipelines_api::wire::{TrainingSetOptions, TrainingSetRequest};
use ondol_runtime::objects::{Location, ObjectStores};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const ENDING: &str = ".arrows";
/// What a column of a batch takes in a stream beside its values, about.
const COLUMN_BYTES: usize = 256;
/// What a schema takes, about.
const SCHEMA_BYTES: usize = 4_096;

/// A spine of at most so many bytes is at hand for the job that follows its submission at once, as most do.
const FRESH_BYTES: usize = 64 << 20;

/// Where spines are kept. Clones share the place.
#[derive(Clone)]
pub(crate) struct Spines {
    place: Location,
    store: Arc<dyn ObjectStore>,
    /// The job whose spine was kept last, and the spine, unless somebody has taken it.
    fresh: Arc<Mutex<Option<(String, Bytes)>>>,
}

/// A spine as it is kept.
pub(crate) struct Encoded {
    bytes: Vec<u8>,
    digest: String,
}

impl Encoded {
    /// The spine of `request`. CPU work in proportion to it, on two threads.
    pub(crate) fn of(request: &TrainingSetRequest) -> Result<Self, JobError> {
        let (bytes, digest) = std::thread::scope(|scope| {
            let digest = scope.spawn(|| digest(request));
            (encoded(&request.spine_schema, &request.spine), digest.join())
        });
        let panicked = |_| JobError::internal("digesting a spine panicked");
        Ok(Self {
            bytes: bytes?,
            digest: digest.map_err(panicked)??,
        })
    }

    /// Equal for equal spines.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// An Arrow IPC stream of `batches`, in memory that is neither much too large nor ever moved.
fn encoded(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<u8>, ArrowError> {
    let columns = batches.iter().flat_map(RecordBatch::columns);
    let bytes = columns.map(|column| column.to_data().get_slice_memory_size().unwrap_or(0) + COLUMN_BYTES);
    let mut writer = StreamWriter::try_new(Vec::with_capacity(bytes.sum::<usize>() + SCHEMA_BYTES), schema)?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    writer.into_inner()
}

/// The schema and batches of an Arrow IPC stream, which stay where they are in `bytes`. Arrow panics on some streams that
/// are corrupt; it holds no state that outlives the call.
fn decoded(bytes: Bytes) -> Result<(SchemaRef, Vec<RecordBatch>), ArrowError> {
    let broken = || ArrowError::IpcError("a kept spine is corrupt".to_owned());
    let decode = move || {
        let mut decoder = StreamDecoder::new();
        let (mut rest, mut batches) = (Buffer::from(bytes), Vec::new());
        while !rest.is_empty() {
            batches.extend(decoder.decode(&mut rest)?);
        }
        decoder.finish()?;
        Ok((decoder.schema().ok_or_else(broken)?, batches))
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode)).unwrap_or_else(|_| Err(broken()))
}

/// Not of the bytes: a schema's metadata has no order, and comes in another one every time.
fn digest(request: &TrainingSetRequest) -> Result<String, JobError> {
    let schema = &request.spine_schema;
    let fields = schema.fields().iter();
    let types: Vec<String> = fields.map(|field| field.data_type().to_string()).collect();
    let metadata: BTreeMap<_, _> = schema.metadata().iter().collect();
    let rows = RowsDigest::of(schema, &request.spine)?;
    Ok(format!("{rows} {types:?} {metadata:?}"))
}

impl Spines {
    /// At `place`; a folder is created. Blocks.
    pub(crate) fn open(objects: &ObjectStores, place: &str) -> Result<Self, JobError> {
        let opened = objects.at(place).and_then(Location::created);
        let place = opened.map_err(|cause| JobError::storage("can't keep spines", cause))?;
        Ok(Self {
            store: place.store(),
            place,
            fresh: Arc::default(),
        })
    }

    /// Keeps the spine of job `id`. When this returns it survives a crash.
    pub(crate) async fn put(&self, id: &str, spine: Encoded) -> Result<(), JobError> {
        let bytes = Bytes::from(spine.bytes);
        let written = self.store.put(&path(id), bytes.clone().into()).await;
        written.map_err(|cause| self.failed("writing a spine", &cause))?;
        if bytes.len() <= FRESH_BYTES {
            *self.fresh() = Some((id.to_owned(), bytes));
        }
        Ok(())
    }

    fn fresh(&self) -> MutexGuard<'_, Option<(String, Bytes)>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the spine of job `from` for job `to` as well. `false` when it is no longer there.
    pub(crate) async fn copy(&self, from: &str, to: &str) -> Result<bool, JobError> {
        match self.store.copy(&path(from), &path(to)).await {
            Ok(()) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(cause) => Err(self.failed("copying a spine", &cause)),
        }
    }

    /// The request of job `id`.
    pub(crate) async fn request(&self, id: &str, options: TrainingSetOptions) -> Result<TrainingSetRequest, JobError> {
        let fresh = self.fresh().take_if(|(fresh, _)| fresh == id);
        let bytes = match fresh {
            Some((_, bytes)) => bytes,
            None => {
                let read = async { self.store.get(&path(id)).await?.bytes().await };
                read.await.map_err(|cause| self.failed("reading a spine", &cause))?
            }
        };
        let decode = move || decoded(bytes);
        let (spine_schema, spine) = tokio::task::spawn_blocking(decode)
            .await
            .map_err(JobError::internal)??;
        Ok(TrainingSetRequest {
            options,
            spine_schema,
            spine,
        })
    }

    /// The jobs whose spines are here.
    pub(crate) async fn ids(&self) -> Result<Vec<String>, JobError> {
        let found: Vec<_> =
            (self.store.list(None).try_collect().await).map_err(|cause| self.failed("listing spines", &cause))?;
        let id = |path: &Path| path.filename()?.strip_suffix(ENDING).map(str::to_owned);
        Ok(found.iter().filter_map(|object| id(&object.location)).collect())
    }

    /// Removes the spine of job `id`, if it is there.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), JobError> {
        drop(self.fresh().take_if(|(fresh, _)| fresh == id));
        match self.store.delete(&path(id)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(cause) => Err(self.failed("removing a spine", &cause)),
        }
    }

    /// Removes what kills have left of spines at least `age` ago.
    pub(crate) async fn remove_unfinished(&self, age: Duration) -> Result<(), JobError> {
        let place = self.place.clone();
        let removed = tokio::task::spawn_blocking(move || place.remove_staged(age)).await;
        let removed = removed.map_err(JobError::internal)?;
        removed.map_err(|cause| JobError::storage("can't keep spines", cause))
    }

    fn failed(&self, doing: &str, cause: &Error) -> JobError {
        JobError::storage("can't keep spines", self.place.explain(doing, cause))
    }
}

fn path(id: &str) -> Path {
    Path::from(format!("{id}{ENDING}"))
}
