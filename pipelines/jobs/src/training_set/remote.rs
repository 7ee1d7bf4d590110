//! The joins of a training set on an engine elsewhere: what it is asked, and its answer in the spine's order.

use super::plan::Plan;
use super::spine::Spine;
use crate::engine::{JoinEngine, JoinRequest, JoinedRows, ViewJoin};
use crate::error::JobError;
use crate::point_in_time::JoinView;
use crate::progress::Progress;
use crate::table::Table;
use crate::table::event_files::{EventFiles, EventRange};
use arrow::array::{Array, ArrayRef, TimestampMicrosecondArray, new_empty_array};
use arrow::compute::{concat, interleave};
use std::collections::BTreeMap;

/// For each view of `plan` a column per feature, a value per row of `spine`.
pub(super) async fn views(
    engine: &dyn JoinEngine,
    plan: &Plan,
    spine: &Spine,
    tables: &BTreeMap<String, Table>,
    progress: &Progress,
) -> Result<Vec<Vec<ArrayRef>>, JobError> {
    progress.stage("joining on the cluster", None);
    let request = request(plan, spine, tables)?;
    let joined = tokio::select! {
        joined = engine.join(request) => joined?,
        reason = progress.stopped() => return Err(reason),
    };
    let places = places(spine.rows(), &joined)?;
    let views = plan.views.iter().enumerate();
    views
        .map(|(view, of)| {
            let features = of.engine.definition().features.iter().enumerate();
            features
                .map(|(feature, definition)| {
                    let column = |piece: &JoinedRows| piece.views.get(view)?.get(feature).cloned();
                    let pieces: Option<Vec<ArrayRef>> = joined.iter().map(column).collect();
                    let lacks = || JobError::internal(format!("the engine left out `{}.{}`", of.name, definition.name));
                    in_order(&pieces.ok_or_else(lacks)?, &places, &definition.data_type.arrow())
                })
                .collect()
        })
        .collect()
}

fn request(plan: &Plan, spine: &Spine, tables: &BTreeMap<String, Table>) -> Result<JoinRequest, JobError> {
    let (first, last) = (spine.times.iter().min(), spine.times.iter().max());
    let mut keys: Vec<(String, ArrayRef)> = Vec::new();
    let mut views = Vec::with_capacity(plan.views.len());
    for view in &plan.views {
        let table = tables.get(&view.source.name);
        let table = table.ok_or_else(|| JobError::internal(format!("source `{}` was not opened", view.source.name)))?;
        let definition = view.engine.definition();
        for field in &definition.key {
            if !keys.iter().any(|(name, _)| *name == field.name) {
                keys.push((field.name.clone(), input(spine, &field.name, &field.data_type.arrow())?));
            }
        }
        let reach = |lookback| first.map_or(0, |first: &i64| first.saturating_sub(lookback));
        views.push(ViewJoin {
            view: definition.clone(),
            source: view.source.clone(),
            events: EventFiles::of(table),
            range: EventRange {
                from: JoinView::compile(definition, &view.source)?
                    .lookback_us()
                    .map_or(i64::MIN, reach),
                before: last.copied().unwrap_or(0),
                as_of: plan.as_of,
            },
        });
    }
    Ok(JoinRequest {
        times: TimestampMicrosecondArray::from(spine.times.to_vec()).with_timezone("UTC"),
        keys,
        views,
    })
}

fn input(spine: &Spine, name: &str, data_type: &arrow::datatypes::DataType) -> Result<ArrayRef, JobError> {
    let column = |batch: &arrow::array::RecordBatch| batch.column_by_name(name).cloned();
    let pieces: Option<Vec<ArrayRef>> = spine.inputs.iter().map(column).collect();
    let pieces = pieces.ok_or_else(|| JobError::internal(format!("key `{name}` is no input of the model")))?;
    let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
    if pieces.is_empty() {
        return Ok(new_empty_array(data_type));
    }
    Ok(concat(&pieces)?)
}

/// Where each row of the spine is among the pieces.
fn places(rows: usize, joined: &[JoinedRows]) -> Result<Vec<(usize, usize)>, JobError> {
    let mut places = vec![None; rows];
    for (piece, JoinedRows { rows: numbers, .. }) in joined.iter().enumerate() {
        for (index, row) in numbers.values().iter().enumerate() {
            let place = places.get_mut(*row as usize);
            let place = place.ok_or_else(|| JobError::internal("the engine made up a row"))?;
            if place.replace((piece, index)).is_some() {
                return Err(JobError::internal(format!("the engine joined row {row} twice")));
            }
        }
    }
    let all: Option<Vec<(usize, usize)>> = places.into_iter().collect();
    all.ok_or_else(|| JobError::internal("the engine left out rows"))
}

fn in_order(
    pieces: &[ArrayRef],
    places: &[(usize, usize)],
    data_type: &arrow::datatypes::DataType,
) -> Result<ArrayRef, JobError> {
    if pieces.is_empty() {
        return Ok(new_empty_array(data_type));
    }
    let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
    Ok(interleave(&pieces, places)?)
}
