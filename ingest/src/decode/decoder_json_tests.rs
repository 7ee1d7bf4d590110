//! Columns that are the JSON texts of what stands in a message.

use super::*;

#[test]
fn a_column_of_json_is_what_stands_in_the_message_as_it_stands_there() {
    let json = |path: &str| Some(ColumnReading::json(field(path)));
    for deep in [false, true] {
        let mut source = Source::new(&[]);
        source.put("whole", DataType::String, json("payload"));
        source.put("n", DataType::I64, None);
        if deep {
            source.put("card", DataType::String, json("payload.card"));
            source.put(
                "id",
                DataType::String,
                Some(ColumnReading::of(field("payload.card.id"))),
            );
        }
        let read = |payload: &str| {
            let cells = cells(&source, &format!(r#"{{"payload" : {payload} ,"n":5}}"#));
            // The time stands before them.
            cells[1].clone()
        };
        for payload in [
            r#"{"b" : 1.50,  "card":{"id":"c\u00e9","x":[1, {}]}, "b":2}"#,
            "{}",
            r#"{"card":null}"#,
        ] {
            assert_eq!(read(payload), text(payload), "as it stands, white space and all");
        }
        assert_eq!(read("null"), Cell::Null);
        if !deep {
            for payload in ["[1, 2]", "1e999", "true", "-0.0"] {
                assert_eq!(read(payload), text(payload));
            }
            assert_eq!(read(r#""{\"a\":1}""#), text(r#"{"a":1}"#), "a text holds the JSON");
            assert_eq!(read(r#""x""#), text("x"));
        } else {
            let cells = cells(&source, r#"{"payload":{"card" : {"id":"c1", "z":0}}}"#);
            assert_eq!(cells[3..], [text(r#"{"id":"c1", "z":0}"#), text("c1")]);
        }
    }
}

#[test]
fn rows_of_changes_and_elements_of_arrays_are_json_too() {
    let json = |path: &str| Some(ColumnReading::json(field(path)));
    let mut elements = Source::new(&[("sku", DataType::String, Some(field("items.sku")))]).unnest("items");
    elements.put("item", DataType::String, json("items"));
    let found = elements
        .read(value(r#"{"items":[{"sku":"a", "n":1},{"sku":"b"}]}"#))
        .unwrap()
        .0;
    let item = |row: &Row| (row[0].clone(), row[2].clone());
    assert_eq!(item(&found[0]), (text("a"), text(r#"{"sku":"a", "n":1}"#)));
    assert_eq!(item(&found[1]), (text("b"), text(r#"{"sku":"b"}"#)));

    let mut changes = Source::new(&[("id", DataType::I64, None)]).debezium();
    let row = ColumnReading::json(ColumnOrigin::Envelope(vec!["after".to_owned()]));
    changes.put("row", DataType::String, Some(row));
    changes.put("tags", DataType::String, json("tags"));
    let found = changes
        .read(value(r#"{"op":"c","after":{"id":1, "tags":["x"]}}"#))
        .unwrap()
        .0;
    assert_eq!(
        (&found[0][0], &found[0][2], &found[0][3]),
        (&Cell::Int(1), &text(r#"{"id":1, "tags":["x"]}"#), &text(r#"["x"]"#))
    );
}

#[test]
fn a_plain_column_takes_no_object_and_one_at_the_place_of_json_neither() {
    let mut source = Source::new(&[("payload", DataType::String, None)]);
    source.put("whole", DataType::String, Some(ColumnReading::json(field("payload"))));
    assert!(
        source
            .detail(value(r#"{"payload":{}}"#))
            .contains("is an object, expected string")
    );
    let found = cells(&source, r#"{"payload":"x"}"#);
    assert_eq!((&found[0], &found[2]), (&text("x"), &text("x")));
}
