//! Instances that die, stall and share a ledger: every job that was accepted ends once, in one result.

use crate::support::oracle::DEFINITIONS;
use crate::support::{Bench, FakeStore, config, request};
use crate::{Schema, compact, spine, store};
use ondol_jobs::PipelinesConfig;
use ondol_pipelines_api::Pipelines;
use ondol_pipelines_api::wire::{AsOf, Job, JobState};
use ondol_vocabulary::ViewState;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// A service in a runtime of its own, so that it can end as a process does: without a word.
struct Instance {
    runtime: Runtime,
    bench: Bench,
}

impl Instance {
    /// With one thread, which a store can hold up.
    fn start(store: Arc<FakeStore>, config: PipelinesConfig) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let bench = runtime.block_on(Bench::open(store, config));
        Self { runtime, bench }
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    fn submit(&self) -> String {
        let submit = self.bench.service.training_set(request("m", AsOf::KnownAt, spine()));
        self.run(submit).unwrap().id
    }

    fn ended(&self, id: &str) -> Job {
        self.run(self.bench.ended(id))
    }

    fn crash(self) {
        self.runtime.shutdown_background();
    }

    fn stop(self) {
        self.runtime.block_on(self.bench.close());
    }
}

fn held() -> Arc<FakeStore> {
    let store = FakeStore::with(DEFINITIONS, ViewState::Active);
    store.held.store(true, Ordering::SeqCst);
    Arc::new(store)
}

fn in_runtime<T>(future: impl Future<Output = T>) -> T {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// Names of the files of results.
fn results(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder.join("training-sets")).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_crash_leaves_every_job_to_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let first = Instance::start(held(), config(folder.path()));
    let ids = [first.submit(), first.submit(), first.submit()];
    first.run(first.bench.started(&ids[0]));
    first.crash();
    std::fs::write(folder.path().join(format!("training-sets/{}-1.tmp", ids[0])), "half").unwrap();
    std::fs::write(folder.path().join("spines/01ZZZZZZZZZZZZZZZZZZZZZZZZ.arrows"), "orphan").unwrap();

    let second = Instance::start(store(), config(folder.path()));
    for (id, attempt) in ids.iter().zip([2, 1, 1]) {
        let job = second.ended(id);
        assert_eq!(
            (job.state, job.attempt, job.error),
            (JobState::Succeeded, attempt, None)
        );
        let rows = second.run(second.bench.service.result(id)).unwrap();
        assert_eq!(rows.batches[0].num_rows(), 1);
    }
    let expected: Vec<String> = ids
        .iter()
        .zip([2, 1, 1])
        .map(|(id, attempt)| format!("{id}-{attempt}.arrows"))
        .collect();
    assert_eq!(results(folder.path()), expected);
    let mut spines: Vec<String> = std::fs::read_dir(folder.path().join("spines"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    spines.sort();
    assert_eq!(spines, ids.map(|id| format!("{id}.arrows")));
    second.stop();
}

/// What is dropped with its runtime may still write an end, which a process that is killed can't: then it was no crash,
/// and another one is tried.
#[test]
fn a_job_that_ends_its_process_every_time_is_given_up() {
    assert!((0..20).any(|_| was_given_up_after_two_crashes()), "no crash was one");
}

/// Whether both crashes left the job at work.
fn was_given_up_after_two_crashes() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let config = PipelinesConfig {
        attempts: 2,
        ..config(folder.path())
    };
    let first = Instance::start(held(), config.clone());
    let id = first.submit();
    first.run(first.bench.started(&id));
    first.crash();
    let second = Instance::start(held(), config.clone());
    let again = async {
        let mut job = second.bench.started(&id).await;
        while job.attempt < 2 && !job.state.is_final() {
            let next = second
                .bench
                .service
                .job(&id, Some(job.revision), Duration::from_secs(10));
            job = next.await.unwrap();
        }
        job.state.is_final()
    };
    let ended = second.run(again);
    second.crash();
    if ended {
        return false;
    }
    let third = Instance::start(held(), config);
    let job = third.ended(&id);
    let given_up = job
        .error
        .is_some_and(|error| error.starts_with("given up after 2 attempts"));
    if given_up {
        assert_eq!((job.state, job.attempt), (JobState::Failed, 2));
    }
    third.stop();
    given_up
}

#[test]
fn instances_of_one_ledger_do_every_job_once_and_answer_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let schema = in_runtime(Schema::create());
    let config = PipelinesConfig {
        ledger: Some(schema.ledger.clone()),
        concurrent_jobs: 2,
        ..config(folder.path())
    };
    let (left, right) = std::thread::scope(|scope| {
        // Both create the tables.
        let left = scope.spawn(|| Instance::start(store(), config.clone()));
        let right = scope.spawn(|| Instance::start(store(), config.clone()));
        (left.join().unwrap(), right.join().unwrap())
    });
    let ids: Vec<String> = (0..12)
        .map(|number| if number % 2 == 0 { left.submit() } else { right.submit() })
        .collect();
    for (number, id) in ids.iter().enumerate() {
        let (there, here) = if number % 2 == 0 {
            (&right, &left)
        } else {
            (&left, &right)
        };
        let job = there.ended(id);
        assert_eq!((job.state, job.attempt), (JobState::Succeeded, 1));
        assert_eq!(here.ended(id), job);
        let rows = there.run(there.bench.service.result(id)).unwrap();
        assert_eq!(rows, here.run(here.bench.service.result(id)).unwrap());
    }
    assert_eq!(results(folder.path()).len(), ids.len());
    left.stop();
    right.stop();
    in_runtime(schema.drop());
}

#[test]
fn a_job_is_cancelled_through_any_instance() {
    let folder = tempfile::tempdir().unwrap();
    let schema = in_runtime(Schema::create());
    let config = PipelinesConfig {
        ledger: Some(schema.ledger.clone()),
        ..config(folder.path())
    };
    let works = Instance::start(held(), config.clone());
    let id = works.submit();
    works.run(works.bench.started(&id));
    let asks = Instance::start(store(), config);
    asks.run(asks.bench.service.cancel(&id)).unwrap();
    assert_eq!(asks.ended(&id).state, JobState::Cancelled);
    assert_eq!(works.ended(&id).state, JobState::Cancelled);
    works.stop();
    asks.stop();
    in_runtime(schema.drop());
}

#[test]
fn the_job_of_a_dead_instance_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let schema = in_runtime(Schema::create());
    let config = PipelinesConfig {
        ledger: Some(schema.ledger.clone()),
        lease_ms: 2_000,
        // A busy machine may take the job from the living, too.
        attempts: 1_000,
        ..config(folder.path())
    };
    let dies = Instance::start(held(), config.clone());
    let id = dies.submit();
    let before = dies.run(dies.bench.started(&id));
    let lives = Instance::start(store(), config);
    dies.crash();
    let job = lives.ended(&id);
    assert_eq!(job.state, JobState::Succeeded);
    assert!(job.attempt > 1);
    assert!(job.revision > before.revision);
    lives.stop();
    in_runtime(schema.drop());
}

#[test]
fn an_instance_that_was_paused_can_publish_nothing_of_a_job_it_lost() {
    let folder = tempfile::tempdir().unwrap();
    let schema = in_runtime(Schema::create());
    let config = PipelinesConfig {
        ledger: Some(schema.ledger.clone()),
        lease_ms: 2_000,
        // A busy machine may take the job from the living, too.
        attempts: 1_000,
        ..config(folder.path())
    };
    let stalls = Arc::new(FakeStore::with(DEFINITIONS, ViewState::Active));
    stalls.stalled.store(true, Ordering::SeqCst);
    let paused = Instance::start(stalls.clone(), config.clone());
    // Its only thread is held up in the middle of the job, as by SIGSTOP: no lease is renewed.
    let id = paused.submit();
    let lives = Instance::start(store(), config);
    let job = lives.ended(&id);
    assert_eq!(job.state, JobState::Succeeded);
    assert!(job.attempt > 1);
    let rows = lives.run(lives.bench.service.result(&id)).unwrap();

    stalls.stalled.store(false, Ordering::SeqCst);
    let flushed = || !stalls.flushed.lock().unwrap().is_empty();
    for _ in 0..6_000 {
        if flushed() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(flushed(), "the paused instance goes on with the job");
    // Its end is its last chance to write anything.
    paused.stop();
    assert_eq!(lives.ended(&id), job);
    assert_eq!(lives.run(lives.bench.service.result(&id)).unwrap(), rows);
    assert_eq!(results(folder.path()), [format!("{id}-{}.arrows", job.attempt)]);
    lives.stop();
    in_runtime(schema.drop());
}

#[test]
fn jobs_of_other_kinds_start_again_too() {
    let folder = tempfile::tempdir().unwrap();
    let first = Instance::start(held(), config(folder.path()));
    let job = first.run(first.bench.service.submit(compact(), None)).unwrap();
    first.run(first.bench.started(&job.id));
    first.crash();
    let store = store();
    let second = Instance::start(store.clone(), config(folder.path()));
    assert_eq!(second.ended(&job.id).state, JobState::Succeeded);
    assert_eq!(*store.compacted.lock().unwrap(), ["events"]);
    second.stop();
}
