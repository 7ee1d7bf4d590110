//! The same submission twice is one job.

use crate::support::{Bench, batch, config, floats, moments, request, strings};
use crate::{compact, execute, spine, store};
use ondol_pipelines_api::wire::{AsOf, IdempotencyKey, JobQuery, JobRequest, JobState, VacuumRequest};
use ondol_pipelines_api::{Pipelines, PipelinesError};
use std::sync::atomic::Ordering;

fn key(text: &str) -> Option<IdempotencyKey> {
    Some(text.parse().unwrap())
}

fn reused(outcome: Result<ondol_pipelines_api::wire::Job, PipelinesError>, job: &str) {
    match outcome {
        Err(PipelinesError::KeyReused { job: first, .. }) => assert_eq!(first, job),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_key_names_one_job_through_restarts_and_a_full_queue() {
    let folder = tempfile::tempdir().unwrap();
    let store = store();
    store.held.store(true, Ordering::SeqCst);
    let config = ondol_jobs::PipelinesConfig {
        queued_jobs: 1,
        ..config(folder.path())
    };
    let bench = Bench::open(store.clone(), config.clone()).await;
    // Metadata of a schema has no order: what is sent again comes in another one.
    let mut asked = request("m", AsOf::KnownAt, spine());
    let schema = asked
        .spine_schema
        .as_ref()
        .clone()
        .with_metadata((0..20).map(|number| (format!("k{number}"), "v".to_owned())).collect());
    asked.spine_schema = std::sync::Arc::new(schema);
    asked.spine = vec![asked.spine[0].clone().with_schema(asked.spine_schema.clone()).unwrap()];
    let submit = async |bench: &Bench| bench.service.submit_training_set(asked.clone(), key("k")).await;
    let first = submit(&bench).await.unwrap();
    bench.started(&first.id).await;
    assert_eq!(submit(&bench).await.unwrap().id, first.id);
    let second = bench.service.submit(compact(), key("other")).await.unwrap();
    // The queue is full now; what was accepted still answers.
    assert_eq!(submit(&bench).await.unwrap().id, first.id);
    assert_eq!(
        bench.service.submit(compact(), key("other")).await.unwrap().id,
        second.id
    );
    let full = bench.service.submit(compact(), key("new")).await.unwrap_err();
    assert!(matches!(full, PipelinesError::Overloaded { .. }), "{full}");
    bench.close().await;

    store.held.store(false, Ordering::SeqCst);
    let bench = Bench::open(store, config).await;
    assert_eq!(bench.ended(&first.id).await.state, JobState::Succeeded);
    let again = submit(&bench).await.unwrap();
    assert_eq!((again.id, again.state), (first.id.clone(), JobState::Succeeded));
    let jobs = bench.service.jobs(JobQuery::default()).await.unwrap().jobs;
    assert_eq!(jobs.len(), 2);
    let spines = std::fs::read_dir(folder.path().join("spines")).unwrap().count();
    assert_eq!(spines, 1, "a repeated submission leaves no spine");
    bench.close().await;
}

#[tokio::test]
async fn a_key_of_another_request_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::open(store(), config(folder.path())).await;
    let first = bench.service.submit(compact(), key("k")).await.unwrap();
    let vacuum = |dry_run| {
        JobRequest::Vacuum(VacuumRequest {
            source: "events".to_owned(),
            dry_run,
            ..VacuumRequest::default()
        })
    };
    reused(bench.service.submit(vacuum(true), key("k")).await, &first.id);
    let set = request("m", AsOf::KnownAt, spine());
    reused(bench.service.submit_training_set(set, key("k")).await, &first.id);
    bench.ended(&first.id).await;
    reused(bench.service.retry(&first.id, key("k")).await, &first.id);

    let retried = bench.service.retry(&first.id, key("r")).await.unwrap();
    assert_eq!(bench.service.retry(&first.id, key("r")).await.unwrap().id, retried.id);
    let dry = bench.service.submit(vacuum(true), key("v")).await.unwrap();
    reused(bench.service.submit(vacuum(false), key("v")).await, &dry.id);

    // Any other value, type, column or row of a spine is another request.
    let first = bench
        .service
        .submit_training_set(request("m", AsOf::KnownAt, spine()), key("s"))
        .await
        .unwrap();
    let other = batch(vec![
        ("k", strings([Some("b")])),
        ("amount", floats([None])),
        ("time", moments([1])),
    ]);
    for other in [
        request("m", AsOf::KnownAt, other),
        request("m", AsOf::EventTime, spine()),
    ] {
        reused(bench.service.submit_training_set(other, key("s")).await, &first.id);
    }
    bench.close().await;
}

#[tokio::test]
async fn a_key_whose_time_is_over_may_name_something_else() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let bench = Bench::open(store(), config.clone()).await;
    let first = bench.service.submit(compact(), key("k")).await.unwrap();
    bench.ended(&first.id).await;
    bench.close().await;
    execute(&config.ledger_url(), "UPDATE pipelines_keys SET expires_at = 0").await;
    let bench = Bench::open(store(), config).await;
    let second = bench.service.submit(compact(), key("k")).await.unwrap();
    assert_ne!(second.id, first.id);
    assert_eq!(bench.service.submit(compact(), key("k")).await.unwrap().id, second.id);
    bench.close().await;
}
