//! How far each window reaches at each moment: two places among the events in order.

use super::super::projection::Projection;
use super::lanes::Lanes;
use super::reading::{Readings, Window};
use super::{Moments, Part, Worth};
use crate::row::scalar::ScalarRef;
use std::ops::Range;

/// The ends of windows, by moment. A moment of a disordered lane reaches nothing.
pub(super) struct Reach {
    /// One past the last event in sight.
    pub(super) heads: Vec<u32>,
    /// The first event of the moment's lane.
    pub(super) starts: Vec<u32>,
    /// By window: the first event in it.
    tails: Vec<Vec<u32>>,
    /// Where each lane's moments end.
    ends: Vec<u32>,
    /// What the entity is worth at each moment; none if every entity to which something has happened is live.
    pub(super) worth: Option<Vec<Worth>>,
}

impl Reach {
    pub(super) fn find(
        readings: &Readings,
        part: &Part,
        projection: &Projection,
        lanes: &Lanes,
        moments: &Moments<'_>,
    ) -> Self {
        let slots = moments.times.len();
        let mut heads = Vec::with_capacity(slots);
        let mut starts = Vec::with_capacity(slots);
        let mut disordered = lanes.disordered.iter().copied().peekable();
        for lane in 0..lanes.len() {
            let events = lanes.range(lane);
            let is_disordered = disordered.next_if_eq(&lane).is_some();
            let mut head = events.start;
            for moment in &moments.times[moments.range(lane)] {
                while !is_disordered && head < events.end && lanes.visible[head] <= *moment {
                    head += 1;
                }
                heads.push(head as u32);
                starts.push(events.start as u32);
            }
        }
        let tails = readings
            .windows
            .iter()
            .map(|window| tails(window, lanes, moments, &heads, &starts));
        let tails = tails.collect();
        let worth = worth(part, projection, lanes, moments, &heads, &starts);
        let mut reach = Self {
            heads,
            starts,
            tails,
            ends: moments.ends.to_vec(),
            worth,
        };
        reach.blind();
        reach
    }

    /// What is not live reaches nothing.
    fn blind(&mut self) {
        let Some(worth) = &self.worth else { return };
        for (slot, worth) in worth.iter().enumerate() {
            if *worth != Worth::Live {
                let start = self.starts[slot];
                self.heads[slot] = start;
                for tails in &mut self.tails {
                    tails[slot] = start;
                }
            }
        }
    }

    /// What the entity is worth at each moment: of a disordered lane, missing.
    pub(super) fn worths(&self) -> Vec<Worth> {
        match &self.worth {
            Some(worth) => worth.clone(),
            None => {
                let ends = self.heads.iter().zip(&self.starts);
                ends.map(|(head, start)| if head == start { Worth::Missing } else { Worth::Live })
                    .collect()
            }
        }
    }

    /// The moments of `lane`.
    pub(super) fn slots(&self, lane: usize) -> Range<usize> {
        let start = lane.checked_sub(1).map_or(0, |previous| self.ends[previous] as usize);
        start..self.ends[lane] as usize
    }

    /// The first event of window `window` at each moment.
    pub(super) fn tails(&self, window: usize) -> &[u32] {
        &self.tails[window]
    }

    /// How many events there are in `window` at each moment, of those that `running` counts.
    pub(super) fn counts(&self, window: usize, running: Option<&[u32]>) -> Vec<i64> {
        let ends = self.tails(window).iter().zip(&self.heads);
        match running {
            None => ends.map(|(tail, head)| i64::from(head - tail)).collect(),
            Some(running) => {
                let before = |event: u32| event.checked_sub(1).map_or(0, |last| running[last as usize]);
                ends.map(|(tail, head)| i64::from(before(*head) - before(*tail)))
                    .collect()
            }
        }
    }
}

fn tails(window: &Window, lanes: &Lanes, moments: &Moments<'_>, heads: &[u32], starts: &[u32]) -> Vec<u32> {
    let Some(width_us) = window.width_us else {
        return starts.to_vec();
    };
    let mut tail = 0;
    let mut lane_start = u32::MAX;
    let slots = moments.times.iter().zip(heads).zip(starts);
    slots
        .map(|((moment, head), start)| {
            if *start != lane_start {
                (lane_start, tail) = (*start, *start);
            }
            if tail < *head {
                let from = window.span.start(window.span.first_index(*moment, width_us));
                while tail < *head && lanes.times[tail as usize] < from {
                    tail += 1;
                }
            }
            tail
        })
        .collect()
}

fn is_true(projection: &Projection, input: usize, event: usize) -> bool {
    matches!(
        projection.column(input).and_then(|column| column.get(event)),
        Some(ScalarRef::Bool(true))
    )
}

fn worth(
    part: &Part,
    projection: &Projection,
    lanes: &Lanes,
    moments: &Moments<'_>,
    heads: &[u32],
    starts: &[u32],
) -> Option<Vec<Worth>> {
    let engine = &part.engine;
    let deleted = engine.deleted.and_then(|slot| engine.layout.latest.get(slot)).copied();
    let ttl_us = engine.definition.ttl_us;
    if deleted.is_none() && ttl_us.is_none() {
        return None;
    }
    let slots = moments.times.iter().zip(heads).zip(starts);
    let worth = slots.map(|((moment, head), start)| {
        if head == start {
            return Worth::Missing;
        }
        let newest = *head as usize - 1;
        if deleted.is_some_and(|input| is_true(projection, input, newest)) {
            return Worth::Deleted;
        }
        let age = i128::from(*moment) - i128::from(lanes.times[newest]);
        match ttl_us {
            Some(ttl_us) if age > i128::from(ttl_us) => Worth::Stale,
            _ => Worth::Live,
        }
    });
    Some(worth.collect())
}
