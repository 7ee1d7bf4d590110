//! Statistics of sources, kept by event date: what changes is read again, and any range of dates is one pass over its rows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod delta_log;
mod support;

use delta_log::DeltaLog;
use ondol_pipelines_api::wire::{
    JobRequest, JobState, MaterializeRequest, SourceStatistics, StatisticsOutcome, StatisticsQuery, StatisticsRequest,
};
use ondol_pipelines_api::{Pipelines, PipelinesError};
use ondol_vocabulary::{Value, ViewState};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use support::{Bench, FakeStore, batch, config, integers, moments, strings, write_parquet};

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

const DAY: i64 = 86_400_000_000;

/// An id, a country, a day and a moment of it.
type MerchantRow = (Option<i64>, u8, i64, i64);

fn rows(rows: &[MerchantRow]) -> arrow::array::RecordBatch {
    let countries: Vec<Option<String>> = rows
        .iter()
        .map(|row| (row.1 > 0).then(|| format!("c{}", row.1)))
        .collect();
    batch(vec![
        ("id", integers(rows.iter().map(|row| row.0))),
        ("country", strings(countries.iter().map(Option::as_deref))),
        ("updated_at", moments(rows.iter().map(|row| row.2 * DAY + row.3))),
    ])
}

async fn bench(format: &str, table: &Path, folder: &Path) -> Bench {
    let text = DEFINITIONS
        .replace("FORMAT", format)
        .replace("LOCATION", table.to_str().unwrap());
    Bench::open(Arc::new(FakeStore::with(&text, ViewState::Active)), config(folder)).await
}

async fn compute(bench: &Bench) -> StatisticsOutcome {
    let request = JobRequest::Statistics(StatisticsRequest::of("merchants"));
    let job = bench.service.submit(request, None).await.unwrap();
    let job = bench.ended(&job.id).await;
    assert_eq!((job.state, job.error.as_deref()), (JobState::Succeeded, None));
    serde_json::from_value(job.outcome.unwrap()).unwrap()
}

async fn between(bench: &Bench, from: Option<&str>, to: Option<&str>) -> SourceStatistics {
    let query = StatisticsQuery {
        from: from.map(str::to_owned),
        to: to.map(str::to_owned),
    };
    bench.service.statistics("merchants", query).await.unwrap()
}

/// What statistics say, without when and of which version.
fn told(mut statistics: SourceStatistics) -> String {
    statistics.table = String::new();
    statistics.computed_at = ondol_vocabulary::EventTime::from_micros(0);
    serde_json::to_string_pretty(&statistics).unwrap()
}

#[tokio::test]
async fn a_date_is_read_again_when_it_has_changed_and_not_when_it_was_compacted() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("merchants");
    let mut log = DeltaLog::create(&table);
    log.append(&rows(&[(Some(1), 1, 0, 5), (None, 0, 1, 5)]));
    log.append(&rows(&[(Some(3), 1, 2, 5), (Some(4), 2, 2, 6)]));
    let bench = bench("delta", &table, folder.path()).await;
    let query = StatisticsQuery::default();
    let early = bench.service.statistics("merchants", query.clone()).await.unwrap_err();
    assert!(matches!(early, PipelinesError::NoResult { .. }), "{early}");
    assert_eq!(
        compute(&bench).await,
        StatisticsOutcome {
            table: "2".to_owned(),
            dates: 3,
            rows: 4
        }
    );
    let all = between(&bench, None, None).await;
    assert_eq!((all.rows, all.dates), (4, 3));
    assert_eq!(
        (all.first_date.as_deref(), all.last_date.as_deref()),
        (Some("1970-01-01"), Some("1970-01-03"))
    );
    let id = &all.columns[0];
    assert_eq!((id.count, id.nulls, id.distinct, id.distinct_is_exact), (3, 1, 3, true));
    assert_eq!(
        (id.min.clone(), id.max.clone()),
        (Some(Value::I64(1)), Some(Value::I64(4)))
    );
    let country = all.columns[1].frequent.as_ref().unwrap();
    assert_eq!(
        (country[0].text.as_str(), country[0].at_least, country[0].at_most),
        ("c1", 2, 2)
    );
    log.compact(&[0, 1]);
    assert_eq!(compute(&bench).await.dates, 0);
    assert_eq!(told(between(&bench, None, None).await), told(all));
    log.append(&rows(&[(Some(9), 1, 1, 7)]));
    let outcome = compute(&bench).await;
    assert_eq!((outcome.dates, outcome.rows), (1, 2));
    let day = between(&bench, Some("1970-01-02"), Some("1970-01-03")).await;
    assert_eq!((day.rows, day.columns[0].max.clone()), (2, Some(Value::I64(9))));
    for (from, to) in [(Some("yesterday"), None), (Some("1970-01-02"), Some("1970-01-02"))] {
        let query = StatisticsQuery {
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        let refused = bench.service.statistics("merchants", query).await;
        assert!(matches!(refused, Err(PipelinesError::InvalidRequest { .. })));
    }
    bench.close().await;
}

/// Runs statements in the database of the tests.
async fn in_postgres(statements: &str) {
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(&ondol_testkit::services::postgres())
        .await
        .unwrap();
    let statements = sqlx::AssertSqlSafe(statements.to_owned());
    sqlx::raw_sql(statements).execute(&pool).await.unwrap();
    pool.close().await;
}

#[tokio::test]
async fn what_is_kept_in_postgresql_is_read_back() {
    let schema = ondol_testkit::unique_name("statistics");
    in_postgres(&format!("CREATE SCHEMA \"{schema}\"")).await;
    let url = ondol_testkit::services::postgres();
    let joint = if url.contains('?') { '&' } else { '?' };
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("merchants");
    write_parquet(
        &table.join("a.parquet"),
        &rows(&[(Some(1), 1, 0, 5), (None, 0, 1, 5)]),
        10,
    );
    let text = DEFINITIONS
        .replace("FORMAT", "parquet")
        .replace("LOCATION", table.to_str().unwrap());
    let mut config = config(folder.path());
    config.ledger = Some(format!("{url}{joint}options=-c%20search_path%3D{schema}"));
    let bench = Bench::open(Arc::new(FakeStore::with(&text, ViewState::Provisioning)), config).await;
    assert_eq!(compute(&bench).await.rows, 2);
    assert_eq!(compute(&bench).await.rows, 0);
    let statistics = between(&bench, None, None).await;
    assert_eq!((statistics.rows, statistics.columns[0].nulls), (2, 1));
    for delivered in [2, 0] {
        let job = bench
            .service
            .materialize(MaterializeRequest::of("merchants"))
            .await
            .unwrap();
        let outcome = bench.ended(&job.id).await.outcome.unwrap();
        assert_eq!(outcome["delivered"], delivered);
    }
    bench.close().await;
    in_postgres(&format!("DROP SCHEMA \"{schema}\" CASCADE")).await;
}

/// What becomes of a table.
#[derive(Clone, Debug)]
enum Step {
    Append(Vec<MerchantRow>),
    Remove(usize),
    Compact(usize, usize),
    Compute,
}

fn any_rows() -> impl Strategy<Value = Vec<MerchantRow>> {
    let row = (prop::option::weighted(0.8, -50i64..50), 0u8..4, 0i64..5, 0i64..1_000);
    prop::collection::vec(row, 1..12)
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any_rows().prop_map(Step::Append),
        1 => any::<usize>().prop_map(Step::Remove),
        2 => (any::<usize>(), any::<usize>()).prop_map(|(one, other)| Step::Compact(one, other)),
        3 => Just(Step::Compute),
    ]
}

/// Computes along the way, and holds every range of dates against one pass over its rows, of a fresh service.
async fn check(steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("merchants");
    let mut log = DeltaLog::create(&table);
    let mut files: Vec<Vec<MerchantRow>> = Vec::new();
    let kept = bench("delta", &table, folder.path()).await;
    for step in steps.into_iter().chain([Step::Compute]) {
        match step {
            Step::Append(added) => {
                log.append(&rows(&added));
                files.push(added);
            }
            Step::Remove(file) if !files.is_empty() => {
                log.remove(file % files.len());
                files.remove(file % files.len());
            }
            Step::Compact(one, other) if files.len() > 1 && one % files.len() != other % files.len() => {
                let mut both = [one % files.len(), other % files.len()];
                both.sort_unstable();
                log.compact(&both);
                let moved = both.iter().rev().flat_map(|file| files.remove(*file)).collect();
                files.push(moved);
            }
            Step::Remove(_) | Step::Compact(..) => {}
            Step::Compute => drop(compute(&kept).await),
        }
    }
    for (from, to) in [
        (None, None),
        (Some("1970-01-02"), Some("1970-01-04")),
        (Some("1970-01-05"), None),
    ] {
        let day = |date: Option<&str>, otherwise| date.map_or(otherwise, |date| date[8..].parse::<i64>().unwrap() - 1);
        let range = day(from, 0)..day(to, 99);
        let within: Vec<MerchantRow> = files
            .iter()
            .flatten()
            .filter(|row| range.contains(&row.2))
            .copied()
            .collect();
        let other = tempfile::tempdir().unwrap();
        let whole = other.path().join("merchants");
        std::fs::create_dir_all(&whole).unwrap();
        // A row of another day, so that there always is a file with rows.
        let outside = [(None, 0, 200, 0)];
        write_parquet(
            &whole.join("a.parquet"),
            &rows(&[within.as_slice(), &outside].concat()),
            5,
        );
        let once = bench("parquet", &whole, other.path()).await;
        compute(&once).await;
        let expected = told(between(&once, None, Some("1970-04-01")).await);
        assert_eq!(told(between(&kept, from, to).await), expected);
        once.close().await;
    }
    kept.close().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_range_of_dates_is_one_pass_over_its_rows(steps in prop::collection::vec(any_step(), 1..12)) {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(check(steps));
    }
}
