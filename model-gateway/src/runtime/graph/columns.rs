//! A graph's vector as tensors, one per feature, and back as columns.
//!
//! Numbers and truth values travel as FP64, where NaN is a missing value; an integer beyond 2^53 is rounded.

use crate::runtime::RuntimeError;
use crate::runtime::signature::{Slot, SlotKind};
use crate::runtime::tensor::{ElementType, NamedTensor, TensorData};
use arrow::array::{ArrayRef, Float64Array, RecordBatch, RecordBatchOptions, StringArray};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use ondol_vocabulary::{DataType, ModelFeature};
use std::sync::Arc;

/// The tensor that takes `feature`.
pub(super) fn input_slot(feature: &ModelFeature) -> Slot {
    let tensor = |element| SlotKind::Tensor {
        element,
        shape: vec![-1],
    };
    let kind = match feature.data_type {
        DataType::F32 | DataType::F64 | DataType::I32 | DataType::I64 | DataType::Bool => tensor(ElementType::F64),
        DataType::String => tensor(ElementType::String),
        DataType::List(_) | DataType::Timestamp => SlotKind::Unsupported(format!("{} (in a graph)", feature.data_type)),
    };
    Slot {
        name: feature.name.clone(),
        kind,
    }
}

/// The columns of `schema` that `tensors` hold, which are one per feature, by name.
pub(super) fn of_tensors(
    schema: &SchemaRef,
    features: &[ModelFeature],
    rows: usize,
    tensors: &[NamedTensor],
) -> Result<RecordBatch, RuntimeError> {
    let wrong = |error: &dyn std::fmt::Display| RuntimeError::Run(error.to_string());
    let mut columns = Vec::with_capacity(features.len());
    for (feature, field) in features.iter().zip(schema.fields()) {
        let tensor = tensors.iter().find(|tensor| tensor.name == feature.name);
        let tensor = tensor.ok_or_else(|| RuntimeError::Run(format!("no tensor `{}`", feature.name)))?;
        let column: ArrayRef = match &tensor.data {
            TensorData::F64(values) => {
                let values = values.iter().map(|value| (!value.is_nan()).then_some(*value));
                Arc::new(values.collect::<Float64Array>())
            }
            TensorData::String(values) => Arc::new(StringArray::from_iter_values(values)),
            other => {
                return Err(RuntimeError::Run(format!(
                    "tensor `{}` is {}",
                    feature.name,
                    other.element()
                )));
            }
        };
        columns.push(cast(&column, field.data_type()).map_err(|error| wrong(&error))?);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(|error| wrong(&error))
}
