//! The training set itself: the vector assembled, the manifest.

use super::plan::Plan;
use super::spine::Spine;
use super::statuses::Joined;
use crate::error::JobError;
use crate::progress::Progress;
use crate::table::Table;
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field as ArrowField, Schema, SchemaRef};
use ondol_pipelines_api::RowsDigest;
use ondol_pipelines_api::wire::{FeatureStatistics, Manifest, ManifestFeature, TrainingSetSnapshot};
use ondol_transform::profile::ColumnProfile;
use ondol_vocabulary::{EventTime, Value, VersionedName};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Rows of one batch of the result, at most and at least.
const MOST_ROWS: usize = 16_384;
const FEWEST_ROWS: usize = 2_048;
/// Bytes of one batch, about: it goes from core to core, and stays in their caches.
const BATCH_BYTES: usize = 1 << 20;
/// What a value takes that is of no fixed width, about.
const TEXT_BYTES: usize = 16;
/// Batches that may wait between two threads: one goes on while another waits for the disk.
const AHEAD_BATCHES: usize = 12;

/// Derives, joins the spine's columns with the vector's, counts, and hands the rows to `write` as they come about: all of
/// schema `schema`.
pub(super) fn assemble(
    plan: &Plan,
    spine: &Spine,
    joined: &mut [Joined],
    schema: &SchemaRef,
    progress: &Progress,
    mut write: impl FnMut(&RecordBatch) -> Result<(), JobError>,
) -> Result<Assembled, JobError> {
    let (added, most) = (added(plan, spine), batch_rows(schema));
    std::thread::scope(|scope| {
        // Digesting takes as long as writing, and so do profiling and gathering: all of it goes on at once.
        let (to_digest, rows_to_digest) = sync_channel::<RecordBatch>(AHEAD_BATCHES);
        let digest = scope.spawn(move || digest_of(schema, rows_to_digest));
        let (to_profile, vectors_to_profile) = sync_channel::<RecordBatch>(AHEAD_BATCHES);
        let profile = scope.spawn(|| profile_of(plan, vectors_to_profile));
        let (to_assemble, features) = sync_channel(AHEAD_BATCHES);
        scope.spawn(move || gather(plan, (spine, most), joined, &to_assemble));
        for (batch, inputs) in spine.batches.iter().zip(&spine.inputs) {
            for (start, rows) in cuts(batch, most) {
                progress.checkpoint()?;
                let features = features.recv();
                let features = features.map_err(|_| JobError::internal("gathering rows panicked"))??;
                let assembled = plan.vector.assemble(&inputs.slice(start, rows), &features)?;
                // Whoever stops listening has failed, and says so itself.
                let _ = to_profile.send(assembled.clone());
                let mut columns = batch.slice(start, rows).columns().to_vec();
                let assembled = added
                    .iter()
                    .filter_map(|&index| assembled.columns().get(index).cloned());
                columns.extend(assembled);
                let batch = RecordBatch::try_new(Arc::clone(schema), columns)?;
                let _ = to_digest.send(batch.clone());
                write(&batch)?;
                progress.add(rows as u64);
            }
        }
        drop((to_digest, to_profile));
        let panicked = |_| JobError::internal("digesting rows panicked");
        Ok(Assembled {
            features: profile.join().map_err(panicked)??,
            digest: digest.join().map_err(panicked)??,
        })
    })
}

/// Rows of one batch of the result.
fn batch_rows(schema: &Schema) -> usize {
    let widths = schema.fields().iter();
    let widths = widths.map(|field| field.data_type().primitive_width().unwrap_or(TEXT_BYTES));
    let rows = BATCH_BYTES / widths.sum::<usize>().max(1);
    rows.next_power_of_two().clamp(FEWEST_ROWS, MOST_ROWS)
}

/// Where parts of so many rows begin in `batch`, and how many rows each has.
fn cuts(batch: &RecordBatch, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let rows = batch.num_rows();
    (0..rows)
        .step_by(most)
        .map(move |start| (start, most.min(rows - start)))
}

/// Hands over the features of each batch of the result, until the first error.
fn gather(
    plan: &Plan,
    (spine, most): (&Spine, usize),
    joined: &mut [Joined],
    features: &SyncSender<Result<Vec<ArrayRef>, JobError>>,
) {
    let mut first_row = 0;
    for (_, rows) in spine.batches.iter().flat_map(|batch| cuts(batch, most)) {
        let needed = needed(plan, joined, first_row..first_row + rows);
        first_row += rows;
        let is_last = needed.is_err();
        // Whoever does not listen any more has failed.
        if features.send(needed).is_err() || is_last {
            return;
        }
    }
}

/// The features of `rows` that the vector needs, in the order of its needs.
fn needed(plan: &Plan, joined: &mut [Joined], rows: Range<usize>) -> Result<Vec<ArrayRef>, JobError> {
    let mut features: Vec<Option<ArrayRef>> = vec![None; plan.vector.needs().len()];
    for (view, joined) in plan.views.iter().zip(joined) {
        for (values, places) in joined.rows(rows.clone())?.into_iter().zip(&view.needs) {
            for place in places {
                if let Some(feature) = features.get_mut(*place) {
                    *feature = Some(Arc::clone(&values));
                }
            }
        }
    }
    let features: Option<Vec<ArrayRef>> = features.into_iter().collect();
    features.ok_or_else(|| JobError::internal("a feature that the vector needs was not computed"))
}

fn digest_of(schema: &SchemaRef, rows: Receiver<RecordBatch>) -> Result<RowsDigest, JobError> {
    let mut digest = RowsDigest::new(schema);
    for batch in rows {
        digest.update(&batch)?;
    }
    Ok(digest)
}

/// What the features of vectors come to, in the vector's order. Value by value: the same rows give the same statistics,
/// however they are cut into batches.
fn profile_of(plan: &Plan, vectors: Receiver<RecordBatch>) -> Result<Vec<ManifestFeature>, JobError> {
    let features = &plan.model.definition.features;
    let mut profiles: Vec<ColumnProfile> = features
        .iter()
        .map(|feature| ColumnProfile::outline(feature.data_type))
        .collect();
    for vector in vectors {
        for (profile, column) in profiles.iter_mut().zip(vector.columns()) {
            profile.add(column).map_err(JobError::internal)?;
        }
    }
    let profiled = features
        .iter()
        .zip(&profiles)
        .map(|(feature, profile)| ManifestFeature {
            name: feature.name.clone(),
            data_type: feature.data_type,
            nulls: profile.nulls(),
            statistics: Some(statistics_of(profile)),
            statuses: None,
        });
    Ok(profiled.collect())
}

fn statistics_of(profile: &ColumnProfile) -> FeatureStatistics {
    let (distinct, is_exact) = profile.distinct();
    let is_list = profile.data_type().is_list();
    FeatureStatistics {
        count: profile.count(),
        nans: profile.nans(),
        trues: profile.trues(),
        min: profile.min(),
        max: profile.max(),
        mean: profile.mean().map(Value::F64),
        distinct: (!is_list).then_some(distinct),
        distinct_is_exact: !is_list && is_exact,
    }
}

/// What was seen of the rows on their way out.
pub(super) struct Assembled {
    /// The features, and what they come to.
    pub features: Vec<ManifestFeature>,
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
    features: Vec<ManifestFeature>,
    tables: &BTreeMap<String, Table>,
    snapshot: TrainingSetSnapshot,
    built_at: EventTime,
) -> Manifest {
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
        features,
        rows: spine.rows() as u64,
        built_at,
        snapshot: Some(snapshot),
    }
}
