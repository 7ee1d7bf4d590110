//! One value inside a row. Integers, timestamps and floats are widened: which type they came from is the layout's to
//! know.

use std::cmp::Ordering;

/// A value borrowed from a column, a row or stored bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ScalarRef<'a> {
    Bool(bool),
    /// `i32`, `i64`, or microseconds of a timestamp.
    Int(i64),
    /// `f32` or `f64`. Every NaN is the same one: see [`ScalarRef::float`].
    Float(f64),
    Text(&'a str),
}

/// A value that a row keeps.
#[derive(Clone, Debug)]
pub(crate) enum Scalar {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Box<str>),
}

impl ScalarRef<'_> {
    /// A float with NaN made canonical, so that equal rows have equal bytes and NaN sorts above infinity.
    pub(crate) fn float(value: f64) -> Self {
        Self::Float(if value.is_nan() { f64::NAN } else { value })
    }

    pub(crate) fn to_owned(self) -> Scalar {
        match self {
            Self::Bool(value) => Scalar::Bool(value),
            Self::Int(value) => Scalar::Int(value),
            Self::Float(value) => Scalar::Float(value),
            Self::Text(value) => Scalar::Text(value.into()),
        }
    }

    /// Place among the kinds of value; only values of one kind ever meet.
    const fn rank(self) -> u8 {
        match self {
            Self::Bool(_) => 0,
            Self::Int(_) => 1,
            Self::Float(_) => 2,
            Self::Text(_) => 3,
        }
    }
}

/// The `f32` that was widened to `value`; exact, and of every NaN the same one.
pub(crate) fn narrowed(value: f64) -> f32 {
    if value.is_nan() { f32::NAN } else { value as f32 }
}

/// Text by its bytes, floats by the total order of IEEE 754: −0.0 before 0.0, NaN after everything.
impl Ord for ScalarRef<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Int(a), Self::Int(b)) => a.cmp(b),
            (Self::Float(a), Self::Float(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for ScalarRef<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ScalarRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for ScalarRef<'_> {}

impl Scalar {
    pub(crate) fn borrow(&self) -> ScalarRef<'_> {
        match self {
            Self::Bool(value) => ScalarRef::Bool(*value),
            Self::Int(value) => ScalarRef::Int(*value),
            Self::Float(value) => ScalarRef::Float(*value),
            Self::Text(value) => ScalarRef::Text(value),
        }
    }
}

impl Ord for Scalar {
    fn cmp(&self, other: &Self) -> Ordering {
        self.borrow().cmp(&other.borrow())
    }
}

impl PartialOrd for Scalar {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scalar {}
