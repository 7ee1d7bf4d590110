//! A request's way: admitted, parsed, looked up, run, handed to the decision log.
//!
//! The deadline is split: where there is no answer without the features, these get all of it but a tenth (at most 50 ms),
//! which is kept for the model, so that a slow store is named as what was slow; where the model's policy has an answer
//! without them, half. A future that is dropped abandons the request; a run under way ends alone.

use crate::decision_log::DecisionLog;
use crate::definitions::Definitions;
use crate::fault::{invalid, of_runtime, unavailable};
use crate::features::{Entry, Lookups, Plan, Served, Share};
use crate::inputs::Inputs;
use crate::models::{Models, Scorer, Version};
use crate::open_inference::statistics::Stages;
use crate::route::table::ModelRoutes;
use crate::routed::Part;
use crate::runtime::tensor::NamedTensor;
use crate::stand_in::Prepared;
use arrow::array::RecordBatch;
use http::HeaderMap;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::{Degradation, Prediction};
use ondol_runtime::Clock;
use ondol_vocabulary::{DecisionPolicy, EventTime, FeatureRef, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The longest deadline a request may ask for.
const LONGEST_DEADLINE: Duration = Duration::from_secs(600);

/// Scores requests.
#[derive(Clone)]
pub struct Predictor {
    pub(crate) lookups: Lookups,
    pub(crate) definitions: Definitions,
    pub(crate) models: Arc<Models>,
    pub(crate) log: DecisionLog,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) bounds: Bounds,
}

/// What a request may take.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// The deadline of a request that names none.
    pub deadline: Duration,
    /// Room for requests under way.
    pub in_flight: Arc<Semaphore>,
    /// Requests under way at most.
    pub max_in_flight: usize,
    /// Rows of a batch at most.
    pub max_batch_rows: usize,
}

/// A batch to score.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// One entry per request: a value per input of the model.
    pub instances: Vec<BTreeMap<String, Value>>,
    /// The moment to predict as of; absent means now.
    pub as_of: Option<EventTime>,
    /// How long it may take; absent means the default.
    pub deadline_ms: Option<u64>,
    /// The headers of the call, which routing rules look at.
    pub headers: HeaderMap,
}

/// How long a request took, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From parsing to the prediction.
    pub latency_us: i64,
    /// The lookup of the vector.
    pub features_us: i64,
    /// The run of the model.
    pub model_us: i64,
}

/// A scored batch: everything an answer or a decision says of it, by row.
#[derive(Debug)]
pub struct Scored {
    version: Arc<Version>,
    plan: Arc<Plan>,
    /// By which way each request was routed, or all of them.
    ways: Vec<Arc<str>>,
    request_ids: Vec<String>,
    inputs: Inputs,
    served: Served,
    outputs: Vec<NamedTensor>,
    predictions: Vec<serde_json::Value>,
    at: EventTime,
    timing: Timing,
}

impl Bounds {
    /// Room for one more request, or why there is none. Refused at once: a queue would only add to the delay.
    pub fn admit(&self) -> Result<OwnedSemaphorePermit, ModelGatewayError> {
        Arc::clone(&self.in_flight).try_acquire_owned().map_err(|_| {
            metrics::counter!("ondol_gateway_overloaded_total").increment(1);
            ModelGatewayError::Overloaded {
                detail: format!(
                    "{} requests are under way (`max_in_flight`): try again, or add replicas",
                    self.max_in_flight
                ),
            }
        })
    }

    /// Whether no request is under way.
    pub fn is_idle(&self) -> bool {
        self.in_flight.available_permits() >= self.max_in_flight
    }

    /// The deadline of a request that asks for `deadline_ms`.
    pub fn deadline(&self, deadline_ms: Option<u64>) -> Deadline {
        let whole = deadline_ms
            .map_or(self.deadline, Duration::from_millis)
            .min(LONGEST_DEADLINE);
        Deadline {
            start: Instant::now(),
            whole,
            queued: Duration::ZERO,
        }
    }

    /// Refuses a batch that is too large.
    pub fn check_rows(&self, rows: usize) -> Result<(), ModelGatewayError> {
        if rows > self.max_batch_rows {
            let most = self.max_batch_rows;
            return Err(invalid(format!(
                "the batch has {rows} rows, at most {most} are taken: send it in parts"
            )));
        }
        Ok(())
    }
}

/// When a request must be answered.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    start: Instant,
    whole: Duration,
    /// How long the request waited to be let in.
    queued: Duration,
}

impl Deadline {
    /// The moment it passes.
    pub fn end(&self) -> Instant {
        self.start + self.whole
    }

    /// All of it.
    pub fn whole(&self) -> Duration {
        self.whole
    }

    /// Since the request arrived.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The same for a request that waited for `queued` to be let in.
    pub fn after(self, queued: Duration) -> Self {
        Self { queued, ..self }
    }

    /// The stages of a request until now, whose model ran for `infer` until `ended`, both since it arrived.
    pub(crate) fn stages(&self, ended: Duration, infer: Duration) -> Stages {
        Stages {
            queue: self.queued,
            input: ended.saturating_sub(infer).saturating_sub(self.queued),
            infer,
            output: self.elapsed().saturating_sub(ended),
        }
    }

    /// Waits for the features, at most for `limit` of it.
    pub async fn features<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = Result<T, ModelGatewayError>>,
    ) -> Result<T, ModelGatewayError> {
        self.within(limit, "features", work).await
    }

    /// Waits for the model, at most until the end.
    pub async fn model<T>(
        &self,
        work: impl Future<Output = Result<T, ModelGatewayError>>,
    ) -> Result<T, ModelGatewayError> {
        self.within(self.whole, "model", work).await
    }

    /// Waits for the decision's record, at most until the end.
    pub async fn audit(
        &self,
        work: impl Future<Output = Result<(), ModelGatewayError>>,
    ) -> Result<(), ModelGatewayError> {
        self.within(self.whole, "audit", work).await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        stage: &'static str,
        work: impl Future<Output = Result<T, ModelGatewayError>>,
    ) -> Result<T, ModelGatewayError> {
        tokio::time::timeout_at(self.start + limit, work)
            .await
            .unwrap_or_else(|_| {
                metrics::counter!("ondol_gateway_deadline_exceeded_total", "stage" => stage).increment(1);
                Err(ModelGatewayError::DeadlineExceeded {
                    deadline_ms: u64::try_from(self.whole.as_millis()).unwrap_or(u64::MAX),
                    stage: stage.to_owned(),
                })
            })
    }
}

impl Predictor {
    /// The registered version that `model` names, or the one that serves what nothing else routes.
    pub async fn version(&self, model: &str) -> Result<Arc<Version>, ModelGatewayError> {
        let (routes, named) = self.find(model).await?;
        Ok(named.map_or_else(|| Arc::clone(routes.default_version()), |choice| choice.version))
    }

    /// As [`Self::predict`], of a call whose requests all go to one version.
    pub async fn score(&self, model: &str, batch: Batch) -> Result<Arc<Scored>, ModelGatewayError> {
        let routed = self.predict(model, batch).await?;
        routed.whole().cloned().ok_or_else(|| {
            invalid(format!(
                "the requests of this call go to several versions of `{model}`: send them one by one, or name a version"
            ))
        })
    }

    /// Scores `inputs`, the requests of `part`, by its version, and hands them to the decision log and to the shadows of
    /// `model`. A `share` of the call's read has their features already.
    pub(crate) async fn score_part(
        &self,
        model: &ModelRoutes,
        part: Part,
        inputs: Inputs,
        share: Option<Share>,
        as_of: Option<EventTime>,
        deadline: Deadline,
    ) -> Result<Arc<Scored>, ModelGatewayError> {
        let Part {
            version, routes: ways, ..
        } = part;
        let asked = deadline.model(self.prepare_version(version)).await?;
        let at = EventTime::from_micros(self.clock.now_micros());

        let lookup = Instant::now();
        let (scoring, served) = self
            .look_up(asked, &inputs, share.as_ref(), as_of, at, deadline)
            .await?;
        let Prepared { version, scorer, plan } = scoring;
        let features = lookup.elapsed();

        let run = Instant::now();
        let tensors = scorer.layout.tensors(&served.vector).map_err(|error| match error {
            // The caller did nothing wrong: what it asked for could not be looked up.
            ModelGatewayError::InvalidRequest { detail } if served.without_store() => unavailable(detail),
            error => error,
        })?;
        let outputs = run_model(&scorer, inputs.rows, tensors, deadline).await;
        let model_time = run.elapsed();
        version.traffic().record(inputs.rows, model_time, outputs.is_ok());
        let outputs = outputs?;
        let ended = deadline.elapsed();

        metrics::histogram!("ondol_gateway_features_seconds").record(features.as_secs_f64());
        metrics::histogram!("ondol_gateway_model_seconds").record(model_time.as_secs_f64());
        let scored = Arc::new(Scored {
            predictions: scorer.score.predictions(&outputs, inputs.rows)?,
            request_ids: (0..inputs.rows).map(|_| ulid::Ulid::new().to_string()).collect(),
            version,
            plan,
            ways,
            inputs,
            served,
            outputs,
            at,
            timing: Timing {
                latency_us: micros(deadline.elapsed()),
                features_us: micros(features),
                model_us: micros(model_time),
            },
        });
        self.log.record(&scored, deadline).await?;
        scored
            .version
            .statistics
            .succeeded(scored.rows(), deadline.stages(ended, model_time));
        for shadow in &model.shadows {
            shadow.offer(&scored);
        }
        Ok(scored)
    }

    pub(crate) async fn prepare(&self, model: &str) -> Result<Prepared, ModelGatewayError> {
        self.prepare_version(self.version(model).await?).await
    }

    async fn prepare_version(&self, version: Arc<Version>) -> Result<Prepared, ModelGatewayError> {
        let scorer = self.models.scorer(&version).await?;
        let plan = version.plan(&self.definitions.current())?;
        Ok(Prepared { version, scorer, plan })
    }
}

/// Runs a loaded model on tensors of `rows` rows, within `deadline`.
pub(crate) async fn run_model(
    scorer: &Scorer,
    rows: usize,
    tensors: Vec<NamedTensor>,
    deadline: Deadline,
) -> Result<Vec<NamedTensor>, ModelGatewayError> {
    let run = async {
        let outputs = scorer.runtime.run(rows, tensors, deadline.end()).await;
        outputs.map_err(|error| of_runtime(&error))
    };
    deadline.model(run).await
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl Scored {
    /// Number of requests in the batch.
    pub fn rows(&self) -> usize {
        self.inputs.rows
    }

    /// Which version scored it.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// When it was scored, by the gateway's clock.
    pub fn at(&self) -> EventTime {
        self.at
    }

    /// The moment its features are as of.
    pub fn as_of(&self) -> EventTime {
        self.served.as_of
    }

    /// How long it took.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// The model's outputs for the whole batch.
    pub fn outputs(&self) -> &[NamedTensor] {
        &self.outputs
    }

    /// The id of request `row`.
    pub fn request_id(&self, row: usize) -> &str {
        self.request_ids.get(row).map(String::as_str).unwrap_or_default()
    }

    /// The inputs of request `row`.
    pub fn inputs(&self, row: usize) -> impl Iterator<Item = (&str, &Value)> {
        let fields = self.version.record.definition.inputs.iter().zip(&self.inputs.columns);
        fields.filter_map(move |(field, values)| Some((field.name.as_str(), values.get(row)?)))
    }

    /// The vector of request `row`, in order.
    pub fn entries(&self, row: usize) -> impl Iterator<Item = Entry<'_>> {
        self.plan.entries(&self.served, row)
    }

    /// By which way of the routing request `row` came to its version.
    pub fn route(&self, row: usize) -> &str {
        self.ways.get(row).or(self.ways.first()).map_or("", |way| way)
    }

    /// What was read for the batch.
    pub(crate) fn served(&self) -> &Served {
        &self.served
    }

    /// The inputs of the batch as columns.
    pub(crate) fn input_batch(&self) -> &RecordBatch {
        &self.inputs.batch
    }

    /// The prediction for request `row`.
    pub fn prediction(&self, row: usize) -> &serde_json::Value {
        self.predictions.get(row).unwrap_or(&serde_json::Value::Null)
    }

    /// What it was scored in spite of.
    pub fn degraded(&self) -> &[Degradation] {
        &self.served.degraded
    }

    /// What is kept of the model's decisions.
    pub fn decisions(&self) -> &DecisionPolicy {
        self.plan.decisions()
    }

    /// The times of the newest events behind request `row`, by feature.
    pub fn event_times(&self, row: usize) -> impl Iterator<Item = (&FeatureRef, EventTime)> {
        self.served.event_times(row)
    }

    /// The answer to request `row`; `explained` lists the features.
    pub fn answer(&self, row: usize, explained: bool) -> Prediction {
        Prediction {
            prediction: self.prediction(row).clone(),
            model: self.version.record.registered.model.clone(),
            request_id: self.request_id(row).to_owned(),
            as_of: self.served.as_of,
            features: if explained {
                self.plan.row(&self.served, row)
            } else {
                BTreeMap::new()
            },
            degraded: self.served.degraded.clone(),
            route: self.route(row).to_owned(),
        }
    }
}
