//! A view over history: the values of many moments at once, column by column.
//!
//! A [`crate::Row`] tells what a view is worth now, and forgets what no later read can reach. History knows every event
//! and every moment beforehand, so most features need no row: with an entity's events and moments both in order of
//! time, a window is two places in a column, a count their difference, a sum the difference of two running sums, a
//! latest value the place before the moment. In the order of the data:
//! 1. `reading` tells which features can be read so, and of which columns;
//! 2. `lanes` put events in order, an entity (a lane) after another, and tell which lanes are out of order: those where
//!    something became known only after something that happened later;
//! 3. `reach` finds each window's ends for each moment;
//! 4. `totals` and `picks` read sums and single values off them;
//! 5. `fold` is the way of the stream, a row that absorbs and is finished: for lanes out of order, and for features
//!    that cannot be read directly; `folding` goes it for lanes that come piece by piece.
//!
//! Both ways give the same bits, and the tests hold one against the other.

mod fold;
mod folding;
mod lanes;
mod picks;
mod reach;
mod reading;
mod totals;

use super::ViewEngine;
use super::fallback::{self, Fallback};
use super::projection::{Projection, condition, failure, in_time};
use crate::expression::{ExpressionError, on_a_deep_stack};
use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::compute::{and, interleave, nullif};
pub use folding::Folding;
use lanes::Lanes;
use ondol_vocabulary::{DataType, Field, SourceDefinition, ViewDefinition, columns};
use reach::Reach;
use reading::{Direct, Readings};

/// A view compiled for history. Immutable and shared.
#[derive(Debug)]
pub struct History {
    definition: ViewDefinition,
    /// The features that are read directly.
    direct: Option<Part>,
    readings: Readings,
    /// The others.
    folded: Option<Part>,
    carried: Vec<Field>,
    /// What each feature is where it has no value.
    fallbacks: Vec<Option<Fallback>>,
}

/// Some features of a view, as a view of their own: what a feature is worth does not depend on its neighbours.
#[derive(Debug)]
struct Part {
    engine: ViewEngine,
    /// Their places among the view's features.
    features: Vec<usize>,
}

/// What an entity is worth to a view at a moment: its row's part of a feature's status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Worth {
    /// Nothing has happened to it.
    #[default]
    Missing,
    /// It was deleted: as if nothing had happened.
    Deleted,
    /// Its newest event is older than the view's time to live.
    Stale,
    /// Its features have values, or are null.
    Live,
    /// Nothing has happened to it within reach, and what happened before was not read: missing, stale or null. History
    /// never says so; who reads less than everything does.
    Unread,
}

impl Worth {
    /// That of the number `code`, as it is cast to one.
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Missing, Self::Deleted, Self::Stale, Self::Live, Self::Unread]
            .into_iter()
            .find(|worth| *worth as u8 == code)
    }
}

/// What a view answers at some moments.
#[derive(Clone, Debug)]
pub struct Answers {
    /// A column per feature, null where there is no value: defaults are not filled in yet ([`History::filled`]).
    pub values: Vec<ArrayRef>,
    /// What the entity is worth, by moment.
    pub worth: Vec<Worth>,
}

/// The moments of lanes: each lane's one after another, ascending.
#[derive(Clone, Copy, Debug)]
pub struct Moments<'a> {
    /// In microseconds.
    pub times: &'a [i64],
    /// Where each lane's moments end.
    pub ends: &'a [u32],
}

impl Moments<'_> {
    fn range(&self, lane: usize) -> std::ops::Range<usize> {
        let start = lane.checked_sub(1).map_or(0, |previous| self.ends[previous] as usize);
        start..self.ends[lane] as usize
    }
}

impl History {
    /// Compiles `view`, which reads `source`.
    pub fn compile(view: &ViewDefinition, source: &SourceDefinition) -> Result<Self, ExpressionError> {
        on_a_deep_stack(|| Self::compile_here(view, source))
    }

    fn compile_here(view: &ViewDefinition, source: &SourceDefinition) -> Result<Self, ExpressionError> {
        let whole = ViewEngine::compile(view, source)?;
        let (direct, folded): (Vec<usize>, Vec<usize>) =
            (0..view.features.len()).partition(|feature| whole.readings.get(*feature).is_some_and(reading::is_direct));
        let part = |features: Vec<usize>| -> Result<Option<Part>, ExpressionError> {
            if features.is_empty() {
                return Ok(None);
            }
            let mut definition = view.clone();
            definition.features = features.iter().map(|feature| view.features[*feature].clone()).collect();
            // What has no value is null until all is put together: so it can be counted.
            definition
                .features
                .iter_mut()
                .for_each(|feature| feature.default = None);
            let engine = ViewEngine::compile(&definition, source)?;
            Ok(Some(Part { engine, features }))
        };
        let (direct, folded) = (part(direct)?, part(folded)?);
        let readings = direct
            .as_ref()
            .map_or_else(Readings::default, |part| Readings::of(&part.engine));
        let carried = carried(&whole, direct.as_ref(), folded.as_ref());
        Ok(Self {
            definition: view.clone(),
            direct,
            readings,
            folded,
            carried,
            fallbacks: whole.fallbacks,
        })
    }

    /// The view compiled.
    pub fn definition(&self) -> &ViewDefinition {
        &self.definition
    }

    /// The columns of events that [`Self::values`] reads: the time, what features are made of, and of the marks those
    /// that matter. Keys are not among them, nor what only the view's filter reads: see [`Self::admits`].
    pub fn carried(&self) -> &[Field] {
        &self.carried
    }

    /// Whether every feature is a value of the latest row.
    pub fn is_latest_only(&self) -> bool {
        self.folded.is_none() && self.readings.is_latest_only()
    }

    /// The columns that the view's filter reads.
    pub fn filter_columns(&self) -> Vec<String> {
        let filter = self.any().and_then(|engine| engine.filter.as_ref());
        filter.map_or_else(Vec::new, crate::expression::Expression::columns)
    }

    /// Which of `events` the view takes: those with a time, in time, and past its filter; none if it takes them all.
    /// The batch needs the columns of [`ViewEngine::columns`] that the filter reads, and `_late` where events have it.
    pub fn admits(&self, events: &RecordBatch) -> Result<Option<BooleanArray>, ExpressionError> {
        let Some(engine) = self.any() else { return Ok(None) };
        let mut mask: Option<BooleanArray> = in_time(events)?;
        let time = engine.fields.get(engine.time).map(|field| field.name.as_str());
        let nulls = time.and_then(|time| events.column_by_name(time)?.logical_nulls());
        let with_time = nulls.map(|nulls: NullBuffer| BooleanArray::new(nulls.into_inner(), None));
        let filter = engine
            .filter
            .as_ref()
            .map(|filter| condition(filter, events))
            .transpose()?;
        for other in [with_time, filter].into_iter().flatten() {
            mask = Some(match mask {
                Some(mask) => and(&mask, &other).map_err(|error| failure("the view's filter", &error))?,
                None => other,
            });
        }
        Ok(mask.filter(|mask| mask.true_count() < mask.len()))
    }

    /// The answers of latest rows, `events`, of which each row is one that is live, or a deletion. For
    /// [`Self::is_latest_only`].
    pub fn latest(&self, events: &RecordBatch) -> Result<Answers, ExpressionError> {
        let mut worth = vec![Worth::Live; events.num_rows()];
        let Some(part) = &self.direct else {
            let values = Vec::new();
            return Ok(Answers { values, worth });
        };
        let deleted = match part.engine.deleted.and_then(|slot| part.engine.layout.latest.get(slot)) {
            Some(input) => part
                .engine
                .inputs
                .get(*input)
                .map(|input| condition(input, events))
                .transpose()?,
            None => None,
        };
        let mut values = Vec::with_capacity(part.features.len());
        for direct in &self.readings.features {
            let Direct::Latest { input } = direct else { continue };
            let input = part.engine.inputs.get(*input);
            let input = input.ok_or_else(|| failure("an argument", &"it is not planned"))?;
            let array = picks::canonical(&input.evaluate(events)?);
            values.push(match &deleted {
                Some(deleted) => nullif(&array, deleted).map_err(|error| failure("a latest value", &error))?,
                None => array,
            });
        }
        let rows = deleted.iter().flatten().zip(&mut worth);
        rows.filter(|(is_deleted, _)| *is_deleted == Some(true))
            .for_each(|(_, worth)| *worth = Worth::Deleted);
        Ok(Answers { values, worth })
    }

    /// Whether the view declares a default for any of its features, by feature.
    pub fn has_defaults(&self) -> impl Iterator<Item = bool> {
        self.fallbacks.iter().map(Option::is_some)
    }

    /// Whether rows of the source can be deleted.
    pub fn has_deletions(&self) -> bool {
        self.any().is_some_and(|engine| engine.deleted.is_some())
    }

    /// `values`, a column per feature, with the features' defaults where they are null.
    pub fn filled(&self, values: Vec<ArrayRef>) -> Result<Vec<ArrayRef>, ExpressionError> {
        fallback::fill(&self.fallbacks, values).map_err(|error| failure("a default", &error))
    }

    /// The value of each feature at each moment: a column per feature, in the view's order, a value per moment, in the
    /// moments' order; and what the entities are worth. `events` are of any order, event i of the lane `lanes[i]`; all of
    /// them are taken.
    pub fn answers(
        &self,
        events: &RecordBatch,
        lanes: &[u32],
        moments: &Moments<'_>,
    ) -> Result<Answers, ExpressionError> {
        let lanes = Lanes::arrange(self, events, lanes, moments)?;
        let mut values: Vec<Option<ArrayRef>> = vec![None; self.definition.features.len()];
        let mut worth = None;
        if let Some(part) = &self.direct {
            let projection = lanes.projection(&part.engine)?;
            let read = self.direct_answers(part, &projection, &lanes, moments)?;
            worth = Some(read.worth);
            for (feature, array) in part.features.iter().zip(read.values) {
                values[*feature] = Some(array);
            }
        }
        if let Some(part) = &self.folded {
            let projection = lanes.projection(&part.engine)?;
            let everyone: Vec<usize> = (0..moments.ends.len()).collect();
            let read = fold::answers(&part.engine, &projection, &lanes, &everyone, moments);
            worth = worth.or(Some(read.worth));
            for (feature, array) in part.features.iter().zip(read.values) {
                values[*feature] = Some(array);
            }
        }
        let complete: Option<Vec<ArrayRef>> = values.into_iter().collect();
        let unread = || failure("a feature", &"nothing reads it");
        Ok(Answers {
            values: complete.ok_or_else(unread)?,
            worth: worth.ok_or_else(unread)?,
        })
    }

    fn direct_answers(
        &self,
        part: &Part,
        projection: &Projection,
        lanes: &Lanes,
        moments: &Moments<'_>,
    ) -> Result<Answers, ExpressionError> {
        let reach = Reach::find(&self.readings, part, projection, lanes, moments);
        let read = self.readings.values(&part.engine, projection, lanes, &reach)?;
        let mut worth = reach.worths();
        if lanes.disordered.is_empty() {
            let values = read;
            return Ok(Answers { values, worth });
        }
        let folded = fold::answers(&part.engine, projection, lanes, &lanes.disordered, moments);
        let mut places: Vec<(usize, usize)> = (0..moments.times.len()).map(|slot| (0, slot)).collect();
        let slots = lanes.disordered.iter().flat_map(|lane| moments.range(*lane));
        for ((place, slot), folded) in slots.enumerate().zip(&folded.worth) {
            places[slot] = (1, place);
            worth[slot] = *folded;
        }
        let failed = |error| failure("a feature", &error);
        let pairs = read.iter().zip(&folded.values);
        let values: Result<_, _> = pairs
            .map(|(read, folded)| interleave(&[read, folded], &places).map_err(failed))
            .collect();
        Ok(Answers { values: values?, worth })
    }

    fn any(&self) -> Option<&ViewEngine> {
        self.direct.as_ref().or(self.folded.as_ref()).map(|part| &part.engine)
    }

    /// Whether positions say which of two events of one time is later.
    fn is_ordered(&self) -> bool {
        self.any().is_some_and(|engine| engine.ordered)
    }

    /// Whether features depend on where an event stands in its source.
    fn has_positions(&self) -> bool {
        self.readings.has_positions()
            || self
                .folded
                .as_ref()
                .is_some_and(|part| part.engine.layout.has_positions())
    }
}

/// What [`History::carried`] says.
fn carried(whole: &ViewEngine, direct: Option<&Part>, folded: Option<&Part>) -> Vec<Field> {
    let parts = || direct.into_iter().chain(folded).map(|part| &part.engine);
    let mut names: Vec<String> = parts()
        .flat_map(|engine| engine.inputs.iter().chain(&engine.filters))
        .flat_map(|expression| expression.columns())
        .collect();
    names.extend(whole.fields.get(whole.time).map(|field| field.name.clone()));
    let mut fields: Vec<Field> = whole
        .fields
        .iter()
        .filter(|field| names.contains(&field.name))
        .cloned()
        .collect();
    let mark = |name: &str, data_type| Field {
        name: name.to_owned(),
        data_type,
    };
    if parts().any(|engine| engine.ordered && engine.layout.has_positions()) {
        fields.push(mark(columns::PARTITION, DataType::I32));
        fields.push(mark(columns::OFFSET, DataType::I64));
    }
    fields.push(mark(columns::INGESTED_AT, DataType::Timestamp));
    fields
}
