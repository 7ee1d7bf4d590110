//! Training sets on a cluster: a scheduler and two executors as processes.

use crate::joins::{assert_same, pipelines, training_set};
use crate::lake::{events, lake, spine};
use crate::processes::Cluster;
use crate::support::{ended, request};
use ballista_core::serde::protobuf::GetJobStatusParams;
use ballista_core::serde::protobuf::job_status::Status as Standing;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ondol_pipelines_api::Pipelines;
use ondol_pipelines_api::wire::{AsOf, JobState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_training_set_on_a_cluster_is_the_embedded_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &events(5_000, 40)).await;
    let cluster = Cluster::start(folder.path(), 2);
    for as_of in [AsOf::KnownAt, AsOf::EventTime] {
        let embedded = training_set(folder.path(), store.clone(), None, spine(1_000, 40), as_of)
            .await
            .unwrap();
        let engine = Some(cluster.engine(folder.path(), 6));
        let joined = training_set(folder.path(), store.clone(), engine, spine(1_000, 40), as_of)
            .await
            .unwrap();
        assert_same(&embedded, &joined);
    }
    let left = std::fs::read_dir(folder.path().join("exchange")).unwrap();
    assert_eq!(left.count(), 0, "spines are removed from the exchange folder");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_of_little_memory_puts_events_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &events(200_000, 400)).await;
    let embedded = training_set(folder.path(), store.clone(), None, spine(1_000, 400), AsOf::KnownAt)
        .await
        .unwrap();
    let mut cluster = Cluster::start(folder.path(), 0);
    cluster.add_executor(folder.path(), 0, 4);
    let engine = Some(cluster.engine(folder.path(), 1));
    let joined = training_set(folder.path(), store, engine, spine(1_000, 400), AsOf::KnownAt)
        .await
        .unwrap();
    assert_same(&embedded, &joined);
    let log = std::fs::read_to_string(folder.path().join("executor-0.log")).unwrap();
    assert!(log.contains("went to disk"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_killed_in_the_middle_does_not_lose_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &events(150_000, 400)).await;
    let embedded = training_set(folder.path(), store.clone(), None, spine(20_000, 400), AsOf::KnownAt)
        .await
        .unwrap();
    let mut cluster = Cluster::start(folder.path(), 2);
    let engine = Some(cluster.engine(folder.path(), 12));
    let path = folder.path().to_owned();
    let running = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(training_set(&path, store, engine, spine(20_000, 400), AsOf::KnownAt))
    });
    // It is in the middle once both have written something for others.
    let wrote = |number: usize| files(&folder.path().join(format!("executor-{number}"))) > 0;
    let deadline = Instant::now() + Duration::from_secs(240);
    while !(wrote(0) && wrote(1)) {
        assert!(Instant::now() < deadline, "the executors wrote nothing");
        assert!(!running.is_finished(), "it was over before both had worked");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    cluster.executor(0).kill();
    let joined = running.join().unwrap().unwrap();
    assert_same(&embedded, &joined);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_cancelled_or_shut_down_takes_its_plan_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &events(150_000, 400)).await;
    let cluster = Cluster::start(folder.path(), 1);
    let mut known: Vec<String> = Vec::new();
    for shuts_down in [false, true] {
        let engine = Some(cluster.engine(folder.path(), 12));
        let (service, shutdown) = pipelines(folder.path(), store.clone(), engine).await;
        let request = request("m", AsOf::KnownAt, spine(20_000, 400));
        let job = service.training_set(request).await.unwrap();
        // An executor keeps what it writes by plan, beside what it spills.
        let deadline = Instant::now() + Duration::from_secs(240);
        let plan = loop {
            let plans = std::fs::read_dir(folder.path().join("executor-0")).unwrap();
            let mut plans = plans.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            if let Some(plan) = plans.find(|plan| !plan.starts_with("datafusion-") && !known.contains(plan)) {
                break plan;
            }
            assert!(Instant::now() < deadline, "the executor wrote nothing");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        let found = standing(&cluster, &plan).await;
        assert!(matches!(found, Some(Standing::Running(_))), "{found:?}");
        if shuts_down {
            assert!(shutdown.drain(Duration::from_secs(60)).await);
        } else {
            service.cancel(&job.id).await.unwrap();
            assert_eq!(ended(&service, &job.id).await.state, JobState::Cancelled);
            assert!(shutdown.drain(Duration::from_secs(60)).await);
        }
        // The scheduler has heard of it by then, and acts on it in its own time.
        let standing = loop {
            match standing(&cluster, &plan).await {
                Some(Standing::Running(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                standing => break standing,
            }
        };
        match standing {
            Some(Standing::Failed(failure)) => assert!(failure.error.contains("Cancelled"), "{}", failure.error),
            other => panic!("the plan is {other:?}"),
        }
        known.push(plan);
        std::fs::remove_dir_all(folder.path().join("pipelines-true")).unwrap();
    }
    let left = std::fs::read_dir(folder.path().join("exchange")).unwrap();
    assert_eq!(left.count(), 0, "spines are removed from the exchange folder");
    // And its executor is free for others.
    let engine = Some(cluster.engine(folder.path(), 2));
    let rows = training_set(folder.path(), store, engine, spine(50, 5), AsOf::KnownAt)
        .await
        .unwrap();
    assert_eq!(rows.num_rows(), 50);
}

/// What the scheduler says of `plan`.
async fn standing(cluster: &Cluster, plan: &str) -> Option<Standing> {
    let mut scheduler = SchedulerGrpcClient::connect(cluster.url()).await.unwrap();
    let request = GetJobStatusParams {
        job_id: plan.to_owned(),
    };
    let answer = scheduler.get_job_status(request).await.unwrap().into_inner();
    answer.status.and_then(|status| status.status)
}

fn files(folder: &Path) -> usize {
    let mut found = 0;
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) => found += 1,
                Err(_) => {}
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_scheduler_the_job_says_where_one_should_be() {
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &events(100, 5)).await;
    let mut cluster = Cluster::start(folder.path(), 0);
    let engine = Some(cluster.engine(folder.path(), 2));
    cluster.scheduler().kill();
    let error = training_set(folder.path(), store, engine, spine(50, 5), AsOf::KnownAt)
        .await
        .unwrap_err();
    assert!(error.contains("ondol-cluster scheduler"), "{error}");
    assert!(error.contains("127.0.0.1"), "{error}");
}
