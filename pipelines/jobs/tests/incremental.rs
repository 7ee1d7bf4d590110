//! Incremental materializations against full ones: whatever became of a table, a run ends in the rows that a run from the
//! beginning would give. The tables' logs are written by hand, so that every kind of commit can be.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod delta_log;
mod model_store;
mod support;

use delta_log::DeltaLog;
use model_store::ModelStore;
use ondol_jobs::PipelinesService;
use ondol_pipelines_api::Pipelines;
use ondol_pipelines_api::wire::{Job, JobState, MaterializeOutcome, MaterializeRequest};
use ondol_runtime::{Health, Shutdown, SystemClock};
use ondol_vocabulary::ViewState;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use support::{FakeStore, batch, config, ended, integers, moments, strings, write_parquet};

const DEFINITIONS: &str = r#"
[source.merchants]
FORMAT = "LOCATION"
time = "updated_at"
schema = { id = "i64", country = "string", updated_at = "timestamp" }

[view.merchant]
from = "merchants"
key = "id"
features.country = "country"
"#;

/// An entity, the second of its update, and its value.
type MerchantRow = (i64, i64, u8);

/// Services over one store, opened and closed as a process would be.
struct Platform {
    folder: tempfile::TempDir,
    table: PathBuf,
    store: Arc<ModelStore>,
}

impl Platform {
    fn new(format: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let table = folder.path().join("merchants");
        std::fs::create_dir_all(&table).unwrap();
        let text = DEFINITIONS
            .replace("FORMAT", format)
            .replace("LOCATION", table.to_str().unwrap());
        let fake = FakeStore::with(&text, ViewState::Provisioning);
        let store = Arc::new(ModelStore::new(fake.snapshot.into_inner().unwrap()));
        Self { folder, table, store }
    }

    /// Runs one materialization in a process of its own.
    async fn run(&self, request: MaterializeRequest) -> Job {
        let (shutdown, health, clock) = (Shutdown::new(), Health::new(), Arc::new(SystemClock));
        let mut config = config(self.folder.path());
        config.delivery_rows = 3;
        let service = PipelinesService::open(config, self.store.clone(), clock, &shutdown, &health)
            .await
            .unwrap();
        let job = service.materialize(request).await.unwrap();
        let job = ended(&service, &job.id).await;
        assert!(shutdown.drain(Duration::from_secs(30)).await);
        job
    }

    async fn bring(&self) -> MaterializeOutcome {
        self.bring_as(MaterializeRequest::of("merchants")).await
    }

    async fn bring_as(&self, request: MaterializeRequest) -> MaterializeOutcome {
        let job = self.run(request).await;
        assert_eq!((job.state, job.error.as_deref()), (JobState::Succeeded, None));
        serde_json::from_value(job.outcome.unwrap()).unwrap()
    }
}

fn rows(rows: &[MerchantRow]) -> arrow::array::RecordBatch {
    let countries: Vec<Option<String>> = rows
        .iter()
        .map(|row| (row.2 > 0).then(|| format!("c{}", row.2)))
        .collect();
    batch(vec![
        ("id", integers(rows.iter().map(|row| Some(row.0)))),
        ("country", strings(countries.iter().map(Option::as_deref))),
        ("updated_at", moments(rows.iter().map(|row| row.1 * 1_000_000))),
    ])
}

/// The latest row of each entity; of one time, the greatest value.
fn latest<'a>(rows: impl IntoIterator<Item = &'a MerchantRow>) -> BTreeMap<i64, (i64, Option<String>)> {
    let mut latest = BTreeMap::new();
    for row in rows {
        let value = (row.1 * 1_000_000, (row.2 > 0).then(|| format!("c{}", row.2)));
        let held = latest.entry(row.0).or_insert_with(|| value.clone());
        *held = value.max(held.clone());
    }
    latest
}

fn full() -> MaterializeRequest {
    MaterializeRequest {
        full: true,
        ..MaterializeRequest::of("merchants")
    }
}

#[tokio::test]
async fn of_a_delta_table_only_added_files_are_read_and_compactions_are_skipped() {
    let platform = Platform::new("delta");
    let mut log = DeltaLog::create(&platform.table);
    log.append(&rows(&[(1, 10, 1), (2, 10, 2)]));
    let first = platform.bring().await;
    assert_eq!((first.delivered, first.skipped, first.table.as_str()), (2, 0, "1"));
    assert_eq!(first.activated, ["merchant"]);
    let again = platform.bring().await;
    assert_eq!((again.delivered, again.skipped), (0, 2));
    log.append(&rows(&[(2, 20, 3)]));
    log.append(&rows(&[(3, 5, 4)]));
    let appended = platform.bring().await;
    assert_eq!((appended.delivered, appended.skipped), (2, 2));
    assert_eq!(
        (appended.added_to, appended.anew.len()),
        (vec!["merchant".to_owned()], 0)
    );
    log.compact(&[0, 1, 2]);
    let compacted = platform.bring().await;
    assert_eq!(
        (compacted.delivered, compacted.skipped, compacted.table.as_str()),
        (0, 4, "4")
    );
    assert_eq!(
        platform.store.serving("merchant"),
        latest(&[(1, 10, 1), (2, 20, 3), (3, 5, 4)])
    );
    assert_eq!(platform.store.rebuilds(), 0);
}

#[tokio::test]
async fn rows_that_a_delta_table_loses_are_gone_once_it_is_materialized() {
    let platform = Platform::new("delta");
    let mut log = DeltaLog::create(&platform.table);
    log.append(&rows(&[(1, 10, 1), (2, 10, 2)]));
    log.append(&rows(&[(1, 30, 9)]));
    platform.bring().await;
    log.remove(1);
    let outcome = platform.bring().await;
    assert_eq!(outcome.anew["merchant"], "version 3 of the table took rows away");
    assert_eq!(platform.store.serving("merchant"), latest(&[(1, 10, 1), (2, 10, 2)]));
    log.overwrite(&rows(&[(2, 1, 7)]));
    platform.bring().await;
    assert_eq!(platform.store.serving("merchant"), latest(&[(2, 1, 7)]));
    assert_eq!(platform.store.rebuilds(), 2);
}

#[tokio::test]
async fn everything_is_anew_when_asked_for_and_when_the_log_has_forgotten() {
    let platform = Platform::new("delta");
    let mut log = DeltaLog::create(&platform.table);
    log.append(&rows(&[(1, 10, 1)]));
    platform.bring().await;
    assert_eq!(platform.bring_as(full()).await.anew["merchant"], "it was asked for");
    log.append(&rows(&[(1, 11, 2)]));
    log.checkpoint_and_forget();
    let outcome = platform.bring().await;
    assert_eq!(
        outcome.anew["merchant"],
        "the table's log no longer goes back to version 1"
    );
    assert_eq!(platform.store.serving("merchant"), latest(&[(1, 11, 2)]));
}

#[tokio::test]
async fn of_files_without_a_log_those_that_are_new_are_read() {
    let platform = Platform::new("parquet");
    let file = |name: &str| platform.table.join(name);
    write_parquet(&file("a.parquet"), &rows(&[(1, 10, 1), (2, 10, 2)]), 10);
    platform.bring().await;
    write_parquet(&file("b.parquet"), &rows(&[(2, 3, 5), (3, 4, 6)]), 10);
    let outcome = platform.bring().await;
    assert_eq!((outcome.delivered, outcome.skipped), (2, 2));
    write_parquet(&file("a.parquet"), &rows(&[(1, 10, 1), (2, 1, 2), (4, 4, 4)]), 10);
    let outcome = platform.bring().await;
    assert!(
        outcome.anew["merchant"].contains("a.parquet was written again"),
        "{outcome:?}"
    );
    let expected = latest(&[(1, 10, 1), (2, 3, 5), (3, 4, 6), (4, 4, 4)]);
    assert_eq!(platform.store.serving("merchant"), expected);
}

#[tokio::test]
async fn a_file_that_grows_is_read_from_the_newest_row_less_its_lateness() {
    let platform = Platform::new("parquet");
    let file = platform.table.join("a.parquet");
    let request = || MaterializeRequest {
        late_s: Some(5),
        ..MaterializeRequest::of("merchants")
    };
    write_parquet(&file, &rows(&[(1, 10, 1), (2, 100, 2)]), 1);
    platform.bring_as(request()).await;
    let grown = [(1, 10, 1), (2, 100, 2), (3, 94, 3), (4, 95, 4), (5, 101, 5)];
    write_parquet(&file, &rows(&grown), 1);
    let outcome = platform.bring_as(request()).await;
    assert_eq!((outcome.delivered, outcome.skipped, outcome.anew.len()), (3, 2, 0));
    // The row of entity 3 came later than was said.
    let known = [(1, 10, 1), (2, 100, 2), (4, 95, 4), (5, 101, 5)];
    assert_eq!(platform.store.serving("merchant"), latest(&known));
}

#[tokio::test]
async fn a_store_that_fails_in_between_is_given_all_new_rows_once_more() {
    let platform = Platform::new("delta");
    let mut log = DeltaLog::create(&platform.table);
    log.append(&rows(&[(1, 10, 1)]));
    platform.bring().await;
    let many: Vec<MerchantRow> = (0..20).map(|id| (id, 20, 2)).collect();
    log.append(&rows(&many));
    platform.store.fail_once_after(3);
    platform.bring().await;
    assert_eq!(platform.store.serving("merchant"), latest(&many));
}

/// What becomes of a table, and who looks at it.
#[derive(Clone, Debug)]
enum Step {
    Append(Vec<MerchantRow>),
    Remove(usize),
    Rewrite(usize, Vec<MerchantRow>),
    Overwrite(Vec<MerchantRow>),
    Compact(usize, usize),
    Run,
    /// One that ends after so many deliveries, as if it was killed.
    Killed(usize),
}

fn any_rows() -> impl Strategy<Value = Vec<MerchantRow>> {
    prop::collection::vec((0i64..6, 0i64..8, 0u8..4), 1..8)
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => any_rows().prop_map(Step::Append),
        1 => any::<usize>().prop_map(Step::Remove),
        1 => (any::<usize>(), any_rows()).prop_map(|(file, rows)| Step::Rewrite(file, rows)),
        1 => any_rows().prop_map(Step::Overwrite),
        2 => (any::<usize>(), any::<usize>()).prop_map(|(one, other)| Step::Compact(one, other)),
        4 => Just(Step::Run),
        2 => (0usize..4).prop_map(Step::Killed),
    ]
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        ..ProptestConfig::default()
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

async fn look(platform: &Platform, killed_after: Option<usize>) {
    if let Some(deliveries) = killed_after {
        platform.store.refuse_after(Some(deliveries));
        platform.run(MaterializeRequest::of("merchants")).await;
        platform.store.refuse_after(None);
    } else {
        platform.bring().await;
    }
}

async fn check_delta(steps: Vec<Step>) {
    let platform = Platform::new("delta");
    let mut log = DeltaLog::create(&platform.table);
    let mut files: Vec<Vec<MerchantRow>> = Vec::new();
    for step in steps {
        match step {
            Step::Append(added) => {
                log.append(&rows(&added));
                files.push(added);
            }
            Step::Remove(file) if !files.is_empty() => {
                let file = file % files.len();
                log.remove(file);
                files.remove(file);
            }
            Step::Rewrite(file, added) if !files.is_empty() => {
                let file = file % files.len();
                log.rewrite(file, &rows(&added));
                files.remove(file);
                files.push(added);
            }
            Step::Overwrite(added) => {
                log.overwrite(&rows(&added));
                files = vec![added];
            }
            Step::Compact(one, other) if files.len() > 1 => {
                let mut both = [one % files.len(), other % files.len()];
                both.sort_unstable();
                if both[0] != both[1] {
                    log.compact(&both);
                    let moved: Vec<MerchantRow> = both.iter().rev().flat_map(|file| files.remove(*file)).collect();
                    files.push(moved);
                }
            }
            Step::Remove(_) | Step::Rewrite(..) | Step::Compact(..) => {}
            Step::Run => look(&platform, None).await,
            Step::Killed(after) => look(&platform, Some(after)).await,
        }
    }
    look(&platform, None).await;
    assert_eq!(platform.store.serving("merchant"), latest(files.iter().flatten()));
}

async fn check_parquet(steps: Vec<Step>) {
    let platform = Platform::new("parquet");
    let place = |name: usize| platform.table.join(format!("{name:04}.parquet"));
    let mut next = 1;
    let mut files: Vec<(usize, Vec<MerchantRow>)> = vec![(0, vec![(9, 9, 1)])];
    write(&place(0), &files[0].1);
    for step in steps {
        match step {
            Step::Append(added) => {
                write(&place(next), &added);
                files.push((next, added));
                next += 1;
            }
            Step::Remove(file) if files.len() > 1 => {
                let (name, _) = files.remove(file % files.len());
                std::fs::remove_file(place(name)).unwrap();
            }
            Step::Rewrite(file, added) => {
                let file = file % files.len();
                write(&place(files[file].0), &added);
                files[file].1 = added;
            }
            Step::Run => look(&platform, None).await,
            Step::Killed(after) => look(&platform, Some(after)).await,
            Step::Remove(_) | Step::Overwrite(_) | Step::Compact(..) => {}
        }
    }
    look(&platform, None).await;
    let all = files.iter().flat_map(|(_, rows)| rows);
    assert_eq!(platform.store.serving("merchant"), latest(all));
}

/// A file is recognized by its size and time: give the clock time to move.
fn write(path: &Path, added: &[MerchantRow]) {
    let before = std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    loop {
        write_parquet(path, &rows(added), 10);
        if before != std::fs::metadata(path).and_then(|meta| meta.modified()).ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

proptest! {
    #![proptest_config(cases(20))]

    #[test]
    fn runs_over_a_changing_delta_table_end_in_the_rows_of_a_full_run(steps in prop::collection::vec(any_step(), 1..14)) {
        block_on(check_delta(steps));
    }

    #[test]
    fn runs_over_changing_files_end_in_the_rows_of_a_full_run(steps in prop::collection::vec(any_step(), 1..14)) {
        block_on(check_parquet(steps));
    }
}
