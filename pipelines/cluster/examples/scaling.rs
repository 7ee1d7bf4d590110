//! Time of a training set's join against events and executors: `scaling EVENTS [EXECUTORS]`, without executors in one
//! process. Events are made on the fly as files in a folder; a cluster's processes are the `ondol-cluster` beside
//! this program. Prints a line for [docs/scaling.md](../../../docs/scaling.md).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement: any failure ends it"
)]

use arrow::array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use ondol_cluster::{EngineConfig, PlanEngine};
use ondol_feature_store_api::wire::{DefinitionFile, DefinitionFiles};
use ondol_jobs::engine::{JoinEngine, JoinRequest, ViewJoin};
use ondol_jobs::event_files::{EventFiles, EventRange};
use ondol_pipelines_api::wire::AsOf;
use ondol_runtime::ObjectStores;
use ondol_vocabulary::{SourceOrigin, TableFormat};
use parquet::arrow::ArrowWriter;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

const START: i64 = 1_357_000_000_000_000;
const DAYS_US: i64 = 30 * 86_400_000_000;
const EVENTS_PER_FILE: u64 = 1_000_000;
const SPINE_ROWS: i64 = 100_000;
const ENTITIES: u64 = 50_000;

const DEFINITIONS: &str = r#"
[source.events]
kafka = "events"
arrival = "event-time"
time = "ts"
schema = { k = "string", amount = "f64", ts = "timestamp" }

[view.w]
from = "events"
key = "k"
features.n_1h = "count() over 1h"
features.sum_24h = "sum(amount) over 24h"
features.mean_7d = "mean(amount) over 7d"
features.max_7d = "max(amount) over 7d"
"#;

/// A number that looks random and is not.
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    number ^ (number >> 29)
}

fn write_events(folder: &Path, events: u64) {
    std::fs::create_dir_all(folder).unwrap();
    for (file, first) in (0..events).step_by(EVENTS_PER_FILE as usize).enumerate() {
        let numbers = first..events.min(first + EVENTS_PER_FILE);
        let keys = StringArray::from_iter_values(numbers.clone().map(|n| format!("key-{}", mixed(n) % ENTITIES)));
        let amounts = Float64Array::from_iter_values(numbers.clone().map(|n| (mixed(n) % 10_000) as f64 / 100.0));
        let time = |n: u64| START + (DAYS_US as u128 * u128::from(n) / u128::from(events)) as i64;
        let times = TimestampMicrosecondArray::from_iter_values(numbers.map(time)).with_timezone("UTC");
        let unmarked = BooleanArray::from(vec![false; times.len()]);
        let columns: [(&str, ArrayRef); 5] = [
            ("k", Arc::new(keys)),
            ("amount", Arc::new(amounts)),
            ("ts", Arc::new(times)),
            ("_late", Arc::new(unmarked.clone())),
            ("_deleted", Arc::new(unmarked)),
        ];
        let rows =
            RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap();
        let out = File::create(folder.join(format!("part-{file:05}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(out, rows.schema(), None).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
    }
}

async fn request(folder: &Path) -> JoinRequest {
    let file = DefinitionFile {
        path: "scaling.toml".to_owned(),
        text: DEFINITIONS.to_owned(),
    };
    let definitions = ondol_transform::definition::compile(&DefinitionFiles { files: vec![file] }).unwrap();
    let (source, view) = (definitions.sources[0].clone(), definitions.views[0].clone());
    // The stream's events, without the log that would hold them.
    let mut files = source.clone();
    files.origin = SourceOrigin::Table {
        location: folder.display().to_string(),
        format: TableFormat::Parquet,
    };
    let times = (0..SPINE_ROWS).map(|row| START + DAYS_US / 4 + row * (DAYS_US / 2) / SPINE_ROWS);
    let keys = (0..SPINE_ROWS).map(|row| format!("key-{}", mixed(row as u64 + 7) % ENTITIES));
    JoinRequest {
        times: TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"),
        keys: vec![("k".to_owned(), Arc::new(StringArray::from_iter_values(keys)))],
        views: vec![ViewJoin {
            events: EventFiles::open(&files, None).await.unwrap(),
            range: EventRange {
                from: START - DAYS_US,
                before: START + DAYS_US,
                as_of: AsOf::KnownAt,
            },
            view,
            source,
        }],
    }
}

struct Programs(Vec<Child>);

impl Drop for Programs {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn programs(folder: &Path, executors: usize) -> (Programs, u16) {
    // target/PROFILE/examples/scaling → target/PROFILE/ondol-cluster
    let program = std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .with_file_name("ondol-cluster");
    let port = free_port();
    let run = |arguments: Vec<String>| {
        Command::new(&program)
            .args(arguments)
            .arg("--log-filter=error")
            .spawn()
            .unwrap()
    };
    let mut children = vec![run(vec!["scheduler".to_owned(), format!("--listen=127.0.0.1:{port}")])];
    std::thread::sleep(Duration::from_secs(1));
    for number in 0..executors {
        children.push(run(vec![
            "executor".to_owned(),
            format!("--scheduler=127.0.0.1:{port}"),
            format!("--port={}", free_port()),
            format!("--task-port={}", free_port()),
            "--cores=1".to_owned(),
            "--memory-mib=4096".to_owned(),
            format!("--work-dir={}", folder.join(format!("executor-{number}")).display()),
        ]));
    }
    std::thread::sleep(Duration::from_secs(2));
    (Programs(children), port)
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let events: u64 = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .expect("scaling EVENTS [EXECUTORS]");
    let executors: usize = arguments
        .next()
        .map_or(0, |text| text.parse().expect("a number of executors"));
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("events");
    write_events(&source, events);
    let (_programs, port) = match executors {
        0 => (Programs(Vec::new()), 0),
        _ => programs(folder.path(), executors),
    };
    let config = EngineConfig {
        engine: format!("ballista://127.0.0.1:{port}"),
        exchange: folder.path().join("exchange").display().to_string(),
        partitions: 16,
        partition_memory_mib: 512,
    };
    let engine: Box<dyn JoinEngine> = if executors == 0 {
        Box::new(PlanEngine::here(config, ObjectStores::default()))
    } else {
        Box::new(PlanEngine::cluster(&config, ObjectStores::default()).unwrap())
    };
    let request = request(&source).await;
    let started = Instant::now();
    let joined = engine.join(request, Box::pin(std::future::pending())).await.unwrap();
    let seconds = started.elapsed().as_secs_f64();
    let rows: usize = joined.iter().map(|piece| piece.rows.len()).sum();
    assert_eq!(rows as i64, SPINE_ROWS);
    println!(
        "| {events} | {executors} | {seconds:.1} | {:.0} |",
        events as f64 / seconds
    );
}
