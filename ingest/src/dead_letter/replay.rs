//! Dead letters brought back: corrected, checked by the definitions in force, appended to the source's topic again.
//!
//! A replay claims its letters in the dead-letter topic first, appends the events, and then marks the letters as
//! replayed. Of two replays of one letter, the claim that comes first in the topic wins, whichever worker it went
//! through. A replay that ends between its steps leaves the letter as `replaying`: its event may or may not be in the
//! topic again, which only a person can decide; nothing is lost or doubled in silence.

use super::ledger::{Known, Ledger, records_at};
use super::{Deed, Mark, REPLAY_HEADER};
use crate::batch;
use crate::plan::SourcePlan;
use crate::source::{Header, NewRecord, Records, Stream, StreamError};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ondol_ingest_api::IngestError;
use ondol_ingest_api::wire::{
    DeadLetter, DeadLetterEntry, DiscardRequest, FixReceipt, FixRequest, HandledReceipt, LetterPosition, LetterRefusal,
    LetterState, ReplayRequest,
};
use ondol_vocabulary::{EventTime, SourcePosition};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What handling letters of one source needs.
pub struct Desk<'d> {
    /// Where the source's topic and its dead letters are.
    pub stream: &'d dyn Stream,
    /// The definitions in force.
    pub plan: Arc<SourcePlan>,
    /// The present.
    pub now: EventTime,
    /// The largest message that is taken.
    pub max_event_bytes: usize,
}

/// A letter's event, ready to be appended.
struct Candidate {
    position: SourcePosition,
    record: NewRecord,
}

impl Desk<'_> {
    /// The letters with what has become of them, as they are stored.
    ///
    /// # Errors
    /// When the stream can't be read.
    pub async fn entries(
        &self,
        ledger: &Ledger,
        letters: &[(SourcePosition, Known)],
    ) -> Result<Vec<DeadLetterEntry>, StreamError> {
        let places = letters
            .iter()
            .flat_map(|(_, known)| [Some(known.place), known.fixed])
            .flatten();
        let records = records_at(self.stream, ledger.topic(), places.collect()).await?;
        let value = |place: &SourcePosition| records.get(place)?.value.as_deref();
        let entry = |(_, known): &(SourcePosition, Known)| {
            let letter: DeadLetter = serde_json::from_slice(value(&known.place)?).ok()?;
            let fixed: Option<Mark> = known
                .fixed
                .as_ref()
                .and_then(|place| serde_json::from_slice(value(place)?).ok());
            Some(DeadLetterEntry {
                letter,
                state: known.state,
                state_since: known.since,
                fixed_base64: fixed.and_then(|mark| mark.payload_base64),
            })
        };
        // A letter that retention took between the two looks is left out.
        Ok(letters.iter().filter_map(entry).collect())
    }

    /// Keeps a corrected payload and tells whether it would be taken.
    ///
    /// # Errors
    /// When there is no such letter, the payload is no base64, or the stream does not answer.
    pub async fn fix(&self, ledger: &mut Ledger, request: FixRequest) -> Result<FixReceipt, IngestError> {
        ledger.catch_up(self.stream).await.map_err(stream_error)?;
        let position = request.position.0;
        let payload = STANDARD
            .decode(&request.payload_base64)
            .map_err(|error| invalid(format!("`payload_base64` is no base64: {error}")))?;
        let known = ledger.letter(position).cloned().ok_or_else(|| self.unknown(position))?;
        if let LetterState::Replayed | LetterState::Replaying = known.state {
            let state = known.state.name();
            return Err(invalid(format!(
                "the letter at {} is {state}: correct the new letter",
                request.position
            )));
        }
        let entries = self.entries(ledger, &[(position, known)]).await.map_err(stream_error)?;
        let mut entry = entries.into_iter().next().ok_or_else(|| self.unknown(position))?;
        entry.fixed_base64 = Some(request.payload_base64.clone());
        let candidate = candidate(&entry, Some(Bytes::from(payload)))
            .map_err(|refusal| invalid(format!("the letter at {}: {}", refusal.position, refusal.detail)))?;
        let still_bad = self.check(std::slice::from_ref(&candidate)).await?.remove(&position);
        let mark = Mark {
            payload_base64: Some(request.payload_base64),
            ..Mark::new(&self.plan.name, position, Deed::Fixed, self.now)
        };
        self.append_marks(ledger, vec![mark]).await?;
        Ok(FixReceipt { still_bad })
    }

    /// Appends letters' events to the source's topic again.
    ///
    /// # Errors
    /// When the stream does not answer. What was claimed by then stays `replaying`.
    pub async fn replay(&self, ledger: &mut Ledger, request: ReplayRequest) -> Result<HandledReceipt, IngestError> {
        ledger.catch_up(self.stream).await.map_err(stream_error)?;
        let mut receipt = HandledReceipt::default();
        let chosen = choose(ledger, &request.positions, request.again, request.again, &mut receipt);
        let mut candidates = self.candidates(ledger, chosen, &mut receipt).await?;
        if !request.unchecked {
            let mut bad = self.check(&candidates).await?;
            candidates.retain(|candidate| match bad.remove(&candidate.position) {
                Some(refusal) => {
                    receipt.refused.push(refusal);
                    false
                }
                None => true,
            });
        }
        if !request.dry_run && !candidates.is_empty() {
            candidates = self.claim(ledger, candidates, request.again, &mut receipt).await?;
        }
        receipt.handled = candidates
            .iter()
            .map(|candidate| LetterPosition(candidate.position))
            .collect();
        Ok(receipt)
    }

    /// Gives letters up.
    ///
    /// # Errors
    /// When the stream does not answer.
    pub async fn discard(&self, ledger: &mut Ledger, request: DiscardRequest) -> Result<HandledReceipt, IngestError> {
        ledger.catch_up(self.stream).await.map_err(stream_error)?;
        let mut receipt = HandledReceipt::default();
        let chosen = choose(ledger, &request.positions, false, true, &mut receipt);
        let mark = |(position, _): &(SourcePosition, Known)| Mark {
            reason: request.reason.clone(),
            // Also a letter whose replay was interrupted: somebody has looked.
            again: true,
            ..Mark::new(&self.plan.name, *position, Deed::Discarded, self.now)
        };
        self.append_marks(ledger, chosen.iter().map(mark).collect()).await?;
        receipt.handled = chosen.iter().map(|(position, _)| LetterPosition(*position)).collect();
        Ok(receipt)
    }

    /// Claims the letters, appends the events of those that were won, and marks these as replayed.
    async fn claim(
        &self,
        ledger: &mut Ledger,
        candidates: Vec<Candidate>,
        again: bool,
        receipt: &mut HandledReceipt,
    ) -> Result<Vec<Candidate>, IngestError> {
        let claim = format!("{:032x}", rand::random::<u128>());
        let marks = |candidates: &[Candidate], deed: Deed| -> Vec<Mark> {
            let mark = |candidate: &Candidate| Mark {
                claim: Some(claim.clone()),
                again,
                ..Mark::new(&self.plan.name, candidate.position, deed, self.now)
            };
            candidates.iter().map(mark).collect()
        };
        self.append_marks(ledger, marks(&candidates, Deed::Replaying)).await?;
        ledger.catch_up(self.stream).await.map_err(stream_error)?;
        let won = |candidate: &Candidate| {
            ledger
                .letter(candidate.position)
                .is_some_and(|known| known.claim.as_deref() == Some(claim.as_str()))
        };
        let (won, lost): (Vec<_>, Vec<_>) = candidates.into_iter().partition(won);
        for candidate in lost {
            let detail = "somebody else replays it at this moment".to_owned();
            receipt.refused.push(refusal(candidate.position, "in-progress", detail));
        }
        if won.is_empty() {
            return Ok(won);
        }
        let records = won.iter().map(|candidate| candidate.record.clone()).collect();
        if let Err(error) = self.stream.append(&self.plan.topic, records).await {
            if let StreamError::TooLarge { .. } | StreamError::Overloaded(_) = error {
                // Nothing was appended: the letters are free again.
                self.append_marks(ledger, marks(&won, Deed::Released)).await?;
            }
            return Err(stream_error(error));
        }
        self.append_marks(ledger, marks(&won, Deed::Replayed)).await?;
        Ok(won)
    }

    async fn append_marks(&self, ledger: &Ledger, marks: Vec<Mark>) -> Result<(), IngestError> {
        if marks.is_empty() {
            return Ok(());
        }
        let records: Result<Vec<NewRecord>, StreamError> = marks.iter().map(Mark::record).collect();
        let records = records.map_err(stream_error)?;
        self.stream
            .append(ledger.topic(), records)
            .await
            .map_err(stream_error)?;
        Ok(())
    }

    /// The events of `chosen`, with their payloads whole.
    async fn candidates(
        &self,
        ledger: &Ledger,
        chosen: Vec<(SourcePosition, Known)>,
        receipt: &mut HandledReceipt,
    ) -> Result<Vec<Candidate>, IngestError> {
        let entries = self.entries(ledger, &chosen).await.map_err(stream_error)?;
        let whole = |entry: &&DeadLetterEntry| !entry.letter.truncated || entry.fixed_base64.is_some();
        let cut: BTreeSet<SourcePosition> = entries
            .iter()
            .filter(|entry| !whole(entry))
            .map(|entry| entry.letter.position)
            .collect();
        let originals = records_at(self.stream, &self.plan.topic, cut)
            .await
            .map_err(stream_error)?;
        let mut candidates = Vec::with_capacity(entries.len());
        for entry in &entries {
            let original = originals
                .get(&entry.letter.position)
                .and_then(|record| record.value.clone());
            let made = if original.is_none() && !whole(&entry) {
                let detail = "only the start of the message was kept, and the topic no longer holds it: correct the \
                              letter with the whole message, or discard it";
                Err(refusal(entry.letter.position, "gone", detail.to_owned()))
            } else {
                candidate(entry, original)
            };
            match made {
                Ok(candidate) => candidates.push(candidate),
                Err(refusal) => receipt.refused.push(refusal),
            }
        }
        Ok(candidates)
    }

    /// Why events would be refused by the definitions in force, by position.
    async fn check(&self, candidates: &[Candidate]) -> Result<BTreeMap<SourcePosition, LetterRefusal>, IngestError> {
        let mut run = Records::starting(0, 0);
        for (index, candidate) in candidates.iter().enumerate() {
            let NewRecord {
                key,
                headers,
                timestamp,
                value,
            } = &candidate.record;
            run.push_with(index as i64, *timestamp, key.as_deref(), value.as_deref(), |sink| {
                for header in headers {
                    sink.add(&header.name, header.value.as_deref());
                }
            });
        }
        let (plan, now, max_event_bytes) = (Arc::clone(&self.plan), self.now, self.max_event_bytes);
        let decode = move || batch::decode(&plan, "", &[run], now, max_event_bytes);
        let unavailable = |detail: String| IngestError::Unavailable { detail };
        let decoded = tokio::task::spawn_blocking(decode)
            .await
            .map_err(|error| unavailable(format!("checking was stopped: {error}")))?
            .map_err(|error| unavailable(error.to_string()))?;
        let refused = |letter: DeadLetter| {
            let position = candidates.get(usize::try_from(letter.position.offset).ok()?)?.position;
            Some((position, refusal(position, &letter.reason, letter.detail)))
        };
        Ok(decoded.dead_letters.into_iter().filter_map(refused).collect())
    }

    fn unknown(&self, position: SourcePosition) -> IngestError {
        IngestError::UnknownLetter {
            source_name: self.plan.name.clone(),
            position: LetterPosition(position).to_string(),
        }
    }
}

/// The letters among `positions` that may be handled: of those that were handled before, and of those whose replay was
/// interrupted, only when asked for.
fn choose(
    ledger: &Ledger,
    positions: &[LetterPosition],
    handled: bool,
    interrupted: bool,
    receipt: &mut HandledReceipt,
) -> Vec<(SourcePosition, Known)> {
    let mut chosen = Vec::new();
    for position in positions.iter().collect::<BTreeSet<_>>() {
        let refused = match ledger.letter(position.0) {
            None => ("unknown", "there is no such letter".to_owned()),
            Some(known) if known.state.is_handled() && !handled => {
                let since = known.since.unwrap_or(known.at);
                ("handled", format!("it was {} at {since}", known.state.name()))
            }
            Some(known) if known.state == LetterState::Replaying && !interrupted => {
                let since = known.since.unwrap_or(known.at);
                let detail = format!(
                    "a replay was begun at {since} and has not ended: look whether its event is in the topic (header \
                     `{REPLAY_HEADER}: {position}`), and replay it again if not"
                );
                ("in-progress", detail)
            }
            Some(known) => {
                chosen.push((position.0, known.clone()));
                continue;
            }
        };
        receipt.refused.push(refusal(position.0, refused.0, refused.1));
    }
    chosen
}

/// The event of `entry`: as corrected, else `original`, else as the letter keeps it.
fn candidate(entry: &DeadLetterEntry, original: Option<Bytes>) -> Result<Candidate, LetterRefusal> {
    let letter = &entry.letter;
    let position = letter.position;
    let decode = |what: &str, text: &str| {
        let detail = |error| format!("its {what} can't be read: {error}");
        STANDARD
            .decode(text)
            .map(Bytes::from)
            .map_err(|error| refusal(position, "unreadable", detail(error)))
    };
    let value = match (&entry.fixed_base64, original) {
        (Some(fixed), _) => decode("correction", fixed)?,
        (None, Some(original)) => original,
        (None, None) => decode("payload", &letter.payload_base64)?,
    };
    if value.is_empty() && entry.fixed_base64.is_none() {
        let detail = "the message has no bytes: correct it, or discard it".to_owned();
        return Err(refusal(position, &letter.reason, detail));
    }
    let mut headers = Vec::with_capacity(letter.headers.len() + 1);
    for header in letter.headers.iter().filter(|header| header.name != REPLAY_HEADER) {
        headers.push(Header {
            name: header.name.clone(),
            value: Some(decode("headers", &header.value_base64)?),
        });
    }
    headers.push(Header {
        name: REPLAY_HEADER.to_owned(),
        value: Some(Bytes::from(LetterPosition(position).to_string())),
    });
    let key = letter.key_base64.as_deref().map(|key| decode("key", key)).transpose()?;
    let record = NewRecord {
        key,
        headers,
        // Its own: it may be the event's time.
        timestamp: letter.timestamp.unwrap_or(letter.at),
        value: Some(value),
    };
    Ok(Candidate { position, record })
}

fn refusal(position: SourcePosition, code: &str, detail: String) -> LetterRefusal {
    LetterRefusal {
        position: LetterPosition(position),
        code: code.to_owned(),
        detail,
    }
}

const fn invalid(detail: String) -> IngestError {
    IngestError::InvalidRequest { detail }
}

fn stream_error(error: StreamError) -> IngestError {
    crate::operations::ingest_error(error)
}
