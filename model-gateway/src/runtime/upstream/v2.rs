//! The Open Inference Protocol V2 over HTTP, from the client's side.
//!
//! Binary tensors (the protocol's extension): the body is a JSON head, its length in header
//! `Inference-Header-Content-Length`, then the tensors' bytes in order, little-endian, a text as a 32-bit length and its
//! bytes. The answer may mix both forms, whatever was asked for.

use crate::open_inference::blob;
use crate::open_inference::datatype::Datatype;
use crate::open_inference::json::{self, Flat};
use crate::runtime::signature::{Signature, Slot, SlotKind};
use crate::runtime::tensor::{ElementType, NamedTensor, TensorData};
use crate::runtime::upstream::fault::Fault;
use crate::runtime::upstream::json::write_list;
use crate::runtime::upstream::spec::UpstreamSpec;
use crate::runtime::upstream::transport::{Answer, Call};
use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Where the JSON ends and the tensors' bytes begin.
const HEAD_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// `/v2/models/M` or `/v2/models/M/versions/V`.
fn path(spec: &UpstreamSpec) -> String {
    let model = segment(&spec.model);
    if spec.version.is_empty() {
        format!("/v2/models/{model}")
    } else {
        format!("/v2/models/{model}/versions/{}", segment(&spec.version))
    }
}

/// `text` as a part of a path.
pub(super) fn segment(text: &str) -> String {
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'@') {
            segment.push(char::from(byte));
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}

/// The call that asks for metadata.
pub(super) fn ask_metadata(spec: &UpstreamSpec) -> Call {
    Call {
        method: Method::GET,
        path: path(spec),
        headers: HeaderMap::new(),
        body: Bytes::new(),
    }
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    inputs: Vec<TensorMetadata>,
    #[serde(default)]
    outputs: Vec<TensorMetadata>,
    #[serde(default)]
    parameters: Option<Parameters>,
}

/// Another Ondol tells a model's own tensors here: its `inputs` are entity keys, and the vector is looked up already.
#[derive(Deserialize)]
struct Parameters {
    #[serde(default)]
    raw_inputs: Vec<TensorMetadata>,
}

#[derive(Deserialize)]
struct TensorMetadata {
    name: String,
    datatype: String,
    shape: Vec<i64>,
}

impl From<TensorMetadata> for Slot {
    fn from(metadata: TensorMetadata) -> Self {
        slot(metadata.name, &metadata.datatype, metadata.shape)
    }
}

/// A slot as a server describes it.
pub(super) fn slot(name: String, datatype: &str, shape: Vec<i64>) -> Slot {
    let kind = match ElementType::from_name(datatype) {
        Some(element) => SlotKind::Tensor { element, shape },
        None => SlotKind::Unsupported(format!("{datatype} tensor")),
    };
    Slot { name, kind }
}

/// What the server says that the model takes and gives.
pub(super) fn metadata(answer: &Answer) -> Result<Signature, String> {
    let metadata: Metadata =
        serde_json::from_slice(&answer.body).map_err(|error| format!("its metadata can't be read: {error}"))?;
    let raw = metadata
        .parameters
        .map(|parameters| parameters.raw_inputs)
        .unwrap_or_default();
    let inputs = if raw.is_empty() { metadata.inputs } else { raw };
    Ok(Signature {
        inputs: inputs.into_iter().map(Slot::from).collect(),
        outputs: metadata.outputs.into_iter().map(Slot::from).collect(),
        features: None,
    })
}

/// Slots in an Ondol's words for a model's own tensors.
pub(super) fn raw_inputs(text: &str) -> Option<Vec<Slot>> {
    let told: Vec<TensorMetadata> = serde_json::from_str(text).ok()?;
    Some(told.into_iter().map(Slot::from).collect())
}

/// The call that runs the model, its tensors as bytes where `binary`.
pub(super) fn ask(spec: &UpstreamSpec, binary: bool, inputs: &[NamedTensor]) -> Call {
    let mut head = Vec::with_capacity(256);
    let mut blobs: Vec<u8> = Vec::new();
    head.extend_from_slice(b"{\"inputs\":");
    write_list(&mut head, inputs, |head, tensor| {
        let before = blobs.len();
        head.extend_from_slice(b"{\"name\":");
        // Texts and lists of numbers are always JSON.
        let _ = serde_json::to_writer(&mut *head, &tensor.name);
        let _ = serde_json::to_writer(Tail(head, b",\"shape\":"), &tensor.shape);
        let _ = serde_json::to_writer(Tail(head, b",\"datatype\":"), tensor.data.element().name());
        if binary {
            blob::write(&tensor.data, &mut blobs);
            let size = blobs.len() - before;
            head.extend_from_slice(format!(",\"parameters\":{{\"binary_data_size\":{size}}}}}").as_bytes());
        } else {
            let _ = serde_json::to_writer(Tail(head, b",\"data\":"), &Flat(&tensor.data));
            head.push(b'}');
        }
    });
    let mut headers = HeaderMap::new();
    if binary {
        head.extend_from_slice(b",\"parameters\":{\"binary_data_output\":true}}");
        headers.insert(HEAD_LENGTH, HeaderValue::from(head.len()));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        head.append(&mut blobs);
    } else {
        head.push(b'}');
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    Call {
        method: Method::POST,
        path: format!("{}/infer", path(spec)),
        headers,
        body: Bytes::from(head),
    }
}

/// Writes `.1` before what is written, once.
struct Tail<'a>(&'a mut Vec<u8>, &'static [u8]);

impl std::io::Write for Tail<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(std::mem::take(&mut self.1));
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[derive(Deserialize)]
struct InferResponse<'a> {
    #[serde(borrow)]
    outputs: Vec<OutputTensor<'a>>,
}

#[derive(Deserialize)]
struct OutputTensor<'a> {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    parameters: OutputParameters,
}

#[derive(Default, Deserialize)]
struct OutputParameters {
    #[serde(default)]
    binary_data_size: Option<usize>,
}

/// The model's outputs.
pub(super) fn outputs(answer: &Answer) -> Result<Vec<NamedTensor>, Fault> {
    let head_length = match answer.headers.get(&HEAD_LENGTH) {
        None => answer.body.len(),
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .filter(|length| *length <= answer.body.len())
            .ok_or_else(|| {
                Fault::Wrong("its inference-header-content-length is no length of a part of its answer".to_owned())
            })?,
    };
    let (head, mut blobs) = answer.body.split_at(head_length);
    let response: InferResponse<'_> = serde_json::from_slice(head).map_err(|error| Fault::unreadable(&error))?;
    response
        .outputs
        .into_iter()
        .map(|output| output.tensor(&mut blobs).map_err(Fault::Wrong))
        .collect()
}

impl OutputTensor<'_> {
    fn tensor(self, blobs: &mut &[u8]) -> Result<NamedTensor, String> {
        let Self {
            name,
            datatype,
            shape,
            data,
            parameters,
        } = self;
        let data = match (parameters.binary_data_size, data) {
            (Some(size), _) => {
                let (blob, rest) = blobs
                    .split_at_checked(size)
                    .ok_or_else(|| format!("output `{name}` ends before its {size} bytes"))?;
                *blobs = rest;
                read_blob(&name, &datatype, &shape, blob)?
            }
            (None, Some(data)) => {
                let count = sized(&name, &shape)?;
                // The decoder's words quote the element that is wrong.
                json::decode(element(&name, &datatype)?, count, data.get().as_bytes())
                    .map_err(|_| format!("output `{name}` is not {count} elements of {datatype}"))?
            }
            (None, None) => return Err(format!("output `{name}` has no data")),
        };
        tensor(name, shape, data)
    }
}

/// The type of an output's elements.
pub(super) fn element(name: &str, datatype: &str) -> Result<ElementType, String> {
    ElementType::from_name(datatype).ok_or_else(|| format!("output `{name}` is {datatype}, which can't be read"))
}

/// An output's elements from its bytes.
pub(super) fn read_blob(name: &str, datatype: &str, shape: &[i64], blob: &[u8]) -> Result<TensorData, String> {
    let known =
        Datatype::named(datatype).ok_or_else(|| format!("output `{name}` is {datatype}, which can't be read"))?;
    blob::decode(known, sized(name, shape)?, blob).map_err(|detail| format!("output `{name}`: {detail}"))
}

/// How many elements an output's shape means.
fn sized(name: &str, shape: &[i64]) -> Result<usize, String> {
    count(shape).ok_or_else(|| format!("output `{name}` has shape {shape:?}"))
}

/// How many elements a shape means.
fn count(shape: &[i64]) -> Option<usize> {
    let mut sizes = shape.iter().map(|size| usize::try_from(*size).ok());
    sizes.try_fold(1usize, |product, size| product.checked_mul(size?))
}

/// A tensor whose shape is of its data.
pub(super) fn tensor(name: String, shape: Vec<i64>, data: TensorData) -> Result<NamedTensor, String> {
    if count(&shape) != Some(data.len()) {
        return Err(format!("output `{name}` has shape {shape:?} and {} values", data.len()));
    }
    Ok(NamedTensor { name, shape, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> UpstreamSpec {
        let text = "url = \"http://m\"\nprotocol = \"v2-rest\"\nmodel = \"a/b\"\nversion = \"2\"\n";
        UpstreamSpec::parse(text).unwrap()
    }

    #[test]
    fn a_request_is_as_the_specification_shows_it() {
        let inputs = [
            NamedTensor {
                name: "x".to_owned(),
                shape: vec![1, 2],
                data: TensorData::F32(vec![1.0, f32::NAN]),
            },
            NamedTensor {
                name: "s".to_owned(),
                shape: vec![1],
                data: TensorData::String(vec!["é".to_owned()]),
            },
        ];
        let call = ask(&spec(), false, &inputs);
        assert_eq!(call.path, "/v2/models/a%2Fb/versions/2/infer");
        assert_eq!(
            String::from_utf8_lossy(&call.body),
            r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1.0,null]},{"name":"s","shape":[1],"datatype":"BYTES","data":["é"]}]}"#
        );
        let call = ask(&spec(), true, &inputs);
        let head = r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}},{"name":"s","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":6}}],"parameters":{"binary_data_output":true}}"#;
        assert_eq!(call.headers[HEAD_LENGTH], head.len().to_string());
        assert_eq!(&call.body[..head.len()], head.as_bytes());
        assert_eq!(&call.body[head.len()..], b"\0\0\x80\x3f\0\0\xc0\x7f\x02\0\0\0\xc3\xa9");
    }

    #[test]
    fn an_answer_that_lies_about_its_lengths_is_refused() {
        let answer = |length: Option<&str>, body: &'static str| {
            let mut headers = HeaderMap::new();
            if let Some(length) = length {
                headers.insert(HEAD_LENGTH, length.parse().unwrap());
            }
            outputs(&Answer {
                headers,
                body: Bytes::from_static(body.as_bytes()),
            })
        };
        let short = r#"{"outputs":[{"name":"y","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}"#;
        let shape = r#"{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1]}]}"#;
        for (length, body) in [
            (Some("999"), short),
            (Some("x"), short),
            (None, short),
            (None, shape),
            (None, "<html>"),
        ] {
            assert!(matches!(answer(length, body), Err(Fault::Wrong(_))), "{body}");
        }
        let good = r#"{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1,2.5]}]}"#;
        assert_eq!(answer(None, good).unwrap()[0].data, TensorData::F32(vec![1.0, 2.5]));
    }
}
