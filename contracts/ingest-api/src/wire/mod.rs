//! The types that travel to and from ingest: events in, where streams stand ([`status`]), what operators ask of them
//! ([`reading`]), and events that could not be taken ([`dead_letters`]).

pub mod dead_letters;
pub mod reading;
pub mod status;

pub use dead_letters::{
    DeadLetter, DeadLetterEntry, DeadLetterPage, DeadLetterQuery, DeadLetterSummary, DiscardRequest, FixReceipt,
    FixRequest, HandledReceipt, LetterPosition, LetterRefusal, LetterState, MessageHeader, ReplayRequest, SkippedRange,
};
pub use reading::{PauseRequest, SeekReceipt, SeekRequest, SeekTarget, SkippedEvents};
pub use status::{Fetch, PartitionStatus, Pause, SourceStatus};

use ondol_vocabulary::{EventTime, SourcePosition};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// Events to append to a source's topic, those of `events` first.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub struct PushRequest {
    /// One JSON object each, in the source's schema; appended as they are, byte for byte.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub events: Vec<Box<RawValue>>,
    /// Messages that have more than a value: a key, headers, a time of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<PushRecord>,
}

/// A message with everything that a producer of the stream could give it. Nothing else is accepted: an event in its place
/// would pass for a deletion marker.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PushRecord {
    /// Its key, as text. Messages of one key stay in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Its headers, as text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// When it was produced; absent: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<EventTime>,
    /// One JSON object, appended as it is; null or absent: a deletion marker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub value: Option<Box<RawValue>>,
}

impl From<Vec<Box<RawValue>>> for PushRequest {
    fn from(events: Vec<Box<RawValue>>) -> Self {
        Self {
            events,
            records: Vec::new(),
        }
    }
}

/// Where pushed events went.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct PushReceipt {
    /// The last position written in each partition that took events. A caller that must read its own writes waits
    /// until the source's `delivered` passes them.
    pub positions: Vec<SourcePosition>,
}
