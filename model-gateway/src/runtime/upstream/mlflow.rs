//! MLflow's scoring server, from the client's side: `POST /invocations`.
//!
//! Tensors of a value a row are a table (`dataframe_split`, or `dataframe_records` where rows are asked for), so that the
//! model's columns get their names; a single matrix is `inputs`. The answer's `predictions` is a list with an entry a row
//! (a value, a list, or an object of outputs by name) or an object of lists. The server does not tell what the model
//! takes and gives.

use crate::runtime::signature::{Signature, Slot, SlotKind};
use crate::runtime::tensor::{ElementType, NamedTensor};
use crate::runtime::upstream::fault::Fault;
use crate::runtime::upstream::json::{self, Missing};
use crate::runtime::upstream::spec::{BodyShape, UpstreamSpec};
use crate::runtime::upstream::transport::{Answer, Call};
use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::{Map, Value};

/// The output of a model whose outputs are not described.
pub(super) const OUTPUT: &str = "predictions";

/// The call that runs the model.
pub(super) fn ask(spec: &UpstreamSpec, rows: usize, inputs: &[NamedTensor]) -> Call {
    let mut text = Vec::with_capacity(256);
    let is_table = inputs
        .iter()
        .all(|tensor| matches!(tensor.shape.as_slice(), [_] | [_, 1]));
    match inputs {
        [matrix] if !is_table => {
            text.extend_from_slice(b"{\"inputs\":");
            json::write_nested(&mut text, &matrix.data, 0, &matrix.shape, Missing::Null);
        }
        _ if !is_table => {
            text.extend_from_slice(b"{\"inputs\":");
            let named = inputs.iter().map(|tensor| (tensor.name.as_str(), tensor));
            json::write_object(&mut text, named, |text, tensor| {
                json::write_nested(text, &tensor.data, 0, &tensor.shape, Missing::Null);
            });
        }
        _ => table(&mut text, spec.shape, rows, inputs),
    }
    text.push(b'}');
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Call {
        method: Method::POST,
        path: "/invocations".to_owned(),
        headers,
        body: Bytes::from(text),
    }
}

fn table(text: &mut Vec<u8>, shape: BodyShape, rows: usize, inputs: &[NamedTensor]) {
    match shape {
        BodyShape::Columns => {
            text.extend_from_slice(b"{\"dataframe_split\":{\"columns\":");
            json::write_list(text, inputs, |text, tensor| {
                // A text is always JSON.
                let _ = serde_json::to_writer(text, &tensor.name);
            });
            text.extend_from_slice(b",\"data\":");
            json::write_list(text, 0..rows, |text, row| {
                json::write_list(text, inputs, |text, tensor| {
                    json::write_element(text, &tensor.data, row, Missing::Null);
                });
            });
            text.push(b'}');
        }
        BodyShape::Rows => {
            text.extend_from_slice(b"{\"dataframe_records\":");
            json::write_list(text, 0..rows, |text, row| {
                let named = inputs.iter().map(|tensor| (tensor.name.as_str(), tensor));
                json::write_object(text, named, |text, tensor| {
                    json::write_element(text, &tensor.data, row, Missing::Null);
                });
            });
        }
    }
}

/// The model's outputs.
pub(super) fn outputs(answer: &Answer, signature: &Signature) -> Result<Vec<NamedTensor>, Fault> {
    let whole: Value = serde_json::from_slice(&answer.body).map_err(|error| Fault::unreadable(&error))?;
    let predictions = whole
        .get(OUTPUT)
        .ok_or_else(|| Fault::Wrong("its answer has no `predictions`".to_owned()))?;
    named_outputs(predictions, signature).map_err(Fault::Wrong)
}

/// The outputs of `signature` in `value`: the only one's values, or an object of them, or an object a row.
pub(super) fn named_outputs(value: &Value, signature: &Signature) -> Result<Vec<NamedTensor>, String> {
    let by_row: Option<Vec<&Map<String, Value>>> = match value {
        Value::Array(rows) if !rows.is_empty() => rows.iter().map(Value::as_object).collect(),
        _ => None,
    };
    let read = |slot: &Slot| {
        let element = element(slot);
        let missing = || format!("its answer has no output `{}`", slot.name);
        if let Some(rows) = &by_row {
            let column = rows.iter().map(|row| row.get(&slot.name).cloned().ok_or_else(missing));
            return json::read(&slot.name, element, &Value::Array(column.collect::<Result<_, _>>()?));
        }
        match value {
            Value::Object(outputs) => json::read(&slot.name, element, outputs.get(&slot.name).ok_or_else(missing)?),
            _ if signature.outputs.len() == 1 => json::read(&slot.name, element, value),
            _ => Err("its answer is one list, and several outputs are described".to_owned()),
        }
    };
    signature.outputs.iter().map(read).collect()
}

fn element(slot: &Slot) -> ElementType {
    match &slot.kind {
        SlotKind::Tensor { element, .. } => *element,
        SlotKind::Unsupported(_) => ElementType::F64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::tensor::TensorData;
    use serde_json::json;

    fn column(name: &str, data: TensorData) -> NamedTensor {
        NamedTensor {
            name: name.to_owned(),
            shape: vec![i64::try_from(data.len()).unwrap()],
            data,
        }
    }

    #[test]
    fn columns_are_a_table_in_either_form_and_a_matrix_is_inputs() {
        let spec = |shape: &str| {
            UpstreamSpec::parse(&format!(
                "url = \"http://m\"\nprotocol = \"mlflow\"\nshape = \"{shape}\"\n"
            ))
            .unwrap()
        };
        let inputs = [
            column("amount", TensorData::F64(vec![8.0, f64::NAN])),
            column("country", TensorData::String(vec!["no".into(), "se".into()])),
        ];
        let body = |shape, inputs: &[NamedTensor]| {
            serde_json::from_slice::<Value>(&ask(&spec(shape), 2, inputs).body).unwrap()
        };
        let split = json!({"dataframe_split": {"columns": ["amount", "country"], "data": [[8, "no"], [null, "se"]]}});
        assert_eq!(body("columns", &inputs), split);
        let records = json!({"dataframe_records": [{"amount": 8, "country": "no"}, {"amount": null, "country": "se"}]});
        assert_eq!(body("rows", &inputs), records);
        let matrix = [NamedTensor {
            name: "X".into(),
            shape: vec![2, 2],
            data: TensorData::F32(vec![1.0, 2.0, 3.0, 4.0]),
        }];
        assert_eq!(body("columns", &matrix), json!({"inputs": [[1, 2], [3, 4]]}));
    }

    #[test]
    fn predictions_are_read_in_every_form_models_give() {
        let signature = |names: &[&str]| Signature {
            inputs: Vec::new(),
            outputs: names
                .iter()
                .map(|name| Slot::tensor(*name, ElementType::F64, vec![-1]))
                .collect(),
            features: None,
        };
        let one = signature(&[OUTPUT]);
        let two = signature(&["a", "b"]);
        for (value, signature, expected) in [
            (json!([1, 2.5]), &one, vec![vec![2]]),
            (json!([[1, 2], [3, 4]]), &one, vec![vec![2, 2]]),
            (
                json!([{"a": 1, "b": 2}, {"a": 3, "b": null}]),
                &two,
                vec![vec![2], vec![2]],
            ),
            (json!({"a": [1, 2], "b": [[1], [2]]}), &two, vec![vec![2], vec![2, 1]]),
        ] {
            let shapes: Vec<Vec<i64>> = named_outputs(&value, signature)
                .unwrap()
                .into_iter()
                .map(|tensor| tensor.shape)
                .collect();
            assert_eq!(shapes, expected, "{value}");
        }
        assert!(named_outputs(&json!([{"a": 1}]), &two).is_err());
        assert!(named_outputs(&json!([1]), &two).is_err());
    }
}
