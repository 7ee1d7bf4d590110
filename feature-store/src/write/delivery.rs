//! The form a delivery must have, checked once where it enters: what follows relies on it.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType as ArrowType, Field, Int32Type, Int64Type, Schema};
use hashbrown::HashMap;
use ondol_feature_store_api::FeatureStoreError;
use ondol_feature_store_api::wire::{Delivery, DeliveryHeader, columns};
use ondol_vocabulary::{DataType, PartitionRange, SourceOrigin, SourceVersion};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// The number that names a generation in rows.
pub(crate) fn generation(header: &DeliveryHeader) -> u64 {
    generation_number(&header.generation)
}

/// The number that names a generation in rows, by its name.
pub(crate) fn generation_number(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

/// The delivery's events with exactly the columns and marks of `source`'s present version and the three of the delivery,
/// in order; or what is wrong with them.
///
/// A delivery decoded by an older version of the source lacks the columns that came since: they are null. Marks that the
/// present version does not know are dropped: the log will not have them either.
pub(crate) fn check(source: &SourceVersion, delivery: &Delivery) -> Result<RecordBatch, FeatureStoreError> {
    let header = &delivery.header;
    if header.source_version > source.version {
        return Err(FeatureStoreError::Unavailable {
            detail: format!(
                "the delivery was decoded by `{}@{}`, which has not reached this store yet (it has @{})",
                header.source, header.source_version, source.version
            ),
        });
    }
    let events = conform(source, header, &delivery.events)?;
    let required = [
        source.definition.time.as_str(),
        columns::PARTITION,
        columns::OFFSET,
        columns::INGESTED_AT,
    ];
    for name in required {
        let nulls = events.column_by_name(name).map_or(0, |column| column.null_count());
        if nulls > 0 {
            return Err(invalid(
                header,
                &format!("column `{name}` is null in {nulls} rows: it never may be"),
            ));
        }
    }
    // A message may hold several events. An older version of the source may have said so.
    let several = header.source_version < source.version || is_unnested(source);
    check_positions(header, &events, several)?;
    Ok(events)
}

fn conform(
    source: &SourceVersion,
    header: &DeliveryHeader,
    events: &RecordBatch,
) -> Result<RecordBatch, FeatureStoreError> {
    let declared = source
        .definition
        .schema
        .iter()
        .map(|field| (field.name.as_str(), field.data_type.arrow()));
    let own = [
        (columns::PARTITION, ArrowType::Int32),
        (columns::OFFSET, ArrowType::Int64),
        (columns::INGESTED_AT, DataType::Timestamp.arrow()),
    ];
    let marks = source.definition.marks().map(|name| (name, ArrowType::Boolean));
    let mut fields = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for (name, wanted) in declared.chain(own).chain(marks) {
        let array = match events.column_by_name(name) {
            Some(array) if *array.data_type() == wanted => Arc::clone(array),
            Some(array) => {
                let detail = format!("column `{name}` is {}, the source says {wanted}", array.data_type());
                return Err(invalid(header, &detail));
            }
            None if header.source_version < source.version => new_null_array(&wanted, events.num_rows()),
            None => return Err(invalid(header, &format!("column `{name}` is missing"))),
        };
        fields.push(Field::new(name, wanted, true));
        arrays.push(array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(events.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
        .map_err(|error| invalid(header, &error.to_string()))
}

fn is_unnested(source: &SourceVersion) -> bool {
    match &source.definition.origin {
        SourceOrigin::Stream { shape, .. } => shape.unnest.is_some(),
        SourceOrigin::Table { .. } => false,
    }
}

/// `several`: whether events may share a position.
fn check_positions(header: &DeliveryHeader, events: &RecordBatch, several: bool) -> Result<(), FeatureStoreError> {
    let mut expected: HashMap<i32, PartitionRange> = HashMap::with_capacity(header.ranges.len());
    for range in &header.ranges {
        if range.partition < 0 || range.from < 0 || range.from > range.to {
            let PartitionRange { partition, from, to } = range;
            return Err(invalid(
                header,
                &format!("[{from}, {to}) of partition {partition} is no range of offsets"),
            ));
        }
        if expected.insert(range.partition, *range).is_some() {
            return Err(invalid(
                header,
                &format!("partition {} has two ranges: join them", range.partition),
            ));
        }
    }
    let (Some(partitions), Some(offsets)) = (
        events.column_by_name(columns::PARTITION),
        events.column_by_name(columns::OFFSET),
    ) else {
        return Err(invalid(header, "the position columns are missing"));
    };
    let partitions = partitions.as_primitive::<Int32Type>().values();
    let offsets = offsets.as_primitive::<Int64Type>().values();
    for (&partition, &offset) in partitions.iter().zip(offsets) {
        // `from` moves along, so that a backward offset, or one repeated without leave, falls out of its range.
        match expected.get_mut(&partition) {
            Some(range) if (range.from..range.to).contains(&offset) => range.from = offset + i64::from(!several),
            _ => {
                let detail = format!(
                    "offset {offset} of partition {partition} is outside the delivery's ranges, repeated or out of order"
                );
                return Err(invalid(header, &detail));
            }
        }
    }
    Ok(())
}

fn invalid(header: &DeliveryHeader, detail: &str) -> FeatureStoreError {
    FeatureStoreError::InvalidRequest {
        detail: format!("delivery of `{}`: {detail}", header.source),
    }
}

#[cfg(test)]
mod tests;
