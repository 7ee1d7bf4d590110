//! Callers of the Open Inference Protocol over gRPC: by entity key, and with the model's own tensors, for which nothing is
//! looked up. They ask one gateway, or share their calls out over those that say they are ready.
//!
//! A call is made once. It is made again, elsewhere, only where gRPC says that nobody has begun with it: no connection
//! could be made, the stream was refused, or the server's GOAWAY had named an earlier one as its last.

use crate::load::{Allowed, OVERDUE, REST, Tally, row};
use crate::scene::{Model, Outcome, Row, card_id};
use axum::http::uri::PathAndQuery;
use ondol_model_gateway::open_inference::grpc::generated::infer_parameter::ParameterChoice;
use ondol_model_gateway::open_inference::grpc::generated::model_infer_request::InferInputTensor;
use ondol_model_gateway::open_inference::grpc::generated::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
};
use ondol_model_gateway_api::{ModelGatewayError, UpstreamFailure};
use std::error::Error;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

/// What stands in a vector in the place of the half amount, and its multiples in those behind it: no half of an amount.
pub(crate) const RAW_HALF: f64 = 8.25;
/// How often a load balancer asks who is ready.
const LOOK: Duration = Duration::from_millis(50);

/// Gateways, as a client that balances its load knows them. Clones are the same.
#[derive(Clone)]
pub(crate) struct Servers(Arc<Vec<Place>>);

struct Place {
    port: u16,
    is_ready: AtomicBool,
}

impl Servers {
    /// One, which is asked whatever it says of itself.
    pub(crate) fn one(port: u16) -> Self {
        Self::of(&[port])
    }

    /// Several, of which those are asked that say that they are ready. It is looked for as long as anybody asks.
    pub(crate) fn balanced(ports: &[u16]) -> Self {
        let servers = Self::of(ports);
        let places = Arc::downgrade(&servers.0);
        tokio::spawn(async move {
            let client = reqwest::Client::new();
            while let Some(places) = places.upgrade() {
                for place in places.iter() {
                    let asked = client
                        .get(format!("http://127.0.0.1:{}/readyz", place.port))
                        .send()
                        .await;
                    let is_ready = asked.is_ok_and(|answer| answer.status().is_success());
                    place.is_ready.store(is_ready, Ordering::SeqCst);
                }
                drop(places);
                tokio::time::sleep(LOOK).await;
            }
        });
        servers
    }

    fn of(ports: &[u16]) -> Self {
        let place = |port: &u16| Place {
            port: *port,
            is_ready: AtomicBool::new(true),
        };
        Self(Arc::new(ports.iter().map(place).collect()))
    }

    /// Whose turn it is.
    fn next(&self, turn: usize) -> usize {
        let count = self.0.len();
        let turns = (0..count).map(|later| (turn + later) % count);
        let mut ready = turns.filter(|place| self.0[*place].is_ready.load(Ordering::SeqCst));
        ready.next().unwrap_or(turn % count)
    }

    /// A connection to each, made when it is first used and again when it is lost.
    pub(crate) fn connect(&self) -> Connections {
        let channel = |place: &Place| {
            let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", place.port)).unwrap();
            endpoint.tcp_nodelay(true).connect_lazy()
        };
        Connections {
            servers: self.clone(),
            channels: self.0.iter().map(channel).collect(),
            turn: AtomicUsize::new(0),
        }
    }
}

/// One caller's connections to each of some servers.
pub(crate) struct Connections {
    servers: Servers,
    channels: Vec<Channel>,
    turn: AtomicUsize,
}

impl Connections {
    /// Has a model score `request`; a call that nobody has begun with is made again.
    pub(crate) async fn infer(&self, request: &ModelInferRequest) -> Result<Scores, Status> {
        loop {
            let turn = self.turn.fetch_add(1, Ordering::SeqCst);
            let mut client = Grpc::new(self.channels[self.servers.next(turn)].clone());
            let path = PathAndQuery::from_static("/inference.GRPCInferenceService/ModelInfer");
            let codec = ProstCodec::<ModelInferRequest, ModelInferResponse>::default();
            let call = Request::new(request.clone());
            let ready = client.ready().await.map_err(|error| Status::from_error(error.into()));
            let answer = match ready {
                Ok(()) => client.unary(call, path, codec).await,
                Err(status) => Err(status),
            };
            match answer {
                Ok(answer) => {
                    return Scores::of(answer.get_ref()).ok_or_else(|| Status::unknown(format!("{answer:?}")));
                }
                Err(status) if is_unprocessed(&status) => tokio::time::sleep(REST).await,
                Err(status) => return Err(status),
            }
        }
    }
}

/// Whether nobody has begun with the call that ended so.
fn is_unprocessed(status: &Status) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            // Streams up to the last that it names are not ended by it.
            let is_too_late = error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
            return is_refused || is_too_late;
        }
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && error.kind() == ErrorKind::ConnectionRefused
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What was answered to each row of a request.
#[derive(Debug)]
pub(crate) struct Scores {
    pub(crate) model: String,
    pub(crate) version: u32,
    pub(crate) scores: Vec<f64>,
    pub(crate) request_ids: Vec<String>,
}

impl Scores {
    fn of(answer: &ModelInferResponse) -> Option<Self> {
        let ids = answer.parameters.get("request_ids")?.parameter_choice.as_ref()?;
        let ParameterChoice::StringParam(ids) = ids else {
            return None;
        };
        let bytes = answer.raw_output_contents.first()?;
        let scores = match answer.outputs.first()?.datatype.as_str() {
            "FP32" => {
                let cells = bytes
                    .chunks_exact(4)
                    .map(|cell| f32::from_le_bytes(cell.try_into().unwrap()));
                cells.map(f64::from).collect()
            }
            "FP64" => {
                let cells = bytes.chunks_exact(8);
                cells.map(|cell| f64::from_le_bytes(cell.try_into().unwrap())).collect()
            }
            _ => return None,
        };
        Some(Self {
            model: answer.model_name.clone(),
            version: answer.model_version.parse().ok()?,
            scores,
            request_ids: ids.split(',').map(str::to_owned).collect(),
        })
    }
}

/// A request whose server ends it at the model's deadline, and says where it stood: a client that did so could not know.
fn request(model: Model, name: &str, inputs: Vec<InferInputTensor>) -> ModelInferRequest {
    let timeout_us = ParameterChoice::Int64Param(model.deadline_ms() as i64 * 1_000);
    let timeout = InferParameter {
        parameter_choice: Some(timeout_us),
    };
    ModelInferRequest {
        model_name: name.to_owned(),
        parameters: [("timeout".to_owned(), timeout)].into(),
        inputs,
        ..ModelInferRequest::default()
    }
}

/// A request by entity key.
pub(crate) fn by_key(model: Model, name: &str, rows: &[Row]) -> ModelInferRequest {
    let tensor = |name: &str, datatype: &str, contents| InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: vec![rows.len() as i64],
        contents: Some(contents),
        ..InferInputTensor::default()
    };
    let amounts = InferTensorContents {
        fp64_contents: rows.iter().map(|row| row.amount).collect(),
        ..InferTensorContents::default()
    };
    let mut inputs = vec![tensor("amount", "FP64", amounts)];
    if model.has_features() {
        let cards = InferTensorContents {
            bytes_contents: rows.iter().map(|row| card_id(row.card).into()).collect(),
            ..InferTensorContents::default()
        };
        inputs.push(tensor("card_id", "BYTES", cards));
    }
    request(model, name, inputs)
}

/// A request of vectors: the amounts, and in every other place a number that tells places apart.
pub(crate) fn raw(model: Model, name: &str, rows: &[Row]) -> ModelInferRequest {
    let vectors = rows.iter().flat_map(|row| vector(model, row));
    let matrix = InferInputTensor {
        name: "X".to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![rows.len() as i64, width(model)],
        ..InferInputTensor::default()
    };
    let mut request = request(model, name, vec![matrix]);
    request.raw_input_contents = vec![vectors.flat_map(f32::to_le_bytes).collect::<Vec<u8>>().into()];
    request
}

fn width(model: Model) -> i64 {
    if model.has_features() { 4 } else { 2 }
}

fn vector(model: Model, row: &Row) -> impl Iterator<Item = f32> + use<> {
    let amount = row.amount as f32;
    (0..width(model)).map(move |place| {
        if place == 0 {
            amount
        } else {
            RAW_HALF as f32 * place as f32
        }
    })
}

/// One caller of one model.
pub(crate) struct GrpcCaller {
    pub(crate) model: Model,
    pub(crate) connections: Connections,
    pub(crate) allowed: Allowed,
    pub(crate) tally: Arc<Tally>,
}

impl GrpcCaller {
    pub(crate) async fn run(self) {
        while !self.tally.is_stopped() {
            let turn = self.tally.next_turn();
            let rows = match turn % 4 {
                3 => vec![row(turn), row(turn + 5), row(turn + 7)],
                _ => vec![row(turn)],
            };
            let asked = async {
                if turn % 3 == 2 {
                    self.raw(&rows).await;
                } else {
                    self.by_key(&rows).await;
                }
            };
            if tokio::time::timeout(OVERDUE, asked).await.is_err() {
                let name = self.model.name();
                self.tally
                    .wrong(format!("{name} over gRPC: no answer within {OVERDUE:?}"));
            }
            tokio::time::sleep(REST).await;
        }
    }

    async fn by_key(&self, rows: &[Row]) {
        let request = by_key(self.model, self.model.name(), rows);
        let mut worst = Outcome::Whole;
        match self.connections.infer(&request).await {
            Ok(answer) => {
                for (row, score) in rows.iter().zip(&answer.scores) {
                    let may_be = |features| *score == self.model.score(answer.version, row, features);
                    match (
                        may_be(true),
                        matches!(self.model, Model::Soft | Model::Spare) && may_be(false),
                    ) {
                        (true, _) => {}
                        (false, true) => worst = Outcome::Degraded,
                        (false, false) => return self.wrong(row, &answer),
                    }
                }
                self.saw(rows, answer, worst);
            }
            Err(status) => self.refused(&status, true),
        }
    }

    async fn raw(&self, rows: &[Row]) {
        let request = raw(self.model, self.model.name(), rows);
        match self.connections.infer(&request).await {
            Ok(answer) => {
                for (row, score) in rows.iter().zip(&answer.scores) {
                    let sum: f32 = vector(self.model, row).sum();
                    if *score != f64::from(self.model.offset(answer.version) + sum) {
                        return self.wrong(row, &answer);
                    }
                }
                self.saw(rows, answer, Outcome::Raw);
            }
            Err(status) => self.refused(&status, false),
        }
    }

    fn saw(&self, rows: &[Row], answer: Scores, outcome: Outcome) {
        let counts = [rows.len(), answer.scores.len(), answer.request_ids.len()];
        if answer.model != self.model.name() || counts.iter().any(|count| *count != rows.len()) {
            return self.wrong(&rows[0], &answer);
        }
        self.tally.answered(self.model, answer.request_ids);
        self.tally.saw(self.model, outcome);
    }

    fn wrong(&self, row: &Row, answer: &Scores) {
        self.tally
            .wrong(format!("{} over gRPC of {row:?}: {answer:?}", self.model.name()));
    }

    /// An error; of a model that looked nothing up, none is of features.
    fn refused(&self, status: &Status, looked_up: bool) {
        let is_allowed = error(status).is_some_and(|error| (self.allowed)(self.model, &error));
        if !is_allowed || (!looked_up && self.model.has_features()) {
            let name = self.model.name();
            return self.tally.wrong(format!("{name} over gRPC: {status:?}"));
        }
        self.tally
            .refused(self.model, format!("{:?}", status.code()), status.message().to_owned());
    }
}

/// What a status is in the contract's words. One that has a cause is the connection's, and none of them.
fn error(status: &Status) -> Option<ModelGatewayError> {
    let text = status.message();
    let detail = || text.to_owned();
    if status.source().is_some() {
        return None;
    }
    if text.starts_with("upstream `") {
        return Some(ModelGatewayError::Upstream {
            upstream: detail(),
            failure: UpstreamFailure::Failed,
            detail: detail(),
        });
    }
    match status.code() {
        Code::DeadlineExceeded => Some(ModelGatewayError::DeadlineExceeded {
            deadline_ms: 0,
            stage: text.rsplit(' ').next()?.to_owned(),
        }),
        Code::Unavailable => Some(ModelGatewayError::Unavailable { detail: detail() }),
        _ => None,
    }
}
