//! Batch sources alone, without a stream: rows online, a training set, a prediction, new rows, rows that are gone.

use crate::platform::Platform;
use crate::scenario::{ended, value};
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use ondol_model_gateway_api::wire::{PredictRequest, Prediction, RegisterRequest};
use ondol_pipelines_api::wire::{
    AsOf, JobRequest, MaterializeOutcome, MaterializeRequest, SourceStatistics, StatisticsQuery, StatisticsRequest,
    TrainingSetOptions, TrainingSetRequest,
};
use ondol_vocabulary::{DefinitionFile, DefinitionFiles, EventTime, FeatureStatus, Value, ViewState};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const DEFINITIONS: &str = r#"
[source.cards]
parquet = "LOCATION"
time    = "day"
schema  = { card_id = "string", n = "i64", spend = "f64", country = "string", day = "timestamp" }

[view.card]
from = "cards"
key  = "card_id"
features.n_1h        = "n"
features.spend_24h   = "spend"
features.mean_24h    = "spend / nullif(n, 0)"
features.declined_7d = "n - 1"
features.last_amount = "spend / 2"

[view.merchant]
from = "cards"
key  = "card_id"
features.country = "country"
features.risk    = "spend / 1000"

[model.fraud]
inputs   = { card_id = "string", amount = "f64" }
features = ["card.*", "merchant.risk", "amount", "derived.ratio", "derived.abroad"]
derived.ratio  = "amount / nullif(card.mean_24h, 0)"
derived.abroad = "case when merchant.country <> 'KR' then 1.0 else 0.0 end"
"#;

/// A card, its payments, what it spent, its country, and how many days ago that was.
type Card<'a> = (&'a str, i64, f64, &'a str, i64);

pub(crate) async fn run() {
    let mut platform = Platform::embedded().await;
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("cards");
    std::fs::create_dir_all(&table).unwrap();
    let file = |name: &str| table.join(name);
    write(
        &file("1.parquet"),
        &[("c1", 4, 100.0, "KR", 3), ("c2", 2, 30.0, "JP", 3)],
    );
    apply(&platform, &table).await;

    let manifest = training_set(&platform, EventTime::now()).await.0;
    let artifact = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/demo/fraud.onnx");
    let request = RegisterRequest {
        artifact: std::fs::read(artifact).unwrap().into(),
        kind: None,
        manifest: Some(manifest),
    };
    platform.model_gateway().register("fraud", request).await.unwrap();
    let served = predict(&platform, "c1").await;
    assert_eq!(served.features["card.spend_24h"].value, Value::F64(100.0));
    let (_, rows) = training_set(&platform, served.as_of).await;
    for (name, feature) in &served.features {
        assert_eq!(
            value(rows.column_by_name(name).unwrap()),
            feature.value,
            "{name}: training set against served"
        );
    }

    // A day later: a file more. Only its rows are read.
    write(
        &file("2.parquet"),
        &[("c1", 5, 150.0, "KR", 2), ("c3", 1, 5.0, "KR", 2)],
    );
    let outcome = materialize(&platform).await;
    assert_eq!((outcome.delivered, outcome.skipped), (2, 2));
    platform.kill_and_restart().await;
    let again = materialize(&platform).await;
    assert_eq!(
        (again.delivered, again.skipped),
        (0, 4),
        "after kill -9 there is nothing to do: {again:?}"
    );
    assert_eq!(
        predict(&platform, "c1").await.features["card.spend_24h"].value,
        Value::F64(150.0)
    );

    // A file is gone: so are its rows.
    std::fs::remove_file(file("2.parquet")).unwrap();
    let outcome = materialize(&platform).await;
    assert!(outcome.anew.contains_key("card"), "{outcome:?}");
    assert_eq!(
        predict(&platform, "c1").await.features["card.spend_24h"].value,
        Value::F64(100.0)
    );
    assert_eq!(
        predict(&platform, "c3").await.features["card.spend_24h"].status,
        FeatureStatus::Missing
    );

    let statistics = statistics(&platform).await;
    assert_eq!((statistics.rows, statistics.dates), (2, 1));
    assert_eq!(statistics.columns[2].max, Some(Value::F64(100.0)));
    platform.stop().await;
}

async fn apply(platform: &Platform, table: &Path) {
    let file = DefinitionFile {
        path: "features.toml".to_owned(),
        text: DEFINITIONS.replace("\"LOCATION\"", &format!("{:?}", table.display().to_string())),
    };
    let store = platform.feature_store();
    let mut snapshot = store
        .apply(DefinitionFiles { files: vec![file] })
        .await
        .unwrap()
        .snapshot;
    for _ in 0..120 {
        if snapshot.views.iter().all(|view| view.state == ViewState::Active) {
            return;
        }
        let next = store.next_snapshot(snapshot.version, Duration::from_secs(1)).await;
        snapshot = next.unwrap().as_ref().clone();
    }
    panic!("not provisioned: {:?}", snapshot.views);
}

async fn materialize(platform: &Platform) -> MaterializeOutcome {
    let job = platform
        .pipelines()
        .materialize(MaterializeRequest::of("cards"))
        .await
        .unwrap();
    serde_json::from_value(ended(platform, job).await.outcome.unwrap()).unwrap()
}

async fn statistics(platform: &Platform) -> SourceStatistics {
    let pipelines = platform.pipelines();
    let request = JobRequest::Statistics(StatisticsRequest::of("cards"));
    ended(platform, pipelines.submit(request, None).await.unwrap()).await;
    pipelines.statistics("cards", StatisticsQuery::default()).await.unwrap()
}

/// After a restart a service may be up before the neighbour it asks.
async fn predict(platform: &Platform, card: &str) -> Prediction {
    let mut last = None;
    for _ in 0..100 {
        let inputs = [
            ("card_id", Value::String(card.to_owned())),
            ("amount", Value::F64(20.0)),
        ];
        let request = PredictRequest {
            inputs: inputs.map(|(name, value)| (name.to_owned(), value)).into(),
            deadline_ms: Some(20_000),
            explain: Some(true),
            ..PredictRequest::default()
        };
        match platform.model_gateway().predict("fraud", request).await {
            Ok(prediction) => return prediction,
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no prediction: {last:?}");
}

/// The vector of `c1` at `time`, with the manifest.
async fn training_set(platform: &Platform, time: EventTime) -> (serde_json::Value, RecordBatch) {
    let moment = TimestampMicrosecondArray::from(vec![time.micros()]).with_timezone("UTC");
    let spine = batch(vec![
        ("card_id", Arc::new(StringArray::from(vec!["c1"]))),
        ("amount", Arc::new(Float64Array::from(vec![20.0]))),
        ("time", Arc::new(moment)),
    ]);
    let options = TrainingSetOptions {
        model: "fraud".to_owned(),
        time_column: Some("time".to_owned()),
        as_of: AsOf::KnownAt,
        exact_status: false,
    };
    let request = TrainingSetRequest {
        options,
        spine_schema: spine.schema(),
        spine: vec![spine],
    };
    let pipelines = platform.pipelines();
    let job = ended(platform, pipelines.training_set(request).await.unwrap()).await;
    let result = pipelines.result(&job.id).await.unwrap();
    let rows = arrow::compute::concat_batches(&result.schema, &result.batches).unwrap();
    (serde_json::to_value(job.manifest.unwrap()).unwrap(), rows)
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

fn write(path: &PathBuf, cards: &[Card<'_>]) {
    let today = EventTime::now().micros() / 86_400_000_000 * 86_400_000_000;
    let days = cards.iter().map(|card| today - card.4 * 86_400_000_000);
    let rows = batch(vec![
        (
            "card_id",
            Arc::new(StringArray::from_iter_values(cards.iter().map(|card| card.0))),
        ),
        (
            "n",
            Arc::new(Int64Array::from_iter_values(cards.iter().map(|card| card.1))),
        ),
        (
            "spend",
            Arc::new(Float64Array::from_iter_values(cards.iter().map(|card| card.2))),
        ),
        (
            "country",
            Arc::new(StringArray::from_iter_values(cards.iter().map(|card| card.3))),
        ),
        (
            "day",
            Arc::new(TimestampMicrosecondArray::from_iter_values(days).with_timezone("UTC")),
        ),
    ]);
    let mut writer = parquet::arrow::ArrowWriter::try_new(File::create(path).unwrap(), rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
}
