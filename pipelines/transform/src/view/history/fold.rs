//! The way of the stream: a row that absorbs what has become visible, and is finished at each moment.

use super::super::ViewEngine;
use super::super::projection::Projection;
use super::Moments;
use super::lanes::Lanes;
use crate::row::Row;
use arrow::array::ArrayRef;
use ondol_vocabulary::EventTime;

/// Every feature of `engine` at the moments of `which` lanes, one lane after another.
pub(super) fn values(
    engine: &ViewEngine,
    projection: &Projection,
    lanes: &Lanes,
    which: &[usize],
    moments: &Moments<'_>,
) -> Vec<ArrayRef> {
    let features: Vec<usize> = (0..engine.definition.features.len()).collect();
    let rows = which.iter().map(|lane| moments.range(*lane).len()).sum();
    let mut finisher = engine.finisher(&features, rows);
    for lane in which {
        let mut row: Option<Row> = None;
        let mut events = lanes.range(*lane).peekable();
        for moment in &moments.times[moments.range(*lane)] {
            while let Some(event) = events.next_if(|event| lanes.visible[*event] <= *moment) {
                // What the row makes of it is the row's to say: too late for its tiles here is too late online.
                engine.absorb(row.get_or_insert_default(), projection, event);
            }
            finisher.push(row.as_ref(), EventTime::from_micros(*moment));
        }
    }
    finisher.finish().into_iter().map(|feature| feature.values).collect()
}
