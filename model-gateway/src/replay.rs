//! Old vectors scored anew: by the artifact that scored them, which gives the same bits, or by another version.

mod raw;

use crate::fault::{did_you_mean, internal, invalid};
use crate::features::column;
use crate::layout::Layout;
use crate::predict::{Predictor, run_model};
use crate::runtime::tensor::NamedTensor;
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
        let tensors = tensors(&scorer.layout, definition, &columns, rows)?;
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

/// The tensors of `columns`, the vector's entries in order: by way of the definition's types where they hold them.
pub(crate) fn tensors(
    layout: &Layout,
    definition: &ModelDefinition,
    columns: &[Vec<Value>],
    rows: usize,
) -> Result<Vec<NamedTensor>, ModelGatewayError> {
    let mut entries = definition.features.iter().zip(columns);
    let is_typed = entries.all(|(feature, values)| values.iter().all(|value| raw::holds(feature.data_type, value)));
    if !is_typed && let Some(tensors) = raw::tensors(layout, columns, rows)? {
        return Ok(tensors);
    }
    layout.tensors(&typed(definition, columns, rows)?)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision_log::raw::value_of;
    use crate::layout::ColumnInput;
    use crate::runtime::tensor::{ElementType, TensorData};
    use ondol_vocabulary::{DataType, DecisionPolicy, Element, FeatureOrigin, ModelFeature, ModelPolicy};
    use proptest::prelude::*;

    fn definition(types: &[DataType]) -> ModelDefinition {
        let feature = |(place, data_type): (usize, &DataType)| ModelFeature {
            name: format!("f{place}"),
            data_type: *data_type,
            origin: FeatureOrigin::Input {
                name: format!("f{place}"),
            },
        };
        ModelDefinition {
            name: "m".to_owned(),
            inputs: Vec::new(),
            features: types.iter().enumerate().map(feature).collect(),
            derived: Vec::new(),
            derived_needs: Vec::new(),
            policy: ModelPolicy::default(),
            decisions: DecisionPolicy::default(),
        }
    }

    /// What a replay makes of what the decision log holds of `sent`, by way of its text.
    fn replayed(layout: &Layout, definition: &ModelDefinition, sent: &[NamedTensor], rows: usize) -> Vec<NamedTensor> {
        let width = definition.features.len();
        let vector = |row| -> BTreeMap<String, Value> {
            let features = definition.features.iter().enumerate();
            let recorded: BTreeMap<_, _> = features
                .map(|(place, feature)| (&feature.name, value_of(layout, sent, width, feature, place, row)))
                .collect();
            serde_json::from_str(&serde_json::to_string(&recorded).unwrap()).unwrap()
        };
        let columns = columns(definition, (0..rows).map(vector).collect()).unwrap();
        tensors(layout, definition, &columns, rows).unwrap()
    }

    /// The bits of each element; any NaN is one.
    fn bits(tensors: &[NamedTensor]) -> Vec<u64> {
        let of = |tensor: &NamedTensor| -> Vec<u64> {
            let nan = |value: f64| if value.is_nan() { u64::MAX } else { value.to_bits() };
            match &tensor.data {
                TensorData::F32(values) => values.iter().map(|value| nan(f64::from(*value))).collect(),
                TensorData::F64(values) => values.iter().map(|value| nan(*value)).collect(),
                other => panic!("{other:?}"),
            }
        };
        tensors.iter().flat_map(of).collect()
    }

    fn cell() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<f64>(),
            (-3..4_i32).prop_map(f64::from),
            Just(-0.0),
            Just(f64::NAN),
            Just(0.1),
            Just(9_007_199_254_740_994.0)
        ]
    }

    const TYPES: [DataType; 5] = [
        DataType::I64,
        DataType::I32,
        DataType::Bool,
        DataType::F32,
        DataType::F64,
    ];

    proptest! {
        #[test]
        fn what_was_sent_raw_comes_back_to_the_bit(cells in prop::collection::vec(cell(), 10), double: bool) {
            let layout = Layout::Matrix { input: "x".to_owned(), double };
            #[allow(clippy::cast_possible_truncation, reason = "single precision is what is sent")]
            let data = if double {
                TensorData::F64(cells)
            } else {
                TensorData::F32(cells.into_iter().map(|cell| cell as f32).collect())
            };
            let sent = [NamedTensor { name: "x".to_owned(), shape: vec![2, 5], data }];
            let back = replayed(&layout, &definition(&TYPES), &sent, 2);
            prop_assert_eq!(bits(&back), bits(&sent));
            prop_assert_eq!(&back[0].shape, &sent[0].shape);
        }

        #[test]
        fn lists_that_were_sent_raw_come_back_to_the_bit(cells in prop::collection::vec(cell(), 6)) {
            let layout = Layout::Columns(vec![ColumnInput {
                input: "recent".to_owned(),
                element: ElementType::F64,
                width: Some(3),
            }]);
            let sent = [NamedTensor { name: "recent".to_owned(), shape: vec![2, 3], data: TensorData::F64(cells) }];
            let back = replayed(&layout, &definition(&[DataType::List(Element::I64)]), &sent, 2);
            prop_assert_eq!(bits(&back), bits(&sent));
        }
    }
}
