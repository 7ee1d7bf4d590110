//! Queries over offline tables.

use crate::lake::{START, events, lake, lake_on_s3, write_parquet};
use crate::support::lake::reach_s3;
use crate::support::{FakeStore, batch, floats, strings};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use futures::TryStreamExt;
use ondol_cluster::{SqlConfig, SqlService};
use ondol_feature_store_api::wire::OfflineTable;
use ondol_pipelines_api::sql::{OfflineSql, SqlRequest, server};
use ondol_pipelines_api::{PipelinesClient, PipelinesError};
use ondol_runtime::ObjectStores;
use std::path::Path;
use std::sync::Arc;

fn config(folder: &Path) -> SqlConfig {
    SqlConfig {
        spill_dir: folder.join("spill"),
        threads: 2,
        ..SqlConfig::default()
    }
}

fn service(folder: &Path, store: Arc<FakeStore>) -> SqlService {
    SqlService::new(config(folder), store, ObjectStores::default()).unwrap()
}

fn request(query: &str) -> SqlRequest {
    SqlRequest {
        query: query.to_owned(),
        max_rows: None,
    }
}

async fn answer(service: &dyn OfflineSql, query: &str) -> RecordBatch {
    let rows = service.sql(request(query)).await.unwrap();
    let batches: Vec<RecordBatch> = rows.batches.try_collect().await.unwrap();
    arrow::compute::concat_batches(&rows.schema, &batches).unwrap()
}

async fn number(service: &dyn OfflineSql, query: &str) -> i64 {
    answer(service, query)
        .await
        .column(0)
        .as_primitive::<Int64Type>()
        .value(0)
}

async fn refusal(service: &dyn OfflineSql, query: &str) -> PipelinesError {
    match service.sql(request(query)).await {
        Err(error) => error,
        Ok(rows) => rows.batches.try_collect::<Vec<_>>().await.unwrap_err(),
    }
}

#[tokio::test]
async fn every_source_is_a_table_under_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), lake(folder.path(), &events(1_000, 20)).await);
    assert_eq!(number(&service, "select count(*) from events").await, 1_000);
    assert_eq!(number(&service, "select count(*) from merchants").await, 80);
    let joined =
        "select count(*) from events e join merchants m on e.n = cast(substr(m.m, 3) as bigint) where m.risk < 10";
    assert_eq!(
        number(&service, joined).await,
        (0..1_000).filter(|index| index % 11 < 10).count() as i64
    );
    let names = answer(&service, "show tables").await;
    let names: Vec<&str> = names
        .column_by_name("table_name")
        .unwrap()
        .as_string::<i32>()
        .iter()
        .flatten()
        .collect();
    assert!(names.contains(&"events") && names.contains(&"merchants"), "{names:?}");
    assert!(answer(&service, "describe events").await.num_rows() >= 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_on_s3_answer_as_those_on_disk_do() {
    reach_s3();
    let folder = tempfile::tempdir().unwrap();
    let tables = folder.path().join("tables");
    std::fs::create_dir(&tables).unwrap();
    let disk = service(folder.path(), lake(&tables, &events(1_000, 20)).await);
    let s3 = lake_on_s3(&tables).await;
    let s3 = SqlService::new(config(folder.path()), s3, ObjectStores::of_process()).unwrap();
    for query in [
        "select * from events order by _offset",
        "select k, count(*), sum(n), max(ts) from events where amount > 3 group by k order by k",
        "select _event_date, count(*) from events group by 1 order by 1",
        "select e.k, m.m, e.n from events e join merchants m on e.n = cast(substr(m.m, 3) as bigint)
         where m.risk < 10 order by e._offset, m.m, m.risk limit 300",
        "select count(*) from events where ts >= timestamp '2013-01-01T23:00:00Z'",
        "select m, risk, row_number() over (partition by m order by risk desc) from merchants order by 1, 2",
    ] {
        let (here, there) = (answer(&disk, query).await, answer(&s3, query).await);
        assert!(here.num_rows() > 0, "{query}");
        assert_eq!(here, there, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_missing_is_told_with_the_remedy() {
    reach_s3();
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &[]).await;
    store.tables.lock().unwrap().push(OfflineTable {
        source: "events".to_owned(),
        url: "s3://ondol-no-such-bucket/log/".to_owned(),
        version: Some(0),
        rows: None,
    });
    let service = SqlService::new(config(folder.path()), store, ObjectStores::of_process()).unwrap();
    let error = refusal(&service, "select count(*) from events").await.to_string();
    assert!(error.contains("ondol-no-such-bucket"), "{error}");
    assert!(error.contains("check the bucket's name"), "{error}");
}

#[tokio::test]
async fn a_log_has_its_positions_and_its_partition_column() {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), lake(folder.path(), &events(600, 20)).await);
    let days = answer(
        &service,
        "select _event_date, count(*), min(ts), max(_offset) from events group by _event_date order by 1",
    )
    .await;
    assert_eq!(
        days.num_rows(),
        1 + usize::from(START % 86_400_000_000 + 120 * 60_000_000 > 86_400_000_000)
    );
    let plan = answer(
        &service,
        "explain select k from events where _event_date = date '1999-01-01'",
    )
    .await;
    let plan = format!("{plan:?}");
    assert!(
        plan.contains("EmptyExec"),
        "files of other days are left out when the query is planned: {plan}"
    );
    let late = "select count(*) from events where ts >= timestamp '2013-01-01T23:00:00Z'";
    assert_eq!(number(&service, late).await, 300);
}

#[tokio::test]
async fn a_stream_without_a_log_is_an_empty_table() {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), lake(folder.path(), &[]).await);
    assert_eq!(
        number(&service, "select count(*) from events where amount > 1").await,
        0
    );
}

#[tokio::test]
async fn a_column_that_a_file_lacks_is_null() {
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &[]).await;
    let more = batch(vec![("m", strings([Some("m-new")])), ("extra", floats([Some(1.5)]))]);
    write_parquet(&folder.path().join("merchants/c.parquet"), &more);
    let service = service(folder.path(), store);
    assert_eq!(
        number(&service, "select count(*) from merchants where extra is null").await,
        80
    );
    assert_eq!(
        number(
            &service,
            "select count(*) from merchants where risk is null and extra > 1"
        )
        .await,
        1
    );
}

#[tokio::test]
async fn an_unknown_table_is_answered_with_the_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), lake(folder.path(), &events(10, 2)).await);
    let error = refusal(&service, "select * from merchant").await.to_string();
    assert!(
        error.contains("no table `merchant`: did you mean `merchants`?"),
        "{error}"
    );
    let error = refusal(&service, "select * from something_else").await.to_string();
    assert!(error.contains("events, merchants"), "{error}");
    let error = refusal(&service, "select amont from events").await.to_string();
    assert!(error.contains("amount"), "{error}");
    let error = refusal(&service, "selec 1").await;
    assert!(matches!(error, PipelinesError::InvalidQuery { .. }), "{error:?}");
}

#[tokio::test]
async fn only_questions_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let service = service(folder.path(), lake(folder.path(), &events(10, 2)).await);
    let out = folder.path().join("out.parquet");
    for statement in [
        "drop table events".to_owned(),
        "create table t as select 1".to_owned(),
        "insert into events select * from events".to_owned(),
        "create external table t stored as parquet location '/etc'".to_owned(),
        "set datafusion.execution.batch_size = 1".to_owned(),
        format!("copy (select 1) to '{}'", out.display()),
        "select 1; select 2".to_owned(),
        format!(
            "select * from '{}'",
            folder.path().join("merchants/a.parquet").display()
        ),
    ] {
        let error = refusal(&service, &statement).await;
        assert!(
            matches!(error, PipelinesError::InvalidQuery { .. }),
            "{statement}: {error:?}"
        );
    }
    assert!(!out.exists());
}

#[tokio::test]
async fn an_answer_ends_at_the_rows_asked_for_and_fails_beyond_the_bound() {
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &events(1_000, 20)).await;
    let bounded = SqlConfig {
        max_rows: 500,
        ..config(folder.path())
    };
    let service = SqlService::new(bounded, store, ObjectStores::default()).unwrap();
    let asked = SqlRequest {
        max_rows: Some(7),
        ..request("select * from events")
    };
    let batches: Vec<RecordBatch> = service.sql(asked).await.unwrap().batches.try_collect().await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 7);
    let error = refusal(&service, "select * from events").await;
    assert!(error.to_string().contains("sql.max_rows"), "{error}");
}

#[tokio::test]
async fn a_query_beyond_its_memory_spills_and_beyond_its_disk_fails() {
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &[]).await;
    let query = "select count(*) from (select row_number() over (order by -v) as place from generate_series(1, 5000000) as t(v)) \
                 where place % 2 = 0";
    let small = |spill_mib| SqlConfig {
        memory_mib: 48,
        spill_mib,
        ..config(folder.path())
    };
    let service = SqlService::new(small(2_000), store.clone(), ObjectStores::default()).unwrap();
    assert_eq!(number(&service, query).await, 2_500_000);
    let service = SqlService::new(small(1), store, ObjectStores::default()).unwrap();
    let error = refusal(&service, query).await;
    assert!(matches!(error, PipelinesError::QueryLimit { .. }), "{error:?}");
    assert!(error.to_string().contains("sql.memory_mib"), "{error}");
}

#[tokio::test]
async fn a_query_that_takes_too_long_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let impatient = SqlConfig {
        timeout_s: 1,
        ..config(folder.path())
    };
    let store = lake(folder.path(), &[]).await;
    let service = SqlService::new(impatient, store, ObjectStores::default()).unwrap();
    let endless =
        "select count(*) from generate_series(1, 100000000) a(x), generate_series(1, 100000000) b(y) where x * y = 7";
    let error = refusal(&service, endless).await;
    assert!(error.to_string().contains("sql.timeout_s"), "{error}");
}

#[tokio::test]
async fn more_queries_than_the_bound_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let single = SqlConfig {
        concurrent_queries: 1,
        ..config(folder.path())
    };
    let store = lake(folder.path(), &events(10, 2)).await;
    let service = SqlService::new(single, store, ObjectStores::default()).unwrap();
    let held = service
        .sql(request("select * from generate_series(1, 100000000)"))
        .await
        .unwrap();
    let error = service.sql(request("select 1")).await.unwrap_err();
    assert!(matches!(error, PipelinesError::Overloaded { .. }), "{error:?}");
    drop(held);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while let Err(error) = service.sql(request("select 1")).await {
        assert!(
            std::time::Instant::now() < deadline,
            "its place never came free: {error}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Serves `service` on a free port.
async fn served(service: SqlService) -> url::Url {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let router = server::router(Arc::new(service));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url::Url::parse(&base).unwrap()
}

#[tokio::test]
async fn rows_travel_as_arrow_and_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let store = lake(folder.path(), &events(20_000, 20)).await;
    let base = served(service(folder.path(), store)).await;
    let client = PipelinesClient::new(base.clone()).unwrap();
    let query = "select _offset as o, k, amount, ts from events order by _offset";
    let rows = answer(&client, query).await;
    assert_eq!(rows.num_rows(), 20_000);

    let call = |accept: &'static str, query: &'static str| {
        let request = reqwest::Client::new()
            .post(base.join("/v1/sql").unwrap())
            .header("accept", accept);
        async move {
            let body = serde_json::json!({ "query": query }).to_string();
            request.body(body).send().await.unwrap().text().await.unwrap()
        }
    };
    let few = "select _offset as o, k, amount from events order by _offset limit 3";
    let array: serde_json::Value = serde_json::from_str(&call("application/json", few).await).unwrap();
    assert_eq!(array[0], serde_json::json!({"o": 0, "k": null, "amount": null}));
    assert_eq!(array.as_array().unwrap().len(), 3);
    assert_eq!(call("*/*", "select 1 as a where false").await, "[]");
    let lines = call("application/x-ndjson", few).await;
    assert_eq!(lines.lines().count(), 3);
    assert_eq!(
        call("application/json", "select 'a\nb' as t").await,
        "[{\"t\":\"a\\nb\"}]"
    );

    let error = refusal(&client, "select * from evnts").await;
    assert!(error.to_string().contains("did you mean `events`?"), "{error}");
    assert!(matches!(error, PipelinesError::InvalidQuery { .. }));
}
