//! What must hold, wherever the services run.

use crate::platform::Platform;
use crate::{messages, published};
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, TimeUnit};
use ondol_ingest_api::wire::{DeadLetterEntry, DeadLetterQuery, PushRequest};
use ondol_model_gateway_api::wire::{PredictRequest, Prediction, RegisterRequest};
use ondol_pipelines_api::wire::{AsOf, Job, JobState, TrainingSetOptions, TrainingSetRequest};
use ondol_testkit::unique_name;
use ondol_vocabulary::{DefinitionFile, DefinitionFiles, EventTime, FeatureStatus, Value, ViewState};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/demo");
const EVENTS: i64 = 40;

pub(crate) async fn run(mut platform: Platform) {
    let topic = unique_name("transactions");
    apply(&platform, &topic).await;
    stream(&platform, &topic).await;
    published::stream(&platform).await;
    published::is_right_online(&platform).await;
    published::is_right_in_training(&platform).await;
    messages::stream(&platform).await;
    messages::are_right_online(&platform).await;
    messages::are_right_in_training(&platform).await;
    a_bad_event_is_a_dead_letter(&platform).await;
    let registered = register(&platform).await;

    let served = predict(&platform).await;
    assert_eq!(served.model.version, registered);
    assert_eq!(served.features["card.n_1h"].value, Value::I64(EVENTS));
    assert_eq!(served.features["card.n_1h"].status, FeatureStatus::Fresh);
    assert!(served.features["card.n_1h"].age_ms.is_some_and(|age| age >= 0));
    the_training_set_says_the_same(&platform, &served).await;
    an_unknown_card_is_missing_not_wrong(&platform).await;
    decisions_land_offline(&platform, 2).await;
    every_process_tells_how_it_is(&platform).await;

    platform.kill_and_restart().await;
    let again = predict_once_ready(&platform).await;
    for (name, feature) in &served.features {
        assert_eq!(again.features[name].value, feature.value, "{name} after kill -9");
    }
    the_training_set_says_the_same(&platform, &served).await;
    published::is_right_online(&platform).await;
    messages::are_right_online(&platform).await;
    messages::are_right_in_training(&platform).await;
    platform.stop().await;
}

async fn apply(platform: &Platform, topic: &str) {
    let merchants = Path::new(DEMO).join("merchants.parquet").canonicalize().unwrap();
    let text = std::fs::read_to_string(Path::new(DEMO).join("features.toml"))
        .unwrap()
        .replace(
            "\"merchants.parquet\"",
            &format!("{:?}", merchants.display().to_string()),
        )
        .replace("kafka  = \"transactions\"", &format!("kafka  = \"{topic}\""));
    let files = DefinitionFiles {
        files: vec![
            DefinitionFile {
                path: "features.toml".to_owned(),
                text,
            },
            published::definitions(),
            messages::definitions(),
        ],
    };
    let store = platform.feature_store();
    let plan = store.plan(files.clone()).await.unwrap();
    assert!(plan.changes.len() >= 5, "{plan:?}");
    let mut snapshot = store.apply(files.clone()).await.unwrap().snapshot;
    for _ in 0..120 {
        if snapshot.views.iter().all(|view| view.state == ViewState::Active) {
            break;
        }
        snapshot = store
            .next_snapshot(snapshot.version, Duration::from_secs(1))
            .await
            .unwrap()
            .as_ref()
            .clone();
    }
    assert!(
        snapshot.views.iter().all(|view| view.state == ViewState::Active),
        "{:?}",
        snapshot.views
    );
    assert_eq!(
        store.apply(files).await.unwrap().changes,
        [],
        "applying the same files again changes nothing"
    );
}

fn event(index: i64, now: EventTime) -> String {
    let ts = now.plus_micros(-1_000_000 * (index + 1));
    format!(
        r#"{{"txn_id":"t{index}","card_id":"c1","merchant_id":"m{}","amount":{}.1,"declined":{},"ts":"{ts}"}}"#,
        index % 10,
        index,
        index % 4 == 0
    )
}

/// Half of the events by push, half straight into the topic where there is a Kafka.
async fn stream(platform: &Platform, topic: &str) {
    let now = EventTime::now();
    let events: Vec<String> = (0..EVENTS).map(|index| event(index, now)).collect();
    let (pushed, produced) = events.split_at(if platform.kafka.is_some() { 20 } else { events.len() });
    push(platform, pushed).await;
    if let Some(bootstrap) = &platform.kafka {
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .create()
            .unwrap();
        for payload in produced {
            let record = FutureRecord::<(), _>::to(topic).payload(payload.as_bytes());
            producer.send(record, Duration::from_secs(10)).await.unwrap();
        }
    }
    wait_for_events(platform, "transactions", EVENTS as u64).await;
}

async fn push(platform: &Platform, events: &[String]) {
    push_to(platform, "transactions", events).await;
}

pub(crate) async fn push_to(platform: &Platform, source: &str, events: &[String]) {
    let events: Vec<_> = events
        .iter()
        .map(|event| serde_json::value::RawValue::from_string(event.clone()).unwrap())
        .collect();
    platform.ingest().push(source, PushRequest::from(events)).await.unwrap();
}

pub(crate) async fn wait_for_events(platform: &Platform, source: &str, wanted: u64) {
    let mut seen = None;
    for _ in 0..600 {
        let status = platform.ingest().status().await.unwrap();
        seen = status.into_iter().find(|status| status.source == source);
        if seen.as_ref().is_some_and(|status| status.events >= wanted) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{wanted} events were not delivered: {seen:?}");
}

async fn a_bad_event_is_a_dead_letter(platform: &Platform) {
    push(platform, &[r#"{"txn_id":"bad","card_id":"c1","merchant_id":"m1","amount":"much","declined":false,"ts":"2026-01-01T00:00:00Z"}"#.to_owned()]).await;
    for _ in 0..200 {
        let letters = platform
            .ingest()
            .dead_letters("transactions", DeadLetterQuery::default())
            .await
            .unwrap()
            .letters;
        if let Some(DeadLetterEntry { letter, .. }) = letters.first() {
            assert_eq!(letter.reason, "wrong-type");
            assert!(letter.detail.contains("amount"), "{}", letter.detail);
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the bad event became no dead letter");
}

async fn register(platform: &Platform) -> u32 {
    let (manifest, _) = training_set(platform, EventTime::now()).await;
    let request = RegisterRequest {
        artifact: std::fs::read(Path::new(DEMO).join("fraud.onnx")).unwrap().into(),
        kind: None,
        manifest: Some(manifest),
    };
    platform
        .model_gateway()
        .register("fraud", request)
        .await
        .unwrap()
        .model
        .version
}

fn inputs(card: &str) -> BTreeMap<String, Value> {
    BTreeMap::from([
        ("card_id".to_owned(), Value::String(card.to_owned())),
        ("merchant_id".to_owned(), Value::String("m9".to_owned())),
        ("amount".to_owned(), Value::F64(120.0)),
    ])
}

async fn predict(platform: &Platform) -> Prediction {
    let request = PredictRequest {
        inputs: inputs("c1"),
        deadline_ms: Some(20_000),
        explain: Some(true),
        ..PredictRequest::default()
    };
    platform.model_gateway().predict("fraud", request).await.unwrap()
}

/// After a restart a service may be up before the neighbour it asks.
async fn predict_once_ready(platform: &Platform) -> Prediction {
    let mut last = None;
    for _ in 0..100 {
        let request = PredictRequest {
            inputs: inputs("c1"),
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
    panic!("no prediction after the restart: {last:?}");
}

async fn an_unknown_card_is_missing_not_wrong(platform: &Platform) {
    let request = PredictRequest {
        inputs: inputs("nobody"),
        deadline_ms: Some(20_000),
        explain: Some(true),
        ..PredictRequest::default()
    };
    let prediction = platform.model_gateway().predict("fraud", request).await.unwrap();
    assert_eq!(prediction.features["card.n_1h"].status, FeatureStatus::Missing);
    assert_eq!(prediction.features["card.n_1h"].value, Value::I64(0));
    assert_eq!(prediction.features["card.last_amount"].value, Value::Null);
}

/// The vector of `c1` at `time` as a training set gives it, with the manifest.
async fn training_set(platform: &Platform, time: EventTime) -> (serde_json::Value, RecordBatch) {
    let moment = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let schema = Arc::new(Schema::new(vec![
        Field::new("card_id", DataType::Utf8, true),
        Field::new("merchant_id", DataType::Utf8, true),
        Field::new("amount", DataType::Float64, true),
        Field::new("time", moment, true),
        Field::new("label", DataType::Utf8, true),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec!["c1"])),
        Arc::new(StringArray::from(vec!["m9"])),
        Arc::new(Float64Array::from(vec![120.0])),
        Arc::new(TimestampMicrosecondArray::from(vec![time.micros()]).with_timezone("UTC")),
        Arc::new(StringArray::from(vec!["kept"])),
    ];
    let spine = vec![RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()];
    let options = TrainingSetOptions {
        model: "fraud".to_owned(),
        time_column: Some("time".to_owned()),
        as_of: AsOf::KnownAt,
        exact_status: false,
    };
    let pipelines = platform.pipelines();
    let request = TrainingSetRequest {
        options,
        spine_schema: schema,
        spine,
    };
    let job = ended(platform, pipelines.training_set(request).await.unwrap()).await;
    let result = pipelines.result(&job.id).await.unwrap();
    let rows = arrow::compute::concat_batches(&result.schema, &result.batches).unwrap();
    assert_eq!(rows.num_rows(), 1);
    assert_eq!(
        rows.column_by_name("label").unwrap().as_string::<i32>().value(0),
        "kept"
    );
    (serde_json::to_value(job.manifest.unwrap()).unwrap(), rows)
}

pub(crate) async fn ended(platform: &Platform, mut job: Job) -> Job {
    while !job.state.is_final() {
        job = platform
            .pipelines()
            .job(&job.id, Some(job.revision), Duration::from_secs(5))
            .await
            .unwrap();
    }
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.error);
    job
}

async fn the_training_set_says_the_same(platform: &Platform, served: &Prediction) {
    let (_, rows) = training_set(platform, served.as_of).await;
    // A stream's windows and its latest row, a batch source, an input and what is derived of them.
    for name in [
        "card.spend_24h",
        "card.last_amount",
        "merchant.risk",
        "amount",
        "derived.ratio",
        "derived.abroad",
    ] {
        assert!(
            served.features.contains_key(name),
            "{name} was not served: {:?}",
            served.features.keys()
        );
    }
    for (name, feature) in &served.features {
        let column = rows
            .column_by_name(name)
            .unwrap_or_else(|| panic!("{name} is in the training set"));
        assert_eq!(value(column), feature.value, "{name}: training set against served");
    }
}

pub(crate) fn value(column: &ArrayRef) -> Value {
    if column.is_null(0) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Int64 => Value::I64(column.as_primitive::<Int64Type>().value(0)),
        DataType::Float64 => Value::F64(column.as_primitive::<Float64Type>().value(0)),
        DataType::Utf8 => Value::String(column.as_string::<i32>().value(0).to_owned()),
        DataType::Boolean => Value::Bool(column.as_boolean().value(0)),
        other => panic!("unexpected type {other}"),
    }
}

async fn decisions_land_offline(platform: &Platform, wanted: u64) {
    let store = platform.feature_store();
    for _ in 0..300 {
        store.flush("decisions").await.unwrap();
        let tables = store.tables().await.unwrap();
        let rows = tables
            .iter()
            .find(|table| table.source == "decisions")
            .and_then(|table| table.rows);
        if rows.is_some_and(|rows| rows >= wanted) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{wanted} decisions did not reach the offline store");
}

async fn every_process_tells_how_it_is(platform: &Platform) {
    for text in platform.get("/healthz").await {
        assert!(text.contains("ok"), "{text}");
    }
    for text in platform.get("/metrics").await {
        assert!(text.contains("ondol_http_requests_total"), "{text}");
    }
    for text in platform.get("/openapi.json").await {
        assert!(text.contains("\"openapi\":\"3.1"), "{}", &text[..200.min(text.len())]);
    }
    platform.get("/docs/").await;
}
