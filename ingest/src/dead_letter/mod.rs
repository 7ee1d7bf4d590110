//! Events that could not be taken: kept with reason, position and original message in a topic beside the source's.
//!
//! A dead letter is written before the delivery that covers its offset, so a crash between the two repeats it rather
//! than losing it; each position counts once. What operators do about a letter is appended to the same topic as a
//! [`Mark`] with the letter's key, so that the topic alone tells what has become of each: [`ledger`] reads it, and
//! [`replay`] brings events back. The JSON of both is written and read in this file only.

pub mod ledger;
pub mod replay;

use crate::decode::Rejection;
use crate::source::{NewRecord, Record, StreamError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ondol_ingest_api::wire::{DeadLetter, LetterPosition, MessageHeader};
use ondol_vocabulary::{EventTime, SourcePosition};
use serde::{Deserialize, Serialize};

/// Most bytes of an event that its dead letter repeats: base64 of them stays below Kafka's default message limit.
pub const MAX_PAYLOAD_BYTES: usize = 512 << 10;
/// Most bytes of a message's key and headers that its dead letter repeats.
const MAX_EXTRA_BYTES: usize = 64 << 10;
/// The header of a replayed event: the position of its letter, `partition:offset`.
pub const REPLAY_HEADER: &str = "ondol-replay-of";

/// The topic that takes the dead letters of `topic`.
pub fn topic_of(topic: &str) -> String {
    format!("{topic}.dead-letters")
}

/// The dead letter of `record`.
pub fn dead_letter(source: &str, record: &Record<'_>, rejection: Rejection, at: EventTime) -> DeadLetter {
    let payload = record.value.unwrap_or_default();
    let kept = payload.get(..MAX_PAYLOAD_BYTES).unwrap_or(payload);
    let truncated = kept.len() < payload.len();
    let mut detail = rejection.detail;
    if truncated {
        let (kept, all) = (kept.len(), payload.len());
        detail.push_str(&format!(
            " (the first {kept} of {all} bytes are kept; the whole stands at its position)"
        ));
    }
    let replay_of = record
        .headers
        .last(REPLAY_HEADER)
        .and_then(|value| std::str::from_utf8(value).ok()?.parse::<LetterPosition>().ok())
        .map(|position| position.0);
    let small = |bytes: &&[u8]| bytes.len() <= MAX_EXTRA_BYTES;
    let headers: Vec<MessageHeader> = record
        .headers
        .iter()
        .map(|(name, value)| MessageHeader {
            name: name.to_owned(),
            value_base64: STANDARD.encode(value.unwrap_or_default()),
        })
        .collect();
    let headers_bytes: usize = headers
        .iter()
        .map(|header| header.name.len() + header.value_base64.len())
        .sum();
    DeadLetter {
        source: source.to_owned(),
        position: SourcePosition {
            partition: record.partition,
            offset: record.offset,
        },
        reason: rejection.reason.name().to_owned(),
        detail,
        at,
        payload_base64: STANDARD.encode(kept),
        truncated,
        key_base64: record.key.filter(small).map(|key| STANDARD.encode(key)),
        headers: if headers_bytes <= MAX_EXTRA_BYTES {
            headers
        } else {
            Vec::new()
        },
        timestamp: Some(record.timestamp),
        replay_of,
    }
}

/// What an operator did about a letter, or that a range was skipped: the JSON value of a message of the dead-letter
/// topic, told from a letter by its `mark`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The source's name.
    pub source: String,
    /// The letter's position; the first offset left out.
    pub position: SourcePosition,
    /// What was done.
    pub mark: Deed,
    /// When.
    pub at: EventTime,
    /// Who replays: of several that claim a letter at the same time, the first in the topic has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// Whether the claim holds although the letter was handled before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
    /// First offset read again after a skip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<i64>,
    /// Why, in the words of whoever asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The corrected payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
}

/// What a [`Mark`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// The payload was corrected.
    Fixed,
    /// A replay was begun.
    Replaying,
    /// A replay that was begun did not append anything.
    Released,
    /// A replay appended the event.
    Replayed,
    /// The letter was given up.
    Discarded,
    /// A range of the source's topic was left out.
    Skipped,
}

impl Mark {
    /// A mark with nothing but what every mark has.
    pub fn new(source: &str, position: SourcePosition, mark: Deed, at: EventTime) -> Self {
        Self {
            source: source.to_owned(),
            position,
            mark,
            at,
            claim: None,
            again: false,
            to: None,
            reason: None,
            payload_base64: None,
        }
    }

    /// The message that holds it.
    ///
    /// # Errors
    /// When it can't be written as JSON, which its types rule out.
    pub fn record(&self) -> Result<NewRecord, StreamError> {
        message(&self.source, self.position, self.at, self)
    }
}

/// The message that holds `letter`.
///
/// # Errors
/// When it can't be written as JSON, which its types rule out.
pub fn record(letter: &DeadLetter) -> Result<NewRecord, StreamError> {
    message(&letter.source, letter.position, letter.at, letter)
}

fn message(
    source: &str,
    position: SourcePosition,
    at: EventTime,
    value: &impl Serialize,
) -> Result<NewRecord, StreamError> {
    let value = serde_json::to_vec(value)
        .map_err(|error| StreamError::Unavailable(format!("a dead letter can't be written as JSON: {error}")))?;
    let key = format!("{source}/{}/{}", position.partition, position.offset);
    Ok(NewRecord {
        key: Some(Bytes::from(key)),
        timestamp: at,
        value: Some(Bytes::from(value)),
        ..NewRecord::default()
    })
}

/// What [`ledger`] needs of a message of the dead-letter topic, be it a letter or a mark.
#[derive(Debug, Deserialize)]
struct Glance {
    source: String,
    position: SourcePosition,
    at: EventTime,
    reason: Option<String>,
    mark: Option<Deed>,
    claim: Option<String>,
    #[serde(default)]
    again: bool,
    to: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Reason;
    use crate::source::Records;

    fn letter_of(payload: &[u8], reason: Reason, detail: &str) -> DeadLetter {
        let mut records = Records::starting(3, 42);
        records.push_with(42, EventTime::from_micros(7), Some(b"k"), Some(payload), |headers| {
            headers.add(REPLAY_HEADER, Some(b"1:5"));
        });
        let record = records.iter().next().unwrap();
        dead_letter(
            "transactions",
            &record,
            Rejection::new(reason, detail),
            EventTime::from_micros(0),
        )
    }

    #[test]
    fn the_json_of_a_dead_letter_stays_as_it_is() {
        let letter = letter_of(b"{\"amount\":\"x\"}", Reason::WrongType, "field `amount` is \"x\"");
        let first = "{\"source\":\"transactions\",\"position\":{\"partition\":3,\"offset\":42},\
            \"reason\":\"wrong-type\",\"detail\":\"field `amount` is \\\"x\\\"\",\"at\":\"1970-01-01T00:00:00Z\",\
            \"payload_base64\":\"eyJhbW91bnQiOiJ4In0=\"";
        let golden = format!(
            "{first},\"key_base64\":\"aw==\",\"headers\":[{{\"name\":\"ondol-replay-of\",\"value_base64\":\"MTo1\"}}],\
             \"timestamp\":\"1970-01-01T00:00:00.000007Z\",\"replay_of\":{{\"partition\":1,\"offset\":5}}}}"
        );
        let written = record(&letter).unwrap();
        assert_eq!(std::str::from_utf8(&written.value.unwrap()).unwrap(), golden);
        // As the first release wrote it.
        let old: DeadLetter = serde_json::from_str(&format!("{first}}}")).unwrap();
        assert_eq!(
            (old.position, old.timestamp, old.truncated),
            (letter.position, None, false)
        );
    }

    #[test]
    fn the_json_of_a_mark_stays_as_it_is() {
        let position = SourcePosition {
            partition: 3,
            offset: 42,
        };
        let mark = Mark {
            claim: Some("c".to_owned()),
            ..Mark::new("s", position, Deed::Replaying, EventTime::from_micros(0))
        };
        let golden = "{\"source\":\"s\",\"position\":{\"partition\":3,\"offset\":42},\"mark\":\"replaying\",\
            \"at\":\"1970-01-01T00:00:00Z\",\"claim\":\"c\"}";
        let written = mark.record().unwrap();
        assert_eq!(std::str::from_utf8(&written.value.unwrap()).unwrap(), golden);
        assert_eq!(
            written.key.unwrap(),
            "s/3/42",
            "the key of its letter: both share a partition, in order"
        );
        let skipped = Mark {
            to: Some(50),
            reason: Some("poison".to_owned()),
            ..Mark::new("s", position, Deed::Skipped, EventTime::from_micros(0))
        };
        let golden = "{\"source\":\"s\",\"position\":{\"partition\":3,\"offset\":42},\"mark\":\"skipped\",\
            \"at\":\"1970-01-01T00:00:00Z\",\"to\":50,\"reason\":\"poison\"}";
        assert_eq!(serde_json::to_string(&skipped).unwrap(), golden);
    }

    #[test]
    fn a_dead_letter_keeps_a_bounded_part_of_a_huge_event() {
        let letter = letter_of(&vec![b'x'; 2 << 20], Reason::TooLarge, "too large");
        assert_eq!(
            STANDARD.decode(&letter.payload_base64).unwrap().len(),
            MAX_PAYLOAD_BYTES
        );
        assert!(letter.truncated);
        assert!(
            letter
                .detail
                .ends_with("(the first 524288 of 2097152 bytes are kept; the whole stands at its position)")
        );
    }
}
