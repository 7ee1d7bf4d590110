//! Messages to tensors and back.

use crate::fault::invalid;
use crate::open_inference::blob;
use crate::open_inference::datatype::Datatype;
use crate::open_inference::grpc::generated::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use crate::open_inference::grpc::generated::model_infer_response::InferOutputTensor;
use crate::open_inference::grpc::generated::{InferParameter, InferTensorContents};
use crate::open_inference::tensor::{Elements, InputTensor};
use crate::open_inference::wire::UNSUPPORTED;
use crate::runtime::tensor::{ElementType, NamedTensor, TensorData};
use bytes::Bytes;
use ondol_model_gateway_api::ModelGatewayError;
use std::collections::HashMap;

/// The tensors of a request: all of them raw, or all of them typed. Raw contents stay where they are in the message.
pub fn inputs(inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> Result<Vec<InputTensor>, ModelGatewayError> {
    if !raw.is_empty() && raw.len() != inputs.len() {
        return Err(invalid(format!(
            "`raw_input_contents` has {} entries for {} inputs: send one for each, or none",
            raw.len(),
            inputs.len()
        )));
    }
    let mut raw = raw.into_iter();
    inputs.into_iter().map(|input| self::input(input, raw.next())).collect()
}

fn input(input: InferInputTensor, raw: Option<Bytes>) -> Result<InputTensor, ModelGatewayError> {
    let InferInputTensor {
        name,
        datatype,
        shape,
        parameters,
        contents,
    } = input;
    refuse_unsupported(&format!("input `{name}`"), &parameters)?;
    let datatype = Datatype::parse(&name, &datatype)?;
    let elements = match (raw, contents) {
        (Some(raw), None) => Elements::Blob(raw),
        (None, contents) => Elements::Data(typed(&name, datatype, contents.unwrap_or_default())?),
        (Some(_), Some(_)) => {
            return Err(invalid(format!(
                "input `{name}` has `contents` beside `raw_input_contents`: send its elements once"
            )));
        }
    };
    Ok(InputTensor {
        name,
        shape,
        datatype,
        elements,
    })
}

/// The elements in the one of the message's lists that the datatype uses.
fn typed(name: &str, datatype: Datatype, contents: InferTensorContents) -> Result<TensorData, ModelGatewayError> {
    fn narrowed<T: Copy + std::fmt::Display, N: TryFrom<T>>(
        name: &str,
        element: ElementType,
        values: Vec<T>,
    ) -> Result<Vec<N>, ModelGatewayError> {
        let narrow = |value: T| {
            N::try_from(value).map_err(|_| invalid(format!("input `{name}`: {value} is no {element} value")))
        };
        values.into_iter().map(narrow).collect()
    }
    let Datatype::Element(element) = datatype else {
        return Err(invalid(format!(
            "input `{name}`: half precision is sent in `raw_input_contents`"
        )));
    };
    Ok(match element {
        ElementType::Bool => TensorData::Bool(contents.bool_contents),
        ElementType::I8 => TensorData::I8(narrowed(name, element, contents.int_contents)?),
        ElementType::I16 => TensorData::I16(narrowed(name, element, contents.int_contents)?),
        ElementType::I32 => TensorData::I32(contents.int_contents),
        ElementType::I64 => TensorData::I64(contents.int64_contents),
        ElementType::U8 => TensorData::U8(narrowed(name, element, contents.uint_contents)?),
        ElementType::U16 => TensorData::U16(narrowed(name, element, contents.uint_contents)?),
        ElementType::U32 => TensorData::U32(contents.uint_contents),
        ElementType::U64 => TensorData::U64(contents.uint64_contents),
        ElementType::F32 => TensorData::F32(contents.fp32_contents),
        ElementType::F64 => TensorData::F64(contents.fp64_contents),
        ElementType::String => {
            let texts = contents.bytes_contents.into_iter().enumerate();
            let text = |(index, bytes): (usize, Bytes)| {
                String::from_utf8(bytes.into())
                    .map_err(|error| invalid(format!("input `{name}`: element {index} is no UTF-8: {error}")))
            };
            TensorData::String(texts.map(text).collect::<Result<_, _>>()?)
        }
    })
}

/// Refuses outputs that are asked for in a form which is not supported.
pub fn check_outputs(outputs: &[InferRequestedOutputTensor]) -> Result<(), ModelGatewayError> {
    outputs
        .iter()
        .try_for_each(|output| refuse_unsupported(&format!("output `{}`", output.name), &output.parameters))
}

fn refuse_unsupported(whose: &str, parameters: &HashMap<String, InferParameter>) -> Result<(), ModelGatewayError> {
    match UNSUPPORTED.iter().find(|name| parameters.contains_key(**name)) {
        Some(name) => Err(invalid(format!(
            "{whose}: parameter `{name}` is not supported: send and take the tensor itself"
        ))),
        None => Ok(()),
    }
}

/// An output, and its elements as bytes.
pub fn output(tensor: &NamedTensor) -> (InferOutputTensor, Bytes) {
    let output = InferOutputTensor {
        name: tensor.name.clone(),
        datatype: tensor.data.element().name().to_owned(),
        shape: tensor.shape.clone(),
        ..InferOutputTensor::default()
    };
    (output, blob::encode(&tensor.data))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(datatype: &str, contents: Option<InferTensorContents>) -> InferInputTensor {
        InferInputTensor {
            name: "x".to_owned(),
            datatype: datatype.to_owned(),
            shape: vec![2],
            contents,
            ..InferInputTensor::default()
        }
    }

    fn decoded(input: InferInputTensor, raw: &[&'static [u8]]) -> Result<TensorData, String> {
        let raw = raw.iter().map(|raw| Bytes::from_static(raw)).collect();
        let inputs = inputs(vec![input], raw).map_err(|error| error.to_string())?;
        let tensor = inputs.into_iter().next().unwrap().into_tensor();
        tensor.map(|tensor| tensor.data).map_err(|error| error.to_string())
    }

    #[test]
    fn raw_and_typed_contents_are_the_same_tensor() {
        let contents = InferTensorContents {
            int_contents: vec![1, -2],
            ..InferTensorContents::default()
        };
        let expected = Ok(TensorData::I16(vec![1, -2]));
        assert_eq!(decoded(tensor("INT16", Some(contents)), &[]), expected);
        assert_eq!(decoded(tensor("INT16", None), &[&[1, 0, 254, 255]]), expected);
    }

    #[test]
    fn contents_that_do_not_fit_are_refused() {
        let contents = InferTensorContents {
            int_contents: vec![1, 300],
            ..InferTensorContents::default()
        };
        assert_eq!(
            decoded(tensor("INT8", Some(contents.clone())), &[]).unwrap_err(),
            "input `x`: 300 is no INT8 value"
        );
        assert!(
            decoded(tensor("INT32", Some(contents.clone())), &[b"12345678"])
                .unwrap_err()
                .contains("send its elements once")
        );
        assert!(
            decoded(tensor("FP32", Some(contents)), &[])
                .unwrap_err()
                .contains("0 were sent")
        );
        assert!(
            decoded(tensor("INT32", None), &[b"1", b"2"])
                .unwrap_err()
                .contains("2 entries for 1 inputs")
        );
        assert!(
            decoded(tensor("FP16", None), &[])
                .unwrap_err()
                .contains("raw_input_contents")
        );
    }
}
