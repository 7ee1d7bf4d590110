//! A view as a join sees it, made from its definitions alone, so that it can be made again on another machine.

use crate::error::JobError;
use arrow::array::RecordBatch;
use ondol_pipelines_api::wire::AsOf;
use ondol_transform::ViewEngine;
use ondol_vocabulary::{DataType, FeatureKind, Field, SourceDefinition, ViewDefinition, columns};
use std::sync::Arc;

/// A view compiled for joining. Both definitions it is made from are serde types: send those, compile where it runs.
#[derive(Debug)]
pub struct JoinView {
    source: SourceDefinition,
    engine: ViewEngine,
    columns: Vec<Field>,
    lookback_us: Option<i64>,
}

impl JoinView {
    /// Compiles `view`, which reads `source`. To join fewer features, take the others out of the definition first: the
    /// value of one does not depend on its neighbours.
    pub fn compile(view: &ViewDefinition, source: &SourceDefinition) -> Result<Self, JobError> {
        let engine = ViewEngine::compile(view, source)?;
        // Of logs that have it, whatever the source says by now: what came late stays late.
        let late = source.is_stream().then(|| field(columns::LATE, DataType::Bool));
        let marks = [
            field(columns::PARTITION, DataType::I32),
            field(columns::OFFSET, DataType::I64),
            field(columns::INGESTED_AT, DataType::Timestamp),
        ];
        let columns = engine.fields().iter().cloned().chain(late).chain(marks).collect();
        Ok(Self {
            source: source.clone(),
            engine,
            columns,
            lookback_us: lookback(view),
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

    /// How long before a moment an event can still matter; none if for ever. An event at or before `t` minus this
    /// changes nothing at `t`.
    pub fn lookback_us(&self) -> Option<i64> {
        self.lookback_us
    }

    /// The features' columns, in the order of what a join returns.
    pub fn features(&self) -> impl Iterator<Item = Field> {
        let features = self.definition().features.iter();
        features.map(|feature| field(&feature.name, feature.data_type))
    }

    pub(crate) fn engine(&self) -> &ViewEngine {
        &self.engine
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
/// matter by its mere presence (stale is not missing), so such a view looks back for ever.
fn lookback(view: &ViewDefinition) -> Option<i64> {
    if view.ttl_us.is_some() {
        return None;
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
