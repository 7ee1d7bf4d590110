//! Inference, whatever surface asks for it: entity keys or raw tensors in, the model's outputs out.
//!
//! A model takes its *definition's inputs* (entity keys and request-time values, a tensor `[N]` or `[N, 1]` each: the
//! features are looked up) or its *own tensors* (nothing is looked up); the names of a request's tensors tell which. Both are
//! measured, compared with shadows, and their decisions logged.

use crate::decision_log::DecisionLog;
use crate::decision_log::raw::{Kept, RawScored};
use crate::fault::{did_you_mean, internal, invalid};
use crate::models::{Scorer, Version};
use crate::open_inference::merge;
use crate::open_inference::tensor::InputTensor;
use crate::predict::{Batch, Deadline, Predictor, Scored, Timing, micros, run_model};
use crate::route::table::Choice;
use crate::routed::Routed;
use crate::runtime::tensor::NamedTensor;
use crate::shadow::raw::{self, RawServed};
use arrow::array::RecordBatch;
use axum::http::HeaderMap;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_vocabulary::{DecisionPolicy, EventTime, Value, VersionedName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// More bytes of tensors than this are decoded aside from async threads: of JSON it takes about 500 µs.
pub(super) const INLINE_BYTES: usize = 128 << 10;

/// What is asked of a model.
#[derive(Debug)]
pub(super) struct Call {
    /// The model, `fraud`, or a version of it, `fraud@4`.
    pub(super) model: String,
    /// The tensors.
    pub(super) inputs: Vec<InputTensor>,
    /// How long it may take; absent means the default.
    pub(super) deadline_ms: Option<u64>,
    /// The call's headers, which routing rules look at.
    pub(super) headers: HeaderMap,
}

/// What a model answers.
#[derive(Debug)]
pub(super) struct Answer {
    /// The version that answered; the first of them, if there were several.
    pub(super) model: VersionedName,
    /// What else is told of the answer: see [`told`].
    pub(super) parameters: Vec<(&'static str, String)>,
    outputs: Outputs,
}

#[derive(Debug)]
enum Outputs {
    /// Those of one version, by entity key.
    Scored(Arc<Scored>),
    /// Those of raw tensors, or of several versions.
    Own(Vec<NamedTensor>),
}

/// The name of a model and, where a request has one, its version, as [`Predictor`] takes it.
pub(super) fn versioned(model: &str, version: Option<&str>) -> String {
    match version {
        Some(version) if !version.is_empty() => format!("{model}@{version}"),
        _ => model.to_owned(),
    }
}

impl Answer {
    /// The outputs that were asked for by name, with what was asked of each; all when none were.
    pub(super) fn wanted<'a, W>(
        &'a self,
        wanted: &'a [W],
        name: impl Fn(&W) -> &str,
    ) -> Result<Vec<(&'a NamedTensor, Option<&'a W>)>, ModelGatewayError> {
        let tensors = match &self.outputs {
            Outputs::Scored(scored) => scored.outputs(),
            Outputs::Own(tensors) => tensors.as_slice(),
        };
        if wanted.is_empty() {
            return Ok(tensors.iter().map(|tensor| (tensor, None)).collect());
        }
        let find = |wish: &'a W| {
            let found = tensors.iter().find(|tensor| tensor.name == name(wish));
            found.map(|tensor| (tensor, Some(wish))).ok_or_else(|| {
                let known: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
                let near = did_you_mean(name(wish), known.iter().copied());
                invalid(format!(
                    "unknown output `{}`{near} (the model has {})",
                    name(wish),
                    known.join(", ")
                ))
            })
        };
        wanted.iter().map(find).collect()
    }
}

/// Has a model score `call`.
pub(super) async fn infer(predictor: &Predictor, call: Call) -> Result<Answer, ModelGatewayError> {
    let version = predictor.version(&call.model).await?;
    match kind_of(&version, &call.inputs)? {
        InputKind::Definition => {
            let batch = Batch {
                instances: aside(call.inputs, instances).await?,
                deadline_ms: call.deadline_ms,
                headers: call.headers,
                ..Batch::default()
            };
            let routed = predictor.predict(&call.model, batch).await?;
            let scoring = routed.parts().first().map(|part| part.version()).unwrap_or(&version);
            Ok(Answer {
                model: scoring.record.registered.model.clone(),
                parameters: told(&routed),
                outputs: match routed.whole() {
                    Some(scored) => Outputs::Scored(Arc::clone(scored)),
                    None => Outputs::Own(merge::outputs(&routed)?),
                },
            })
        }
        InputKind::Raw => {
            let source = Source::Tensors(call.inputs);
            let run = run(predictor, &call.model, source, call.deadline_ms).await?;
            Ok(Answer {
                model: run.model,
                parameters: vec![("request_ids", run.request_ids.join(","))],
                outputs: Outputs::Own(run.outputs),
            })
        }
    }
}

/// By which ids the rows stand in the decision log; and, where several versions answered, by which each was scored. The
/// protocol's parameters are scalars, so each is one text with commas between.
fn told(routed: &Routed) -> Vec<(&'static str, String)> {
    let each = |tell: &dyn Fn(&Scored, usize) -> String| -> String {
        let rows = (0..routed.rows()).filter_map(|row| routed.place(row));
        let rows: Vec<String> = rows.map(|(scored, row)| tell(scored, row)).collect();
        rows.join(",")
    };
    let mut told = vec![("request_ids", each(&|scored, row| scored.request_id(row).to_owned()))];
    if routed.whole().is_none() {
        let version = |scored: &Scored, _| scored.version().record.registered.model.version.to_string();
        told.push(("model_versions", each(&version)));
    }
    told
}

/// Decodes tensors on this thread, or on another when that takes long.
async fn aside<T: Send + 'static>(
    inputs: Vec<InputTensor>,
    decode: impl FnOnce(Vec<InputTensor>) -> Result<T, ModelGatewayError> + Send + 'static,
) -> Result<T, ModelGatewayError> {
    let size_bytes: usize = inputs.iter().map(InputTensor::size_bytes).sum();
    if size_bytes <= INLINE_BYTES {
        return decode(inputs);
    }
    tokio::task::spawn_blocking(move || decode(inputs))
        .await
        .map_err(internal)?
}

/// What the tensors of a request stand for.
enum InputKind {
    /// The inputs of the model's definition.
    Definition,
    /// The model's own tensors.
    Raw,
}

fn kind_of(version: &Version, inputs: &[InputTensor]) -> Result<InputKind, ModelGatewayError> {
    let keys = || version.record.definition.inputs.iter().map(|input| input.name.as_str());
    let raw = || version.record.registered.inputs.iter().map(|input| input.name.as_str());
    // A model whose own tensors are named as its inputs is asked by its inputs: the same values, and they are logged.
    if inputs.iter().all(|input| keys().any(|name| name == input.name)) {
        return Ok(InputKind::Definition);
    }
    if inputs.iter().all(|input| raw().any(|name| name == input.name)) {
        return Ok(InputKind::Raw);
    }
    let list = |names: Vec<&str>| names.join(", ");
    let known = || keys().chain(raw());
    let stranger = inputs.iter().find(|input| !known().any(|name| name == input.name));
    Err(match stranger {
        Some(input) => invalid(format!(
            "unknown input `{}`{} (the model takes {}, or its own tensors {})",
            input.name,
            did_you_mean(&input.name, known()),
            list(keys().collect()),
            list(raw().collect())
        )),
        None => invalid(format!(
            "the inputs mix the model's inputs ({}) with its own tensors ({}): send either",
            list(keys().collect()),
            list(raw().collect())
        )),
    })
}

/// Columns of values as one map of inputs per request.
fn instances(inputs: Vec<InputTensor>) -> Result<Vec<BTreeMap<String, Value>>, ModelGatewayError> {
    let mut instances: Vec<BTreeMap<String, Value>> = Vec::new();
    for (place, input) in inputs.into_iter().enumerate() {
        let (name, values) = input.into_scalars()?;
        if place == 0 {
            instances.resize_with(values.len(), BTreeMap::new);
        }
        if values.len() != instances.len() {
            return Err(invalid(format!(
                "input `{name}` has {} values, the first input has {}",
                values.len(),
                instances.len()
            )));
        }
        for (instance, value) in instances.iter_mut().zip(values) {
            if instance.insert(name.clone(), value).is_some() {
                return Err(invalid(format!("input `{name}` was sent twice")));
            }
        }
    }
    if instances.is_empty() {
        return Err(invalid("the request has no rows: send at least one value per input"));
    }
    Ok(instances)
}

/// What a model is run on without a lookup.
#[derive(Debug)]
pub(super) enum Source {
    /// Its own tensors.
    Tensors(Vec<InputTensor>),
    /// Its feature vector, a column per entry.
    Vector(RecordBatch),
}

/// A model that was run, and what it gave.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) model: VersionedName,
    pub(super) scorer: Arc<Scorer>,
    pub(super) rows: usize,
    pub(super) outputs: Vec<NamedTensor>,
    /// By which ids the rows stand in the decision log.
    pub(super) request_ids: Vec<String>,
}

/// Runs `model` on what a caller sent for it, within the same bounds as any request: the version that is named, else the
/// one that serves what nothing else routes.
pub(super) async fn run(
    predictor: &Predictor,
    model: &str,
    source: Source,
    deadline_ms: Option<u64>,
) -> Result<Run, ModelGatewayError> {
    let deadline = predictor.bounds.deadline(deadline_ms);
    let result = run_within(predictor, model, source, deadline).await;
    let outcome = if result.is_ok() { "ok" } else { "error" };
    metrics::counter!("ondol_gateway_requests_total", "outcome" => outcome).increment(1);
    metrics::histogram!("ondol_gateway_request_seconds").record(deadline.elapsed().as_secs_f64());
    result
}

async fn run_within(
    predictor: &Predictor,
    model: &str,
    source: Source,
    deadline: Deadline,
) -> Result<Run, ModelGatewayError> {
    let (routes, named) = deadline.model(predictor.find(model)).await?;
    let admission = predictor.admit(&routes, deadline).await?;
    let deadline = deadline.after(admission.waited());
    let choice = named.unwrap_or_else(|| routes.default_choice().clone());
    let version = Arc::clone(&choice.version);
    let run = async {
        let scorer = deadline.model(predictor.models.scorer(&version)).await?;
        let (rows, tensors, vector) = match source {
            Source::Tensors(inputs) => {
                let tensors = aside(inputs, tensors).await?;
                (check_raw(&version, &tensors)?, tensors, None)
            }
            Source::Vector(vector) => (vector.num_rows(), scorer.layout.tensors(&vector)?, Some(vector)),
        };
        predictor.bounds.check_rows(rows)?;
        let call = RawCall::new(predictor, choice, rows);
        let kept = call.keep(&predictor.log, &tensors, vector.as_ref());
        let shadows = || routes.shadows.iter().filter(|shadow| shadow.is_beside(&version));
        // The model takes its tensors over.
        let for_shadows = shadows().next().map(|_| {
            let most_bytes = predictor.log.max_raw_bytes();
            raw::Sent::keep(&tensors, vector.as_ref(), rows, most_bytes)
        });
        let begun = deadline.elapsed();
        let outputs = run_model(&scorer, rows, tensors, deadline).await;
        let ended = deadline.elapsed();
        let infer = ended.saturating_sub(begun);
        version.traffic().record(rows, infer, outputs.is_ok());
        metrics::histogram!("ondol_gateway_model_seconds").record(infer.as_secs_f64());
        let outputs = outputs?;
        let request_ids = match kept {
            None => call.request_ids,
            Some(kept) => {
                let timing = Timing {
                    latency_us: micros(ended),
                    features_us: 0,
                    model_us: micros(infer),
                };
                let scored = call.scored(kept, Arc::clone(&scorer), &outputs, timing);
                predictor.log.record(&scored, deadline).await?;
                scored.request_ids.clone()
            }
        };
        version.statistics.succeeded(rows, deadline.stages(ended, infer));
        if let Some(sent) = for_shadows {
            let served = Arc::new(RawServed {
                version: Arc::clone(&version),
                scorer: Arc::clone(&scorer),
                rows,
                sent,
                predictions: scorer.score.predictions(&outputs, rows).unwrap_or_default(),
            });
            for shadow in shadows() {
                shadow.offer_raw(&served);
            }
        }
        Ok(Run {
            model: version.record.registered.model.clone(),
            scorer,
            rows,
            outputs,
            request_ids,
        })
    };
    run.await.inspect_err(|_| version.statistics.failed(deadline.elapsed()))
}

/// A call that brings its own vector, on its way into the decision log.
struct RawCall {
    choice: Choice,
    policy: DecisionPolicy,
    request_ids: Vec<String>,
    at: EventTime,
}

impl RawCall {
    fn new(predictor: &Predictor, choice: Choice, rows: usize) -> Self {
        let snapshot = predictor.definitions.current();
        let definition = snapshot.model(&choice.version.record.registered.model.name);
        Self {
            policy: definition
                .map(|model| model.definition.decisions.clone())
                .unwrap_or_default(),
            request_ids: (0..rows).map(|_| ulid::Ulid::new().to_string()).collect(),
            at: EventTime::from_micros(predictor.clock.now_micros()),
            choice,
        }
    }

    /// What was sent, where it is recorded: the model takes its tensors over.
    fn keep(&self, log: &DecisionLog, tensors: &[NamedTensor], vector: Option<&RecordBatch>) -> Option<Kept> {
        log.keeps(&self.policy, &self.request_ids).then(|| match vector {
            Some(vector) => Kept::vector(vector, log.max_raw_bytes()),
            None => Kept::tensors(tensors, self.request_ids.len(), log.max_raw_bytes()),
        })
    }

    fn scored(self, kept: Kept, scorer: Arc<Scorer>, outputs: &[NamedTensor], timing: Timing) -> Arc<RawScored> {
        let rows = self.request_ids.len();
        // A caller of tensors may have outputs that are not a row for a row: there is no prediction in them.
        let predictions = scorer.score.predictions(outputs, rows).unwrap_or_default();
        Arc::new(RawScored {
            version: self.choice.version,
            scorer,
            route: self.choice.route,
            policy: self.policy,
            request_ids: self.request_ids,
            kept,
            predictions,
            at: self.at,
            timing,
        })
    }
}

fn tensors(inputs: Vec<InputTensor>) -> Result<Vec<NamedTensor>, ModelGatewayError> {
    inputs.into_iter().map(InputTensor::into_tensor).collect()
}

/// Checks names, element types and dimensions, so that what is left to fail is the model's own fault. The rows.
fn check_raw(version: &Version, tensors: &[NamedTensor]) -> Result<usize, ModelGatewayError> {
    let mut rows: Option<(&str, i64)> = None;
    for spec in &version.record.registered.inputs {
        let mut named = tensors.iter().filter(|tensor| tensor.name == spec.name);
        let tensor = named
            .next()
            .ok_or_else(|| invalid(format!("input `{}` ({}) is missing", spec.name, spec.datatype)))?;
        if named.next().is_some() {
            return Err(invalid(format!("input `{}` was sent twice", spec.name)));
        }
        if tensor.data.element().name() != spec.datatype {
            let sent = tensor.data.element();
            return Err(invalid(format!(
                "input `{}` is {sent}, expected {}",
                spec.name, spec.datatype
            )));
        }
        let fits = tensor.shape.len() == spec.shape.len()
            && tensor
                .shape
                .iter()
                .zip(&spec.shape)
                .all(|(size, wanted)| *wanted < 0 || size == wanted);
        if !fits {
            return Err(invalid(format!(
                "input `{}` has shape {:?}, expected {:?}",
                spec.name, tensor.shape, spec.shape
            )));
        }
        let found = tensor.shape.first().copied().unwrap_or(0);
        match rows {
            Some((first, expected)) if expected != found => {
                return Err(invalid(format!(
                    "input `{}` has {found} rows, input `{first}` has {expected}",
                    spec.name
                )));
            }
            _ => rows = Some((&spec.name, found)),
        }
    }
    match usize::try_from(rows.map_or(0, |(_, rows)| rows)) {
        Ok(rows) if rows > 0 => Ok(rows),
        _ => Err(invalid(
            "the request has no rows: the first dimension must be at least 1",
        )),
    }
}
