//! The join of a view of latest rows along a table in order of time: who takes which event, then the values of those.
//!
//! The table's keys and times are read by [`Leg`]s, on all threads; then of each row group the rows that somebody takes, each once;
//! then every column is put into the spine's order. Memory is in proportion to the spine.

use super::{Join, rows};
use crate::error::JobError;
use crate::point_in_time::{Answers, Assembly, Found, KeyedRows, NO_ENTITY, SpineMoments, Tie, Timeline, Worth};
use crate::table::{Marks, Positions, Scan, Unit};
use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::TimestampMicrosecondType;
use ondol_pipelines_api::wire::AsOf;
use ondol_transform::Moments;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Legs for each thread: the more, the more evenly threads are at work, and the more rows look for their event in earlier legs.
const LEGS_PER_THREAD: usize = 4;
/// Bytes that the latest events of all legs may take.
const LATEST_BYTES: usize = 64 << 20;

const NO_MARKS: Marks = Marks {
    positions: false,
    arrival: false,
};

/// Nobody's event: the row takes none.
const NONE: u32 = u32::MAX;
/// The row's event is too old for it.
const EXPIRED: u32 = u32::MAX - 1;

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

/// Rows of the spine that take their values from places in an assembly.
struct Takers<'a> {
    ttl_us: Option<i64>,
    times: &'a [i64],
    /// By row of the spine.
    places: Vec<AtomicU32>,
}

impl Join<'_> {
    /// The features as of each of `spine`'s rows; none if the table is not known to be in order of time, or turns out not
    /// to be.
    pub(super) fn timeline(&self, spine: &Rows<'_>) -> Result<Option<Answers>, JobError> {
        let Positions::RowNumber { delay_us } = self.table.positions else {
            return Ok(None);
        };
        if self.marks().positions {
            return Ok(None);
        }
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
        let takers = Takers::new(self.view.definition().ttl_us, spine.times);
        let answers = self.values(&groups, &wanted, &ties, &takers)?;
        let ordered = self.in_order(answers, takers.places, spine.keyed, scan.has_older())?;
        Ok(Some(ordered))
    }

    /// The answers of all events that are wanted, each once, and of the ties; `takers` are given their places.
    fn values(
        &self,
        groups: &Groups,
        wanted: &[Wanted],
        ties: &[(Tie, Vec<u32>)],
        takers: &Takers<'_>,
    ) -> Result<Answers, JobError> {
        let scan = self.scan(self.view.value_columns(), NO_MARKS);
        let places = firsts(wanted.iter().map(|wanted| wanted.rows.len() as u64));
        let distinct = places.last().copied().unwrap_or(0);
        let tied: usize = ties.iter().map(|(_, rows)| rows.len()).sum();
        let types = self.view.features().map(|feature| feature.data_type);
        let assembly = Assembly::new(types, distinct as usize + tied);
        self.progress
            .stage(format!("computing {}", self.name), Some(rows(&groups.units)));
        self.pool.for_each(&groups.units, |number, unit| {
            self.progress.checkpoint()?;
            let (wanted, first) = (&wanted[number], places[number]);
            if !wanted.rows.is_empty() {
                let picked = scan.pick(unit, &wanted.rows, groups.is_whole, self.pool.io())?;
                let answers = self.view.history().latest(&picked)?;
                assembly.place(&run(first, picked.num_rows()), &answers)?;
                takers.take(self.times_of(&picked)?, &wanted.takers, first);
            }
            self.progress.add(unit.rows);
            Ok(())
        })?;
        self.settle(groups, ties, (&assembly, distinct), takers)?;
        assembly.finish(self.limits.threads)
    }

    /// The units of each leg and where it begins; none if the units are not in order of time, by their statistics.
    fn legs(&self, scan: &Scan, units: &[Unit], entities: usize) -> Option<Vec<(Range<usize>, i64)>> {
        if rows(units) >= u64::from(EXPIRED) {
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
        let wanted = self.pool.map(won, |number, mut won| {
            won.sort_unstable();
            let mut rest = won.as_slice();
            let units = legs.get(number).map_or(0..0, |(units, _)| units.clone());
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
    fn settle(
        &self,
        groups: &Groups,
        ties: &[(Tie, Vec<u32>)],
        (assembly, first): (&Assembly, u32),
        takers: &Takers<'_>,
    ) -> Result<(), JobError> {
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
        let (mut times, mut ends, mut place) = (Vec::new(), Vec::new(), first);
        for (tie, rows) in ties {
            for row in rows {
                times.push(takers.times[*row as usize]);
                takers.give(*row, tie.time, place);
                place += 1;
            }
            ends.push(times.len() as u32);
        }
        let moments = Moments {
            times: &times,
            ends: &ends,
        };
        let events = concat_batches(&schema, &batches)?;
        let answers = self.view.history().answers(&events, &lanes, &moments)?;
        assembly.place(&run(first, times.len()), &answers)
    }

    /// `answers` in the spine's order, by their `places`.
    fn in_order(
        &self,
        answers: Answers,
        places: Vec<AtomicU32>,
        keyed: &KeyedRows,
        unread: bool,
    ) -> Result<Answers, JobError> {
        let places: Vec<u32> = places.into_iter().map(AtomicU32::into_inner).collect();
        let past = self.view.worth_of_past();
        let worth = places.iter().zip(keyed.entities());
        let worth = worth.map(|(place, entity)| match *place {
            EXPIRED => past,
            NONE if unread && *entity != NO_ENTITY => Worth::Unread,
            place => answers.worth.get(place as usize).copied().unwrap_or_default(),
        });
        let worth = worth.collect();
        let nulls = NullBuffer::new(BooleanBuffer::collect_bool(places.len(), |row| places[row] < EXPIRED));
        let nulls = Some(nulls).filter(|nulls| nulls.null_count() > 0);
        let places = UInt32Array::new(ScalarBuffer::from(places), nulls);
        let values = self
            .pool
            .map(answers.values, |_, values| Ok(take(&values, &places, None)?))?;
        Ok(Answers { values, worth })
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

impl<'a> Takers<'a> {
    fn new(ttl_us: Option<i64>, times: &'a [i64]) -> Self {
        let mut places = Vec::with_capacity(times.len());
        places.resize_with(times.len(), || AtomicU32::new(NONE));
        Self { ttl_us, times, places }
    }

    /// Lets `takers` take from places counted from `first`, events of `times`.
    fn take(&self, times: &[i64], takers: &[(u32, u32)], first: u32) {
        for (place, row) in takers {
            self.give(*row, times[*place as usize], first + place);
        }
    }

    /// Gives `row` the place of an event at `time`, unless that is too old for it.
    fn give(&self, row: u32, time: i64, place: u32) {
        let age = i128::from(self.times[row as usize]) - i128::from(time);
        let is_expired = self.ttl_us.is_some_and(|ttl_us| age > i128::from(ttl_us));
        self.places[row as usize].store(if is_expired { EXPIRED } else { place }, Ordering::Relaxed);
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

fn run(first: u32, length: usize) -> Vec<u32> {
    (first..).take(length).collect()
}
