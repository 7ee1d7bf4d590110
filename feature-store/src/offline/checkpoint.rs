//! Checkpoints: the state of a table at one version, so that readers need not read its log from the beginning.

use deltalake_core::logstore::LogStoreRef;
use deltalake_core::{DeltaTable, checkpoints};

/// Writes the checkpoint of `version`. Readers do without; a failure costs them time until the next one.
pub(super) async fn write(source: &str, log_store: LogStoreRef, version: u64) {
    let started = std::time::Instant::now();
    let mut table = DeltaTable::new(log_store);
    let written = async {
        table.load_version(version).await?;
        checkpoints::create_checkpoint(&table, None).await
    };
    match written.await {
        Ok(()) => metrics::histogram!("ondol_log_checkpoint_seconds", "source" => source.to_owned())
            .record(started.elapsed().as_secs_f64()),
        Err(error) => {
            metrics::counter!("ondol_log_checkpoint_failures_total", "source" => source.to_owned()).increment(1);
            tracing::warn!(source, version, %error, "a checkpoint could not be written: the next one comes later");
        }
    }
}
