//! What a seek means under exactly-once: going ahead leaves a range out, on purpose and on record; going back would
//! change nothing, as the store refuses what it has absorbed, and is refused with that explanation.

use crate::source::scan::{PartitionExtent, TopicDescription};
use ondol_feature_store_api::wire::PartitionPosition;
use ondol_ingest_api::IngestError;
use ondol_ingest_api::wire::{SeekTarget, SkippedEvents};

/// What a seek of `source` to `target` leaves out. `delivered` is how far each partition has come, `found` the offsets
/// of the target's moment, if it is one.
///
/// # Errors
/// When the target is not in the topic, or lies behind.
pub(crate) fn ranges(
    source: &str,
    target: &SeekTarget,
    description: &TopicDescription,
    delivered: &[PartitionPosition],
    found: &[PartitionPosition],
) -> Result<Vec<SkippedEvents>, IngestError> {
    let reached = |partition: i32| offset_of(delivered, partition).unwrap_or(0);
    let skip = |partition: i32, to: i64| SkippedEvents {
        partition,
        from: reached(partition),
        to,
    };
    let wanted: Vec<SkippedEvents> = match target {
        SeekTarget::Beginning => each(description, |extent| skip(extent.partition, extent.begin)),
        SeekTarget::End => each(description, |extent| skip(extent.partition, extent.end)),
        SeekTarget::Timestamp { .. } => each(description, |extent| {
            skip(
                extent.partition,
                offset_of(found, extent.partition).unwrap_or(extent.end),
            )
        }),
        SeekTarget::Offset { partition, offset } => {
            check_within(description, *partition, *offset)?;
            vec![skip(*partition, *offset)]
        }
        SeekTarget::Range { range } => {
            check_within(description, range.partition, range.to)?;
            if range.from >= range.to || range.from < 0 {
                let (from, to) = (range.from, range.to);
                let detail = format!("the range {from} to {to} is empty: its end is the first offset read again");
                return Err(IngestError::InvalidRequest { detail });
            }
            vec![SkippedEvents {
                partition: range.partition,
                from: range.from.max(reached(range.partition)),
                to: range.to,
            }]
        }
    };
    let ahead: Vec<SkippedEvents> = wanted.iter().filter(|range| range.to > range.from).copied().collect();
    if !ahead.is_empty() {
        return Ok(ahead);
    }
    match wanted.iter().find(|range| range.to < reached(range.partition)) {
        None => Ok(Vec::new()),
        Some(back) => Err(IngestError::SeekBackward {
            source_name: source.to_owned(),
            partition: back.partition,
            delivered: reached(back.partition),
            to: back.to,
        }),
    }
}

fn each(description: &TopicDescription, of: impl Fn(&PartitionExtent) -> SkippedEvents) -> Vec<SkippedEvents> {
    description.partitions.iter().map(of).collect()
}

fn offset_of(positions: &[PartitionPosition], partition: i32) -> Option<i64> {
    let position = positions.iter().find(|position| position.partition == partition)?;
    Some(position.next_offset)
}

fn check_within(description: &TopicDescription, partition: i32, offset: i64) -> Result<(), IngestError> {
    let extent = description
        .partitions
        .iter()
        .find(|extent| extent.partition == partition);
    let detail = match extent {
        None => {
            let count = description.partitions.len();
            format!("there is no partition {partition}: the topic has {count}, counted from 0")
        }
        Some(extent) if !(0..=extent.end).contains(&offset) => {
            let end = extent.end;
            format!("partition {partition} ends at offset {end}: {offset} lies beyond it")
        }
        Some(_) => return Ok(()),
    };
    Err(IngestError::InvalidRequest { detail })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ondol_vocabulary::{EventTime, PartitionRange};

    fn positions(offsets: [i64; 2]) -> Vec<PartitionPosition> {
        let position = |(partition, next_offset)| PartitionPosition { partition, next_offset };
        (0..).zip(offsets).map(position).collect()
    }

    /// Two partitions hold 10..100 and 0..50; 40 and 50 are delivered.
    fn check(target: &SeekTarget, found: [i64; 2]) -> Result<Vec<(i32, i64, i64)>, String> {
        let extent = |partition, begin, end| PartitionExtent { partition, begin, end };
        let description = TopicDescription {
            generation: "g".into(),
            partitions: vec![extent(0, 10, 100), extent(1, 0, 50)],
        };
        ranges("s", target, &description, &positions([40, 50]), &positions(found))
            .map(|ranges| {
                ranges
                    .iter()
                    .map(|range| (range.partition, range.from, range.to))
                    .collect()
            })
            .map_err(|error| error.to_string())
    }

    fn offset(partition: i32, offset: i64) -> SeekTarget {
        SeekTarget::Offset { partition, offset }
    }

    #[test]
    fn going_ahead_leaves_out_what_lies_between() {
        assert_eq!(check(&SeekTarget::End, [0, 0]), Ok(vec![(0, 40, 100)]));
        assert_eq!(check(&offset(0, 60), [0, 0]), Ok(vec![(0, 40, 60)]));
        assert_eq!(check(&offset(0, 40), [0, 0]), Ok(vec![]), "it stands there already");
        let at = EventTime::from_micros(0);
        assert_eq!(check(&SeekTarget::Timestamp { at }, [70, 20]), Ok(vec![(0, 40, 70)]));
        let range = |from, to| SeekTarget::Range {
            range: PartitionRange { partition: 0, from, to },
        };
        assert_eq!(check(&range(60, 61), [0, 0]), Ok(vec![(0, 60, 61)]));
        assert_eq!(
            check(&range(30, 61), [0, 0]),
            Ok(vec![(0, 40, 61)]),
            "the rest is delivered"
        );
    }

    #[test]
    fn going_back_is_refused_with_what_helps() {
        let at = EventTime::from_micros(0);
        for target in [
            SeekTarget::Beginning,
            offset(0, 39),
            offset(1, 0),
            SeekTarget::Timestamp { at },
        ] {
            let error = check(&target, [12, 3]).unwrap_err();
            assert!(error.contains("ondol rebuild"), "{error}");
        }
    }

    #[test]
    fn what_is_not_in_the_topic_is_refused() {
        assert!(check(&offset(2, 0), [0, 0]).unwrap_err().contains("the topic has 2"));
        assert!(
            check(&offset(0, 101), [0, 0])
                .unwrap_err()
                .contains("ends at offset 100")
        );
    }
}
