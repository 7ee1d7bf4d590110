//! Events in order: an entity (a lane) after another, each lane's by time and place in the source.

use super::super::ViewEngine;
use super::super::projection::{Projection, failure};
use super::{History, Moments};
use crate::expression::ExpressionError;
use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take_record_batch;
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use ondol_vocabulary::columns;
use std::ops::Range;

/// Events in order.
pub(super) struct Lanes {
    /// The carried columns, in order.
    events: RecordBatch,
    /// Where each lane's events end.
    ends: Vec<u32>,
    /// From when on each event is seen. Ascending in a lane, unless the lane is disordered.
    pub(super) visible: ScalarBuffer<i64>,
    pub(super) times: ScalarBuffer<i64>,
    /// The lanes that have to be folded, ascending: an event became known after a later one was, or two cannot be told
    /// apart.
    pub(super) disordered: Vec<usize>,
}

/// What orders events: columns of the batch as it came.
struct Marks<'a> {
    times: &'a [i64],
    known: Option<&'a [i64]>,
    places: Places<'a>,
}

/// What orders events of one time.
enum Places<'a> {
    /// Nothing has to.
    Irrelevant,
    /// Their positions.
    Source { partitions: &'a [i32], offsets: &'a [i64] },
    /// Their values, which is a row's to say: rows of a table have no order.
    Values,
}

impl Marks<'_> {
    fn visible(&self, event: u32) -> i64 {
        let next = self.times[event as usize].saturating_add(1);
        self.known.map_or(next, |known| next.max(known[event as usize]))
    }

    /// Where an event stands among those of one time. Where it is irrelevant, the order in which they are seen will do.
    fn place(&self, event: u32) -> (i32, i64) {
        match self.places {
            Places::Source { partitions, offsets } => (partitions[event as usize], offsets[event as usize]),
            Places::Values => (0, 0),
            Places::Irrelevant => (0, self.visible(event)),
        }
    }

    fn key(&self, event: u32) -> (i64, i32, i64) {
        let (partition, offset) = self.place(event);
        (self.times[event as usize], partition, offset)
    }

    /// Whether `events`, in order, are seen in that order and can be told apart.
    fn is_ordered(&self, events: &[u32]) -> bool {
        let follows = |pair: &[u32]| match pair {
            [one, next] => {
                self.visible(*one) <= self.visible(*next)
                    && (matches!(self.places, Places::Irrelevant) || self.key(*one) != self.key(*next))
            }
            _ => true,
        };
        // Nothing is strictly before the end of time, yet a row that folded it counts it.
        events.windows(2).all(follows) && events.last().is_none_or(|last| self.times[*last as usize] < i64::MAX)
    }
}

impl Lanes {
    /// Puts `events` in order, event i of lane `lanes[i]`.
    pub(super) fn arrange(
        history: &History,
        events: &RecordBatch,
        lanes: &[u32],
        moments: &Moments<'_>,
    ) -> Result<Self, ExpressionError> {
        let time = &history
            .any()
            .and_then(|engine| Some(engine.fields.get(engine.time)?.name.clone()));
        let time = time.as_deref().unwrap_or_default();
        let column = |name: &str| {
            (events.column_by_name(name)).ok_or_else(|| failure(name, &format!("the events have no column `{name}`")))
        };
        let micros = |name: &str| {
            let column = column(name)?.as_primitive_opt::<TimestampMicrosecondType>();
            column.ok_or_else(|| failure(name, &"it is no timestamp in microseconds"))
        };
        let known = events
            .column_by_name(columns::INGESTED_AT)
            .map(|_| micros(columns::INGESTED_AT));
        let known = known.transpose()?.map(|known| &known.values()[..]);
        let places = match (history.has_positions(), history.is_ordered()) {
            (false, _) => Places::Irrelevant,
            (true, false) => Places::Values,
            (true, true) => {
                let partitions = column(columns::PARTITION)?.as_primitive_opt::<Int32Type>();
                let offsets = column(columns::OFFSET)?.as_primitive_opt::<Int64Type>();
                let (Some(partitions), Some(offsets)) = (partitions, offsets) else {
                    return Err(failure(columns::OFFSET, &"positions are an i32 and an i64"));
                };
                Places::Source {
                    partitions: partitions.values(),
                    offsets: offsets.values(),
                }
            }
        };
        let marks = Marks {
            times: micros(time)?.values(),
            known,
            places,
        };
        let (mut order, ends) = grouped(lanes, moments.ends.len());
        let mut disordered = Vec::new();
        for lane in 0..ends.len() {
            let events = &mut order[range(&ends, lane)];
            if !events.is_sorted_by_key(|event| marks.key(*event)) {
                events.sort_unstable_by_key(|event| marks.key(*event));
            }
            if !marks.is_ordered(events) {
                // A row looks when events are seen, and their order among themselves does not matter to it.
                events.sort_unstable_by_key(|event| (marks.visible(*event), marks.key(*event)));
                disordered.push(lane);
            }
        }
        let times = order.iter().map(|event| marks.times[*event as usize]).collect();
        let visible = order.iter().map(|event| marks.visible(*event)).collect();
        let order = UInt32Array::from(order);
        let events = take_record_batch(events, &order).map_err(|error| failure("the events", &error))?;
        Ok(Self {
            events,
            ends,
            visible,
            times,
            disordered,
        })
    }

    /// The events of `lane`.
    pub(super) fn range(&self, lane: usize) -> Range<usize> {
        range(&self.ends, lane)
    }

    /// Number of lanes.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The events as `engine` sees them, in order.
    pub(super) fn projection(&self, engine: &ViewEngine) -> Result<Projection, ExpressionError> {
        Projection::carried(engine, &self.events, self.times.clone(), self.visible.clone())
    }
}

/// A counting sort: events by lane, in the order they came, and where each lane ends.
fn grouped(lanes: &[u32], count: usize) -> (Vec<u32>, Vec<u32>) {
    let mut ends = vec![0u32; count + 1];
    for lane in lanes {
        ends[*lane as usize + 1] += 1;
    }
    for lane in 0..count {
        ends[lane + 1] += ends[lane];
    }
    let mut next = ends.clone();
    let mut order = vec![0u32; lanes.len()];
    for (event, lane) in (0..).zip(lanes) {
        let place = &mut next[*lane as usize];
        order[*place as usize] = event;
        *place += 1;
    }
    ends.remove(0);
    (order, ends)
}

fn range(ends: &[u32], lane: usize) -> Range<usize> {
    let start = lane.checked_sub(1).map_or(0, |previous| ends[previous] as usize);
    start..ends[lane] as usize
}
