//! A tensor's elements in JSON, of requests and of an upstream's answers: flat or nested lists, read straight into the
//! tensor's vector. An error says what is wrong with the elements; which tensor it is, the caller knows.
//!
//! Nothing is made in between: the reader pushes each number into the vector of its type. JSON has no NaN: null is NaN in
//! a float tensor, and the texts `NaN`, `Infinity` and `-Infinity` are what they say.

use crate::runtime::tensor::{ElementType, TensorData};
use ondol_vocabulary::Value as Scalar;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde::{Serialize, Serializer};
use std::fmt;

/// The most dimensions a tensor may have; nested data deeper than that is refused.
const MAX_DIMENSIONS: usize = 8;

/// The `count` elements in the JSON text `data`.
pub fn decode(element: ElementType, count: usize, data: &[u8]) -> Result<TensorData, String> {
    macro_rules! read {
        ($variant:ident) => {
            TensorData::$variant(elements(element, count, data)?)
        };
    }
    Ok(match element {
        ElementType::Bool => read!(Bool),
        ElementType::U8 => read!(U8),
        ElementType::U16 => read!(U16),
        ElementType::U32 => read!(U32),
        ElementType::U64 => read!(U64),
        ElementType::I8 => read!(I8),
        ElementType::I16 => read!(I16),
        ElementType::I32 => read!(I32),
        ElementType::I64 => read!(I64),
        ElementType::F32 => read!(F32),
        ElementType::F64 => read!(F64),
        ElementType::String => read!(String),
    })
}

/// The same as values of whatever type each has, null among them: what an input of a definition takes.
pub fn scalars(element: ElementType, count: usize, data: &[u8]) -> Result<Vec<Scalar>, String> {
    elements(element, count, data)
}

fn elements<T: Cell>(element: ElementType, count: usize, data: &[u8]) -> Result<Vec<T>, String> {
    let mut reading = Reading {
        // An element takes at least a digit and a comma.
        cells: Vec::with_capacity(count.min(data.len() / 2 + 1)),
        found: 0,
        count,
        fault: None,
    };
    let mut reader = serde_json::Deserializer::from_slice(data);
    let level = Level {
        reading: &mut reading,
        depth: MAX_DIMENSIONS,
        element,
    };
    let read = level.deserialize(&mut reader).and_then(|()| reader.end());
    match (read, reading.fault) {
        (_, Some(fault)) => Err(fault),
        (Err(error), None) => Err(format!("`data` is not valid: {error}")),
        (Ok(()), None) if reading.found != count => Err(format!(
            "its shape means {count} elements, `data` has {}",
            reading.found
        )),
        (Ok(()), None) => Ok(reading.cells),
    }
}

/// What has been read.
struct Reading<T> {
    cells: Vec<T>,
    /// Elements met, also those beyond `count`, which are not kept.
    found: usize,
    count: usize,
    /// What is wrong with an element: said in words of its own, not as an error of JSON.
    fault: Option<String>,
}

/// A list, or one element.
struct Level<'r, T> {
    reading: &'r mut Reading<T>,
    depth: usize,
    element: ElementType,
}

impl<'de, T: Cell> DeserializeSeed<'de> for Level<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<T: Cell> Level<'_, T> {
    fn push<E: Error>(self, cell: Option<T>, shown: impl fmt::Display) -> Result<(), E> {
        let Self { reading, element, .. } = self;
        reading.found += 1;
        match cell {
            Some(cell) if reading.found <= reading.count => reading.cells.push(cell),
            Some(_) => {}
            None => return Err(fail(reading, format!("{shown} is no {element} value"))),
        }
        Ok(())
    }
}

fn fail<T, E: Error>(reading: &mut Reading<T>, fault: String) -> E {
    let error = E::custom(&fault);
    reading.fault = Some(fault);
    error
}

impl<'de, T: Cell> Visitor<'de> for Level<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of values")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some(depth) = self.depth.checked_sub(1) else {
            let fault = format!("`data` is nested deeper than {MAX_DIMENSIONS} levels");
            return Err(fail(self.reading, fault));
        };
        loop {
            let level = Level {
                reading: &mut *self.reading,
                depth,
                element: self.element,
            };
            if items.next_element_seed(level)?.is_none() {
                return Ok(());
            }
        }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.push(T::of_bool(value), value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.push(T::of_i64(value), value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.push(T::of_u64(value), value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.push(T::of_f64(value), value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.push(
            T::of_str(value),
            format_args!("{:?}", value.chars().take(64).collect::<String>()),
        )
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.push(T::of_null(), "null")
    }
}

/// An element that JSON's kinds of values may become.
trait Cell: Sized {
    fn of_bool(_: bool) -> Option<Self> {
        None
    }
    fn of_i64(_: i64) -> Option<Self> {
        None
    }
    fn of_u64(_: u64) -> Option<Self> {
        None
    }
    fn of_f64(_: f64) -> Option<Self> {
        None
    }
    fn of_str(_: &str) -> Option<Self> {
        None
    }
    fn of_null() -> Option<Self> {
        None
    }
}

macro_rules! integer {
    ($($type:ty),*) => {$(
        impl Cell for $type {
            fn of_i64(value: i64) -> Option<Self> {
                Self::try_from(value).ok()
            }
            fn of_u64(value: u64) -> Option<Self> {
                Self::try_from(value).ok()
            }
        }
    )*};
}

integer!(u8, u16, u32, u64, i8, i16, i32, i64);

/// Each number is rounded once, from the nearest double, which is what clients print.
macro_rules! float {
    ($($type:ty),*) => {$(
        impl Cell for $type {
            fn of_i64(value: i64) -> Option<Self> {
                Some(value as Self)
            }
            fn of_u64(value: u64) -> Option<Self> {
                Some(value as Self)
            }
            #[allow(clippy::cast_possible_truncation, reason = "one macro for both types")]
            fn of_f64(value: f64) -> Option<Self> {
                Some(value as Self)
            }
            fn of_str(value: &str) -> Option<Self> {
                match value {
                    "NaN" => Some(Self::NAN),
                    "Infinity" => Some(Self::INFINITY),
                    "-Infinity" => Some(Self::NEG_INFINITY),
                    _ => None,
                }
            }
            fn of_null() -> Option<Self> {
                Some(Self::NAN)
            }
        }
    )*};
}

float!(f32, f64);

impl Cell for bool {
    fn of_bool(value: bool) -> Option<Self> {
        Some(value)
    }
}

impl Cell for String {
    fn of_str(value: &str) -> Option<Self> {
        Some(value.to_owned())
    }
}

impl Cell for Scalar {
    fn of_bool(value: bool) -> Option<Self> {
        Some(Self::Bool(value))
    }
    fn of_i64(value: i64) -> Option<Self> {
        Some(Self::I64(value))
    }
    fn of_u64(value: u64) -> Option<Self> {
        i64::try_from(value).ok().map(Self::I64)
    }
    fn of_f64(value: f64) -> Option<Self> {
        Some(Self::F64(value))
    }
    fn of_str(value: &str) -> Option<Self> {
        Some(Self::String(value.to_owned()))
    }
    fn of_null() -> Option<Self> {
        Some(Self::Null)
    }
}

/// A tensor's elements as a flat list; NaN and the infinities are null. Single precision is written as the double of the
/// same value, so that whoever reads doubles and rounds has the same bits.
#[derive(Clone, Copy, Debug)]
pub struct Flat<'a>(pub &'a TensorData);

impl Serialize for Flat<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            TensorData::Bool(values) => values.serialize(serializer),
            TensorData::U8(values) => serializer.collect_seq(values),
            TensorData::U16(values) => values.serialize(serializer),
            TensorData::U32(values) => values.serialize(serializer),
            TensorData::U64(values) => values.serialize(serializer),
            TensorData::I8(values) => values.serialize(serializer),
            TensorData::I16(values) => values.serialize(serializer),
            TensorData::I32(values) => values.serialize(serializer),
            TensorData::I64(values) => values.serialize(serializer),
            TensorData::F32(values) => serializer.collect_seq(values.iter().map(|value| f64::from(*value))),
            TensorData::F64(values) => values.serialize(serializer),
            TensorData::String(values) => values.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(element: ElementType, count: usize, data: &str) -> Result<TensorData, String> {
        decode(element, count, data.as_bytes())
    }

    #[test]
    fn nested_and_flat_data_are_the_same_tensor() {
        for data in [r#"[1, 2.5, null, "NaN"]"#, r#"[[1, 2.5], [null, "NaN"]]"#] {
            let TensorData::F32(cells) = read(ElementType::F32, 4, data).unwrap() else {
                panic!("no floats")
            };
            assert_eq!(cells[..2], [1.0, 2.5]);
            assert!(cells[2..].iter().all(|cell| cell.is_nan()));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |element, count, data| read(element, count, data).unwrap_err();
        assert_eq!(
            refused(ElementType::I64, 3, "[1, 2]"),
            "its shape means 3 elements, `data` has 2"
        );
        assert_eq!(
            refused(ElementType::I64, 1, "[1, 2, 3]"),
            "its shape means 1 elements, `data` has 3"
        );
        assert_eq!(refused(ElementType::I8, 1, "[300]"), "300 is no INT8 value");
        assert_eq!(refused(ElementType::I64, 1, "[1.5]"), "1.5 is no INT64 value");
        assert_eq!(refused(ElementType::Bool, 1, "[null]"), "null is no BOOL value");
        assert_eq!(refused(ElementType::F32, 1, r#"["a\n"]"#), r#""a\n" is no FP32 value"#);
        assert!(refused(ElementType::F32, 1, "[{}]").contains("expected a list of values"));
        assert!(refused(ElementType::F32, 1, "[[[[[[[[[1]]]]]]]]]").contains("deeper than 8 levels"));
    }

    #[test]
    fn a_scalar_is_whatever_it_is_in_json() {
        let read = scalars(ElementType::String, 5, br#"["a", 1, 0.5, true, null]"#).unwrap();
        let expected = [
            Scalar::String("a".to_owned()),
            Scalar::I64(1),
            Scalar::F64(0.5),
            Scalar::Bool(true),
            Scalar::Null,
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn single_precision_is_written_without_loss() {
        let written = serde_json::to_string(&Flat(&TensorData::F32(vec![0.1, f32::NAN]))).unwrap();
        assert_eq!(written, "[0.10000000149011612,null]");
        assert_eq!(
            serde_json::to_string(&Flat(&TensorData::U8(vec![1, 2]))).unwrap(),
            "[1,2]"
        );
    }
}
