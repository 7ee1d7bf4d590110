//! The way of the stream for events that come piece by piece, of lanes that no memory holds: nothing is kept of a lane
//! but the row that it makes.

use super::super::finish::Finisher;
use super::super::projection::{Projection, failure};
use super::{Answers, History, Moments, Part, fold};
use crate::expression::ExpressionError;
use crate::row::Row;
use arrow::array::{AsArray, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::TimestampMicrosecondType;
use ondol_vocabulary::{EventTime, columns};

/// Answers of lanes whose events come in order, batch by batch: by lane, and each lane's by when they are seen.
pub struct Folding<'h> {
    history: &'h History,
    moments: Moments<'h>,
    parts: Vec<FoldingPart<'h>>,
    /// Whose events come now.
    lane: usize,
    /// The first moment that is not finished yet.
    slot: usize,
}

struct FoldingPart<'h> {
    part: &'h Part,
    finisher: Finisher<'h>,
    row: Option<Row>,
}

impl History {
    /// Begins to fold; of lanes with these moments.
    pub fn folding<'h>(&'h self, moments: Moments<'h>) -> Folding<'h> {
        let parts = self.direct.iter().chain(&self.folded).map(|part| {
            let features: Vec<usize> = (0..part.features.len()).collect();
            FoldingPart {
                part,
                finisher: part.engine.finisher(&features, moments.times.len()),
                row: None,
            }
        });
        Folding {
            history: self,
            moments,
            parts: parts.collect(),
            lane: 0,
            slot: 0,
        }
    }

    /// From when on each of `events`, which have the columns of [`Self::carried`], is seen: once it has happened and is
    /// known. Those without an arrival are known at once.
    pub fn seen_from(&self, events: &RecordBatch) -> Result<ScalarBuffer<i64>, ExpressionError> {
        let (times, known) = (self.times(events)?, micros(events, columns::INGESTED_AT)?);
        let next = |time: &i64| time.saturating_add(1);
        Ok(match known {
            None => times.iter().map(next).collect(),
            Some(known) => times
                .iter()
                .zip(known.iter())
                .map(|(time, known)| next(time).max(*known))
                .collect(),
        })
    }

    fn times(&self, events: &RecordBatch) -> Result<ScalarBuffer<i64>, ExpressionError> {
        let time = self.any().and_then(|engine| engine.fields.get(engine.time));
        let name = time.map(|field| field.name.as_str()).unwrap_or_default();
        micros(events, name)?.ok_or_else(|| failure(name, &format!("the events have no column `{name}`")))
    }
}

impl Folding<'_> {
    /// Takes `events`, event i of lane `lanes[i]`, which follow those of the batch before.
    pub fn push(&mut self, events: &RecordBatch, lanes: &[u32]) -> Result<(), ExpressionError> {
        let (times, visible) = (self.history.times(events)?, self.history.seen_from(events)?);
        let projections = self.parts.iter().map(|part| {
            let engine = &part.part.engine;
            Projection::carried(engine, events, times.clone(), visible.clone())
        });
        let projections = projections.collect::<Result<Vec<_>, _>>()?;
        for (event, (lane, visible)) in lanes.iter().zip(visible.iter()).enumerate() {
            while self.lane < *lane as usize {
                self.close();
            }
            let end = self.moments.range(self.lane).end;
            while self.slot < end && self.moments.times.get(self.slot).is_some_and(|moment| moment < visible) {
                self.finish_slot();
            }
            if self.slot < end {
                for (FoldingPart { part, row, .. }, projection) in self.parts.iter_mut().zip(&projections) {
                    // What the row makes of it is the row's to say.
                    part.engine.absorb(row.get_or_insert_default(), projection, event);
                }
            }
        }
        Ok(())
    }

    /// The answers, once all events have come.
    pub fn finish(mut self) -> Result<Answers, ExpressionError> {
        while self.lane < self.moments.ends.len() {
            self.close();
        }
        let mut values = vec![None; self.history.definition.features.len()];
        let mut worth = None;
        for FoldingPart { part, finisher, .. } in self.parts {
            let answers = fold::finished(finisher);
            for (feature, array) in part.features.iter().zip(answers.values) {
                if let Some(value) = values.get_mut(*feature) {
                    *value = Some(array);
                }
            }
            worth = worth.or(Some(answers.worth));
        }
        let values: Option<Vec<_>> = values.into_iter().collect();
        let unread = || failure("a feature", &"nothing reads it");
        Ok(Answers {
            values: values.ok_or_else(unread)?,
            worth: worth.ok_or_else(unread)?,
        })
    }

    /// Ends the lane: its later moments see what the last one saw.
    fn close(&mut self) {
        let end = self.moments.range(self.lane).end;
        while self.slot < end {
            self.finish_slot();
        }
        self.parts.iter_mut().for_each(|part| part.row = None);
        self.lane += 1;
    }

    fn finish_slot(&mut self) {
        let Some(moment) = self.moments.times.get(self.slot) else {
            return;
        };
        for part in &mut self.parts {
            part.finisher.push(part.row.as_ref(), EventTime::from_micros(*moment));
        }
        self.slot += 1;
    }
}

fn micros(events: &RecordBatch, name: &str) -> Result<Option<ScalarBuffer<i64>>, ExpressionError> {
    let Some(column) = events.column_by_name(name) else {
        return Ok(None);
    };
    match column.as_primitive_opt::<TimestampMicrosecondType>() {
        Some(column) => Ok(Some(column.values().clone())),
        None => Err(failure(name, &"it is no timestamp in microseconds")),
    }
}
