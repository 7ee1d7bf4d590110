//! What a vector's values become in a model's tensors.

use super::*;
use arrow::array::{BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, StringArray};
use arrow::datatypes::{Field, Schema};
use std::sync::Arc;

fn vector(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let field = |(name, column): &(&str, ArrayRef)| Field::new(*name, column.data_type().clone(), true);
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    RecordBatch::try_new(
        Arc::new(schema),
        columns.into_iter().map(|(_, column)| column).collect(),
    )
    .unwrap()
}

fn column(input: &str, element: ElementType, width: Option<usize>) -> ColumnInput {
    ColumnInput {
        input: input.to_owned(),
        element,
        width,
    }
}

#[test]
fn a_matrix_is_row_major_and_a_null_is_nan() {
    let vector = vector(vec![
        ("a", Arc::new(Int64Array::from(vec![Some(1), None]))),
        ("b", Arc::new(BooleanArray::from(vec![Some(true), Some(false)]))),
        ("c", Arc::new(Float32Array::from(vec![0.5, 1.5]))),
        ("d", Arc::new(Int32Array::from(vec![7, 8]))),
    ]);
    for double in [false, true] {
        let layout = Layout::Matrix {
            input: "X".to_owned(),
            double,
        };
        let tensor = layout.tensors(&vector).unwrap().remove(0);
        assert_eq!(tensor.shape, [2, 4]);
        let cells: Vec<f64> = match tensor.data {
            TensorData::F32(cells) => cells.into_iter().map(f64::from).collect(),
            TensorData::F64(cells) => cells,
            other => panic!("no floats: {other:?}"),
        };
        assert_eq!(cells[..4], [1.0, 1.0, 0.5, 7.0]);
        assert!(cells[4].is_nan());
        assert_eq!(cells[5..], [0.0, 1.5, 8.0]);
    }
}

#[test]
fn an_integer_is_rounded_once_to_the_nearest_float() {
    // By way of a double this would become the even neighbour below.
    let number = (1_i64 << 54) + (1 << 30) + 1;
    let vector = vector(vec![("a", Arc::new(Int64Array::from(vec![number])))]);
    let layout = Layout::Matrix {
        input: "X".to_owned(),
        double: false,
    };
    let tensor = layout.tensors(&vector).unwrap().remove(0);
    assert_eq!(tensor.data, TensorData::F32(vec![number as f32]));
}

#[test]
fn columns_keep_their_types_and_shapes() {
    let vector = vector(vec![
        ("n", Arc::new(Int32Array::from(vec![1, 2]))),
        ("x", Arc::new(Float64Array::from(vec![Some(0.1), None]))),
        ("s", Arc::new(StringArray::from(vec!["가", "b"]))),
        ("t", Arc::new(BooleanArray::from(vec![true, false]))),
    ]);
    let layout = Layout::Columns(vec![
        column("n", ElementType::I64, None),
        column("x", ElementType::F64, Some(1)),
        column("s", ElementType::String, Some(1)),
        column("t", ElementType::Bool, None),
    ]);
    let tensors = layout.tensors(&vector).unwrap();
    assert_eq!(tensors[0].data, TensorData::I64(vec![1, 2]));
    assert_eq!(tensors[1].shape, [2, 1]);
    let TensorData::F64(cells) = &tensors[1].data else {
        panic!("no doubles")
    };
    assert_eq!(cells[0].to_bits(), 0.1_f64.to_bits());
    assert!(cells[1].is_nan());
    assert_eq!(
        tensors[2].data,
        TensorData::String(vec!["가".to_owned(), "b".to_owned()])
    );
    assert_eq!(tensors[3].data, TensorData::Bool(vec![true, false]));
}

#[test]
fn a_null_in_a_tensor_without_null_names_the_feature() {
    let vector = vector(vec![("card.n", Arc::new(Int64Array::from(vec![None])))]);
    let layout = Layout::Columns(vec![column("card_n", ElementType::I64, None)]);
    let error = layout.tensors(&vector).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("feature `card.n` is null and input `card_n` (INT64)"),
        "{error}"
    );
}
