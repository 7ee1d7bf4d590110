//! The Open Inference Protocol V2 over gRPC, from the client's side, over TCP, TLS or a Unix socket: tensors always as raw bytes.

use crate::open_inference::blob;
use crate::open_inference::grpc::generated::model_infer_request::InferInputTensor;
use crate::open_inference::grpc::generated::model_infer_response::InferOutputTensor;
use crate::open_inference::grpc::generated::model_metadata_response::TensorMetadata;
use crate::open_inference::grpc::generated::{
    InferTensorContents, ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
};
use crate::runtime::RuntimeError;
use crate::runtime::signature::{Signature, Slot};
use crate::runtime::tensor::{ElementType, NamedTensor, TensorData};
use crate::runtime::upstream::fault::Fault;
use crate::runtime::upstream::spec::UpstreamSpec;
use crate::runtime::upstream::tls::Connector;
use crate::runtime::upstream::v2::{element, read_blob, slot, tensor};
use bytes::Bytes;
use http::StatusCode;
use http::uri::{InvalidUri, PathAndQuery};
use ondol_runtime::Secret;
use prost::Message;
use std::time::Duration;
use tonic::client::Grpc;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(1);
/// How often an idle connection is asked whether it still is one.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Calls one server, over one connection for all calls.
#[derive(Debug)]
pub(super) struct GrpcTransport {
    channel: Channel,
    headers: Vec<(AsciiMetadataKey, Secret)>,
    max_bytes: usize,
}

impl GrpcTransport {
    /// Connects when it is first called, and again when the connection is lost.
    pub(super) fn open(spec: &UpstreamSpec) -> Result<Self, RuntimeError> {
        let refuse =
            |error: &dyn std::fmt::Display| RuntimeError::Artifact(format!("`url` is `{}`: {error}", spec.url));
        let secured = match spec.url.strip_prefix("https:") {
            Some(rest) => Some((Connector::open(spec).map_err(RuntimeError::Artifact)?, rest)),
            None => None,
        };
        // The connector speaks TLS: tonic is told of a plain connection, and what its requests say of themselves.
        let url = secured
            .as_ref()
            .map_or_else(|| spec.url.clone(), |(_, rest)| format!("http:{rest}"));
        let mut endpoint = Endpoint::from_shared(url).map_err(|error| refuse(&error))?;
        if secured.is_some() {
            endpoint = endpoint.origin(spec.url.parse().map_err(|error: InvalidUri| refuse(&error))?);
        }
        let endpoint = endpoint
            .connect_timeout(CONNECT.min(spec.timeout()))
            .http2_keep_alive_interval(KEEP_ALIVE)
            .tcp_nodelay(true);
        let header = |(name, value): (&String, &Secret)| {
            let key = AsciiMetadataKey::from_bytes(name.to_lowercase().as_bytes());
            let key = key.map_err(|_| RuntimeError::Artifact(format!("`headers`: `{name}` is no header's name")))?;
            Ok((key, value.clone()))
        };
        Ok(Self {
            channel: match secured {
                Some((connector, _)) => endpoint.connect_with_connector_lazy(connector),
                None => endpoint.connect_lazy(),
            },
            headers: spec.headers.iter().map(header).collect::<Result<_, RuntimeError>>()?,
            max_bytes: spec.max_answer_bytes,
        })
    }

    /// What the server says that the model takes and gives.
    pub(super) async fn metadata(&self, spec: &UpstreamSpec) -> Result<Signature, Fault> {
        let message = ModelMetadataRequest {
            name: spec.model.clone(),
            version: spec.version.clone(),
        };
        let path = PathAndQuery::from_static("/inference.GRPCInferenceService/ModelMetadata");
        let answer: ModelMetadataResponse = self.call(path, message).await?;
        let slots = |tensors: Vec<TensorMetadata>| -> Vec<Slot> {
            tensors
                .into_iter()
                .map(|told| slot(told.name, &told.datatype, told.shape))
                .collect()
        };
        // Another Ondol's own tensors: see `v2`.
        let raw = answer
            .properties
            .get("raw_inputs")
            .and_then(|text| super::v2::raw_inputs(text));
        Ok(Signature {
            inputs: raw.unwrap_or_else(|| slots(answer.inputs)),
            outputs: slots(answer.outputs),
            features: None,
        })
    }

    /// Runs the model.
    pub(super) async fn infer(&self, message: ModelInferRequest) -> Result<Vec<NamedTensor>, Fault> {
        let path = PathAndQuery::from_static("/inference.GRPCInferenceService/ModelInfer");
        let answer: ModelInferResponse = self.call(path, message).await?;
        outputs(answer).map_err(Fault::Wrong)
    }

    async fn call<M, A>(&self, path: PathAndQuery, message: M) -> Result<A, Fault>
    where
        M: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut request = Request::new(message);
        for (name, value) in &self.headers {
            let text = value
                .reveal()
                .map_err(|error| Fault::Setup(format!("header `{name}`: {error}")))?;
            let value = AsciiMetadataValue::try_from(text)
                .map_err(|_| Fault::Setup(format!("header `{name}` holds what no header can")))?;
            request.metadata_mut().insert(name, value);
        }
        let mut client = Grpc::new(self.channel.clone()).max_decoding_message_size(self.max_bytes);
        client.ready().await.map_err(|error| Fault::Unsent(innermost(&error)))?;
        let answer = client.unary(request, path, ProstCodec::<M, A>::default()).await;
        answer.map(tonic::Response::into_inner).map_err(|status| fault(&status))
    }
}

/// The message that runs the model of `spec` on `inputs`.
pub(super) fn ask(spec: &UpstreamSpec, inputs: &[NamedTensor]) -> ModelInferRequest {
    let mut message = ModelInferRequest {
        model_name: spec.model.clone(),
        model_version: spec.version.clone(),
        ..ModelInferRequest::default()
    };
    for NamedTensor { name, shape, data } in inputs {
        message.raw_input_contents.push(blob::encode(data));
        message.inputs.push(InferInputTensor {
            name: name.clone(),
            datatype: data.element().name().to_owned(),
            shape: shape.clone(),
            ..InferInputTensor::default()
        });
    }
    message
}

fn outputs(answer: ModelInferResponse) -> Result<Vec<NamedTensor>, String> {
    let ModelInferResponse {
        outputs,
        raw_output_contents: raw,
        ..
    } = answer;
    if !raw.is_empty() && raw.len() != outputs.len() {
        return Err(format!(
            "it answered {} outputs and the bytes of {}",
            outputs.len(),
            raw.len()
        ));
    }
    let mut raw = raw.into_iter();
    let read = |output: InferOutputTensor| {
        let (name, datatype) = (output.name, output.datatype);
        let data = match raw.next() {
            Some(blob) => read_blob(&name, &datatype, &output.shape, &blob)?,
            None => {
                let element = element(&name, &datatype)?;
                typed(element, output.contents.unwrap_or_default())
                    .ok_or_else(|| format!("output `{name}`: its contents are no {element} values"))?
            }
        };
        tensor(name, output.shape, data)
    };
    outputs.into_iter().map(read).collect()
}

/// The elements in the one of the message's lists that the type uses: how servers answer that send no raw contents.
fn typed(element: ElementType, contents: InferTensorContents) -> Option<TensorData> {
    fn narrowed<T, N: TryFrom<T>>(values: Vec<T>) -> Option<Vec<N>> {
        values.into_iter().map(|value| N::try_from(value).ok()).collect()
    }
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).ok();
    Some(match element {
        ElementType::Bool => TensorData::Bool(contents.bool_contents),
        ElementType::I8 => TensorData::I8(narrowed(contents.int_contents)?),
        ElementType::I16 => TensorData::I16(narrowed(contents.int_contents)?),
        ElementType::I32 => TensorData::I32(contents.int_contents),
        ElementType::I64 => TensorData::I64(contents.int64_contents),
        ElementType::U8 => TensorData::U8(narrowed(contents.uint_contents)?),
        ElementType::U16 => TensorData::U16(narrowed(contents.uint_contents)?),
        ElementType::U32 => TensorData::U32(contents.uint_contents),
        ElementType::U64 => TensorData::U64(contents.uint64_contents),
        ElementType::F32 => TensorData::F32(contents.fp32_contents),
        ElementType::F64 => TensorData::F64(contents.fp64_contents),
        ElementType::String => {
            TensorData::String(contents.bytes_contents.into_iter().map(text).collect::<Option<_>>()?)
        }
    })
}

fn fault(status: &Status) -> Fault {
    let told: String = status.message().chars().take(300).collect();
    let as_status = |code: StatusCode| Fault::Status {
        status: code,
        detail: format!("it answered {:?}", status.code()),
        words: Some(told.clone()).filter(|words| !words.is_empty()),
    };
    match status.code() {
        // The connection's own failures come as these two as well, and have a cause, which what a server says has not.
        Code::Unavailable | Code::Cancelled if std::error::Error::source(status).is_some() => {
            Fault::Broken(format!("{told} {}", innermost(status)).trim().to_owned())
        }
        Code::Unavailable | Code::Cancelled => Fault::Broken(format!("it answered {:?}", status.code())),
        Code::DeadlineExceeded => as_status(StatusCode::GATEWAY_TIMEOUT),
        Code::ResourceExhausted => as_status(StatusCode::TOO_MANY_REQUESTS),
        Code::Unimplemented => as_status(StatusCode::NOT_IMPLEMENTED),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => as_status(StatusCode::BAD_REQUEST),
        Code::NotFound => as_status(StatusCode::NOT_FOUND),
        Code::Unauthenticated => as_status(StatusCode::UNAUTHORIZED),
        Code::PermissionDenied => as_status(StatusCode::FORBIDDEN),
        _ => as_status(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error.source();
    let mut text = String::new();
    while let Some(source) = cause {
        text = source.to_string();
        cause = source.source();
    }
    text
}
