//! The spine of a training set, checked: the model's inputs in their declared types, and a moment per row.
//!
//! Everything that can be wrong with a spine is found before any work starts, and told at once, a line per column.

use crate::point_in_time::SpineMoments;
use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray, new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType as ArrowType, Field as ArrowField, Int64Type, Schema, SchemaRef, TimestampMicrosecondType, UInt64Type,
};
use ondol_pipelines_api::PipelinesError;
use ondol_pipelines_api::wire::TrainingSetRequest;
use ondol_vocabulary::{DataType, EventTime, FeatureOrigin, Field, ModelDefinition};
use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

const STRICT: CastOptions<'static> = CastOptions {
    safe: false,
    format_options: arrow::util::display::FormatOptions::new(),
};

/// Names by which a time column is found when the request names none.
const TIME_NAMES: [&str; 4] = ["time", "ts", "timestamp", "event_time"];

/// A spine that fits its model.
#[derive(Debug)]
pub(crate) struct Spine {
    /// The schema as it came.
    pub schema: SchemaRef,
    /// The batches as they came.
    pub batches: Vec<RecordBatch>,
    /// For each batch the model's inputs, in the model's order and types.
    pub inputs: Vec<RecordBatch>,
    /// Each row's moment in microseconds, over all batches.
    pub times: Vec<i64>,
    /// The column the moments came from.
    pub time_column: String,
    /// Its rows by moment, once somebody asks.
    by_moment: OnceLock<SpineMoments>,
}

impl Spine {
    /// Rows in all batches.
    pub(crate) fn rows(&self) -> usize {
        self.times.len()
    }

    /// Its rows by moment, put in order by `threads` threads the first time.
    pub(crate) fn moments(&self, threads: usize) -> &SpineMoments {
        self.by_moment.get_or_init(|| SpineMoments::of(&self.times, threads))
    }

    /// Checks `request`'s spine against `model`.
    pub(crate) fn check(model: &ModelDefinition, request: TrainingSetRequest) -> Result<Self, PipelinesError> {
        let TrainingSetRequest {
            options,
            spine_schema: schema,
            spine: batches,
        } = request;
        if let Some(odd) = batches.iter().find(|batch| batch.schema().fields() != schema.fields()) {
            let detail = format!("a batch of the spine has schema {} instead of {schema}", odd.schema());
            return Err(PipelinesError::InvalidRequest { detail });
        }
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if u32::try_from(rows).is_err() {
            let detail = format!("the spine has {rows} rows, more than {}: split it", u32::MAX);
            return Err(PipelinesError::InvalidRequest { detail });
        }
        let mut problems = clashes(model, &schema);
        let time_column = match time_column(&schema, options.time_column.as_deref()) {
            Ok(name) => name,
            Err(problem) => {
                problems.push(problem);
                String::new()
            }
        };
        let times = if time_column.is_empty() {
            Vec::new()
        } else {
            times(&batches, &time_column, &mut problems)
        };
        let inputs = inputs(model, &schema, &batches, &mut problems);
        if !problems.is_empty() {
            return Err(PipelinesError::InvalidSpine {
                model: model.name.clone(),
                problems,
            });
        }
        let inputs = inputs.map_err(|cause| PipelinesError::Internal {
            detail: cause.to_string(),
        })?;
        Ok(Self {
            schema,
            batches,
            inputs,
            times,
            time_column,
            by_moment: OnceLock::new(),
        })
    }
}

/// Columns that would appear twice in the training set.
fn clashes(model: &ModelDefinition, schema: &Schema) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut problems = Vec::new();
    for field in schema.fields() {
        let name = field.name();
        if !seen.insert(name) {
            problems.push(format!("column `{name}` appears twice: rename one of them"));
        }
        let computed = model.features.iter().any(|feature| {
            feature.name == *name && !matches!(&feature.origin, FeatureOrigin::Input { name: input } if input == name)
        });
        if computed {
            problems.push(format!(
                "column `{name}` has the name of a feature that is computed: rename or drop it"
            ));
        }
    }
    problems
}

fn time_column(schema: &Schema, named: Option<&str>) -> Result<String, String> {
    let columns = || {
        schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    if let Some(name) = named {
        return match schema.field_with_name(name) {
            Ok(_) => Ok(name.to_owned()),
            Err(_) => Err(format!("time column `{name}` is missing: the spine has {}", columns())),
        };
    }
    if let Some(name) = TIME_NAMES.into_iter().find(|name| schema.field_with_name(name).is_ok()) {
        return Ok(name.to_owned());
    }
    let timestamps: Vec<&ArrowField> = (schema.fields().iter())
        .filter(|field| matches!(field.data_type(), ArrowType::Timestamp(..)))
        .map(AsRef::as_ref)
        .collect();
    match timestamps.as_slice() {
        [only] => Ok(only.name().clone()),
        [] => Err(format!(
            "no time column: name it with `time_column` (--time-column), or add a timestamp column `time`; \
             the spine has {}",
            columns()
        )),
        several => {
            let names: Vec<&str> = several.iter().map(|field| field.name().as_str()).collect();
            Err(format!(
                "several columns hold timestamps ({}): name one with `time_column`",
                names.join(", ")
            ))
        }
    }
}

/// Every row's moment; empty once a problem was found.
fn times(batches: &[RecordBatch], name: &str, problems: &mut Vec<String>) -> Vec<i64> {
    let mut times = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
    for batch in batches {
        let Some(column) = batch.column_by_name(name) else {
            continue;
        };
        let moments = match to_input(column, DataType::Timestamp, times.len()) {
            Ok(moments) => moments,
            Err(detail) => {
                problems.push(format!("time column `{name}` {detail}"));
                return Vec::new();
            }
        };
        let rows = if moments.null_count() == 0 { 0 } else { moments.len() };
        if let Some(row) = (0..rows).find(|&row| moments.is_null(row)) {
            let row = times.len() + row + 1;
            problems.push(format!(
                "time column `{name}` is null in row {row}: every row needs a moment"
            ));
            return Vec::new();
        }
        times.extend_from_slice(moments.as_primitive::<TimestampMicrosecondType>().values());
    }
    times
}

fn inputs(
    model: &ModelDefinition,
    schema: &Schema,
    batches: &[RecordBatch],
    problems: &mut Vec<String>,
) -> Result<Vec<RecordBatch>, arrow::error::ArrowError> {
    let mut columns: Vec<Vec<ArrayRef>> = vec![Vec::with_capacity(model.inputs.len()); batches.len()];
    for input in &model.inputs {
        if let Err(problem) = input_columns(input, schema, batches, &mut columns) {
            problems.push(problem);
        }
    }
    if !problems.is_empty() {
        return Ok(Vec::new());
    }
    let fields: Vec<ArrowField> = model
        .inputs
        .iter()
        .map(|input| ArrowField::new(&input.name, input.data_type.arrow(), true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    (columns.into_iter().zip(batches))
        .map(|(arrays, batch)| {
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            RecordBatch::try_new_with_options(Arc::clone(&schema), arrays, &options)
        })
        .collect()
}

fn input_columns(
    input: &Field,
    schema: &Schema,
    batches: &[RecordBatch],
    columns: &mut [Vec<ArrayRef>],
) -> Result<(), String> {
    let Field { name, data_type } = input;
    if schema.field_with_name(name).is_err() {
        return Err(format!(
            "column `{name}` is missing: the model needs it as {}",
            data_type.name()
        ));
    }
    let mut first_row = 0;
    for (batch, arrays) in batches.iter().zip(columns) {
        if let Some(column) = batch.column_by_name(name) {
            let cast = to_input(column, *data_type, first_row);
            arrays.push(cast.map_err(|detail| format!("column `{name}` {detail}"))?);
        }
        first_row += batch.num_rows();
    }
    Ok(())
}

/// `array` as `wanted`, where that loses nothing a model was served with. The error is the second half of a sentence
/// whose first half names the column; rows are counted from `first_row`.
fn to_input(array: &ArrayRef, wanted: DataType, first_row: usize) -> Result<ArrayRef, String> {
    let target = wanted.arrow();
    let cast = |array: &ArrayRef| {
        cast_with_options(array, &target, &STRICT)
            .map_err(|cause| format!("can't be cast to {}: {cause}", wanted.name()))
    };
    match (array.data_type(), wanted) {
        (found, _) if *found == target => Ok(Arc::clone(array)),
        (ArrowType::Null, _) => Ok(new_null_array(&target, array.len())),
        (ArrowType::Dictionary(_, value), _) => {
            let plain = cast_with_options(array, value, &STRICT).map_err(|cause| format!("can't be read: {cause}"))?;
            to_input(&plain, wanted, first_row)
        }
        (ArrowType::LargeUtf8 | ArrowType::Utf8View, DataType::String) => cast(array),
        (ArrowType::Timestamp(_, Some(_)), DataType::Timestamp) => cast(array),
        (ArrowType::Timestamp(_, None), DataType::Timestamp) => {
            Err("has timestamps without a time zone: give it one (UTC, if that is what it holds)".to_owned())
        }
        (ArrowType::Utf8 | ArrowType::LargeUtf8 | ArrowType::Utf8View, DataType::Timestamp) => {
            parse_moments(array, first_row)
        }
        (found, DataType::I32 | DataType::I64) if found.is_integer() => cast(array),
        (found, DataType::F32 | DataType::F64) if found.is_integer() => {
            let exact = if wanted == DataType::F32 { 1 << 24 } else { 1 << 53 };
            integers_within(array, exact, first_row)?;
            cast(array)
        }
        (ArrowType::Float16 | ArrowType::Float32, DataType::F64) => cast(array),
        // As a request's number is: rounded to the nearest single.
        (ArrowType::Float16 | ArrowType::Float64, DataType::F32) => cast(array),
        (found, _) => Err(format!(
            "is {found}, the model needs {}: cast it in the spine",
            wanted.name()
        )),
    }
}

fn parse_moments(array: &ArrayRef, first_row: usize) -> Result<ArrayRef, String> {
    let texts =
        cast_with_options(array, &ArrowType::Utf8, &STRICT).map_err(|cause| format!("can't be read: {cause}"))?;
    let mut micros: Vec<Option<i64>> = Vec::with_capacity(texts.len());
    for (row, text) in texts.as_string::<i32>().iter().enumerate() {
        let moment = text.map(EventTime::parse).transpose();
        micros.push(
            moment
                .map_err(|cause| format!("in row {}: {cause}", first_row + row + 1))?
                .map(EventTime::micros),
        );
    }
    Ok(Arc::new(TimestampMicrosecondArray::from(micros).with_timezone("UTC")))
}

/// Refuses integers that a float can't hold exactly.
fn integers_within(array: &ArrayRef, exact: i64, first_row: usize) -> Result<(), String> {
    if *array.data_type() == ArrowType::UInt64 {
        let bound = exact.unsigned_abs();
        let beyond = array
            .as_primitive::<UInt64Type>()
            .iter()
            .position(|value| value.is_some_and(|v| v > bound));
        return beyond.map_or(Ok(()), |row| Err(inexact(first_row + row + 1)));
    }
    let wide = cast_with_options(array, &ArrowType::Int64, &STRICT).map_err(|cause| cause.to_string())?;
    let beyond = (wide.as_primitive::<Int64Type>().iter())
        .position(|value| value.is_some_and(|v| v.unsigned_abs() > exact.unsigned_abs()));
    beyond.map_or(Ok(()), |row| Err(inexact(first_row + row + 1)))
}

fn inexact(row: usize) -> String {
    format!("in row {row}: the integer is too great for a float to hold exactly; cast it in the spine if that is meant")
}
