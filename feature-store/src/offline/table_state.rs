//! What a writer knows of a table, kept by following its commits one by one.
//!
//! The Delta library's own state re-reads what it knows of every file at each commit, and lists the log's folder: both
//! grow with the table. Here a commit costs what it adds, and a file is a few hundred bytes. The library still
//! reads a table when it is opened, whatever its checkpoints look like.

use super::layout::parse_app_id;
use super::log_file::{Files, LogFile, rows_of};
use super::positions::Positions;
use bytes::Bytes;
use deltalake_core::kernel::{Add, Metadata, Protocol, Remove, StructType, Transaction};
use deltalake_core::table::state::DeltaTableState;
use std::sync::Arc;

/// The newest protocol that this writer knows; see `docs/offline-tables.md`.
const READER_VERSION: i32 = 1;
const WRITER_VERSION: i32 = 2;

/// A table as of one version.
#[derive(Clone, Debug)]
pub(super) struct TableState {
    version: u64,
    metadata: Metadata,
    schema: Arc<StructType>,
    files: Files,
    positions: Positions,
}

/// What one commit changes.
#[derive(Debug, Default)]
pub(super) struct Commit {
    metadata: Option<(Metadata, Arc<StructType>)>,
    added: Vec<Add>,
    removed: Vec<Remove>,
    positions: Vec<Transaction>,
}

impl TableState {
    /// As the library has read it; `positions` are those of the same version.
    pub(super) fn of(state: &DeltaTableState, positions: Positions) -> Result<Self, String> {
        check(state.protocol())?;
        #[allow(
            deprecated,
            reason = "the table is read once, file by file: there are no Arrow arrays to use"
        )]
        let adds = state
            .log_data()
            .iter()
            .map(|file| file.add_action())
            .collect::<Vec<_>>();
        Ok(Self {
            version: state.version(),
            metadata: state.metadata().clone(),
            schema: state.schema(),
            files: adds.iter().map(entry).collect(),
            positions,
        })
    }

    /// The version it is of.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The table's metadata.
    pub(super) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The table's columns, in Delta's types.
    pub(super) fn schema(&self) -> &Arc<StructType> {
        &self.schema
    }

    /// The active files.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// Committed positions.
    pub(super) fn positions(&self) -> &Positions {
        &self.positions
    }

    /// Rows, when every file says how many it has.
    pub(super) fn rows(&self) -> Option<u64> {
        rows_of(self.files.values())
    }

    /// Goes on to the next version, which `commit` has made.
    pub(super) fn apply(&mut self, source: &str, commit: Commit) {
        self.version += 1;
        if let Some((metadata, schema)) = commit.metadata {
            self.metadata = metadata;
            self.schema = schema;
        }
        for remove in &commit.removed {
            self.files.remove(&remove.path);
        }
        self.files.extend(commit.added.iter().map(entry));
        for txn in &commit.positions {
            if let Some((generation, partition)) = parse_app_id(&txn.app_id, source) {
                let moved_ms = txn.last_updated.unwrap_or_default();
                self.positions.set(generation, partition, txn.version, moved_ms);
            }
        }
    }
}

impl Commit {
    /// Paths of the files it takes out.
    pub(super) fn removed_paths(&self) -> impl Iterator<Item = &str> {
        self.removed.iter().map(|remove| remove.path.as_str())
    }

    /// Reads a log entry.
    pub(super) fn parse(bytes: &Bytes) -> Result<Self, String> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Line {
            meta_data: Option<Metadata>,
            protocol: Option<Protocol>,
            add: Option<Add>,
            remove: Option<Remove>,
            txn: Option<Transaction>,
        }
        let mut commit = Self::default();
        let lines = bytes.split(|byte| *byte == b'\n');
        for line in lines.filter(|line| !line.trim_ascii().is_empty()) {
            let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
            if let Some(protocol) = line.protocol {
                check(&protocol)?;
            }
            if let Some(metadata) = line.meta_data {
                let schema = metadata.parse_schema().map_err(|error| error.to_string())?;
                commit.metadata = Some((metadata, Arc::new(schema)));
            }
            commit.added.extend(line.add);
            commit.removed.extend(line.remove);
            commit.positions.extend(line.txn);
        }
        Ok(commit)
    }
}

fn entry(add: &Add) -> (String, Arc<LogFile>) {
    (add.path.clone(), Arc::new(LogFile::of(add)))
}

/// Whoever raised the protocol writes what this writer would not understand.
fn check(protocol: &Protocol) -> Result<(), String> {
    let (reader, writer) = (protocol.min_reader_version(), protocol.min_writer_version());
    if reader > READER_VERSION || writer > WRITER_VERSION {
        return Err(format!(
            "the table was raised to Delta reader version {reader} and writer version {writer}; Ondol writes \
             {READER_VERSION} and {WRITER_VERSION}: only the feature store may write its tables"
        ));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_commit_moves_positions_and_other_applications_are_ignored() {
        let lines = br#"{"commitInfo":{}}
{"txn":{"appId":"ondol/s/g/0","version":5,"lastUpdated":1}}
{"txn":{"appId":"someone-else","version":9}}"#;
        let commit = Commit::parse(&Bytes::from_static(lines)).unwrap();
        assert_eq!(commit.positions.len(), 2);
        assert!(commit.added.is_empty() && commit.metadata.is_none());
    }

    #[test]
    fn a_table_that_another_writer_raised_is_refused() {
        let line =
            br#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":[],"writerFeatures":[]}}"#;
        let refused = Commit::parse(&Bytes::from_static(line)).unwrap_err();
        assert!(refused.contains("writer version 7"), "{refused}");
    }
}
