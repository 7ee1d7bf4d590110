//! Jobs outlive restarts, stop when asked, and wait in a bounded queue.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod support;

use arrow::array::RecordBatch;
use ondol_jobs::{PipelinesConfig, PipelinesService};
use ondol_pipelines_api::wire::{AsOf, Job, JobState};
use ondol_pipelines_api::{Pipelines, PipelinesError};
use ondol_runtime::{Health, ManualClock, Shutdown};
use ondol_vocabulary::{EventTime, ViewState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::oracle::DEFINITIONS;
use support::{Bench, FakeStore, batch, config, floats, moments, request, strings};

fn spine() -> RecordBatch {
    batch(vec![
        ("k", strings([Some("a")])),
        ("amount", floats([None])),
        ("time", moments([1])),
    ])
}

fn store() -> Arc<FakeStore> {
    Arc::new(FakeStore::with(DEFINITIONS, ViewState::Active))
}

/// Leaves `job` in the ledger of `folder` as a crash would.
async fn leave(url: &str, job: &Job, state: &str) {
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(url).await.unwrap();
    let insert = sqlx::query(
        "INSERT INTO pipelines_jobs (id, kind, subject, state, revision, stage, rows_done, created_at)
         VALUES ($1, 'training-set', 'm', $2, 4, 'reading', 10, $3)",
    );
    insert
        .bind(job.id.clone())
        .bind(state.to_owned())
        .bind(job.created_at.micros())
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
}

async fn restart_keeps_jobs_and_fails_the_interrupted(config: PipelinesConfig) {
    let bench = Bench::open(store(), config.clone()).await;
    let (finished, rows) = bench.build(request("m", AsOf::KnownAt, spine())).await;
    bench.close().await;
    for (id, state) in [("crashed-running", "running"), ("crashed-queued", "queued")] {
        leave(
            &config.ledger_url(),
            &Job {
                id: id.to_owned(),
                ..finished.clone()
            },
            state,
        )
        .await;
    }
    let bench = Bench::open(store(), config).await;
    for id in ["crashed-running", "crashed-queued"] {
        let job = bench.service.job(id, None, Duration::ZERO).await.unwrap();
        assert_eq!(job.state, JobState::Failed);
        assert_eq!(
            job.error.unwrap(),
            "interrupted by a restart of the pipelines: start it again"
        );
        assert!(job.ended_at.is_some() && job.revision == 5);
    }
    assert_eq!(
        bench.service.job(&finished.id, None, Duration::ZERO).await.unwrap(),
        finished
    );
    assert_eq!(bench.service.result(&finished.id).await.unwrap().batches, [rows]);
    assert_eq!(bench.service.jobs().await.unwrap().len(), 3);
    bench.close().await;
}

#[tokio::test]
async fn a_restart_keeps_jobs_and_fails_the_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    restart_keeps_jobs_and_fails_the_interrupted(config(folder.path())).await;
}

#[tokio::test]
async fn a_restart_on_postgres_keeps_jobs_and_fails_the_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let url = ondol_testkit::services::postgres();
    let schema = ondol_testkit::unique_name("pipelines");
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(&url).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("CREATE SCHEMA \"{schema}\""));
    sqlx::query(create).execute(&pool).await.unwrap();
    let joint = if url.contains('?') { '&' } else { '?' };
    let ledger = Some(format!("{url}{joint}options=-c%20search_path%3D{schema}"));
    restart_keeps_jobs_and_fails_the_interrupted(PipelinesConfig {
        ledger,
        ..config(folder.path())
    })
    .await;
    let drop = sqlx::AssertSqlSafe(format!("DROP SCHEMA \"{schema}\" CASCADE"));
    sqlx::query(drop).execute(&pool).await.unwrap();
}

#[tokio::test]
async fn a_job_that_waits_or_works_can_be_cancelled_and_the_queue_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let store = store();
    store.held.store(true, Ordering::SeqCst);
    let config = PipelinesConfig {
        queued_jobs: 1,
        ..config(folder.path())
    };
    let bench = Bench::open(store, config).await;
    let submit = || bench.service.training_set(request("m", AsOf::KnownAt, spine()));
    let works = submit().await.unwrap();
    let mut seen = works.clone();
    while seen.state == JobState::Queued {
        seen = bench
            .service
            .job(&works.id, Some(seen.revision), Duration::from_secs(60))
            .await
            .unwrap();
    }
    // The dispatcher holds one more while it waits for a place.
    let mut waits = Vec::new();
    let refused = loop {
        match submit().await {
            Ok(job) => waits.push(job),
            Err(error) => break error,
        }
        assert!(waits.len() <= 2);
        tokio::task::yield_now().await;
    };
    assert!(matches!(refused, PipelinesError::Overloaded { .. }), "{refused}");
    for job in &waits {
        assert_eq!(bench.service.cancel(&job.id).await.unwrap().state, JobState::Cancelled);
    }
    bench.service.cancel(&works.id).await.unwrap();
    assert_eq!(bench.ended(&works.id).await.state, JobState::Cancelled);
    let none = bench.service.result(&works.id).await;
    assert!(matches!(none, Err(PipelinesError::NoResult { .. })), "{none:?}");
    // Cancelling what has ended changes nothing.
    assert_eq!(
        bench.service.cancel(&works.id).await.unwrap().state,
        JobState::Cancelled
    );
    bench.close().await;
}

#[tokio::test]
async fn unknown_jobs_are_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::open(store(), config(folder.path())).await;
    let unknown = PipelinesError::Unknown {
        kind: "job".to_owned(),
        name: "nope".to_owned(),
        suggestion: None,
    };
    assert_eq!(
        bench.service.job("nope", None, Duration::ZERO).await,
        Err(unknown.clone())
    );
    assert_eq!(bench.service.cancel("nope").await, Err(unknown.clone()));
    assert_eq!(bench.service.result("nope").await, Err(unknown));
    bench.close().await;
}

#[tokio::test]
async fn results_are_removed_after_their_time_and_jobs_after_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(EventTime::parse("2026-01-01T00:00:00Z").unwrap().micros());
    let open = |shutdown: Shutdown| {
        let (clock, config) = (Arc::new(clock.clone()), config(folder.path()));
        async move {
            PipelinesService::open(config, store(), clock, &shutdown, &Health::new())
                .await
                .unwrap()
        }
    };
    let shutdown = Shutdown::new();
    let service = open(shutdown.clone()).await;
    let mut job = service
        .training_set(request("m", AsOf::KnownAt, spine()))
        .await
        .unwrap();
    while !job.state.is_final() {
        job = service
            .job(&job.id, Some(job.revision), Duration::from_secs(60))
            .await
            .unwrap();
    }
    assert!(service.result(&job.id).await.is_ok());
    assert!(shutdown.drain(Duration::from_secs(30)).await);
    // Sweeping starts with the service.
    for (days, result, known) in [(0, true, true), (1, false, true), (31, false, false)] {
        clock.set(job.ended_at.unwrap().micros() + days * 86_400_000_000);
        let shutdown = Shutdown::new();
        let service = open(shutdown.clone()).await;
        let gone = async || {
            while service.result(&job.id).await.is_ok() != result
                || service.job(&job.id, None, Duration::ZERO).await.is_ok() != known
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), gone()).await.unwrap();
        assert!(shutdown.drain(Duration::from_secs(30)).await);
    }
}
