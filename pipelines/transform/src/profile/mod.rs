//! What the values of a column come to: how many, how spread, how many different ones, which are frequent.
//!
//! A [`ColumnProfile`] is a commutative monoid, made of the parts that windows are made of: exact sums and sums of squares,
//! a sketch of quantiles, the registers of a count of distinct values. Profiles of parts of a table merge into that of
//! the whole, in any order and any split, to the same bits. One part is bounded by leaving out: the frequent texts
//! ([`frequent`]), which are exact until a profile is *sealed*; sealed profiles merge in any order too.
//!
//! Cost: a few tens of nanoseconds a value; a profile is some kilobytes, and while it is not sealed it holds up to
//! [`frequent::MOST`] texts.

mod distinct;
pub mod frequent;
mod stored;

pub use frequent::FrequentText;

use crate::row::RowError;
use crate::row::exact_sum::ExactSum;
use crate::row::float_block::{BLOCK, FloatBlock};
use crate::row::scalar::{Scalar, ScalarRef};
use crate::row::sketch::Sketch;
use crate::row::trail::cardinality::hash;
use crate::row::variance::{Spread, Unit};
use crate::row::wide::Wide;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{ArrowPrimitiveType, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use distinct::Distinct;
use frequent::Frequent;
use ondol_vocabulary::{DataType, EventTime, Value};
use std::borrow::Cow;

/// The standard deviation of a sample.
const STDDEV: Spread = Spread {
    is_sample: true,
    is_root: true,
};

/// What the values of one column come to.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnProfile {
    data_type: DataType,
    nulls: u64,
    /// Values that are not null.
    count: u64,
    /// Of these, NaN.
    nans: u64,
    /// Of a bool: those that are true.
    trues: u64,
    /// The least and the greatest value that is not NaN.
    extremes: Option<(Scalar, Scalar)>,
    numbers: Option<Numbers>,
    distinct: Distinct,
    frequent: Option<Frequent>,
    /// Whether spread, quantiles, frequent texts and the extremes of texts are left out.
    is_outline: bool,
}

/// What numbers come to beyond that.
#[derive(Clone, Debug, Default)]
struct Numbers {
    integers: i128,
    floats: ExactSum,
    squares: Wide,
    sketch: Sketch,
}

/// By their exact values, however they are laid out in memory.
impl PartialEq for Numbers {
    fn eq(&self, other: &Self) -> bool {
        self.integers == other.integers
            && (self.floats.bytes(), self.floats.special()) == (other.floats.bytes(), other.floats.special())
            && self.squares.bytes() == other.squares.bytes()
            && self.sketch == other.sketch
    }
}

/// A column of another type than the profile's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a profile of {} can't take {found}", expected.name())]
pub struct TypeMismatch {
    expected: DataType,
    found: String,
}

/// So many values lie between two bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bin {
    /// The lower bound, which belongs to it.
    pub from: f64,
    /// The upper bound, which belongs to the next one, if there is one.
    pub to: f64,
    /// How many, by the sketch: a value within 1 % of a bound may count on its other side.
    pub count: u64,
}

impl ColumnProfile {
    /// Of no values of this type.
    pub fn new(data_type: DataType) -> Self {
        let is_number = matches!(data_type, DataType::I32 | DataType::I64 | DataType::F32 | DataType::F64);
        Self {
            data_type,
            nulls: 0,
            count: 0,
            nans: 0,
            trues: 0,
            extremes: None,
            numbers: is_number.then(Numbers::default),
            distinct: Distinct::default(),
            frequent: (data_type == DataType::String).then(Frequent::default),
            is_outline: false,
        }
    }

    /// As [`Self::new`], for counts, extremes of what is no text, means and distinct values alone, at a fraction of the
    /// cost: for rows on their way past. An outline is neither stored nor merged with a whole profile.
    pub fn outline(data_type: DataType) -> Self {
        Self {
            frequent: None,
            is_outline: true,
            ..Self::new(data_type)
        }
    }

    /// Takes in every value of `column`, which is of the profile's type.
    ///
    /// # Errors
    /// When it is not; then nothing was taken in.
    pub fn add(&mut self, column: &dyn Array) -> Result<(), TypeMismatch> {
        if *column.data_type() != self.data_type.arrow() && !matches!(self.data_type, DataType::List(_)) {
            return Err(TypeMismatch {
                expected: self.data_type,
                found: column.data_type().to_string(),
            });
        }
        let nulls = column.logical_nulls().map_or(0, |nulls| nulls.null_count());
        self.nulls += nulls as u64;
        self.count += (column.len() - nulls) as u64;
        match self.data_type {
            DataType::String => column
                .as_string::<i32>()
                .iter()
                .flatten()
                .for_each(|text| self.add_text(text)),
            DataType::Bool => column.as_boolean().iter().flatten().for_each(|value| {
                self.trues += u64::from(value);
                self.extend(ScalarRef::Bool(value));
                self.distinct.add(hash(ScalarRef::Bool(value)));
            }),
            DataType::I32 => self.add_integers(&widened::<Int32Type, _>(column)),
            DataType::I64 => self.add_integers(&values::<Int64Type>(column)),
            DataType::F32 => self.add_floats(&widened::<Float32Type, _>(column)),
            DataType::F64 => self.add_floats(&values::<Float64Type>(column)),
            DataType::Timestamp => self.add_integers(&values::<TimestampMicrosecondType>(column)),
            DataType::List(_) => {}
        }
        Ok(())
    }

    fn add_text(&mut self, text: &str) {
        let is_known = self.frequent.as_mut().is_some_and(|frequent| frequent.add(text));
        // A text that has been seen can't be a new extreme or a new distinct value.
        if !is_known {
            if !self.is_outline {
                self.extend(ScalarRef::Text(text));
            }
            self.distinct.add(hash(ScalarRef::Text(text)));
        }
    }

    /// Integers, or moments.
    fn add_integers(&mut self, values: &[i64]) {
        if let Some(numbers) = &mut self.numbers {
            let sum: i128 = values.iter().map(|value| i128::from(*value)).sum();
            numbers.integers = numbers.integers.wrapping_add(sum);
            if !self.is_outline {
                for value in values {
                    numbers.squares.add_square_of_integer(*value);
                    numbers.sketch.add(*value as f64);
                }
            }
        }
        let ends = values.iter().copied().min().zip(values.iter().copied().max());
        self.extend_to(ends.map(|(least, greatest)| (ScalarRef::Int(least), ScalarRef::Int(greatest))));
        self.distinct
            .add_all(values.iter().map(|value| hash(ScalarRef::Int(*value))));
    }

    fn add_floats(&mut self, values: &[f64]) {
        for values in values.chunks(BLOCK) {
            let block = FloatBlock::of(values);
            if let Some(numbers) = &mut self.numbers {
                numbers.floats.add_block(&block);
                if !self.is_outline {
                    for value in values {
                        numbers.squares.add_square_of_float(*value);
                        numbers.sketch.add(*value);
                    }
                }
            }
            self.nans += block.nans() as u64;
            let ends = block.extremes();
            self.extend_to(ends.map(|(least, greatest)| (ScalarRef::Float(least), ScalarRef::Float(greatest))));
            self.distinct
                .add_all(values.iter().map(|value| hash(ScalarRef::float(*value))));
        }
    }

    /// Moves the extremes out to those of some values.
    fn extend_to(&mut self, ends: Option<(ScalarRef<'_>, ScalarRef<'_>)>) {
        if let Some((least, greatest)) = ends {
            self.extend(least);
            self.extend(greatest);
        }
    }

    /// Moves the extremes out to `value`.
    fn extend(&mut self, value: ScalarRef<'_>) {
        match &mut self.extremes {
            None => self.extremes = Some((value.to_owned(), value.to_owned())),
            Some((least, greatest)) => {
                if value < least.borrow() {
                    *least = value.to_owned();
                }
                if value > greatest.borrow() {
                    *greatest = value.to_owned();
                }
            }
        }
    }

    /// Takes in everything that `other`, of the same type, has taken in.
    pub fn merge(&mut self, other: &Self) {
        debug_assert_eq!(
            self.is_outline, other.is_outline,
            "an outline knows too little of a whole profile"
        );
        debug_assert_eq!(self.data_type, other.data_type, "profiles of two types never meet");
        self.nulls += other.nulls;
        self.count += other.count;
        self.nans += other.nans;
        self.trues += other.trues;
        if let Some((least, greatest)) = &other.extremes {
            self.extend(least.borrow());
            self.extend(greatest.borrow());
        }
        if let (Some(numbers), Some(others)) = (&mut self.numbers, &other.numbers) {
            numbers.integers = numbers.integers.wrapping_add(others.integers);
            numbers.floats.merge(&others.floats);
            numbers.squares.merge(&others.squares);
            numbers.sketch = Sketch::merged([&numbers.sketch, &others.sketch].into_iter(), std::iter::empty());
        }
        self.distinct.merge(&other.distinct);
        if let (Some(frequent), Some(others)) = (&mut self.frequent, &other.frequent) {
            frequent.merge(others);
        }
    }

    /// Leaves out texts that are not frequent. What is merged afterwards adds up; further values are not to be added.
    pub fn seal(&mut self) {
        if let Some(frequent) = &mut self.frequent {
            frequent.seal();
        }
    }

    /// The type of the values.
    pub fn data_type(&self) -> DataType {
        self.data_type
    }

    /// Nulls.
    pub fn nulls(&self) -> u64 {
        self.nulls
    }

    /// Values that are not null.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Values that are NaN.
    pub fn nans(&self) -> u64 {
        self.nans
    }

    /// Of a bool, values that are true; none of another type.
    pub fn trues(&self) -> Option<u64> {
        (self.data_type == DataType::Bool).then_some(self.trues)
    }

    /// The least value; none over nothing but nulls and NaN.
    pub fn min(&self) -> Option<Value> {
        self.extremes.as_ref().map(|(least, _)| self.value(least))
    }

    /// The greatest value; none over nothing but nulls and NaN.
    pub fn max(&self) -> Option<Value> {
        self.extremes.as_ref().map(|(_, greatest)| self.value(greatest))
    }

    fn value(&self, scalar: &Scalar) -> Value {
        match scalar {
            Scalar::Bool(value) => Value::Bool(*value),
            Scalar::Int(value) if self.data_type == DataType::Timestamp => {
                Value::Timestamp(EventTime::from_micros(*value))
            }
            Scalar::Int(value) => Value::I64(*value),
            Scalar::Float(value) => Value::F64(*value),
            Scalar::Text(value) => Value::String(value.to_string()),
        }
    }

    /// The mean of numbers, from the exact sum; none over nothing.
    pub fn mean(&self) -> Option<f64> {
        let numbers = self.numbers.as_ref().filter(|_| self.count > 0)?;
        let sum = if self.is_float() {
            numbers.floats.value()
        } else {
            numbers.integers as f64
        };
        Some(sum / self.count as f64)
    }

    /// The standard deviation of numbers, as of a sample; none of fewer than two, or of an outline.
    pub fn stddev(&self) -> Option<f64> {
        let numbers = self.numbers.as_ref().filter(|_| !self.is_outline)?;
        if !STDDEV.is_defined(self.count) {
            return None;
        }
        if self.is_float() {
            return match numbers.floats.finite() {
                Some(sum) => STDDEV.of(self.count, sum, &numbers.squares, Unit::Least),
                None => Some(f64::NAN),
            };
        }
        let mut sum = Wide::default();
        sum.add_shifted(numbers.integers.unsigned_abs(), 0, numbers.integers < 0);
        STDDEV.of(self.count, &sum, &numbers.squares, Unit::One)
    }

    fn is_float(&self) -> bool {
        matches!(self.data_type, DataType::F32 | DataType::F64)
    }

    /// A quantile of numbers, in millionths, within 1 %; none over nothing. Beyond neither extreme.
    pub fn quantile(&self, quantile: u32) -> Option<f64> {
        let near = self.numbers.as_ref()?.sketch.quantile(quantile)?;
        let Some((least, greatest)) = self.finite_extremes() else {
            return Some(near);
        };
        Some(if near.is_finite() {
            near.clamp(least, greatest)
        } else {
            near
        })
    }

    /// How many distinct values there are, and whether that is exact.
    pub fn distinct(&self) -> (u64, bool) {
        self.distinct.count()
    }

    /// The most frequent texts, most frequent first, at most `most`; none of other types, or of too many texts.
    pub fn frequent(&self, most: usize) -> Option<Vec<FrequentText>> {
        self.frequent.as_ref()?.most(most)
    }

    /// How finite numbers spread over `bins` of equal width between the least and the greatest; empty without any, and of
    /// an outline.
    pub fn histogram(&self, bins: usize) -> Vec<Bin> {
        let (Some(numbers), Some((least, greatest)), false) = (&self.numbers, self.finite_extremes(), self.is_outline)
        else {
            return Vec::new();
        };
        let bins = if least == greatest { 1 } else { bins.max(1) };
        // In halves, since the distance of two doubles may be no double.
        let width = (greatest / 2.0 - least / 2.0) / bins as f64 * 2.0;
        let bound = |at: usize| {
            if at == bins {
                greatest
            } else {
                least + width * at as f64
            }
        };
        let mut counted: Vec<Bin> = (0..bins)
            .map(|at| Bin {
                from: bound(at),
                to: bound(at + 1),
                count: 0,
            })
            .collect();
        for (value, count) in numbers.sketch.middles().filter(|(value, _)| value.is_finite()) {
            let value = value.clamp(least, greatest);
            let at = counted.partition_point(|bin| bin.from <= value).saturating_sub(1);
            if let Some(bin) = counted.get_mut(at) {
                bin.count += count;
            }
        }
        counted
    }

    /// The least and the greatest finite number.
    fn finite_extremes(&self) -> Option<(f64, f64)> {
        let (least, greatest) = self.extremes.as_ref()?;
        let number = |scalar: &Scalar| match scalar {
            Scalar::Int(value) => Some(*value as f64),
            Scalar::Float(value) => Some(*value),
            Scalar::Bool(_) | Scalar::Text(_) => None,
        };
        let (mut least, mut greatest) = (number(least)?, number(greatest)?);
        if !(least.is_finite() && greatest.is_finite()) {
            // Beside infinities, what the sketch knows of the others.
            let middles = || self.numbers.iter().flat_map(|numbers| numbers.sketch.middles());
            let mut finite = middles().map(|(value, _)| value).filter(|value| value.is_finite());
            let first = finite.next()?;
            let last = finite.last().unwrap_or(first);
            (least, greatest) = (least.max(first), greatest.min(last));
        }
        Some((least, greatest))
    }

    /// Appends its stored form: equal profiles give equal bytes.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        stored::encode(self, bytes);
    }

    /// Reads a stored profile of `data_type` back; the bytes that follow it are left.
    ///
    /// # Errors
    /// When the bytes are no profile of this type.
    pub fn decode(data_type: DataType, bytes: &[u8]) -> Result<(Self, &[u8]), RowError> {
        stored::decode(data_type, bytes)
    }
}

/// The values of a column that are not null, where they lie if none is.
fn values<T: ArrowPrimitiveType>(column: &dyn Array) -> Cow<'_, [T::Native]> {
    let column = column.as_primitive::<T>();
    match column.null_count() {
        0 => Cow::Borrowed(column.values()),
        _ => Cow::Owned(column.iter().flatten().collect()),
    }
}

/// As [`values`], widened.
fn widened<T: ArrowPrimitiveType, W: From<T::Native>>(column: &dyn Array) -> Vec<W> {
    values::<T>(column).iter().map(|value| W::from(*value)).collect()
}

#[cfg(test)]
mod tests;
