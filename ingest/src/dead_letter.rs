//! Events that could not be taken: kept with reason, position and original bytes in a topic beside the source's.
//!
//! A dead letter is written before the delivery that covers its offset, so a crash between the two repeats it rather
//! than losing it; listing shows each position once.

use crate::decode::Rejection;
use crate::source::scan::tail;
use crate::source::{NewRecord, Stream, StreamError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ondol_ingest_api::wire::DeadLetter;
use ondol_vocabulary::{EventTime, SourcePosition};
use std::collections::HashSet;

/// Most bytes of an event that its dead letter repeats: base64 of them stays below Kafka's default message limit.
pub const MAX_PAYLOAD_BYTES: usize = 512 << 10;

/// The topic that takes the dead letters of `topic`.
pub fn topic_of(topic: &str) -> String {
    format!("{topic}.dead-letters")
}

/// The dead letter of the event at `position` with bytes `payload`.
pub fn dead_letter(
    source: &str,
    position: SourcePosition,
    rejection: Rejection,
    payload: &[u8],
    at: EventTime,
) -> DeadLetter {
    let kept = payload.get(..MAX_PAYLOAD_BYTES).unwrap_or(payload);
    let truncated = kept.len() < payload.len();
    let mut detail = rejection.detail;
    if truncated {
        let (kept, all) = (kept.len(), payload.len());
        detail.push_str(&format!(
            " (the first {kept} of {all} bytes are kept; the whole stands at its position)"
        ));
    }
    DeadLetter {
        source: source.to_owned(),
        position,
        reason: rejection.reason.name().to_owned(),
        detail,
        at,
        payload_base64: STANDARD.encode(kept),
        truncated,
        key_base64: None,
        headers: Vec::new(),
        timestamp: None,
        replay_of: None,
    }
}

/// The message that holds `letter`.
///
/// # Errors
/// When it can't be written as JSON, which its types rule out.
pub fn record(letter: &DeadLetter) -> Result<NewRecord, StreamError> {
    let value = serde_json::to_vec(letter)
        .map_err(|error| StreamError::Unavailable(format!("a dead letter can't be written as JSON: {error}")))?;
    let key = format!(
        "{}/{}/{}",
        letter.source, letter.position.partition, letter.position.offset
    );
    Ok(NewRecord {
        key: Some(Bytes::from(key)),
        timestamp: letter.at,
        value: Some(Bytes::from(value)),
        ..NewRecord::default()
    })
}

/// The newest dead letters of `source`, newest first, each position once.
///
/// # Errors
/// When the stream can't be read.
pub async fn list(
    stream: &dyn Stream,
    source: &str,
    topic: &str,
    limit: usize,
) -> Result<Vec<DeadLetter>, StreamError> {
    // Several sources may read one topic, and redelivery repeats letters: look further back than asked.
    let records = tail(stream, &topic_of(topic), limit.saturating_mul(2).max(16)).await?;
    let mut letters: Vec<DeadLetter> = Vec::with_capacity(records.len());
    for record in records {
        match serde_json::from_slice::<DeadLetter>(&record.value.unwrap_or_default()) {
            Ok(letter) if letter.source == source => letters.push(letter),
            Ok(_) => {}
            Err(error) => {
                let SourcePosition { partition, offset } = record.position;
                tracing::warn!(topic = topic_of(topic), partition, offset, %error, "a dead letter can't be read");
            }
        }
    }
    letters.sort_by_key(|letter| std::cmp::Reverse((letter.at, letter.position)));
    let mut seen = HashSet::new();
    letters.retain(|letter| seen.insert(letter.position));
    letters.truncate(limit);
    Ok(letters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Reason;

    #[test]
    fn the_json_of_a_dead_letter_stays_as_it_is() {
        let position = SourcePosition {
            partition: 3,
            offset: 42,
        };
        let rejection = Rejection::new(Reason::WrongType, "field `amount` is \"x\"");
        let letter = dead_letter(
            "transactions",
            position,
            rejection,
            b"{\"amount\":\"x\"}",
            EventTime::from_micros(0),
        );
        let record = record(&letter).unwrap();
        let golden = "{\"source\":\"transactions\",\"position\":{\"partition\":3,\"offset\":42},\
            \"reason\":\"wrong-type\",\"detail\":\"field `amount` is \\\"x\\\"\",\"at\":\"1970-01-01T00:00:00Z\",\
            \"payload_base64\":\"eyJhbW91bnQiOiJ4In0=\"}";
        assert_eq!(std::str::from_utf8(&record.value.unwrap()).unwrap(), golden);
    }

    #[test]
    fn a_dead_letter_keeps_a_bounded_part_of_a_huge_event() {
        let rejection = Rejection::new(Reason::TooLarge, "too large");
        let position = SourcePosition {
            partition: 0,
            offset: 0,
        };
        let letter = dead_letter("s", position, rejection, &vec![b'x'; 2 << 20], EventTime::MIN);
        assert_eq!(
            STANDARD.decode(&letter.payload_base64).unwrap().len(),
            MAX_PAYLOAD_BYTES
        );
        assert!(
            letter
                .detail
                .ends_with("(the first 524288 of 2097152 bytes are kept; the whole stands at its position)")
        );
    }
}
