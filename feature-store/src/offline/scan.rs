//! Reading a log back: committed files, commit by commit, each commit's rows in order of (partition, offset).
//!
//! Order matters to whoever feeds fences: a commit spreads one partition's offsets over several files (one per event
//! date), so files alone are out of order; whole commits are not. Memory: one commit's projected rows at a time.

use super::failure::{internal, unavailable};
use super::layout::{GENERATION, added_columns, commit_of, file_schema};
use super::positions::Positions;
use super::table::LogTable;
use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, new_null_array};
use arrow::compute::{SortColumn, concat_batches, filter_record_batch, lexsort_to_indices, take_record_batch};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::columns;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The committed files of one source at one moment.
#[derive(Clone)]
pub struct LogScan {
    source: String,
    store: Arc<dyn ObjectStore>,
    schema: SchemaRef,
    version: Option<u64>,
    generations: Vec<String>,
    commits: BTreeMap<String, Vec<LogFile>>,
}

#[derive(Clone, Debug)]
struct LogFile {
    path: String,
    rows: Option<u64>,
    generation: Option<String>,
}

/// One commit of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitId(String);

impl LogScan {
    pub(super) fn of(source: &str, table: &LogTable) -> Result<Self, FeatureStoreError> {
        let mut scan = Self {
            source: source.to_owned(),
            store: table.store(),
            schema: Arc::new(arrow::datatypes::Schema::empty()),
            version: None,
            generations: Positions::generations(table.positions()),
            commits: BTreeMap::new(),
        };
        let Some(state) = table.state() else { return Ok(scan) };
        scan.schema = file_schema(&state.schema()).map_err(|detail| internal(source, detail))?;
        scan.version = Some(state.version());
        for file in state.log_data().iter() {
            let path = file.path().into_owned();
            let rows = file.num_records().and_then(|rows| u64::try_from(rows).ok());
            let generation = file.stats().as_deref().and_then(generation_of);
            scan.commits
                .entry(commit_of(&path).to_owned())
                .or_default()
                .push(LogFile { path, rows, generation });
        }
        Ok(scan)
    }

    /// The table version scanned; none before the table exists.
    pub fn version(&self) -> Option<u64> {
        self.version
    }

    /// Rows, when every file says how many it has.
    pub fn rows(&self) -> Option<u64> {
        self.commits.values().flatten().map(|file| file.rows).sum()
    }

    /// Generations in the order in which they were left.
    pub fn generations(&self) -> &[String] {
        &self.generations
    }

    /// Commits that hold rows of `generation`, oldest first. None means of any generation.
    pub fn commits(&self, generation: Option<&str>) -> Vec<CommitId> {
        let may_hold = |file: &LogFile| match (&file.generation, generation) {
            (Some(held), Some(wanted)) => held == wanted,
            (None, _) | (_, None) => true,
        };
        let holding = self.commits.iter().filter(|(_, files)| files.iter().any(may_hold));
        holding.map(|(commit, _)| CommitId(commit.clone())).collect()
    }

    /// Leaves out the commits that `earlier` has.
    pub fn since(mut self, earlier: &Self) -> Self {
        self.commits.retain(|commit, _| !earlier.commits.contains_key(commit));
        self
    }

    /// Whether the table has a column of this name.
    pub fn has(&self, column: &str) -> bool {
        self.schema.field_with_name(column).is_ok()
    }

    /// Names of every column, in the table's order; `_event_date` is not among them.
    pub fn columns(&self) -> Vec<String> {
        self.schema.fields().iter().map(|field| field.name().clone()).collect()
    }

    /// The rows of one commit in order of (partition, offset), with `columns` in that order (a column that the table
    /// lacks is an error); only those of `generation` when given.
    pub async fn read(
        &self,
        commit: &CommitId,
        generation: Option<&str>,
        columns: &[String],
    ) -> Result<RecordBatch, FeatureStoreError> {
        let asked = self.indexes(columns)?;
        // Sorting and choosing the generation need these, asked for or not.
        let needed: BTreeSet<usize> = asked
            .iter()
            .copied()
            .chain(self.indexes(&position_columns())?)
            .collect();
        let needed: Vec<usize> = needed.into_iter().collect();
        let schema = Arc::new(
            self.schema
                .project(&needed)
                .map_err(|error| internal(&self.source, error))?,
        );
        let mut batches = Vec::new();
        for file in self.commits.get(&commit.0).into_iter().flatten() {
            batches.extend(self.read_file(file, &schema).await?);
        }
        let rows = concat_batches(&schema, &batches).map_err(|error| internal(&self.source, error))?;
        let rows = of_generation(rows, generation).and_then(|rows| in_order(&rows));
        let rows = rows.map_err(|error| internal(&self.source, error))?;
        let order: Vec<usize> = asked
            .iter()
            .filter_map(|index| needed.iter().position(|held| held == index))
            .collect();
        rows.project(&order).map_err(|error| internal(&self.source, error))
    }

    fn indexes(&self, names: &[String]) -> Result<Vec<usize>, FeatureStoreError> {
        let index = |name: &String| {
            self.schema
                .index_of(name)
                .map_err(|_| FeatureStoreError::InvalidRequest {
                    detail: format!("the offline table of `{}` has no column `{name}`", self.source),
                })
        };
        names.iter().map(index).collect()
    }

    async fn read_file(&self, file: &LogFile, schema: &SchemaRef) -> Result<Vec<RecordBatch>, FeatureStoreError> {
        let failed =
            |error: &dyn std::fmt::Display| unavailable(&self.source, &format!("reading {} of", file.path), error);
        let object = self
            .store
            .get(&Path::from(file.path.as_str()))
            .await
            .map_err(|error| failed(&error))?;
        let bytes = object.bytes().await.map_err(|error| failed(&error))?;
        let wanted = Arc::clone(schema);
        let decoded = tokio::task::spawn_blocking(move || decode(bytes, &wanted)).await;
        let batches = decoded
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))?;
        batches.iter().map(|batch| self.widen(batch, schema)).collect()
    }

    /// Columns that were added to the table after the file was written are null.
    fn widen(&self, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, FeatureStoreError> {
        let column = |field: &Arc<arrow::datatypes::Field>| match batch.column_by_name(field.name()) {
            Some(column) => Arc::clone(column),
            None => new_null_array(field.data_type(), batch.num_rows()),
        };
        let columns: Vec<ArrayRef> = schema.fields().iter().map(column).collect();
        RecordBatch::try_new(Arc::clone(schema), columns).map_err(|error| internal(&self.source, error))
    }
}

/// The columns of `wanted` that the file has.
fn decode(bytes: Bytes, wanted: &SchemaRef) -> Result<Vec<RecordBatch>, String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| error.to_string())?;
    let held = Arc::clone(builder.schema());
    let roots = held
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| wanted.field_with_name(field.name()).is_ok());
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots.map(|(index, _)| index));
    let reader = builder
        .with_projection(mask)
        .build()
        .map_err(|error| error.to_string())?;
    reader.collect::<Result<_, _>>().map_err(|error| error.to_string())
}

fn position_columns() -> Vec<String> {
    added_columns()
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .filter(|name| name != columns::INGESTED_AT)
        .collect()
}

/// The one generation of a file, when its statistics name it.
fn generation_of(stats: &str) -> Option<String> {
    let stats: serde_json::Value = serde_json::from_str(stats).ok()?;
    let bound = |which: &str| stats.get(which)?.get(GENERATION)?.as_str();
    let least = bound("minValues")?;
    (bound("maxValues")? == least).then(|| least.to_owned())
}

fn of_generation(rows: RecordBatch, generation: Option<&str>) -> Result<RecordBatch, String> {
    let Some(wanted) = generation else { return Ok(rows) };
    let held = rows
        .column_by_name(GENERATION)
        .and_then(|column| column.as_string_opt::<i32>())
        .ok_or("column `_generation` is missing")?;
    let keep: BooleanArray = held.iter().map(|value| Some(value == Some(wanted))).collect();
    if keep.true_count() == rows.num_rows() {
        return Ok(rows);
    }
    filter_record_batch(&rows, &keep).map_err(|error| error.to_string())
}

fn in_order(rows: &RecordBatch) -> Result<RecordBatch, String> {
    let sort = |name: &str| {
        let values = rows
            .column_by_name(name)
            .cloned()
            .ok_or_else(|| format!("column `{name}` is missing"))?;
        Ok::<_, String>(SortColumn { values, options: None })
    };
    let order = lexsort_to_indices(&[sort(columns::PARTITION)?, sort(columns::OFFSET)?], None);
    let order = order.map_err(|error| error.to_string())?;
    take_record_batch(rows, &order).map_err(|error| error.to_string())
}
