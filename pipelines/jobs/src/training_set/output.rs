//! The training set itself: the vector assembled, the manifest.

use super::plan::Plan;
use super::spine::Spine;
use crate::error::JobError;
use crate::progress::Progress;
use crate::table::Table;
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{Field as ArrowField, Schema, SchemaRef};
use ondol_pipelines_api::RowsDigest;
use ondol_pipelines_api::wire::{Manifest, ManifestFeature, TrainingSetSnapshot};
use ondol_vocabulary::{EventTime, VersionedName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows of one batch of the result.
const BATCH_ROWS: usize = 65_536;

/// Derives, joins the spine's columns with the vector's, counts, and hands the rows to `write` as they come about: all of
/// schema `schema`.
pub(super) fn assemble(
    plan: &Plan,
    spine: &Spine,
    features: Vec<Option<ArrayRef>>,
    schema: &SchemaRef,
    progress: &Progress,
    mut write: impl FnMut(&RecordBatch) -> Result<(), JobError>,
) -> Result<Assembled, JobError> {
    let features: Option<Vec<ArrayRef>> = features.into_iter().collect();
    let features = features.ok_or_else(|| JobError::internal("a feature that the vector needs was not computed"))?;
    let added = added(plan, spine);
    let mut assembled_rows = Assembled {
        nulls: vec![0u64; plan.model.definition.features.len()],
        digest: RowsDigest::new(schema),
    };
    let mut first_row = 0;
    for (batch, inputs) in spine.batches.iter().zip(&spine.inputs) {
        for start in (0..batch.num_rows()).step_by(BATCH_ROWS) {
            progress.checkpoint()?;
            let rows = BATCH_ROWS.min(batch.num_rows() - start);
            let slices: Vec<ArrayRef> = features.iter().map(|values| values.slice(first_row, rows)).collect();
            let assembled = plan.vector.assemble(&inputs.slice(start, rows), &slices)?;
            for (count, column) in assembled_rows.nulls.iter_mut().zip(assembled.columns()) {
                *count += column.null_count() as u64;
            }
            let mut columns = batch.slice(start, rows).columns().to_vec();
            columns.extend(
                added
                    .iter()
                    .filter_map(|&index| assembled.columns().get(index).cloned()),
            );
            let batch = RecordBatch::try_new(Arc::clone(schema), columns)?;
            assembled_rows.digest.update(&batch)?;
            write(&batch)?;
            first_row += rows;
            progress.add(rows as u64);
        }
    }
    Ok(assembled_rows)
}

/// What was seen of the rows on their way out.
pub(super) struct Assembled {
    /// Nulls of each feature.
    pub nulls: Vec<u64>,
    /// The rows' digest.
    pub digest: RowsDigest,
}

/// The spine's columns, then those of the vector that the spine doesn't have.
pub(super) fn schema(plan: &Plan, spine: &Spine) -> SchemaRef {
    let spine_fields = spine.schema.fields().iter().map(|field| field.as_ref().clone());
    let vector = &plan.model.definition.features;
    let added = added(plan, spine).into_iter().filter_map(|index| vector.get(index));
    let added = added.map(|feature| ArrowField::new(&feature.name, feature.data_type.arrow(), true));
    let fields: Vec<ArrowField> = spine_fields.chain(added).collect();
    Arc::new(Schema::new_with_metadata(fields, spine.schema.metadata().clone()))
}

/// Places in the vector of the features that the spine doesn't bring itself.
fn added(plan: &Plan, spine: &Spine) -> Vec<usize> {
    let brought = |name: &str| spine.schema.field_with_name(name).is_ok();
    let features = plan.model.definition.features.iter().enumerate();
    features
        .filter(|(_, feature)| !brought(&feature.name))
        .map(|(index, _)| index)
        .collect()
}

/// What went into the set.
pub(super) fn manifest(
    plan: &Plan,
    spine: &Spine,
    nulls: &[u64],
    tables: &BTreeMap<String, Table>,
    snapshot: TrainingSetSnapshot,
    built_at: EventTime,
) -> Manifest {
    let features = plan.model.definition.features.iter().zip(nulls);
    Manifest {
        format: Manifest::FORMAT,
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
        snapshot: Some(snapshot),
    }
}
