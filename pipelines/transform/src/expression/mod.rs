//! SQL expressions over Arrow batches, planned once and evaluated vectorised.
//!
//! `text → syntax (names resolved) → plan (typed, total) → values`. An expression sees one row at a time and nothing
//! else: no aggregate, no subquery, no clock, no random number. So the stream, history and the request compute the same
//! value from the same row.
//!
//! Bad data never stops a batch:
//! - floats follow IEEE 754 (`1.0 / 0` is infinity, `0.0 / 0` is NaN);
//! - integer division and modulo by zero are null, and so is a `cast` of a value that does not fit;
//! - integer `+`, `-`, `*` wrap around at 64 (or 32) bits;
//! - any other failure on a row's data makes the expression null in that row, and in no other.
//!
//! Cost: planning walks the text a few times (do it once); evaluation allocates per batch, not per row. Only a batch
//! with a failing row is evaluated again, in halves, until the failing rows stand alone.

mod functions;
mod plan;
mod syntax;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_empty_array, new_null_array};
use arrow::compute::{CastOptions, cast_with_options, concat};
use arrow::datatypes::{DataType as ArrowType, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion_physical_expr::PhysicalExpr;
use std::cell::Cell;
use std::sync::Arc;

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
    /// A name stands for nothing.
    #[error("there is no {noun} `{name}`")]
    Unknown {
        /// What it should have been: `column` or `function`.
        noun: &'static str,
        /// The name.
        name: String,
        /// Byte offset of the name in the expression's text, where known.
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

/// The stack that parsing and planning get, in bytes: both recurse with large frames, and a definition that comes
/// through the API must not end the process. (Address space; only what is touched becomes memory.)
const PLANNING_STACK: usize = 256 << 20;

thread_local! {
    /// Whether this thread has such a stack.
    static IS_DEEP: Cell<bool> = const { Cell::new(false) };
}

/// Does `work` with such a stack. A thread for it takes a while, which many expressions share if whoever plans them is on it
/// already.
pub(crate) fn on_a_deep_stack<T: Send>(
    work: impl FnOnce() -> Result<T, ExpressionError> + Send,
) -> Result<T, ExpressionError> {
    if IS_DEEP.get() {
        return work();
    }
    let work = || {
        IS_DEEP.set(true);
        work()
    };
    let failed = |message: String| ExpressionError::Plan {
        message,
        offset: None,
        suggestion: None,
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("plan".to_owned())
            .stack_size(PLANNING_STACK);
        let planner = thread
            .spawn_scoped(scope, work)
            .map_err(|error| failed(format!("no thread to plan on: {error}")))?;
        planner
            .join()
            .map_err(|_| failed("planning panicked: this is a bug".to_owned()))?
    })
}

/// A planned expression. Immutable; clones share the plan.
#[derive(Clone, Debug)]
pub struct Expression {
    text: Arc<str>,
    physical: Arc<dyn PhysicalExpr>,
    /// The columns it reads, in order of first use.
    input: SchemaRef,
    data_type: ArrowType,
}

impl Expression {
    /// Plans `text` against `schema`. Columns may be qualified (`card.spend_24h` names the field of that very name);
    /// their names are case-sensitive, those of functions are not.
    pub fn plan(text: &str, schema: &SchemaRef) -> Result<Self, ExpressionError> {
        on_a_deep_stack(|| Self::plan_here(text, schema))
    }

    fn plan_here(text: &str, schema: &SchemaRef) -> Result<Self, ExpressionError> {
        let plan = plan::plan(syntax::parse(text, schema)?, schema)?;
        let expression = Self {
            text: text.into(),
            physical: plan.physical,
            input: plan.input,
            data_type: plan.data_type,
        };
        // What fails on nulls fails on its own constants: an error of the definition, not of the data.
        let columns = expression
            .input
            .fields()
            .iter()
            .map(|field| new_null_array(field.data_type(), 1))
            .collect();
        let probe = batch(&expression.input, columns, 1).map_err(|error| expression.failure(&error))?;
        match expression.values(&probe) {
            Ok(_) => Ok(expression),
            Err(message) => Err(ExpressionError::Plan {
                message,
                offset: None,
                suggestion: None,
            }),
        }
    }

    /// The names that `text` reads, whether or not a schema has them, in order of first use.
    pub(crate) fn names(text: &str) -> Result<Vec<String>, ExpressionError> {
        on_a_deep_stack(|| syntax::names(text))
    }

    /// The type of its values: always the Arrow form of an `ondol_vocabulary::DataType`.
    pub fn data_type(&self) -> &ArrowType {
        &self.data_type
    }

    /// The columns of the schema it reads, in order of first use.
    pub fn columns(&self) -> Vec<String> {
        self.input.fields().iter().map(|field| field.name().clone()).collect()
    }

    /// Its values over `batch`, one per row. The batch needs the columns it reads, by name and type, in any order.
    /// A row whose data it fails on is null; an error means that a column is absent or of another type.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExpressionError> {
        let mut columns = Vec::with_capacity(self.input.fields().len());
        for field in self.input.fields() {
            let column = batch
                .column_by_name(field.name())
                .ok_or_else(|| ExpressionError::Evaluate {
                    expression: self.text.to_string(),
                    message: format!("the batch has no column `{}`", field.name()),
                })?;
            columns.push(Arc::clone(column));
        }
        self.evaluate_columns(columns, batch.num_rows())
    }

    /// As [`Self::evaluate`], over the columns of [`Self::columns`] in their order, each of `rows` values.
    pub(crate) fn evaluate_columns(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<ArrayRef, ExpressionError> {
        let input = batch(&self.input, columns, rows).map_err(|error| self.failure(&error))?;
        if rows == 0 {
            return Ok(new_empty_array(&self.data_type));
        }
        match self.values(&input) {
            Ok(values) => Ok(values),
            Err(_) => self.values_of_good_rows(&input),
        }
    }

    fn values(&self, input: &RecordBatch) -> Result<ArrayRef, String> {
        let values = self
            .physical
            .evaluate(input)
            .and_then(|values| values.into_array(input.num_rows()))
            .map_err(|error| plan::readable(&error))?;
        if *values.data_type() == self.data_type {
            return Ok(values);
        }
        // Safe: what does not fit the vocabulary's type is null.
        let options = CastOptions {
            safe: true,
            ..CastOptions::default()
        };
        cast_with_options(&values, &self.data_type, &options).map_err(|error| error.to_string())
    }

    /// As [`Self::values`], null in every row that fails by itself.
    fn values_of_good_rows(&self, input: &RecordBatch) -> Result<ArrayRef, ExpressionError> {
        let rows = input.num_rows();
        if rows == 1 {
            return Ok(new_null_array(&self.data_type, 1));
        }
        let half = rows / 2;
        let mut parts = Vec::with_capacity(2);
        for part in [input.slice(0, half), input.slice(half, rows - half)] {
            parts.push(match self.values(&part) {
                Ok(values) => values,
                Err(_) => self.values_of_good_rows(&part)?,
            });
        }
        let parts: Vec<_> = parts.iter().map(AsRef::as_ref).collect();
        concat(&parts).map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &ArrowError) -> ExpressionError {
        ExpressionError::Evaluate {
            expression: self.text.to_string(),
            message: error.to_string(),
        }
    }
}

/// A batch of `rows` rows, even where the expression reads no column at all.
fn batch(schema: &Arc<Schema>, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

#[cfg(test)]
mod extremes;
#[cfg(test)]
mod tests;
