//! Expressions of a definition file, planned in their place.

use super::report::{Reports, choose, did_you_mean};
use super::tree::Text;
use crate::expression::{Expression, ExpressionError};
use arrow::datatypes::{Field as ArrowField, Schema, SchemaRef};
use ondol_vocabulary::{DataType, Field};
use std::ops::Range;
use std::sync::Arc;

/// The Arrow form of fields.
pub(super) fn arrow_schema<'a>(fields: impl IntoIterator<Item = &'a Field>) -> SchemaRef {
    let fields = fields
        .into_iter()
        .map(|field| ArrowField::new(&field.name, field.data_type.arrow(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// A planned expression, its own text and its type.
pub(super) struct Typed {
    pub(super) text: String,
    pub(super) expression: Expression,
    pub(super) data_type: DataType,
}

/// Plans the `part` of `text`; what is wrong is reported where it stands.
pub(super) fn plan(text: Text<'_>, part: Range<usize>, schema: &SchemaRef, reports: &mut Reports<'_>) -> Option<Typed> {
    let written = text.value.get(part.clone())?;
    let planned = Expression::plan(written, schema);
    let expression = planned
        .map_err(|error| report(text, part.clone(), schema, &error, reports))
        .ok()?;
    match DataType::from_arrow(expression.data_type()) {
        Some(data_type) => Some(Typed {
            text: written.trim().to_owned(),
            expression,
            data_type,
        }),
        None => {
            let message = format!(
                "the result has type {}, which is no feature type",
                expression.data_type()
            );
            reports.add(&text.part(part), "invalid-expression", message, None);
            None
        }
    }
}

/// As [`plan`], of a condition.
pub(super) fn condition(
    text: Text<'_>,
    part: Range<usize>,
    schema: &SchemaRef,
    reports: &mut Reports<'_>,
) -> Option<Typed> {
    let typed = plan(text, part.clone(), schema, reports)?;
    if typed.data_type == DataType::Bool {
        return Some(typed);
    }
    let message = format!("`{}` is {}, but a condition must be bool", typed.text, typed.data_type);
    let help = "compare it with something, such as `… > 0` or `… is not null`";
    reports.add(&text.part(part), "not-a-condition", message, Some(help.to_owned()));
    None
}

/// Reports why the `part` of `text` can't be planned.
pub(super) fn report(
    text: Text<'_>,
    part: Range<usize>,
    schema: &SchemaRef,
    error: &ExpressionError,
    reports: &mut Reports<'_>,
) {
    let written = text.value.get(part.clone()).unwrap_or_default();
    let (code, offset, help) = match error {
        ExpressionError::Unknown {
            noun: noun @ "column",
            name,
            offset,
            suggestion,
        } => {
            let columns = schema.fields().iter().map(|field| field.name().as_str());
            let help = did_you_mean(suggestion.as_deref()).or_else(|| choose(name, "columns", columns));
            (format!("unknown-{noun}"), *offset, help)
        }
        ExpressionError::Unknown {
            noun,
            offset,
            suggestion,
            ..
        } => (format!("unknown-{noun}"), *offset, did_you_mean(suggestion.as_deref())),
        ExpressionError::Plan { offset, suggestion, .. } => (
            "invalid-expression".to_owned(),
            *offset,
            did_you_mean(suggestion.as_deref()),
        ),
        ExpressionError::Evaluate { .. } => ("invalid-expression".to_owned(), None, None),
    };
    let at = match offset {
        Some(offset) => part.start + offset..part.start + offset + word_length(written, offset),
        None => trimmed(written, part.start),
    };
    reports.add(&text.part(at), &code, error.to_string(), help);
}

/// The length of the name, or of the one character, at `offset`.
fn word_length(text: &str, offset: usize) -> usize {
    let rest = text.get(offset..).unwrap_or_default();
    let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    match rest.find(|c| !is_name(c)) {
        Some(0) => rest.chars().next().map_or(0, char::len_utf8),
        Some(end) => end,
        None => rest.len(),
    }
}

fn trimmed(written: &str, start: usize) -> Range<usize> {
    let lead = written.len() - written.trim_start().len();
    start + lead..start + lead + written.trim().len()
}
