//! What of a batch of events the spine may see: those of its entities that are known in time, and not too old.
//!
//! Which row is the first to see an event is a search in the moments of its entity, which lie all over memory. For most
//! entities it is enough to know when their first row looks back to and when their last one is: [`Spans`], a place in a
//! list that is small enough for the processor's cache.

use super::beyond::Beyond;
use super::entities::{Entities, NO_ENTITY};
use super::view::JoinView;
use crate::error::JobError;
use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use ondol_vocabulary::columns;

/// The events of a batch that some row may see.
pub(crate) struct Seen {
    /// Their rows in the batch.
    pub rows: Vec<u32>,
    /// Whose they are.
    pub entities: Vec<u32>,
    /// The first place of the spine that sees each; empty where spans were asked.
    pub slots: Vec<u32>,
    /// Whether any was known later than as soon as it had happened.
    pub arrives_later: bool,
}

/// By entity, when an event is one that its rows may see.
pub(crate) struct Spans(Vec<Span>);

#[derive(Clone, Copy)]
struct Span {
    /// The first moment that counts; the end of time where that can't be told without a search.
    from: i64,
    /// The last row's moment.
    to: i64,
}

impl Spans {
    /// Those of `entities`. A span may hold events between two rows that are too old for the later one: not more than there
    /// are others, or the entity is left to a search.
    pub(crate) fn of(view: &JoinView, entities: &Entities) -> Self {
        // What is too old is worth something else where it may be a deletion.
        let lookback = view.lookback_us().filter(|_| !view.history().has_deletions());
        let searches = view.lookback_us().is_some() && lookback.is_none();
        let span = |entity: usize| {
            let moments = entities
                .times()
                .get(entities.slots(&(entity..entity + 1)))
                .unwrap_or_default();
            let (Some(first), Some(last)) = (moments.first(), moments.last()) else {
                return Span {
                    from: i64::MAX,
                    to: i64::MIN,
                };
            };
            let from = match lookback {
                _ if searches => i64::MAX,
                None => i64::MIN,
                Some(lookback) if is_covered(moments, lookback) => first.saturating_sub(lookback),
                Some(_) => i64::MAX,
            };
            Span { from, to: *last }
        };
        Self((0..entities.len()).map(span).collect())
    }
}

/// Whether looking back so far from each of `moments`, which ascend, covers half of the time that they and it span.
fn is_covered(moments: &[i64], lookback: i64) -> bool {
    let gaps = moments.iter().zip(moments.iter().skip(1));
    let gaps = gaps.map(|(one, next)| i128::from(*next) - i128::from(*one));
    let lookback = i128::from(lookback);
    let (covered, spanned) = gaps.fold((lookback, lookback), |(covered, spanned), gap| {
        (covered + gap.min(lookback), spanned + gap)
    });
    covered * 2 >= spanned
}

impl JoinView {
    /// What the rows of `entities` may see of `batch`: to the event, or, with spans, about. What is too old for them is marked
    /// in `beyond`.
    pub(crate) fn seen(
        &self,
        (entities, spans): (&Entities, Option<&Spans>),
        beyond: &Beyond,
        batch: &RecordBatch,
    ) -> Result<Seen, JobError> {
        let column = |name: &str| {
            batch
                .column_by_name(name)
                .ok_or_else(|| JobError::internal(format!("column `{name}` was not read")))
        };
        let keys = self.definition().key.iter().map(|field| column(&field.name));
        let mut found = Vec::with_capacity(batch.num_rows());
        entities.find(&keys.collect::<Result<Vec<_>, _>>()?, &mut found)?;
        let admits: Option<BooleanArray> = self.history().admits(batch)?;
        let micros = |column: &'_ ArrayRef| {
            let column = column.as_primitive_opt::<TimestampMicrosecondType>();
            column
                .map(|column| column.values().clone())
                .ok_or_else(|| JobError::internal("a time that is no timestamp"))
        };
        let times = micros(column(&self.source().time)?)?;
        let known = batch.column_by_name(columns::INGESTED_AT).map(micros).transpose()?;
        let mut seen = Seen::with_capacity(batch.num_rows(), spans.is_none());
        for (row, (&entity, &time)) in found.iter().zip(times.iter()).enumerate() {
            if entity == NO_ENTITY || admits.as_ref().is_some_and(|admits| !admits.value(row)) {
                continue;
            }
            let next = time.saturating_add(1);
            let visible = known.as_ref().map_or(next, |known| next.max(known[row]));
            if let Some(Span { from, to }) = spans.and_then(|spans| spans.0.get(entity as usize)) {
                if visible > *to {
                    continue;
                }
                if time >= *from && visible == next {
                    seen.rows.push(row as u32);
                    seen.entities.push(entity);
                    continue;
                }
            }
            let Some(slot) = entities.first_seeing(entity, visible) else {
                continue;
            };
            // Later rows reach back less far.
            let reaches = |lookback: i64| time >= entities.times()[slot].saturating_sub(lookback);
            if self.lookback_us().is_none_or(reaches) {
                seen.rows.push(row as u32);
                seen.entities.push(entity);
                if spans.is_none() {
                    seen.slots.push(slot as u32);
                }
                seen.arrives_later |= visible > next;
            } else {
                beyond.mark(slot);
            }
        }
        Ok(seen)
    }
}

impl Seen {
    fn with_capacity(rows: usize, has_slots: bool) -> Self {
        Self {
            rows: Vec::with_capacity(rows),
            entities: Vec::with_capacity(rows),
            slots: Vec::with_capacity(if has_slots { rows } else { 0 }),
            arrives_later: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_whose_rows_lie_far_apart_is_left_to_a_search() {
        assert!(is_covered(&[10], 1));
        assert!(is_covered(&[10, 12, 14], 1));
        assert!(is_covered(&[10, 11, 12, 15], 1));
        assert!(!is_covered(&[10, 20], 1));
        assert!(is_covered(&[i64::MIN, i64::MAX], i64::MAX));
    }
}
