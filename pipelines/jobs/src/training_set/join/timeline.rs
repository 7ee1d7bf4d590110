//! The join of a view of latest rows along a table in order of time: who takes which event, then the values of those.
//!
//! The table's keys and times are read by [`Leg`]s, on all threads; then of each row group the rows that somebody takes, each once;
//! and every row of the spine is told where its values are. Memory is in proportion to the spine.

use super::{Join, rows};
use crate::error::JobError;
use crate::point_in_time::{
    Answers, Assembled, Assembly, Found, KeyedRows, NO_ENTITY, SpineMoments, Tie, Timeline, Worth,
};
use crate::pool;
use crate::table::{Marks, Positions, Scan, Unit};
use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::TimestampMicrosecondType;
use ondol_pipelines_api::wire::AsOf;
use ondol_transform::Moments;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// Legs for each thread: the more, the more evenly threads are at work, and the more rows look for their event in earlier legs.
const LEGS_PER_THREAD: usize = 4;
/// Bytes that the latest events of all legs may take.
const LATEST_BYTES: usize = 64 << 20;

const NO_MARKS: Marks = Marks {
    positions: false,
    arrival: false,
};

/// Rows of the spine that one thread takes care of sooner than two.
const LEAST_SHARED: usize = 1 << 15;

/// More events are not numbered.
const MOST_EVENTS: u32 = u32::MAX - 2;

/// The spine as a view sees it, by row.
pub(super) struct Rows<'a> {
    pub(super) keyed: &'a KeyedRows,
    pub(super) times: &'a [i64],
    pub(super) moments: &'a SpineMoments,
}

/// Row groups whose events are numbered through.
struct Groups {
    units: Vec<Unit>,
    /// The number of the first event of each, and of the first behind them all.
    firsts: Vec<u32>,
    /// Whether none of their rows is left out.
    is_whole: bool,
}

/// What is read of a row group.
#[derive(Default)]
struct Wanted {
    /// Rows of it, ascending.
    rows: Vec<u32>,
    /// Places among them, and the rows of the spine that take them.
    takers: Vec<(u32, u32)>,
}

/// Rows of the spine that take answers, as far as those are not too old for them.
struct Takers<'a> {
    ttl_us: Option<i64>,
    times: &'a [i64],
    assembly: Assembly,
    /// What a row's entity is worth of which only events are known that are too old.
    past: Worth,
}

impl Join<'_> {
    /// The features as of each of `spine`'s rows; none if the table, which may be in order of time, turns out not to be.
    pub(super) fn timeline(&self, spine: &Rows<'_>) -> Result<Option<Assembled>, JobError> {
        let Positions::RowNumber { delay_us } = self.table.positions else {
            return Ok(None);
        };
        let scan = self.scan(self.view.admitting_columns(), NO_MARKS);
        let units = self.units(&scan, spine.times)?;
        let Some(legs) = self.legs(&scan, &units, spine.keyed.count()) else {
            return Ok(None);
        };
        let timeline = Timeline {
            view: self.view,
            keyed: spine.keyed,
            moments: spine.moments,
            lag_us: match self.reading.as_of {
                AsOf::KnownAt => delay_us.max(1),
                AsOf::EventTime => 1,
            },
        };
        let firsts = firsts(units.iter().map(|unit| unit.rows));
        let Some(found) = self.walk(&timeline, &scan, (&units, &firsts), &legs)? else {
            return Ok(None);
        };
        self.warn(&scan);
        let (wanted, ties) = self.wanted(found, &firsts, &legs)?;
        let groups = Groups {
            units,
            firsts,
            is_whole: scan.rows_without_time() == 0,
        };
        let types = self.view.features().map(|feature| feature.data_type);
        let takers = Takers {
            ttl_us: self.view.definition().ttl_us,
            times: spine.times,
            assembly: Assembly::new(types, spine.times.len()),
            past: self.view.worth_of_past(),
        };
        self.values(&groups, &wanted, &takers)?;
        self.settle(&groups, &ties, &takers)?;
        let mut assembled = takers.assembly.finish()?;
        if scan.has_older() {
            doubt(&mut assembled, spine.keyed);
        }
        Ok(Some(assembled))
    }

    /// Gives `takers` the answers of all events that are wanted, each read once.
    fn values(&self, groups: &Groups, wanted: &[Wanted], takers: &Takers<'_>) -> Result<(), JobError> {
        let scan = self.scan(self.view.value_columns(), NO_MARKS);
        self.progress
            .stage(format!("computing {}", self.name), Some(rows(&groups.units)));
        // Where row groups are fewer than threads, the rows that take of one are shared out.
        let threads = match groups.units.len() < self.limits.threads {
            true => self.limits.threads,
            false => 1,
        };
        self.pool.for_each(&groups.units, |number, unit| {
            self.progress.checkpoint()?;
            let wanted = &wanted[number];
            if !wanted.rows.is_empty() {
                let picked = scan.pick(unit, &wanted.rows, groups.is_whole, self.pool.io())?;
                let answers = self.view.history().latest(&picked)?;
                let times = self.times_of(&picked)?;
                takers.take(&wanted.takers, times, answers, threads)?;
            }
            self.progress.add(unit.rows);
            Ok(())
        })
    }

    /// The units of each leg and where it begins; none if the units are not in order of time, by their statistics.
    fn legs(&self, scan: &Scan, units: &[Unit], entities: usize) -> Option<Vec<(Range<usize>, i64)>> {
        if rows(units) > u64::from(MOST_EVENTS) {
            return None;
        }
        let most = (LATEST_BYTES / size_of::<u32>() / entities.max(1)).max(1);
        let most = most.min(self.limits.threads * LEGS_PER_THREAD).max(1);
        let target = (rows(units) / most as u64).max(1);
        let mut legs: Vec<(Range<usize>, i64)> = Vec::new();
        let (mut greatest, mut filled) = (None, 0);
        for (number, unit) in units.iter().enumerate() {
            // Both are widened by one.
            let (from, to) = scan.bounds(unit)?;
            let can_begin = match greatest {
                None => true,
                Some(greatest) if from.saturating_add(2) < greatest => return None,
                Some(greatest) => filled >= target && greatest < from.saturating_add(2),
            };
            match legs.last_mut().filter(|_| !can_begin) {
                Some((leg, _)) => leg.end = number + 1,
                None => {
                    let from = if number == 0 { i64::MIN } else { from };
                    legs.push((number..number + 1, from));
                    filled = 0;
                }
            }
            filled += unit.rows;
            greatest = greatest.max(Some(to));
        }
        Some(legs)
    }

    /// What each leg has found; none if events are out of order.
    fn walk(
        &self,
        timeline: &Timeline<'_>,
        scan: &Scan,
        (units, firsts): (&[Unit], &[u32]),
        legs: &[(Range<usize>, i64)],
    ) -> Result<Option<Vec<Found>>, JobError> {
        self.reading(units);
        let is_disordered = AtomicBool::new(false);
        let walked = self.pool.map(legs.to_vec(), |number, (leg_units, from)| {
            let next = legs.get(number + 1).map(|(_, from)| *from);
            let mut leg = timeline.leg(from, next);
            for number in leg_units {
                if is_disordered.load(Ordering::Relaxed) {
                    break;
                }
                self.each_batch(scan, &units[number], |batch, first_row| {
                    if !leg.push(&batch, firsts[number] + first_row)? {
                        is_disordered.store(true, Ordering::Relaxed);
                    }
                    Ok(())
                })?;
            }
            leg.end();
            Ok(leg)
        })?;
        match is_disordered.into_inner() {
            true => Ok(None),
            false => Ok(Timeline::found(walked)),
        }
    }

    /// What is to be read of each unit, and the ties that somebody takes.
    #[expect(clippy::type_complexity, reason = "two lists")]
    fn wanted(
        &self,
        found: Vec<Found>,
        firsts: &[u32],
        legs: &[(Range<usize>, i64)],
    ) -> Result<(Vec<Wanted>, Vec<(Tie, Vec<u32>)>), JobError> {
        let (won, ties): (Vec<_>, Vec<_>) = found.into_iter().map(|found| (found.won, found.tied)).unzip();
        let wanted = self.pool.map(won, |number, won| {
            let units = legs.get(number).map_or(0..0, |(units, _)| units.clone());
            let won = by_event(won, firsts[units.start]..firsts[units.end]);
            let mut rest = won.as_slice();
            let wanted = units.map(|unit| {
                let (here, behind) = rest.split_at(rest.partition_point(|(event, _)| *event < firsts[unit + 1]));
                rest = behind;
                Wanted::of(here, firsts[unit])
            });
            Ok(wanted.collect::<Vec<_>>())
        })?;
        Ok((
            wanted.into_iter().flatten().collect(),
            ties.into_iter().flatten().collect(),
        ))
    }

    /// Folds events that nothing tells apart but their values, as the stream would.
    fn settle(&self, groups: &Groups, ties: &[(Tie, Vec<u32>)], takers: &Takers<'_>) -> Result<(), JobError> {
        let Groups {
            units,
            firsts,
            is_whole,
        } = groups;
        let marks = Marks {
            positions: false,
            ..self.marks()
        };
        let scan = self.scan(self.view.value_columns(), marks);
        let mut events: Vec<(u32, u32)> = (0..)
            .zip(ties)
            .flat_map(|(lane, (tie, _))| tie.events.iter().map(move |event| (*event, lane)))
            .collect();
        events.sort_unstable();
        let mut rest = events.as_slice();
        let (mut batches, mut lanes) = (Vec::new(), Vec::new());
        for (number, unit) in units.iter().enumerate() {
            let (here, behind) = rest.split_at(rest.partition_point(|(event, _)| *event < firsts[number + 1]));
            rest = behind;
            if !here.is_empty() {
                let rows: Vec<u32> = here.iter().map(|(event, _)| event - firsts[number]).collect();
                batches.push(scan.pick(unit, &rows, *is_whole, self.pool.io())?);
                lanes.extend(here.iter().map(|(_, lane)| *lane));
            }
        }
        let Some(schema) = batches.first().map(RecordBatch::schema) else {
            return Ok(());
        };
        let (mut times, mut ends, mut takes, mut happened) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (tie, rows) in ties {
            for row in rows {
                takes.push((times.len() as u32, *row));
                times.push(takers.times[*row as usize]);
                happened.push(tie.time);
            }
            ends.push(times.len() as u32);
        }
        let moments = Moments {
            times: &times,
            ends: &ends,
        };
        let events = concat_batches(&schema, &batches)?;
        let answers = self.view.history().answers(&events, &lanes, &moments)?;
        takers.take(&takes, &happened, answers, 1)
    }

    fn times_of<'b>(&self, events: &'b RecordBatch) -> Result<&'b [i64], JobError> {
        let times = events.column_by_name(&self.view.source().time);
        let times = times.and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
        Ok(times
            .ok_or_else(|| JobError::internal("events without a time"))?
            .values())
    }
}

impl Wanted {
    /// Of the events and rows `won`, in order, of a unit whose first event is `first`.
    fn of(won: &[(u32, u32)], first: u32) -> Self {
        let mut wanted = Self {
            rows: Vec::with_capacity(won.len()),
            takers: Vec::with_capacity(won.len()),
        };
        for (event, taker) in won {
            let row = event - first;
            if wanted.rows.last() != Some(&row) {
                wanted.rows.push(row);
            }
            wanted.takers.push((wanted.rows.len() as u32 - 1, *taker));
        }
        wanted.rows.shrink_to_fit();
        wanted
    }
}

impl Takers<'_> {
    /// Gives `answers`, whose events happened at `times`, to rows of the spine: `takes` are an answer and a row that takes
    /// it. On `threads` threads.
    fn take(&self, takes: &[(u32, u32)], times: &[i64], answers: Answers, threads: usize) -> Result<(), JobError> {
        let part = takes.len().div_ceil(threads).max(LEAST_SHARED);
        let parts = pool::map(threads, takes.chunks(part).collect(), |_, takes: &[(u32, u32)]| {
            let mut takers = Vec::with_capacity(takes.len());
            for (at, row) in takes {
                let age = i128::from(self.times[*row as usize]) - i128::from(times[*at as usize]);
                match self.ttl_us {
                    Some(ttl_us) if age > i128::from(ttl_us) => self.assembly.tell(*row, self.past),
                    _ => takers.push((*row, *at)),
                }
            }
            Ok(takers)
        })?;
        self.assembly.give_parts(parts, answers, threads)
    }
}

/// `won`, events of `events` and the rows that take them, in order of the events.
fn by_event(mut won: Vec<(u32, u32)>, events: Range<u32>) -> Vec<(u32, u32)> {
    if events.len() / 2 > won.len() {
        won.sort_unstable();
        return won;
    }
    // As many events as rows, or fewer: each is counted, and so has its place.
    let place = |event: u32| (event - events.start) as usize;
    let mut next = vec![0u32; events.len()];
    won.iter().for_each(|(event, _)| next[place(*event)] += 1);
    let mut sum = 0;
    for count in &mut next {
        sum += std::mem::replace(count, sum);
    }
    let mut ordered = vec![(0, 0); won.len()];
    for taken in won {
        let next = &mut next[place(taken.0)];
        ordered[*next as usize] = taken;
        *next += 1;
    }
    ordered
}

/// Of rows that found nothing nobody knows what was before: but of those that name no entity.
fn doubt(assembled: &mut Assembled, keyed: &KeyedRows) {
    for (row, entity) in keyed.entities().iter().enumerate() {
        let is_unknown = *entity != NO_ENTITY && !assembled.has(row);
        if let Some(worth @ Worth::Missing) = assembled.worth.get_mut(row).filter(|_| is_unknown) {
            *worth = Worth::Unread;
        }
    }
}

/// The numbers of the first of each, and of the first behind them all. They fit, as [`Join::legs`] has made sure.
fn firsts(lengths: impl Iterator<Item = u64>) -> Vec<u32> {
    let mut next = 0u32;
    let firsts = lengths.map(|length| {
        next += length as u32;
        next
    });
    std::iter::once(0).chain(firsts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn who_takes_an_event_stands_with_it_however_many_there_are(
            first in 0..1_000u32,
            count in 1..200u32,
            taken in prop::collection::vec(any::<prop::sample::Index>(), 0..300),
        ) {
            let won: Vec<(u32, u32)> = taken
                .iter()
                .zip(0..)
                .map(|(event, row)| (first + event.index(count as usize) as u32, row))
                .collect();
            let mut ordered = by_event(won.clone(), first..first + count);
            prop_assert!(ordered.is_sorted_by_key(|(event, _)| *event));
            let mut expected = won;
            expected.sort_unstable();
            ordered.sort_unstable();
            prop_assert_eq!(ordered, expected);
        }
    }
}
