//! The four forms of MLflow's data, read into columns.

use crate::fault::{did_you_mean, invalid};
use crate::open_inference::datatype::Datatype;
use crate::open_inference::tensor::{Elements, InputTensor};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::TensorSpec;
use ondol_vocabulary::Value as Scalar;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The forms, of which a request has exactly one.
const FORMS: &str = "`dataframe_split`, `dataframe_records`, `instances` or `inputs`";

/// A request's body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Invocation {
    dataframe_split: Option<Split>,
    dataframe_records: Option<Vec<Map<String, Value>>>,
    instances: Option<Vec<Value>>,
    inputs: Option<Value>,
    /// Parameters of a model's inference: none here has any.
    #[serde(default)]
    params: Option<Map<String, Value>>,
}

/// A data frame as pandas writes it with `orient="split"`.
#[derive(Debug, Deserialize)]
struct Split {
    columns: Vec<String>,
    data: Vec<Vec<Value>>,
    // The index names rows, and answers go by their order.
    #[serde(default, rename = "index")]
    _index: Option<Value>,
}

/// What a request's data are.
#[derive(Debug)]
pub(super) enum Data {
    /// Columns with names.
    Columns(Columns),
    /// Nested lists without a name.
    Tensor(Vec<Value>),
}

/// Columns with names, all of the same length.
#[derive(Debug, PartialEq)]
pub(super) struct Columns(Vec<(String, Vec<Value>)>);

impl Invocation {
    pub(super) fn parse(body: &[u8]) -> Result<Self, ModelGatewayError> {
        serde_json::from_slice(body)
            .map_err(|error| invalid(format!("the request is not valid: {error}; it takes one of {FORMS}")))
    }

    pub(super) fn data(self) -> Result<Data, ModelGatewayError> {
        if let Some((name, _)) = self.params.iter().flatten().next() {
            return Err(invalid(format!(
                "`params` has `{name}`: no model here takes parameters"
            )));
        }
        match (
            self.dataframe_split,
            self.dataframe_records,
            self.instances,
            self.inputs,
        ) {
            (Some(split), None, None, None) => split.columns().map(Data::Columns),
            (None, Some(records), None, None) => Columns::of_records(records).map(Data::Columns),
            (None, None, Some(instances), None) => of_instances(instances),
            (None, None, None, Some(inputs)) => of_inputs(inputs),
            _ => Err(invalid(format!("the request must have exactly one of {FORMS}"))),
        }
    }
}

impl Split {
    fn columns(self) -> Result<Columns, ModelGatewayError> {
        let mut columns: Vec<(String, Vec<Value>)> = self
            .columns
            .into_iter()
            .map(|name| (name, Vec::with_capacity(self.data.len())))
            .collect();
        for (row, values) in self.data.into_iter().enumerate() {
            if values.len() != columns.len() {
                return Err(invalid(format!(
                    "row {row} of `dataframe_split` has {} values for {} columns",
                    values.len(),
                    columns.len()
                )));
            }
            for ((_, column), value) in columns.iter_mut().zip(values) {
                column.push(value);
            }
        }
        Columns::of(columns)
    }
}

fn of_instances(instances: Vec<Value>) -> Result<Data, ModelGatewayError> {
    if !matches!(instances.first(), Some(Value::Object(_))) {
        return Ok(Data::Tensor(instances));
    }
    let record = |(row, instance)| match instance {
        Value::Object(record) => Ok(record),
        _ => Err(invalid(format!("instance {row} has no names, the first one has"))),
    };
    let records = instances
        .into_iter()
        .enumerate()
        .map(record)
        .collect::<Result<_, _>>()?;
    Columns::of_records(records).map(Data::Columns)
}

fn of_inputs(inputs: Value) -> Result<Data, ModelGatewayError> {
    match inputs {
        Value::Array(items) => of_instances(items),
        Value::Object(columns) => {
            let column = |(name, values)| match values {
                Value::Array(values) => (name, values),
                // One row may go without its list.
                value => (name, vec![value]),
            };
            Columns::of(columns.into_iter().map(column).collect()).map(Data::Columns)
        }
        _ => Err(invalid("`inputs` must be a list, or lists by name")),
    }
}

impl Columns {
    fn of(columns: Vec<(String, Vec<Value>)>) -> Result<Self, ModelGatewayError> {
        let (first, rows) = match columns.first() {
            Some((name, values)) if !values.is_empty() => (name, values.len()),
            _ => return Err(invalid("the request has no rows: send at least one")),
        };
        if let Some((name, values)) = columns.iter().find(|(_, values)| values.len() != rows) {
            return Err(invalid(format!(
                "column `{name}` has {} rows, column `{first}` has {rows}",
                values.len()
            )));
        }
        let mut names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some([twice, _]) = names.windows(2).find(|pair| pair.first() == pair.last()) {
            return Err(invalid(format!("column `{twice}` was sent twice")));
        }
        Ok(Self(columns))
    }

    /// A field that a record leaves out is null, as in pandas.
    fn of_records(mut records: Vec<Map<String, Value>>) -> Result<Self, ModelGatewayError> {
        let mut names: Vec<String> = Vec::new();
        for record in &records {
            for name in record.keys() {
                if !names.iter().any(|known| known == name) {
                    names.push(name.clone());
                }
            }
            if names.len() > 10_000 {
                return Err(invalid("the records have more than 10000 fields"));
            }
        }
        let column = |name: String| {
            let values = records
                .iter_mut()
                .map(|record| record.remove(&name).unwrap_or_default());
            (values.collect(), name)
        };
        let columns = names.into_iter().map(column).map(|(values, name)| (name, values));
        Self::of(columns.collect())
    }

    /// Whether each column is one of `names`.
    pub(super) fn are_among(&self, names: &[&str]) -> bool {
        self.0.iter().all(|(column, _)| names.contains(&column.as_str()))
    }

    /// One map of values per row.
    pub(super) fn instances(self) -> Result<Vec<BTreeMap<String, Scalar>>, ModelGatewayError> {
        let rows = self.0.first().map_or(0, |(_, values)| values.len());
        let mut instances: Vec<BTreeMap<String, Scalar>> = Vec::new();
        instances.resize_with(rows, BTreeMap::new);
        for (name, values) in self.0 {
            for (row, (instance, value)) in instances.iter_mut().zip(values).enumerate() {
                let value = serde_json::from_value(value)
                    .map_err(|error| invalid(format!("row {row} of column `{name}`: {error}")))?;
                instance.insert(name.clone(), value);
            }
        }
        Ok(instances)
    }

    /// A tensor per column, in the forms the model takes.
    pub(super) fn tensors(self, specs: &[TensorSpec]) -> Result<Vec<InputTensor>, ModelGatewayError> {
        let mut tensors = Vec::with_capacity(self.0.len());
        for (name, values) in self.0 {
            // Who calls has checked the names.
            if let Some(spec) = specs.iter().find(|spec| spec.name == name) {
                tensors.push(tensor(spec, &values)?);
            }
        }
        Ok(tensors)
    }

    /// The error for columns that are none of the three.
    pub(super) fn unknown(&self, inputs: &[&str], features: &[&str], own: &[&str]) -> ModelGatewayError {
        let known = || [inputs, features, own].into_iter().flatten().copied();
        let stranger = self.0.iter().find(|(column, _)| !known().any(|name| name == column));
        let what = match stranger {
            Some((column, _)) => format!("unknown column `{column}`{}", did_you_mean(column, known())),
            None => "the columns are of several kinds: send one".to_owned(),
        };
        invalid(format!(
            "{what} (the model takes {}; or its vector {}; or its own tensors {})",
            inputs.join(", "),
            features.join(", "),
            own.join(", ")
        ))
    }
}

/// `rows` as the tensor that `spec` wants: what it leaves open is read from the first row.
pub(super) fn tensor(spec: &TensorSpec, rows: &[Value]) -> Result<InputTensor, ModelGatewayError> {
    let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let mut level = rows.first();
    let mut shape = vec![count];
    for wanted in spec.shape.iter().skip(1) {
        let found = match level {
            Some(Value::Array(items)) => {
                level = items.first();
                i64::try_from(items.len()).unwrap_or(i64::MAX)
            }
            // A column of scalars for `[N, 1]`.
            _ => 1,
        };
        shape.push(if *wanted < 0 { found } else { *wanted });
    }
    let text = serde_json::to_vec(rows).map_err(crate::fault::internal)?;
    Ok(InputTensor {
        datatype: Datatype::parse(&spec.name, &spec.datatype)?,
        name: spec.name.clone(),
        shape,
        elements: Elements::Json(text.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn columns(body: &Value) -> Result<Columns, String> {
        let invocation = Invocation::parse(body.to_string().as_bytes()).map_err(|error| error.to_string())?;
        match invocation.data().map_err(|error| error.to_string())? {
            Data::Columns(columns) => Ok(columns),
            Data::Tensor(tensor) => Err(format!("a tensor: {tensor:?}")),
        }
    }

    #[test]
    fn four_forms_say_the_same() {
        let expected = Columns(vec![
            ("amount".to_owned(), vec![json!(8), json!(9)]),
            ("card_id".to_owned(), vec![json!("a"), json!("b")]),
        ]);
        for body in [
            json!({"dataframe_split": {"columns": ["amount", "card_id"], "data": [[8, "a"], [9, "b"]], "index": [0, 1]}}),
            json!({"dataframe_records": [{"amount": 8, "card_id": "a"}, {"amount": 9, "card_id": "b"}]}),
            json!({"instances": [{"amount": 8, "card_id": "a"}, {"amount": 9, "card_id": "b"}]}),
            json!({"inputs": {"amount": [8, 9], "card_id": ["a", "b"]}, "params": {}}),
        ] {
            assert_eq!(columns(&body).unwrap(), expected, "{body}");
        }
    }

    #[test]
    fn what_is_no_table_is_refused() {
        let refused = |body: Value| columns(&body).unwrap_err();
        assert!(refused(json!({})).contains("exactly one of"));
        assert!(refused(json!({"instances": [1], "inputs": [1]})).contains("exactly one of"));
        assert!(refused(json!({"rows": []})).contains("unknown field `rows`"));
        assert!(refused(json!({"inputs": {"a": [1, 2], "b": [1]}})).contains("column `b` has 1 rows"));
        assert!(refused(json!({"dataframe_records": []})).contains("no rows"));
        assert!(refused(json!({"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}})).contains("row 0"));
        assert!(refused(json!({"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}})).contains("sent twice"));
        assert!(refused(json!({"inputs": {"a": [1]}, "params": {"t": 1}})).contains("takes parameters"));
    }

    #[test]
    fn a_tensor_has_the_shape_its_model_wants() {
        let check = |shape: &[i64], rows: Value, expected: &[i64]| {
            let spec = TensorSpec {
                name: "x".to_owned(),
                datatype: "FP32".to_owned(),
                shape: shape.to_vec(),
            };
            let Value::Array(rows) = rows else { panic!("no rows") };
            let tensor = tensor(&spec, &rows).unwrap();
            assert_eq!(tensor.shape, expected);
            assert_eq!(
                tensor.into_tensor().unwrap().data.len() as i64,
                expected.iter().product::<i64>()
            );
        };
        check(&[-1, 2], json!([[1, 2], [3, 4]]), &[2, 2]);
        check(&[-1, -1], json!([[1, 2, 3]]), &[1, 3]);
        check(&[-1], json!([1, 2]), &[2]);
        check(&[-1, 1], json!([1, 2]), &[2, 1]);
    }
}
