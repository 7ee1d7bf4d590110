//! TensorFlow Serving over HTTP, from the client's side: `POST /v1/models/M:predict`.
//!
//! Columns (`inputs`, answered by `outputs`) or rows (`instances`, answered by `predictions`). A model of one input takes
//! its values without their name, and a model of one output answers so. NaN is written as `NaN`, which the server reads.

use crate::runtime::signature::{Signature, Slot, SlotKind};
use crate::runtime::tensor::{ElementType, NamedTensor};
use crate::runtime::upstream::fault::Fault;
use crate::runtime::upstream::json::{self, Missing};
use crate::runtime::upstream::mlflow::named_outputs;
use crate::runtime::upstream::spec::{BodyShape, UpstreamSpec};
use crate::runtime::upstream::transport::{Answer, Call};
use crate::runtime::upstream::v2::segment;
use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::Value;

fn path(spec: &UpstreamSpec) -> String {
    let model = segment(&spec.model);
    if spec.version.is_empty() {
        format!("/v1/models/{model}")
    } else {
        format!("/v1/models/{model}/versions/{}", segment(&spec.version))
    }
}

/// The call that asks for metadata.
pub(super) fn ask_metadata(spec: &UpstreamSpec) -> Call {
    Call {
        method: Method::GET,
        path: format!("{}/metadata", path(spec)),
        headers: HeaderMap::new(),
        body: Bytes::new(),
    }
}

/// What the server says that the model's signature `serving_default` takes and gives.
pub(super) fn metadata(answer: &Answer) -> Result<Signature, String> {
    let whole: Value =
        serde_json::from_slice(&answer.body).map_err(|error| format!("its metadata can't be read: {error}"))?;
    let default = whole
        .pointer("/metadata/signature_def/signature_def/serving_default")
        .ok_or("its metadata has no signature `serving_default`")?;
    let slots = |key: &str| -> Vec<Slot> {
        let tensors = default.get(key).and_then(Value::as_object);
        tensors
            .into_iter()
            .flatten()
            .map(|(name, info)| slot(name, info))
            .collect()
    };
    Ok(Signature {
        inputs: slots("inputs"),
        outputs: slots("outputs"),
        features: None,
    })
}

fn slot(name: &str, info: &Value) -> Slot {
    let datatype = info.get("dtype").and_then(Value::as_str).unwrap_or_default();
    let size = |dimension: &Value| {
        let size = dimension.get("size")?;
        size.as_i64().or_else(|| size.as_str()?.parse().ok())
    };
    let dimensions = info.pointer("/tensor_shape/dim").and_then(Value::as_array);
    let shape = dimensions
        .into_iter()
        .flatten()
        .map(|dimension| size(dimension).unwrap_or(-1))
        .collect();
    let element = match datatype {
        "DT_FLOAT" => ElementType::F32,
        "DT_DOUBLE" => ElementType::F64,
        "DT_INT8" => ElementType::I8,
        "DT_INT16" => ElementType::I16,
        "DT_INT32" => ElementType::I32,
        "DT_INT64" => ElementType::I64,
        "DT_UINT8" => ElementType::U8,
        "DT_UINT16" => ElementType::U16,
        "DT_UINT32" => ElementType::U32,
        "DT_UINT64" => ElementType::U64,
        "DT_BOOL" => ElementType::Bool,
        "DT_STRING" => ElementType::String,
        other => {
            return Slot {
                name: name.to_owned(),
                kind: SlotKind::Unsupported(format!("{other} tensor")),
            };
        }
    };
    Slot::tensor(name, element, shape)
}

/// The call that runs the model.
pub(super) fn ask(spec: &UpstreamSpec, rows: usize, inputs: &[NamedTensor]) -> Call {
    let mut text = Vec::with_capacity(256);
    let named = || inputs.iter().map(|tensor| (tensor.name.as_str(), tensor));
    match (spec.shape, inputs) {
        (BodyShape::Columns, [only]) => {
            text.extend_from_slice(b"{\"inputs\":");
            json::write_nested(&mut text, &only.data, 0, &only.shape, Missing::Literal);
        }
        (BodyShape::Columns, _) => {
            text.extend_from_slice(b"{\"inputs\":");
            json::write_object(&mut text, named(), |text, tensor| {
                json::write_nested(text, &tensor.data, 0, &tensor.shape, Missing::Literal);
            });
        }
        (BodyShape::Rows, _) => {
            text.extend_from_slice(b"{\"instances\":");
            json::write_list(&mut text, 0..rows, |text, row| match inputs {
                [only] => json::write_row(text, only, row, Missing::Literal),
                _ => json::write_object(text, named(), |text, tensor| {
                    json::write_row(text, tensor, row, Missing::Literal);
                }),
            });
        }
    }
    text.push(b'}');
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Call {
        method: Method::POST,
        path: format!("{}:predict", path(spec)),
        headers,
        body: Bytes::from(text),
    }
}

/// The model's outputs.
pub(super) fn outputs(answer: &Answer, signature: &Signature) -> Result<Vec<NamedTensor>, Fault> {
    let whole: Value = serde_json::from_slice(&answer.body).map_err(|error| Fault::unreadable(&error))?;
    let value = whole
        .get("outputs")
        .or_else(|| whole.get("predictions"))
        .ok_or_else(|| Fault::Wrong("its answer has neither `outputs` nor `predictions`".to_owned()))?;
    named_outputs(value, signature).map_err(Fault::Wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::tensor::TensorData;

    fn spec(shape: &str) -> UpstreamSpec {
        let text = format!("url = \"http://m\"\nprotocol = \"tf-serving\"\nmodel = \"a\"\nshape = \"{shape}\"\n");
        UpstreamSpec::parse(&text).unwrap()
    }

    fn check(shape: &str, inputs: &[NamedTensor], expected: &str) {
        let call = ask(&spec(shape), 2, inputs);
        assert_eq!(call.path, "/v1/models/a:predict");
        assert_eq!(String::from_utf8_lossy(&call.body), expected);
    }

    #[test]
    fn columns_and_rows_are_as_the_server_documents_them() {
        let matrix = NamedTensor {
            name: "x".into(),
            shape: vec![2, 2],
            data: TensorData::F32(vec![1.0, 2.5, f32::NAN, 4.0]),
        };
        let flags = NamedTensor {
            name: "f".into(),
            shape: vec![2],
            data: TensorData::Bool(vec![true, false]),
        };
        let one = std::slice::from_ref(&matrix);
        check("columns", one, r#"{"inputs":[[1,2.5],[NaN,4]]}"#);
        check("rows", one, r#"{"instances":[[1,2.5],[NaN,4]]}"#);
        let two = [matrix.clone(), flags];
        check(
            "columns",
            &two,
            r#"{"inputs":{"x":[[1,2.5],[NaN,4]],"f":[true,false]}}"#,
        );
        check(
            "rows",
            &two,
            r#"{"instances":[{"x":[1,2.5],"f":true},{"x":[NaN,4],"f":false}]}"#,
        );
    }

    #[test]
    fn metadata_is_read_as_the_server_writes_it() {
        let body = r#"{"model_spec":{"name":"a","signature_name":"","version":"1"},"metadata":{"signature_def":{"signature_def":
            {"serving_default":{"inputs":{"x":{"dtype":"DT_FLOAT","tensor_shape":{"dim":[{"size":"-1","name":""},{"size":"5","name":""}],
            "unknown_rank":false},"name":"x:0"}},"outputs":{"y":{"dtype":"DT_HALF","tensor_shape":{"dim":[]},"name":"y:0"}},
            "method_name":"tensorflow/serving/predict"}}}}}"#;
        let answer = Answer {
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        };
        let signature = metadata(&answer).unwrap();
        assert_eq!(signature.inputs, [Slot::tensor("x", ElementType::F32, vec![-1, 5])]);
        assert_eq!(
            signature.outputs[0].kind,
            SlotKind::Unsupported("DT_HALF tensor".to_owned())
        );
    }
}
