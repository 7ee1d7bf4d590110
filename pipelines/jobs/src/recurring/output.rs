//! Where a recurring training set is kept: a Parquet file on a disk or in a bucket, and its manifest beside it.
//!
//! Rows are encoded into a file of this machine, which becomes the output when it is whole; then the manifest is written.
//! So where there is a manifest, there are all the rows that it describes.

use crate::error::JobError;
use crate::progress::Progress;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use ondol_pipelines_api::Rows;
use ondol_pipelines_api::wire::Manifest;
use ondol_runtime::objects::{Location, ObjectStores};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::NamedTempFile;

/// Rows of a row group: what the writer holds in memory, encoded.
const ROW_GROUP_ROWS: usize = 262_144;

/// A place for rows, and one for their manifest.
pub(super) struct Output {
    rows: Location,
    manifest: Location,
}

impl Output {
    /// At `place`.
    pub(super) fn at(place: &str) -> Result<Self, JobError> {
        let objects = ObjectStores::of_process();
        let at = |place: &str| {
            objects
                .at(place)
                .map_err(|cause| JobError::Refused(format!("`output`: {cause}")))
        };
        Ok(Self {
            rows: at(place)?,
            manifest: at(&format!("{place}.manifest.json"))?,
        })
    }

    /// The manifest's place.
    pub(super) fn manifest(&self) -> String {
        self.manifest.to_string()
    }

    /// Writes both, in place of those that were there. `scratch` is a folder of this machine.
    pub(super) async fn write(
        &self,
        mut rows: Rows,
        manifest: &Manifest,
        scratch: &Path,
        progress: &Progress,
    ) -> Result<(), JobError> {
        let local = self.rows.local_path();
        let folder = local.as_deref().and_then(Path::parent).unwrap_or(scratch).to_owned();
        let schema = rows.schema.clone();
        let mut writer = blocking(move || {
            std::fs::create_dir_all(&folder)?;
            // As other files are: a temporary one is its owner's alone otherwise, and would stay so under its name.
            let permissions = std::fs::Permissions::from_mode(0o644);
            let file = tempfile::Builder::new().permissions(permissions).tempfile_in(&folder)?;
            Ok(ArrowWriter::try_new(file, schema, Some(properties()))?)
        })
        .await?;
        while let Some(batch) = rows.batches.try_next().await.map_err(JobError::internal)? {
            progress.checkpoint()?;
            let count = batch.num_rows() as u64;
            writer = blocking(move || writer.write(&batch).map(|()| writer).map_err(Into::into)).await?;
            progress.add(count);
        }
        let file = blocking(move || {
            let file = writer.into_inner()?;
            file.as_file().sync_all()?;
            Ok(file)
        })
        .await?;
        // Whoever lost the job meanwhile shows nothing of it.
        progress.checkpoint()?;
        match local {
            Some(path) => blocking(move || show(file, &path)).await?,
            None => self.rows.upload(file.path()).await.map_err(failed)?,
        }
        let text = serde_json::to_vec_pretty(manifest).map_err(JobError::internal)?;
        let written = self.manifest.root().put(self.manifest.path(), text.into()).await;
        written
            .map(drop)
            .map_err(|cause| failed(self.manifest.explain("writing", &cause)))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows.fmt(f)
    }
}

fn failed(cause: impl fmt::Display) -> JobError {
    JobError::storage("can't keep the training set", cause)
}

/// Gives a file its name. When this returns both survive a crash.
fn show(file: NamedTempFile, path: &Path) -> Result<(), Fault> {
    file.persist(path).map_err(|error| error.error)?;
    if let Some(folder) = path.parent() {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// What can go wrong with a file that is being written.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    File(#[from] std::io::Error),
    #[error(transparent)]
    Parquet(#[from] parquet::errors::ParquetError),
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, JobError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(JobError::internal)?;
    done.map_err(failed)
}

/// The same bytes for the same rows: no file says when it was written.
fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_created_by("ondol".to_owned())
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .build()
}
