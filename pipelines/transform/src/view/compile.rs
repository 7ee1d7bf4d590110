//! From a view definition to its engine: expressions planned once, features reduced to readings of shared states.

use super::ViewEngine;
use super::fallback::Fallback;
use crate::expression::{Expression, ExpressionError};
use crate::row::layout::{Measure, RowLayout, Span};
use crate::row::state::Kind;
use crate::row::trail::TrailKind;
use crate::row::variance::Spread;
use crate::row::{check_parameters, result_type};
use arrow::datatypes::{DataType as ArrowType, Field as ArrowField, Schema, SchemaRef};
use ondol_vocabulary::{
    Aggregation, DataType, FeatureDefinition, FeatureKind, Field, SourceDefinition, ViewDefinition, Window, columns,
};
use std::sync::Arc;

/// How one feature is read off a row.
#[derive(Clone, Debug)]
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
    /// As [`Self::Window`], a list.
    WindowList {
        set: usize,
        width_us: Option<i64>,
        answer: ListAnswer,
    },
    /// The so many newest values of a trail.
    Newest { trail: usize, window: Span, most: usize },
    /// How many distinct values a trail has seen.
    Cardinality { trail: usize, window: Span },
}

/// What is made of the measures of a set.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Count(usize),
    Integer(usize),
    Float(usize),
    IntegerMean {
        sum: usize,
        count: usize,
    },
    FloatMean {
        sum: usize,
        count: usize,
    },
    Picked(usize),
    /// Of a count, a sum and a sum of squares.
    IntegerSpread {
        spread: Spread,
        measures: [usize; 3],
    },
    FloatSpread {
        spread: Spread,
        measures: [usize; 3],
    },
    /// In millionths.
    Quantile {
        measure: usize,
        quantile: u32,
    },
}

/// A list that is made of a measure of a set.
#[derive(Clone, Debug)]
pub(super) enum ListAnswer {
    Greatest { measure: usize, most: usize },
    Quantiles { measure: usize, quantiles: Vec<u32> },
}

/// An aggregation whose argument and filter are planned.
struct Call<'d> {
    function: Aggregation,
    parameters: &'d [u32],
    argument: Option<(usize, DataType)>,
    filter: Option<usize>,
    window: Option<Window>,
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
    let known = columns_of(source);
    let fields = known
        .iter()
        .map(|field| ArrowField::new(&field.name, field.data_type.arrow(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let has_deletions = source.origin.has_deletions();
    let filter = view
        .filter
        .as_deref()
        .map(|text| plan_filter(text, has_deletions, &schema))
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
    let fallbacks = view.features.iter().map(|feature| {
        Fallback::of(feature).map_err(|problem| {
            refused(format!(
                "the default of feature `{}.{}`: {problem}",
                view.name, feature.name
            ))
        })
    });
    let fallbacks = fallbacks.collect::<Result<Vec<_>, _>>()?;
    let deleted = match has_deletions {
        // A slot as any other, so that rows need no form of their own for it.
        true => Some(planner.latest(columns::DELETED)?.0),
        false => None,
    };
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
    let fields: Vec<Field> = known.into_iter().filter(|field| needed.contains(&field.name)).collect();
    let time = place(&fields, view, source, &source.time, |data_type| {
        data_type == DataType::Timestamp
    })?;
    let key = view
        .key
        .iter()
        .map(|field| place(&fields, view, source, &field.name, DataType::is_key));
    Ok(ViewEngine {
        ordered: source.is_stream(),
        definition: view.clone(),
        time,
        key: key.collect::<Result<_, _>>()?,
        columns: fields.iter().map(|field| field.name.clone()).collect(),
        fields,
        filter,
        deleted,
        inputs: inputs.planned,
        filters: filters.planned,
        layout,
        readings,
        fallbacks,
    })
}

/// The source's columns and, where its rows can be deleted, what says so.
fn columns_of(source: &SourceDefinition) -> Vec<Field> {
    let deleted = source.origin.has_deletions().then(|| Field {
        name: columns::DELETED.to_owned(),
        data_type: DataType::Bool,
    });
    source.schema.iter().cloned().chain(deleted).collect()
}

/// The view's filter. A deletion passes whatever it says: what is left of the row may not answer it.
fn plan_filter(text: &str, has_deletions: bool, schema: &SchemaRef) -> Result<Expression, ExpressionError> {
    let filter = plan_condition(text, schema)?;
    if !has_deletions {
        return Ok(filter);
    }
    plan_condition(&format!("({text}\n) or {}", columns::DELETED), schema)
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
                let (slot, data_type) = self.latest(expression)?;
                (Reading::Latest { slot }, data_type)
            }
            FeatureKind::Aggregate {
                function,
                argument,
                parameters,
                filter,
                window,
            } => {
                check_window(feature, *window)?;
                let argument = argument.as_deref().map(|text| self.input(text)).transpose()?;
                let data_type = result_type(*function, argument.map(|(_, data_type)| data_type))
                    .and_then(|data_type| check_parameters(*function, parameters).map(|()| data_type))
                    .map_err(|error| refused(error.to_string()))?;
                let call = Call {
                    function: *function,
                    parameters,
                    argument,
                    filter: filter.as_deref().map(|text| self.filter(text)).transpose()?,
                    window: *window,
                };
                (self.aggregate(&call), data_type)
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

    fn aggregate(&mut self, call: &Call<'_>) -> Reading {
        let parameter = call.parameters.first().copied().unwrap_or_default();
        match call.function {
            Aggregation::LastN => self.newest(call, TrailKind::Newest(parameter)),
            Aggregation::LastDistinct => self.newest(call, TrailKind::Distinct(parameter)),
            Aggregation::CountDistinct => Reading::Cardinality {
                trail: self.trail(call, TrailKind::Cardinality),
                window: Span::of(call.window),
            },
            Aggregation::TopK => {
                let (set, measure) = self.place(call, Kind::Top(parameter));
                let most = parameter as usize;
                call.list(set, ListAnswer::Greatest { measure, most })
            }
            Aggregation::Quantiles => {
                let (set, measure) = self.place(call, Kind::Quantiles);
                let quantiles = call.parameters.to_vec();
                call.list(set, ListAnswer::Quantiles { measure, quantiles })
            }
            _ => {
                let (set, answer) = self.answer(call);
                let width_us = call.width_us();
                Reading::Window { set, width_us, answer }
            }
        }
    }

    /// The set and the answer of an aggregation that gives one value of the states of tiles.
    fn answer(&mut self, call: &Call<'_>) -> (usize, Answer) {
        let floats = matches!(call.argument, Some((_, DataType::F32 | DataType::F64)));
        let sum = if floats { Kind::Float } else { Kind::Integer };
        match call.function {
            Aggregation::Count => wrap(self.place(call, Kind::Count), Answer::Count),
            Aggregation::Sum => {
                let answer = if floats { Answer::Float } else { Answer::Integer };
                wrap(self.place(call, sum), answer)
            }
            Aggregation::Mean => {
                let ((set, sum), (_, count)) = (self.place(call, sum), self.place(call, Kind::Count));
                let answer = if floats {
                    Answer::FloatMean { sum, count }
                } else {
                    Answer::IntegerMean { sum, count }
                };
                (set, answer)
            }
            Aggregation::Variance => self.spread(call, sum, true, false),
            Aggregation::VarPop => self.spread(call, sum, false, false),
            Aggregation::Stddev => self.spread(call, sum, true, true),
            Aggregation::StddevPop => self.spread(call, sum, false, true),
            Aggregation::Quantile => {
                let quantile = call.parameters.first().copied().unwrap_or_default();
                wrap(self.place(call, Kind::Quantiles), |measure| Answer::Quantile {
                    measure,
                    quantile,
                })
            }
            // Of truth values the least tells whether all are true, and the greatest whether any is.
            Aggregation::Min | Aggregation::All => wrap(self.place(call, Kind::Min), Answer::Picked),
            Aggregation::Max | Aggregation::Any => wrap(self.place(call, Kind::Max), Answer::Picked),
            Aggregation::First => wrap(self.place(call, Kind::First), Answer::Picked),
            // The last four are lists or counted by a trail: see `aggregate`.
            Aggregation::Last
            | Aggregation::LastN
            | Aggregation::LastDistinct
            | Aggregation::CountDistinct
            | Aggregation::Quantiles
            | Aggregation::TopK => wrap(self.place(call, Kind::Last), Answer::Picked),
        }
    }

    fn spread(&mut self, call: &Call<'_>, sum: Kind, is_sample: bool, is_root: bool) -> (usize, Answer) {
        let spread = Spread { is_sample, is_root };
        let (set, count) = self.place(call, Kind::Count);
        let (_, added) = self.place(call, sum);
        let (_, squares) = self.place(call, Kind::Squares);
        let measures = [count, added, squares];
        let answer = if sum == Kind::Float {
            Answer::FloatSpread { spread, measures }
        } else {
            Answer::IntegerSpread { spread, measures }
        };
        (set, answer)
    }

    fn newest(&mut self, call: &Call<'_>, kind: TrailKind) -> Reading {
        Reading::Newest {
            trail: self.trail(call, kind),
            window: Span::of(call.window),
            most: call.parameters.first().copied().unwrap_or_default() as usize,
        }
    }

    fn trail(&mut self, call: &Call<'_>, kind: TrailKind) -> usize {
        // `result_type` has refused a call without an argument.
        let input = call.argument.map_or(0, |(input, _)| input);
        self.layout.trail(call.window, kind, input, call.filter)
    }

    fn place(&mut self, call: &Call<'_>, kind: Kind) -> (usize, usize) {
        let measure = Measure {
            kind,
            input: call.argument.map(|(input, _)| input),
            filter: call.filter,
        };
        self.layout.place(call.window, measure)
    }

    /// The slot of the latest row that keeps `expression`, and its type.
    fn latest(&mut self, expression: &'a str) -> Result<(usize, DataType), ExpressionError> {
        let (input, data_type) = self.input(expression)?;
        Ok((self.layout.latest_slot(input), data_type))
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

impl Call<'_> {
    fn width_us(&self) -> Option<i64> {
        self.window.map(|window| window.width_us)
    }

    fn list(&self, set: usize, answer: ListAnswer) -> Reading {
        Reading::WindowList {
            set,
            width_us: self.width_us(),
            answer,
        }
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
