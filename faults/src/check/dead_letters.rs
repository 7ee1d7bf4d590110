//! The dead letters' topic: each bad message, and no other, with its reason and its bytes. A letter may be written more
//! than once (a crash between it and the delivery repeats it); that is counted.

use super::{Findings, Truth};
use crate::estate::Estate;
use crate::event::GOOD;
use crate::topic::{self, Record};
use crate::views::SOURCE;
use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::BTreeMap;

const AREA: &str = "dead letters";

/// A dead letter, as its documented JSON has it.
#[derive(Clone, Debug, Deserialize)]
struct Letter {
    source: String,
    position: Position,
    reason: String,
    payload_base64: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Position {
    partition: i32,
    offset: i64,
}

/// Compares; how many letters were written more than once.
pub(crate) fn check(estate: &Estate, truth: &Truth, findings: &mut Findings) -> Result<u64> {
    let records = topic::read(&estate.kafka, &format!("{}.dead-letters", estate.topic))?;
    let mut letters: BTreeMap<(i32, i64), Vec<Letter>> = BTreeMap::new();
    for record in &records {
        let payload = record.payload.as_deref().context("a dead letter is empty")?;
        let letter: Letter = serde_json::from_slice(payload).context("a dead letter is not of its form")?;
        letters
            .entry((letter.position.partition, letter.position.offset))
            .or_default()
            .push(letter);
    }
    let repeated = letters.values().map(|letters| letters.len() as u64 - 1).sum();
    findings.compared("dead letters", letters.len());
    for record in truth.records.iter().filter(|record| record.verdict != GOOD) {
        let place = (record.partition, record.offset);
        match letters.remove(&place) {
            None => {
                let what = format!("{place:?} ({}) has no dead letter", record.verdict);
                findings.differ(AREA, what, Some(record.timestamp_ms));
            }
            Some(found) => {
                for complaint in found.iter().filter_map(|letter| complaint(record, letter)) {
                    findings.differ(AREA, format!("{place:?}: {complaint}"), Some(record.timestamp_ms));
                }
            }
        }
    }
    for (place, letters) in letters {
        let reasons: Vec<&str> = letters.iter().map(|letter| letter.reason.as_str()).collect();
        let what = format!("{place:?} is a good event and has dead letters: {reasons:?}");
        findings.differ(AREA, what, truth.produced_ms(place.0, place.1));
    }
    Ok(repeated)
}

fn complaint(record: &Record, letter: &Letter) -> Option<String> {
    if letter.source != SOURCE || letter.reason != record.verdict {
        return Some(format!(
            "says {} of {}, must be {}",
            letter.reason, letter.source, record.verdict
        ));
    }
    let kept = STANDARD.decode(&letter.payload_base64).ok();
    if kept.as_deref() != Some(record.payload.as_deref().unwrap_or_default()) {
        return Some("does not hold the message's bytes".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_must_give_the_reason_and_the_bytes() {
        let record = Record {
            partition: 0,
            offset: 3,
            timestamp_ms: 0,
            payload: Some(b"{".to_vec()),
            verdict: "malformed".to_owned(),
            number: None,
        };
        let letter = |reason: &str, payload: &str| Letter {
            source: SOURCE.to_owned(),
            position: Position {
                partition: 0,
                offset: 3,
            },
            reason: reason.to_owned(),
            payload_base64: STANDARD.encode(payload),
        };
        assert_eq!(complaint(&record, &letter("malformed", "{")), None);
        assert!(complaint(&record, &letter("future", "{")).is_some());
        assert!(complaint(&record, &letter("malformed", "[")).is_some());
    }
}
