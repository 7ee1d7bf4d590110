//! A model's feature vector, compiled: from served features and inputs to the columns a model scores.

use crate::expression::ExpressionError;
use arrow::array::{ArrayRef, RecordBatch};
use ondol_vocabulary::{FeatureRef, ModelDefinition, ViewDefinition};

/// A compiled feature vector. Immutable and shared; compile once per snapshot.
#[derive(Debug)]
pub struct VectorEngine;

impl VectorEngine {
    /// Compiles `model`, whose features come from `views`.
    pub fn compile(model: &ModelDefinition, views: &[&ViewDefinition]) -> Result<Self, ExpressionError> {
        todo!("{model:?} {views:?}")
    }

    /// The model compiled.
    pub fn definition(&self) -> &ModelDefinition {
        todo!()
    }

    /// The view features it needs, in the order in which [`Self::assemble`] expects them.
    pub fn needs(&self) -> &[FeatureRef] {
        todo!()
    }

    /// The feature vector: a column per entry, named and typed as in the definition, in order.
    /// `inputs` has a column per model input by name; `features` one array per [`Self::needs`], of the same length.
    pub fn assemble(&self, inputs: &RecordBatch, features: &[ArrayRef]) -> Result<RecordBatch, ExpressionError> {
        todo!("{inputs:?} {features:?}")
    }
}
