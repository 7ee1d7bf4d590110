//! A feature store that remembers deliveries and can be told to fail, to lose what is not durable, or to be away.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use async_trait::async_trait;
use ondol_feature_store_api::wire::{
    Applied, DefinitionFiles, DefinitionHistory, Delivery, FeatureBatch, OfflineTable, PartitionPosition, Plan,
    ReadRequest, Rebuild, RebuildRequest, WriteReceipt,
};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_vocabulary::Snapshot;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

pub(crate) struct FakeStore {
    snapshot: watch::Sender<Arc<Snapshot>>,
    state: Mutex<State>,
    /// While set, every call fails.
    pub(crate) away: AtomicBool,
    /// So many calls of write fail before one succeeds again.
    pub(crate) failures: AtomicU32,
    /// While set, a write does not end.
    pub(crate) stuck: AtomicBool,
}

#[derive(Default)]
struct State {
    written: BTreeMap<i32, i64>,
    durable: BTreeMap<i32, i64>,
    /// (partition, offset) → the event.
    rows: BTreeMap<(i32, i64), Row>,
    repeats: usize,
    deliveries: usize,
    generations: Vec<String>,
    versions: Vec<u32>,
    poison: Option<i64>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) id: Option<String>,
    pub(crate) n: Option<i64>,
    pub(crate) ts: i64,
    pub(crate) ingested_at: i64,
}

impl FakeStore {
    pub(crate) fn new(snapshot: Snapshot) -> Arc<Self> {
        Arc::new(Self {
            snapshot: watch::channel(Arc::new(snapshot)).0,
            state: Mutex::default(),
            away: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            stuck: AtomicBool::new(false),
        })
    }

    pub(crate) fn publish(&self, snapshot: Snapshot) {
        self.snapshot.send_replace(Arc::new(snapshot));
    }

    /// Loses everything written since the last flush, as a crash would.
    pub(crate) fn crash(&self) {
        let mut state = self.state.lock().unwrap();
        state.written = state.durable.clone();
        let durable = state.durable.clone();
        state
            .rows
            .retain(|(partition, offset), _| durable.get(partition).is_some_and(|end| offset < end));
    }

    /// Lies about one partition's position: the next delivery of it is a gap.
    pub(crate) fn forget_from(&self, partition: i32, offset: i64) {
        let mut state = self.state.lock().unwrap();
        state.written.insert(partition, offset);
        state.durable.insert(partition, offset);
        state.rows.retain(|place, _| place.0 != partition || place.1 < offset);
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        self.state.lock().unwrap().rows.values().cloned().collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.state.lock().unwrap().rows.len()
    }

    /// Values of `n`, sorted.
    pub(crate) fn numbers(&self) -> Vec<i64> {
        let mut numbers: Vec<i64> = self.rows().into_iter().filter_map(|row| row.n).collect();
        numbers.sort_unstable();
        numbers
    }

    /// From now on refuses deliveries that hold an event whose `n` is `poison`.
    pub(crate) fn refuse(&self, poison: Option<i64>) {
        self.state.lock().unwrap().poison = poison;
    }

    pub(crate) fn repeats(&self) -> usize {
        self.state.lock().unwrap().repeats
    }

    pub(crate) fn deliveries(&self) -> usize {
        self.state.lock().unwrap().deliveries
    }

    pub(crate) fn versions(&self) -> Vec<u32> {
        self.state.lock().unwrap().versions.clone()
    }

    pub(crate) fn generations(&self) -> Vec<String> {
        self.state.lock().unwrap().generations.clone()
    }

    pub(crate) fn durable(&self) -> Vec<PartitionPosition> {
        positions(&self.state.lock().unwrap().durable)
    }

    fn check_present(&self) -> Result<(), FeatureStoreError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(FeatureStoreError::Unavailable {
                detail: "away".to_owned(),
            });
        }
        Ok(())
    }
}

fn positions(map: &BTreeMap<i32, i64>) -> Vec<PartitionPosition> {
    map.iter()
        .map(|(&partition, &next_offset)| PartitionPosition { partition, next_offset })
        .collect()
}

fn row(events: &RecordBatch, index: usize) -> ((i32, i64), Row) {
    let column = |name: &str| events.column_by_name(name).unwrap();
    let id = column("id").as_string::<i32>();
    let n = column("n").as_primitive::<Int64Type>();
    let row = Row {
        id: id.is_valid(index).then(|| id.value(index).to_owned()),
        n: n.is_valid(index).then(|| n.value(index)),
        ts: column("ts").as_primitive::<TimestampMicrosecondType>().value(index),
        ingested_at: column("_ingested_at")
            .as_primitive::<TimestampMicrosecondType>()
            .value(index),
    };
    let partition = column("_partition").as_primitive::<Int32Type>().value(index);
    (
        (partition, column("_offset").as_primitive::<Int64Type>().value(index)),
        row,
    )
}

#[async_trait]
impl FeatureStore for FakeStore {
    async fn snapshot(&self) -> Result<Arc<Snapshot>, FeatureStoreError> {
        self.check_present()?;
        Ok(Arc::clone(&self.snapshot.borrow()))
    }

    async fn next_snapshot(&self, after: u64, wait: Duration) -> Result<Arc<Snapshot>, FeatureStoreError> {
        self.check_present()?;
        let mut snapshots = self.snapshot.subscribe();
        let newer = snapshots.wait_for(|snapshot| snapshot.version > after);
        drop(tokio::time::timeout(wait, newer).await);
        self.snapshot().await
    }

    async fn resume(&self, _: &str, generation: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        self.check_present()?;
        let mut state = self.state.lock().unwrap();
        state.generations.push(generation.to_owned());
        Ok(positions(&state.durable))
    }

    async fn write(&self, delivery: Delivery) -> Result<WriteReceipt, FeatureStoreError> {
        tokio::task::yield_now().await;
        self.check_present()?;
        if self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok()
        {
            return Err(FeatureStoreError::Unavailable {
                detail: "as told".to_owned(),
            });
        }
        while self.stuck.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut state = self.state.lock().unwrap();
        let mut rows = 0..delivery.events.num_rows();
        if state.poison.is_some() && rows.any(|index| row(&delivery.events, index).1.n == state.poison) {
            return Err(FeatureStoreError::Internal {
                detail: "poison".to_owned(),
            });
        }
        for range in &delivery.header.ranges {
            let expected = state.written.get(&range.partition).copied().unwrap_or(0);
            if range.from > expected {
                return Err(FeatureStoreError::Gap {
                    source_name: delivery.header.source.clone(),
                    partition: range.partition,
                    expected,
                    from: range.from,
                });
            }
        }
        state.deliveries += 1;
        if state.versions.last() != Some(&delivery.header.source_version) {
            state.versions.push(delivery.header.source_version);
        }
        let mut last: BTreeMap<i32, i64> = BTreeMap::new();
        for index in 0..delivery.events.num_rows() {
            let (place, row) = row(&delivery.events, index);
            let range = delivery
                .header
                .ranges
                .iter()
                .find(|range| range.partition == place.0)
                .unwrap();
            assert!(
                (range.from..range.to).contains(&place.1),
                "every row lies within its range"
            );
            assert!(
                last.insert(place.0, place.1).is_none_or(|before| before < place.1),
                "rows stand in offset order"
            );
            if place.1 < state.written.get(&place.0).copied().unwrap_or(0) {
                state.repeats += 1;
            } else {
                state.rows.insert(place, row);
            }
        }
        for range in &delivery.header.ranges {
            let written = state.written.entry(range.partition).or_insert(0);
            *written = range.to.max(*written);
        }
        Ok(WriteReceipt {
            written: positions(&state.written),
            durable: positions(&state.durable),
        })
    }

    async fn flush(&self, _: &str) -> Result<WriteReceipt, FeatureStoreError> {
        self.check_present()?;
        let mut state = self.state.lock().unwrap();
        state.durable = state.written.clone();
        Ok(WriteReceipt {
            written: positions(&state.written),
            durable: positions(&state.durable),
        })
    }

    async fn plan(&self, _: DefinitionFiles) -> Result<Plan, FeatureStoreError> {
        panic!("ingest never calls it")
    }

    async fn apply(&self, _: DefinitionFiles) -> Result<Applied, FeatureStoreError> {
        panic!("ingest never calls it")
    }

    async fn history(&self, _: &str) -> Result<DefinitionHistory, FeatureStoreError> {
        panic!("ingest never calls it")
    }

    async fn activate(&self, _: u32) -> Result<(), FeatureStoreError> {
        panic!("ingest never calls it")
    }

    async fn rebuild(&self, _: RebuildRequest) -> Result<Vec<Rebuild>, FeatureStoreError> {
        panic!("ingest never calls it")
    }

    async fn rebuilds(&self) -> Result<Vec<Rebuild>, FeatureStoreError> {
        panic!("ingest never calls it")
    }

    async fn read(&self, _: ReadRequest) -> Result<FeatureBatch, FeatureStoreError> {
        panic!("ingest never calls it")
    }

    async fn tables(&self) -> Result<Vec<OfflineTable>, FeatureStoreError> {
        panic!("ingest never calls it")
    }
}
