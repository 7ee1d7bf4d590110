//! What has become of a source's dead letters: an index of the dead-letter topic, read on from where it stopped each
//! time somebody asks. It holds places, not payloads, of the newest [`MAX_LETTERS`] letters: about 150 bytes each.

use super::{Deed, Glance, topic_of};
use crate::source::scan::{StoredRecord, visit};
use crate::source::{Stream, StreamError};
use ondol_feature_store_api::wire::PartitionPosition;
use ondol_ingest_api::wire::{DeadLetterQuery, DeadLetterSummary, LetterState, SkippedRange};
use ondol_vocabulary::{EventTime, SourcePosition};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Most letters that are indexed; older ones are only counted.
pub const MAX_LETTERS: usize = 500_000;
/// Most skipped ranges that are remembered.
const MAX_SKIPPED: usize = 1_000;
/// Records between two wanted ones that are read over rather than jumped.
const JUMP: i64 = 5_000;

/// The index of one source's letters.
#[derive(Debug)]
pub struct Ledger {
    source: String,
    topic: String,
    generation: Option<Arc<str>>,
    /// First offset of each partition of the dead-letter topic that was not read.
    next: BTreeMap<i32, i64>,
    letters: HashMap<SourcePosition, Known>,
    /// Oldest first.
    order: BTreeSet<Place>,
    reasons: BTreeSet<Arc<str>>,
    skipped: BTreeMap<(i32, i64), SkippedRange>,
    forgotten: u64,
}

/// Where a letter stands in the listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    at: EventTime,
    position: SourcePosition,
}

/// What is known of one letter.
#[derive(Clone, Debug)]
pub struct Known {
    /// When the event was given up.
    pub at: EventTime,
    /// Why.
    pub reason: Arc<str>,
    /// Where the letter stands in the dead-letter topic.
    pub place: SourcePosition,
    /// What has become of it.
    pub state: LetterState,
    /// When that was.
    pub since: Option<EventTime>,
    /// Where its correction stands in the dead-letter topic.
    pub fixed: Option<SourcePosition>,
    /// Whose replay it is.
    pub claim: Option<Arc<str>>,
}

/// One page of letters, newest first.
#[derive(Debug)]
pub struct Page {
    /// Positions and what is known of each.
    pub letters: Vec<(SourcePosition, Known)>,
    /// Where the page that follows begins.
    pub next: Option<String>,
}

impl Ledger {
    /// Of `source`, which reads `topic`; empty until it first catches up.
    pub fn new(source: &str, topic: &str) -> Self {
        Self {
            source: source.to_owned(),
            topic: topic_of(topic),
            generation: None,
            next: BTreeMap::new(),
            letters: HashMap::new(),
            order: BTreeSet::new(),
            reasons: BTreeSet::new(),
            skipped: BTreeMap::new(),
            forgotten: 0,
        }
    }

    /// The dead-letter topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Reads what the dead-letter topic holds beyond what was read before.
    ///
    /// # Errors
    /// When the stream can't be read; what was read until then stays.
    pub async fn catch_up(&mut self, stream: &dyn Stream) -> Result<(), StreamError> {
        let Some(description) = stream.describe(&self.topic).await? else {
            return Ok(());
        };
        if self.generation.as_ref() != Some(&description.generation) {
            let source = std::mem::take(&mut self.source);
            let topic = std::mem::take(&mut self.topic);
            *self = Self {
                topic,
                generation: Some(Arc::clone(&description.generation)),
                ..Self::new(&source, "")
            };
        }
        let mut from = Vec::new();
        for extent in &description.partitions {
            let next = self.next.get(&extent.partition).copied().unwrap_or(0).max(extent.begin);
            if next < extent.end {
                from.push(PartitionPosition {
                    partition: extent.partition,
                    next_offset: next,
                });
            }
        }
        let topic = self.topic.clone();
        visit(stream, &topic, from, |record| {
            self.take(&record);
            true
        })
        .await?;
        for extent in &description.partitions {
            // Offsets that hold no record are read, too.
            let next = self.next.entry(extent.partition).or_insert(0);
            *next = extent.end.max(*next);
        }
        Ok(())
    }

    fn take(&mut self, record: &StoredRecord) {
        let SourcePosition { partition, offset } = record.position;
        self.next.insert(partition, offset.saturating_add(1));
        let Some(value) = &record.value else { return };
        match serde_json::from_slice::<Glance>(value) {
            Ok(glance) if glance.source == self.source => self.fold(glance, record.position),
            // Several sources may read one topic, and then share its dead-letter topic.
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(topic = self.topic, partition, offset, %error, "a dead letter can't be read");
            }
        }
    }

    fn fold(&mut self, glance: Glance, place: SourcePosition) {
        let Some(deed) = glance.mark else {
            self.add(glance, place);
            return;
        };
        if deed == Deed::Skipped {
            self.skip(glance);
            return;
        }
        let Some(known) = self.letters.get_mut(&glance.position) else {
            return;
        };
        let claims = known.claim.as_deref() == glance.claim.as_deref();
        let unhandled = matches!(known.state, LetterState::Open | LetterState::Fixed);
        let state = match deed {
            Deed::Fixed if known.state != LetterState::Replaying => {
                known.fixed = Some(place);
                LetterState::Fixed
            }
            Deed::Replaying if unhandled || glance.again => {
                known.claim = glance.claim.as_deref().map(Arc::from);
                LetterState::Replaying
            }
            Deed::Released if claims && known.state == LetterState::Replaying => match known.fixed {
                Some(_) => LetterState::Fixed,
                None => LetterState::Open,
            },
            Deed::Replayed if claims && known.state == LetterState::Replaying => LetterState::Replayed,
            Deed::Discarded if known.state != LetterState::Replaying || glance.again => LetterState::Discarded,
            // It came too late: somebody else's deed stands before it.
            _ => return,
        };
        known.state = state;
        known.since = Some(glance.at);
    }

    fn add(&mut self, glance: Glance, place: SourcePosition) {
        if self.letters.contains_key(&glance.position) {
            // Written again after a redelivery.
            return;
        }
        let reason: Arc<str> = glance.reason.unwrap_or_default().into();
        let reason = match self.reasons.get(&reason) {
            Some(known) => Arc::clone(known),
            None => {
                self.reasons.insert(Arc::clone(&reason));
                reason
            }
        };
        let (at, position) = (glance.at, glance.position);
        self.order.insert(Place { at, position });
        self.letters.insert(
            position,
            Known {
                at,
                reason,
                place,
                state: LetterState::Open,
                since: None,
                fixed: None,
                claim: None,
            },
        );
        if self.order.len() > MAX_LETTERS
            && let Some(oldest) = self.order.pop_first()
        {
            self.letters.remove(&oldest.position);
            self.forgotten += 1;
        }
    }

    fn skip(&mut self, glance: Glance) {
        let SourcePosition { partition, offset } = glance.position;
        let Some(to) = glance.to else { return };
        let range = SkippedRange {
            partition,
            from: offset,
            to,
            at: glance.at,
            reason: glance.reason.unwrap_or_default(),
        };
        // Written again after a redelivery: the same range.
        self.skipped.insert((partition, to), range);
        if self.skipped.len() > MAX_SKIPPED {
            self.skipped.pop_first();
        }
    }

    /// What is known of the letter at `position`.
    pub fn letter(&self, position: SourcePosition) -> Option<&Known> {
        self.letters.get(&position)
    }

    /// The letters that `query` asks for.
    ///
    /// # Errors
    /// When `after` is not a page's `next`.
    pub fn page(&self, query: &DeadLetterQuery) -> Result<Page, String> {
        if let Some(position) = query.position {
            let known = self.letters.get(&position.0);
            return Ok(Page {
                letters: known.map(|known| (position.0, known.clone())).into_iter().collect(),
                next: None,
            });
        }
        let before = query.after.as_deref().map(cursor).transpose()?;
        let below = match before {
            Some(place) => self.order.range(..place),
            None => self.order.range(..),
        };
        let wanted = |place: &&Place| {
            self.letters.get(&place.position).is_some_and(|known| {
                (query.all || !known.state.is_handled())
                    && query.reason.as_deref().is_none_or(|reason| *known.reason == *reason)
                    && query
                        .partition
                        .is_none_or(|partition| place.position.partition == partition)
                    && query.since.is_none_or(|since| known.at >= since)
            })
        };
        let limit = query.limit as usize;
        let mut found: Vec<Place> = below
            .rev()
            .filter(wanted)
            .take(limit.saturating_add(1))
            .copied()
            .collect();
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|last| {
            let SourcePosition { partition, offset } = last.position;
            format!("{}/{partition}/{offset}", last.at.micros())
        });
        let letter = |place: Place| Some((place.position, self.letters.get(&place.position)?.clone()));
        Ok(Page {
            letters: found.into_iter().filter_map(letter).collect(),
            next,
        })
    }

    /// How many there are.
    pub fn summary(&self) -> DeadLetterSummary {
        let mut summary = DeadLetterSummary {
            source: self.source.clone(),
            not_counted: self.forgotten,
            ..DeadLetterSummary::default()
        };
        for known in self.letters.values() {
            *summary.states.entry(known.state.name().to_owned()).or_default() += 1;
            if !known.state.is_handled() {
                *summary.open.entry(known.reason.to_string()).or_default() += 1;
            }
        }
        summary.skipped = self.skipped.values().cloned().collect();
        summary
            .skipped
            .sort_by_key(|range| (range.at, range.partition, range.from));
        summary
    }
}

fn cursor(text: &str) -> Result<Place, String> {
    let mut parts = text.split('/');
    let place = || {
        let at = EventTime::from_micros(parts.next()?.parse().ok()?);
        let partition = parts.next()?.parse().ok()?;
        let offset = parts.next()?.parse().ok()?;
        let position = SourcePosition { partition, offset };
        parts.next().is_none().then_some(Place { at, position })
    };
    let mut place = place;
    place().ok_or_else(|| format!("`after` is `{text}`: give the `next` of the page before"))
}

/// The records of `topic` at `places`; those that are gone are left out.
///
/// # Errors
/// When the stream can't be read.
pub async fn records_at(
    stream: &dyn Stream,
    topic: &str,
    places: BTreeSet<SourcePosition>,
) -> Result<HashMap<SourcePosition, StoredRecord>, StreamError> {
    let mut found = HashMap::with_capacity(places.len());
    let mut wanted = places.into_iter().peekable();
    while let Some(first) = wanted.next() {
        // A cluster: what stands close together in one partition is read in one go.
        let mut last = first;
        let mut cluster = BTreeSet::from([first.offset]);
        while let Some(near) =
            wanted.next_if(|next| next.partition == first.partition && next.offset - last.offset <= JUMP)
        {
            cluster.insert(near.offset);
            last = near;
        }
        let from = PartitionPosition {
            partition: first.partition,
            next_offset: first.offset,
        };
        visit(stream, topic, vec![from], |record| {
            let offset = record.position.offset;
            if cluster.contains(&offset) {
                found.insert(record.position, record);
            }
            offset < last.offset
        })
        .await?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::Mark;
    use ondol_ingest_api::wire::LetterPosition;
    use serde_json::json;

    const AT: EventTime = EventTime::from_micros(1_000);

    fn at(offset: i64) -> SourcePosition {
        SourcePosition { partition: 0, offset }
    }

    struct Topic {
        ledger: Ledger,
        next: i64,
    }

    impl Topic {
        fn new() -> Self {
            Self {
                ledger: Ledger::new("s", "t"),
                next: 0,
            }
        }

        fn append(&mut self, value: Vec<u8>) {
            self.ledger.take(&StoredRecord {
                position: at(self.next),
                timestamp: AT,
                key: None,
                headers: Vec::new(),
                value: Some(value.into()),
            });
            self.next += 1;
        }

        fn letter(&mut self, offset: i64, reason: &str) {
            let letter = json!({"source": "s", "position": at(offset), "reason": reason, "detail": "",
                "at": EventTime::from_micros(offset * 10), "payload_base64": ""});
            self.append(letter.to_string().into_bytes());
        }

        fn mark(&mut self, offset: i64, deed: Deed, claim: Option<&str>, again: bool) {
            let mark = Mark {
                claim: claim.map(str::to_owned),
                again,
                ..Mark::new("s", at(offset), deed, AT)
            };
            self.append(serde_json::to_vec(&mark).unwrap());
        }

        fn state(&self, offset: i64) -> LetterState {
            self.ledger.letter(at(offset)).unwrap().state
        }
    }

    #[test]
    fn of_two_claims_the_first_in_the_topic_has_the_letter() {
        let mut topic = Topic::new();
        topic.letter(1, "malformed");
        topic.mark(1, Deed::Replaying, Some("a"), false);
        topic.mark(1, Deed::Replaying, Some("b"), false);
        assert_eq!(topic.ledger.letter(at(1)).unwrap().claim.as_deref(), Some("a"));
        topic.mark(1, Deed::Replayed, Some("b"), false);
        assert_eq!(topic.state(1), LetterState::Replaying, "b had no claim");
        topic.mark(1, Deed::Replayed, Some("a"), false);
        assert_eq!(topic.state(1), LetterState::Replayed);
        topic.mark(1, Deed::Replaying, Some("c"), false);
        assert_eq!(topic.state(1), LetterState::Replayed);
        topic.mark(1, Deed::Replaying, Some("c"), true);
        assert_eq!(topic.state(1), LetterState::Replaying, "asked for again");
    }

    #[test]
    fn a_letter_written_again_stays_what_it_has_become() {
        let mut topic = Topic::new();
        topic.letter(1, "malformed");
        topic.mark(1, Deed::Discarded, None, false);
        topic.letter(1, "malformed");
        assert_eq!(topic.state(1), LetterState::Discarded);
        assert_eq!(
            topic.ledger.summary().states,
            BTreeMap::from([("discarded".to_owned(), 1)])
        );
        topic.letter(2, "malformed");
        topic.mark(2, Deed::Fixed, None, false);
        topic.mark(2, Deed::Replaying, Some("a"), false);
        topic.mark(2, Deed::Released, Some("a"), false);
        assert_eq!(topic.state(2), LetterState::Fixed);
    }

    #[test]
    fn pages_follow_each_other_and_filters_hold() {
        let mut topic = Topic::new();
        for offset in 0..25 {
            topic.letter(offset, if offset % 5 == 0 { "future" } else { "malformed" });
        }
        topic.mark(24, Deed::Discarded, None, false);
        let mut query = DeadLetterQuery {
            limit: 10,
            ..DeadLetterQuery::default()
        };
        let mut seen = Vec::new();
        loop {
            let page = topic.ledger.page(&query).unwrap();
            seen.extend(page.letters.iter().map(|(position, _)| position.offset));
            let Some(next) = page.next else { break };
            query.after = Some(next);
        }
        assert_eq!(seen, (0..24).rev().collect::<Vec<_>>());
        let page = |query| topic.ledger.page(&query).unwrap().letters.len();
        let query = DeadLetterQuery::default();
        assert_eq!(
            page(DeadLetterQuery {
                all: true,
                ..query.clone()
            }),
            25
        );
        assert_eq!(
            page(DeadLetterQuery {
                reason: Some("future".to_owned()),
                ..query.clone()
            }),
            5
        );
        assert_eq!(
            page(DeadLetterQuery {
                partition: Some(1),
                ..query.clone()
            }),
            0
        );
        let since = Some(EventTime::from_micros(200));
        assert_eq!(page(DeadLetterQuery { since, ..query.clone() }), 4);
        let position = Some(LetterPosition(at(24)));
        assert_eq!(
            page(DeadLetterQuery {
                position,
                ..query.clone()
            }),
            1,
            "even though it is handled"
        );
        let after = Some("x".to_owned());
        assert!(topic.ledger.page(&DeadLetterQuery { after, ..query }).is_err());
    }

    #[test]
    fn a_skipped_range_is_remembered_once() {
        let mut topic = Topic::new();
        for _ in 0..2 {
            let mark = Mark {
                to: Some(9),
                reason: Some("poison".to_owned()),
                ..Mark::new("s", at(5), Deed::Skipped, AT)
            };
            topic.append(serde_json::to_vec(&mark).unwrap());
        }
        let skipped = topic.ledger.summary().skipped;
        assert_eq!(skipped.len(), 1);
        assert_eq!(
            (skipped[0].from, skipped[0].to, skipped[0].reason.as_str()),
            (5, 9, "poison")
        );
    }

    #[test]
    fn another_sources_letters_and_garbage_are_passed_over() {
        let mut topic = Topic::new();
        topic.append(b"garbage".to_vec());
        topic.append(
            br#"{"source":"other","position":{"partition":0,"offset":1},"reason":"x","at":"1970-01-01T00:00:00Z"}"#
                .to_vec(),
        );
        topic.letter(7, "malformed");
        assert_eq!(topic.ledger.page(&DeadLetterQuery::default()).unwrap().letters.len(), 1);
    }
}
