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

use ondol_vocabulary::SourcePosition;
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
