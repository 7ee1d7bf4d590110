//! A feature store that does as it is told.

use super::NOW;
use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, StringArray};
use arrow::datatypes::Float64Type;
use async_trait::async_trait;
use ondol_feature_store_api::wire::{
    Applied, DefinitionFiles, DefinitionHistory, Delivery, FeatureBatch, FeatureColumn, OfflineTable,
    PartitionPosition, Plan, ReadRequest, WriteReceipt,
};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_vocabulary::{Aggregation, DataType, EventTime, FeatureKind, FeatureRef, FeatureStatus, Snapshot, Value};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

/// A feature store whose values are set by hand.
pub struct FakeStore {
    pub snapshot: Mutex<Arc<Snapshot>>,
    pub values: Mutex<HashMap<(String, String), (Value, i64)>>,
    pub reads: Mutex<Vec<ReadRequest>>,
    pub down: AtomicBool,
    /// Reads wait here; a test that wants them to wait takes the permits away.
    pub gate: Semaphore,
}

impl FakeStore {
    pub fn new(snapshot: Snapshot) -> Arc<Self> {
        Arc::new(Self {
            snapshot: Mutex::new(Arc::new(snapshot)),
            values: Mutex::default(),
            reads: Mutex::default(),
            down: AtomicBool::new(false),
            gate: Semaphore::new(1_000),
        })
    }

    /// Sets the value of `feature` for `entity`, from an event `age_s` seconds ago.
    pub fn set(&self, feature: &str, entity: &str, value: Value, age_s: i64) {
        let event_time = NOW - age_s * 1_000_000;
        self.values
            .lock()
            .unwrap()
            .insert((feature.to_owned(), entity.to_owned()), (value, event_time));
    }

    pub fn apply(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = self.snapshot.lock().unwrap();
        let mut next = (**snapshot).clone();
        change(&mut next);
        next.version += 1;
        *snapshot = Arc::new(next);
    }

    fn check_up(&self) -> Result<(), FeatureStoreError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(FeatureStoreError::Unavailable {
                detail: "it is down".to_owned(),
            });
        }
        Ok(())
    }

    fn column(&self, snapshot: &Snapshot, request: &ReadRequest, feature: &FeatureRef, now: i64) -> FeatureColumn {
        let (view, index) = snapshot.resolve(feature).unwrap();
        let definition = &view.definition.features[index];
        let key = &view.definition.key[0].name;
        let entities = &request
            .entities
            .iter()
            .find(|column| column.name == *key)
            .unwrap()
            .values;
        let values = self.values.lock().unwrap();
        let found: Vec<Option<(Value, i64)>> = entities
            .iter()
            .map(|entity| values.get(&(feature.to_string(), entity.to_string())).cloned())
            .map(|found| found.filter(|(_, time)| *time < now))
            .collect();
        let counts = matches!(
            definition.kind,
            FeatureKind::Aggregate {
                function: Aggregation::Count,
                ..
            }
        );
        let is_old = |time: i64| view.definition.ttl_us.is_some_and(|ttl| now - time > ttl);
        let status = |found: &Option<(Value, i64)>| match found {
            None => FeatureStatus::Missing,
            Some((_, time)) if is_old(*time) => FeatureStatus::Stale,
            Some((Value::Null, _)) => FeatureStatus::Null,
            Some(_) => FeatureStatus::Fresh,
        };
        let default = definition.default.as_ref().map(|default| default.0.clone());
        let status: Vec<FeatureStatus> = found.iter().map(status).collect();
        let scalars = found.iter().zip(&status).map(|(found, status)| match (found, status) {
            (Some((value, _)), FeatureStatus::Fresh) => value.clone(),
            _ if default.is_some() => default.clone().unwrap(),
            (None, _) if counts => Value::I64(0),
            _ => Value::Null,
        });
        FeatureColumn {
            view_version: view.version,
            values: array(definition.data_type, &scalars.collect::<Vec<_>>()),
            status: status.into(),
            event_time: found
                .iter()
                .map(|found| found.as_ref().map(|(_, time)| EventTime::from_micros(*time)))
                .collect(),
        }
    }
}

fn array(data_type: DataType, values: &[Value]) -> ArrayRef {
    match data_type {
        DataType::I64 => Arc::new(Int64Array::from_iter(values.iter().map(|value| match value {
            Value::I64(number) => Some(*number),
            _ => None,
        }))),
        DataType::F64 => Arc::new(Float64Array::from_iter(values.iter().map(|value| match value {
            Value::F64(number) => Some(*number),
            // A default is written as people write numbers.
            Value::I64(number) => Some(*number as f64),
            _ => None,
        }))),
        DataType::String => Arc::new(StringArray::from_iter(values.iter().map(|value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        }))),
        DataType::List(_) => {
            let number = |value: &Value| match value {
                Value::F64(number) => Some(*number),
                other => panic!("{other} is in a list of floats"),
            };
            let list = |value: &Value| match value {
                Value::List(values) => Some(values.iter().map(number).collect::<Vec<_>>()),
                _ => None,
            };
            Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(
                values.iter().map(list),
            ))
        }
        other => panic!("the fake store has no {other} features"),
    }
}

#[async_trait]
impl FeatureStore for FakeStore {
    async fn plan(&self, _: DefinitionFiles) -> Result<Plan, FeatureStoreError> {
        unreachable!("the gateway does not plan")
    }

    async fn apply(&self, _: DefinitionFiles) -> Result<Applied, FeatureStoreError> {
        unreachable!("the gateway does not apply")
    }

    async fn snapshot(&self) -> Result<Arc<Snapshot>, FeatureStoreError> {
        self.check_up()?;
        Ok(Arc::clone(&self.snapshot.lock().unwrap()))
    }

    async fn next_snapshot(&self, after: u64, wait: Duration) -> Result<Arc<Snapshot>, FeatureStoreError> {
        let end = tokio::time::Instant::now() + wait;
        while tokio::time::Instant::now() < end {
            self.check_up()?;
            let snapshot = Arc::clone(&self.snapshot.lock().unwrap());
            if snapshot.version > after {
                return Ok(snapshot);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.snapshot().await
    }

    async fn history(&self, _: &str) -> Result<DefinitionHistory, FeatureStoreError> {
        unreachable!("the gateway reads no history")
    }

    async fn activate(&self, _: u32) -> Result<(), FeatureStoreError> {
        unreachable!("the gateway activates nothing")
    }

    async fn resume(&self, _: &str, _: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        unreachable!("the gateway resumes nothing")
    }

    async fn write(&self, _: Delivery) -> Result<WriteReceipt, FeatureStoreError> {
        unreachable!("the gateway writes nothing")
    }

    async fn flush(&self, _: &str) -> Result<WriteReceipt, FeatureStoreError> {
        unreachable!("the gateway flushes nothing")
    }

    async fn read(&self, request: ReadRequest) -> Result<FeatureBatch, FeatureStoreError> {
        self.reads.lock().unwrap().push(request.clone());
        let _permit = self.gate.acquire().await.unwrap();
        self.check_up()?;
        let snapshot = Arc::clone(&self.snapshot.lock().unwrap());
        let as_of = request.as_of.unwrap_or(EventTime::from_micros(NOW));
        let columns = request
            .features
            .iter()
            .map(|feature| self.column(&snapshot, &request, feature, as_of.micros()))
            .collect();
        Ok(FeatureBatch {
            as_of,
            rows: request.entities[0].values.len(),
            features: request.features,
            columns,
        })
    }

    async fn tables(&self) -> Result<Vec<OfflineTable>, FeatureStoreError> {
        unreachable!("the gateway reads no tables")
    }
}
