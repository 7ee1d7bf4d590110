//! Which of a model's outputs is the prediction.
//!
//! In this order: an output whose name contains `prob`, the first float output, the first output of all. Of what it
//! holds: `[N, 2]` in a `prob` output is the probability of class 1; `[N]` and `[N, 1]` are one value a row; anything
//! wider is a list a row. A label stays what it is: a number, a text or a truth value. NaN is null.

use crate::fault::internal;
use crate::runtime::signature::{Slot, SlotKind};
use crate::runtime::tensor::NamedTensor;
use ondol_model_gateway_api::ModelGatewayError;
use serde_json::Value;

/// The output that predicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Score {
    output: String,
    is_probability: bool,
}

impl Score {
    /// Chooses among `outputs`; none when there are none.
    pub fn choose(outputs: &[Slot]) -> Option<Self> {
        let is_float = |slot: &&Slot| matches!(&slot.kind, SlotKind::Tensor { element, .. } if element.is_float());
        let is_probability = |slot: &&Slot| slot.name.to_lowercase().contains("prob");
        if let Some(slot) = outputs.iter().filter(is_float).find(is_probability) {
            return Some(Self {
                output: slot.name.clone(),
                is_probability: true,
            });
        }
        let slot = outputs.iter().find(is_float).or_else(|| outputs.first())?;
        Some(Self {
            output: slot.name.clone(),
            is_probability: false,
        })
    }

    /// The output among `outputs`, if it says something of each of `rows` rows; else how it fails to.
    pub fn tensor<'a>(&self, outputs: &'a [NamedTensor], rows: usize) -> Result<&'a NamedTensor, String> {
        let tensor = outputs
            .iter()
            .find(|tensor| tensor.name == self.output)
            .ok_or_else(|| format!("the model gave no output `{}`", self.output))?;
        let first = tensor.shape.first().and_then(|first| usize::try_from(*first).ok());
        if first != Some(rows) || tensor.data.len() % rows.max(1) != 0 {
            return Err(format!(
                "output `{}` has shape {:?} for {rows} rows: its first dimension must be the rows",
                self.output, tensor.shape
            ));
        }
        Ok(tensor)
    }

    /// One prediction a row.
    pub fn predictions(&self, outputs: &[NamedTensor], rows: usize) -> Result<Vec<Value>, ModelGatewayError> {
        let tensor = self.tensor(outputs, rows).map_err(internal)?;
        let width = tensor.data.len() / rows.max(1);
        let row = |row: usize| match width {
            1 => tensor.data.json(row),
            2 if self.is_probability && tensor.shape.len() == 2 => tensor.data.json(row * 2 + 1),
            _ => Value::Array(
                (row * width..(row + 1) * width)
                    .map(|index| tensor.data.json(index))
                    .collect(),
            ),
        };
        Ok((0..rows).map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::tensor::{ElementType, TensorData};
    use serde_json::json;

    fn slot(name: &str, element: ElementType) -> Slot {
        Slot {
            name: name.to_owned(),
            kind: SlotKind::Tensor {
                element,
                shape: vec![-1],
            },
        }
    }

    fn check(name: &str, shape: &[i64], data: TensorData, rows: usize, expected: &Value) {
        let score = Score::choose(&[slot("label", ElementType::I64), slot(name, data.element())]).unwrap();
        let tensor = NamedTensor {
            name: score.output.clone(),
            shape: shape.to_vec(),
            data,
        };
        assert_eq!(Value::Array(score.predictions(&[tensor], rows).unwrap()), *expected);
    }

    #[test]
    fn two_probabilities_are_the_probability_of_class_1() {
        check(
            "probabilities",
            &[2, 2],
            TensorData::F32(vec![0.25, 0.75, 1.0, 0.0]),
            2,
            &json!([0.75, 0.0]),
        );
    }

    #[test]
    fn two_floats_of_another_name_stay_a_list() {
        check(
            "mean_and_variance",
            &[1, 2],
            TensorData::F64(vec![3.0, 4.0]),
            1,
            &json!([[3.0, 4.0]]),
        );
    }

    #[test]
    fn one_float_a_row_is_a_number_with_and_without_an_axis() {
        check(
            "variable",
            &[2, 1],
            TensorData::F32(vec![1.5, 2.5]),
            2,
            &json!([1.5, 2.5]),
        );
        check(
            "variable",
            &[2],
            TensorData::F64(vec![1.5, f64::NAN]),
            2,
            &json!([1.5, null]),
        );
    }

    #[test]
    fn several_classes_are_a_list() {
        check(
            "probabilities",
            &[1, 3],
            TensorData::F32(vec![0.5, 0.25, 0.25]),
            1,
            &json!([[0.5, 0.25, 0.25]]),
        );
    }

    #[test]
    fn a_model_of_labels_alone_predicts_the_label() {
        let score = Score::choose(&[slot("label", ElementType::String)]).unwrap();
        let data = TensorData::String(vec!["fraud".to_owned()]);
        let tensor = NamedTensor {
            name: "label".to_owned(),
            shape: vec![1],
            data,
        };
        assert_eq!(score.predictions(&[tensor], 1).unwrap(), [json!("fraud")]);
    }

    #[test]
    fn an_output_that_does_not_have_the_rows_first_is_refused() {
        let score = Score::choose(&[slot("score", ElementType::F32)]).unwrap();
        let tensor = NamedTensor {
            name: "score".to_owned(),
            shape: vec![1],
            data: TensorData::F32(vec![1.0]),
        };
        assert!(score.predictions(&[tensor], 2).is_err());
    }
}
