//! A feature store that keeps the latest row of each entity as the real one does, in a few lines: fences, generations,
//! rows that start over, rebuilds.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use async_trait::async_trait;
use ondol_feature_store_api::wire::{
    Applied, DefinitionFiles, DefinitionHistory, Delivery, FeatureBatch, OfflineTable, PartitionPosition, Plan,
    ReadRequest, Rebuild, RebuildRequest, WriteReceipt,
};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_vocabulary::{Snapshot, ViewState};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// When a row was updated, and its value.
type Latest = (i64, Option<String>);

#[derive(Default)]
struct OnlineRow {
    generation: String,
    fence: i64,
    latest: Option<Latest>,
}

#[derive(Default)]
struct State {
    snapshot: Snapshot,
    /// By view id and entity.
    rows: HashMap<(u32, i64), OnlineRow>,
    rebuilds: usize,
    /// Deliveries that are taken before every further one is refused for good.
    taken: Option<usize>,
    /// Deliveries that are taken before one is refused for a moment, and everything since the last flush is gone.
    lost_after: Option<usize>,
    unflushed: HashMap<(u32, i64), OnlineRow>,
}

/// The store.
pub struct ModelStore {
    state: Mutex<State>,
}

impl ModelStore {
    pub fn new(snapshot: Snapshot) -> Self {
        Self {
            state: Mutex::new(State {
                snapshot,
                ..State::default()
            }),
        }
    }

    /// What the view called `name` serves, by entity.
    pub fn serving(&self, name: &str) -> BTreeMap<i64, Latest> {
        let state = self.state.lock().unwrap();
        let mut views = state.snapshot.views.iter();
        let view = views.find(|view| view.definition.name == name && view.state == ViewState::Active);
        let id = view.expect("the view serves").id;
        let rows = state.rows.iter().filter(|((view, _), _)| *view == id);
        rows.filter_map(|((_, entity), row)| Some((*entity, row.latest.clone()?)))
            .collect()
    }

    pub fn rebuilds(&self) -> usize {
        self.state.lock().unwrap().rebuilds
    }

    /// From now on takes so many deliveries and no more.
    pub fn refuse_after(&self, deliveries: Option<usize>) {
        self.state.lock().unwrap().taken = deliveries;
    }

    /// After so many deliveries, forgets what was not flushed and refuses one.
    pub fn fail_once_after(&self, deliveries: usize) {
        self.state.lock().unwrap().lost_after = Some(deliveries);
    }
}

impl State {
    fn take(&mut self, delivery: &Delivery) {
        let table = delivery.header.table.as_ref().expect("rows of a table");
        let events = Events::of(&delivery.events);
        let mut fences: HashMap<(u32, i64), i64> = HashMap::new();
        for view in table.views.clone() {
            for (entity, time, value, offset) in events.iter() {
                let place = (view, entity);
                let row = self.rows.entry(place).or_default();
                // The fences as they were decide for the whole delivery.
                let fence = *fences.entry(place).or_insert_with(|| {
                    if row.generation != delivery.header.generation {
                        if table.whole {
                            row.latest = None;
                        }
                        row.fence = 0;
                        row.generation.clone_from(&delivery.header.generation);
                    }
                    row.fence
                });
                if offset < fence {
                    continue;
                }
                row.latest = row.latest.take().max(Some((time, value)));
                row.fence = row.fence.max(offset + 1);
            }
        }
    }
}

struct Events<'a>(&'a RecordBatch);

impl<'a> Events<'a> {
    fn of(batch: &'a RecordBatch) -> Self {
        Self(batch)
    }

    fn iter(&self) -> impl Iterator<Item = (i64, i64, Option<String>, i64)> + '_ {
        let column = |name: &str| self.0.column_by_name(name).unwrap();
        let ids = column("id").as_primitive::<Int64Type>();
        let times = column("updated_at").as_primitive::<TimestampMicrosecondType>();
        let values = column("country").as_string::<i32>();
        let offsets = column("_offset").as_primitive::<Int64Type>();
        (0..self.0.num_rows()).map(|row| {
            let value = values.iter().nth(row).unwrap().map(str::to_owned);
            (ids.value(row), times.value(row), value, offsets.value(row))
        })
    }
}

#[async_trait]
impl FeatureStore for ModelStore {
    async fn plan(&self, _: DefinitionFiles) -> Result<Plan, FeatureStoreError> {
        unreachable!("no test plans")
    }

    async fn apply(&self, _: DefinitionFiles) -> Result<Applied, FeatureStoreError> {
        unreachable!("no test applies")
    }

    async fn snapshot(&self) -> Result<Arc<Snapshot>, FeatureStoreError> {
        Ok(Arc::new(self.state.lock().unwrap().snapshot.clone()))
    }

    async fn next_snapshot(&self, _: u64, wait: Duration) -> Result<Arc<Snapshot>, FeatureStoreError> {
        tokio::time::sleep(wait.min(Duration::from_millis(5))).await;
        self.snapshot().await
    }

    async fn history(&self, _: &str) -> Result<DefinitionHistory, FeatureStoreError> {
        unreachable!("no test asks for history")
    }

    async fn activate(&self, view_id: u32) -> Result<(), FeatureStoreError> {
        let mut state = self.state.lock().unwrap();
        let views = &mut state.snapshot.views;
        let name = views
            .iter()
            .find(|view| view.id == view_id)
            .unwrap()
            .definition
            .name
            .clone();
        views.retain(|view| view.definition.name != name || view.id >= view_id);
        views.iter_mut().find(|view| view.id == view_id).unwrap().state = ViewState::Active;
        state.snapshot.version += 1;
        Ok(())
    }

    async fn resume(&self, _: &str, _: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        unreachable!("no test ingests")
    }

    async fn write(&self, delivery: Delivery) -> Result<WriteReceipt, FeatureStoreError> {
        let mut state = self.state.lock().unwrap();
        match &mut state.taken {
            Some(0) => {
                return Err(FeatureStoreError::Internal {
                    detail: "killed".to_owned(),
                });
            }
            Some(left) => *left -= 1,
            None => {}
        }
        match &mut state.lost_after {
            Some(0) => {
                state.lost_after = None;
                let lost: Vec<(u32, i64)> = state.unflushed.drain().map(|(place, _)| place).collect();
                lost.iter().for_each(|place| drop(state.rows.remove(place)));
                return Err(FeatureStoreError::Unavailable {
                    detail: "a new life".to_owned(),
                });
            }
            Some(left) => {
                *left -= 1;
                let ids: Vec<i64> = Events::of(&delivery.events).iter().map(|event| event.0).collect();
                for view in &delivery.header.table.as_ref().unwrap().views {
                    for id in &ids {
                        state.unflushed.insert((*view, *id), OnlineRow::default());
                    }
                }
            }
            None => {}
        }
        state.take(&delivery);
        Ok(WriteReceipt::default())
    }

    async fn flush(&self, _: &str) -> Result<WriteReceipt, FeatureStoreError> {
        self.state.lock().unwrap().unflushed.clear();
        Ok(WriteReceipt::default())
    }

    async fn read(&self, _: ReadRequest) -> Result<FeatureBatch, FeatureStoreError> {
        unreachable!("no test reads")
    }

    async fn tables(&self) -> Result<Vec<OfflineTable>, FeatureStoreError> {
        Ok(Vec::new())
    }

    async fn rebuild(&self, request: RebuildRequest) -> Result<Vec<Rebuild>, FeatureStoreError> {
        let mut state = self.state.lock().unwrap();
        state.rebuilds += 1;
        for name in request.names {
            let views = &state.snapshot.views;
            let next = views.iter().map(|view| view.id).max().unwrap() + 1;
            let waits = views
                .iter()
                .any(|view| view.definition.name == name && view.state == ViewState::Provisioning);
            if !waits {
                let mut view = views.iter().find(|view| view.definition.name == name).unwrap().clone();
                (view.id, view.state) = (next, ViewState::Provisioning);
                state.snapshot.views.push(view);
            }
        }
        state.snapshot.version += 1;
        Ok(Vec::new())
    }
}
