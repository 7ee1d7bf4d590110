//! A tensor of a request, before anybody knows what it is for: entity keys become scalars, the rest a model's tensors.

use crate::fault::invalid;
use crate::open_inference::datatype::Datatype;
use crate::open_inference::{blob, json};
use crate::runtime::tensor::{NamedTensor, TensorData};
use bytes::Bytes;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_vocabulary::Value as Scalar;

/// A tensor of a request.
#[derive(Clone, Debug)]
pub struct InputTensor {
    /// Its name.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<i64>,
    /// Element type.
    pub datatype: Datatype,
    /// Where its elements are.
    pub elements: Elements,
}

/// Where a tensor's elements are.
#[derive(Clone, Debug)]
pub enum Elements {
    /// In this JSON text: a part of the request's body.
    Json(Bytes),
    /// In these bytes: a part of the request's body.
    Blob(Bytes),
    /// Here already.
    Data(TensorData),
}

impl InputTensor {
    /// How much there is to read: what decides where it is done.
    pub fn size_bytes(&self) -> usize {
        match &self.elements {
            Elements::Json(text) => text.len(),
            Elements::Blob(blob) => blob.len(),
            Elements::Data(_) => 0,
        }
    }

    /// As many elements as the shape says.
    fn count(&self) -> Result<usize, ModelGatewayError> {
        let count = self.shape.iter().try_fold(1usize, |product, size| {
            usize::try_from(*size).ok().and_then(|size| product.checked_mul(size))
        });
        count.ok_or_else(|| {
            invalid(format!(
                "input `{}`: shape {:?} is no shape of data",
                self.name, self.shape
            ))
        })
    }

    /// The tensor for the model itself. Nulls are NaN in a float tensor, and refused in others.
    pub fn into_tensor(self) -> Result<NamedTensor, ModelGatewayError> {
        let count = self.count()?;
        let Self {
            name,
            shape,
            datatype,
            elements,
        } = self;
        let wrong = |detail: String| invalid(format!("input `{name}`: {detail}"));
        let data = match elements {
            Elements::Json(text) => json::decode(datatype.element(), count, &text).map_err(wrong)?,
            Elements::Blob(bytes) => blob::decode(datatype, count, &bytes).map_err(wrong)?,
            Elements::Data(data) if data.len() == count => data,
            Elements::Data(data) => {
                return Err(invalid(format!(
                    "input `{name}`: its shape means {count} elements, {} were sent",
                    data.len()
                )));
            }
        };
        Ok(NamedTensor { name, shape, data })
    }

    /// One scalar per request, for an input of the model's definition.
    pub fn into_scalars(self) -> Result<(String, Vec<Scalar>), ModelGatewayError> {
        let count = self.count()?;
        if !matches!(self.shape.as_slice(), [_] | [_, 1]) {
            return Err(invalid(format!(
                "input `{}`: shape {:?} must be [N] or [N, 1], a value per request",
                self.name, self.shape
            )));
        }
        if let Elements::Json(text) = &self.elements {
            // Unlike a tensor, an input may be null.
            let scalars = json::scalars(self.datatype.element(), count, text)
                .map_err(|detail| invalid(format!("input `{}`: {detail}", self.name)))?;
            return Ok((self.name, scalars));
        }
        let NamedTensor { name, data, .. } = self.into_tensor()?;
        let scalars = scalars(&name, data)?;
        Ok((name, scalars))
    }
}

fn scalars(name: &str, data: TensorData) -> Result<Vec<Scalar>, ModelGatewayError> {
    macro_rules! integers {
        ($values:expr) => {
            $values
                .into_iter()
                .map(|value| Scalar::I64(i64::from(value)))
                .collect()
        };
    }
    Ok(match data {
        TensorData::Bool(values) => values.into_iter().map(Scalar::Bool).collect(),
        TensorData::U8(values) => integers!(values),
        TensorData::U16(values) => integers!(values),
        TensorData::U32(values) => integers!(values),
        TensorData::U64(values) => values
            .into_iter()
            .map(|value| {
                let beyond = |_| invalid(format!("input `{name}`: {value} is beyond 64 bits with a sign"));
                i64::try_from(value).map(Scalar::I64).map_err(beyond)
            })
            .collect::<Result<_, _>>()?,
        TensorData::I8(values) => integers!(values),
        TensorData::I16(values) => integers!(values),
        TensorData::I32(values) => integers!(values),
        TensorData::I64(values) => values.into_iter().map(Scalar::I64).collect(),
        TensorData::F32(values) => values.into_iter().map(|value| Scalar::F64(f64::from(value))).collect(),
        TensorData::F64(values) => values.into_iter().map(Scalar::F64).collect(),
        TensorData::String(values) => values.into_iter().map(Scalar::String).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(shape: &[i64], elements: Elements) -> InputTensor {
        InputTensor {
            name: "card_id".to_owned(),
            shape: shape.to_vec(),
            datatype: Datatype::parse("card_id", "BYTES").unwrap(),
            elements,
        }
    }

    #[test]
    fn entity_keys_are_one_value_a_request_in_json_and_in_bytes() {
        let expected = vec![Scalar::String("a".into()), Scalar::String("b".into())];
        let json = Elements::Json(Bytes::from_static(br#"["a","b"]"#));
        let blob = Elements::Blob(Bytes::from_static(b"\x01\0\0\0a\x01\0\0\0b"));
        for elements in [json, blob] {
            let (name, scalars) = keys(&[2, 1], elements).into_scalars().unwrap();
            assert_eq!((name.as_str(), &scalars), ("card_id", &expected));
        }
        let wide = keys(&[1, 2], Elements::Json(Bytes::from_static(br#"["a","b"]"#)));
        assert!(wide.into_scalars().unwrap_err().to_string().contains("[N] or [N, 1]"));
    }

    #[test]
    fn a_shape_that_is_none_is_refused() {
        for shape in [[-1, 1], [i64::MAX, i64::MAX]] {
            let error = keys(&shape, Elements::Blob(Bytes::new())).into_tensor().unwrap_err();
            assert!(error.to_string().contains("no shape of data"), "{error}");
        }
    }
}
