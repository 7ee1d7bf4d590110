//! The protocol's JSON: requests, responses, metadata.

use crate::fault::invalid;
use crate::open_inference::datatype::Datatype;
use crate::open_inference::json::Flat;
use crate::open_inference::tensor::{Elements, InputTensor};
use crate::runtime::tensor::{NamedTensor, TensorData};
use bytes::Bytes;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::TensorSpec;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The parameter of a tensor whose elements follow the JSON: how many bytes they take.
const BINARY_SIZE: &str = "binary_data_size";
/// The parameter of an output that is wanted as bytes.
const BINARY: &str = "binary_data";
/// The parameter of a request whose outputs are all wanted as bytes.
const BINARY_OUTPUT: &str = "binary_data_output";
/// Parameters of tensors that stand elsewhere or are made of others: unheeded they would change what is asked.
pub(super) const UNSUPPORTED: [&str; 4] = [
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
    "classification",
];

/// An inference request as it stands in a body, with its tensors' elements left where they are.
#[derive(Debug, Deserialize)]
struct Body<'a> {
    #[serde(default)]
    id: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    parameters: Map<String, Value>,
    #[serde(borrow)]
    inputs: Vec<BodyTensor<'a>>,
    #[serde(default, deserialize_with = "or_default")]
    outputs: Vec<RequestedOutput>,
}

/// A tensor in a body.
#[derive(Debug, Deserialize)]
struct BodyTensor<'a> {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(default, deserialize_with = "or_default")]
    parameters: Map<String, Value>,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
}

/// An output that a request wants.
#[derive(Debug, Deserialize)]
pub struct RequestedOutput {
    /// Its name.
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    parameters: Map<String, Value>,
}

/// Null is what is absent: some clients write out what they do not set.
fn or_default<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// An inference request.
#[derive(Debug)]
pub struct InferRequest {
    /// Comes back in the response.
    pub id: Option<String>,
    /// Of the whole request: `timeout` (microseconds) and `binary_data_output` are heeded, others are ignored as the
    /// protocol allows.
    pub parameters: Map<String, Value>,
    /// The tensors. Their elements are parts of the body.
    pub inputs: Vec<InputTensor>,
    /// Which outputs are wanted; empty means all.
    pub outputs: Vec<RequestedOutput>,
}

impl InferRequest {
    /// The request in `body`, whose first `json` bytes are JSON; the rest are the elements of binary tensors, in the
    /// order of the inputs. Without `json` all of the body is JSON.
    pub fn parse(body: &Bytes, json: Option<usize>) -> Result<Self, ModelGatewayError> {
        let (text, mut blobs) = match json {
            None => (body.clone(), None),
            Some(length) if length <= body.len() => (body.slice(..length), Some(body.slice(length..))),
            Some(length) => {
                return Err(invalid(format!(
                    "Inference-Header-Content-Length is {length}, the body has {} bytes",
                    body.len()
                )));
            }
        };
        let parsed: Body<'_> = serde_json::from_slice(&text).map_err(|error| {
            invalid(format!(
                "the request is not valid: {error} (JSON has no NaN: send null for a missing number)"
            ))
        })?;
        let tensors = parsed.inputs.into_iter();
        let inputs = tensors
            .map(|tensor| tensor.parse(&text, &mut blobs))
            .collect::<Result<_, _>>()?;
        if let Some(left) = blobs.filter(|blobs| !blobs.is_empty()) {
            return Err(invalid(format!(
                "{} bytes are left behind the last binary tensor: the `{BINARY_SIZE}` of the inputs must sum up to all \
                 that follows the JSON",
                left.len()
            )));
        }
        for output in &parsed.outputs {
            refuse_unsupported(&format!("output `{}`", output.name), &output.parameters)?;
        }
        Ok(Self {
            id: parsed.id,
            parameters: parsed.parameters,
            inputs,
            outputs: parsed.outputs,
        })
    }

    /// How long the request may take, where it says so. Clients give it in microseconds.
    pub fn deadline_ms(&self) -> Option<u64> {
        let micros = self.parameters.get("timeout").and_then(Value::as_u64);
        micros.filter(|micros| *micros > 0).map(|micros| micros.div_ceil(1_000))
    }

    /// Whether outputs that say nothing of it are wanted as bytes.
    pub fn wants_binary(&self) -> bool {
        self.parameters.get(BINARY_OUTPUT).and_then(Value::as_bool) == Some(true)
    }
}

impl BodyTensor<'_> {
    fn parse(self, text: &Bytes, blobs: &mut Option<Bytes>) -> Result<InputTensor, ModelGatewayError> {
        let Self {
            name,
            shape,
            datatype,
            parameters,
            data,
        } = self;
        let datatype = Datatype::parse(&name, &datatype)?;
        refuse_unsupported(&format!("input `{name}`"), &parameters)?;
        let elements = match (parameters.get(BINARY_SIZE), data) {
            (None, Some(data)) => Elements::Json(text.slice_ref(data.get().as_bytes())),
            (None, None) => return Err(invalid(format!("input `{name}` has no `data`"))),
            (Some(_), Some(_)) => {
                return Err(invalid(format!(
                    "input `{name}` has both `data` and `{BINARY_SIZE}`: send its elements once"
                )));
            }
            (Some(size), None) => Elements::Blob(blob(&name, size, blobs)?),
        };
        Ok(InputTensor {
            name,
            shape,
            datatype,
            elements,
        })
    }
}

/// The next `size` of the bytes that follow the JSON.
fn blob(name: &str, size: &Value, blobs: &mut Option<Bytes>) -> Result<Bytes, ModelGatewayError> {
    let left = blobs.as_mut().ok_or_else(|| {
        invalid(format!(
            "input `{name}` has `{BINARY_SIZE}`, but the request has no header Inference-Header-Content-Length that says \
             where its JSON ends"
        ))
    })?;
    let size = size.as_u64().and_then(|size| usize::try_from(size).ok());
    match size {
        Some(size) if size <= left.len() => Ok(left.split_to(size)),
        Some(size) => Err(invalid(format!(
            "input `{name}` has {size} bytes by its `{BINARY_SIZE}`, {} are left of the body",
            left.len()
        ))),
        None => Err(invalid(format!(
            "input `{name}`: `{BINARY_SIZE}` must be a number of bytes"
        ))),
    }
}

fn refuse_unsupported(whose: &str, parameters: &Map<String, Value>) -> Result<(), ModelGatewayError> {
    match UNSUPPORTED.iter().find(|name| parameters.contains_key(**name)) {
        Some(name) => Err(invalid(format!(
            "{whose}: parameter `{name}` is not supported: send and take the tensor itself"
        ))),
        None => Ok(()),
    }
}

impl RequestedOutput {
    /// Whether it is wanted as bytes; `all` is what holds for outputs that say nothing of it.
    pub fn wants_binary(&self, all: bool) -> bool {
        self.parameters.get(BINARY).and_then(Value::as_bool).unwrap_or(all)
    }
}

/// An inference response. Its binary tensors follow it, see [`Self::into_body`].
#[derive(Debug, Serialize)]
pub struct InferResponse<'a> {
    /// The model's name.
    pub model_name: &'a str,
    /// The version that answered.
    pub model_version: String,
    /// The request's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `request_ids`: by these the requests stand in the decision log.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub parameters: Map<String, Value>,
    /// The model's outputs.
    pub outputs: Vec<OutputTensor<'a>>,
}

/// A tensor of a response.
#[derive(Debug, Serialize)]
pub struct OutputTensor<'a> {
    name: &'a str,
    shape: &'a [i64],
    datatype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinarySize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Flat<'a>>,
    /// Where to take the bytes from that follow.
    #[serde(skip)]
    binary: Option<&'a TensorData>,
}

/// The parameters of a tensor whose elements follow the JSON.
#[derive(Debug, Serialize)]
struct BinarySize {
    binary_data_size: usize,
}

/// A response as it is sent.
#[derive(Debug)]
pub struct ResponseBody {
    /// All of it.
    pub bytes: Vec<u8>,
    /// How much of it is JSON; none: all.
    pub json: Option<usize>,
}

impl<'a> OutputTensor<'a> {
    /// `tensor` in JSON, or as bytes.
    pub fn new(tensor: &'a NamedTensor, binary: bool) -> Self {
        Self {
            name: &tensor.name,
            shape: &tensor.shape,
            datatype: tensor.data.element().name(),
            parameters: binary.then(|| BinarySize {
                binary_data_size: super::blob::size(&tensor.data),
            }),
            data: (!binary).then_some(Flat(&tensor.data)),
            binary: binary.then_some(&tensor.data),
        }
    }
}

impl InferResponse<'_> {
    /// The JSON, and behind it the bytes of binary tensors.
    pub fn into_body(self) -> Result<ResponseBody, serde_json::Error> {
        let mut bytes = serde_json::to_vec(&self)?;
        let json = bytes.len();
        let mut is_binary = false;
        for tensor in self.outputs.iter().filter_map(|output| output.binary) {
            is_binary = true;
            super::blob::write(tensor, &mut bytes);
        }
        Ok(ResponseBody {
            bytes,
            json: is_binary.then_some(json),
        })
    }
}

/// A model's metadata.
#[derive(Debug, Serialize)]
pub struct ModelMetadata {
    /// Its name.
    pub name: String,
    /// Its versions, oldest first.
    pub versions: Vec<String>,
    /// What runs it.
    pub platform: String,
    /// What a caller sends: entity keys and request-time values.
    pub inputs: Vec<TensorSpec>,
    /// What the model answers.
    pub outputs: Vec<TensorSpec>,
    /// `raw_inputs`: the model's own tensors, which are taken in the place of `inputs`.
    pub parameters: RawInputs,
}

/// The model's own tensors.
#[derive(Debug, Serialize)]
pub struct RawInputs {
    /// Name, type and dimensions of each.
    pub raw_inputs: Vec<TensorSpec>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &'static [u8], json: Option<usize>) -> Result<InferRequest, String> {
        InferRequest::parse(&Bytes::from_static(body), json).map_err(|error| error.to_string())
    }

    #[test]
    fn binary_tensors_follow_the_json_in_order() {
        let json = br#"{"inputs":[{"name":"a","shape":[1],"datatype":"UINT8","parameters":{"binary_data_size":1}},{"name":"j","shape":[1],"datatype":"INT64","data":[3]},{"name":"b","shape":[2],"datatype":"UINT8","parameters":{"binary_data_size":2}}],"outputs":null}"#;
        let body = Bytes::from([json.as_slice(), b"\x07\x08\x09"].concat());
        let request = InferRequest::parse(&body, Some(json.len())).unwrap();
        let tensors: Vec<TensorData> = request
            .inputs
            .into_iter()
            .map(|input| input.into_tensor().unwrap().data)
            .collect();
        let expected = [
            TensorData::U8(vec![7]),
            TensorData::I64(vec![3]),
            TensorData::U8(vec![8, 9]),
        ];
        assert_eq!(tensors, expected);
        let short = InferRequest::parse(&body.slice(..body.len() - 1), Some(json.len())).unwrap_err();
        assert!(
            short
                .to_string()
                .contains("has 2 bytes by its `binary_data_size`, 1 are left")
        );
        let long = Bytes::from([&body, b"x".as_slice()].concat());
        let long = InferRequest::parse(&long, Some(json.len())).unwrap_err();
        assert!(long.to_string().starts_with("1 bytes are left"));
        let without = InferRequest::parse(&Bytes::from_static(json), None).unwrap_err();
        assert!(
            without
                .to_string()
                .contains("no header Inference-Header-Content-Length")
        );
        let beyond = InferRequest::parse(&body, Some(9_999)).unwrap_err();
        assert!(
            beyond
                .to_string()
                .starts_with("Inference-Header-Content-Length is 9999")
        );
    }

    #[test]
    fn what_would_change_the_meaning_unheeded_is_refused() {
        let shared =
            br#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"r"}}]}"#;
        assert!(
            parse(shared, None)
                .unwrap_err()
                .contains("`shared_memory_region` is not supported")
        );
        let classes = br#"{"inputs":[],"outputs":[{"name":"p","parameters":{"classification":2}}]}"#;
        assert!(
            parse(classes, None)
                .unwrap_err()
                .contains("`classification` is not supported")
        );
        let neither = br#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32"}]}"#;
        assert_eq!(parse(neither, None).unwrap_err(), "input `x` has no `data`");
    }

    #[test]
    fn a_response_of_one_tensor_each_way() {
        let tensor = |name: &str| NamedTensor {
            name: name.to_owned(),
            shape: vec![2],
            data: TensorData::I32(vec![1, 2]),
        };
        let (json, binary) = (tensor("j"), tensor("b"));
        let response = InferResponse {
            model_name: "fraud",
            model_version: "4".to_owned(),
            id: None,
            parameters: Map::new(),
            outputs: vec![OutputTensor::new(&json, false), OutputTensor::new(&binary, true)],
        };
        let body = response.into_body().unwrap();
        let (text, blob) = body.bytes.split_at(body.json.unwrap());
        assert_eq!(
            std::str::from_utf8(text).unwrap(),
            r#"{"model_name":"fraud","model_version":"4","outputs":[{"name":"j","shape":[2],"datatype":"INT32","data":[1,2]},{"name":"b","shape":[2],"datatype":"INT32","parameters":{"binary_data_size":8}}]}"#
        );
        assert_eq!(blob, [1, 0, 0, 0, 2, 0, 0, 0]);
    }
}
