//! Bootstrap against its promise: every logged event reaches a new view's rows once, whatever is killed or delivered
//! meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Int32Type, Int64Type};
use async_trait::async_trait;
use ondol_feature_store::bootstrap::{self, RowSink};
use ondol_feature_store::offline::{EventLog, EventLogConfig, Outcome};
use ondol_feature_store::online::Life;
use ondol_feature_store::registry::Registry;
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::provisioning::ProvisioningState;
use ondol_feature_store_api::wire::{DefinitionFile, DefinitionFiles, DeliveryHeader};
use ondol_vocabulary::{PartitionRange, SourceVersion, ViewState, ViewVersion};
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const DEFINITIONS: &str = r#"
[source.clicks]
kafka  = "clicks"
time   = "ts"
schema = { user = "string", ts = "timestamp" }

[view.user]
from = "clicks"
key  = "user"
features.n_1d = "count() over 1d"
"#;

fn files(text: &str) -> DefinitionFiles {
    DefinitionFiles {
        files: vec![DefinitionFile {
            path: "features.toml".to_owned(),
            text: text.to_owned(),
        }],
    }
}

/// Rows as the online store keeps them, reduced to what matters here: for each user the generation and fences, and
/// the events absorbed.
#[derive(Default)]
struct Rows {
    users: BTreeMap<String, User>,
}

#[derive(Default)]
struct User {
    generation: String,
    fences: BTreeMap<i32, i64>,
    events: Vec<(String, i32, i64)>,
}

impl Rows {
    fn absorb(&mut self, generation: &str, events: &RecordBatch) {
        let users = events.column_by_name("user").unwrap().as_string::<i32>();
        let partitions = events.column_by_name("_partition").unwrap().as_primitive::<Int32Type>();
        let offsets = events.column_by_name("_offset").unwrap().as_primitive::<Int64Type>();
        for row in 0..events.num_rows() {
            let user = self.users.entry(users.value(row).to_owned()).or_default();
            if user.generation != generation {
                user.generation = generation.to_owned();
                user.fences.clear();
            }
            let (partition, offset) = (partitions.value(row), offsets.value(row));
            if user.fences.get(&partition).is_none_or(|fence| offset >= *fence) {
                user.fences.insert(partition, offset + 1);
                user.events.push((generation.to_owned(), partition, offset));
            }
        }
    }

    fn events(&self) -> Vec<(String, i32, i64)> {
        let mut events: Vec<_> = self.users.values().flat_map(|user| user.events.clone()).collect();
        events.sort();
        events
    }
}

/// A writer that fails after a number of calls, as a killed process would stop.
struct Sink {
    rows: Arc<Mutex<Rows>>,
    log: EventLog,
    calls_left: AtomicUsize,
    /// At the call after which so many are left, the view is held.
    hold_at: Option<(usize, Registry, u32)>,
    /// Delivered while the bootstrap reads, at each call until empty: (generation, partition, from, to).
    meanwhile: Mutex<Vec<(&'static str, i32, i64, i64)>>,
}

#[async_trait]
impl RowSink for Sink {
    async fn life(&self) -> Result<Life, FeatureStoreError> {
        Ok(Life("".into()))
    }

    async fn absorb_into(
        &self,
        _life: &Life,
        _view: &ViewVersion,
        header: &DeliveryHeader,
        _later: &[String],
        events: &RecordBatch,
    ) -> Result<(), FeatureStoreError> {
        let left = self
            .calls_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        // Killed in the middle of a chunk: its first half stands.
        if left.is_err() {
            self.rows
                .lock()
                .unwrap()
                .absorb(&header.generation, &events.slice(0, events.num_rows() / 2));
            return Err(FeatureStoreError::Unavailable {
                detail: "killed".to_owned(),
            });
        }
        self.rows.lock().unwrap().absorb(&header.generation, events);
        if let Some((left, registry, view)) = &self.hold_at
            && self.calls_left.load(Ordering::SeqCst) == *left
        {
            registry.hold(*view).await.unwrap();
        }
        let next = self.meanwhile.lock().unwrap().pop();
        if let Some((generation, partition, from, to)) = next {
            deliver(&self.log, generation, partition, from, to).await;
            self.log.commit("clicks").await.unwrap();
        }
        Ok(())
    }

    async fn sync(&self, _life: &Life) -> Result<(), FeatureStoreError> {
        Ok(())
    }

    async fn lock_source(&self, source: &str) -> Result<Box<dyn Any + Send>, FeatureStoreError> {
        self.log.commit(source).await.unwrap();
        Ok(Box::new(()))
    }
}

async fn deliver(log: &EventLog, generation: &str, partition: i32, from: i64, to: i64) {
    let utc = |values: Vec<i64>| Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")) as ArrayRef;
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "user",
            Arc::new(StringArray::from_iter_values(
                (from..to).map(|offset| format!("u{}", offset % 3)),
            )),
        ),
        // Out of step with offsets and over several days, so that a commit's files are out of offset order.
        (
            "ts",
            utc((from..to).map(|offset| (offset * 7 % 5) * 86_400_000_000).collect()),
        ),
        (
            "_partition",
            Arc::new(Int32Array::from_iter_values((from..to).map(|_| partition))),
        ),
        ("_offset", Arc::new(Int64Array::from_iter_values(from..to))),
        ("_ingested_at", utc(vec![0; usize::try_from(to - from).unwrap()])),
    ];
    let events = RecordBatch::try_from_iter(columns).unwrap();
    let definitions = ondol_transform::definition::compile(&files(DEFINITIONS)).unwrap();
    let header = DeliveryHeader {
        source: "clicks".to_owned(),
        source_version: 1,
        generation: generation.to_owned(),
        ranges: vec![PartitionRange { partition, from, to }],
        table: None,
    };
    log.append(&definitions.sources[0], &header, &events).await.unwrap();
}

struct Fixture {
    registry: Registry,
    log: EventLog,
    rows: Arc<Mutex<Rows>>,
    _folder: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(&format!("sqlite://{}/registry.db", folder.path().display()))
            .await
            .unwrap();
        let log = EventLog::open(folder.path().join("log").to_str().unwrap(), EventLogConfig::default()).unwrap();
        registry.apply(&files(DEFINITIONS)).await.unwrap();
        Self {
            registry,
            log,
            rows: Arc::default(),
            _folder: folder,
        }
    }

    fn sink(&self, calls: usize, meanwhile: Vec<(&'static str, i32, i64, i64)>) -> Sink {
        Sink {
            rows: Arc::clone(&self.rows),
            log: self.log.clone(),
            calls_left: AtomicUsize::new(calls),
            hold_at: None,
            meanwhile: Mutex::new(meanwhile),
        }
    }

    fn view(&self) -> (SourceVersion, ViewVersion) {
        let snapshot = self.registry.snapshot();
        (
            snapshot.source("clicks").unwrap().clone(),
            snapshot.newest_view("user").unwrap().clone(),
        )
    }

    async fn provision(&self, sink: &Sink) -> Result<(), FeatureStoreError> {
        let (source, view) = self.view();
        bootstrap::provision(&self.registry, &self.log, sink, &source, &view).await
    }
}

fn all(ranges: &[(&str, i32, i64, i64)]) -> Vec<(String, i32, i64)> {
    let each = |&(generation, partition, from, to): &(&str, i32, i64, i64)| {
        (from..to)
            .map(move |offset| (generation.to_owned(), partition, offset))
            .collect::<Vec<_>>()
    };
    let mut events: Vec<_> = ranges.iter().flat_map(each).collect();
    events.sort();
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_on_an_empty_log_activates_at_once() {
    let fixture = Fixture::new().await;
    fixture.provision(&fixture.sink(0, vec![])).await.unwrap();
    assert_eq!(fixture.view().1.state, ViewState::Active);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_logged_event_is_absorbed_once_and_the_view_activates() {
    let fixture = Fixture::new().await;
    for step in 0..4 {
        deliver(&fixture.log, "g1", 0, step * 50, step * 50 + 50).await;
        deliver(&fixture.log, "g1", 1, step * 9, step * 9 + 9).await;
        fixture.log.commit("clicks").await.unwrap();
    }
    // Delivered, not yet committed: the hand-over commits it.
    deliver(&fixture.log, "g1", 0, 200, 230).await;
    fixture.provision(&fixture.sink(usize::MAX, vec![])).await.unwrap();
    assert_eq!(fixture.view().1.state, ViewState::Active);
    assert_eq!(
        fixture.rows.lock().unwrap().events(),
        all(&[("g1", 0, 0, 230), ("g1", 1, 0, 36)])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_delivered_during_the_bootstrap_is_absorbed_too() {
    let fixture = Fixture::new().await;
    deliver(&fixture.log, "g1", 0, 0, 10).await;
    fixture.log.commit("clicks").await.unwrap();
    let meanwhile = (1..12).rev().map(|step| ("g1", 0, step * 10, step * 10 + 10)).collect();
    fixture.provision(&fixture.sink(usize::MAX, meanwhile)).await.unwrap();
    let events = fixture.rows.lock().unwrap().events();
    let committed = fixture.log.positions("clicks", "g1").await.unwrap()[0].next_offset;
    // The hand-over itself held one more delivery back, which the active view takes next.
    assert!(events.len() as i64 >= committed - 10, "{} of {committed}", events.len());
    assert_eq!(events, all(&[("g1", 0, 0, events.len() as i64)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_call_and_started_again_it_absorbs_every_event_once() {
    for calls in 0..12 {
        let fixture = Fixture::new().await;
        let mut expected = Vec::new();
        for generation in ["g1", "g2", "g3"] {
            for step in 0..3 {
                deliver(&fixture.log, generation, 0, step * 20, step * 20 + 20).await;
                fixture.log.commit("clicks").await.unwrap();
            }
            expected.push((generation, 0, 0, 60));
            // Generations stand in the order of their last commits, told apart by the millisecond.
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
        let killed = fixture.provision(&fixture.sink(calls, vec![])).await;
        assert_eq!(killed.is_err(), calls < 9, "after {calls} calls");
        if killed.is_err() {
            assert_eq!(fixture.view().1.state, ViewState::Provisioning);
            fixture.provision(&fixture.sink(usize::MAX, vec![])).await.unwrap();
        }
        assert_eq!(fixture.view().1.state, ViewState::Active);
        assert_eq!(
            fixture.rows.lock().unwrap().events(),
            all(&expected),
            "killed after {calls} calls"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_that_nobody_finished_is_finished_by_another() {
    let fixture = Fixture::new().await;
    deliver(&fixture.log, "g1", 0, 0, 30).await;
    fixture.log.commit("clicks").await.unwrap();
    // Killed between the join and the activation: no commit stands that reckons without the view.
    let (source, view) = fixture.view();
    fixture
        .log
        .join(&source.definition, view.id, &BTreeSet::from([view.id]))
        .await
        .unwrap();
    deliver(&fixture.log, "g1", 0, 30, 40).await;
    let covers = |views: &BTreeSet<u32>| views.is_empty();
    let outcome = fixture
        .log
        .commit_after("clicks", async { Ok(()) }, &covers)
        .await
        .unwrap();
    assert_eq!(outcome, Outcome::Uncovered(BTreeSet::from([view.id])));
    fixture.provision(&fixture.sink(usize::MAX, vec![])).await.unwrap();
    assert_eq!(fixture.view().1.state, ViewState::Active);
    assert_eq!(fixture.rows.lock().unwrap().events(), all(&[("g1", 0, 0, 40)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_task_provisions_what_is_applied_later_and_retries_after_a_failure() {
    let fixture = Fixture::new().await;
    deliver(&fixture.log, "g1", 0, 0, 10).await;
    fixture.log.commit("clicks").await.unwrap();
    let mut snapshots = fixture.registry.subscribe();
    let sink = Arc::new(fixture.sink(usize::MAX, vec![]));
    let task = tokio::spawn(bootstrap::run(fixture.registry.clone(), fixture.log.clone(), sink));
    let active = |version| {
        move |snapshot: &Arc<ondol_vocabulary::Snapshot>| {
            snapshot.active_view("user").is_some_and(|view| view.version == version)
        }
    };
    snapshots.wait_for(active(1)).await.unwrap();
    fixture
        .registry
        .apply(&files(&DEFINITIONS.replace("over 1d", "over 2d")))
        .await
        .unwrap();
    snapshots.wait_for(active(2)).await.unwrap();
    task.abort();
}

impl Fixture {
    /// A log of nine commits over three generations.
    async fn filled() -> (Self, Vec<(String, i32, i64)>) {
        let fixture = Self::new().await;
        let mut expected = Vec::new();
        for generation in ["g1", "g2", "g3"] {
            for step in 0..3 {
                deliver(&fixture.log, generation, 0, step * 20, step * 20 + 20).await;
                fixture.log.commit("clicks").await.unwrap();
            }
            expected.push((generation, 0, 0, 60));
            // Generations stand in the order of their last commits, told apart by the millisecond.
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        }
        (fixture, all(&expected))
    }

    /// Held once `calls` chunks are absorbed.
    fn sink_held_after(&self, calls: usize) -> Sink {
        let left = 1_000;
        Sink {
            hold_at: Some((left, self.registry.clone(), self.view().1.id)),
            ..self.sink(left + calls, vec![])
        }
    }

    async fn state(&self) -> ProvisioningState {
        self.registry.provisionings().await.unwrap()[0].state
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_held_at_any_chunk_stops_there_and_is_whole_once_it_is_released() {
    for calls in 1..=9 {
        let (fixture, expected) = Fixture::filled().await;
        let sink = fixture.sink_held_after(calls);
        fixture.provision(&sink).await.unwrap();
        assert_eq!(
            sink.calls_left.load(Ordering::SeqCst),
            1_000,
            "nothing is absorbed after chunk {calls}"
        );
        assert_eq!(fixture.view().1.state, ViewState::Provisioning);
        assert_eq!(fixture.state().await, ProvisioningState::Held);
        let told = fixture.registry.provisionings().await.unwrap().remove(0);
        assert_eq!((told.rows_done, told.rows_total), (calls as u64 * 20, Some(180)));
        fixture.registry.release(told.view_id).await.unwrap();
        fixture.provision(&fixture.sink(usize::MAX, vec![])).await.unwrap();
        assert_eq!(fixture.view().1.state, ViewState::Active);
        assert_eq!(fixture.rows.lock().unwrap().events(), expected, "held after {calls}");
        assert_eq!(fixture.registry.provisionings().await.unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_being_handed_over_can_not_be_held_not_even_after_a_crash() {
    let (fixture, expected) = Fixture::filled().await;
    let view = fixture.view().1.id;
    fixture.registry.begin_building(view).await.unwrap();
    assert!(fixture.registry.begin_hand_over(view).await.unwrap());
    // Killed here, and begun again: commits of the source may be waiting for it.
    fixture.registry.begin_building(view).await.unwrap();
    assert_eq!(fixture.state().await, ProvisioningState::HandingOver);
    let refused = fixture.registry.hold(view).await.unwrap_err();
    assert!(refused.to_string().contains("handed over"), "{refused}");
    fixture.provision(&fixture.sink(usize::MAX, vec![])).await.unwrap();
    assert_eq!(fixture.rows.lock().unwrap().events(), expected);
    let refused = fixture.registry.hold(view).await.unwrap_err();
    assert!(matches!(refused, FeatureStoreError::Unknown { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_task_leaves_a_view_that_is_held_and_takes_it_up_when_it_is_released() {
    let (fixture, expected) = Fixture::filled().await;
    let view = fixture.view().1.id;
    let mut snapshots = fixture.registry.subscribe();
    let sink = Arc::new(fixture.sink_held_after(2));
    let task = tokio::spawn(bootstrap::run(fixture.registry.clone(), fixture.log.clone(), sink));
    while !fixture.registry.is_held(view).await.unwrap() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(fixture.state().await, ProvisioningState::Held);
    fixture.registry.release(view).await.unwrap();
    let serves = |snapshot: &Arc<ondol_vocabulary::Snapshot>| snapshot.active_view("user").is_some();
    snapshots.wait_for(serves).await.unwrap();
    assert_eq!(fixture.rows.lock().unwrap().events(), expected);
    task.abort();
}
