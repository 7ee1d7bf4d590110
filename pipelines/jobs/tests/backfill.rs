//! Backfills as jobs: submitted by themselves and by hand, watched, held by cancelling and released by trying again, over
//! restarts of the pipelines; and never in the way of jobs that work.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

#[path = "support/definitions.rs"]
mod definitions;

use async_trait::async_trait;
use ondol_feature_store_api::maintenance::Compaction;
use ondol_feature_store_api::provisioning::{Provisioning, ProvisioningState};
use ondol_feature_store_api::wire::{
    Applied, DefinitionFiles, DefinitionHistory, DefinitionVersion, Delivery, FeatureBatch, OfflineTable,
    PartitionPosition, Plan, ReadRequest, WriteReceipt,
};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_jobs::{PipelinesConfig, PipelinesService};
use ondol_pipelines_api::wire::{
    BackfillRequest, CompactRequest, Job, JobQuery, JobRequest, JobState, ScheduleRequest,
};
use ondol_pipelines_api::{Pipelines, PipelinesError};
use ondol_runtime::{Health, Shutdown, SystemClock};
use ondol_vocabulary::{EventTime, Snapshot, ViewState, ViewVersion};
use serde_json::json;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

const DEFINITIONS: &str = r#"
[source.payments]
kafka = "payments"
time = "ts"
schema = { card = "string", ts = "timestamp" }

[source.shops]
parquet = "no/such/shops/"
time = "since"
schema = { merchant = "i64", since = "timestamp" }

[view.card]
from = "payments"
key = "card"
features.n = "count() over 1h"

[view.shop]
from = "shops"
key = "merchant"
features.since = "since"
"#;

/// The id of the rows of `card@2`.
const CARD: u32 = 7;

/// What the store knows of `card@2`.
struct State {
    stage: ProvisioningState,
    held: bool,
    rows_done: u64,
    error: Option<String>,
    /// Neither serving nor being provisioned: other definitions were applied.
    gone: bool,
    answers: bool,
    /// Whether compactions end.
    compacts: bool,
    released: usize,
}

/// A store that provisions `card@2` as the test says.
struct Store {
    snapshot: Mutex<Snapshot>,
    state: Mutex<State>,
}

impl Store {
    fn building() -> Arc<Self> {
        let mut snapshot = definitions::snapshot(DEFINITIONS, ViewState::Active);
        let card = snapshot.views.iter_mut().find(|view| view.definition.name == "card");
        let card = card.unwrap();
        (card.id, card.state) = (CARD, ViewState::Provisioning);
        Arc::new(Self {
            snapshot: Mutex::new(snapshot),
            state: Mutex::new(State {
                stage: ProvisioningState::Building,
                held: false,
                rows_done: 0,
                error: None,
                gone: false,
                answers: true,
                compacts: true,
                released: 0,
            }),
        })
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    fn is_held(&self) -> bool {
        self.state.lock().unwrap().held
    }

    /// `card@2` serves.
    fn finish(&self) {
        let mut snapshot = self.snapshot.lock().unwrap();
        snapshot.version += 1;
        snapshot
            .views
            .iter_mut()
            .for_each(|view| view.state = ViewState::Active);
    }

    /// `card` in this version serves, which nobody has seen being provisioned.
    fn build_within_a_moment(&self, version: u32) {
        let mut snapshot = self.snapshot.lock().unwrap();
        snapshot.version += 1;
        let card = snapshot.views.iter_mut().find(|view| view.definition.name == "card");
        let card = card.unwrap();
        (card.id, card.version) = (CARD + version, version);
    }

    /// Other definitions, without `card`.
    fn supersede(&self) {
        self.set(|state| state.gone = true);
        let mut snapshot = self.snapshot.lock().unwrap();
        snapshot.version += 1;
        snapshot.views.retain(|view| view.definition.name != "card");
    }

    fn card(&self) -> Option<Provisioning> {
        let snapshot = self.snapshot.lock().unwrap();
        let provisioning = |view: &&ViewVersion| view.state == ViewState::Provisioning;
        let view = snapshot.views.iter().find(provisioning)?;
        let state = self.state.lock().unwrap();
        Some(Provisioning {
            view_id: view.id,
            view: view.definition.name.clone(),
            version: view.version,
            source: view.definition.source.clone(),
            rebuild: false,
            state: if state.held {
                ProvisioningState::Held
            } else {
                state.stage
            },
            rows_done: state.rows_done,
            rows_total: Some(1_000),
            started_at: None,
            error: state.error.clone(),
        })
    }

    fn steer(&self, view_id: u32, held: bool) -> Result<Provisioning, FeatureStoreError> {
        assert_eq!(view_id, CARD);
        if held && self.state.lock().unwrap().stage == ProvisioningState::HandingOver {
            return Err(FeatureStoreError::InvalidRequest {
                detail: "it is being handed over".to_owned(),
            });
        }
        self.set(|state| {
            state.held = held;
            state.released += usize::from(!held);
        });
        Ok(self.card().unwrap())
    }
}

#[async_trait]
impl FeatureStore for Store {
    async fn plan(&self, _: DefinitionFiles) -> Result<Plan, FeatureStoreError> {
        unreachable!("no test plans")
    }

    async fn apply(&self, _: DefinitionFiles) -> Result<Applied, FeatureStoreError> {
        unreachable!("no test applies")
    }

    async fn snapshot(&self) -> Result<Arc<Snapshot>, FeatureStoreError> {
        Ok(Arc::new(self.snapshot.lock().unwrap().clone()))
    }

    async fn next_snapshot(&self, after: u64, wait: Duration) -> Result<Arc<Snapshot>, FeatureStoreError> {
        if self.snapshot.lock().unwrap().version <= after {
            tokio::time::sleep(wait.min(Duration::from_millis(20))).await;
        }
        self.snapshot().await
    }

    async fn history(&self, name: &str) -> Result<DefinitionHistory, FeatureStoreError> {
        assert_eq!(name, "view.card");
        let snapshot = self.snapshot.lock().unwrap();
        let card = snapshot.views.iter().find(|view| view.definition.name == "card");
        let version = card.map_or(2, |card| card.version);
        drop(snapshot);
        let version = DefinitionVersion {
            version,
            applied_at: EventTime::from_micros(0),
            in_force: !self.state.lock().unwrap().gone && self.card().is_none(),
            definition: json!({}),
        };
        Ok(DefinitionHistory {
            noun: "view".to_owned(),
            name: "card".to_owned(),
            versions: vec![version],
        })
    }

    async fn activate(&self, _: u32) -> Result<(), FeatureStoreError> {
        unreachable!("views over streams are activated by the store")
    }

    async fn resume(&self, _: &str, _: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        unreachable!("no test ingests")
    }

    async fn write(&self, _: Delivery) -> Result<WriteReceipt, FeatureStoreError> {
        unreachable!("no test delivers")
    }

    async fn flush(&self, _: &str) -> Result<WriteReceipt, FeatureStoreError> {
        Ok(WriteReceipt::default())
    }

    async fn read(&self, _: ReadRequest) -> Result<FeatureBatch, FeatureStoreError> {
        unreachable!("no test reads")
    }

    async fn tables(&self) -> Result<Vec<OfflineTable>, FeatureStoreError> {
        Ok(Vec::new())
    }

    async fn provisionings(&self) -> Result<Vec<Provisioning>, FeatureStoreError> {
        if !self.state.lock().unwrap().answers {
            return Err(FeatureStoreError::Unavailable {
                detail: "away".to_owned(),
            });
        }
        Ok(self.card().into_iter().collect())
    }

    async fn hold(&self, view_id: u32) -> Result<Provisioning, FeatureStoreError> {
        self.steer(view_id, true)
    }

    async fn release(&self, view_id: u32) -> Result<Provisioning, FeatureStoreError> {
        self.steer(view_id, false)
    }

    async fn compact(&self, source: &str) -> Result<Compaction, FeatureStoreError> {
        while !self.state.lock().unwrap().compacts {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Compaction {
            source: source.to_owned(),
            ..Compaction::default()
        })
    }
}

/// A service over `store`, in `folder`.
struct Bench {
    service: PipelinesService,
    shutdown: Shutdown,
}

impl Bench {
    async fn open(store: &Arc<Store>, config: PipelinesConfig) -> Self {
        let (shutdown, health) = (Shutdown::new(), Health::new());
        let store = Arc::clone(store) as Arc<dyn FeatureStore>;
        let service = PipelinesService::open(config, store, Arc::new(SystemClock), &shutdown, &health);
        let service = service.await.unwrap();
        Self { service, shutdown }
    }

    async fn close(self) {
        assert!(self.shutdown.drain(Duration::from_secs(60)).await);
    }

    async fn backfills(&self) -> Vec<Job> {
        let query = JobQuery {
            kind: Some("backfill".to_owned()),
            ..JobQuery::default()
        };
        self.service.jobs(query).await.unwrap().jobs
    }

    /// The job `id` once it is as wanted.
    async fn until(&self, id: &str, wanted: impl Fn(&Job) -> bool) -> Job {
        let mut seen = None;
        for _ in 0..10_000 {
            let job = self.service.job(id, seen, Duration::from_millis(500)).await.unwrap();
            if wanted(&job) {
                return job;
            }
            assert!(!job.state.is_final(), "{job:?}");
            seen = Some(job.revision);
        }
        panic!("job {id} never became what was waited for");
    }

    async fn ended(&self, id: &str) -> Job {
        self.until(id, |job| job.state.is_final()).await
    }

    /// The job about `version`, once there is one.
    async fn told_of(&self, version: &str) -> Job {
        for _ in 0..2_400 {
            if let Some(job) = self.backfills().await.into_iter().find(|job| job.subject == version) {
                return job;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no job tells of {version}");
    }

    /// The newest backfill that has not ended, submitted by itself.
    async fn submitted_by_itself(&self) -> Job {
        for _ in 0..2_400 {
            if let Some(job) = self.backfills().await.into_iter().find(|job| !job.state.is_final()) {
                return job;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no backfill was submitted");
    }
}

/// Whether jobs come by themselves is said with `reconcile`.
fn config(folder: &Path, reconcile: bool) -> PipelinesConfig {
    PipelinesConfig {
        reconcile,
        ..PipelinesConfig::embedded(folder)
    }
}

fn backfill(view: &str) -> JobRequest {
    JobRequest::Backfill(BackfillRequest { view: view.to_owned() })
}

fn running(job: &Job) -> bool {
    job.state == JobState::Running
}

#[tokio::test]
async fn a_version_that_is_provisioned_gets_a_job_by_itself_which_ends_when_it_serves() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::building();
    let bench = Bench::open(&store, config(folder.path(), true)).await;
    let job = bench.submitted_by_itself().await;
    assert_eq!((job.kind.as_str(), job.subject.as_str()), ("backfill", "card@2"));
    store.set(|state| state.rows_done = 400);
    let seen = bench.until(&job.id, |job| job.rows_done == 400).await;
    assert_eq!(
        (seen.rows_total, seen.stage.as_str()),
        (Some(1_000), "building rows from the log of payments")
    );
    store.set(|state| state.error = Some("no space left".to_owned()));
    store.set(|state| state.stage = ProvisioningState::Failed);
    bench.until(&job.id, |job| job.stage.contains("no space left")).await;
    store.set(|state| state.stage = ProvisioningState::HandingOver);
    bench
        .until(&job.id, |job| job.stage == "handing over to the stream")
        .await;
    // Submitted by hand as well, it is the same job.
    let same = bench.service.submit(backfill("card"), None).await.unwrap();
    assert_eq!(same.id, job.id);
    store.finish();
    let ended = bench.ended(&job.id).await;
    assert_eq!((ended.state, ended.error), (JobState::Succeeded, None));
    assert_eq!(ended.outcome.unwrap(), json!({"view": "card", "version": 2}));
    assert_eq!(bench.backfills().await.len(), 1);
    bench.close().await;
}

#[tokio::test]
async fn a_version_that_serves_before_anybody_has_looked_gets_its_job_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::building();
    let bench = Bench::open(&store, config(folder.path(), true)).await;
    let job = bench.submitted_by_itself().await;
    store.finish();
    bench.ended(&job.id).await;
    for version in [3, 4] {
        store.build_within_a_moment(version);
        let job = bench.told_of(&format!("card@{version}")).await;
        let ended = bench.ended(&job.id).await;
        assert_eq!((ended.state, ended.error), (JobState::Succeeded, None));
        assert_eq!(ended.outcome.unwrap(), json!({"view": "card", "version": version}));
    }
    // One for each, and none for `shop`, which is materialized.
    assert_eq!(bench.backfills().await.len(), 3);
    bench.close().await;
}

#[tokio::test]
async fn cancelling_holds_the_version_and_trying_again_lets_it_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::building();
    let bench = Bench::open(&store, config(folder.path(), true)).await;
    let job = bench.submitted_by_itself().await;
    bench.until(&job.id, running).await;
    bench.service.cancel(&job.id).await.unwrap();
    assert!(store.is_held(), "as soon as it is answered");
    assert_eq!(bench.ended(&job.id).await.state, JobState::Cancelled);
    // Nobody asks for it again by itself, not even another start.
    bench.close().await;
    let bench = Bench::open(&store, config(folder.path(), true)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(bench.backfills().await.len(), 1);
    assert!(store.is_held());

    let again = bench.service.retry(&job.id, None).await.unwrap();
    assert!(!store.is_held());
    assert_eq!(again.retry_of.as_deref(), Some(job.id.as_str()));
    bench.until(&again.id, running).await;
    store.finish();
    assert_eq!(bench.ended(&again.id).await.state, JobState::Succeeded);
    // Cancelling what has ended changes nothing.
    for ended in [&job.id, &again.id] {
        bench.service.cancel(ended).await.unwrap();
        assert!(!store.is_held());
    }
    bench.close().await;
}

#[tokio::test]
async fn a_submission_that_was_answered_before_releases_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::building();
    let bench = Bench::open(&store, config(folder.path(), false)).await;
    let key = || Some("k".parse().unwrap());
    let job = bench.service.submit(backfill("card"), key()).await.unwrap();
    bench.service.cancel(&job.id).await.unwrap();
    bench.ended(&job.id).await;
    let same = bench.service.submit(backfill("card"), key()).await.unwrap();
    assert_eq!(same.id, job.id);
    assert!(store.is_held());
    let other = bench.service.submit(backfill("card@2"), None).await.unwrap();
    assert!(other.id != job.id && !store.is_held());
    bench.close().await;
}

#[tokio::test]
async fn a_backfill_takes_neither_a_place_nor_memory_from_jobs_that_work() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::building();
    store.set(|state| state.compacts = false);
    let config = PipelinesConfig {
        concurrent_jobs: 1,
        queued_jobs: 1,
        memory_mib: 16,
        ..config(folder.path(), false)
    };
    let bench = Bench::open(&store, config).await;
    let compact = || {
        JobRequest::Compact(CompactRequest {
            source: "payments".to_owned(),
        })
    };
    let works = bench.service.submit(compact(), None).await.unwrap();
    bench.until(&works.id, running).await;
    let waits = bench.service.submit(compact(), None).await.unwrap();
    let full = bench.service.submit(compact(), None).await.unwrap_err();
    assert!(matches!(full, PipelinesError::Overloaded { .. }), "{full}");
    let watches = bench.service.submit(backfill("card"), None).await.unwrap();
    bench.until(&watches.id, running).await;
    let waits = bench.service.job(&waits.id, None, Duration::ZERO).await.unwrap();
    assert_eq!(waits.state, JobState::Queued);
    store.set(|state| state.compacts = true);
    for id in [&works.id, &waits.id] {
        assert_eq!(bench.ended(id).await.state, JobState::Succeeded);
    }
    let watches = bench.service.job(&watches.id, None, Duration::ZERO).await.unwrap();
    assert_eq!(watches.state, JobState::Running);
    bench.close().await;
}

/// A service in a runtime of its own, so that it can end as a process does: without a word.
fn instance(store: &Arc<Store>, config: PipelinesConfig) -> (Runtime, Bench) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let bench = runtime.block_on(Bench::open(store, config));
    (runtime, bench)
}

#[test]
fn a_job_whose_process_was_killed_just_watches_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::building();
    let (runtime, bench) = instance(&store, config(folder.path(), true));
    let job = runtime.block_on(bench.submitted_by_itself());
    runtime.block_on(bench.until(&job.id, running));
    runtime.shutdown_background();
    drop(bench);

    let (runtime, bench) = instance(&store, config(folder.path(), true));
    let building = |job: &Job| job.attempt == 2 && job.stage.contains("building");
    runtime.block_on(bench.until(&job.id, building));
    let all = runtime.block_on(bench.backfills());
    assert_eq!(all.iter().map(|job| &job.id).collect::<Vec<_>>(), [&job.id]);
    store.finish();
    assert_eq!(runtime.block_on(bench.ended(&job.id)).state, JobState::Succeeded);
    assert_eq!(store.state.lock().unwrap().released, 0);
    runtime.block_on(bench.close());
}

#[tokio::test]
async fn a_shutdown_puts_it_back_and_it_ends_though_the_version_serves_since() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::building();
    let bench = Bench::open(&store, config(folder.path(), false)).await;
    let job = bench.service.submit(backfill("card"), None).await.unwrap();
    bench.until(&job.id, running).await;
    bench.close().await;
    store.finish();
    let bench = Bench::open(&store, config(folder.path(), false)).await;
    assert_eq!(bench.ended(&job.id).await.state, JobState::Succeeded);
    bench.close().await;
}

#[tokio::test]
async fn a_version_held_elsewhere_or_superseded_ends_its_job_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::building();
    let bench = Bench::open(&store, config(folder.path(), false)).await;
    let job = bench.service.submit(backfill("card@2"), None).await.unwrap();
    bench.until(&job.id, running).await;
    store.hold(CARD).await.unwrap();
    let ended = bench.ended(&job.id).await;
    assert_eq!(ended.state, JobState::Cancelled);
    assert!(ended.error.unwrap().contains("ondol backfill card@2"));

    let job = bench.service.submit(backfill("card"), None).await.unwrap();
    bench.until(&job.id, running).await;
    store.supersede();
    let ended = bench.ended(&job.id).await;
    assert_eq!(ended.state, JobState::Cancelled);
    assert!(ended.error.unwrap().contains("no longer wanted"));
    bench.close().await;
}

#[tokio::test]
async fn what_is_being_handed_over_can_not_be_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::building();
    store.set(|state| state.stage = ProvisioningState::HandingOver);
    let bench = Bench::open(&store, config(folder.path(), false)).await;
    let job = bench.service.submit(backfill("card"), None).await.unwrap();
    let refused = bench.service.cancel(&job.id).await.unwrap_err();
    assert!(refused.to_string().contains("handed over"), "{refused}");
    store.finish();
    assert_eq!(bench.ended(&job.id).await.state, JobState::Succeeded);
    bench.close().await;
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::building();
    let bench = Bench::open(&store, config(folder.path(), true)).await;
    let job = bench.submitted_by_itself().await;
    store.set(|state| state.answers = false);
    bench.until(&job.id, |job| job.stage.contains("does not answer")).await;
    let refused = bench.service.cancel(&job.id).await.unwrap_err();
    assert!(matches!(refused, PipelinesError::Unavailable { .. }), "{refused}");
    store.set(|state| state.answers = true);
    bench.until(&job.id, |job| job.stage.contains("building")).await;
    store.finish();
    assert_eq!(bench.ended(&job.id).await.state, JobState::Succeeded);
    bench.close().await;
}

#[tokio::test]
async fn a_view_over_a_table_is_materialized_and_what_means_no_version_makes_no_job() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::building();
    let bench = Bench::open(&store, config(folder.path(), false)).await;
    let job = bench.service.submit(backfill("shop"), None).await.unwrap();
    assert_eq!((job.kind.as_str(), job.subject.as_str()), ("materialize", "shops"));
    // Which texts mean what is told beside the code.
    let refused = bench.service.submit(backfill("crad"), None).await.unwrap_err();
    assert!(matches!(refused, PipelinesError::Unknown { .. }), "{refused}");
    assert!(bench.backfills().await.is_empty());
    let schedule = ScheduleRequest {
        name: "nightly".to_owned(),
        cron: "0 0 * * *".to_owned(),
        zone: None,
        request: backfill("card"),
        paused: false,
    };
    let refused = bench.service.create_schedule(schedule).await.unwrap_err();
    assert!(refused.to_string().contains("done once"), "{refused}");
    bench.close().await;
}
