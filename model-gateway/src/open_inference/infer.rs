//! Inference, whatever surface asks for it: entity keys or raw tensors in, the model's outputs out.
//!
//! A model takes its *definition's inputs* (entity keys and request-time values, a tensor `[N]` or `[N, 1]` each: the
//! features are looked up and the decisions logged) or its *own tensors* (nothing is looked up or logged); the names of
//! a request's tensors tell which.

use crate::fault::{did_you_mean, internal, invalid};
use crate::models::{Scorer, Version};
use crate::open_inference::statistics::Stages;
use crate::open_inference::tensor::InputTensor;
use crate::predict::{Batch, Predictor, Scored, run_model};
use crate::runtime::tensor::NamedTensor;
use arrow::array::RecordBatch;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_vocabulary::Value;
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
}

/// What a model answers.
#[derive(Debug)]
pub(super) struct Answer {
    version: Arc<Version>,
    outputs: Outputs,
}

#[derive(Debug)]
enum Outputs {
    /// By entity key.
    Scored(Arc<Scored>),
    /// Of raw tensors.
    Raw(Vec<NamedTensor>),
}

/// The name of a model and, where a request has one, its version, as [`Predictor`] takes it.
pub(super) fn versioned(model: &str, version: Option<&str>) -> String {
    match version {
        Some(version) if !version.is_empty() => format!("{model}@{version}"),
        _ => model.to_owned(),
    }
}

impl Answer {
    /// The version that answered.
    pub(super) fn version(&self) -> &Version {
        match &self.outputs {
            Outputs::Scored(scored) => scored.version(),
            Outputs::Raw(_) => &self.version,
        }
    }

    /// By which ids the rows stand in the decision log, with commas between; none for raw tensors.
    pub(super) fn request_ids(&self) -> Option<String> {
        match &self.outputs {
            Outputs::Raw(_) => None,
            Outputs::Scored(scored) => {
                let ids: Vec<&str> = (0..scored.rows()).map(|row| scored.request_id(row)).collect();
                Some(ids.join(","))
            }
        }
    }

    /// The outputs that were asked for by name, with what was asked of each; all when none were.
    pub(super) fn wanted<'a, W>(
        &'a self,
        wanted: &'a [W],
        name: impl Fn(&W) -> &str,
    ) -> Result<Vec<(&'a NamedTensor, Option<&'a W>)>, ModelGatewayError> {
        let tensors = match &self.outputs {
            Outputs::Scored(scored) => scored.outputs(),
            Outputs::Raw(tensors) => tensors.as_slice(),
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
    let outputs = match kind_of(&version, &call.inputs)? {
        InputKind::Definition => {
            let instances = aside(call.inputs, instances).await?;
            let batch = Batch {
                instances,
                deadline_ms: call.deadline_ms,
                ..Batch::default()
            };
            Outputs::Scored(predictor.score(&call.model, batch).await?)
        }
        InputKind::Raw => {
            let source = Source::Tensors(call.inputs);
            Outputs::Raw(run(predictor, &version, source, call.deadline_ms).await?.outputs)
        },
    };
    Ok(Answer { version, outputs })
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
    pub(super) scorer: Arc<Scorer>,
    pub(super) rows: usize,
    pub(super) outputs: Vec<NamedTensor>,
}

/// Runs a model on what a caller sent for it, within the same bounds as any request. Nothing is logged: the decision log
/// holds what the gateway looked up.
pub(super) async fn run(
    predictor: &Predictor,
    version: &Version,
    source: Source,
    deadline_ms: Option<u64>,
) -> Result<Run, ModelGatewayError> {
    let _permit = predictor.bounds.admit()?;
    let deadline = predictor.bounds.deadline(deadline_ms);
    let run = async {
        let scorer = deadline.model(predictor.models.scorer(version)).await?;
        let (rows, tensors) = match source {
            Source::Tensors(inputs) => {
                let tensors = aside(inputs, tensors).await?;
                (check_raw(version, &tensors)?, tensors)
            }
            Source::Vector(vector) => (vector.num_rows(), scorer.layout.tensors(&vector)?),
        };
        predictor.bounds.check_rows(rows)?;
        let input = deadline.elapsed();
        let outputs = run_model(&scorer, rows, tensors, deadline).await?;
        let stages = Stages {
            input,
            infer: deadline.elapsed().saturating_sub(input),
            ..Stages::default()
        };
        version.statistics.succeeded(rows, stages);
        Ok(Run { scorer, rows, outputs })
    };
    let result = run.await;
    if result.is_err() {
        version.statistics.failed(deadline.elapsed());
    }
    result
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
