//! Results over Arrow Flight, for whoever would rather have columns than a file: each finished training set is a flight
//! whose ticket is the job's id.
//!
//! The protocol's gRPC calls are routes like any others (a path per method, HTTP/2), so they share the pipelines' port:
//! one address to configure and to secure, one drain. Rows are encoded as the client takes them: HTTP/2's flow control is
//! the back-pressure, down to the reading of the file. Errors are gRPC statuses with the problem's text.

use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, SchemaAsIpc, SchemaResult, Ticket, encode::DictionaryHandling,
};
use async_trait::async_trait;
use axum::Router;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use http::StatusCode;
use ondol_pipelines_api::wire::{Job, JobQuery, JobState};
use ondol_pipelines_api::{Pipelines, PipelinesError};
use ondol_wire::ContractError;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::kind::{self, TRAINING_SET};

/// The protocol's service.
const SERVICE: &str = "arrow.flight.protocol.FlightService";
/// Its methods, a route each, so that each is counted apart.
const METHODS: [&str; 10] = [
    "DoAction",
    "DoExchange",
    "DoGet",
    "DoPut",
    "GetFlightInfo",
    "GetSchema",
    "Handshake",
    "ListActions",
    "ListFlights",
    "PollFlightInfo",
];

/// The routes of Arrow Flight over `pipelines`.
pub fn router(pipelines: Arc<dyn Pipelines>) -> Router {
    let service = FlightServiceServer::new(Flights { pipelines });
    METHODS.into_iter().fold(Router::new(), |routes, method| {
        routes.route_service(&format!("/{SERVICE}/{method}"), service.clone())
    })
}

/// Finished training sets as flights.
#[derive(Clone)]
struct Flights {
    pipelines: Arc<dyn Pipelines>,
}

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = BoxStream<'static, Result<T, Status>>;

impl Flights {
    /// The job that `descriptor` names by its path (one part) or its command: the id.
    async fn job(&self, descriptor: &FlightDescriptor) -> Result<Job, Status> {
        let id = match descriptor.path.as_slice() {
            [id] => id.clone(),
            _ => text(&descriptor.cmd, "a descriptor's command")?,
        };
        if id.is_empty() {
            return Err(Status::invalid_argument(
                "the descriptor names no job: its path or command is the id of a training-set job",
            ));
        }
        self.pipelines
            .job(&id, None, Duration::ZERO)
            .await
            .map_err(|error| status(&error))
    }

    /// The schema of a job's rows: as its manifest tells, else as its result says.
    async fn schema(&self, job: &Job) -> Result<SchemaRef, Status> {
        let pinned = job.manifest.as_ref().and_then(|manifest| manifest.snapshot.as_ref());
        if let Some(Ok(schema)) = pinned.map(|snapshot| snapshot.result.arrow_schema()) {
            return Ok(schema);
        }
        let rows = self.pipelines.rows(&job.id).await;
        rows.map(|rows| rows.schema).map_err(|error| status(&error))
    }

    async fn info(&self, job: &Job, descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
        if !kind::has_rows(&job.kind) || job.state != JobState::Succeeded {
            return Err(status(&PipelinesError::NoResult {
                id: job.id.clone(),
                state: format!("{} ({})", job.state.name(), job.kind),
            }));
        }
        let schema = self.schema(job).await?;
        let ticket = Ticket::new(job.id.clone());
        // No location: the ticket is redeemed where it was given.
        let endpoint = FlightEndpoint::new().with_ticket(ticket);
        let rows = job
            .manifest
            .as_ref()
            .and_then(|manifest| i64::try_from(manifest.rows).ok());
        let info = FlightInfo::new()
            .try_with_schema(&schema)
            .map_err(|cause| Status::internal(cause.to_string()))?;
        Ok(info
            .with_descriptor(descriptor)
            .with_endpoint(endpoint)
            .with_total_records(rows.unwrap_or(-1))
            .with_total_bytes(-1)
            .with_ordered(true))
    }
}

#[async_trait]
impl FlightService for Flights {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;
    type DoExchangeStream = Answers<FlightData>;

    /// The newest finished training sets. A criterion, where given, is a model's name.
    async fn list_flights(&self, request: Request<Criteria>) -> Answer<Self::ListFlightsStream> {
        let model = text(&request.into_inner().expression, "a criterion")?;
        let query = JobQuery {
            limit: JobQuery::MAX_LIMIT,
            kind: Some(TRAINING_SET.to_owned()),
            state: Some(JobState::Succeeded),
            subject: (!model.is_empty()).then_some(model),
            ..JobQuery::default()
        };
        let jobs = self.pipelines.jobs(query).await.map_err(|error| status(&error))?.jobs;
        let flights = self.clone();
        let infos = stream::iter(jobs).filter_map(move |job| {
            let flights = flights.clone();
            async move {
                let descriptor = FlightDescriptor::new_path(vec![job.id.clone()]);
                // One whose rows have been removed in the meantime is no flight any more.
                flights.info(&job, descriptor).await.ok().map(Ok)
            }
        });
        Ok(Response::new(infos.boxed()))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        let descriptor = request.into_inner();
        let job = self.job(&descriptor).await?;
        let manifest = job.manifest.as_ref().map(serde_json::to_vec).transpose();
        let manifest = manifest.map_err(|cause| Status::internal(cause.to_string()))?;
        let info = self.info(&job, descriptor).await?;
        Ok(Response::new(info.with_app_metadata(manifest.unwrap_or_default())))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Answer<SchemaResult> {
        let job = self.job(&request.into_inner()).await?;
        let schema = self.schema(&job).await?;
        let options = IpcWriteOptions::default();
        let encoded: SchemaResult = SchemaAsIpc::new(&schema, &options)
            .try_into()
            .map_err(|cause: arrow::error::ArrowError| Status::internal(cause.to_string()))?;
        Ok(Response::new(encoded))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Answer<Self::DoGetStream> {
        let id = text(&request.into_inner().ticket, "a ticket")?;
        let rows = self.pipelines.rows(&id).await.map_err(|error| status(&error))?;
        let batches = rows
            .batches
            .map_err(|error| FlightError::Tonic(Box::new(status(&error))));
        let encoder = FlightDataEncoderBuilder::new()
            .with_schema(rows.schema)
            .with_dictionary_handling(DictionaryHandling::Resend);
        Ok(Response::new(encoder.build(batches).map_err(Status::from).boxed()))
    }

    async fn list_actions(&self, _: Request<Empty>) -> Answer<Self::ListActionsStream> {
        Ok(Response::new(stream::empty().boxed()))
    }

    async fn handshake(&self, _: Request<Streaming<HandshakeRequest>>) -> Answer<Self::HandshakeStream> {
        Err(Status::unimplemented("no handshake is needed"))
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<PollInfo> {
        Err(Status::unimplemented("follow the job at GET /v1/jobs/{id}"))
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        Err(Status::unimplemented("send the spine to POST /v1/training-sets"))
    }

    async fn do_action(&self, _: Request<Action>) -> Answer<Self::DoActionStream> {
        Err(Status::unimplemented("there are no actions"))
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoExchangeStream> {
        Err(Status::unimplemented("send the spine to POST /v1/training-sets"))
    }
}

fn text(bytes: &[u8], what: &str) -> Result<String, Status> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| Status::invalid_argument(format!("{what} is the id or name of something, in UTF-8")))
}

/// The status that says what the problem says.
fn status(error: &PipelinesError) -> Status {
    let code = match error.status() {
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Code::InvalidArgument,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::CONFLICT => Code::FailedPrecondition,
        StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        _ => Code::Internal,
    };
    Status::new(code, error.to_string())
}
