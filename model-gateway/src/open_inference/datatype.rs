//! The element types on the protocol's wire: those of models, and two half-precision ones that are widened on arrival.

use crate::fault::{did_you_mean, invalid};
use crate::runtime::tensor::ElementType;
use ondol_model_gateway_api::ModelGatewayError;

/// An element type as a request names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datatype {
    /// One of the types a model may use.
    Element(ElementType),
    /// IEEE 754 half precision, only as bytes; taken as FP32, which holds all of its values.
    Fp16,
    /// The upper half of an FP32, only as bytes; taken as FP32.
    Bf16,
}

impl Datatype {
    /// The datatype called `name`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "FP16" => Some(Self::Fp16),
            "BF16" => Some(Self::Bf16),
            name => ElementType::from_name(name).map(Self::Element),
        }
    }

    /// The datatype that input `input` names.
    pub fn parse(input: &str, name: &str) -> Result<Self, ModelGatewayError> {
        Self::named(name).ok_or_else(|| {
            let near = did_you_mean(name, ["BYTES", "BOOL", "FP32", "FP64", "INT32", "INT64", "UINT8"]);
            invalid(format!("input `{input}`: datatype `{name}` is not supported{near}"))
        })
    }

    /// The type its elements have in a tensor.
    pub const fn element(self) -> ElementType {
        match self {
            Self::Element(element) => element,
            Self::Fp16 | Self::Bf16 => ElementType::F32,
        }
    }

    /// Bytes of an element; none for texts, whose lengths differ.
    pub const fn size(self) -> Option<usize> {
        match self {
            Self::Fp16 | Self::Bf16 => Some(2),
            Self::Element(element) => match element {
                ElementType::Bool | ElementType::U8 | ElementType::I8 => Some(1),
                ElementType::U16 | ElementType::I16 => Some(2),
                ElementType::U32 | ElementType::I32 | ElementType::F32 => Some(4),
                ElementType::U64 | ElementType::I64 | ElementType::F64 => Some(8),
                ElementType::String => None,
            },
        }
    }
}
