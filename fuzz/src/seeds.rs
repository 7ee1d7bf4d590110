//! The first inputs of every target: good ones, from which libFuzzer departs.

use crate::events::{AVRO, PROTOBUF};
use crate::{TARGETS, stored};
use arrow::array::{
    ArrayRef, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::Float64Type;
use ondol_feature_store_api::wire::{Delivery, DeliveryHeader, FeatureBatch, FeatureColumn};
use ondol_model_gateway::open_inference::grpc::generated::model_infer_request::InferInputTensor;
use ondol_model_gateway::open_inference::grpc::generated::{InferTensorContents, ModelInferRequest};
use ondol_vocabulary::{EntityKey, EventTime, FeatureRef, FeatureStatus, PartitionRange, Value, batch};
use prost::Message;
use std::sync::Arc;

const EVENT: &str = r#"{"id":"a","n":3,"x":1.5e300,"f":0.1,"small":-7,"flag":true,"ts":"2013-01-01T05:17:00.25+09:00","more":{"a":[1,null]}}"#;
const NESTED: &str =
    r#"{"items":[{"id":"a","next":{"n":"3"}},{"id":"b","next":null}],"tags":{"flag":false},"x":"NaN"}"#;
const CHANGE: &str = r#"{"before":{"id":"a"},"after":{"id":"a","n":1,"x":2,"flag":true},"op":"u","source":{"ts_ms":1357017420000},"ts_ms":1357017420001}"#;
const DEFINITIONS: &str = r#"[source.transactions]
kafka = "transactions"
time = "ts"
late = "10m"
arrival = "event-time"
schema = { card_id = "string", amount = "f64", declined = "bool", ts = "timestamp" }

[view.card]
from = "transactions"
key = "card_id"
ttl = "30d"
where = "amount is not null"
features.n_1h = "count() filter (where declined) over 1h"
features.recent = "last_n(amount, 3) over 7d"
features.tails = { expr = "quantiles(amount, 0.5, 0.99) over 3h", hop = "15m" }
features.amount = "round(amount / nullif(amount, 0), 2)"

[model.fraud]
inputs = { card_id = "string", amount = "f64" }
features = ["card.*", "amount", "derived.*"]
derived.ratio = "amount / nullif(card.amount, 0)"
"#;

/// Every target's seeds.
pub fn all() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    TARGETS.map(|(name, _)| (name, of(name))).into()
}

fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "json_events" => vec![
            record(0, b"", b"", EVENT.as_bytes()),
            record(1, br#"{"x":2}"#, b"2.5", NESTED.as_bytes()),
            record(0x80, b"k", b"", b""),
            record(0, b"", b"", br#"{"id":null,"n":9007199254740993,"x":"Infinity","ts":1357017420000000,"id":"twice"}"#),
        ],
        "avro_events" => (0..3).map(|choice| record(choice, b"", b"", &avro_message())).collect(),
        "protobuf_events" => (0..9).map(|choice| record(choice, b"", b"", &protobuf_message())).collect(),
        "registry_frames" => {
            let frame = |schema: u8, value: &[u8]| [&[0, 0, 0, 0, schema], value].concat();
            let mut seeds = Vec::new();
            for choice in 0..15 {
                seeds.push(record(choice, &frame(0, b"\x02a"), b"1", &frame(0, &avro_message())));
            }
            seeds.push(record(3, b"", b"", &frame(1, b"\x02\x00\x00\x00\x02a\x04")));
            seeds.push(record(9, b"", b"", &frame(2, &[&[0], protobuf_message().as_slice()].concat())));
            seeds.push(record(9, b"", b"", &frame(2, &[&[4, 0, 0], protobuf_message().as_slice()].concat())));
            seeds.push(record(0, b"", b"", &frame(3, EVENT.as_bytes())));
            seeds
        }
        "schemas" => vec![
            schema(0, AVRO, &avro_message()),
            schema(1, PROTOBUF, &protobuf_message()),
            schema(0, r#"["null","string",{"type":"array","items":"long"}]"#, b"\x02\x02a"),
        ],
        "changes" => vec![
            record(0, br#"{"id":"a"}"#, b"", CHANGE.as_bytes()),
            record(0, b"", b"", format!(r#"{{"schema":{{}},"payload":{CHANGE}}}"#).as_bytes()),
            record(0, b"", b"", CHANGE.replace("\"u\"", "\"d\"").replace("\"after\":{", "\"x\":{").as_bytes()),
            record(0x80, br#"{"id":"a"}"#, b"", b""),
        ],
        "log_frames" => vec![
            include_bytes!("../../ingest/src/source/embedded/golden/frame_v1.bin").to_vec(),
            log_frame(1 | 2 | 4, b"key", &[b"\x01\0\0\0h\x02\0\0\0vv".as_slice(), b"value"].concat()),
            log_frame(8, b"", b""),
        ],
        "rows" => stored::rows(),
        "online_values" => vec![b"row".to_vec(), ondol_feature_store::fuzzing::sealed(b"row")],
        "entity_keys" => vec![entity_key()],
        "feature_batches" => [0, 2].map(|rows| arrow_features(&features(rows))).to_vec(),
        "packed_features" => [0, 2].map(|rows| packed_features(&features(rows))).to_vec(),
        "deliveries" => vec![delivery()],
        "json_wires" => vec![
            [b"\0".as_slice(), br#"["a",1,-0.5,true,null,"2013-01-01T05:17:00Z"]"#].concat(),
            [b"\x01".as_slice(), br#"{"features":["card.n_1h"],"entities":[{"name":"id","values":["a",7]}],"as_of":"2013-01-01T05:17:00Z"}"#].concat(),
            [b"\x02".as_slice(), br#"{"version":1,"sources":[],"views":[],"models":[]}"#].concat(),
            [b"\x03".as_slice(), br#"{"files":[{"path":"a.toml","text":""}]}"#].concat(),
        ],
        "inference_requests" => vec![
            inference(br#"{"id":"1","inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[1,2.5],[null,"NaN"]]}]}"#, None),
            inference(br#"{"inputs":[{"name":"id","shape":[2,1],"datatype":"BYTES","data":["a","b"],"parameters":{}}],"outputs":[{"name":"p"}],"parameters":{"timeout":1000}}"#, None),
            inference(
                br#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}},{"name":"id","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5}}],"parameters":{"binary_data_output":true}}"#,
                Some(b"\0\0\x80\x3f\0\0\0\xc0\x01\0\0\0a"),
            ),
        ],
        "inference_messages" => vec![message(true), message(false)],
        "tensor_bytes" => vec![
            b"\x0b\x02\0\0\0\x80\x3f\0\0\0\xc0".to_vec(),
            b"\x0d\x02\0\x03\0\0\0\xea\xb0\x80\0\0\0\0".to_vec(),
            b"\x09\x01\0\0\x3c".to_vec(),
            b"\0\x01\0\x01".to_vec(),
        ],
        "access_tokens" => [
            "\0eyJhbGciOiJFZERTQSIsImtpZCI6ImEifQ.e30.AAAA",
            "\x01{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}",
            "\x02{\"iss\":\"i\",\"aud\":\"ondol\",\"sub\":\"s\",\"exp\":1000000060,\"scope\":\"predict:fraud\"}",
            "\x03predict:fraud",
            "\x04/v2/models/fraud/infer",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec(),
        "definition_files" => vec![DEFINITIONS.as_bytes().to_vec()],
        "expressions" => [
            "case when x > 1.5 and s like 'a%' then coalesce(n, 7) else i % 3 end",
            "extract(hour from t at time zone 'Asia/Seoul') + date_part('dow', t)",
            "regexp_like(s, '^[a-z]+$') or b is distinct from (f between 1 and 2)",
            "cast(round(power(x, 2), 1) as i64)::string || lpad(s, 3, '0')",
            "t + interval '1 hour' > date_trunc('day', t)",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec(),
        _ => Vec::new(),
    }
}

fn record(choice: u8, key: &[u8], header: &[u8], value: &[u8]) -> Vec<u8> {
    // 128 and more would say that there is none.
    let lengths = [choice, key.len() as u8 & 0x7f, header.len() as u8 & 0x7f];
    [&lengths, key, header, value].concat()
}

/// A request over REST: its JSON's length, the JSON, and the bytes behind it.
fn inference(json: &[u8], blobs: Option<&[u8]>) -> Vec<u8> {
    let length = blobs.map_or(u16::MAX, |_| json.len() as u16);
    [&length.to_le_bytes(), json, blobs.unwrap_or_default()].concat()
}

/// A request over gRPC, with its elements raw or typed.
fn message(raw: bool) -> Vec<u8> {
    let contents = InferTensorContents {
        fp32_contents: vec![1.0, f32::NAN],
        ..InferTensorContents::default()
    };
    let input = InferInputTensor {
        name: "x".to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![1, 2],
        contents: (!raw).then_some(contents),
        ..InferInputTensor::default()
    };
    let request = ModelInferRequest {
        model_name: "fraud".to_owned(),
        inputs: vec![input],
        raw_input_contents: raw
            .then(|| b"\0\0\x80\x3f\0\0\xc0\x7f".as_slice().into())
            .into_iter()
            .collect(),
        ..ModelInferRequest::default()
    };
    request.encode_to_vec()
}

fn schema(language: u8, text: &str, message: &[u8]) -> Vec<u8> {
    let [low, high] = (text.len() as u16).to_le_bytes();
    [&[language, low, high], text.as_bytes(), message].concat()
}

/// A record of the Avro schema.
fn avro_message() -> Vec<u8> {
    let mut bytes = b"\x02a".to_vec();
    bytes.extend(b"\x02\x0e");
    bytes.extend([&[2], 1.5f64.to_le_bytes().as_slice()].concat());
    bytes.push(1);
    bytes.extend(varint(1_357_017_420_000_000 << 1));
    bytes.push(2);
    bytes.extend(b"\x04\x04\xd2");
    bytes.extend(b"\x02\x02k\x02v\x00");
    bytes.extend(b"\x02\x02i\x06\x02\x02j\x08\x00\x00");
    bytes
}

/// A message of the Protobuf schema.
fn protobuf_message() -> Vec<u8> {
    let mut bytes = b"\x0a\x01a\x10\x07\x19".to_vec();
    bytes.extend(1.5f64.to_le_bytes());
    bytes.extend(b"\x20\x01\x28");
    bytes.extend(varint(1_357_017_420_000_000));
    bytes.extend(b"\x30\x01\x3a\x0c\x0a\x01i\x10\x03\x1a\x05\x0a\x01j\x10\x04");
    bytes.extend(b"\x42\x05\x0a\x01k\x10\x03\x4d\0\0\x80\x3f");
    bytes
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A frame whose length and checksum the target puts right.
fn log_frame(flags: u8, key: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    bytes.push(flags);
    bytes.extend(1_357_017_420_000_000i64.to_le_bytes());
    bytes.extend((key.len() as u32).to_le_bytes());
    bytes.extend(key);
    if flags & 4 != 0 {
        bytes.extend(11u32.to_le_bytes());
    }
    bytes.extend(rest);
    bytes
}

fn entity_key() -> Vec<u8> {
    let values = [
        Value::String("카드".to_owned()),
        Value::I64(-7),
        Value::Bool(true),
        Value::Timestamp(EventTime::from_micros(5)),
    ];
    let key = EntityKey::from_values(&values).unwrap().unwrap();
    key.as_bytes().to_vec()
}

fn features(rows: usize) -> FeatureBatch {
    let column = |values: ArrayRef| FeatureColumn {
        view_version: 2,
        values: values.slice(0, rows),
        status: [FeatureStatus::Fresh, FeatureStatus::Missing][..rows].into(),
        event_time: [Some(EventTime::from_micros(5)), None][..rows].into(),
    };
    let names = ["n", "risk", "text", "recent"];
    let lists = [Some(vec![Some(0.1), Some(f64::NAN)]), None];
    let columns = vec![
        column(Arc::new(Int64Array::from(vec![7, 0]))),
        column(Arc::new(Float32Array::from(vec![Some(0.1), None]))),
        column(Arc::new(StringArray::from(vec![Some("KR"), None]))),
        column(Arc::new(arrow::array::ListArray::from_iter_primitive::<
            Float64Type,
            _,
            _,
        >(lists))),
    ];
    FeatureBatch {
        as_of: EventTime::from_micros(6),
        rows,
        features: names.iter().map(|name| FeatureRef::new("card", *name)).collect(),
        columns,
    }
}

fn arrow_features(features: &FeatureBatch) -> Vec<u8> {
    let sent = features.to_arrow().unwrap();
    batch::encode(&sent.schema(), &[sent]).unwrap()
}

fn packed_features(features: &FeatureBatch) -> Vec<u8> {
    let asked = u8::try_from(features.columns.len()).unwrap();
    [&[asked], features.to_packed().unwrap().as_slice()].concat()
}

fn delivery() -> Vec<u8> {
    let moments = TimestampMicrosecondArray::from(vec![5, 6]).with_timezone("UTC");
    let columns: [(&str, ArrayRef); 4] = [
        ("id", Arc::new(StringArray::from(vec![Some("a"), None]))),
        ("_partition", Arc::new(Int32Array::from(vec![0, 0]))),
        ("_offset", Arc::new(Int64Array::from(vec![10, 11]))),
        ("_ingested_at", Arc::new(moments)),
    ];
    let header = DeliveryHeader {
        source: "s".to_owned(),
        source_version: 1,
        generation: "g".to_owned(),
        ranges: vec![PartitionRange {
            partition: 0,
            from: 10,
            to: 12,
        }],
        table: None,
    };
    let events = RecordBatch::try_from_iter(columns).unwrap();
    let sent = Delivery { header, events }.to_arrow().unwrap();
    batch::encode(&sent.schema(), &[sent]).unwrap()
}
