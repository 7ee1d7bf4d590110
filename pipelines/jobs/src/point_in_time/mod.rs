//! The point-in-time join of one partition, in memory: the seam between whoever reads and groups (the embedded training
//! set, a query engine, an executor of a cluster) and what a feature is worth at a moment.
//!
//! A caller brings spine rows and the events of the same entities; it gets a column per feature, a value per spine row.
//! How rows and events were partitioned by entity, and where they came from, is not this module's business.

mod view;

pub use crate::error::JobError;
pub use view::JoinView;

use arrow::array::{Array, ArrayRef, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{concat_batches, take};
use hashbrown::HashMap;
use ondol_pipelines_api::wire::AsOf;
use ondol_transform::Row;
use ondol_vocabulary::EventTime;
use ondol_vocabulary::key::EntityKeyColumns;

/// The features of `view` for each spine row: a column per feature, in the view's order, a value per row.
///
/// `keys` are the row's key columns in the view's declared order, `times` its moments. `events` hold at least all events
/// of the rows' entities, each once, in any order, in batches that have the columns of [`JoinView::columns`]; events of
/// other entities, and those that no row may see, are left out. A row whose key has a null part names no entity.
///
/// Works on this thread, in memory: about three times that of `events`.
pub fn join(
    view: &JoinView,
    keys: &[ArrayRef],
    times: &TimestampMicrosecondArray,
    events: &[RecordBatch],
    as_of: AsOf,
) -> Result<Vec<ArrayRef>, JobError> {
    if let Some(key) = keys.iter().find(|key| key.len() != times.len()) {
        return Err(JobError::internal(format!(
            "{} keys for {} spine rows",
            key.len(),
            times.len()
        )));
    }
    if times.null_count() > 0 {
        return Err(JobError::internal("a spine row without a moment"));
    }
    let engine = view.engine();
    let keys = EntityKeyColumns::new(keys).map_err(JobError::internal)?;
    let mut rows: HashMap<Vec<u8>, Vec<u32>> = HashMap::new();
    let mut keyless: Vec<u32> = Vec::new();
    let mut buffer = Vec::with_capacity(32);
    for row in 0..times.len() {
        if keys.encode(row, &mut buffer) {
            rows.entry_ref(buffer.as_slice()).or_default().push(row as u32);
        } else {
            keyless.push(row as u32);
        }
    }
    let features: Vec<usize> = (0..engine.definition().features.len()).collect();
    let mut finisher = engine.finisher(&features, times.len());
    let mut order: Vec<u32> = Vec::with_capacity(times.len());
    let moment = |row: u32| times.value(row as usize);
    if let Some(first) = events.first() {
        let events: Vec<RecordBatch> = events.iter().map(|batch| view.as_known(batch, as_of)).collect::<Result<_, _>>()?;
        let projection = engine.project(&concat_batches(&first.schema(), &events)?)?;
        for (key, mut indexes) in projection.entities() {
            let Some(mut rows) = rows.remove(key.as_bytes()) else {
                continue;
            };
            indexes.sort_by_key(|index| projection.visible_from(*index as usize));
            rows.sort_by_key(|row| moment(*row));
            let mut state: Option<Row> = None;
            let mut indexes = indexes.into_iter().map(|index| index as usize).peekable();
            for row in rows {
                let t = EventTime::from_micros(moment(row));
                while let Some(index) = indexes.next_if(|index| projection.visible_from(*index) <= t) {
                    engine.absorb(state.get_or_insert_default(), &projection, index);
                }
                finisher.push(state.as_ref(), t);
                order.push(row);
            }
        }
    }
    for row in rows.into_values().flatten().chain(keyless) {
        finisher.push(None, EventTime::from_micros(moment(row)));
        order.push(row);
    }
    let mut places = vec![0u32; order.len()];
    for (place, row) in (0..).zip(order) {
        if let Some(at) = places.get_mut(row as usize) {
            *at = place;
        }
    }
    let places = UInt32Array::from(places);
    let finished = finisher.finish().into_iter();
    finished.map(|feature| Ok(take(&feature.values, &places, None)?)).collect()
}
