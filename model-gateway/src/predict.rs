//! A request's way: admitted, parsed, looked up, run, handed to the decision log.
//!
//! The deadline is split: the features get all of it but a tenth (at most 50 ms), which is kept for the model, so that
//! a slow store is named as what was slow. A future that is dropped abandons the request; a run under way ends alone.

use crate::decision_log::DecisionLog;
use crate::definitions::Definitions;
use crate::fault::{invalid, of_runtime};
use crate::features::{Plan, Served};
use crate::inputs::{self, Inputs};
use crate::models::{Models, Scorer, Version};
use crate::runtime::tensor::NamedTensor;
use ondol_feature_store_api::FeatureStore;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::{Prediction, ServedFeature};
use ondol_runtime::Clock;
use ondol_vocabulary::{EventTime, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// The longest deadline a request may ask for.
const LONGEST_DEADLINE: Duration = Duration::from_secs(600);
/// The most of a deadline that is kept for the model.
const MODEL_SHARE: Duration = Duration::from_millis(50);

/// Scores requests.
#[derive(Clone)]
pub struct Predictor {
    pub(crate) store: Arc<dyn FeatureStore>,
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
#[derive(Clone, Debug)]
pub struct Batch {
    /// One entry per request: a value per input of the model.
    pub instances: Vec<BTreeMap<String, Value>>,
    /// The moment to predict as of; absent means now.
    pub as_of: Option<EventTime>,
    /// How long it may take; absent means the default.
    pub deadline_ms: Option<u64>,
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
}

impl Deadline {
    /// The moment it passes.
    pub fn end(&self) -> Instant {
        self.start + self.whole
    }

    /// Since the request arrived.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Waits for the features, at most until the model's share begins.
    pub async fn features<T>(
        &self,
        work: impl Future<Output = Result<T, ModelGatewayError>>,
    ) -> Result<T, ModelGatewayError> {
        let share = (self.whole / 10).min(MODEL_SHARE);
        self.within(self.whole.saturating_sub(share), "features", work).await
    }

    /// Waits for the model, at most until the end.
    pub async fn model<T>(
        &self,
        work: impl Future<Output = Result<T, ModelGatewayError>>,
    ) -> Result<T, ModelGatewayError> {
        self.within(self.whole, "model", work).await
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
    /// The registered version that scores `model`. A model that is not among the known definitions is asked for once
    /// more: it may have been applied a moment ago.
    pub async fn version(&self, model: &str) -> Result<Arc<Version>, ModelGatewayError> {
        match self.models.resolve(model, &self.definitions.current()) {
            Err(ModelGatewayError::UnknownModel { .. }) => {
                // A store that can't be asked leaves the answer as it was.
                let snapshot = self
                    .definitions
                    .refresh()
                    .await
                    .unwrap_or_else(|_| self.definitions.current());
                self.models.resolve(model, &snapshot)
            }
            found => found,
        }
    }

    /// Scores `batch` and hands it to the decision log.
    pub async fn score(&self, model: &str, batch: Batch) -> Result<Arc<Scored>, ModelGatewayError> {
        let _permit = self.bounds.admit()?;
        let deadline = self.bounds.deadline(batch.deadline_ms);
        let result = self.score_within(model, batch, deadline).await;
        let outcome = if result.is_ok() { "ok" } else { "error" };
        metrics::counter!("ondol_gateway_requests_total", "outcome" => outcome).increment(1);
        metrics::histogram!("ondol_gateway_request_seconds").record(deadline.elapsed().as_secs_f64());
        result
    }

    async fn score_within(
        &self,
        model: &str,
        batch: Batch,
        deadline: Deadline,
    ) -> Result<Arc<Scored>, ModelGatewayError> {
        let (version, scorer, plan) = deadline.model(self.prepare(model)).await?;
        self.bounds.check_rows(batch.instances.len())?;
        let inputs = inputs::parse(&version.record.definition.inputs, batch.instances)?;
        let at = EventTime::from_micros(self.clock.now_micros());

        let lookup = Instant::now();
        let served = deadline
            .features(plan.serve(self.store.as_ref(), &inputs, batch.as_of, at))
            .await?;
        let features = lookup.elapsed();

        let run = Instant::now();
        let tensors = scorer.layout.tensors(&served.vector)?;
        let outputs = run_model(&scorer, inputs.rows, tensors, deadline).await?;
        let model_time = run.elapsed();

        metrics::histogram!("ondol_gateway_features_seconds").record(features.as_secs_f64());
        metrics::histogram!("ondol_gateway_model_seconds").record(model_time.as_secs_f64());
        let scored = Arc::new(Scored {
            predictions: scorer.score.predictions(&outputs, inputs.rows)?,
            request_ids: (0..inputs.rows).map(|_| ulid::Ulid::new().to_string()).collect(),
            version,
            plan,
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
        self.log.record(&scored);
        Ok(scored)
    }

    async fn prepare(&self, model: &str) -> Result<(Arc<Version>, Arc<Scorer>, Arc<Plan>), ModelGatewayError> {
        let version = self.version(model).await?;
        let scorer = self.models.scorer(&version).await?;
        let plan = version.plan(&self.definitions.current())?;
        Ok((version, scorer, plan))
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

fn micros(duration: Duration) -> i64 {
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
    pub fn inputs(&self, row: usize) -> BTreeMap<&str, &Value> {
        let fields = self.version.record.definition.inputs.iter().zip(&self.inputs.columns);
        fields
            .filter_map(|(field, values)| Some((field.name.as_str(), values.get(row)?)))
            .collect()
    }

    /// The vector of request `row`, in order.
    pub fn entries(&self, row: usize) -> impl Iterator<Item = (&str, ServedFeature)> {
        self.plan.entries(&self.served, row)
    }

    /// The prediction for request `row`.
    pub fn prediction(&self, row: usize) -> &serde_json::Value {
        self.predictions.get(row).unwrap_or(&serde_json::Value::Null)
    }

    /// The answer to request `row`.
    pub fn answer(&self, row: usize) -> Prediction {
        Prediction {
            prediction: self.prediction(row).clone(),
            model: self.version.record.registered.model.clone(),
            request_id: self.request_id(row).to_owned(),
            as_of: self.served.as_of,
            features: self.plan.row(&self.served, row),
        }
    }
}
