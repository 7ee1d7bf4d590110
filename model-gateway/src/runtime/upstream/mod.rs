//! Models on other servers: a vector goes out as tensors in the words the server speaks, and its answer comes back.
//!
//! A call's way: room among the calls under way, leave of its [breaker](Breaker), an attempt by [`transport`] within the
//! request's deadline, perhaps a second one beside it (hedge) or after it (retry) as far as the [`budget`] goes. [`spec`]
//! is what was registered; [`v2`], [`grpc`], [`mlflow`] and [`tf_serving`] are the words. An upstream that hangs, fails or flaps
//! costs only its own model's requests, and says so with its name.

mod budget;
mod extension;
mod fault;
mod grpc;
mod json;
mod mlflow;
pub mod spec;
mod tf_serving;
mod tls;
mod transport;
mod v2;

use crate::breaker::Breaker;
use crate::open_inference::grpc::generated::ModelInferRequest;
use crate::runtime::signature::{Signature, Slot, SlotKind};
use crate::runtime::tensor::{ElementType, NamedTensor};
use crate::runtime::{Runtime, RuntimeError, UpstreamFault};
use crate::score::Score;
use async_trait::async_trait;
use budget::Budget;
use extension::BinaryTensors;
use fault::Fault;
use grpc::GrpcTransport;
use ondol_model_gateway_api::wire::{RegisteredModel, TensorSpec};
use ondol_vocabulary::{DataType, ModelDefinition};
use spec::{Protocol, UpstreamSpec, slots};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use transport::{Answer, Call, Transport};

/// How long a server may take to describe its model.
const DESCRIBE: Duration = Duration::from_secs(5);
/// The wait before the first retry; doubled for each further one.
const BACKOFF: Duration = Duration::from_millis(10);

/// A model on another server.
#[derive(Debug)]
pub struct Upstream {
    spec: UpstreamSpec,
    label: String,
    signature: Signature,
    /// What an answer must have of each row; none where nothing is said of its outputs.
    score: Option<Score>,
    wire: Wire,
    binary: BinaryTensors,
    breaker: Arc<Breaker>,
    budget: Budget,
    room: Semaphore,
}

/// Reads a server's description of its model.
type Described = fn(&Answer) -> Result<Signature, String>;

/// How the server is reached.
#[derive(Debug)]
enum Wire {
    Http(Transport),
    Grpc(GrpcTransport),
}

/// A request in the server's words, to be sent once or more.
enum Encoded {
    Http(Call),
    Grpc(ModelInferRequest),
}

impl Upstream {
    /// The model that `artifact` describes. What it takes and gives is what was `registered`, where it was: so that a
    /// gateway starts beside a server that is down. Otherwise the description says it, or the server is asked, or it
    /// takes one tensor per feature of `definition`.
    pub async fn open(
        artifact: &[u8],
        definition: &ModelDefinition,
        registered: Option<&RegisteredModel>,
    ) -> Result<Self, RuntimeError> {
        let text = std::str::from_utf8(artifact)
            .map_err(|error| RuntimeError::Artifact(format!("the upstream's description is no text: {error}")))?;
        let spec = UpstreamSpec::parse(text).map_err(RuntimeError::Artifact)?;
        let transport = match spec.protocol {
            Protocol::V2Grpc => Wire::Grpc(GrpcTransport::open(&spec)?),
            Protocol::V2Rest | Protocol::Mlflow | Protocol::TfServing => Wire::Http(Transport::open(&spec)?),
        };
        let mut upstream = Self {
            label: spec.label(),
            signature: Signature {
                inputs: Vec::new(),
                outputs: Vec::new(),
                features: None,
            },
            score: None,
            wire: transport,
            binary: BinaryTensors::new(spec.binary),
            breaker: Breaker::new(spec.breaker),
            budget: Budget::default(),
            room: Semaphore::new(spec.concurrency),
            spec,
        };
        upstream.signature = match registered {
            Some(registered) => Signature {
                inputs: registered.inputs.iter().map(of_record).collect(),
                outputs: registered.outputs.iter().map(of_record).collect(),
                features: None,
            },
            None => upstream.describe(definition).await?,
        };
        upstream.score = Score::choose(&upstream.signature.outputs);
        Ok(upstream)
    }

    /// What the model takes and gives, from the description and the server.
    async fn describe(&self, definition: &ModelDefinition) -> Result<Signature, RuntimeError> {
        let mut signature = Signature {
            inputs: slots(&self.spec.inputs).map_err(RuntimeError::Artifact)?,
            outputs: slots(&self.spec.outputs).map_err(RuntimeError::Artifact)?,
            features: None,
        };
        if (signature.inputs.is_empty() || signature.outputs.is_empty())
            && let Some(told) = self.ask_metadata().await?
        {
            if signature.inputs.is_empty() {
                signature.inputs = told.inputs;
            }
            if signature.outputs.is_empty() {
                signature.outputs = told.outputs;
            }
        }
        if signature.inputs.is_empty() {
            signature.inputs = definition
                .features
                .iter()
                .map(|feature| of_feature(&feature.name, feature.data_type))
                .collect();
        }
        if signature.outputs.is_empty() {
            if self.spec.protocol != Protocol::Mlflow {
                return Err(RuntimeError::Artifact(format!(
                    "upstream `{}` does not tell its outputs: add them to the description ([[outputs]] with name and \
                     datatype)",
                    self.label
                )));
            }
            signature.outputs = vec![Slot::tensor(mlflow::OUTPUT, ElementType::F64, vec![-1])];
        }
        Ok(signature)
    }

    async fn ask_metadata(&self) -> Result<Option<Signature>, RuntimeError> {
        let told = async {
            let (http, call, read): (_, Call, Described) = match &self.wire {
                Wire::Grpc(grpc) => return grpc.metadata(&self.spec).await.map(Some),
                Wire::Http(http) => match self.spec.protocol {
                    Protocol::Mlflow => return Ok(None),
                    Protocol::TfServing => (http, tf_serving::ask_metadata(&self.spec), tf_serving::metadata),
                    Protocol::V2Rest | Protocol::V2Grpc => (http, v2::ask_metadata(&self.spec), v2::metadata),
                },
            };
            let answer = http.send(call).await?;
            read(&answer).map(Some).map_err(Fault::Wrong)
        };
        let told = tokio::time::timeout(DESCRIBE, told).await;
        let told = told.unwrap_or(Err(Fault::TimedOut(DESCRIBE)));
        told.map_err(|fault| fault.of(&self.label))
    }

    async fn encode(&self, rows: usize, inputs: &[NamedTensor], deadline: Instant) -> Encoded {
        match self.spec.protocol {
            Protocol::V2Grpc => Encoded::Grpc(grpc::ask(&self.spec, inputs)),
            Protocol::V2Rest => Encoded::Http(v2::ask(&self.spec, self.takes_bytes(deadline).await, inputs)),
            Protocol::Mlflow => Encoded::Http(mlflow::ask(&self.spec, rows, inputs)),
            Protocol::TfServing => Encoded::Http(tf_serving::ask(&self.spec, rows, inputs)),
        }
    }

    /// Whether tensors go as bytes over HTTP. A server that is not called for now is not asked either.
    async fn takes_bytes(&self, deadline: Instant) -> bool {
        match &self.wire {
            Wire::Grpc(_) => true,
            Wire::Http(http) => match self.binary.known() {
                Some(known) => known,
                None if self.breaker.is_open() => false,
                None => {
                    let left = self
                        .spec
                        .timeout()
                        .min(deadline.saturating_duration_since(Instant::now()));
                    self.binary.ask(http, left).await
                }
            },
        }
    }

    fn decode(&self, answer: &Answer) -> Result<Vec<NamedTensor>, Fault> {
        match self.spec.protocol {
            Protocol::V2Rest | Protocol::V2Grpc => v2::outputs(answer),
            Protocol::Mlflow => mlflow::outputs(answer, &self.signature),
            Protocol::TfServing => tf_serving::outputs(answer, &self.signature),
        }
    }

    /// Makes `call` for `rows`, again if it may help, until `deadline`.
    async fn call(&self, call: &Encoded, rows: usize, deadline: Instant) -> Result<Vec<NamedTensor>, RuntimeError> {
        self.budget.earn();
        let mut attempt = 0;
        loop {
            let now = Instant::now();
            let pass = self.breaker.admit(now).map_err(|wait| self.refused(wait))?;
            let limit = self.spec.timeout().min(deadline.saturating_duration_since(now));
            let result = tokio::time::timeout(limit, self.hedged(call, rows)).await;
            let result = result.unwrap_or(Err(Fault::TimedOut(limit)));
            self.count(&result, now.elapsed());
            let fault = match result {
                Ok(outputs) => {
                    pass.succeeded(Instant::now());
                    return Ok(outputs);
                }
                Err(fault) => fault,
            };
            // A deadline that left it less than half of its time says nothing of the upstream.
            let was_hurried = matches!(fault, Fault::TimedOut(_)) && limit * 2 < self.spec.timeout();
            if fault.is_trouble() && !was_hurried {
                pass.failed(Instant::now());
            } else if !matches!(fault, Fault::TimedOut(_)) {
                pass.succeeded(Instant::now());
            }
            let wait = BACKOFF * 2u32.saturating_pow(attempt);
            let in_time = Instant::now() + wait < deadline;
            if attempt >= self.spec.retries
                || !in_time
                || !fault.is_retryable(self.spec.idempotent)
                || !self.budget.spend()
            {
                return Err(fault.of(&self.label));
            }
            attempt += 1;
            metrics::counter!("ondol_gateway_upstream_retries_total", "upstream" => self.label.clone()).increment(1);
            tokio::time::sleep(wait).await;
        }
    }

    /// One attempt, and a second one beside it when it takes long: the first answer counts.
    async fn hedged(&self, call: &Encoded, rows: usize) -> Result<Vec<NamedTensor>, Fault> {
        let first = self.once(call, rows);
        let Some(delay) = self.spec.hedge() else {
            return first.await;
        };
        tokio::pin!(first);
        tokio::select! {
            result = &mut first => return result,
            () = tokio::time::sleep(delay) => {}
        }
        if !self.budget.spend() {
            return first.await;
        }
        metrics::counter!("ondol_gateway_upstream_hedges_total", "upstream" => self.label.clone()).increment(1);
        let second = self.once(call, rows);
        tokio::pin!(second);
        tokio::select! {
            result = &mut first => match result {
                Ok(outputs) => Ok(outputs),
                Err(_) => second.await,
            },
            result = &mut second => match result {
                Ok(outputs) => Ok(outputs),
                Err(_) => first.await,
            },
        }
    }

    async fn once(&self, call: &Encoded, rows: usize) -> Result<Vec<NamedTensor>, Fault> {
        let outputs = match (&self.wire, call) {
            (Wire::Http(http), Encoded::Http(call)) => {
                let answer = http.send(call.clone()).await?;
                self.decode(&answer)?
            }
            (Wire::Grpc(grpc), Encoded::Grpc(message)) => grpc.infer(message.clone()).await?,
            // Both are chosen by the protocol.
            _ => return Err(Fault::Setup("the request is not in the server's words".to_owned())),
        };
        if let Some(score) = &self.score {
            score.tensor(&outputs, rows).map_err(Fault::Wrong)?;
        }
        Ok(outputs)
    }

    fn refused(&self, wait: Duration) -> RuntimeError {
        metrics::counter!("ondol_gateway_upstream_calls_total", "upstream" => self.label.clone(), "outcome" => "refused")
            .increment(1);
        RuntimeError::Upstream {
            upstream: self.label.clone(),
            fault: UpstreamFault::Open {
                retry_after_s: wait.as_secs() + 1,
            },
            detail: "it has failed repeatedly and is not called for now".to_owned(),
            words: None,
        }
    }

    fn count(&self, result: &Result<Vec<NamedTensor>, Fault>, took: Duration) {
        let outcome = result.as_ref().map_or_else(Fault::name, |_| "ok");
        let label = || self.label.clone();
        metrics::counter!("ondol_gateway_upstream_calls_total", "upstream" => label(), "outcome" => outcome)
            .increment(1);
        metrics::histogram!("ondol_gateway_upstream_seconds", "upstream" => label()).record(took.as_secs_f64());
    }
}

#[async_trait]
impl Runtime for Upstream {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    async fn run(
        &self,
        rows: usize,
        inputs: Vec<NamedTensor>,
        deadline: Instant,
    ) -> Result<Vec<NamedTensor>, RuntimeError> {
        let _room = self.room.try_acquire().map_err(|_| {
            RuntimeError::Overloaded(format!(
                "{} calls to upstream `{}` are under way (`concurrency`)",
                self.spec.concurrency, self.label
            ))
        })?;
        // Ends a little before the request does, so that it is this error that is answered.
        let left = deadline.saturating_duration_since(Instant::now());
        let deadline = deadline - (left / 20).min(Duration::from_millis(5));
        let call = self.encode(rows, &inputs, deadline).await;
        let outputs = self.call(&call, rows, deadline).await;
        let is_open = f64::from(u8::from(self.breaker.is_open()));
        metrics::gauge!("ondol_gateway_upstream_open", "upstream" => self.label.clone()).set(is_open);
        outputs
    }
}

fn of_record(spec: &TensorSpec) -> Slot {
    v2::slot(spec.name.clone(), &spec.datatype, spec.shape.clone())
}

/// The tensor that takes a feature, where nothing else is said. Numbers are FP64, which has a missing value.
fn of_feature(name: &str, data_type: DataType) -> Slot {
    let kind = match data_type {
        DataType::F32 | DataType::F64 | DataType::I32 | DataType::I64 => SlotKind::Tensor {
            element: ElementType::F64,
            shape: vec![-1],
        },
        DataType::Bool => SlotKind::Tensor {
            element: ElementType::Bool,
            shape: vec![-1],
        },
        DataType::String => SlotKind::Tensor {
            element: ElementType::String,
            shape: vec![-1],
        },
        DataType::List(_) => SlotKind::Tensor {
            element: ElementType::F64,
            shape: vec![-1, -1],
        },
        DataType::Timestamp => SlotKind::Unsupported(data_type.to_string()),
    };
    Slot {
        name: name.to_owned(),
        kind,
    }
}
