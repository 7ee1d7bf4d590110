//! From a view definition to its engine: expressions planned once, features reduced to readings of shared states.

use super::ViewEngine;
use crate::expression::{Expression, ExpressionError};
use crate::row::layout::{Measure, RowLayout};
use crate::row::result_type;
use crate::row::state::Kind;
use arrow::datatypes::{DataType as ArrowType, Field as ArrowField, Schema, SchemaRef};
use ondol_vocabulary::{
    Aggregation, DataType, FeatureDefinition, FeatureKind, Field, SourceDefinition, ViewDefinition, Window,
};
use std::sync::Arc;

/// How one feature is read off a row.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reading {
    /// The latest row's value in a slot.
    Latest { slot: usize },
    /// From the states of a set of tiles.
    Window {
        set: usize,
        /// Absent: all time.
        width_us: Option<i64>,
        answer: Answer,
    },
}

/// What is made of the measures of a set.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Count(usize),
    Integer(usize),
    Float(usize),
    IntegerMean { sum: usize, count: usize },
    FloatMean { sum: usize, count: usize },
    Picked(usize),
}

/// What has been planned so far.
struct Planner<'a> {
    schema: SchemaRef,
    layout: RowLayout,
    inputs: Texts<'a>,
    filters: Texts<'a>,
}

/// Distinct expressions by their text.
#[derive(Default)]
struct Texts<'a> {
    texts: Vec<&'a str>,
    planned: Vec<Expression>,
}

pub(super) fn compile(view: &ViewDefinition, source: &SourceDefinition) -> Result<ViewEngine, ExpressionError> {
    let fields = source
        .schema
        .iter()
        .map(|field| ArrowField::new(&field.name, field.data_type.arrow(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let filter = view
        .filter
        .as_deref()
        .map(|text| plan_condition(text, &schema))
        .transpose()?;
    let mut planner = Planner {
        schema,
        layout: RowLayout::default(),
        inputs: Texts::default(),
        filters: Texts::default(),
    };
    let readings = view
        .features
        .iter()
        .map(|feature| planner.feature(view, feature))
        .collect::<Result<Vec<_>, _>>()?;
    let Planner {
        mut layout,
        inputs,
        filters,
        ..
    } = planner;
    layout.filters = filters.planned.len();
    layout.seal(&[inputs.texts, filters.texts].concat());

    let mut needed = vec![source.time.clone()];
    needed.extend(view.key.iter().map(|field| field.name.clone()));
    for expression in inputs.planned.iter().chain(&filters.planned).chain(&filter) {
        needed.extend(expression.columns());
    }
    let fields: Vec<Field> = source
        .schema
        .iter()
        .filter(|field| needed.contains(&field.name))
        .cloned()
        .collect();
    let time = place(&fields, view, source, &source.time, |data_type| {
        data_type == DataType::Timestamp
    })?;
    let key = view
        .key
        .iter()
        .map(|field| place(&fields, view, source, &field.name, DataType::is_key));
    Ok(ViewEngine {
        definition: view.clone(),
        time,
        key: key.collect::<Result<_, _>>()?,
        columns: fields.iter().map(|field| field.name.clone()).collect(),
        fields,
        filter,
        inputs: inputs.planned,
        filters: filters.planned,
        layout,
        readings,
    })
}

/// The place of column `name` among `fields`, if its type will do.
fn place(
    fields: &[Field],
    view: &ViewDefinition,
    source: &SourceDefinition,
    name: &str,
    fits: fn(DataType) -> bool,
) -> Result<usize, ExpressionError> {
    let at = fields.iter().position(|field| field.name == name).ok_or_else(|| {
        refused(format!(
            "view `{}` needs column `{name}`, which source `{}` does not have",
            view.name, source.name
        ))
    })?;
    match fields.get(at) {
        Some(field) if !fits(field.data_type) => Err(refused(format!(
            "view `{}` can't use column `{name}` of type {} as its key or time",
            view.name, field.data_type
        ))),
        _ => Ok(at),
    }
}

impl<'a> Planner<'a> {
    fn feature(
        &mut self,
        view: &'a ViewDefinition,
        feature: &'a FeatureDefinition,
    ) -> Result<Reading, ExpressionError> {
        let (reading, data_type) = match &feature.kind {
            FeatureKind::LatestRow { expression } => {
                let (input, data_type) = self.input(expression)?;
                (
                    Reading::Latest {
                        slot: self.layout.latest_slot(input),
                    },
                    data_type,
                )
            }
            FeatureKind::Aggregate {
                function,
                argument,
                filter,
                window,
                ..
            } => {
                check_window(feature, *window)?;
                let input = argument.as_deref().map(|text| self.input(text)).transpose()?;
                let argument_type = input.map(|(_, data_type)| data_type);
                let data_type = result_type(*function, argument_type).map_err(|error| refused(error.to_string()))?;
                let filter = filter.as_deref().map(|text| self.filter(text)).transpose()?;
                let measure = |kind| Measure {
                    kind,
                    input: input.map(|(input, _)| input),
                    filter,
                };
                (self.aggregate(*function, argument_type, *window, measure), data_type)
            }
        };
        if data_type != feature.data_type {
            return Err(refused(format!(
                "feature `{}.{}` is declared as {}, but `{}` gives {data_type}",
                view.name, feature.name, feature.data_type, feature.expression
            )));
        }
        Ok(reading)
    }

    fn aggregate(
        &mut self,
        function: Aggregation,
        argument: Option<DataType>,
        window: Option<Window>,
        measure: impl Fn(Kind) -> Measure,
    ) -> Reading {
        let mut place = |kind| self.layout.place(window, measure(kind));
        let floats = matches!(argument, Some(DataType::F32 | DataType::F64));
        let sum = if floats { Kind::Float } else { Kind::Integer };
        let (set, answer) = match function {
            Aggregation::Count => wrap(place(Kind::Count), Answer::Count),
            Aggregation::Sum => wrap(place(sum), if floats { Answer::Float } else { Answer::Integer }),
            Aggregation::Mean => {
                let ((set, sum), (_, count)) = (place(sum), place(Kind::Count));
                (
                    set,
                    if floats {
                        Answer::FloatMean { sum, count }
                    } else {
                        Answer::IntegerMean { sum, count }
                    },
                )
            }
            Aggregation::Min => wrap(place(Kind::Min), Answer::Picked),
            Aggregation::Max => wrap(place(Kind::Max), Answer::Picked),
            Aggregation::First => wrap(place(Kind::First), Answer::Picked),
            // `result_type` has refused every other function.
            _ => wrap(place(Kind::Last), Answer::Picked),
        };
        Reading::Window {
            set,
            width_us: window.map(|window| window.width_us),
            answer,
        }
    }

    /// The place of an input expression, and its type.
    fn input(&mut self, text: &'a str) -> Result<(usize, DataType), ExpressionError> {
        let at = self.inputs.place(text, |text| Expression::plan(text, &self.schema))?;
        if let Some(data_type) = self.layout.inputs.get(at) {
            return Ok((at, *data_type));
        }
        let arrow = self.inputs.planned.get(at).map(Expression::data_type);
        let data_type = arrow.and_then(DataType::from_arrow).ok_or_else(|| {
            refused(format!(
                "`{text}` gives {arrow:?}, which is no feature type: cast it, such as `cast({text} as double)`"
            ))
        })?;
        self.layout.inputs.push(data_type);
        Ok((at, data_type))
    }

    fn filter(&mut self, text: &'a str) -> Result<usize, ExpressionError> {
        self.filters.place(text, |text| plan_condition(text, &self.schema))
    }
}

impl<'a> Texts<'a> {
    /// The place of `text`, planned unless it was already.
    fn place(
        &mut self,
        text: &'a str,
        plan: impl FnOnce(&str) -> Result<Expression, ExpressionError>,
    ) -> Result<usize, ExpressionError> {
        let text = text.trim();
        if let Some(at) = self.texts.iter().position(|known| *known == text) {
            return Ok(at);
        }
        self.planned.push(plan(text)?);
        self.texts.push(text);
        Ok(self.texts.len() - 1)
    }
}

fn plan_condition(text: &str, schema: &SchemaRef) -> Result<Expression, ExpressionError> {
    let expression = Expression::plan(text, schema)?;
    if *expression.data_type() != ArrowType::Boolean {
        return Err(refused(format!(
            "the filter `{text}` is a {}, not a condition: compare it with something",
            DataType::from_arrow(expression.data_type()).map_or("value", DataType::name)
        )));
    }
    Ok(expression)
}

fn check_window(feature: &FeatureDefinition, window: Option<Window>) -> Result<(), ExpressionError> {
    match window {
        Some(Window { width_us, hop_us }) if width_us < 1 || hop_us < 1 => Err(refused(format!(
            "feature `{}` has a window of {width_us} us in hops of {hop_us} us: both must be at least 1",
            feature.name
        ))),
        Some(_) | None => Ok(()),
    }
}

fn wrap((set, measure): (usize, usize), answer: impl FnOnce(usize) -> Answer) -> (usize, Answer) {
    (set, answer(measure))
}

fn refused(message: String) -> ExpressionError {
    ExpressionError::Plan {
        message,
        offset: None,
        suggestion: None,
    }
}
