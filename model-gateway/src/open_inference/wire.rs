//! The protocol's JSON: requests, responses, tensors.

use crate::fault::invalid;
use crate::runtime::tensor::{ElementType, NamedTensor, TensorData, each_type};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::TensorSpec;
use ondol_vocabulary::{DataType, Value as Scalar};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The most dimensions a tensor may have; nested data deeper than that is refused.
const MAX_DIMENSIONS: usize = 8;

/// An inference request.
#[derive(Debug, Deserialize)]
pub struct InferRequest {
    /// Comes back in the response.
    #[serde(default)]
    pub id: Option<String>,
    /// Of the whole request: `timeout` (microseconds) is heeded, others are ignored as the protocol allows.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// The tensors.
    pub inputs: Vec<InputTensor>,
    /// Which outputs are wanted; absent or empty means all.
    #[serde(default)]
    pub outputs: Vec<RequestedOutput>,
}

/// A tensor of a request.
#[derive(Debug, Deserialize)]
pub struct InputTensor {
    /// Its name.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<i64>,
    /// Element type.
    pub datatype: String,
    /// `binary_data_size` says that the elements follow the JSON, which is not supported.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// Elements, row-major, flat or nested.
    #[serde(default)]
    pub data: Option<Value>,
}

/// An output that a request wants.
#[derive(Debug, Deserialize)]
pub struct RequestedOutput {
    /// Its name.
    pub name: String,
    /// `binary_data` is answered in JSON, which the protocol lets a server choose.
    #[serde(default)]
    pub parameters: Map<String, Value>,
}

/// An inference response.
#[derive(Debug, Serialize)]
pub struct InferResponse {
    /// The model's name.
    pub model_name: String,
    /// The version that answered.
    pub model_version: String,
    /// The request's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `request_ids`: by these the requests stand in the decision log.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub parameters: Map<String, Value>,
    /// The model's outputs.
    pub outputs: Vec<OutputTensor>,
}

/// A tensor of a response.
#[derive(Debug, Serialize)]
pub struct OutputTensor {
    /// Its name.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<i64>,
    /// Element type.
    pub datatype: String,
    /// Elements, row-major and flat; NaN and the infinities are null.
    pub data: Vec<Value>,
}

/// A model's metadata.
#[derive(Debug, Serialize)]
pub struct ModelMetadata {
    /// Its name.
    pub name: String,
    /// Its versions, oldest first.
    pub versions: Vec<String>,
    /// What runs it.
    pub platform: &'static str,
    /// What a caller sends: entity keys and request-time values.
    pub inputs: Vec<TensorSpec>,
    /// What the model answers.
    pub outputs: Vec<TensorSpec>,
    /// `raw_inputs`: the model's own tensors, which are taken in the place of `inputs`.
    pub parameters: Map<String, Value>,
}

/// The tensor by which an input of a model's definition is sent.
pub fn input_spec(name: &str, data_type: DataType) -> TensorSpec {
    let element = match data_type {
        // Definitions refuse inputs of lists.
        DataType::String | DataType::Timestamp | DataType::List(_) => ElementType::String,
        DataType::Bool => ElementType::Bool,
        DataType::I32 => ElementType::I32,
        DataType::I64 => ElementType::I64,
        DataType::F32 => ElementType::F32,
        DataType::F64 => ElementType::F64,
    };
    TensorSpec {
        name: name.to_owned(),
        datatype: element.name().to_owned(),
        shape: vec![-1],
    }
}

impl From<&NamedTensor> for OutputTensor {
    fn from(tensor: &NamedTensor) -> Self {
        Self {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            datatype: tensor.data.element().name().to_owned(),
            data: each_type!(&tensor.data, values => values.iter().cloned().map(Value::from).collect()),
        }
    }
}

impl InputTensor {
    /// The elements, flat, as many as the shape says.
    fn elements(self) -> Result<(String, Vec<i64>, ElementType, Vec<Value>), ModelGatewayError> {
        let Self {
            name,
            shape,
            datatype,
            parameters,
            data,
        } = self;
        if parameters.contains_key("binary_data_size") {
            return Err(binary_data());
        }
        let element = ElementType::from_name(&datatype)
            .ok_or_else(|| invalid(format!("input `{name}`: datatype `{datatype}` is not supported")))?;
        let expected = shape.iter().try_fold(1usize, |product, size| {
            usize::try_from(*size).ok().and_then(|size| product.checked_mul(size))
        });
        let expected =
            expected.ok_or_else(|| invalid(format!("input `{name}`: shape {shape:?} is no shape of data")))?;
        let data = data.ok_or_else(|| invalid(format!("input `{name}` has no `data`")))?;
        let mut elements = Vec::new();
        flatten(&name, data, MAX_DIMENSIONS, &mut elements)?;
        if elements.len() != expected {
            return Err(invalid(format!(
                "input `{name}`: shape {shape:?} means {expected} elements, `data` has {}",
                elements.len()
            )));
        }
        Ok((name, shape, element, elements))
    }

    /// The tensor for the model itself. Nulls are NaN in a float tensor, and refused in others.
    pub fn into_tensor(self) -> Result<NamedTensor, ModelGatewayError> {
        let (name, shape, element, elements) = self.elements()?;
        let data = tensor_data(&name, element, elements)?;
        Ok(NamedTensor { name, shape, data })
    }

    /// One scalar per request, for an input of the model's definition.
    pub fn into_scalars(self) -> Result<(String, Vec<Scalar>), ModelGatewayError> {
        let (name, shape, element, elements) = self.elements()?;
        if !matches!(shape.as_slice(), [_] | [_, 1]) {
            return Err(invalid(format!(
                "input `{name}`: shape {shape:?} must be [N] or [N, 1], a value per request"
            )));
        }
        let scalar = |value: Value| {
            serde_json::from_value(value).map_err(|error| invalid(format!("input `{name}` ({element}): {error}")))
        };
        let scalars = elements.into_iter().map(scalar).collect::<Result<_, _>>()?;
        Ok((name, scalars))
    }
}

/// What a request with binary tensors is answered.
pub fn binary_data() -> ModelGatewayError {
    invalid("binary tensor data is not supported yet: set binary_data=False")
}

fn flatten(name: &str, data: Value, depth: usize, elements: &mut Vec<Value>) -> Result<(), ModelGatewayError> {
    match data {
        Value::Array(items) if depth > 0 => items
            .into_iter()
            .try_for_each(|item| flatten(name, item, depth - 1, elements)),
        Value::Array(_) => Err(invalid(format!(
            "input `{name}`: `data` is nested deeper than {MAX_DIMENSIONS} levels"
        ))),
        Value::Object(_) => Err(invalid(format!(
            "input `{name}`: `data` holds an object, expected a list of values"
        ))),
        scalar => {
            elements.push(scalar);
            Ok(())
        }
    }
}

fn tensor_data(name: &str, element: ElementType, elements: Vec<Value>) -> Result<TensorData, ModelGatewayError> {
    fn each<T>(
        name: &str,
        element: ElementType,
        elements: Vec<Value>,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Vec<T>, ModelGatewayError> {
        let convert = |value: Value| {
            read(&value).ok_or_else(|| invalid(format!("input `{name}`: {value} is no {element} value")))
        };
        elements.into_iter().map(convert).collect()
    }
    macro_rules! signed {
        ($variant:ident, $type:ty) => {
            TensorData::$variant(each(name, element, elements, |value| {
                value.as_i64().and_then(|number| <$type>::try_from(number).ok())
            })?)
        };
    }
    macro_rules! unsigned {
        ($variant:ident, $type:ty) => {
            TensorData::$variant(each(name, element, elements, |value| {
                value.as_u64().and_then(|number| <$type>::try_from(number).ok())
            })?)
        };
    }
    Ok(match element {
        ElementType::Bool => TensorData::Bool(each(name, element, elements, Value::as_bool)?),
        ElementType::I8 => signed!(I8, i8),
        ElementType::I16 => signed!(I16, i16),
        ElementType::I32 => signed!(I32, i32),
        ElementType::I64 => signed!(I64, i64),
        ElementType::U8 => unsigned!(U8, u8),
        ElementType::U16 => unsigned!(U16, u16),
        ElementType::U32 => unsigned!(U32, u32),
        ElementType::U64 => unsigned!(U64, u64),
        ElementType::F32 => TensorData::F32(each(name, element, elements, |value| float(value).map(|f| f as f32))?),
        ElementType::F64 => TensorData::F64(each(name, element, elements, float)?),
        ElementType::String => TensorData::String(each(name, element, elements, |value| {
            value.as_str().map(ToOwned::to_owned)
        })?),
    })
}

/// A number; null is NaN, and JSON's missing numbers are texts.
fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Null => Some(f64::NAN),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        number => number.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tensor(json: Value) -> InputTensor {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn nested_and_flat_data_are_the_same_tensor() {
        let flat = tensor(json!({"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2.5, null, "NaN"]}));
        let nested =
            tensor(json!({"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2.5], [null, "NaN"]]}));
        for tensor in [flat, nested] {
            let TensorData::F32(cells) = tensor.into_tensor().unwrap().data else {
                panic!("no floats")
            };
            assert_eq!(cells[..2], [1.0, 2.5]);
            assert!(cells[2..].iter().all(|cell| cell.is_nan()));
        }
    }

    #[test]
    fn data_that_does_not_fill_the_shape_is_refused() {
        let error = tensor(json!({"name": "x", "shape": [3], "datatype": "INT64", "data": [1, 2]})).into_tensor();
        assert_eq!(
            error.unwrap_err().to_string(),
            "input `x`: shape [3] means 3 elements, `data` has 2"
        );
        let error = tensor(json!({"name": "x", "shape": [-1], "datatype": "INT64", "data": [1]})).into_tensor();
        assert!(error.unwrap_err().to_string().contains("no shape of data"));
    }

    #[test]
    fn a_value_outside_its_datatype_is_named() {
        let error = tensor(json!({"name": "x", "shape": [1], "datatype": "INT8", "data": [300]})).into_tensor();
        assert_eq!(error.unwrap_err().to_string(), "input `x`: 300 is no INT8 value");
    }

    #[test]
    fn a_binary_tensor_is_refused_with_the_remedy() {
        let error =
            tensor(json!({"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}));
        assert!(
            error
                .into_tensor()
                .unwrap_err()
                .to_string()
                .contains("set binary_data=False")
        );
    }

    #[test]
    fn entity_keys_are_one_value_a_request() {
        let (name, scalars) =
            tensor(json!({"name": "card_id", "shape": [2, 1], "datatype": "BYTES", "data": ["a", "b"]}))
                .into_scalars()
                .unwrap();
        assert_eq!(
            (name.as_str(), scalars),
            ("card_id", vec![Scalar::String("a".into()), Scalar::String("b".into())])
        );
        let wide = tensor(json!({"name": "card_id", "shape": [1, 2], "datatype": "BYTES", "data": ["a", "b"]}));
        assert!(wide.into_scalars().unwrap_err().to_string().contains("[N] or [N, 1]"));
    }
}
