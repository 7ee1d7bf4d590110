//! Everything that can be wrong with a source or with the disk is told with the file, the column and the remedy; where it
//! can be known before any row is read, it is; and nothing half-written can be seen.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod support;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use ondol_jobs::PipelinesService;
use ondol_pipelines_api::Pipelines;
use ondol_pipelines_api::wire::{AsOf, JobState, MaterializeRequest, TrainingSetRequest};
use ondol_runtime::{Health, Shutdown, SystemClock};
use ondol_vocabulary::ViewState;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use support::{Bench, FakeStore, batch, config, floats, integers, moments, request, strings, write_parquet};

/// 2013-01-01T00:00:00Z.
const START: i64 = 1_356_998_400_000_000;

const DEFINITIONS: &str = r#"
[source.merchants]
parquet = "LOCATION"
time = "updated_at"
schema = { id = "i64", country = "string", risk = "f64", updated_at = "timestamp" }

[view.merchant]
from = "merchants"
key = "id"
features.country = "country"
features.risk = "risk"

[model.m]
inputs = { id = "i64" }
features = ["merchant.*"]
"#;

/// A good row with a column replaced or left out.
fn row(change: Option<(&str, Option<ArrayRef>)>) -> RecordBatch {
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("id", integers([Some(7)])),
        ("country", strings([Some("kr")])),
        ("risk", floats([Some(0.5)])),
        ("updated_at", moments([START])),
    ];
    if let Some((name, array)) = change {
        let at = columns.iter().position(|(column, _)| *column == name).unwrap();
        match array {
            Some(array) => columns[at].1 = array,
            None => drop(columns.remove(at)),
        }
    }
    batch(columns)
}

fn spine(rows: i64) -> TrainingSetRequest {
    let columns = vec![
        ("id", integers((0..rows).map(|_| Some(7)))),
        ("t", moments((0..rows).map(|row| START + 1 + row))),
    ];
    request("m", AsOf::KnownAt, batch(columns))
}

/// What a training set and a materialization say of the source at `location`; neither leaves anything behind.
async fn refused(definitions: &str, location: &Path, data: &Path) -> [String; 2] {
    let definitions = definitions.replace("LOCATION", location.to_str().unwrap());
    let bench = |state, data: PathBuf| Bench::open(Arc::new(FakeStore::with(&definitions, state)), config(&data));

    let active = bench(ViewState::Active, data.join("training-set")).await;
    let job = active.service.training_set(spine(1)).await.unwrap();
    let job = active.ended(&job.id).await;
    assert_eq!(job.state, JobState::Failed);
    assert!(active.service.result(&job.id).await.is_err());
    active.close().await;
    assert_eq!(files(&data.join("training-set/training-sets")), Vec::<PathBuf>::new());

    let waiting = bench(ViewState::Provisioning, data.join("materialize")).await;
    let run = waiting
        .service
        .materialize(MaterializeRequest::of("merchants"))
        .await
        .unwrap();
    let run = waiting.ended(&run.id).await;
    assert_eq!(run.state, JobState::Failed);
    assert!(
        waiting.store.deliveries.lock().unwrap().is_empty(),
        "rows were delivered before the fault was told"
    );
    assert!(waiting.store.activated.lock().unwrap().is_empty());
    waiting.close().await;
    [job.error.unwrap(), run.error.unwrap()]
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

async fn check(case: &str, definitions: &str, location: &Path, expected: &[&str]) {
    let data = tempfile::tempdir().unwrap();
    for error in refused(definitions, location, data.path()).await {
        for part in expected.iter().copied().chain([location.to_str().unwrap()]) {
            assert!(error.contains(part), "{case}: `{part}` is not in: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_without_a_table_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    check(
        "missing",
        DEFINITIONS,
        &place("nowhere"),
        &["there is nothing at", "check the path"],
    )
    .await;
    std::fs::create_dir(place("empty")).unwrap();
    check(
        "empty",
        DEFINITIONS,
        &place("empty"),
        &["there is no .parquet file", "write the table first"],
    )
    .await;
    let delta = DEFINITIONS.replace("parquet =", "delta =");
    check(
        "no log",
        &delta,
        &place("empty"),
        &["there is no Delta table", "`parquet = …`"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_no_parquet_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let part = |name: &str| folder.path().join(name).join("part-2.parquet");
    for name in ["empty", "noise", "cut"] {
        write_parquet(&folder.path().join(name).join("part-1.parquet"), &row(None), 10);
        write_parquet(&part(name), &row(None), 10);
    }
    let whole = std::fs::read(part("cut")).unwrap();
    std::fs::write(part("empty"), "").unwrap();
    std::fs::write(part("noise"), [7; 1_000]).unwrap();
    std::fs::write(part("cut"), &whole[..whole.len() - 20]).unwrap();
    for (name, what, remedy) in [
        (
            "empty",
            "has 0 bytes",
            "its writer did not finish; write it again, or remove it",
        ),
        ("noise", "can't be read", "it is damaged: write it again, or remove it"),
        ("cut", "can't be read", "it is damaged: write it again, or remove it"),
    ] {
        check(
            name,
            DEFINITIONS,
            &folder.path().join(name),
            &["part-2.parquet", what, remedy],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_columns_have_changed_is_named_before_any_row_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let naive: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![START]));
    for (name, changed, what) in [
        (
            "naive",
            row(Some(("updated_at", Some(naive)))),
            "column `updated_at` is a timestamp without a time zone",
        ),
        (
            "time as text",
            row(Some(("updated_at", Some(strings([Some("2013-01-01T00:00:00Z")]))))),
            "column `updated_at` is Utf8 where the source declares timestamp",
        ),
        (
            "text",
            row(Some(("risk", Some(strings([Some("1")]))))),
            "column `risk` is Utf8 where the source declares f64",
        ),
        (
            "number",
            row(Some(("country", Some(integers([Some(1)]))))),
            "column `country` is Int64 where the source declares",
        ),
        ("no column", row(Some(("risk", None))), "there is no column `risk`"),
        (
            "no time",
            row(Some(("updated_at", None))),
            "there is no column `updated_at`",
        ),
        ("no key", row(Some(("id", None))), "there is no column `id`"),
    ] {
        let table = folder.path().join(name);
        write_parquet(&table.join("part-1.parquet"), &row(None), 10);
        write_parquet(&table.join("part-2.parquet"), &changed, 10);
        check(name, DEFINITIONS, &table, &["part-2.parquet", what]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_whose_value_is_not_of_the_declared_type_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let columns = row(Some(("country", None)));
    write_parquet(&folder.path().join("country=1/part-1.parquet"), &columns, 10);
    write_parquet(&folder.path().join("country=kr/part-1.parquet"), &columns, 10);
    let numbers = DEFINITIONS.replace("country = \"string\"", "country = \"i32\"");
    check(
        "folder",
        &numbers,
        folder.path(),
        &["country=kr/part-1.parquet", "partition column `country` is not i32"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_table_that_lost_a_column_or_a_file_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("merchants");
    std::fs::create_dir(&table).unwrap();
    support::write_delta_merchants(&table, &[("kr", 0.5, START)]).await;
    let delta = DEFINITIONS.replace("parquet =", "delta =");
    let wider = delta.replace("risk = \"f64\"", "risk = \"f64\", city = \"string\"");
    check(
        "column",
        &wider,
        &table,
        &["there is no column `city`", "change the schema in the definition"],
    )
    .await;
    for part in files(&table.join("country=kr")) {
        std::fs::remove_file(part).unwrap();
    }
    check("file", &delta, &table, &["country=kr/", "it was removed"]).await;
}

/// The disk's faults are tried in processes of their own, which have no more rights, or space, than an ordinary user's.
/// There the functions below that begin with `child` do their work.
const CHILD: &str = "ONDOL_INVALID_SOURCE_CHILD";

/// Runs the test `name` as a process over `folder`, started by `prefix`.
fn child(prefix: &[&str], name: &str, folder: &Path) {
    let test = std::env::current_exe().unwrap();
    let mut words = prefix.iter().map(std::ffi::OsString::from).collect::<Vec<_>>();
    words.push(test.into_os_string());
    words.extend(["--exact", name, "--nocapture"].map(Into::into));
    let output = Command::new(&words[0])
        .args(&words[1..])
        .env(CHILD, folder)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

/// What to start a process with that may only do what a file's mode says: root may do anything otherwise.
fn without_privileges(forbidden: &Path) -> &'static [&'static str] {
    if std::fs::read_dir(forbidden).is_ok() {
        &["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    } else {
        &[]
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_may_not_be_read_or_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("table");
    write_parquet(&table.join("part-1.parquet"), &row(None), 10);
    set_mode(&table.join("part-1.parquet"), 0o000);
    for (name, mode) in [("closed", 0o000), ("read-only", 0o555)] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        set_mode(&folder.path().join(name), mode);
    }
    child(
        without_privileges(&folder.path().join("closed")),
        "child_without_rights",
        folder.path(),
    );
    set_mode(&folder.path().join("closed"), 0o755);
    set_mode(&folder.path().join("read-only"), 0o755);
}

#[tokio::test(flavor = "multi_thread")]
async fn child_without_rights() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let folder = Path::new(&folder);
    let readable = "check the rights of the user that the process runs as";
    check(
        "file",
        DEFINITIONS,
        &folder.join("table"),
        &["part-1.parquet", readable],
    )
    .await;
    let store = Arc::new(FakeStore::with(DEFINITIONS, ViewState::Active));
    let (shutdown, health) = (Shutdown::new(), Health::new());
    let data = config(&folder.join("read-only/data"));
    let opened = PipelinesService::open(data, store, Arc::new(SystemClock), &shutdown, &health).await;
    let error = opened.map(drop).unwrap_err().to_string();
    assert!(
        error.contains("read-only/data") && error.contains("ermission denied"),
        "{error}"
    );
}

#[test]
fn a_full_disk_fails_the_job_and_leaves_no_result() {
    let folder = tempfile::tempdir().unwrap();
    write_parquet(&folder.path().join("table/part-1.parquet"), &row(None), 10);
    // A file may not grow beyond 2,048 blocks of half a KiB (of one KiB by some shells): as a full disk, with an error
    // instead of a signal.
    let limited = ["sh", "-c", "trap '' XFSZ; ulimit -f 2048; exec \"$0\" \"$@\""];
    child(&limited, "child_without_space", folder.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn child_without_space() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let folder = Path::new(&folder);
    let definitions = DEFINITIONS.replace("LOCATION", folder.join("table").to_str().unwrap());
    let store = Arc::new(FakeStore::with(&definitions, ViewState::Active));
    let bench = Bench::open(store, config(&folder.join("data"))).await;
    // 4.8 MB: the request itself can't be kept.
    let refused = bench
        .service
        .training_set(spine(300_000))
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("free space on its disk"), "{refused}");
    assert_eq!(files(&folder.join("data/spines")), Vec::<PathBuf>::new());
    // 0.8 MB, but its training set has 1.5 MB.
    let job = bench.service.training_set(spine(50_000)).await.unwrap();
    let job = bench.ended(&job.id).await;
    let error = job.error.unwrap();
    assert_eq!(job.state, JobState::Failed);
    assert!(
        error.contains("can't write") && error.contains("free space on its disk"),
        "{error}"
    );
    assert_eq!(files(&folder.join("data/training-sets")), Vec::<PathBuf>::new());
    // The next one that fits is built.
    bench.build(spine(10)).await;
    bench.close().await;
}
