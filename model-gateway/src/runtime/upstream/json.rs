//! Tensors as nested JSON lists, for the protocols that have no other form.

use crate::runtime::tensor::{ElementType, NamedTensor, TensorData, each_type};
use serde_json::Value;
use std::io::Write as _;

/// How a float that JSON does not have is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// As null: what pandas reads as missing.
    Null,
    /// As `NaN`, `Infinity`: not JSON, but what TensorFlow Serving reads.
    Literal,
}

/// Appends element `index`. Whole floats are written without a point, so that a column of integers stays one.
pub(super) fn write_element(text: &mut Vec<u8>, data: &TensorData, index: usize, missing: Missing) {
    trait Element {
        fn write(&self, text: &mut Vec<u8>, missing: Missing);
    }
    macro_rules! plain {
        ($($type:ty),*) => {$(
            impl Element for $type {
                fn write(&self, text: &mut Vec<u8>, _: Missing) {
                    // Writing to a vector can't fail.
                    let _ = write!(text, "{self}");
                }
            }
        )*};
    }
    plain!(bool, u8, u16, u32, u64, i8, i16, i32, i64);
    macro_rules! float {
        ($($type:ty),*) => {$(
            impl Element for $type {
                fn write(&self, text: &mut Vec<u8>, missing: Missing) {
                    let _ = match missing {
                        _ if self.is_finite() => write!(text, "{self}"),
                        Missing::Null => write!(text, "null"),
                        Missing::Literal if self.is_nan() => write!(text, "NaN"),
                        Missing::Literal => write!(text, "{}Infinity", if *self < 0.0 { "-" } else { "" }),
                    };
                }
            }
        )*};
    }
    float!(f32, f64);
    impl Element for String {
        fn write(&self, text: &mut Vec<u8>, _: Missing) {
            // A text is always JSON.
            let _ = serde_json::to_writer(text, self);
        }
    }
    each_type!(data, values => match values.get(index) {
        Some(value) => value.write(text, missing),
        None => text.extend_from_slice(b"null"),
    });
}

/// Appends `items` as a list.
pub(super) fn write_list<T>(
    text: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    text.push(b'[');
    for (place, item) in items.into_iter().enumerate() {
        if place > 0 {
            text.push(b',');
        }
        write(text, item);
    }
    text.push(b']');
}

/// Appends `items` as an object.
pub(super) fn write_object<'a, T>(
    text: &mut Vec<u8>,
    items: impl IntoIterator<Item = (&'a str, T)>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    text.push(b'{');
    for (place, (name, item)) in items.into_iter().enumerate() {
        if place > 0 {
            text.push(b',');
        }
        let _ = serde_json::to_writer(&mut *text, name);
        text.push(b':');
        write(text, item);
    }
    text.push(b'}');
}

/// Appends the elements from `begin` on as nested lists of `shape`; a single element where there is no dimension.
pub(super) fn write_nested(text: &mut Vec<u8>, data: &TensorData, begin: usize, shape: &[i64], missing: Missing) {
    match shape.split_first() {
        None => write_element(text, data, begin, missing),
        Some((size, rest)) => {
            let size = usize::try_from(*size).unwrap_or(0);
            let step: usize = rest.iter().map(|size| usize::try_from(*size).unwrap_or(0)).product();
            write_list(text, 0..size, |text, place| {
                write_nested(text, data, begin + place * step, rest, missing);
            });
        }
    }
}

/// Appends row `row` of `tensor`: a value, or nested lists.
pub(super) fn write_row(text: &mut Vec<u8>, tensor: &NamedTensor, row: usize, missing: Missing) {
    let rest = tensor.shape.get(1..).unwrap_or_default();
    let width: usize = rest.iter().map(|size| usize::try_from(*size).unwrap_or(0)).product();
    write_nested(text, &tensor.data, row * width, rest, missing);
}

/// A tensor of `element` from nested lists.
pub(super) fn read(name: &str, element: ElementType, value: &Value) -> Result<NamedTensor, String> {
    let mut shape = Vec::new();
    let mut leaves = Vec::new();
    flatten(value, 0, &mut shape, &mut leaves).map_err(|error| format!("output `{name}`: {error}"))?;
    let shape = shape
        .into_iter()
        .map(|size| i64::try_from(size).unwrap_or(i64::MAX))
        .collect();
    let data = elements(element, &leaves).ok_or_else(|| format!("output `{name}` holds what is no {element}"))?;
    Ok(NamedTensor {
        name: name.to_owned(),
        shape,
        data,
    })
}

/// Collects the leaves in order; every list of one level must be of one length.
fn flatten<'v>(
    value: &'v Value,
    depth: usize,
    shape: &mut Vec<usize>,
    leaves: &mut Vec<&'v Value>,
) -> Result<(), String> {
    match value {
        Value::Array(items) => {
            match shape.get(depth) {
                None if leaves.is_empty() => shape.push(items.len()),
                Some(size) if *size == items.len() => {}
                _ => return Err("its lists are of different lengths".to_owned()),
            }
            items
                .iter()
                .try_for_each(|item| flatten(item, depth + 1, shape, leaves))
        }
        leaf if shape.len() == depth => {
            leaves.push(leaf);
            Ok(())
        }
        _ => Err("its lists are of different depths".to_owned()),
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "an FP32 tensor is rounded to the nearest, as the protocol means it"
)]
fn elements(element: ElementType, leaves: &[&Value]) -> Option<TensorData> {
    fn each<T>(leaves: &[&Value], read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
        leaves.iter().map(|leaf| read(leaf)).collect()
    }
    fn float(leaf: &Value) -> Option<f64> {
        match leaf {
            Value::Null => Some(f64::NAN),
            Value::Bool(value) => Some(f64::from(u8::from(*value))),
            Value::Number(number) => number.as_f64(),
            Value::String(text) if text == "NaN" => Some(f64::NAN),
            Value::String(text) if text == "Infinity" => Some(f64::INFINITY),
            Value::String(text) if text == "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        }
    }
    macro_rules! integers {
        ($read:ident) => {
            each(leaves, |leaf| leaf.$read()?.try_into().ok())?
        };
    }
    Some(match element {
        ElementType::Bool => TensorData::Bool(each(leaves, |leaf| {
            leaf.as_bool().or_else(|| leaf.as_i64().map(|value| value != 0))
        })?),
        ElementType::U8 => TensorData::U8(integers!(as_u64)),
        ElementType::U16 => TensorData::U16(integers!(as_u64)),
        ElementType::U32 => TensorData::U32(integers!(as_u64)),
        ElementType::U64 => TensorData::U64(integers!(as_u64)),
        ElementType::I8 => TensorData::I8(integers!(as_i64)),
        ElementType::I16 => TensorData::I16(integers!(as_i64)),
        ElementType::I32 => TensorData::I32(integers!(as_i64)),
        ElementType::I64 => TensorData::I64(integers!(as_i64)),
        ElementType::F32 => TensorData::F32(each(leaves, |leaf| float(leaf).map(|value| value as f32))?),
        ElementType::F64 => TensorData::F64(each(leaves, float)?),
        ElementType::String => TensorData::String(each(leaves, |leaf| match leaf {
            Value::String(text) => Some(text.clone()),
            Value::Null => None,
            other => Some(other.to_string()),
        })?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tensor(shape: &[i64], data: TensorData) -> NamedTensor {
        NamedTensor {
            name: "x".to_owned(),
            shape: shape.to_vec(),
            data,
        }
    }

    #[test]
    fn a_tensor_is_written_and_read_back() {
        for (tensor, expected) in [
            (tensor(&[2, 2], TensorData::F32(vec![1.0, 0.5, 1e30, -0.25])), None),
            (
                tensor(&[3], TensorData::I64(vec![i64::MIN, 0, i64::MAX])),
                Some("[-9223372036854775808,0,9223372036854775807]"),
            ),
            (
                tensor(&[2, 1], TensorData::String(vec!["a\"b".into(), String::new()])),
                Some("[[\"a\\\"b\"],[\"\"]]"),
            ),
            (tensor(&[2], TensorData::Bool(vec![true, false])), Some("[true,false]")),
            (
                tensor(&[1, 2, 2], TensorData::F64(vec![0.1, 2.0, 3.0, 4.5])),
                Some("[[[0.1,2],[3,4.5]]]"),
            ),
        ] {
            let mut text = Vec::new();
            write_nested(&mut text, &tensor.data, 0, &tensor.shape, Missing::Null);
            if let Some(expected) = expected {
                assert_eq!(String::from_utf8_lossy(&text), expected);
            }
            let value: Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(read("x", tensor.data.element(), &value).unwrap(), tensor);
        }
    }

    #[test]
    fn what_json_does_not_have_is_null_or_a_literal() {
        let data = TensorData::F32(vec![f32::NAN, f32::NEG_INFINITY]);
        for (missing, expected) in [(Missing::Null, "[null,null]"), (Missing::Literal, "[NaN,-Infinity]")] {
            let mut text = Vec::new();
            write_nested(&mut text, &data, 0, &[2], missing);
            assert_eq!(String::from_utf8_lossy(&text), expected);
        }
    }

    #[test]
    fn ragged_lists_and_other_types_are_refused() {
        for (element, value) in [
            (ElementType::F32, json!([[1.0], [1.0, 2.0]])),
            (ElementType::F32, json!([[1.0], 2.0])),
            (ElementType::F32, json!([1.0, [2.0]])),
            (ElementType::F64, json!(["a"])),
            (ElementType::U8, json!([256])),
            (ElementType::String, json!([null])),
        ] {
            assert!(read("x", element, &value).is_err(), "{value}");
        }
    }
}
