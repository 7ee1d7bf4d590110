//! Where a stream source stands, over all workers of its group.

use ondol_vocabulary::EventTime;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How far one stream source has come.
///
/// Every worker answers for the whole group: its own partitions as they are now, other workers' as they reported them a
/// few seconds ago, and partitions that nobody reads by the feature store's committed positions.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct SourceStatus {
    /// The source's name.
    pub source: String,
    /// Its topic.
    pub topic: String,
    /// One per partition of the topic, in order.
    pub partitions: Vec<PartitionStatus>,
    /// Events delivered since the workers started.
    pub events: u64,
    /// Dead letters since the workers started.
    pub dead_letters: u64,
    /// Events delivered that came later than the source allows, so that no view counts them.
    pub late_events: u64,
    /// Events that operators had skipped since the workers started.
    pub skipped_events: u64,
    /// The newest event time delivered since the workers started.
    pub watermark: Option<EventTime>,
    /// Events not delivered yet, over the partitions whose end is known.
    pub lag_events: Option<i64>,
    /// The largest of the partitions' lags.
    pub lag_seconds: Option<f64>,
    /// Events delivered per second over the last 10 seconds.
    pub events_per_second_10s: f64,
    /// Events delivered per second over the last minute.
    pub events_per_second_60s: f64,
    /// Dead letters over the last minute.
    pub dead_letters_60s: u64,
    /// Since when and why the source is paused, if it is.
    pub paused: Option<Pause>,
    /// What was fetched and not delivered yet, in the worker that answers.
    #[serde(default)]
    pub fetch: Fetch,
    /// What stops the source now, if anything does.
    pub error: Option<String>,
}

/// How far one partition has come.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, ToSchema)]
pub struct PartitionStatus {
    /// The partition.
    pub partition: i32,
    /// First offset not yet visible to online reads.
    pub delivered: i64,
    /// First offset not yet durable in the feature store.
    pub durable: i64,
    /// First offset not yet written to the topic, as far as known.
    pub end: Option<i64>,
    /// Offsets between `delivered` and `end`.
    pub lag_events: Option<i64>,
    /// How long the first record that is not delivered has been waiting: the present minus its timestamp in the topic;
    /// 0 when everything is delivered.
    pub lag_seconds: Option<f64>,
    /// The newest event time delivered by the worker that reads it.
    pub watermark: Option<EventTime>,
    /// Events delivered per second over the last 10 seconds.
    pub events_per_second_10s: f64,
    /// Events delivered per second over the last minute.
    pub events_per_second_60s: f64,
    /// Dead letters since its worker took it.
    pub dead_letters: u64,
    /// Dead letters over the last minute.
    pub dead_letters_60s: u64,
    /// The worker that reads it; none when nobody does.
    pub owner: Option<String>,
}

/// Since when and why a source is paused.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct Pause {
    /// When it was asked for.
    pub since: EventTime,
    /// In the words of whoever asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a worker holds of a source between the stream and the feature store. All of it is bounded by configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub struct Fetch {
    /// Whether nothing is fetched now: the source is paused, or the feature store does not take what is there.
    pub stopped: bool,
    /// Bytes that the stream's client has fetched ahead.
    pub queued_bytes: u64,
    /// Bytes of messages being decoded, waiting or on their way to the feature store.
    pub in_flight_bytes: u64,
}
