//! Jobs outlive restarts, stop when asked, and wait in a bounded queue.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod idempotency;
mod instances;
#[path = "../ledger/mod.rs"]
mod ledger;
mod recurring;
mod schedules;
#[path = "../support/mod.rs"]
mod support;
mod upgrade;

use arrow::array::RecordBatch;
use ledger::{Schema, execute};
use ondol_jobs::{PipelinesConfig, PipelinesService};
use ondol_pipelines_api::wire::{AsOf, CompactRequest, Job, JobQuery, JobRequest, JobState, VacuumRequest};
use ondol_pipelines_api::{Pipelines, PipelinesError};
use ondol_runtime::{Health, ManualClock, Shutdown};
use ondol_vocabulary::{EventTime, ViewState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::oracle::DEFINITIONS;
use support::{Bench, FakeStore, batch, config, ended, floats, moments, request, strings};

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

#[tokio::test]
async fn a_shutdown_puts_jobs_back_and_the_next_start_ends_them() {
    let folder = tempfile::tempdir().unwrap();
    let held = store();
    held.held.store(true, Ordering::SeqCst);
    let bench = Bench::open(held, config(folder.path())).await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let submitted = bench.service.training_set(request("m", AsOf::KnownAt, spine())).await;
        jobs.push(submitted.unwrap().id);
    }
    let first = bench.started(&jobs[0]).await;
    assert_eq!((first.state, first.attempt), (JobState::Running, 1));
    bench.close().await;

    let bench = Bench::open(store(), config(folder.path())).await;
    for (id, attempt) in jobs.iter().zip([2, 1, 1]) {
        let job = bench.ended(id).await;
        assert_eq!(
            (job.state, job.attempt, job.error),
            (JobState::Succeeded, attempt, None)
        );
        assert_eq!(bench.service.result(id).await.unwrap().batches[0].num_rows(), 1);
    }
    bench.close().await;
}

#[tokio::test]
async fn a_job_is_submitted_again_with_its_spine() {
    let folder = tempfile::tempdir().unwrap();
    let store = store();
    store.held.store(true, Ordering::SeqCst);
    let bench = Bench::open(store.clone(), config(folder.path())).await;
    let job = bench
        .service
        .training_set(request("m", AsOf::KnownAt, spine()))
        .await
        .unwrap();
    let early = bench.service.retry(&job.id, None).await.unwrap_err();
    assert!(early.to_string().contains("it has not ended"), "{early}");
    bench.service.cancel(&job.id).await.unwrap();
    assert_eq!(bench.ended(&job.id).await.state, JobState::Cancelled);
    store.held.store(false, Ordering::SeqCst);
    let again = bench.service.retry(&job.id, None).await.unwrap();
    assert_eq!(
        (again.retry_of.as_deref(), again.state),
        (Some(job.id.as_str()), JobState::Queued)
    );
    let again = bench.ended(&again.id).await;
    assert_eq!((again.state, again.error.clone()), (JobState::Succeeded, None));
    assert_eq!(again.manifest.unwrap().rows, 1);
    let third = bench.service.retry(&again.id, None).await.unwrap();
    assert_eq!(third.retry_of, Some(again.id));
    bench.ended(&third.id).await;
    bench.close().await;
}

#[tokio::test]
async fn jobs_are_listed_by_what_they_are_page_by_page() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::open(store(), config(folder.path())).await;
    let mut all = Vec::new();
    for number in 0..5 {
        let job = match number % 2 {
            0 => bench.service.submit(compact(), None).await.unwrap(),
            _ => bench
                .service
                .training_set(request("m", AsOf::KnownAt, spine()))
                .await
                .unwrap(),
        };
        all.insert(0, bench.ended(&job.id).await);
    }
    let list = async |query: JobQuery| bench.service.jobs(query).await.unwrap();
    let default = JobQuery::default;
    assert_eq!(list(default()).await.jobs, all);
    let compactions: Vec<Job> = all.iter().filter(|job| job.kind == "compact").cloned().collect();
    let kind = Some("compact".to_owned());
    assert_eq!(list(JobQuery { kind, ..default() }).await.jobs, compactions);
    assert_eq!(compactions[0].outcome.as_ref().unwrap()["files_removed"], 9);
    let subject = Some("m".to_owned());
    assert_eq!(list(JobQuery { subject, ..default() }).await.jobs.len(), 2);
    let state = Some(JobState::Failed);
    assert_eq!(list(JobQuery { state, ..default() }).await.jobs, []);
    let mut paged = Vec::new();
    let mut query = JobQuery { limit: 2, ..default() };
    loop {
        let page = list(query.clone()).await;
        paged.push(page.jobs.len());
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(paged, [2, 2, 1]);
    bench.close().await;
}

#[tokio::test]
async fn a_job_waits_for_memory_and_its_kind_for_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let store = store();
    store.held.store(true, Ordering::SeqCst);
    let config = PipelinesConfig {
        concurrent_jobs: 8,
        concurrent_of_kind: [("compact".to_owned(), 1)].into(),
        memory_mib: 1_500,
        ..config(folder.path())
    };
    let bench = Bench::open(store.clone(), config).await;
    let submit = async || {
        let submitted = bench.service.training_set(request("m", AsOf::KnownAt, spine())).await;
        submitted.unwrap().id
    };
    let compaction = async || bench.service.submit(compact(), None).await.unwrap().id;
    // A training set takes 1,025 MiB, a compaction 16: of each, one at a time.
    let ids = [compaction().await, compaction().await, submit().await, submit().await];
    bench.started(&ids[0]).await;
    bench.started(&ids[2]).await;
    for id in [&ids[1], &ids[3]] {
        let job = bench.service.job(id, None, Duration::from_millis(300)).await.unwrap();
        assert_eq!(job.state, JobState::Queued);
    }
    store.held.store(false, Ordering::SeqCst);
    for id in &ids {
        assert_eq!(bench.ended(id).await.state, JobState::Succeeded);
    }
    bench.close().await;
}

#[tokio::test]
async fn progress_has_a_rate_and_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::open(store(), config(folder.path())).await;
    let job = bench
        .service
        .training_set(request("m", AsOf::KnownAt, spine()))
        .await
        .unwrap();
    let ended = bench.ended(&job.id).await;
    assert!(ended.started_at >= Some(job.created_at) && ended.ended_at >= ended.started_at);
    assert_eq!((ended.rows_per_second, ended.eta_seconds), (None, None));
    assert!(ended.revision > job.revision);
    bench.close().await;
}

fn compact() -> JobRequest {
    JobRequest::Compact(CompactRequest {
        source: "events".to_owned(),
    })
}

#[tokio::test]
async fn a_request_for_what_is_not_there_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::open(store(), config(folder.path())).await;
    let odd = JobRequest::Vacuum(VacuumRequest {
        source: "event".to_owned(),
        ..VacuumRequest::default()
    });
    let refused = bench.service.submit(odd, None).await.unwrap_err();
    assert_eq!(refused.to_string(), "unknown source `event`: did you mean `events`?");
    bench.close().await;
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
    bench.started(&works.id).await;
    let waits = submit().await.unwrap();
    for _ in 0..2 {
        let refused = submit().await.unwrap_err();
        assert!(matches!(refused, PipelinesError::Overloaded { .. }), "{refused}");
    }
    let spines = std::fs::read_dir(folder.path().join("spines")).unwrap().count();
    assert_eq!(spines, 2, "what was refused leaves nothing");
    assert_eq!(
        bench.service.cancel(&waits.id).await.unwrap().state,
        JobState::Cancelled
    );
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
    assert_eq!(bench.service.retry("nope", None).await, Err(unknown.clone()));
    assert_eq!(bench.service.result("nope").await, Err(unknown));
    bench.close().await;
}

#[tokio::test]
async fn results_are_removed_after_their_time_and_jobs_after_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::at(EventTime::parse("2026-01-01T00:00:00Z").unwrap().micros());
    let open = |shutdown: Shutdown| {
        support::lake::reach_s3();
        let (clock, config) = (Arc::new(clock.clone()), config(folder.path()));
        async move {
            PipelinesService::open(config, store(), clock, &shutdown, &Health::new())
                .await
                .unwrap()
        }
    };
    let shutdown = Shutdown::new();
    let service = open(shutdown.clone()).await;
    let job = service
        .training_set(request("m", AsOf::KnownAt, spine()))
        .await
        .unwrap();
    let job = ended(&service, &job.id).await;
    assert!(service.result(&job.id).await.is_ok());
    assert!(shutdown.drain(Duration::from_secs(30)).await);
    drop(service);
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
