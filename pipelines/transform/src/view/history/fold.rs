//! The way of the stream: a row that absorbs what has become visible, and is finished at each moment.

use super::super::ViewEngine;
use super::super::finish::Finisher;
use super::super::projection::Projection;
use super::lanes::Lanes;
use super::{Answers, Moments, Worth};
use crate::row::Row;
use ondol_vocabulary::{EventTime, FeatureStatus};

/// Every feature of `engine` at the moments of `which` lanes, one lane after another.
pub(super) fn answers(
    engine: &ViewEngine,
    projection: &Projection,
    lanes: &Lanes,
    which: &[usize],
    moments: &Moments<'_>,
) -> Answers {
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
    finished(finisher)
}

/// What has been finished.
pub(super) fn finished(finisher: Finisher<'_>) -> Answers {
    let finished = finisher.finish();
    // The features of one row differ in nothing but whether there is a value.
    let worth = finished.first().map_or_else(Vec::new, |feature| {
        let worth = |status: &FeatureStatus| match status {
            FeatureStatus::Missing => Worth::Missing,
            FeatureStatus::Stale => Worth::Stale,
            _ => Worth::Live,
        };
        feature.status.iter().map(worth).collect()
    });
    Answers {
        values: finished.into_iter().map(|feature| feature.values).collect(),
        worth,
    }
}
