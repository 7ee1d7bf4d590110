//! Recorded vectors that are not of the definition's types: a caller sent the model's own tensors, in which an entry that
//! counts may be 1.5. Their values become the model's elements straight away, each rounded at most once, as they came.

use crate::fault::internal;
use crate::layout::Layout;
use crate::runtime::tensor::{NamedTensor, TensorData};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_vocabulary::{DataType, Value};

/// Whether a column of `data_type` holds `value` to the bit.
pub(super) fn holds(data_type: DataType, value: &Value) -> bool {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match (data_type, value) {
        (_, Value::Null) => true,
        (DataType::I32 | DataType::I64, Value::F64(number)) => {
            number.fract() == 0.0 && number.abs() <= EXACT && (*number != 0.0 || number.is_sign_positive())
        }
        (DataType::I32 | DataType::I64, Value::String(text)) => {
            !matches!(text.as_str(), "NaN" | "Infinity" | "-Infinity")
        }
        (DataType::I32, Value::I64(number)) => i32::try_from(*number).is_ok(),
        (DataType::F32, Value::F64(number)) => {
            number.is_nan() || f64::from(*number as f32).to_bits() == number.to_bits()
        }
        (DataType::Bool, value) => matches!(value, Value::Bool(_)),
        (DataType::List(items), Value::List(list)) => list.iter().all(|item| holds(items.data_type(), item)),
        // What is of another type altogether is refused with the entry's name.
        _ => true,
    }
}

/// The tensors of `columns`, the vector's entries in order, each with its values by row; none where a value is nothing
/// that its tensor has.
pub(super) fn tensors(
    layout: &Layout,
    columns: &[Vec<Value>],
    rows: usize,
) -> Result<Option<Vec<NamedTensor>>, ModelGatewayError> {
    let mut tensors = layout.blank(rows, columns.len());
    let put = |tensor: &mut NamedTensor, place: usize, value: &Value| put(&mut tensor.data, place, value).is_some();
    let is_taken = match layout {
        Layout::Matrix { .. } => {
            let width = columns.len();
            let matrix = tensors.first_mut().ok_or_else(|| internal("a matrix has no tensor"))?;
            columns.iter().enumerate().all(|(column, values)| {
                let mut rows = values.iter().enumerate();
                rows.all(|(row, value)| put(matrix, row * width + column, value))
            })
        }
        Layout::Columns(inputs) => tensors
            .iter_mut()
            .zip(inputs)
            .zip(columns)
            .all(|((tensor, input), values)| {
                let width = input.width.unwrap_or(1);
                values.iter().enumerate().all(|(row, value)| match value {
                    Value::List(list) if list.len() <= width => {
                        let mut items = list.iter().enumerate();
                        items.all(|(item, value)| put(tensor, row * width + item, value))
                    }
                    Value::List(_) => false,
                    value => put(tensor, row * width, value),
                })
            }),
    };
    Ok(is_taken.then_some(tensors))
}

/// Puts `value` at `place`. A float that is null stays NaN.
fn put(data: &mut TensorData, place: usize, value: &Value) -> Option<()> {
    if data.element().is_float() && *value == Value::Null {
        return Some(());
    }
    let text = |text: &str| match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    };
    macro_rules! float {
        ($values:expr, $type:ty) => {
            *$values.get_mut(place)? = match value {
                Value::F64(number) => *number as $type,
                Value::I64(number) => *number as $type,
                Value::Bool(truth) => <$type>::from(u8::from(*truth)),
                Value::String(name) => text(name)? as $type,
                _ => return None,
            }
        };
    }
    macro_rules! integer {
        ($values:expr) => {
            *$values.get_mut(place)? = match value {
                Value::I64(number) => (*number).try_into().ok()?,
                Value::Bool(truth) => u8::from(*truth).try_into().ok()?,
                _ => return None,
            }
        };
    }
    match data {
        TensorData::F32(values) => float!(values, f32),
        TensorData::F64(values) => float!(values, f64),
        TensorData::I8(values) => integer!(values),
        TensorData::I16(values) => integer!(values),
        TensorData::I32(values) => integer!(values),
        TensorData::I64(values) => integer!(values),
        TensorData::U8(values) => integer!(values),
        TensorData::U16(values) => integer!(values),
        TensorData::U32(values) => integer!(values),
        TensorData::U64(values) => integer!(values),
        TensorData::Bool(values) => {
            let Value::Bool(truth) = value else { return None };
            *values.get_mut(place)? = *truth;
        }
        TensorData::String(values) => {
            let Value::String(text) = value else { return None };
            values.get_mut(place)?.clone_from(text);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::ColumnInput;
    use crate::runtime::tensor::ElementType;
    use ondol_vocabulary::Element;

    #[test]
    fn what_a_column_holds_to_the_bit_is_told_from_what_it_does_not() {
        for (data_type, value, expected) in [
            (DataType::I64, Value::F64(3.0), true),
            (DataType::I64, Value::F64(1.5), false),
            (DataType::I64, Value::F64(-0.0), false),
            (DataType::I32, Value::I64(1 << 40), false),
            (DataType::F32, Value::F64(0.5), true),
            (DataType::F32, Value::F64(0.1), false),
            (DataType::Bool, Value::F64(1.0), false),
            (DataType::Bool, Value::Null, true),
            (DataType::List(Element::I64), Value::List(vec![Value::F64(0.5)]), false),
        ] {
            assert_eq!(holds(data_type, &value), expected, "{data_type} {value:?}");
        }
    }

    #[test]
    fn values_of_other_types_become_the_elements_they_were() {
        let matrix = Layout::Matrix {
            input: "x".to_owned(),
            double: false,
        };
        let columns = [
            vec![Value::F64(1.5), Value::Null],
            vec![Value::F64(f64::from(0.1_f32)), Value::Bool(true)],
        ];
        let made = tensors(&matrix, &columns, 2).unwrap().unwrap();
        let TensorData::F32(cells) = &made[0].data else {
            panic!("{made:?}")
        };
        assert_eq!((cells[0], cells[1], cells[3]), (1.5, 0.1, 1.0));
        assert!(cells[2].is_nan());
        let lists = Layout::Columns(vec![ColumnInput {
            input: "recent".to_owned(),
            element: ElementType::F64,
            width: Some(2),
        }]);
        let made = tensors(&lists, &[vec![Value::List(vec![Value::F64(2.5)])]], 1);
        let TensorData::F64(cells) = &made.unwrap().unwrap()[0].data else {
            panic!("no doubles")
        };
        assert!(cells[0] == 2.5 && cells[1].is_nan());
        let text = [vec![Value::String("much".to_owned())], vec![Value::Null]];
        assert!(tensors(&matrix, &text, 1).unwrap().is_none());
    }
}
