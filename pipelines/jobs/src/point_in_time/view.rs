//! A view as a join sees it, made from its definitions alone, so that it can be made again on another machine.

use crate::error::JobError;
use arrow::array::{ArrayRef, RecordBatch};
use ondol_pipelines_api::wire::AsOf;
use ondol_transform::{History, ViewEngine};
use ondol_vocabulary::{DataType, FeatureKind, Field, SourceDefinition, ViewDefinition, columns};
use std::sync::Arc;

/// A view compiled for joining. Both definitions it is made from are serde types: send those, compile where it runs.
#[derive(Debug)]
pub struct JoinView {
    source: SourceDefinition,
    engine: ViewEngine,
    history: History,
    columns: Vec<Field>,
    lookback_us: Option<i64>,
}

impl JoinView {
    /// Compiles `view`, which reads `source`. To join fewer features, take the others out of the definition first: the
    /// value of one does not depend on its neighbours.
    pub fn compile(view: &ViewDefinition, source: &SourceDefinition) -> Result<Self, JobError> {
        let engine = ViewEngine::compile(view, source)?;
        let history = History::compile(view, source)?;
        // Of logs that have it, whatever the source says by now: what came late stays late.
        let late = source.is_stream().then(|| field(columns::LATE, DataType::Bool));
        let marks = [
            field(columns::PARTITION, DataType::I32),
            field(columns::OFFSET, DataType::I64),
            field(columns::INGESTED_AT, DataType::Timestamp),
        ];
        let columns = engine.fields().iter().cloned().chain(late).chain(marks).collect();
        Ok(Self {
            lookback_us: lookback(view, history.is_latest_only()),
            source: source.clone(),
            engine,
            history,
            columns,
        })
    }

    /// The view, as it was given.
    pub fn definition(&self) -> &ViewDefinition {
        self.engine.definition()
    }

    /// Its source, as it was given.
    pub fn source(&self) -> &SourceDefinition {
        &self.source
    }

    /// The columns of events that a join reads: those of the source that key, time, filters and features are made of,
    /// then the marks of a log (`_late` may be absent from a batch; the others may not).
    pub fn columns(&self) -> &[Field] {
        &self.columns
    }

    /// How long before a moment an event can still matter; none if for ever. An event before `t` minus this changes
    /// nothing at `t`.
    pub fn lookback_us(&self) -> Option<i64> {
        self.lookback_us
    }

    /// The features' columns, in the order of what a join returns.
    pub fn features(&self) -> impl Iterator<Item = Field> {
        let features = self.definition().features.iter();
        features.map(|feature| field(&feature.name, feature.data_type))
    }

    /// `values`, a column per feature, with the features' defaults where they are null.
    pub fn filled(&self, values: Vec<ArrayRef>) -> Result<Vec<ArrayRef>, JobError> {
        Ok(self.history.filled(values)?)
    }

    /// The view over history.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// The columns of the source that are read, without marks but for `_late`.
    pub(crate) fn source_columns(&self) -> Vec<Field> {
        let marks = [columns::PARTITION, columns::OFFSET, columns::INGESTED_AT];
        let columns = self
            .columns
            .iter()
            .filter(|field| !marks.contains(&field.name.as_str()));
        columns.cloned().collect()
    }

    /// Those of them that tell whose an event is and whether the view takes it.
    pub(crate) fn admitting_columns(&self) -> Vec<Field> {
        let filter = self.history.filter_columns();
        let key = &self.definition().key;
        let admits = |field: &Field| {
            field.name == self.source.time
                || field.name == columns::LATE
                || key.iter().any(|key| key.name == field.name)
                || filter.contains(&field.name)
        };
        self.source_columns().into_iter().filter(admits).collect()
    }

    /// Those of them that features are made of, and the time.
    pub(crate) fn value_columns(&self) -> Vec<Field> {
        let carried = self.history.carried();
        let is_carried = |field: &Field| carried.iter().any(|carried| carried.name == field.name);
        self.source_columns().into_iter().filter(is_carried).collect()
    }

    /// Whether it matters where events of one time stand in their source.
    pub(crate) fn has_positions(&self) -> bool {
        self.history.carried().iter().any(|field| field.name == columns::OFFSET)
    }

    /// Bytes of an event of the columns that are kept, about.
    pub(crate) fn carried_width(&self) -> u64 {
        self.history.carried().iter().map(|field| width(field.data_type)).sum()
    }

    /// `batch`, where each event counts as known from the moment that `as_of` says.
    pub(super) fn as_known(&self, batch: &RecordBatch, as_of: AsOf) -> Result<RecordBatch, JobError> {
        if as_of == AsOf::KnownAt {
            return Ok(batch.clone());
        }
        let missing = |name: &str| JobError::internal(format!("the events have no column `{name}`"));
        let time = (batch.column_by_name(&self.source.time)).ok_or_else(|| missing(&self.source.time))?;
        let known = (batch.schema().column_with_name(columns::INGESTED_AT))
            .ok_or_else(|| missing(columns::INGESTED_AT))?
            .0;
        let mut arrays = batch.columns().to_vec();
        if let Some(array) = arrays.get_mut(known) {
            *array = Arc::clone(time);
        }
        Ok(RecordBatch::try_new(batch.schema(), arrays)?)
    }
}

fn field(name: &str, data_type: DataType) -> Field {
    Field {
        name: name.to_owned(),
        data_type,
    }
}

/// The widest window and its hop, when everything the view serves lies in windows. A time to live makes an old event
/// matter by its mere presence (a count that is stale is null, one of nothing is 0), so such a view looks back for ever;
/// but for one of latest rows only, where the value is null either way.
fn lookback(view: &ViewDefinition, is_latest_only: bool) -> Option<i64> {
    if view.ttl_us.is_some() {
        return view.ttl_us.filter(|_| is_latest_only);
    }
    let width = |kind: &FeatureKind| match kind {
        FeatureKind::Aggregate {
            window: Some(window), ..
        } => Some(window.width_us.saturating_add(window.hop_us)),
        FeatureKind::Aggregate { window: None, .. } | FeatureKind::LatestRow { .. } => None,
    };
    view.features
        .iter()
        .map(|feature| width(&feature.kind))
        .try_fold(0, |widest: i64, next| Some(widest.max(next?)))
}

fn width(data_type: DataType) -> u64 {
    match data_type {
        DataType::Bool => 1,
        DataType::I32 | DataType::F32 => 4,
        DataType::I64 | DataType::F64 | DataType::Timestamp => 8,
        // An offset and a guess; so of lists, which no source has today.
        DataType::String => 20,
        DataType::List(items) => 4 + 8 * width(items.data_type()),
    }
}
