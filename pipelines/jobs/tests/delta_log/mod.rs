//! A Delta table whose log is written by hand: appends, removals, overwrites and compactions as other writers commit them.
#![allow(dead_code, reason = "each test binary uses its part")]

use crate::support::write_parquet;
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::TimestampMicrosecondType;
use ondol_vocabulary::EventTime;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A table of merchants.
pub struct DeltaLog {
    folder: PathBuf,
    version: u64,
    written: usize,
    /// The files of the present version, oldest first.
    files: Vec<(String, RecordBatch)>,
}

impl DeltaLog {
    pub fn create(folder: &Path) -> Self {
        let field = |name: &str, kind: &str| json!({"name": name, "type": kind, "nullable": true, "metadata": {}});
        let fields = [
            field("id", "long"),
            field("country", "string"),
            field("updated_at", "timestamp"),
        ];
        let schema = json!({"type": "struct", "fields": fields}).to_string();
        std::fs::create_dir_all(folder.join("_delta_log")).unwrap();
        let mut log = Self {
            folder: folder.to_owned(),
            version: 0,
            written: 0,
            files: Vec::new(),
        };
        log.commit(&[
            json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}),
            json!({"metaData": {"id": "11111111-2222-3333-4444-555555555555", "format": {"provider": "parquet", "options": {}},
                "schemaString": schema, "partitionColumns": [], "configuration": {}, "createdTime": 0}}),
        ]);
        log
    }

    /// A commit that adds a file.
    pub fn append(&mut self, rows: &RecordBatch) {
        let add = self.add(rows, true);
        self.commit(&[add]);
    }

    /// A commit that takes file `index` away.
    pub fn remove(&mut self, index: usize) {
        let remove = self.take(index, true);
        self.commit(&[remove]);
    }

    /// A commit in which another file takes the place of file `index`.
    pub fn rewrite(&mut self, index: usize, rows: &RecordBatch) {
        let actions = [self.take(index, true), self.add(rows, true)];
        self.commit(&actions);
    }

    /// A commit that leaves nothing but `rows`.
    pub fn overwrite(&mut self, rows: &RecordBatch) {
        let mut actions: Vec<Value> = (0..self.files.len()).map(|_| self.take(0, true)).collect();
        actions.push(self.add(rows, true));
        self.commit(&actions);
    }

    /// A commit that writes files together, in another order.
    pub fn compact(&mut self, indexes: &[usize]) {
        let mut batches: Vec<RecordBatch> = indexes.iter().map(|index| self.files[*index].1.clone()).collect();
        batches.reverse();
        let rows = concat_batches(&batches[0].schema(), &batches).unwrap();
        let mut actions: Vec<Value> = indexes.iter().rev().map(|index| self.take(*index, false)).collect();
        actions.push(self.add(&rows, false));
        self.commit(&actions);
    }

    /// The log of a table that was cleaned up: the present version's state, without the commits that led there.
    pub fn checkpoint_and_forget(&mut self) {
        let folder = self.folder.clone();
        let version = self.version - 1;
        let checkpoint = async move {
            let url = url::Url::from_directory_path(&folder).unwrap();
            let table = deltalake_core::open_table(url).await.unwrap();
            deltalake_core::checkpoints::create_checkpoint(&table, None)
                .await
                .unwrap();
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(checkpoint);
            });
        });
        for forgotten in 0..=version {
            if forgotten < version || version > 1 {
                std::fs::remove_file(self.place(forgotten)).unwrap();
            }
        }
    }

    fn add(&mut self, rows: &RecordBatch, is_change: bool) -> Value {
        let name = format!("part-{:05}.parquet", self.written);
        self.written += 1;
        let path = self.folder.join(&name);
        write_parquet(&path, rows, 3);
        let size = std::fs::metadata(&path).unwrap().len();
        self.files.push((name.clone(), rows.clone()));
        json!({"add": {"path": name, "partitionValues": {}, "size": size, "modificationTime": 0, "dataChange": is_change,
            "stats": statistics(rows).to_string()}})
    }

    fn take(&mut self, index: usize, is_change: bool) -> Value {
        let (name, _) = self.files.remove(index);
        json!({"remove": {"path": name, "deletionTimestamp": 0, "dataChange": is_change}})
    }

    fn commit(&mut self, actions: &[Value]) {
        let lines: Vec<String> = actions.iter().map(Value::to_string).collect();
        std::fs::write(self.place(self.version), lines.join("\n")).unwrap();
        self.version += 1;
    }

    fn place(&self, version: u64) -> PathBuf {
        self.folder.join(format!("_delta_log/{version:020}.json"))
    }
}

/// As writers put them: the number of rows, and the bounds of the time.
fn statistics(rows: &RecordBatch) -> Value {
    let times = rows
        .column_by_name("updated_at")
        .unwrap()
        .as_primitive::<TimestampMicrosecondType>();
    let shown = |micros: Option<i64>| EventTime::from_micros(micros.unwrap()).to_string();
    json!({
        "numRecords": rows.num_rows(),
        "minValues": {"updated_at": shown(arrow::compute::min(times))},
        "maxValues": {"updated_at": shown(arrow::compute::max(times))},
        "nullCount": {},
    })
}
