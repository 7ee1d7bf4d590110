//! Tensors as they stand between features, runtimes and the Open Inference Protocol: owned, row-major.

use ort::value::TensorElementType;
use std::fmt;

/// The element types a model may use. Half precision and complex numbers have no column type and are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ElementType {
    Bool,
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F32,
    F64,
    String,
}

impl ElementType {
    /// The name in the Open Inference Protocol.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "UINT8",
            Self::U16 => "UINT16",
            Self::U32 => "UINT32",
            Self::U64 => "UINT64",
            Self::I8 => "INT8",
            Self::I16 => "INT16",
            Self::I32 => "INT32",
            Self::I64 => "INT64",
            Self::F32 => "FP32",
            Self::F64 => "FP64",
            Self::String => "BYTES",
        }
    }

    /// The type of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::Bool,
            Self::U8,
            Self::U16,
            Self::U32,
            Self::U64,
            Self::I8,
            Self::I16,
            Self::I32,
            Self::I64,
            Self::F32,
            Self::F64,
            Self::String,
        ]
        .into_iter()
        .find(|candidate| candidate.name() == name)
    }

    /// Whether it is a floating point number: the only types that can say "missing" (NaN).
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }

    pub(crate) const fn from_ort(element: TensorElementType) -> Option<Self> {
        Some(match element {
            TensorElementType::Bool => Self::Bool,
            TensorElementType::Uint8 => Self::U8,
            TensorElementType::Uint16 => Self::U16,
            TensorElementType::Uint32 => Self::U32,
            TensorElementType::Uint64 => Self::U64,
            TensorElementType::Int8 => Self::I8,
            TensorElementType::Int16 => Self::I16,
            TensorElementType::Int32 => Self::I32,
            TensorElementType::Int64 => Self::I64,
            TensorElementType::Float32 => Self::F32,
            TensorElementType::Float64 => Self::F64,
            TensorElementType::String => Self::String,
            _ => return None,
        })
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A tensor's elements, row-major.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum TensorData {
    Bool(Vec<bool>),
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    I8(Vec<i8>),
    I16(Vec<i16>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    String(Vec<String>),
}

/// Runs `$body` with `$values` bound to the vector inside, whatever its type.
macro_rules! each_type {
    ($data:expr, $values:ident => $body:expr) => {
        match $data {
            $crate::runtime::tensor::TensorData::Bool($values) => $body,
            $crate::runtime::tensor::TensorData::U8($values) => $body,
            $crate::runtime::tensor::TensorData::U16($values) => $body,
            $crate::runtime::tensor::TensorData::U32($values) => $body,
            $crate::runtime::tensor::TensorData::U64($values) => $body,
            $crate::runtime::tensor::TensorData::I8($values) => $body,
            $crate::runtime::tensor::TensorData::I16($values) => $body,
            $crate::runtime::tensor::TensorData::I32($values) => $body,
            $crate::runtime::tensor::TensorData::I64($values) => $body,
            $crate::runtime::tensor::TensorData::F32($values) => $body,
            $crate::runtime::tensor::TensorData::F64($values) => $body,
            $crate::runtime::tensor::TensorData::String($values) => $body,
        }
    };
}

impl TensorData {
    /// The type of its elements.
    pub const fn element(&self) -> ElementType {
        match self {
            Self::Bool(_) => ElementType::Bool,
            Self::U8(_) => ElementType::U8,
            Self::U16(_) => ElementType::U16,
            Self::U32(_) => ElementType::U32,
            Self::U64(_) => ElementType::U64,
            Self::I8(_) => ElementType::I8,
            Self::I16(_) => ElementType::I16,
            Self::I32(_) => ElementType::I32,
            Self::I64(_) => ElementType::I64,
            Self::F32(_) => ElementType::F32,
            Self::F64(_) => ElementType::F64,
            Self::String(_) => ElementType::String,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        each_type!(self, values => values.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Zeroes, or empty strings: what a trial run is fed with. Floats are NaN, as for a feature that is missing.
    pub fn blank(element: ElementType, len: usize) -> Self {
        match element {
            ElementType::Bool => Self::Bool(vec![false; len]),
            ElementType::U8 => Self::U8(vec![0; len]),
            ElementType::U16 => Self::U16(vec![0; len]),
            ElementType::U32 => Self::U32(vec![0; len]),
            ElementType::U64 => Self::U64(vec![0; len]),
            ElementType::I8 => Self::I8(vec![0; len]),
            ElementType::I16 => Self::I16(vec![0; len]),
            ElementType::I32 => Self::I32(vec![0; len]),
            ElementType::I64 => Self::I64(vec![0; len]),
            ElementType::F32 => Self::F32(vec![f32::NAN; len]),
            ElementType::F64 => Self::F64(vec![f64::NAN; len]),
            ElementType::String => Self::String(vec![String::new(); len]),
        }
    }

    /// Element `index` as JSON; null beyond the end, and for NaN and the infinities, which JSON does not have.
    pub fn json(&self, index: usize) -> serde_json::Value {
        fn at<T: Clone>(values: &[T], index: usize) -> serde_json::Value
        where
            serde_json::Value: From<T>,
        {
            values
                .get(index)
                .cloned()
                .map_or(serde_json::Value::Null, serde_json::Value::from)
        }
        each_type!(self, values => at(values, index))
    }
}

/// A tensor with its name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// The name of the model's input or output.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<i64>,
    /// Elements, as many as the product of the dimensions.
    pub data: TensorData,
}

pub(crate) use each_type;
