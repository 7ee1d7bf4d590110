//! A feature store that only holds definitions and tables, and the tables themselves, on disk and on S3.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod definitions;
pub mod lake;
pub mod oracle;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType as ArrowType, Field, Schema};
use async_trait::async_trait;
use deltalake_core::kernel::transaction::CommitBuilder;
use deltalake_core::kernel::{Action, DataType as DeltaType, PrimitiveType, StructField};
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::protocol::DeltaOperation;
use deltalake_core::writer::{DeltaWriter, RecordBatchWriter};
use ondol_feature_store_api::maintenance::Compaction;
use ondol_feature_store_api::wire::{
    Applied, DefinitionFiles, DefinitionHistory, Delivery, FeatureBatch, OfflineTable, PartitionPosition, Plan,
    ReadRequest, WriteReceipt,
};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_jobs::{PipelinesConfig, PipelinesService};
use ondol_pipelines_api::wire::{AsOf, Job, JobResult, JobState, TrainingSetOptions, TrainingSetRequest};
use ondol_pipelines_api::{Pipelines, PipelinesError};
use ondol_runtime::{Health, Shutdown, SystemClock};
use ondol_vocabulary::{Snapshot, ViewState};
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A feature store that holds definitions and tables, and remembers what it was told.
#[derive(Default)]
pub struct FakeStore {
    pub snapshot: Mutex<Snapshot>,
    pub tables: Mutex<Vec<OfflineTable>>,
    pub flushed: Mutex<Vec<String>>,
    pub deliveries: Mutex<Vec<Delivery>>,
    pub activated: Mutex<Vec<u32>>,
    /// Errors to answer writes with, first to last.
    pub refusals: Mutex<Vec<FeatureStoreError>>,
    /// While set, neither a flush nor a compaction returns.
    pub held: AtomicBool,
    /// While set, a flush holds up the thread that runs it, and everything else that thread should do.
    pub stalled: AtomicBool,
    pub compacted: Mutex<Vec<String>>,
}

impl FakeStore {
    /// With the definitions of `text` in force and every view in `state`.
    pub fn with(text: &str, state: ViewState) -> Self {
        Self {
            snapshot: Mutex::new(definitions::snapshot(text, state)),
            ..Self::default()
        }
    }

    /// Says that the log of `source` is at `folder`.
    pub fn archive(&self, source: &str, folder: &Path) {
        self.tables.lock().unwrap().push(OfflineTable {
            source: source.to_owned(),
            url: url::Url::from_directory_path(folder).unwrap().to_string(),
            version: Some(0),
            rows: None,
        });
    }
}

#[async_trait]
impl FeatureStore for FakeStore {
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

    async fn history(&self, _: &str) -> Result<DefinitionHistory, FeatureStoreError> {
        unreachable!("no test asks for history")
    }

    async fn activate(&self, view_id: u32) -> Result<(), FeatureStoreError> {
        self.activated.lock().unwrap().push(view_id);
        let mut snapshot = self.snapshot.lock().unwrap();
        snapshot.version += 1;
        let view = snapshot.views.iter_mut().find(|view| view.id == view_id).unwrap();
        view.state = ViewState::Active;
        Ok(())
    }

    async fn resume(&self, _: &str, _: &str) -> Result<Vec<PartitionPosition>, FeatureStoreError> {
        unreachable!("no test ingests")
    }

    async fn write(&self, delivery: Delivery) -> Result<WriteReceipt, FeatureStoreError> {
        let mut refusals = self.refusals.lock().unwrap();
        if !refusals.is_empty() {
            return Err(refusals.remove(0));
        }
        self.deliveries.lock().unwrap().push(delivery);
        Ok(WriteReceipt::default())
    }

    async fn compact(&self, source: &str) -> Result<Compaction, FeatureStoreError> {
        while self.held.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.compacted.lock().unwrap().push(source.to_owned());
        Ok(Compaction {
            source: source.to_owned(),
            files_removed: 9,
            files_added: 1,
            ..Compaction::default()
        })
    }

    async fn flush(&self, source: &str) -> Result<WriteReceipt, FeatureStoreError> {
        while self.stalled.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        while self.held.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.flushed.lock().unwrap().push(source.to_owned());
        Ok(WriteReceipt::default())
    }

    async fn read(&self, _: ReadRequest) -> Result<FeatureBatch, FeatureStoreError> {
        unreachable!("no test reads")
    }

    async fn tables(&self) -> Result<Vec<OfflineTable>, FeatureStoreError> {
        Ok(self.tables.lock().unwrap().clone())
    }
}

/// A service over `store`, its data in `folder`.
pub struct Bench {
    pub store: Arc<FakeStore>,
    pub service: PipelinesService,
    pub shutdown: Shutdown,
}

impl Bench {
    pub async fn open(store: Arc<FakeStore>, config: PipelinesConfig) -> Self {
        // Before the first place is opened: a process has one configuration of S3.
        lake::reach_s3();
        let shutdown = Shutdown::new();
        let health = Health::new();
        let clock = Arc::new(SystemClock);
        let service = PipelinesService::open(config, store.clone(), clock, &shutdown, &health)
            .await
            .unwrap();
        assert!(health.is_ready());
        Self {
            store,
            service,
            shutdown,
        }
    }

    pub async fn close(self) {
        assert!(self.shutdown.drain(Duration::from_secs(30)).await);
    }

    /// The job `id` once it is at work, or has been.
    pub async fn started(&self, id: &str) -> Job {
        let mut seen = Some(u64::MAX);
        loop {
            let job = self.service.job(id, seen, Duration::from_secs(10)).await.unwrap();
            if job.state != JobState::Queued {
                return job;
            }
            seen = Some(job.revision);
        }
    }

    /// The job `id` once it has ended.
    pub async fn ended(&self, id: &str) -> Job {
        ended(&self.service, id).await
    }

    /// Builds a training set that must succeed.
    pub async fn build(&self, request: TrainingSetRequest) -> (Job, RecordBatch) {
        let job = self.service.training_set(request).await.unwrap();
        let job = self.ended(&job.id).await;
        assert_eq!((job.state, job.error.clone()), (JobState::Succeeded, None));
        let JobResult { schema, batches } = self.service.result(&job.id).await.unwrap();
        let rows = arrow::compute::concat_batches(&schema, &batches).unwrap();
        (job, rows)
    }

    /// What is wrong with a spine that must be refused.
    pub async fn problems(&self, request: TrainingSetRequest) -> Vec<String> {
        match self.service.training_set(request).await {
            Err(PipelinesError::InvalidSpine { problems, .. }) => problems,
            other => panic!("not refused: {other:?}"),
        }
    }
}

/// The job `id` of `service` once it has ended.
pub async fn ended(service: &impl Pipelines, id: &str) -> Job {
    let mut seen = None;
    loop {
        let job = service.job(id, seen, Duration::from_secs(10)).await.unwrap();
        if job.state.is_final() {
            return job;
        }
        seen = Some(job.revision);
    }
}

pub fn config(folder: &Path) -> PipelinesConfig {
    PipelinesConfig {
        reconcile: false,
        threads: 2,
        ..PipelinesConfig::embedded(folder)
    }
}

/// A request for `model` over one batch.
pub fn request(model: &str, as_of: AsOf, spine: RecordBatch) -> TrainingSetRequest {
    TrainingSetRequest {
        options: TrainingSetOptions {
            model: model.to_owned(),
            time_column: None,
            as_of,
            exact_status: false,
        },
        spine_schema: spine.schema(),
        spine: vec![spine],
    }
}

/// A batch of nullable columns.
pub fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

pub fn strings<'a>(values: impl IntoIterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<StringArray>())
}

pub fn floats(values: impl IntoIterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Float64Array>())
}

pub fn integers(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Int64Array>())
}

pub fn moments(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
}

/// Archives `commits` of events as the store does, a Delta commit each.
pub async fn write_log(folder: &Path, commits: &[Vec<oracle::Event>]) {
    let primitive = DeltaType::Primitive;
    let columns = [
        ("k", PrimitiveType::String),
        ("amount", PrimitiveType::Double),
        ("n", PrimitiveType::Long),
        ("flag", PrimitiveType::Boolean),
        ("ts", PrimitiveType::Timestamp),
        ("_partition", PrimitiveType::Integer),
        ("_offset", PrimitiveType::Long),
        ("_ingested_at", PrimitiveType::Timestamp),
        ("_event_date", PrimitiveType::Date),
    ];
    let columns = columns.map(|(name, kind)| StructField::nullable(name, primitive(kind)));
    let url = url::Url::from_directory_path(folder).unwrap();
    let mut table = CreateBuilder::new()
        .with_location(url.as_str())
        .with_columns(columns)
        .with_partition_columns(["_event_date"])
        .await
        .unwrap();
    for commit in commits {
        let mut writer = RecordBatchWriter::for_table(&table).unwrap();
        writer.write(log_batch(commit)).await.unwrap();
        writer.flush_and_commit(&mut table).await.unwrap();
    }
}

/// Appends a commit to the log at `folder`.
pub async fn append_log(folder: &Path, events: &[oracle::Event]) {
    let mut table = open(folder).await;
    let mut writer = RecordBatchWriter::for_table(&table).unwrap();
    writer.write(log_batch(events)).await.unwrap();
    writer.flush_and_commit(&mut table).await.unwrap();
}

async fn open(folder: &Path) -> deltalake_core::DeltaTable {
    deltalake_core::open_table(url::Url::from_directory_path(folder).unwrap())
        .await
        .unwrap()
}

/// Arranges the log anew: all files of a partition in one, in a commit that changes no data.
pub async fn compact_log(folder: &Path) {
    let table = open(folder).await;
    let files = table.snapshot().unwrap().log_data();
    let before: Vec<_> = (files.iter())
        .map(|file| (file.path().to_string(), file.partition_values_map()))
        .collect();
    let removed: Vec<_> = files
        .iter()
        .map(|file| Action::Remove(file.remove_action(false)))
        .collect();
    let mut writer = RecordBatchWriter::for_table(&table).unwrap();
    for (path, values) in before {
        let date = values["_event_date"].clone().unwrap();
        let date = chrono::NaiveDate::parse_from_str(&date, "%Y-%m-%d").unwrap();
        let days = i32::try_from((date - chrono::NaiveDate::default()).num_days()).unwrap();
        let file = std::fs::File::open(folder.join(&path)).unwrap();
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        for rows in reader.build().unwrap() {
            let rows = rows.unwrap();
            let dates: ArrayRef = Arc::new(Date32Array::from(vec![days; rows.num_rows()]));
            let mut columns: Vec<(&str, ArrayRef)> = Vec::new();
            let schema = rows.schema();
            for (field, column) in schema.fields().iter().zip(rows.columns()) {
                columns.push((field.name(), Arc::clone(column)));
            }
            columns.push(("_event_date", dates));
            writer.write(batch(columns)).await.unwrap();
        }
    }
    let added = writer.flush().await.unwrap().into_iter().map(|mut add| {
        add.data_change = false;
        Action::Add(add)
    });
    let actions = added.chain(removed).collect();
    let operation = DeltaOperation::Optimize {
        predicate: None,
        target_size: 1,
    };
    commit(&table, actions, operation).await;
}

async fn commit(table: &deltalake_core::DeltaTable, actions: Vec<Action>, operation: DeltaOperation) {
    let commit = CommitBuilder::default().with_actions(actions);
    let snapshot = table.snapshot().unwrap();
    commit
        .build(Some(snapshot), table.log_store(), operation)
        .await
        .unwrap();
}

/// Deletes what the newest version of the log at `folder` doesn't hold, and says so in the log; how many files.
pub async fn vacuum_log(folder: &Path) -> usize {
    let table = open(folder).await;
    let held: Vec<String> = (table.snapshot().unwrap().log_data().iter())
        .map(|file| file.path().to_string())
        .collect();
    let mut removed = 0;
    for partition in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if !partition.to_str().unwrap().contains("_event_date=") {
            continue;
        }
        for file in std::fs::read_dir(&partition)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            let name = file.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            if !held.contains(&name) {
                std::fs::remove_file(&file).unwrap();
                removed += 1;
            }
        }
    }
    let operation = DeltaOperation::VacuumEnd {
        status: "COMPLETED".to_owned(),
    };
    commit(&table, Vec::new(), operation).await;
    removed
}

fn log_batch(events: &[oracle::Event]) -> RecordBatch {
    let date = |event: &oracle::Event| i32::try_from(event.time.div_euclid(86_400_000_000)).unwrap();
    batch(vec![
        ("k", strings(events.iter().map(|event| event.key.as_deref()))),
        ("amount", floats(events.iter().map(|event| event.amount))),
        ("n", integers(events.iter().map(|event| event.n))),
        (
            "flag",
            Arc::new(events.iter().map(|event| event.flag).collect::<BooleanArray>()),
        ),
        ("ts", moments(events.iter().map(|event| event.time))),
        (
            "_partition",
            Arc::new(Int32Array::from_iter_values(events.iter().map(|event| event.partition))),
        ),
        ("_offset", integers(events.iter().map(|event| Some(event.offset)))),
        ("_ingested_at", moments(events.iter().map(|event| event.known))),
        (
            "_event_date",
            Arc::new(Date32Array::from_iter_values(events.iter().map(date))),
        ),
    ])
}

/// Writes a Parquet file with `row_group` rows a group.
pub fn write_parquet(path: &Path, batch: &RecordBatch, row_group: usize) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_max_row_group_row_count(Some(row_group))
        .build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// Columns as text, for comparison of whole tables.
pub fn cells(batch: &RecordBatch, column: &str) -> Vec<String> {
    let array = batch
        .column_by_name(column)
        .unwrap_or_else(|| panic!("no column {column}: {}", batch.schema()));
    assert_ne!(*array.data_type(), ArrowType::Null);
    let options = arrow::util::display::FormatOptions::new().with_null("null");
    let formatter = arrow::util::display::ArrayFormatter::try_new(array, &options).unwrap();
    (0..array.len()).map(|row| formatter.value(row).to_string()).collect()
}

/// Columns by name, as text.
pub fn table(batch: &RecordBatch) -> HashMap<String, Vec<String>> {
    batch
        .schema()
        .fields()
        .iter()
        .map(|field| (field.name().clone(), cells(batch, field.name())))
        .collect()
}

/// A Delta table of merchant 7's rows (country, risk, time), partitioned by country.
pub async fn write_delta_merchants(folder: &Path, rows: &[(&str, f64, i64)]) {
    let columns = [
        ("id", PrimitiveType::Long),
        ("country", PrimitiveType::String),
        ("risk", PrimitiveType::Double),
        ("updated_at", PrimitiveType::Timestamp),
    ];
    let columns = columns.map(|(name, kind)| StructField::nullable(name, DeltaType::Primitive(kind)));
    let url = url::Url::from_directory_path(folder).unwrap();
    let create = CreateBuilder::new().with_location(url.as_str()).with_columns(columns);
    create.with_partition_columns(["country"]).await.unwrap();
    append_delta_merchants(folder, rows).await;
}

/// Appends a commit to the table of [`write_delta_merchants`].
pub async fn append_delta_merchants(folder: &Path, rows: &[(&str, f64, i64)]) {
    let mut table = open(folder).await;
    let mut writer = RecordBatchWriter::for_table(&table).unwrap();
    let rows = batch(vec![
        ("id", integers(rows.iter().map(|_| Some(7)))),
        ("country", strings(rows.iter().map(|(country, ..)| Some(*country)))),
        ("risk", floats(rows.iter().map(|(_, risk, _)| Some(*risk)))),
        ("updated_at", moments(rows.iter().map(|(.., time)| *time))),
    ]);
    writer.write(rows).await.unwrap();
    writer.flush_and_commit(&mut table).await.unwrap();
}
