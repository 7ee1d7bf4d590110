//! The types that travel to and from ingest.

use ondol_vocabulary::{EventTime, SourcePosition};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// Events to append to a source's topic.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct PushRequest {
    /// One JSON object each, in the source's schema; appended as they are, byte for byte.
    #[schema(value_type = Vec<Object>)]
    pub events: Vec<Box<RawValue>>,
}

/// Where pushed events went.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct PushReceipt {
    /// The last position written in each partition that took events. A caller that must read its own writes waits
    /// until the source's `delivered` passes them.
    pub positions: Vec<SourcePosition>,
}

/// How far one stream source has come.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct SourceStatus {
    /// The source's name.
    pub source: String,
    /// Its topic.
    pub topic: String,
    /// One per partition that this ingest worker reads.
    pub partitions: Vec<PartitionStatus>,
    /// Events delivered since this worker started.
    pub events: u64,
    /// Dead letters since this worker started.
    pub dead_letters: u64,
    /// The newest event time delivered.
    pub watermark: Option<EventTime>,
    /// What stops the source now, if anything does.
    pub error: Option<String>,
}

/// How far one partition has come.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct PartitionStatus {
    /// The partition.
    pub partition: i32,
    /// First offset not yet visible to online reads.
    pub delivered: i64,
    /// First offset not yet durable in the feature store.
    pub durable: i64,
    /// First offset not yet written to the topic, as far as known.
    pub end: Option<i64>,
}

/// Which dead letters to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DeadLetterQuery {
    /// At most this many (default 100, at most 1,000).
    #[serde(default = "default_limit")]
    pub limit: u32,
}

const fn default_limit() -> u32 {
    100
}

impl Default for DeadLetterQuery {
    fn default() -> Self {
        Self { limit: default_limit() }
    }
}

/// An event that could not be taken. This is also the JSON value of each message of the dead-letter topic.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct DeadLetter {
    /// The source's name.
    pub source: String,
    /// Where the event stands in the source's topic.
    pub position: SourcePosition,
    /// A stable name in kebab case: `malformed`, `wrong-type`, `missing-key`, `missing-time`, `too-large`, …
    pub reason: String,
    /// The field, the value and the remedy.
    pub detail: String,
    /// When ingest gave it up.
    pub at: EventTime,
    /// The original bytes, base64 (standard alphabet, padded).
    pub payload_base64: String,
}
