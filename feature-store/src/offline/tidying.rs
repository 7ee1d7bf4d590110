//! Compaction of a source's table: planned under the table's lock, merged without it, committed under it.

use super::compaction::{self, CompactionConfig, Extent, Merging};
use super::failure::{internal, unavailable};
use super::layout::file_schema;
use super::merge::Reader;
use super::source_log::SourceLog;
use super::{EventLog, table::LogTable};
use deltalake_core::protocol::DeltaOperation;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::maintenance::Compaction;
use std::sync::Arc;
use std::time::Instant;

impl EventLog {
    /// Whether a compaction of `source` has something to do, as far as this process knows; without I/O. A table that was
    /// not opened yet may.
    pub async fn compaction_due(&self, source: &str, config: CompactionConfig) -> bool {
        match self.opened(source) {
            Some(log) => !planned(&*log.table.lock().await, config, Extent::Due).is_empty(),
            None => true,
        }
    }

    /// Merges small files of `source`'s table into large ones. Other writers go on meanwhile. Dropped halfway it leaves
    /// finished merges in place, and a file that nothing refers to.
    ///
    /// One at a time in this process: of two replicas that merge the same files one does it for nothing.
    pub async fn compact(
        &self,
        source: &str,
        config: CompactionConfig,
        extent: Extent,
    ) -> Result<Compaction, FeatureStoreError> {
        let log = self.log(source).await?;
        let _alone = log.tidying.lock().await;
        let mut done = Compaction {
            source: source.to_owned(),
            ..Compaction::default()
        };
        let (reader, merges) = {
            let mut table = log.table.lock().await;
            table.refresh().await?;
            log.catch_up(source, &table)?;
            let Some(state) = table.state() else { return Ok(done) };
            done.files_before = state.files().len() as u64;
            let schema = file_schema(state.schema()).map_err(|detail| internal(source, detail))?;
            let reader = Reader {
                store: table.store(),
                schema: Arc::new(schema.as_ref().clone()),
            };
            (reader, planned(&table, config, extent))
        };
        for merging in merges {
            self.merge(source, &log, &reader, &merging, config, &mut done).await?;
        }
        let table = log.table.lock().await;
        if let Some(state) = table.state() {
            done.files_after = state.files().len() as u64;
            done.version = i64::try_from(state.version()).ok();
            metrics::gauge!("ondol_log_files", "source" => source.to_owned()).set(done.files_after as f64);
        }
        drop(table);
        self.checkpoint(source, &log).await;
        Ok(done)
    }

    async fn merge(
        &self,
        source: &str,
        log: &SourceLog,
        reader: &Reader,
        merging: &Merging,
        config: CompactionConfig,
        done: &mut Compaction,
    ) -> Result<(), FeatureStoreError> {
        let started = Instant::now();
        let merged = on_a_blocking_thread(reader.clone(), merging).await;
        let merged = merged.map_err(|why| unavailable(source, "merging files of", why))?;
        let (bytes, rows) = (
            merged.bytes.len() as u64,
            merging.files.iter().filter_map(|file| file.rows).sum::<u64>(),
        );
        reader
            .store
            .put(&Path::from(merged.path.as_str()), merged.bytes.into())
            .await
            .map_err(|error| unavailable(source, "writing a file of", error))?;
        let operation = DeltaOperation::Optimize {
            predicate: None,
            target_size: i64::try_from(config.target_bytes).unwrap_or(i64::MAX),
        };
        let mut table = log.table.lock().await;
        let replaced = table.replace(&merging.files, vec![merged.add], &operation, false).await;
        log.catch_up(source, &table)?;
        drop(table);
        if !replaced? {
            tracing::info!(
                source,
                date = merging.date,
                "a merge was for nothing: somebody else has taken its files"
            );
            return Ok(());
        }
        done.commits += 1;
        done.files_removed += merging.files.len() as u64;
        done.files_added += 1;
        done.bytes_removed += merging.files.iter().map(|file| file.size).sum::<u64>();
        done.bytes_added += bytes;
        done.rows += rows;
        metrics::counter!("ondol_log_files_merged_total", "source" => source.to_owned())
            .increment(merging.files.len() as u64);
        metrics::counter!("ondol_log_bytes_merged_total", "source" => source.to_owned()).increment(bytes);
        metrics::histogram!("ondol_log_merge_seconds", "source" => source.to_owned())
            .record(started.elapsed().as_secs_f64());
        tracing::debug!(
            source,
            date = merging.date,
            files = merging.files.len(),
            rows,
            bytes,
            "files merged"
        );
        Ok(())
    }
}

fn planned(table: &LogTable, config: CompactionConfig, extent: Extent) -> Vec<Merging> {
    let now_ms = chrono::Utc::now().timestamp_millis();
    let files = table
        .state()
        .map(|state| compaction::plan(state.files(), config, extent, now_ms));
    files.unwrap_or_default()
}

/// Decoding and encoding are most of the work.
async fn on_a_blocking_thread(reader: Reader, merging: &Merging) -> Result<super::data_file::DataFile, String> {
    let runtime = tokio::runtime::Handle::current();
    let merging = Merging {
        date: merging.date.clone(),
        files: merging.files.clone(),
    };
    let merged = tokio::task::spawn_blocking(move || runtime.block_on(compaction::merge(reader, &merging)));
    merged.await.map_err(|error| error.to_string())?
}
