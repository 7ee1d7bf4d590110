//! Rules, compiled: a header that must be there, an expression over the inputs that must be true.
//!
//! An input that is absent or of the wrong type is null here, and a condition over null does not hold: the request is
//! refused a moment later with the words of [`crate::inputs`], whichever version it was sent to.

use crate::fault::{internal, invalid};
use crate::route::table::Choice;
use crate::route::values::column;
use arrow::array::{Array as _, AsArray as _, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType as ArrowType, Field as ArrowField, Schema, SchemaRef};
use http::{HeaderMap, HeaderName};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::RoutingRule;
use ondol_transform::expression::Expression;
use ondol_vocabulary::{Field, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A rule, ready to be tried.
#[derive(Debug)]
pub struct Rule {
    /// Where its requests go.
    pub choice: Choice,
    header: Option<(HeaderName, String)>,
    when: Option<Condition>,
}

/// An expression over inputs.
#[derive(Debug)]
struct Condition {
    expression: Expression,
    fields: Vec<Field>,
    schema: SchemaRef,
}

impl Rule {
    /// Compiles `rule`, the `place`-th from 0, over `inputs`; what it sends goes to `choice`.
    pub fn compile(
        rule: &RoutingRule,
        place: usize,
        inputs: &[Field],
        choice: Choice,
    ) -> Result<Self, ModelGatewayError> {
        if rule.when.is_none() && rule.header.is_none() {
            return Err(invalid(format!(
                "`rules[{place}]` has no condition: give it `when` or `header`, or set `split` for all requests"
            )));
        }
        let header = rule.header.as_ref().map(|wanted| {
            let name = wanted.name.parse::<HeaderName>().map_err(|_| {
                invalid(format!(
                    "`rules[{place}].header.name` is `{}`: no header has that name",
                    wanted.name
                ))
            })?;
            Ok((name, wanted.equals.clone()))
        });
        let when = rule.when.as_ref().map(|text| Condition::compile(text, place, inputs));
        Ok(Self {
            choice,
            header: header.transpose()?,
            when: when.transpose()?,
        })
    }

    /// Whether the call's headers let it match at all.
    pub fn takes(&self, headers: &HeaderMap) -> bool {
        self.header.as_ref().is_none_or(|(name, value)| {
            headers
                .get_all(name)
                .iter()
                .any(|found| found.as_bytes() == value.as_bytes())
        })
    }

    /// Per request of a batch whether its inputs match; none when every one does.
    pub fn holds(&self, instances: &[BTreeMap<String, Value>]) -> Result<Option<Vec<bool>>, ModelGatewayError> {
        self.when.as_ref().map(|when| when.holds(instances)).transpose()
    }
}

impl Condition {
    fn compile(text: &str, place: usize, inputs: &[Field]) -> Result<Self, ModelGatewayError> {
        let known: Vec<&str> = inputs.iter().map(|field| field.name.as_str()).collect();
        let wrong = |why: String| {
            let known = known.join(", ");
            invalid(format!(
                "`rules[{place}].when` is `{text}`: {why} (the model's inputs are: {known})"
            ))
        };
        let schema = schema(inputs.iter());
        let expression = Expression::plan(text, &schema).map_err(|error| wrong(error.to_string()))?;
        if *expression.data_type() != ArrowType::Boolean {
            return Err(wrong(
                "it is not true or false: compare something, as in `amount > 1000`".to_owned(),
            ));
        }
        let columns = expression.columns();
        let fields: Vec<Field> = inputs
            .iter()
            .filter(|field| columns.contains(&field.name))
            .cloned()
            .collect();
        Ok(Self {
            schema: self::schema(fields.iter()),
            expression,
            fields,
        })
    }

    fn holds(&self, instances: &[BTreeMap<String, Value>]) -> Result<Vec<bool>, ModelGatewayError> {
        let columns = self.fields.iter().map(|field| column(field, instances)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(instances.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map_err(internal)?;
        let values = self.expression.evaluate(&batch).map_err(internal)?;
        let truths = values
            .as_boolean_opt()
            .ok_or_else(|| internal("a rule's condition is no truth value"))?;
        Ok((0..instances.len())
            .map(|row| row < truths.len() && truths.is_valid(row) && truths.value(row))
            .collect())
    }
}

fn schema<'f>(fields: impl Iterator<Item = &'f Field>) -> SchemaRef {
    let fields: Vec<ArrowField> = fields
        .map(|field| ArrowField::new(&field.name, field.data_type.arrow(), true))
        .collect();
    Arc::new(Schema::new(fields))
}
