//! Views of latest rows over a table in order of time, as most tables are that were written day by day.
//!
//! The spine and the table are walked side by side, each in order of time: the latest event of each entity so far is kept,
//! one number for each, and every row of the spine takes the one that stands there when its moment comes. The cost of an
//! event is a look in a list that stays in the processor's cache; nothing has to be compared.
//!
//! Threads take a [`Leg`] of the table each, which is some of its row groups, and the rows of the spine whose moments lie in it. What a leg
//! has nothing for is found at the end of an earlier one. Whether the table is in order is known from its row groups' statistics
//! and checked row by row; if it is not, [`super::latest`] does the same without.

use super::entities::{KeyedRows, NO_ENTITY};
use super::view::JoinView;
use crate::error::JobError;
use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use hashbrown::HashMap;
use std::ops::Range;

/// No event: events are numbered from 1 here.
const NONE: u32 = 0;

/// Rows of the spine that a leg looks ahead.
const AHEAD: usize = 256;

/// A spine's rows in order of time.
#[derive(Debug)]
pub(crate) struct Moments {
    rows: Vec<u32>,
    times: Vec<i64>,
}

impl Moments {
    /// Of rows at `times`, put in order by `threads` threads.
    pub(crate) fn of(times: &[i64], threads: usize) -> Self {
        let (rows, times) = Self::packed(times, threads).unwrap_or_else(|| {
            let pairs = sorted(times.iter().copied().zip(0..).collect::<Vec<(i64, u32)>>(), threads);
            pairs.into_iter().map(|(time, row)| (row, time)).unzip()
        });
        Self { rows, times }
    }

    /// The rows and their times in order, by way of integers that hold both: where times lie within some years.
    fn packed(times: &[i64], threads: usize) -> Option<(Vec<u32>, Vec<i64>)> {
        let (least, greatest) = (*times.iter().min()?, *times.iter().max()?);
        let row_bits = usize::BITS - times.len().leading_zeros();
        let span = greatest.checked_sub(least)? as u64;
        if row_bits > span.leading_zeros() {
            return None;
        }
        let both = times.iter().zip(0u64..);
        let both = both.map(|(time, row)| ((time - least) as u64) << row_bits | row);
        let row = |both: u64| (both & ((1 << row_bits) - 1)) as u32;
        let ordered = sorted(both.collect::<Vec<u64>>(), threads);
        let ordered = ordered.into_iter();
        Some(
            ordered
                .map(|both| (row(both), least + (both >> row_bits) as i64))
                .unzip(),
        )
    }

    /// Places of rows that see nothing at `time` or later, if events are seen `lag_us` after they happened.
    fn before(&self, time: i64, lag_us: i64) -> usize {
        let seen = time.saturating_add(lag_us);
        self.times.partition_point(|moment| *moment < seen)
    }
}

/// `values` in order, by `threads` threads.
fn sorted<T: Ord + Send>(mut values: Vec<T>, threads: usize) -> Vec<T> {
    let part = values.len().div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        for part in values.chunks_mut(part) {
            scope.spawn(|| part.sort_unstable());
        }
    });
    // What is in order already is merged.
    values.sort();
    values
}

/// What a walk needs to know.
pub(crate) struct Timeline<'a> {
    pub view: &'a JoinView,
    /// The spine by key.
    pub keyed: &'a KeyedRows,
    /// The spine by time.
    pub moments: &'a Moments,
    /// How long after an event it is seen.
    pub lag_us: i64,
}

/// Events of an entity that nothing tells apart but their values, the latest of it: by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tie {
    pub time: i64,
    pub events: Vec<u32>,
}

/// What a leg has found: which event each row of the spine takes.
#[derive(Default)]
pub(crate) struct Found {
    /// Events and the rows that take them, both by number.
    pub won: Vec<(u32, u32)>,
    /// Ties and the rows that take them.
    pub tied: Vec<(Tie, Vec<u32>)>,
}

/// A walk along a part of the table.
pub(crate) struct Leg<'a> {
    timeline: &'a Timeline<'a>,
    /// The rows of the spine whose moments lie in it, those before the first taken care of.
    span: Range<usize>,
    /// The next rows of those, and whose they are, the last one first.
    ahead: Vec<(u32, u32)>,
    /// When the leg may begin and the next one does, by the statistics of the row groups.
    from: i64,
    /// The number of the latest event, by entity.
    latest: Vec<u32>,
    /// By entity, where it is tied with others.
    ties: HashMap<u32, Tie>,
    /// The time of the last event, and the number of the first one of that time.
    last: i64,
    run: u32,
    /// The present tie of an entity among those found, by the number of its first event.
    found_ties: HashMap<u32, usize>,
    found: Found,
    /// Rows whose entity has nothing here.
    elsewhere: Vec<u32>,
    is_ordered: bool,
    /// Room for the entities of a batch.
    entities: Vec<u32>,
}

impl<'a> Timeline<'a> {
    /// The leg of the events from `from` on, before which the leg before it ends; `next` is where the next one begins.
    pub(crate) fn leg(&'a self, from: i64, next: Option<i64>) -> Leg<'a> {
        let end = next.map_or(self.moments.rows.len(), |next| self.moments.before(next, self.lag_us));
        Leg {
            timeline: self,
            span: self.moments.before(from, self.lag_us).min(end)..end,
            ahead: Vec::with_capacity(AHEAD),
            from,
            latest: vec![NONE; self.keyed.count()],
            ties: HashMap::new(),
            last: i64::MIN,
            run: NONE,
            found_ties: HashMap::new(),
            found: Found::default(),
            elsewhere: Vec::new(),
            is_ordered: true,
            entities: Vec::new(),
        }
    }

    /// What all legs have found, in their order; none if the table is not in order.
    pub(crate) fn found(mut legs: Vec<Leg<'_>>) -> Option<Vec<Found>> {
        let mut end = i64::MIN;
        for leg in &legs {
            // Strictly before the first of this one, since a bound is widened by one: no tie lies in both.
            if !leg.is_ordered || end > leg.from {
                return None;
            }
            end = end.max(leg.last);
        }
        for at in 0..legs.len() {
            let (earlier, rest) = legs.split_at_mut(at);
            let Some((leg, _)) = rest.split_first_mut() else {
                continue;
            };
            for row in std::mem::take(&mut leg.elsewhere) {
                let entity = leg.timeline.keyed.entities()[row as usize];
                let known = |leg: &&mut Leg<'_>| leg.latest.get(entity as usize).is_some_and(|event| *event != NONE);
                if let Some(known) = earlier.iter_mut().rev().find(known) {
                    known.give(entity, row);
                }
            }
        }
        Some(legs.into_iter().map(|leg| leg.found).collect())
    }
}

impl Leg<'_> {
    /// Goes on over the events of `batch`, the first of which has number `first`. `false` once they are out of order.
    pub(crate) fn push(&mut self, batch: &RecordBatch, first: u32) -> Result<bool, JobError> {
        let view = self.timeline.view;
        let column = |name: &str| {
            let column = batch.column_by_name(name);
            column.ok_or_else(|| JobError::internal(format!("column `{name}` was not read")))
        };
        let keys = view.definition().key.iter().map(|field| column(&field.name));
        let keys: Vec<&ArrayRef> = keys.collect::<Result<_, _>>()?;
        let mut entities = std::mem::take(&mut self.entities);
        self.timeline.keyed.find(&keys, &mut entities)?;
        let admits = view.history().admits(batch)?;
        let times = column(&view.source().time)?.as_primitive_opt::<TimestampMicrosecondType>();
        let times = times.ok_or_else(|| JobError::internal("a time that is no timestamp"))?;
        let events = entities.iter().zip(times.values()).zip(first + 1..);
        for (row, ((&entity, &time), event)) in events.enumerate() {
            if time != self.last || self.run == NONE {
                if time < self.last.max(self.from) {
                    self.is_ordered = false;
                    break;
                }
                self.go_on_to(time);
                (self.last, self.run) = (time, event);
            }
            let is_taken = entity != NO_ENTITY && admits.as_ref().is_none_or(|admits| admits.value(row));
            if let Some(latest) = self.latest.get_mut(entity as usize).filter(|_| is_taken) {
                let held = std::mem::replace(latest, event);
                if held >= self.run || !self.ties.is_empty() {
                    self.tie(entity, held, event);
                }
            }
        }
        self.entities = entities;
        Ok(self.is_ordered)
    }

    /// Notes that `event` follows `held`, if that is of the same time, or is no longer tied.
    #[cold]
    fn tie(&mut self, entity: u32, held: u32, event: u32) {
        if held < self.run {
            self.ties.remove(&entity);
            return;
        }
        let tie = self.ties.entry(entity).or_insert_with(|| Tie {
            time: self.last,
            events: vec![held],
        });
        tie.events.push(event);
    }

    /// Lets all rows that see nothing at `time` or later take what they see.
    #[inline]
    fn go_on_to(&mut self, time: i64) {
        let moments = self.timeline.moments;
        let seen = time.saturating_add(self.timeline.lag_us);
        while self.span.start < self.span.end && moments.times[self.span.start] < seen {
            self.take_next();
        }
    }

    /// Lets the rows that are left take what they see. To be called after the last event.
    pub(crate) fn end(&mut self) {
        while self.span.start < self.span.end {
            self.take_next();
        }
    }

    fn take_next(&mut self) {
        if self.ahead.is_empty() {
            self.look_ahead();
        }
        let Some((row, entity)) = self.ahead.pop() else { return };
        self.span.start += 1;
        match self.latest.get(entity as usize) {
            // A row without a key takes nothing.
            None => {}
            Some(&NONE) => self.elsewhere.push(row),
            Some(_) => self.give(entity, row),
        }
    }

    /// Fetches whose the next rows are. They lie all over memory, which answers many questions at once as fast as one.
    fn look_ahead(&mut self) {
        let rows = &self.timeline.moments.rows[self.span.clone()];
        let entities = self.timeline.keyed.entities();
        let next = rows.iter().take(AHEAD).map(|row| (*row, entities[*row as usize]));
        self.ahead.extend(next);
        self.ahead.reverse();
    }

    /// Gives `row` the latest event of `entity`.
    fn give(&mut self, entity: u32, row: u32) {
        if let Some(tie) = self.ties.get(&entity) {
            let first = tie.events.first().copied().unwrap_or(NONE);
            let place = *self.found_ties.entry(first).or_insert_with(|| {
                let events = tie.events.iter().map(|event| event - 1).collect();
                self.found.tied.push((Tie { time: tie.time, events }, Vec::new()));
                self.found.tied.len() - 1
            });
            self.found.tied[place].1.push(row);
            return;
        }
        self.found.won.push((self.latest[entity as usize] - 1, row));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, TimestampMicrosecondArray};
    use ondol_vocabulary::{DefinitionFile, DefinitionFiles};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn view() -> JoinView {
        let text = "[source.t]\nparquet = \"p\"\ntime = \"ts\"\nschema = { k = \"i64\", ts = \"timestamp\", v = \"f64\" }\n\
                    [view.v]\nfrom = \"t\"\nkey = \"k\"\nfeatures.v = \"v\"\n";
        let files = vec![DefinitionFile {
            path: "t.toml".to_owned(),
            text: text.to_owned(),
        }];
        let definitions = ondol_transform::definition::compile(&DefinitionFiles { files }).unwrap();
        JoinView::compile(&definitions.views[0], &definitions.sources[0]).unwrap()
    }

    fn batch(events: &[(i64, i64)]) -> RecordBatch {
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(events.iter().map(|(key, _)| *key)));
        let times = TimestampMicrosecondArray::from_iter_values(events.iter().map(|(_, time)| *time));
        let times: ArrayRef = Arc::new(times.with_timezone("UTC"));
        RecordBatch::try_from_iter([("k", keys), ("ts", times)]).unwrap()
    }

    /// By row of the spine the events that it takes: all of the latest moment it sees.
    type Taken = BTreeMap<u32, Vec<u32>>;

    fn by_brute_force(events: &[(i64, i64)], spine: &[(Option<i64>, i64)], lag_us: i64) -> Taken {
        let mut taken = Taken::new();
        for (row, (key, moment)) in (0..).zip(spine) {
            let seen = |(_, event): &(u32, &(i64, i64))| Some(event.0) == *key && event.1 + lag_us <= *moment;
            let seen: Vec<_> = (0u32..).zip(events).filter(seen).collect();
            if let Some(latest) = seen.iter().map(|(_, (_, time))| *time).max() {
                let latest = seen.iter().filter(|(_, (_, time))| *time == latest);
                taken.insert(row, latest.map(|(event, _)| *event).collect());
            }
        }
        taken
    }

    fn walked(
        events: &[(i64, i64)],
        spine: &[(Option<i64>, i64)],
        lag_us: i64,
        cuts: &[usize],
        batch_rows: usize,
    ) -> Option<Taken> {
        let keys: ArrayRef = Arc::new(spine.iter().map(|(key, _)| *key).collect::<Int64Array>());
        let times: Vec<i64> = spine.iter().map(|(_, time)| *time).collect();
        let view = view();
        let timeline = Timeline {
            view: &view,
            keyed: &KeyedRows::of(&[vec![&keys]]).unwrap(),
            moments: &Moments::of(&times, 1 + batch_rows % 3),
            lag_us,
        };
        let from = |cut: usize| events.get(cut).map_or(i64::MIN, |(_, time)| time - 1);
        let mut legs = Vec::new();
        for (number, cut) in cuts.iter().enumerate() {
            let next = cuts.get(number + 1).copied();
            let mut leg = timeline.leg(if number == 0 { i64::MIN } else { from(*cut) }, next.map(from));
            let mut first = *cut;
            for part in events[*cut..next.unwrap_or(events.len())].chunks(batch_rows) {
                if !leg.push(&batch(part), first as u32).unwrap() {
                    return None;
                }
                first += part.len();
            }
            leg.end();
            legs.push(leg);
        }
        let mut taken = Taken::new();
        for found in Timeline::found(legs)? {
            for (event, row) in found.won {
                assert_eq!(taken.insert(row, vec![event]), None);
            }
            for (tie, rows) in found.tied {
                assert!(tie.events.iter().all(|event| events[*event as usize].1 == tie.time));
                for row in rows {
                    assert_eq!(taken.insert(row, tie.events.clone()), None);
                }
            }
        }
        Some(taken)
    }

    proptest! {
        #[test]
        fn moments_are_in_order_however_far_they_lie_apart(
            near in prop::collection::vec(-50..50i64, 0..100),
            far in prop::collection::vec(prop_oneof![Just(i64::MIN), Just(i64::MAX), any::<i64>()], 0..3),
            threads in 1..4usize,
        ) {
            let times: Vec<i64> = near.into_iter().chain(far).collect();
            let mut expected: Vec<(i64, u32)> = times.iter().copied().zip(0..).collect();
            expected.sort_unstable();
            let moments = Moments::of(&times, threads);
            let found: Vec<(i64, u32)> = moments.times.into_iter().zip(moments.rows).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn every_row_takes_the_latest_event_it_sees(
            mut events in prop::collection::vec((0..4i64, 0..60i64), 0..80),
            spine in prop::collection::vec((prop::option::weighted(0.9, 0..5i64), 0..80i64), 0..40),
            lag_us in 1..9i64,
            cuts in prop::collection::btree_set(0..80usize, 0..4),
            batch_rows in 1..20usize,
        ) {
            events.sort_by_key(|(_, time)| *time);
            // Where a moment begins.
            let begins = |cut: &usize| *cut > 0 && *cut < events.len() && events[*cut].1 > events[*cut - 1].1;
            let cuts: Vec<usize> = std::iter::once(0).chain(cuts.into_iter().filter(begins)).collect();
            let walked = walked(&events, &spine, lag_us, &cuts, batch_rows);
            prop_assert_eq!(walked, Some(by_brute_force(&events, &spine, lag_us)));
        }
    }

    #[test]
    fn what_is_out_of_order_is_noticed() {
        let spine = [(Some(1), 9)];
        let walk = |events: &[(i64, i64)], cuts: &[usize]| walked(events, &spine, 1, cuts, 100);
        assert_eq!(walk(&[(1, 5), (2, 4)], &[0]), None);
        // A moment that lies in two legs, and a leg before the one before it.
        assert_eq!(walk(&[(1, 5), (2, 5)], &[0, 1]), None);
        assert_eq!(walk(&[(1, 5), (2, 4)], &[0, 1]), None);
        assert_eq!(walk(&[(1, 4), (2, 5)], &[0, 1]), Some(Taken::from([(0, vec![0])])));
    }
}
