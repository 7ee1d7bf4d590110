//! What a model takes and gives, as its artifact or its server says.

use crate::runtime::tensor::ElementType;

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: SlotKind,
}

/// What an input or output holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// A tensor.
    Tensor {
        /// Its element type.
        element: ElementType,
        /// Its dimensions; -1 where any size goes.
        shape: Vec<i64>,
    },
    /// Something the gateway can't feed or read, in words: `sequence of maps`, `FP16 tensor`.
    Unsupported(String),
}

impl Slot {
    /// A tensor of `element` and `shape`.
    pub fn tensor(name: impl Into<String>, element: ElementType, shape: Vec<i64>) -> Self {
        Self {
            name: name.into(),
            kind: SlotKind::Tensor { element, shape },
        }
    }
}

/// What a model says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Inputs in declared order.
    pub inputs: Vec<Slot>,
    /// Outputs in declared order.
    pub outputs: Vec<Slot>,
    /// The feature names that the columns of its matrix stand for, if the artifact has them.
    pub features: Option<Vec<String>>,
}
