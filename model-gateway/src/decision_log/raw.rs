//! Decisions on what a caller sent for the model itself: its own tensors, or its vector. Nothing was looked up, so a
//! decision is the vector alone.
//!
//! A model was registered because its tensors are its vector ([`Layout`]), so a row of tensors is one too: `vector` holds
//! it by feature, each value such that a replay makes the same bits of it. `inputs` says that it was sent raw
//! (`{"raw": …}`), as which tensors and which of their rows it was, and, where a row takes more than
//! `decision_log.max_raw_bytes`, that it was left out; its `vector` is empty then.

use super::Decisions;
use super::record::{Decision, Object, Predicted};
use crate::features::value_at;
use crate::layout::Layout;
use crate::models::{Scorer, Version};
use crate::open_inference::blob;
use crate::predict::Timing;
use crate::runtime::tensor::{NamedTensor, TensorData};
use arrow::array::{Array as _, RecordBatch};
use ondol_vocabulary::{DataType, DecisionPolicy, EventTime, ModelFeature, Value};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use std::sync::Arc;

/// What a model was run on.
#[derive(Debug)]
pub(crate) enum Sent {
    /// Its own tensors.
    Tensors(Vec<NamedTensor>),
    /// Its vector.
    Vector(RecordBatch),
    /// Something that is too large to be kept.
    LeftOut {
        /// How many bytes a row takes.
        row_bytes: usize,
    },
}

/// A tensor that was sent, without its elements.
#[derive(Debug, Serialize)]
struct Shape {
    name: String,
    datatype: &'static str,
    shape: Vec<i64>,
}

/// A batch that was scored as it was sent.
#[derive(Debug)]
pub(crate) struct RawScored {
    pub(crate) version: Arc<Version>,
    pub(crate) scorer: Arc<Scorer>,
    pub(crate) route: Arc<str>,
    pub(crate) policy: DecisionPolicy,
    pub(crate) request_ids: Vec<String>,
    pub(crate) kept: Kept,
    pub(crate) predictions: Vec<serde_json::Value>,
    pub(crate) at: EventTime,
    pub(crate) timing: Timing,
}

/// What was sent, as far as it is kept for the record.
#[derive(Debug)]
pub(crate) struct Kept {
    sent: Sent,
    shapes: Vec<Shape>,
}

impl Kept {
    /// `tensors` of `rows` rows, if a row takes at most `most_bytes`.
    pub(crate) fn tensors(tensors: &[NamedTensor], rows: usize, most_bytes: usize) -> Self {
        let size_bytes: usize = tensors.iter().map(|tensor| blob::size(&tensor.data)).sum();
        let row_bytes = size_bytes.div_ceil(rows.max(1));
        let shape = |tensor: &NamedTensor| Shape {
            name: tensor.name.clone(),
            datatype: tensor.data.element().name(),
            shape: tensor.shape.clone(),
        };
        Self {
            sent: if row_bytes <= most_bytes {
                Sent::Tensors(tensors.to_vec())
            } else {
                Sent::LeftOut { row_bytes }
            },
            shapes: tensors.iter().map(shape).collect(),
        }
    }

    /// A vector, if a row takes at most `most_bytes`.
    pub(crate) fn vector(vector: &RecordBatch, most_bytes: usize) -> Self {
        let columns = vector.columns().iter();
        let size_bytes: usize = columns
            .map(|column| column.to_data().get_slice_memory_size().unwrap_or(usize::MAX))
            .fold(0, usize::saturating_add);
        let row_bytes = size_bytes.div_ceil(vector.num_rows().max(1));
        Self {
            sent: if row_bytes <= most_bytes {
                Sent::Vector(vector.clone())
            } else {
                Sent::LeftOut { row_bytes }
            },
            shapes: Vec::new(),
        }
    }
}

/// What `inputs` says.
#[derive(Serialize)]
struct Inputs<'a> {
    raw: Raw<'a>,
}

#[derive(Serialize)]
struct Raw<'a> {
    #[serde(skip_serializing_if = "<[Shape]>::is_empty")]
    tensors: &'a [Shape],
    row: usize,
    /// How many bytes the row takes, where its vector is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out_bytes: Option<usize>,
}

/// An empty object: nothing was looked up.
#[derive(Serialize)]
struct Nothing {}

impl Decisions for RawScored {
    fn rows(&self) -> usize {
        self.request_ids.len()
    }

    fn request_id(&self, row: usize) -> &str {
        self.request_ids.get(row).map_or("", String::as_str)
    }

    fn policy(&self) -> &DecisionPolicy {
        &self.policy
    }

    fn at(&self) -> EventTime {
        self.at
    }

    fn event(&self, row: usize) -> Result<Box<RawValue>, serde_json::Error> {
        let record = &self.version.record;
        let registered = &record.registered;
        let features = record.definition.features.as_slice();
        let vector = || {
            let value = move |place: usize, feature: &ModelFeature| match &self.kept.sent {
                Sent::Tensors(tensors) => value_of(&self.scorer.layout, tensors, features.len(), feature, place, row),
                Sent::Vector(vector) => Some(value_at(vector.columns().get(place)?, row)),
                Sent::LeftOut { .. } => None,
            };
            let entries = features.iter().enumerate();
            entries.filter_map(move |(place, feature)| Some((feature.name.as_str(), value(place, feature)?)))
        };
        to_raw_value(&Decision {
            request_id: self.request_id(row),
            model: &registered.model.name,
            model_version: registered.model.version,
            definition_version: registered.definition_version,
            at: self.at,
            as_of: self.at,
            latency_us: self.timing.latency_us,
            features_us: self.timing.features_us,
            model_us: self.timing.model_us,
            inputs: Inputs {
                raw: Raw {
                    tensors: &self.kept.shapes,
                    row,
                    left_out_bytes: match self.kept.sent {
                        Sent::LeftOut { row_bytes } => Some(row_bytes),
                        Sent::Tensors(_) | Sent::Vector(_) => None,
                    },
                },
            },
            vector: Object(vector),
            statuses: Nothing {},
            ages_ms: Nothing {},
            views: Nothing {},
            prediction: Predicted(self.predictions.get(row).unwrap_or(&serde_json::Value::Null)),
            model_digest: &registered.sha256,
            route: &self.route,
            event_times: Nothing {},
            degraded: None,
        })
    }
}

/// Entry `place` of row `row` of the vector that `tensors` are.
pub(crate) fn value_of(
    layout: &Layout,
    tensors: &[NamedTensor],
    width: usize,
    feature: &ModelFeature,
    place: usize,
    row: usize,
) -> Option<Value> {
    match layout {
        Layout::Matrix { input, .. } => {
            let matrix = tensors.iter().find(|tensor| tensor.name == *input)?;
            Some(typed(feature.data_type, element(&matrix.data, row * width + place)?))
        }
        Layout::Columns(inputs) => {
            let input = inputs.get(place)?;
            let tensor = tensors.iter().find(|tensor| tensor.name == input.input)?;
            let DataType::List(items) = feature.data_type else {
                return Some(typed(feature.data_type, element(&tensor.data, row)?));
            };
            let width = input.width?;
            let cells = (row * width..(row + 1) * width).map(|cell| element(&tensor.data, cell));
            let mut list: Vec<Value> = cells
                .map(|cell| cell.map(|cell| typed(items.data_type(), cell)))
                .collect::<Option<_>>()?;
            // What a list does not fill is NaN.
            let filled = list.iter().rposition(|value| *value != Value::Null);
            list.truncate(filled.map_or(0, |last| last + 1));
            Some(Value::List(list))
        }
    }
}

fn element(data: &TensorData, place: usize) -> Option<Value> {
    macro_rules! integer {
        ($values:expr) => {
            Value::I64(i64::from(*$values.get(place)?))
        };
    }
    let float = |value: f64| if value.is_nan() { Value::Null } else { Value::F64(value) };
    Some(match data {
        TensorData::Bool(values) => Value::Bool(*values.get(place)?),
        TensorData::U8(values) => integer!(values),
        TensorData::U16(values) => integer!(values),
        TensorData::U32(values) => integer!(values),
        // No input of a registered model is of this type: no feature feeds it.
        TensorData::U64(values) => Value::I64(i64::try_from(*values.get(place)?).ok()?),
        TensorData::I8(values) => integer!(values),
        TensorData::I16(values) => integer!(values),
        TensorData::I32(values) => integer!(values),
        TensorData::I64(values) => integer!(values),
        TensorData::F32(values) => float(f64::from(*values.get(place)?)),
        TensorData::F64(values) => float(*values.get(place)?),
        TensorData::String(values) => Value::String(values.get(place)?.clone()),
    })
}

/// `value` as the feature's type, where that loses nothing: as a vector that was looked up has it.
fn typed(data_type: DataType, value: Value) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match (data_type, value) {
        (DataType::I32 | DataType::I64, Value::F64(number))
            if number.fract() == 0.0 && number.abs() <= EXACT && !(number == 0.0 && number.is_sign_negative()) =>
        {
            Value::I64(number as i64)
        }
        (DataType::Bool, Value::F64(number)) if number.to_bits() == 0.0_f64.to_bits() => Value::Bool(false),
        (DataType::Bool, Value::F64(1.0) | Value::I64(1)) => Value::Bool(true),
        (DataType::Bool, Value::I64(0)) => Value::Bool(false),
        (_, value) => value,
    }
}
