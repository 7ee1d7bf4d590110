//! Events of a stream, and places where its log can be.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "a module of several tests, each of which uses its part"
)]

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Int32Type, Int64Type};
use futures::TryStreamExt;
use ondol_feature_store::offline::{EventLog, EventLogConfig};
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::{DeliveryHeader, PartitionPosition};
use ondol_runtime::ObjectStores;
use ondol_testkit::s3;
use ondol_vocabulary::definition::Field;
use ondol_vocabulary::{Arrival, DataType, PartitionRange, SourceDefinition, SourceOrigin, StreamFormat};
use std::sync::Arc;

pub const DAY_US: i64 = 86_400_000_000;

pub fn clicks() -> SourceDefinition {
    let field = |name: &str, data_type| Field {
        name: name.to_owned(),
        data_type,
    };
    SourceDefinition {
        name: "clicks".to_owned(),
        origin: SourceOrigin::Stream {
            topic: "clicks".to_owned(),
            format: StreamFormat::Json,
            shape: ondol_vocabulary::MessageShape::default(),
        },
        time: "ts".to_owned(),
        late_us: 0,
        arrival: Arrival::Ingest,
        schema: vec![
            field("user", DataType::String),
            field("amount", DataType::F64),
            field("ts", DataType::Timestamp),
        ],
    }
}

pub fn header(generation: &str, ranges: &[(i32, i64, i64)]) -> DeliveryHeader {
    DeliveryHeader {
        source: "clicks".to_owned(),
        source_version: 1,
        generation: generation.to_owned(),
        ranges: ranges
            .iter()
            .map(|&(partition, from, to)| PartitionRange { partition, from, to })
            .collect(),
        table: None,
    }
}

/// One event at each offset of the ranges; event times walk over several days, out of step with offsets.
pub fn events(ranges: &[(i32, i64, i64)]) -> RecordBatch {
    let positions: Vec<(i32, i64)> = ranges
        .iter()
        .flat_map(|&(partition, from, to)| (from..to).map(move |offset| (partition, offset)))
        .collect();
    let utc = |values: Vec<i64>| Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC")) as ArrayRef;
    let time = |&(partition, offset): &(i32, i64)| {
        1_357_000_000_000_000 + (offset * 7 % 3) * DAY_US + offset * 1_000_003 + i64::from(partition)
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "user",
            Arc::new(StringArray::from_iter_values(
                positions.iter().map(|(_, offset)| format!("u{}", offset % 10)),
            )),
        ),
        (
            "amount",
            Arc::new(Float64Array::from_iter(
                positions.iter().map(|(_, o)| (o % 5 != 0).then(|| *o as f64 / 3.0)),
            )),
        ),
        ("ts", utc(positions.iter().map(time).collect())),
        (
            "_partition",
            Arc::new(Int32Array::from_iter_values(
                positions.iter().map(|(partition, _)| *partition),
            )),
        ),
        (
            "_offset",
            Arc::new(Int64Array::from_iter_values(
                positions.iter().map(|(_, offset)| *offset),
            )),
        ),
        (
            "_ingested_at",
            utc(positions.iter().map(|position| time(position) + 5).collect()),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

/// Where logs are kept.
pub struct Place {
    root: String,
    _folder: Option<tempfile::TempDir>,
}

impl Place {
    /// A folder of this machine.
    pub fn disk() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            root: folder.path().join("offline").display().to_string(),
            _folder: Some(folder),
        }
    }

    /// A bucket.
    pub fn s3() -> Self {
        Self {
            root: format!("s3://{}/some/prefix", s3::bucket()),
            _folder: None,
        }
    }

    /// The place of that root.
    pub fn at(root: String) -> Self {
        Self { root, _folder: None }
    }

    /// Its path or URL.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The logs in it.
    pub fn open(&self) -> EventLog {
        reach_s3();
        EventLog::open(&self.root, EventLogConfig::default()).unwrap()
    }

    /// Paths of the objects of the table of clicks.
    pub async fn objects(&self) -> Vec<String> {
        let table = ObjectStores::of_process()
            .at(&self.root)
            .unwrap()
            .join("clicks")
            .unwrap();
        let objects = table.store();
        objects
            .list(None)
            .map_ok(|meta| meta.location.to_string())
            .try_collect()
            .await
            .unwrap()
    }
}

/// This process's S3 is the tests'.
pub fn reach_s3() {
    ondol_runtime::objects::configure(&s3::config()).unwrap();
}

pub async fn deliver(log: &EventLog, ranges: &[(i32, i64, i64)]) -> Result<(), FeatureStoreError> {
    log.append(&clicks(), &header("g1", ranges), &events(ranges)).await
}

pub async fn positions_read(log: &EventLog) -> Vec<(i32, i64)> {
    let columns = ["_partition".to_owned(), "_offset".to_owned()];
    let batches: Vec<RecordBatch> = log.read("clicks", &columns).await.unwrap().try_collect().await.unwrap();
    let pairs = |batch: &RecordBatch| -> Vec<(i32, i64)> {
        let partitions = batch.column(0).as_primitive::<Int32Type>().values().to_vec();
        partitions
            .into_iter()
            .zip(batch.column(1).as_primitive::<Int64Type>().values().to_vec())
            .collect()
    };
    batches.iter().flat_map(pairs).collect()
}

pub fn all(ranges: &[(i32, i64, i64)]) -> Vec<(i32, i64)> {
    ranges
        .iter()
        .flat_map(|&(partition, from, to)| (from..to).map(move |offset| (partition, offset)))
        .collect()
}

pub fn at(partition: i32, next_offset: i64) -> PartitionPosition {
    PartitionPosition { partition, next_offset }
}
