use super::keys::{encode, rows, typed};
use ondol_feature_store_api::wire::EntityColumn;
use ondol_vocabulary::{DataType, EntityKey, EventTime, Field, Value};

fn field(name: &str, data_type: DataType) -> Field {
    Field {
        name: name.to_owned(),
        data_type,
    }
}

fn column(name: &str, values: &[Value]) -> EntityColumn {
    EntityColumn {
        name: name.to_owned(),
        values: values.to_vec(),
    }
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn refusal(key: DataType, value: Value) -> String {
    typed(&[field("id", key)], &[column("id", &[Value::Null, value])])
        .unwrap_err()
        .to_string()
}

#[test]
fn values_take_the_type_of_their_key() {
    let keys = [field("at", DataType::Timestamp), field("id", DataType::I32)];
    let entities = [
        column("id", &[Value::I64(7), Value::I64(8), Value::Null]),
        column("unrelated", &[Value::Null, Value::Null, Value::Null]),
        column(
            "at",
            &[text("1970-01-01T00:00:00.000005Z"), Value::I64(5), Value::I64(5)],
        ),
    ];
    let columns = typed(&keys, &entities).unwrap();
    let moment = Value::Timestamp(EventTime::from_micros(5));
    let key = |id: i64| EntityKey::from_values([&moment, &Value::I64(id)]).unwrap();
    assert_eq!(encode(&columns, &[0, 1]).unwrap(), [key(7), key(8), None]);
}

#[test]
fn a_wrong_value_is_named_with_its_column_row_and_remedy() {
    assert_eq!(
        refusal(DataType::I64, text("7")),
        "entity `id` is `7` in row 1, which is no i64: give a whole number without quotes"
    );
    assert!(refusal(DataType::I32, Value::I64(1 << 40)).ends_with("it is beyond 32 bits"));
    assert!(refusal(DataType::I64, Value::F64(1.5)).contains("`1.5`"));
    assert!(refusal(DataType::String, Value::I64(7)).ends_with("write it in quotes"));
    assert!(refusal(DataType::Bool, Value::I64(1)).ends_with("give true or false"));
    assert!(refusal(DataType::Timestamp, text("2013-01-01T05:17:00")).contains("naive timestamp"));
}

#[test]
fn a_missing_key_column_says_what_was_given() {
    let error = typed(&[field("card_id", DataType::String)], &[column("card", &[])]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the features need entity `card_id` (string), and the request gives `card`"
    );
}

#[test]
fn columns_of_different_lengths_are_refused() {
    let error = rows(&[column("a", &[Value::Null]), column("b", &[])])
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "entity column `b` has 0 values and `a` has 1: give one value per entity in each"
    );
    assert_eq!(rows(&[]), Ok(0));
}

#[test]
fn the_nearest_name_is_suggested_and_a_far_one_is_not() {
    assert_eq!(super::nearest("crad", ["card", "merchant"]), Some("card".to_owned()));
    assert_eq!(super::nearest("weather", ["card", "merchant"]), None);
}
