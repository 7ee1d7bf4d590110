//! Old vectors scored anew: by the artifact that scored them, which gives the same bits, or by another version.

mod raw;

use crate::fault::{did_you_mean, internal, invalid};
use crate::features::column;
use crate::predict::{Predictor, run_model};
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field as ArrowField, Schema};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::{ScoreRequest, VectorScores};
use ondol_vocabulary::{ModelDefinition, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Predictor {
    /// Scores vectors as they are. Nothing is looked up, nothing recorded.
    pub async fn score_vectors(&self, model: &str, request: ScoreRequest) -> Result<VectorScores, ModelGatewayError> {
        let deadline = self.bounds.deadline(request.deadline_ms);
        let rows = request.vectors.len();
        if rows == 0 {
            return Err(invalid("`vectors` is empty: send at least one"));
        }
        self.bounds.check_rows(rows)?;
        let (routes, named) = deadline.model(self.find(model)).await?;
        // Replays are many at a time, and not to be in the way of what is served.
        let _admission = self.admit(&routes, deadline).await?;
        let version = named.map_or_else(|| Arc::clone(routes.default_version()), |choice| choice.version);
        let scorer = deadline.model(self.models.scorer(&version)).await?;
        let definition = &version.record.definition;
        let columns = columns(definition, request.vectors)?;
        let entries = || definition.features.iter().zip(&columns);
        let is_typed =
            entries().all(|(feature, values)| values.iter().all(|value| raw::holds(feature.data_type, value)));
        let raw = if is_typed {
            None
        } else {
            raw::tensors(&scorer.layout, &columns, rows)?
        };
        let tensors = match raw {
            Some(tensors) => tensors,
            None => scorer.layout.tensors(&typed(definition, &columns, rows)?)?,
        };
        let outputs = run_model(&scorer, rows, tensors, deadline).await?;
        let registered = &version.record.registered;
        Ok(VectorScores {
            model: registered.model.clone(),
            sha256: registered.sha256.clone(),
            predictions: scorer.score.predictions(&outputs, rows)?,
        })
    }
}

/// The vectors by entry: every entry of the model's vector must be there, and nothing else.
fn columns(
    model: &ModelDefinition,
    vectors: Vec<BTreeMap<String, Value>>,
) -> Result<Vec<Vec<Value>>, ModelGatewayError> {
    let rows = vectors.len();
    let mut columns: Vec<Vec<Value>> = model.features.iter().map(|_| Vec::with_capacity(rows)).collect();
    for (row, mut vector) in vectors.into_iter().enumerate() {
        for (feature, column) in model.features.iter().zip(&mut columns) {
            let value = vector.remove(&feature.name).ok_or_else(|| {
                invalid(format!(
                    "vector {row} has no `{}` ({}): send all entries of the model's vector, null where it has no value",
                    feature.name, feature.data_type
                ))
            })?;
            column.push(value);
        }
        if let Some((unknown, _)) = vector.pop_first() {
            let near = did_you_mean(&unknown, model.features.iter().map(|feature| feature.name.as_str()));
            return Err(invalid(format!(
                "vector {row} has `{unknown}`, which is not in the model's vector{near}"
            )));
        }
    }
    Ok(columns)
}

/// The vectors as a batch of the definition's types.
fn typed(model: &ModelDefinition, columns: &[Vec<Value>], rows: usize) -> Result<RecordBatch, ModelGatewayError> {
    let fields: Vec<ArrowField> = model
        .features
        .iter()
        .map(|feature| ArrowField::new(&feature.name, feature.data_type.arrow(), true))
        .collect();
    let arrays = model
        .features
        .iter()
        .zip(columns)
        .map(|(feature, values)| column(&feature.name, feature.data_type, values).map_err(invalid))
        .collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options).map_err(internal)
}
