//! A ledger of the first form becomes one of the present form, and keeps its jobs.

use crate::support::{Bench, config};
use crate::{Schema, execute, store};
use ondol_jobs::{PipelinesConfig, PipelinesService};
use ondol_pipelines_api::Pipelines;
use ondol_pipelines_api::wire::{JobQuery, JobState};
use ondol_runtime::{Health, Shutdown, SystemClock};
use std::sync::Arc;
use std::time::Duration;

/// As the first release made it, with a job in each state.
const FIRST: &str = "CREATE TABLE pipelines_jobs (id TEXT PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL,
    state TEXT NOT NULL, revision BIGINT NOT NULL, stage TEXT NOT NULL, rows_done BIGINT NOT NULL, rows_total BIGINT,
    created_at BIGINT NOT NULL, ended_at BIGINT, error TEXT, manifest TEXT);
    INSERT INTO pipelines_jobs VALUES
    ('01A', 'training-set', 'm', 'queued', 4, 'waiting', 0, NULL, 1000, NULL, NULL, NULL),
    ('01B', 'materialize', 's', 'running', 4, 'delivering', 7, 10, 1000, NULL, NULL, NULL),
    ('01C', 'materialize', 's', 'succeeded', 9, 'done', 10, 10, 1000, 4102444800000000, NULL, NULL),
    ('01D', 'materialize', 's', 'failed', 9, 'opening', 0, NULL, 1000, 4102444800000000, 'no such table', NULL)";

async fn keeps_its_jobs(config: PipelinesConfig) {
    execute(&config.ledger_url(), FIRST).await;
    // Twice: what is done is not done again.
    for _ in 0..2 {
        let config = PipelinesConfig {
            ledger_days: 100_000,
            ..config.clone()
        };
        let bench = Bench::open(store(), config).await;
        let job = async |id: &str| bench.service.job(id, None, Duration::ZERO).await.unwrap();
        for id in ["01A", "01B"] {
            let job = job(id).await;
            assert_eq!((job.state, job.revision), (JobState::Failed, 5));
            assert!(job.error.unwrap().contains("submit it again"));
            let refused = bench.service.retry(id, None).await.unwrap_err();
            assert!(refused.to_string().contains("holds no request"), "{refused}");
        }
        let done = job("01C").await;
        assert_eq!((done.state, done.rows_done, done.attempt), (JobState::Succeeded, 10, 0));
        assert_eq!(job("01D").await.error.unwrap(), "no such table");
        assert_eq!(bench.service.jobs(JobQuery::default()).await.unwrap().jobs.len(), 4);
        bench.close().await;
    }
}

#[tokio::test]
async fn an_embedded_ledger_of_the_first_form_keeps_its_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipelines.db");
    std::fs::write(&path, "").unwrap();
    keeps_its_jobs(config(folder.path())).await;
}

#[tokio::test]
async fn a_postgres_ledger_of_the_first_form_keeps_its_jobs() {
    let folder = tempfile::tempdir().unwrap();
    let schema = Schema::create().await;
    let ledger = Some(schema.ledger.clone());
    keeps_its_jobs(PipelinesConfig {
        ledger,
        ..config(folder.path())
    })
    .await;
    schema.drop().await;
}

/// Why a service does not open.
async fn refusal(config: PipelinesConfig) -> String {
    crate::support::lake::reach_s3();
    let (shutdown, health) = (Shutdown::new(), Health::new());
    let opened = PipelinesService::open(config, store(), Arc::new(SystemClock), &shutdown, &health).await;
    opened.err().unwrap().to_string()
}

#[tokio::test]
async fn an_embedded_ledger_has_one_process_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::open(store(), config(folder.path())).await;
    let refused = refusal(config(folder.path())).await;
    assert!(refused.contains("another process uses it"), "{refused}");
    bench.close().await;
}

#[tokio::test]
async fn a_ledger_of_a_newer_version_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    Bench::open(store(), config.clone()).await.close().await;
    execute(&config.ledger_url(), "UPDATE pipelines_schema SET version = 1000").await;
    let refused = refusal(config).await;
    assert!(refused.contains("version 1000"), "{refused}");
}
