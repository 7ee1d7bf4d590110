//! SQL expressions over Arrow batches, planned once and evaluated vectorised.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType as ArrowType, SchemaRef};

/// Why an expression can't be planned or evaluated.
#[derive(Debug, thiserror::Error)]
pub enum ExpressionError {
    /// The text is no expression, or does not type-check.
    #[error("{message}")]
    Plan {
        /// What is wrong, with the offending name or type.
        message: String,
        /// Byte offset in the expression's text, where known.
        offset: Option<usize>,
        /// The nearest valid name.
        suggestion: Option<String>,
    },
    /// It failed on the data.
    #[error("`{expression}` failed: {message}")]
    Evaluate {
        /// The expression's text.
        expression: String,
        /// What happened.
        message: String,
    },
}

/// A planned expression.
#[derive(Clone, Debug)]
pub struct Expression;

impl Expression {
    /// Plans `text` against `schema`. Columns may be qualified (`card.spend_24h` names the field of that very name).
    pub fn plan(text: &str, schema: &SchemaRef) -> Result<Self, ExpressionError> {
        todo!("{text} {schema:?}")
    }

    /// The type of its values.
    pub fn data_type(&self) -> &ArrowType {
        todo!()
    }

    /// The columns of the schema it reads.
    pub fn columns(&self) -> Vec<String> {
        todo!()
    }

    /// Its values over `batch`, one per row.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExpressionError> {
        todo!("{batch:?}")
    }
}
