//! Calls that brought the vector themselves, as tensors or by feature, and what a shadow is run on for them.
//!
//! What was sent is the vector of the version that served. A shadow whose entries are among it, and mean the same, is run
//! on their values, whatever form its own tensors have, as a replay of the decision would be; any other would need what
//! nobody has sent.

use crate::decision_log::raw::value_of;
use crate::features::value_at;
use crate::models::{Scorer, Version};
use crate::open_inference::blob;
use crate::runtime::tensor::NamedTensor;
use arrow::array::{Array as _, RecordBatch};
use ondol_vocabulary::{FeatureOrigin, ModelDefinition, ModelFeature, Value};
use std::sync::Arc;

/// What was sent.
#[derive(Debug)]
pub(crate) enum Sent {
    /// The model's own tensors.
    Tensors(Vec<NamedTensor>),
    /// The vector, a column per entry.
    Vector(RecordBatch),
    /// Rows of so many bytes, which is more than is kept for a shadow.
    TooLarge(usize),
}

/// A call that was answered.
#[derive(Debug)]
pub(crate) struct RawServed {
    pub(crate) version: Arc<Version>,
    pub(crate) scorer: Arc<Scorer>,
    pub(crate) rows: usize,
    pub(crate) sent: Sent,
    /// None where the outputs are not a row for a row.
    pub(crate) predictions: Vec<serde_json::Value>,
}

impl Sent {
    /// What is kept of `tensors`, or of the `vector` that they were made of, if a row takes at most `most_bytes`: what waits
    /// for a shadow is bounded in rows.
    pub(crate) fn keep(tensors: &[NamedTensor], vector: Option<&RecordBatch>, rows: usize, most_bytes: usize) -> Self {
        let size_bytes: usize = match vector {
            None => tensors.iter().map(|tensor| blob::size(&tensor.data)).sum(),
            Some(vector) => {
                let sizes = vector.columns().iter();
                let sizes = sizes.map(|column| column.to_data().get_slice_memory_size().unwrap_or(usize::MAX));
                sizes.fold(0, usize::saturating_add)
            }
        };
        let row_bytes = size_bytes.div_ceil(rows.max(1));
        match vector {
            _ if row_bytes > most_bytes => Self::TooLarge(row_bytes),
            None => Self::Tensors(tensors.to_vec()),
            Some(vector) => Self::Vector(vector.clone()),
        }
    }
}

impl RawServed {
    /// The vector of `shadow`, by entry and row, or why it can't be had.
    pub(crate) fn vector(&self, shadow: &ModelDefinition) -> Result<Vec<Vec<Value>>, String> {
        if self.predictions.len() != self.rows {
            return Err("the answer was not a row for a row: there is nothing to compare with".to_owned());
        }
        if let Sent::TooLarge(row_bytes) = self.sent {
            return Err(format!(
                "a row that the caller sent takes {row_bytes} bytes, which is more than `decision_log.max_raw_bytes`"
            ));
        }
        let served = &self.version.record.definition;
        let column = |feature: &ModelFeature| {
            let name = &feature.name;
            let place = place(served, shadow, feature).ok_or_else(|| {
                format!("it needs `{name}`, which the vector that the caller sent does not have, or means otherwise")
            })?;
            self.column(place)
                .ok_or_else(|| format!("the tensors that the caller sent have no `{name}`"))
        };
        shadow.features.iter().map(column).collect()
    }

    /// Entry `place` of every row.
    fn column(&self, place: usize) -> Option<Vec<Value>> {
        let features = &self.version.record.definition.features;
        let value = |row: usize| match &self.sent {
            Sent::Tensors(tensors) => {
                let feature = features.get(place)?;
                value_of(&self.scorer.layout, tensors, features.len(), feature, place, row)
            }
            Sent::Vector(vector) => Some(value_at(vector.columns().get(place)?, row)),
            Sent::TooLarge(_) => None,
        };
        (0..self.rows).map(value).collect()
    }
}

/// Where `feature` of `shadow` is in the vector of `served`: the same entry, computed in the same way if it is computed.
fn place(served: &ModelDefinition, shadow: &ModelDefinition, feature: &ModelFeature) -> Option<usize> {
    if matches!(feature.origin, FeatureOrigin::Derived { .. }) && served.derived != shadow.derived {
        return None;
    }
    served.features.iter().position(|known| known == feature)
}
