//! Boosted trees from LightGBM's and XGBoost's own files, evaluated exactly as those libraries do.
//!
//! [`lightgbm`] and [`xgboost`] parse a file into one [`Forest`]: every node of every tree in one array, a tree's nodes
//! next to each other in the order of a walk, so that a row touches few cache lines. Sums are made in the library's own
//! precision and order (double for LightGBM, single for XGBoost), and [`objective`] turns them into predictions with the
//! same steps; what can't be evaluated equally is refused by name. Cost: about 2 ns a visited node; a run of more than
//! [`INLINE_STEPS`] goes to the blocking pool.

mod forest;
mod lightgbm;
mod objective;
mod ubjson;
mod xgboost;

use crate::difference::plain;
use crate::runtime::signature::{Signature, Slot};
use crate::runtime::tensor::{ElementType, NamedTensor, TensorData};
use crate::runtime::{Runtime, RuntimeError};
use async_trait::async_trait;
use forest::{Forest, Rule};
use objective::Objective;
use ondol_vocabulary::ModelDefinition;
use std::sync::Arc;
use tokio::time::Instant;

/// Rows times trees up to which a run stays on the calling thread: under about 500 µs.
pub const INLINE_STEPS: usize = 20_000;

/// The matrix it takes.
const INPUT: &str = "features";
/// What it gives.
const OUTPUT: &str = "prediction";

/// A model of boosted trees.
#[derive(Debug)]
pub struct Trees {
    signature: Signature,
    model: Arc<TreeModel>,
}

/// What a file holds.
#[derive(Debug)]
pub(crate) struct TreeModel {
    forest: Forest,
    objective: Objective,
    /// Features, in the order of the matrix's columns.
    features: usize,
    /// Their names, where the file has them.
    names: Vec<String>,
}

impl Trees {
    /// A LightGBM model in its text form, of `definition`'s vector. Blocks for milliseconds.
    pub fn lightgbm(artifact: &[u8], definition: &ModelDefinition) -> Result<Self, RuntimeError> {
        let text = std::str::from_utf8(artifact)
            .map_err(|error| RuntimeError::Artifact(format!("a LightGBM model is text: {error}")))?;
        let model = lightgbm::parse(text).map_err(|error| RuntimeError::Artifact(format!("LightGBM: {error}")))?;
        Ok(Self::new(model, definition))
    }

    /// An XGBoost model in its JSON or UBJSON form, of `definition`'s vector. Blocks for milliseconds.
    pub fn xgboost(artifact: &[u8], definition: &ModelDefinition) -> Result<Self, RuntimeError> {
        let model = xgboost::parse(artifact).map_err(|error| RuntimeError::Artifact(format!("XGBoost: {error}")))?;
        Ok(Self::new(model, definition))
    }

    fn new(model: TreeModel, definition: &ModelDefinition) -> Self {
        let element = match model.forest.rule {
            Rule::LightGbm => ElementType::F64,
            Rule::XgBoost => ElementType::F32,
        };
        let width = i64::try_from(model.features).unwrap_or(i64::MAX);
        let shape = match model.objective.width(model.forest.groups) {
            1 => vec![-1],
            several => vec![-1, i64::try_from(several).unwrap_or(i64::MAX)],
        };
        let signature = Signature {
            inputs: vec![Slot::tensor(INPUT, element, vec![-1, width])],
            outputs: vec![Slot::tensor(OUTPUT, element, shape)],
            features: feature_names(&model.names, definition),
        };
        Self {
            signature,
            model: Arc::new(model),
        }
    }
}

/// The names in the file, as the definition writes them; none where the library made them up.
fn feature_names(names: &[String], definition: &ModelDefinition) -> Option<Vec<String>> {
    let is_made_up =
        |(place, name): (usize, &String)| *name == format!("Column_{place}") || *name == format!("f{place}");
    if names.is_empty() || names.iter().enumerate().all(is_made_up) {
        return None;
    }
    let features = &definition.features;
    let are_plain = names.len() == features.len()
        && names
            .iter()
            .zip(features)
            .all(|(name, feature)| *name == feature.name || *name == plain(&feature.name));
    if are_plain {
        return Some(features.iter().map(|feature| feature.name.clone()).collect());
    }
    Some(names.to_vec())
}

#[async_trait]
impl Runtime for Trees {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn memory_bytes(&self) -> usize {
        self.model.forest.memory_bytes()
    }

    async fn run(
        &self,
        rows: usize,
        inputs: Vec<NamedTensor>,
        _deadline: Instant,
    ) -> Result<Vec<NamedTensor>, RuntimeError> {
        if rows.saturating_mul(self.model.forest.trees()) <= INLINE_STEPS {
            return self.model.run(rows, inputs);
        }
        let model = Arc::clone(&self.model);
        tokio::task::spawn_blocking(move || model.run(rows, inputs))
            .await
            .map_err(|error| RuntimeError::Run(error.to_string()))?
    }
}

impl TreeModel {
    fn run(&self, rows: usize, inputs: Vec<NamedTensor>) -> Result<Vec<NamedTensor>, RuntimeError> {
        let [NamedTensor { data, .. }] = <[NamedTensor; 1]>::try_from(inputs)
            .map_err(|inputs| RuntimeError::Run(format!("{} tensors were sent, one is taken", inputs.len())))?;
        let cells: Vec<f64> = match data {
            TensorData::F64(cells) => cells,
            TensorData::F32(cells) => cells.into_iter().map(f64::from).collect(),
            other => return Err(RuntimeError::Run(format!("the matrix is {}", other.element()))),
        };
        if cells.len() != rows * self.features {
            return Err(RuntimeError::Run(format!(
                "the matrix has {} cells for {rows} rows of {} features",
                cells.len(),
                self.features
            )));
        }
        let values = self.predict(&cells);
        let width = self.objective.width(self.forest.groups);
        let mut shape = vec![i64::try_from(rows).unwrap_or(i64::MAX)];
        if width > 1 {
            shape.push(i64::try_from(width).unwrap_or(i64::MAX));
        }
        let data = match self.forest.rule {
            Rule::LightGbm => TensorData::F64(values),
            // Each is a single already.
            #[allow(clippy::cast_possible_truncation, reason = "computed in single precision")]
            Rule::XgBoost => TensorData::F32(values.into_iter().map(|value| value as f32).collect()),
        };
        Ok(vec![NamedTensor {
            name: OUTPUT.to_owned(),
            shape,
            data,
        }])
    }

    /// Predictions for rows of `cells`, in the rows' order.
    fn predict(&self, cells: &[f64]) -> Vec<f64> {
        let mut sums = Vec::with_capacity(self.forest.groups);
        let mut values = Vec::with_capacity(cells.len() / self.features.max(1));
        for row in cells.chunks_exact(self.features.max(1)) {
            self.forest.sums(row, &mut sums);
            if self.forest.divisor > 1.0 {
                sums.iter_mut().for_each(|sum| *sum /= self.forest.divisor);
            }
            self.objective.append(&mut sums, &mut values);
        }
        values
    }
}

#[cfg(test)]
mod tests;
