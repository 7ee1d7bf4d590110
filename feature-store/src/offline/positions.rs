//! Source positions, as they stand in a table's log: the newest `txn` action of every application id.
//!
//! The Delta library answers for one application id at a time, and which partitions exist is known only to the log
//! itself. So the log is read here: the newest checkpoint's `txn` column, then the commits after it.
//! Format: Delta transaction protocol, sections "Transaction Identifiers" and "Checkpoints" (V1).

use super::layout::parse_app_id;
use arrow::array::{Array, AsArray, StructArray};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeMap;

/// Next offsets of one generation, by partition.
pub(super) type Partitions = BTreeMap<i32, i64>;

/// Committed positions of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Positions {
    /// By generation.
    generations: BTreeMap<String, Generation>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Generation {
    partitions: Partitions,
    /// When a position of it last moved, in milliseconds since the epoch.
    moved_ms: i64,
}

impl Positions {
    /// The positions of one generation.
    pub(super) fn of(&self, generation: &str) -> Partitions {
        self.generations
            .get(generation)
            .map(|found| found.partitions.clone())
            .unwrap_or_default()
    }

    /// The next offset of one partition.
    pub(super) fn next(&self, generation: &str, partition: i32) -> Option<i64> {
        self.generations.get(generation)?.partitions.get(&partition).copied()
    }

    /// Moves a position.
    pub(super) fn set(&mut self, generation: &str, partition: i32, next_offset: i64, moved_ms: i64) {
        let entry = self.generations.entry(generation.to_owned()).or_default();
        entry.partitions.insert(partition, next_offset);
        entry.moved_ms = entry.moved_ms.max(moved_ms);
    }

    /// Generations in the order in which they were left: a topic's lives don't overlap.
    pub(super) fn generations(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .generations
            .iter()
            .map(|(name, entry)| (entry.moved_ms, name))
            .collect();
        names.sort();
        names.into_iter().map(|(_, name)| name.clone()).collect()
    }

    /// The generation delivered last.
    pub(super) fn newest(&self) -> Option<String> {
        self.generations().pop()
    }
}

/// Reads the positions of `source` as of `version` from the log in `store`, whose root is the table.
pub(super) async fn read(store: &dyn ObjectStore, source: &str, version: u64) -> Result<Positions, String> {
    let log = Path::from("_delta_log");
    let files: Vec<_> = store
        .list(Some(&log))
        .map_ok(|meta| meta.location)
        .try_collect()
        .await
        .map_err(text)?;
    let checkpoint = files
        .iter()
        .filter_map(checkpoint_version)
        .filter(|found| *found <= version)
        .max();
    let mut positions = Positions::default();
    for path in files
        .iter()
        .filter(|path| checkpoint.is_some() && checkpoint_version(path) == checkpoint)
    {
        let bytes = store.get(path).await.map_err(text)?.bytes().await.map_err(text)?;
        from_checkpoint(bytes, source, &mut positions).map_err(|why| format!("checkpoint {path}: {why}"))?;
    }
    let mut commits: Vec<_> = files
        .iter()
        .filter_map(|path| Some((commit_version(path)?, path)))
        .filter(|(found, _)| *found <= version && checkpoint.is_none_or(|checkpoint| *found > checkpoint))
        .collect();
    commits.sort();
    for (_, path) in commits {
        let bytes = store.get(path).await.map_err(text)?.bytes().await.map_err(text)?;
        from_commit(&bytes, source, &mut positions).map_err(|why| format!("commit {path}: {why}"))?;
    }
    Ok(positions)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The version of `00000000000000000012.json`.
fn commit_version(path: &Path) -> Option<u64> {
    let digits = path.filename()?.strip_suffix(".json")?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

/// The version of `00000000000000000012.checkpoint.parquet`, or of a part of such a checkpoint.
fn checkpoint_version(path: &Path) -> Option<u64> {
    let name = path.filename()?;
    let (digits, rest) = name.split_once('.')?;
    (digits.len() == 20 && rest.starts_with("checkpoint.") && rest.ends_with(".parquet"))
        .then(|| digits.parse().ok())?
}

fn from_commit(bytes: &Bytes, source: &str, positions: &mut Positions) -> Result<(), String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Txn {
        app_id: String,
        version: i64,
        last_updated: Option<i64>,
    }
    #[derive(serde::Deserialize)]
    struct Line {
        txn: Option<Txn>,
    }
    for line in bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.trim_ascii().is_empty())
    {
        let line: Line = serde_json::from_slice(line).map_err(text)?;
        let Some(txn) = line.txn else { continue };
        if let Some((generation, partition)) = parse_app_id(&txn.app_id, source) {
            positions.set(generation, partition, txn.version, txn.last_updated.unwrap_or_default());
        }
    }
    Ok(())
}

fn from_checkpoint(bytes: Bytes, source: &str, positions: &mut Positions) -> Result<(), String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(text)?;
    let schema = builder.parquet_schema();
    let Some(root) = schema
        .root_schema()
        .get_fields()
        .iter()
        .position(|field| field.name() == "txn")
    else {
        return Ok(());
    };
    let mask = ProjectionMask::roots(schema, [root]);
    for batch in builder.with_projection(mask).build().map_err(text)? {
        let batch = batch.map_err(text)?;
        let txn = batch.column(0).as_struct_opt().ok_or("its `txn` column is no struct")?;
        from_txns(txn, source, positions)?;
    }
    Ok(())
}

fn from_txns(txn: &StructArray, source: &str, positions: &mut Positions) -> Result<(), String> {
    let column = |name: &str| {
        txn.column_by_name(name)
            .ok_or_else(|| format!("its `txn.{name}` is missing"))
    };
    let long = |name: &str| {
        column(name)?
            .as_primitive_opt::<Int64Type>()
            .ok_or_else(|| format!("its `txn.{name}` is no integer"))
    };
    let ids = column("appId")?
        .as_string_opt::<i32>()
        .ok_or("its `txn.appId` is no text")?;
    let (versions, updated) = (long("version")?, long("lastUpdated")?);
    for row in (0..txn.len()).filter(|row| txn.is_valid(*row)) {
        if let Some((generation, partition)) = parse_app_id(ids.value(row), source) {
            let moved_ms = if updated.is_valid(row) { updated.value(row) } else { 0 };
            positions.set(generation, partition, versions.value(row), moved_ms);
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn generations_stand_in_the_order_in_which_they_were_left() {
        let mut positions = Positions::default();
        positions.set("b", 0, 10, 1);
        positions.set("a", 0, 5, 7);
        positions.set("b", 1, 10, 3);
        assert_eq!(positions.generations(), ["b", "a"]);
        assert_eq!(positions.newest().as_deref(), Some("a"));
    }

    #[test]
    fn a_later_commit_moves_a_position_and_other_applications_are_ignored() {
        let mut positions = Positions::default();
        let lines = br#"{"commitInfo":{}}
{"txn":{"appId":"ondol/s/g/0","version":5,"lastUpdated":1}}
{"txn":{"appId":"someone-else","version":9}}
{"txn":{"appId":"ondol/s/g/0","version":8,"lastUpdated":2}}"#;
        from_commit(&Bytes::from_static(lines), "s", &mut positions).unwrap();
        assert_eq!(positions.of("g"), Partitions::from([(0, 8)]));
    }
}
