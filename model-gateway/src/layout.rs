//! How a feature vector becomes a model's inputs, and whether it can.
//!
//! Two layouts are accepted:
//! - *matrix*: one float or double tensor `[N, F]`, a column per vector entry in order. Every entry must be a number or
//!   a bool; a null is NaN. An integer beyond 2^24 (2^53 for double) is rounded to the nearest float, as it is when a
//!   training set is turned into a float matrix.
//! - *columns*: one tensor `[N]` or `[N, 1]` per vector entry, named as the feature, exactly or with every character
//!   that is no letter or digit replaced by `_`. A null is NaN in a float tensor; other tensors have no null. A list of
//!   numbers takes a float tensor `[N, n]` of a fixed n, at least as long as the list can be: what is absent is NaN.

mod cells;
mod lists;

use crate::difference::{Column, differences, plain};
use crate::fault::{internal, invalid};
use crate::runtime::onnx::FEATURES_PROPERTY;
use crate::runtime::signature::{Signature, Slot, SlotKind};
use crate::runtime::tensor::{ElementType, NamedTensor, TensorData};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::Int32Type;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_pipelines_api::wire::ManifestFeature;
use ondol_vocabulary::{Aggregation, DataType, FeatureKind, FeatureOrigin, ModelDefinition, ModelFeature, Snapshot};

use cells::{Cell, fill, fill_columns, integers};

/// How a feature vector becomes a model's inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One tensor `[N, F]`.
    Matrix {
        /// The input's name.
        input: String,
        /// Whether its elements are doubles.
        double: bool,
    },
    /// One tensor per vector entry, in the vector's order.
    Columns(Vec<ColumnInput>),
}

/// The input that takes one vector entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnInput {
    /// Its name.
    pub input: String,
    /// Its element type.
    pub element: ElementType,
    /// The fixed second dimension: none for `[N]`, 1 for a scalar in `[N, 1]`, the most values of a list otherwise.
    pub width: Option<usize>,
}

impl Layout {
    /// The layout by which `artifact` takes the vector of `model`, or how they differ, a line each.
    pub fn fit(model: &ModelDefinition, artifact: &Signature) -> Result<Self, Vec<String>> {
        let mut lines = unreadable_outputs(&artifact.outputs);
        let layout = match artifact.inputs.as_slice() {
            [input] if is_matrix(input, model) => fit_matrix(model, input, artifact.features.as_deref()),
            inputs => fit_columns(model, inputs),
        };
        match layout {
            Ok(layout) if lines.is_empty() => Ok(layout),
            Ok(_) => Err(lines),
            Err(mut others) => {
                others.append(&mut lines);
                Err(others)
            }
        }
    }

    /// Entries that may be null where their input has no null, a line each with the remedy. `trained` is the training
    /// set's features, where there is a manifest.
    pub fn nulls(
        &self,
        model: &ModelDefinition,
        snapshot: &Snapshot,
        trained: Option<&[ManifestFeature]>,
    ) -> Vec<String> {
        let Self::Columns(inputs) = self else { return Vec::new() };
        let mut lines = Vec::new();
        for (feature, input) in model
            .features
            .iter()
            .zip(inputs)
            .filter(|(_, input)| !input.element.is_float())
        {
            let remedy = format!(
                "input `{}` ({}) has no null: wrap it in `derived.{} = \"coalesce({}, …)\"`, or take it as a float",
                input.input,
                input.element,
                plain(&feature.name),
                feature.name
            );
            let nulls = trained.and_then(|trained| trained.iter().find(|column| column.name == feature.name));
            if let Some(column) = nulls.filter(|column| column.nulls > 0) {
                lines.push(format!(
                    "- {} is null in {} rows of the training set, and {remedy}",
                    feature.name, column.nulls
                ));
            } else if can_be_missing(feature, snapshot) {
                lines.push(format!(
                    "- {} is null for an entity whose row is missing or expired, and {remedy}",
                    feature.name
                ));
            }
        }
        lines
    }

    /// Lists that can be longer than their input is wide, a line each with the remedy.
    pub fn long_lists(&self, model: &ModelDefinition, snapshot: &Snapshot) -> Vec<String> {
        let Self::Columns(inputs) = self else { return Vec::new() };
        let entries = model.features.iter().zip(inputs);
        entries
            .filter_map(|(feature, input)| lists::too_long(feature, &input.input, input.width?, snapshot))
            .collect()
    }

    /// The tensors that feed `vector`, whose columns are the vector's entries in order.
    pub fn tensors(&self, vector: &RecordBatch) -> Result<Vec<NamedTensor>, ModelGatewayError> {
        let rows = vector.num_rows();
        match self {
            Self::Matrix { input, double } => {
                let width = vector.num_columns();
                let data = if *double {
                    let mut cells = vec![f64::NAN; rows * width];
                    fill_columns(vector, &mut cells)?;
                    TensorData::F64(cells)
                } else {
                    let mut cells = vec![f32::NAN; rows * width];
                    fill_columns(vector, &mut cells)?;
                    TensorData::F32(cells)
                };
                let shape = vec![dimension(rows), dimension(width)];
                Ok(vec![NamedTensor {
                    name: input.clone(),
                    shape,
                    data,
                }])
            }
            Self::Columns(inputs) => vector
                .schema_ref()
                .fields()
                .iter()
                .zip(vector.columns())
                .zip(inputs)
                .map(|((field, column), input)| input.tensor(field.name(), column))
                .collect(),
        }
    }

    /// Tensors of rows that say nothing: NaN, zeroes and empty strings.
    pub fn blank(&self, rows: usize, width: usize) -> Vec<NamedTensor> {
        match self {
            Self::Matrix { input, double } => {
                let element = if *double { ElementType::F64 } else { ElementType::F32 };
                let data = TensorData::blank(element, rows * width);
                vec![NamedTensor {
                    name: input.clone(),
                    shape: vec![dimension(rows), dimension(width)],
                    data,
                }]
            }
            Self::Columns(inputs) => inputs
                .iter()
                .map(|input| NamedTensor {
                    name: input.input.clone(),
                    shape: input.shape(rows),
                    data: TensorData::blank(input.element, rows * input.width.unwrap_or(1)),
                })
                .collect(),
        }
    }
}

impl ColumnInput {
    fn shape(&self, rows: usize) -> Vec<i64> {
        std::iter::once(rows).chain(self.width).map(dimension).collect()
    }

    fn tensor(&self, feature: &str, column: &ArrayRef) -> Result<NamedTensor, ModelGatewayError> {
        let rows = column.len();
        if !self.element.is_float() && column.null_count() > 0 {
            return Err(invalid(format!(
                "feature `{feature}` is null and input `{}` ({}) of the model has no null: send a value, or wrap it in \
                 a derived feature with coalesce()",
                self.input, self.element
            )));
        }
        let data = match self.element {
            ElementType::F32 => TensorData::F32(self.cells(feature, column)?),
            ElementType::F64 => TensorData::F64(self.cells(feature, column)?),
            ElementType::I64 => TensorData::I64(integers(column)?),
            ElementType::I32 => TensorData::I32(column.as_primitive::<Int32Type>().values().to_vec()),
            ElementType::Bool => TensorData::Bool(column.as_boolean().values().iter().collect()),
            ElementType::String => TensorData::String(
                column
                    .as_string::<i32>()
                    .iter()
                    .map(|text| text.unwrap_or_default().to_owned())
                    .collect(),
            ),
            other => return Err(internal(format!("no column becomes {other}"))),
        };
        Ok(NamedTensor {
            name: self.input.clone(),
            shape: self.shape(rows),
            data,
        })
    }

    fn cells<T: Cell>(&self, feature: &str, column: &ArrayRef) -> Result<Vec<T>, ModelGatewayError> {
        let width = self.width.unwrap_or(1);
        let mut cells = vec![T::of_f64(f64::NAN); column.len() * width];
        match column.as_list_opt::<i32>() {
            Some(lists) => lists::fill(feature, lists, &mut cells, width)?,
            None => fill(column, &mut cells, width, 0)?,
        }
        Ok(cells)
    }
}

/// Whether a column of `data_type` can feed a tensor of `element` without losing meaning.
fn feeds(data_type: DataType, element: ElementType) -> bool {
    match data_type {
        DataType::F32 | DataType::F64 => element.is_float(),
        DataType::I64 => element.is_float() || element == ElementType::I64,
        DataType::I32 => element.is_float() || matches!(element, ElementType::I32 | ElementType::I64),
        DataType::Bool => element.is_float() || matches!(element, ElementType::Bool | ElementType::I64),
        DataType::String => element == ElementType::String,
        DataType::List(items) => element.is_float() && feeds(items.data_type(), element),
        DataType::Timestamp => false,
    }
}

/// Whether the entry is null for an entity that has no row, or whose row has expired.
fn can_be_missing(feature: &ModelFeature, snapshot: &Snapshot) -> bool {
    let FeatureOrigin::View { feature } = &feature.origin else {
        return false;
    };
    let Some((view, index)) = snapshot.resolve(feature) else {
        return true;
    };
    let counts = view.definition.features.get(index).is_some_and(|feature| {
        matches!(
            feature.kind,
            FeatureKind::Aggregate {
                function: Aggregation::Count,
                ..
            }
        )
    });
    !counts || view.definition.ttl_us.is_some()
}

fn names(input: &Slot, feature: &str) -> bool {
    input.name == feature || input.name == plain(feature)
}

fn is_matrix(input: &Slot, model: &ModelDefinition) -> bool {
    let is_the_only_feature = matches!(model.features.as_slice(), [feature] if names(input, &feature.name));
    let is_flat = matches!(&input.kind, SlotKind::Tensor { shape, .. } if shape.len() < 2);
    !is_the_only_feature && !is_flat
}

fn unreadable_outputs(outputs: &[Slot]) -> Vec<String> {
    let mut lines: Vec<String> = outputs
        .iter()
        .filter_map(|output| match &output.kind {
            SlotKind::Tensor { .. } => None,
            SlotKind::Unsupported(kind) => Some(format!(
                "- output `{}` is a {kind}, only tensors can be read: export with `zipmap=False` \
                 (skl2onnx: options={{'zipmap': False}})",
                output.name
            )),
        })
        .collect();
    if outputs.is_empty() {
        lines.push("- the artifact has no output".to_owned());
    }
    lines
}

fn fit_matrix(model: &ModelDefinition, input: &Slot, named: Option<&[String]>) -> Result<Layout, Vec<String>> {
    let (element, shape) = match &input.kind {
        SlotKind::Tensor { element, shape } => (*element, shape.as_slice()),
        SlotKind::Unsupported(kind) => {
            return Err(vec![format!(
                "- input `{}` is a {kind}: export it as a float tensor [N, F]",
                input.name
            )]);
        }
    };
    let mut lines = Vec::new();
    if !element.is_float() {
        lines.push(format!(
            "- input `{}` is {element}: a matrix of features must be FP32 or FP64",
            input.name
        ));
    }
    let width = model.features.len();
    match shape {
        [rows, columns] => {
            if *rows >= 0 {
                lines.push(format!(
                    "- input `{}` takes exactly {rows} rows: export it with a dynamic first dimension",
                    input.name
                ));
            }
            if *columns >= 0 && *columns != dimension(width) && named.is_none() {
                lines.push(format!("- expected {width} columns: {}", vector_words(model)));
                lines.push(format!("+ found {columns} columns in input `{}`", input.name));
            }
        }
        other => lines.push(format!(
            "- input `{}` has {} dimensions: a matrix has 2",
            input.name,
            other.len()
        )),
    }
    if let Some(named) = named {
        lines.extend(misnamed(model, input, shape, named));
    }
    lines.extend(unfit_for_matrix(model));
    if lines.is_empty() {
        Ok(Layout::Matrix {
            input: input.name.clone(),
            double: element == ElementType::F64,
        })
    } else {
        Err(lines)
    }
}

/// How the names that the artifact gives its columns differ from the vector.
fn misnamed(model: &ModelDefinition, input: &Slot, shape: &[i64], named: &[String]) -> Vec<String> {
    let features = model.features.iter();
    let expected: Vec<Column> = features
        .map(|feature| Column::new(&feature.name, Some(feature.data_type)))
        .collect();
    let found: Vec<Column> = named.iter().map(|name| Column::new(name, None)).collect();
    let mut lines = differences(&expected, &found);
    if !lines.is_empty() {
        lines.insert(0, format!("in the artifact's property `{FEATURES_PROPERTY}`:"));
        return lines;
    }
    match shape {
        [_, columns] if *columns >= 0 && *columns != dimension(named.len()) => {
            let width = named.len();
            vec![format!(
                "- input `{}` has {columns} columns, its property names {width}",
                input.name
            )]
        }
        _ => Vec::new(),
    }
}

/// Entries that no float can carry.
fn unfit_for_matrix(model: &ModelDefinition) -> Vec<String> {
    let entries = model.features.iter().enumerate();
    entries
        .filter_map(|(index, feature)| {
            let remedy = match feature.data_type {
                DataType::String | DataType::Timestamp => "encode it in a derived feature".to_owned(),
                DataType::List(_) => lists::remedy(feature),
                _ => return None,
            };
            Some(format!(
                "- {} at {} is a {}, which can't be a column of a float matrix: {remedy}",
                feature.name,
                index + 1,
                feature.data_type
            ))
        })
        .collect()
}

fn vector_words(model: &ModelDefinition) -> String {
    let words: Vec<String> = model
        .features
        .iter()
        .map(|feature| format!("{} ({})", feature.name, feature.data_type))
        .collect();
    words.join(", ")
}

fn fit_columns(model: &ModelDefinition, inputs: &[Slot]) -> Result<Layout, Vec<String>> {
    let mut lines = Vec::new();
    let mut columns = Vec::with_capacity(model.features.len());
    let mut used = vec![false; inputs.len()];
    for (index, feature) in model.features.iter().enumerate() {
        let place = inputs
            .iter()
            .position(|input| input.name == feature.name)
            .or_else(|| inputs.iter().position(|input| names(input, &feature.name)));
        let Some((place, input)) = place.and_then(|place| inputs.get(place).map(|input| (place, input))) else {
            lines.push(format!(
                "- expected {}: {} ({})",
                index + 1,
                feature.name,
                feature.data_type
            ));
            continue;
        };
        if std::mem::replace(&mut used[place], true) {
            lines.push(format!(
                "- input `{}` stands for two features, {} among them",
                input.name, feature.name
            ));
        }
        match fit_column(feature, input) {
            Ok(column) => columns.push(column),
            Err(line) => lines.push(line),
        }
    }
    for (input, _) in inputs.iter().zip(&used).filter(|(_, used)| !**used) {
        lines.push(format!(
            "+ found input `{}` ({}), which is no feature of the model",
            input.name,
            kind_words(input)
        ));
    }
    if lines.is_empty() {
        Ok(Layout::Columns(columns))
    } else {
        Err(lines)
    }
}

fn fit_column(feature: &ModelFeature, input: &Slot) -> Result<ColumnInput, String> {
    let retyped = || {
        format!(
            "~ retyped {}: expected {}, found {}",
            feature.name,
            feature.data_type,
            kind_words(input)
        )
    };
    let SlotKind::Tensor { element, shape } = &input.kind else {
        return Err(retyped());
    };
    if !feeds(feature.data_type, *element) {
        let remedy = if feature.data_type.is_list() {
            format!(": {}", lists::remedy(feature))
        } else {
            String::new()
        };
        return Err(format!("{}{remedy}", retyped()));
    }
    let width = match shape.as_slice() {
        _ if feature.data_type.is_list() => Some(lists::width(feature, input, shape)?),
        [-1] => None,
        [-1, 1 | -1] => Some(1),
        _ => {
            return Err(format!(
                "~ reshaped {}: expected [N] or [N, 1] with a dynamic N, found {shape:?} in input `{}`",
                feature.name, input.name
            ));
        }
    };
    Ok(ColumnInput {
        input: input.name.clone(),
        element: *element,
        width,
    })
}

fn kind_words(input: &Slot) -> String {
    match &input.kind {
        SlotKind::Tensor { element, .. } => element.name().to_owned(),
        SlotKind::Unsupported(kind) => kind.clone(),
    }
}

fn dimension(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
