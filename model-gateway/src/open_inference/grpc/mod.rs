//! The protocol over gRPC, on the gateway's one port: each method is a route like any other (HTTP/2), so there is one
//! address to configure and to secure, one drain.
//!
//! Answers are always in `raw_output_contents`, where clients look; requests may use raw or typed contents. Requests may
//! be compressed with gzip. [`generated`] is contracts/proto/open_inference.proto in Rust.

/// contracts/proto/open_inference.proto in Rust.
#[rustfmt::skip]
#[allow(missing_docs, clippy::all, reason = "generated")]
pub mod generated;
pub mod tensors;

mod admission;
mod gzip;
mod status;

use crate::access::Action;
use crate::open_inference::infer::{self, Call, versioned};
use crate::open_inference::metadata::{self, ConfiguredTensor, EXTENSIONS, SERVER};
use crate::open_inference::refusal::Refusal;
use crate::open_inference::statistics::{BatchStatistics, StatisticDuration};
use crate::open_inference::{OpenInference, repository};
use async_trait::async_trait;
use axum::Router;
use axum::http::HeaderMap;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use generated as proto;
use generated::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use generated::infer_parameter::ParameterChoice;
use generated::repository_index_response::ModelIndex;
use ondol_model_gateway_api::wire::TensorSpec;
use ondol_runtime::ServerShutdown;
use std::collections::HashMap;
use std::time::Duration;
use tonic::{Request, Response, Status, Streaming};
use tower::util::MapRequestLayer;

/// The protocol's service.
const SERVICE: &str = "inference.GRPCInferenceService";
/// Its methods, a route each, so that each is counted apart.
const METHODS: [&str; 12] = [
    "ModelConfig",
    "ModelInfer",
    "ModelMetadata",
    "ModelReady",
    "ModelStatistics",
    "ModelStreamInfer",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "ServerLive",
    "ServerMetadata",
    "ServerReady",
];
/// Requests of one stream under way at most. Answers keep the order of their requests.
const STREAM_WIDTH: usize = 8;
/// How long a stream whose server shuts down is waited for.
const STREAM_GRACE: Duration = Duration::from_secs(1);
/// The parameter by which Triton's clients ask that the last answer to a request says that it is the last.
const WANTS_FINAL: &str = "triton_enable_empty_final_response";
/// The parameter of an answer that is the last to its request.
const FINAL: &str = "triton_final_response";

/// The routes.
pub(super) fn router(shared: OpenInference) -> Router {
    let max_bytes = shared.max_request_bytes;
    let service = GrpcInferenceServiceServer::new(shared).max_decoding_message_size(max_bytes);
    let routes = METHODS.into_iter().fold(Router::new(), |routes, method| {
        routes.route_service(&format!("/{SERVICE}/{method}"), service.clone())
    });
    // Triton's further methods: the generated service answers that they are not implemented.
    routes
        .route_service(&format!("/{SERVICE}/{{method}}"), service)
        .layer(MapRequestLayer::new(move |request| {
            gzip::unpack_messages(request, max_bytes)
        }))
}

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

fn refused(refusal: impl Into<Refusal>) -> Status {
    status::of(refusal.into())
}

#[async_trait]
impl GrpcInferenceService for OpenInference {
    async fn server_live(&self, _: Request<proto::ServerLiveRequest>) -> Answer<proto::ServerLiveResponse> {
        answer(proto::ServerLiveResponse { live: true })
    }

    async fn server_ready(&self, _: Request<proto::ServerReadyRequest>) -> Answer<proto::ServerReadyResponse> {
        let ready = self.predictor.definitions.current().version > 0;
        answer(proto::ServerReadyResponse { ready })
    }

    async fn model_ready(&self, request: Request<proto::ModelReadyRequest>) -> Answer<proto::ModelReadyResponse> {
        admission::ask(&request, Action::See, &request.get_ref().name)?;
        let proto::ModelReadyRequest { name, version } = request.into_inner();
        let name = versioned(&name, Some(&version));
        // Of a model that nobody knows there is nothing to be ready.
        self.predictor.version(&name).await.map_err(refused)?;
        let ready = repository::ready(&self.predictor, &name).await.is_ok();
        answer(proto::ModelReadyResponse { ready })
    }

    async fn server_metadata(&self, _: Request<proto::ServerMetadataRequest>) -> Answer<proto::ServerMetadataResponse> {
        answer(proto::ServerMetadataResponse {
            name: SERVER.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: EXTENSIONS.map(ToOwned::to_owned).to_vec(),
        })
    }

    async fn model_metadata(
        &self,
        request: Request<proto::ModelMetadataRequest>,
    ) -> Answer<proto::ModelMetadataResponse> {
        admission::ask(&request, Action::See, &request.get_ref().name)?;
        let proto::ModelMetadataRequest { name, version } = request.into_inner();
        let version = self.predictor.version(&versioned(&name, Some(&version))).await;
        let version = version.map_err(refused)?;
        let metadata = metadata::of(&self.predictor, &version);
        answer(proto::ModelMetadataResponse {
            name: metadata.name,
            versions: metadata.versions,
            platform: metadata.platform,
            inputs: metadata.inputs.into_iter().map(tensor_metadata).collect(),
            outputs: metadata.outputs.into_iter().map(tensor_metadata).collect(),
            properties: HashMap::from([("raw_inputs".to_owned(), metadata::raw_inputs(&version))]),
        })
    }

    async fn model_infer(&self, request: Request<proto::ModelInferRequest>) -> Answer<proto::ModelInferResponse> {
        admission::ask(&request, Action::Predict, &request.get_ref().model_name)?;
        let deadline_ms = status::deadline_ms(request.metadata());
        let (metadata, _, request) = request.into_parts();
        let response = infer(self, request, metadata.into_headers(), deadline_ms).await;
        response.map(Response::new).map_err(status::of)
    }

    type ModelStreamInferStream = BoxStream<'static, Result<proto::ModelStreamInferResponse, Status>>;

    async fn model_stream_infer(
        &self,
        requests: Request<Streaming<proto::ModelInferRequest>>,
    ) -> Answer<Self::ModelStreamInferStream> {
        let shared = self.clone();
        let caller = admission::caller(&requests)?;
        let (metadata, extensions, requests) = requests.into_parts();
        let headers = metadata.into_headers();
        let answers = until_shutdown(requests, extensions.get().cloned()).map(move |request| {
            let (shared, headers, caller) = (shared.clone(), headers.clone(), caller.clone());
            async move {
                let request = request?;
                match caller.admit(Action::Predict, &request.model_name) {
                    Ok(()) => Ok(stream_answer(shared, request, headers).await),
                    Err(error) => Ok(stream_failure(request.id, error.to_string())),
                }
            }
        });
        answer(answers.buffered(STREAM_WIDTH).boxed())
    }

    async fn model_config(&self, request: Request<proto::ModelConfigRequest>) -> Answer<proto::ModelConfigResponse> {
        admission::ask(&request, Action::See, &request.get_ref().name)?;
        let proto::ModelConfigRequest { name, version } = request.into_inner();
        let version = self.predictor.version(&versioned(&name, Some(&version))).await;
        let version = version.map_err(refused)?;
        let config = metadata::config(&version);
        let parameter = |(name, text): (&str, metadata::ConfiguredText)| {
            let string_value = text.string_value;
            (name.to_owned(), proto::ModelParameter { string_value })
        };
        let config = proto::ModelConfig {
            name: config.name,
            platform: config.platform,
            max_batch_size: config.max_batch_size,
            input: config.input.into_iter().map(configured_input).collect(),
            output: config.output.into_iter().map(configured_output).collect(),
            parameters: config.parameters.into_iter().map(parameter).collect(),
            backend: config.backend,
        };
        answer(proto::ModelConfigResponse { config: Some(config) })
    }

    async fn model_statistics(
        &self,
        request: Request<proto::ModelStatisticsRequest>,
    ) -> Answer<proto::ModelStatisticsResponse> {
        // Of all models, if none is named, as over REST.
        if !request.get_ref().name.is_empty() {
            admission::ask(&request, Action::See, &request.get_ref().name)?;
        }
        let proto::ModelStatisticsRequest { name, version } = request.into_inner();
        let name = (!name.is_empty()).then(|| versioned(&name, Some(&version)));
        let read = repository::statistics(&self.predictor, name.as_deref()).await;
        let models = read.map_err(refused)?.model_stats.into_iter();
        let of_size = |batch: BatchStatistics| proto::InferBatchStatistics {
            batch_size: batch.batch_size,
            compute_input: duration(batch.compute_input),
            compute_infer: duration(batch.compute_infer),
            compute_output: duration(batch.compute_output),
        };
        let model_stats = models.map(|model| {
            let stats = model.inference_stats;
            proto::ModelStatistics {
                name: model.name,
                version: model.version,
                last_inference: model.last_inference,
                inference_count: model.inference_count,
                execution_count: model.execution_count,
                inference_stats: Some(proto::InferStatistics {
                    success: duration(stats.success),
                    fail: duration(stats.fail),
                    queue: duration(stats.queue),
                    compute_input: duration(stats.compute_input),
                    compute_infer: duration(stats.compute_infer),
                    compute_output: duration(stats.compute_output),
                    cache_hit: duration(stats.cache_hit),
                    cache_miss: duration(stats.cache_miss),
                }),
                batch_stats: model.batch_stats.into_iter().map(of_size).collect(),
            }
        });
        answer(proto::ModelStatisticsResponse {
            model_stats: model_stats.collect(),
        })
    }

    async fn repository_index(
        &self,
        request: Request<proto::RepositoryIndexRequest>,
    ) -> Answer<proto::RepositoryIndexResponse> {
        let entries = repository::index(&self.predictor, request.into_inner().ready).into_iter();
        let models = entries.map(|entry| ModelIndex {
            name: entry.name,
            version: entry.version,
            state: entry.state.to_owned(),
            reason: entry.reason.to_owned(),
        });
        answer(proto::RepositoryIndexResponse {
            models: models.collect(),
        })
    }

    async fn repository_model_load(
        &self,
        request: Request<proto::RepositoryModelLoadRequest>,
    ) -> Answer<proto::RepositoryModelLoadResponse> {
        let name = either(
            request.get_ref().model_name.clone(),
            request.get_ref().repository_name.clone(),
        );
        admission::ask(&request, Action::Load, &name)?;
        let request = request.into_inner();
        let parameters = request.parameters.keys().map(String::as_str);
        repository::load(&self.predictor, &name, parameters)
            .await
            .map_err(refused)?;
        answer(proto::RepositoryModelLoadResponse {
            model_name: name,
            is_loaded: true,
        })
    }

    async fn repository_model_unload(
        &self,
        request: Request<proto::RepositoryModelUnloadRequest>,
    ) -> Answer<proto::RepositoryModelUnloadResponse> {
        let name = either(
            request.get_ref().model_name.clone(),
            request.get_ref().repository_name.clone(),
        );
        admission::ask(&request, Action::Load, &name)?;
        repository::unload(&self.predictor, &name).await.map_err(refused)?;
        answer(proto::RepositoryModelUnloadResponse {
            model_name: name,
            is_unloaded: true,
        })
    }
}

/// Triton names the model in the second field, KServe in the first.
fn either(second: String, first: String) -> String {
    if second.is_empty() { first } else { second }
}

async fn infer(
    shared: &OpenInference,
    request: proto::ModelInferRequest,
    headers: HeaderMap,
    deadline_ms: Option<u64>,
) -> Result<proto::ModelInferResponse, Refusal> {
    let proto::ModelInferRequest {
        model_name,
        model_version,
        id,
        parameters,
        inputs,
        outputs,
        raw_input_contents,
    } = request;
    let call = Call {
        model: versioned(&model_name, Some(&model_version)),
        inputs: tensors::inputs(inputs, raw_input_contents)?,
        deadline_ms: deadline_ms.into_iter().chain(timeout_ms(&parameters)).min(),
        headers,
    };
    tensors::check_outputs(&outputs)?;
    let answer = infer::infer(&shared.predictor, call).await?;
    let parameters = answer.parameters.iter();
    let parameters = parameters.map(|(name, value)| ((*name).to_owned(), text(value.clone())));
    let wanted = answer.wanted(&outputs, |output| &output.name)?;
    let (outputs, raw_output_contents) = wanted.into_iter().map(|(tensor, _)| tensors::output(tensor)).unzip();
    Ok(proto::ModelInferResponse {
        model_name: answer.model.name.clone(),
        model_version: answer.model.version.to_string(),
        id,
        parameters: parameters.collect(),
        outputs,
        raw_output_contents,
    })
}

/// The messages of a stream that its client may leave open for ever: once the server shuts down it ends, as soon as none
/// has come for [`STREAM_GRACE`]. What came before is answered.
fn until_shutdown<S>(messages: S, shutdown: Option<ServerShutdown>) -> impl Stream<Item = S::Item>
where
    S: Stream<Item = Result<proto::ModelInferRequest, Status>> + Unpin,
{
    futures::stream::unfold(Some(messages), move |open| {
        let shutdown = shutdown.clone();
        let quiet = async move {
            match shutdown {
                Some(shutdown) => shutdown.triggered().await,
                None => std::future::pending().await,
            }
            tokio::time::sleep(STREAM_GRACE).await;
        };
        async move {
            let mut messages = open?;
            tokio::select! {
                biased;
                message = messages.next() => message.map(|message| (message, Some(messages))),
                () = quiet => {
                    let ended = Status::unavailable("the gateway is shutting down: open another stream");
                    Some((Err(ended), None))
                }
            }
        }
    })
}

/// The answer to one request of a stream. That it failed is said in the answer: the stream goes on.
async fn stream_answer(
    shared: OpenInference,
    request: proto::ModelInferRequest,
    headers: HeaderMap,
) -> proto::ModelStreamInferResponse {
    let wants_final = request
        .parameters
        .get(WANTS_FINAL)
        .and_then(|parameter| parameter.parameter_choice.as_ref())
        .is_some_and(|choice| matches!(choice, ParameterChoice::BoolParam(true)));
    let id = request.id.clone();
    match infer(&shared, request, headers, None).await {
        Ok(mut response) => {
            if wants_final {
                response.parameters.insert(FINAL.to_owned(), truth(true));
            }
            proto::ModelStreamInferResponse {
                error_message: String::new(),
                infer_response: Some(response),
            }
        }
        Err(refusal) => stream_failure(id, refusal.error),
    }
}

/// The answer that the request called `id` failed: by its id a client finds it.
fn stream_failure(id: String, error_message: String) -> proto::ModelStreamInferResponse {
    proto::ModelStreamInferResponse {
        error_message,
        infer_response: Some(proto::ModelInferResponse {
            id,
            ..proto::ModelInferResponse::default()
        }),
    }
}

/// How long a request may take by its parameter `timeout`, which clients give in microseconds.
fn timeout_ms(parameters: &HashMap<String, proto::InferParameter>) -> Option<u64> {
    let micros = match parameters.get("timeout")?.parameter_choice.as_ref()? {
        ParameterChoice::Int64Param(micros) => u64::try_from(*micros).ok()?,
        ParameterChoice::Uint64Param(micros) => *micros,
        _ => return None,
    };
    (micros > 0).then(|| micros.div_ceil(1_000))
}

fn text(text: String) -> proto::InferParameter {
    proto::InferParameter {
        parameter_choice: Some(ParameterChoice::StringParam(text)),
    }
}

fn truth(truth: bool) -> proto::InferParameter {
    proto::InferParameter {
        parameter_choice: Some(ParameterChoice::BoolParam(truth)),
    }
}

fn tensor_metadata(spec: TensorSpec) -> proto::model_metadata_response::TensorMetadata {
    proto::model_metadata_response::TensorMetadata {
        name: spec.name,
        datatype: spec.datatype,
        shape: spec.shape,
    }
}

fn data_type(tensor: &ConfiguredTensor) -> i32 {
    proto::DataType::from_str_name(&tensor.data_type)
        .unwrap_or(proto::DataType::TypeInvalid)
        .into()
}

fn configured_input(tensor: ConfiguredTensor) -> proto::ModelInput {
    proto::ModelInput {
        data_type: data_type(&tensor),
        name: tensor.name,
        dims: tensor.dims,
    }
}

fn configured_output(tensor: ConfiguredTensor) -> proto::ModelOutput {
    proto::ModelOutput {
        data_type: data_type(&tensor),
        name: tensor.name,
        dims: tensor.dims,
    }
}

fn duration(duration: StatisticDuration) -> Option<proto::StatisticDuration> {
    Some(proto::StatisticDuration {
        count: duration.count,
        ns: duration.ns,
    })
}
