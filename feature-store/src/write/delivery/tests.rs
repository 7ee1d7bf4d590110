use super::*;
use arrow::array::{Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use ondol_vocabulary::{Arrival, Field as SourceField, SourceDefinition, SourceOrigin, StreamFormat};

fn source(version: u32, columns: &[(&str, DataType)]) -> SourceVersion {
    let schema = columns.iter().map(|(name, data_type)| SourceField {
        name: (*name).to_owned(),
        data_type: *data_type,
    });
    SourceVersion {
        version,
        definition: SourceDefinition {
            name: "payments".to_owned(),
            origin: SourceOrigin::Stream {
                topic: "payments".to_owned(),
                format: StreamFormat::Json,
                shape: ondol_vocabulary::MessageShape::default(),
            },
            time: "ts".to_owned(),
            late_us: 0,
            arrival: Arrival::Ingest,
            schema: schema.collect(),
        },
    }
}

fn payments(version: u32) -> SourceVersion {
    source(version, &[("card", DataType::String), ("ts", DataType::Timestamp)])
}

fn times(values: Vec<Option<i64>>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
}

/// Events at (partition, offset), with `ranges` of (partition, from, to).
fn delivery(positions: &[(i32, i64)], ranges: &[(i32, i64, i64)]) -> Delivery {
    let rows = positions.len();
    let (partitions, offsets): (Vec<i32>, Vec<i64>) = positions.iter().copied().unzip();
    let columns: [(&str, ArrayRef); 5] = [
        ("card", Arc::new(StringArray::from(vec!["c"; rows]))),
        ("ts", times(vec![Some(1); rows])),
        (columns::PARTITION, Arc::new(Int32Array::from(partitions))),
        (columns::OFFSET, Arc::new(Int64Array::from(offsets))),
        (columns::INGESTED_AT, times(vec![Some(2); rows])),
    ];
    let ranges = ranges
        .iter()
        .map(|&(partition, from, to)| PartitionRange { partition, from, to });
    Delivery {
        header: DeliveryHeader {
            source: "payments".to_owned(),
            source_version: 1,
            generation: "topic-1".to_owned(),
            ranges: ranges.collect(),
            table: None,
        },
        events: RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap(),
    }
}

fn replace(delivery: &mut Delivery, name: &str, array: &ArrayRef) {
    let schema = delivery.events.schema();
    let columns = schema.fields().iter().enumerate().map(|(index, field)| {
        let array = if field.name() == name {
            Arc::clone(array)
        } else {
            Arc::clone(delivery.events.column(index))
        };
        (field.name().clone(), array, true)
    });
    delivery.events = RecordBatch::try_from_iter_with_nullable(columns.collect::<Vec<_>>()).unwrap();
}

fn refusal(source: &SourceVersion, delivery: &Delivery) -> String {
    check(source, delivery).unwrap_err().to_string()
}

#[test]
fn a_good_delivery_passes_as_it_is() {
    let delivery = delivery(&[(0, 5), (1, 7), (0, 8)], &[(0, 5, 10), (1, 7, 8), (2, 0, 0)]);
    let events = check(&payments(1), &delivery).unwrap();
    assert_eq!(events.columns(), delivery.events.columns());
}

#[test]
fn a_delivery_of_no_events_still_has_ranges() {
    assert_eq!(
        check(&payments(1), &delivery(&[], &[(0, 5, 10)])).unwrap().num_rows(),
        0
    );
}

#[test]
fn an_offset_outside_its_range_or_out_of_order_is_refused() {
    for positions in [
        &[(0, 4)][..],
        &[(0, 10)],
        &[(1, 6)],
        &[(0, 6), (0, 6)],
        &[(0, 7), (0, 6)],
    ] {
        let error = refusal(&payments(1), &delivery(positions, &[(0, 5, 10)]));
        assert!(
            error.starts_with("delivery of `payments`: offset ") && error.contains("out of order"),
            "{error}"
        );
    }
}

#[test]
fn ranges_are_well_formed_and_one_a_partition() {
    assert!(refusal(&payments(1), &delivery(&[], &[(0, 5, 4)])).contains("is no range of offsets"));
    assert!(refusal(&payments(1), &delivery(&[], &[(0, -1, 4)])).contains("is no range of offsets"));
    assert!(refusal(&payments(1), &delivery(&[], &[(0, 1, 2), (0, 2, 3)])).contains("has two ranges"));
}

#[test]
fn a_column_of_another_type_is_named() {
    let mut delivery = delivery(&[(0, 5)], &[(0, 5, 6)]);
    let amounts: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    replace(&mut delivery, "card", &amounts);
    assert_eq!(
        refusal(&payments(1), &delivery),
        "delivery of `payments`: column `card` is Float64, the source says Utf8"
    );
}

#[test]
fn a_null_event_time_is_refused() {
    let mut delivery = delivery(&[(0, 5)], &[(0, 5, 6)]);
    replace(&mut delivery, "ts", &times(vec![None]));
    assert!(refusal(&payments(1), &delivery).contains("column `ts` is null in 1 rows"));
}

#[test]
fn a_column_newer_than_the_delivery_is_null() {
    let columns = [
        ("card", DataType::String),
        ("amount", DataType::F64),
        ("ts", DataType::Timestamp),
    ];
    let delivery = delivery(&[(0, 5)], &[(0, 5, 6)]);
    let events = check(&source(2, &columns), &delivery).unwrap();
    assert_eq!(events.column_by_name("amount").unwrap().null_count(), 1);
    assert!(refusal(&source(1, &columns), &delivery).contains("column `amount` is missing"));
}

#[test]
fn a_delivery_of_a_newer_source_may_be_tried_again() {
    let mut delivery = delivery(&[], &[]);
    delivery.header.source_version = 2;
    let error = check(&payments(1), &delivery).unwrap_err();
    assert!(matches!(error, FeatureStoreError::Unavailable { .. }), "{error}");
}
