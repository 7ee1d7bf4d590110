//! The joins of a training set on an engine elsewhere: what it is asked, and where its answer has each row of the spine.

use super::join::Reading;
use super::plan::{Plan, ViewPlan};
use super::spine::Spine;
use super::statuses::Joined;
use crate::engine::{JoinEngine, JoinRequest, JoinedRows, JoinedView, ViewJoin};
use crate::error::JobError;
use crate::point_in_time::{Assembled, JoinView, Worth};
use crate::progress::Progress;
use crate::table::Table;
use crate::table::event_files::{EventFiles, EventRange};
use arrow::array::{Array, ArrayRef, TimestampMicrosecondArray, new_empty_array};
use arrow::compute::concat;
use std::collections::BTreeMap;

/// For each view of `plan` what it has of the rows of `spine`.
pub(super) async fn views(
    engine: &dyn JoinEngine,
    plan: &Plan,
    spine: &Spine,
    reading: Reading,
    tables: &BTreeMap<String, Table>,
    progress: &Progress,
) -> Result<Vec<Joined>, JobError> {
    progress.stage("joining on the cluster", None);
    let request = request(plan, spine, reading, tables)?;
    let has_older = |join: &ViewJoin| join.events.has_older(&join.source.time, join.range.from);
    let unread: Vec<bool> = request.views.iter().map(has_older).collect();
    let mut reason = None;
    let stop = async { reason = Some(progress.stopped().await) };
    // Waited for also once it is to stop: it takes the plan back then.
    let joined = engine.join(request, Box::pin(stop)).await;
    if let Some(reason) = reason {
        return Err(reason);
    }
    let joined = joined?;
    let places = places(spine.rows(), &joined)?;
    let views = plan.views.iter().zip(unread).enumerate();
    views
        .map(|(number, (view, unread))| {
            let pieces: Option<Vec<&JoinedView>> = joined.iter().map(|piece| piece.views.get(number)).collect();
            let lacks = || JobError::internal(format!("the engine left out `{}`", view.name));
            let mut assembled = assembled(view, &pieces.ok_or_else(lacks)?, &places)?;
            if unread {
                doubt(spine, view, &mut assembled.worth);
            }
            let compiled = JoinView::compile(view.engine.definition(), &view.source)?;
            Ok(Joined::new(compiled, assembled))
        })
        .collect()
}

/// What `view` answered, and where each row of the spine finds it.
fn assembled(view: &ViewPlan, pieces: &[&JoinedView], places: &[(u32, u32)]) -> Result<Assembled, JobError> {
    let odd = || {
        JobError::internal(format!(
            "the engine does not say what rows of `{}` are worth",
            view.name
        ))
    };
    let worth = places.iter().map(|(piece, row)| {
        let codes = pieces.get(*piece as usize).map(|piece| piece.worth.values());
        let code = codes.and_then(|codes| codes.get(*row as usize).copied());
        code.and_then(Worth::from_code).ok_or_else(odd)
    });
    let worth = worth.collect::<Result<_, _>>()?;
    let types = view.engine.definition().features.iter();
    Assembled::seated(
        types.map(|feature| feature.data_type),
        pieces.iter().map(|piece| piece.values.clone()),
        places,
        worth,
    )
}

/// Of entities to which nothing happened in reach nobody knows what happened before. Rows that name none are missing.
fn doubt(spine: &Spine, view: &ViewPlan, worth: &mut [Worth]) {
    let mut row = 0;
    for inputs in &spine.inputs {
        let keys = view.engine.definition().key.iter();
        let keys: Vec<&ArrayRef> = keys.filter_map(|field| inputs.column_by_name(&field.name)).collect();
        for at in 0..inputs.num_rows() {
            if let Some(worth @ Worth::Missing) = worth.get_mut(row)
                && keys.iter().all(|key| key.is_valid(at))
            {
                *worth = Worth::Unread;
            }
            row += 1;
        }
    }
}

fn request(
    plan: &Plan,
    spine: &Spine,
    reading: Reading,
    tables: &BTreeMap<String, Table>,
) -> Result<JoinRequest, JobError> {
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
                    .filter(|_| !reading.is_exact)
                    .map_or(i64::MIN, reach),
                before: last.copied().unwrap_or(0),
                as_of: reading.as_of,
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
fn places(rows: usize, joined: &[JoinedRows]) -> Result<Vec<(u32, u32)>, JobError> {
    let mut places = vec![None; rows];
    for (piece, JoinedRows { rows: numbers, .. }) in (0..).zip(joined) {
        for (index, row) in (0..).zip(numbers.values()) {
            let place = places.get_mut(*row as usize);
            let place = place.ok_or_else(|| JobError::internal("the engine made up a row"))?;
            if place.replace((piece, index)).is_some() {
                return Err(JobError::internal(format!("the engine joined row {row} twice")));
            }
        }
    }
    let all: Option<Vec<(u32, u32)>> = places.into_iter().collect();
    all.ok_or_else(|| JobError::internal("the engine left out rows"))
}
