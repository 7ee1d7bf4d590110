//! One partition being read by the poller: the run of records that grows until it is handed over.

use super::poller::Start;
use crate::source::{Records, StreamError};
use ondol_vocabulary::EventTime;
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use std::collections::BTreeMap;

/// A partition's lane.
pub(super) struct Lane {
    pub(super) run: Records,
}

impl Lane {
    pub(super) fn starting(start: &Start) -> Self {
        Self {
            run: Records::of_epoch(start.partition, start.offset, start.epoch),
        }
    }
}

/// Adds a message to its lane: its size. One of a partition that was given back is dropped.
pub(super) fn take(
    lanes: &mut BTreeMap<i32, Lane>,
    topic: &str,
    message: &BorrowedMessage<'_>,
) -> Result<usize, StreamError> {
    let Some(lane) = lanes.get_mut(&message.partition()) else {
        return Ok(0);
    };
    let (partition, offset, position) = (message.partition(), message.offset(), lane.run.to);
    if offset < position {
        // The broker reset the partition behind our back: its records are others than those that were read.
        return Err(StreamError::Recreated {
            topic: topic.to_owned(),
            partition,
            position,
            end: offset,
        });
    }
    let millis = message.timestamp().to_millis().unwrap_or_default();
    let timestamp = EventTime::from_micros(millis.saturating_mul(1000));
    let before = lane.run.size_bytes();
    lane.run
        .push_with(offset, timestamp, message.key(), message.payload(), |sink| {
            for header in message.headers().iter().flat_map(|headers| headers.iter()) {
                sink.add(header.key, header.value);
            }
        });
    Ok(lane.run.size_bytes() - before)
}
