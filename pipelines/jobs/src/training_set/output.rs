//! The training set itself: values back in the spine's order, the vector assembled, the manifest.

use super::merge::Finished;
use super::plan::{Plan, ViewPlan};
use super::spine::Spine;
use crate::error::JobError;
use crate::progress::Progress;
use crate::table::Table;
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::{Field as ArrowField, Schema};
use ondol_pipelines_api::wire::{JobResult, Manifest, ManifestFeature};
use ondol_vocabulary::{EventTime, VersionedName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows of one batch of the result.
const BATCH_ROWS: usize = 65_536;

/// The form of manifests written here.
const MANIFEST_FORMAT: u32 = 1;

/// Puts one view's finished values into the spine's order and into their places among the vector's needs.
pub(super) fn scatter(
    finished: Vec<Finished>,
    rows: usize,
    view: &ViewPlan,
    needs: &mut [Option<ArrayRef>],
) -> Result<(), JobError> {
    let finished: Vec<Finished> = finished.into_iter().filter(|piece| !piece.rows.is_empty()).collect();
    const NOWHERE: (usize, usize) = (usize::MAX, usize::MAX);
    let mut places = vec![NOWHERE; rows];
    for (piece, Finished { rows, .. }) in finished.iter().enumerate() {
        for (index, &row) in rows.iter().enumerate() {
            let place = places
                .get_mut(row as usize)
                .ok_or_else(|| JobError::internal("a row beyond the spine"))?;
            *place = (piece, index);
        }
    }
    if places.contains(&NOWHERE) {
        return Err(JobError::internal(format!(
            "view `{}` left rows without values",
            view.name
        )));
    }
    let definition = view.engine.definition();
    for (index, (feature, places_in_vector)) in definition.features.iter().zip(&view.needs).enumerate() {
        let column = |piece: &Finished| piece.columns.get(index).cloned();
        let pieces: Option<Vec<ArrayRef>> = finished.iter().map(column).collect();
        let pieces = pieces.ok_or_else(|| JobError::internal(format!("feature `{}` has no values", feature.name)))?;
        let pieces: Vec<&dyn Array> = pieces.iter().map(AsRef::as_ref).collect();
        let values = if pieces.is_empty() {
            arrow::array::new_empty_array(&feature.data_type.arrow())
        } else {
            interleave(&pieces, &places)?
        };
        for &place in places_in_vector {
            if let Some(need) = needs.get_mut(place) {
                *need = Some(Arc::clone(&values));
            }
        }
    }
    Ok(())
}

/// Derives, joins the spine's columns with the vector's, and counts.
pub(super) fn assemble(
    plan: &Plan,
    spine: &Spine,
    features: Vec<Option<ArrayRef>>,
    tables: &BTreeMap<String, Table>,
    built_at: EventTime,
    progress: &Progress,
) -> Result<(JobResult, Manifest), JobError> {
    let features: Option<Vec<ArrayRef>> = features.into_iter().collect();
    let features = features.ok_or_else(|| JobError::internal("a feature that the vector needs was not computed"))?;
    let vector = &plan.model.definition.features;
    let added: Vec<usize> = (vector.iter().enumerate())
        .filter(|(_, feature)| spine.schema.field_with_name(&feature.name).is_err())
        .map(|(index, _)| index)
        .collect();
    let mut fields: Vec<ArrowField> = spine
        .schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone())
        .collect();
    fields.extend(
        added
            .iter()
            .filter_map(|&index| vector.get(index))
            .map(|f| ArrowField::new(&f.name, f.data_type.arrow(), true)),
    );
    let schema = Arc::new(Schema::new_with_metadata(fields, spine.schema.metadata().clone()));
    let mut nulls = vec![0u64; vector.len()];
    let mut batches = Vec::new();
    let mut first_row = 0;
    for (batch, inputs) in spine.batches.iter().zip(&spine.inputs) {
        for start in (0..batch.num_rows()).step_by(BATCH_ROWS) {
            progress.checkpoint()?;
            let rows = BATCH_ROWS.min(batch.num_rows() - start);
            let slices: Vec<ArrayRef> = features.iter().map(|values| values.slice(first_row, rows)).collect();
            let assembled = plan.vector.assemble(&inputs.slice(start, rows), &slices)?;
            for (count, column) in nulls.iter_mut().zip(assembled.columns()) {
                *count += column.null_count() as u64;
            }
            let mut columns = batch.slice(start, rows).columns().to_vec();
            columns.extend(
                added
                    .iter()
                    .filter_map(|&index| assembled.columns().get(index).cloned()),
            );
            batches.push(RecordBatch::try_new(Arc::clone(&schema), columns)?);
            first_row += rows;
            progress.add(rows as u64);
        }
    }
    let manifest = manifest(plan, spine, &nulls, tables, built_at);
    Ok((JobResult { schema, batches }, manifest))
}

fn manifest(
    plan: &Plan,
    spine: &Spine,
    nulls: &[u64],
    tables: &BTreeMap<String, Table>,
    built_at: EventTime,
) -> Manifest {
    let features = plan.model.definition.features.iter().zip(nulls);
    Manifest {
        format: MANIFEST_FORMAT,
        model: VersionedName::new(&plan.model.definition.name, plan.model.version),
        as_of: plan.as_of,
        registry_version: plan.registry_version,
        views: plan.views.iter().map(|view| view.name.clone()).collect(),
        tables: tables
            .iter()
            .map(|(source, table)| (source.clone(), table.identity.clone()))
            .collect(),
        time_column: spine.time_column.clone(),
        spine_columns: spine.schema.fields().iter().map(|field| field.name().clone()).collect(),
        features: features
            .map(|(feature, &nulls)| ManifestFeature {
                name: feature.name.clone(),
                data_type: feature.data_type,
                nulls,
            })
            .collect(),
        rows: spine.rows() as u64,
        built_at,
    }
}
