//! A training set made again from its manifest: what it pins, checked against what came with it before any work starts,
//! and against what came out before it is shown.

use super::plan::Plan;
use crate::error::JobError;
use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use ondol_pipelines_api::wire::{Manifest, RowsPin, TablePin, TrainingSetRequest, TrainingSetSnapshot};
use ondol_pipelines_api::{PipelinesError, RowsDigest};
use ondol_vocabulary::Snapshot;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What built the training sets of this version.
pub(super) const BUILT_BY: &str = concat!("ondol ", env!("CARGO_PKG_VERSION"));

/// What is to be made again.
pub(super) struct Again(TrainingSetSnapshot);

impl Again {
    /// Takes the manifest out of `request`, if it holds one, and checks the request against it: the spine becomes the
    /// manifest's to the last attribute of its schema, or is refused.
    pub(super) fn take(request: &mut TrainingSetRequest) -> Result<Option<Self>, PipelinesError> {
        let Some(manifest) = request.take_manifest()? else {
            return Ok(None);
        };
        let invalid = |detail: String| PipelinesError::InvalidRequest { detail };
        if manifest.format > Manifest::FORMAT {
            return Err(invalid(format!(
                "the manifest is of form {}, these pipelines read forms up to {}: use a newer version",
                manifest.format,
                Manifest::FORMAT
            )));
        }
        let Some(snapshot) = manifest.snapshot else {
            return Err(invalid(format!(
                "the manifest is of form {}, which pins neither tables nor definitions: build the training set anew",
                manifest.format
            )));
        };
        if request.options.model != manifest.model.name {
            return Err(invalid(format!(
                "the manifest is of model `{}`, the request names `{}`",
                manifest.model.name, request.options.model
            )));
        }
        request.options.time_column = Some(manifest.time_column);
        request.options.as_of = manifest.as_of;
        adopt(&snapshot.spine, request)?;
        Ok(Some(Self(snapshot)))
    }

    /// The definitions as they were.
    pub(super) fn definitions(&self) -> &Snapshot {
        &self.0.definitions
    }

    /// What was read of source `name`.
    pub(super) fn table(&self, name: &str) -> Result<&TablePin, JobError> {
        let pin = self.0.tables.get(name);
        pin.ok_or_else(|| {
            JobError::NotReproduced(format!("the manifest pins no table of source `{name}`: it was edited"))
        })
    }

    /// Whether what came out is what it was.
    pub(super) fn check(&self, made: &TrainingSetSnapshot) -> Result<(), JobError> {
        let (was, is) = (&self.0.result.digest, &made.result.digest);
        if was == is {
            return Ok(());
        }
        Err(JobError::NotReproduced(format!(
            "definitions, spine and table versions are those of the manifest, the rows are not (digest {is} instead of \
             {was}): either a file was replaced in place, or {BUILT_BY} computes something else than {} did; report it",
            self.0.built_by
        )))
    }
}

/// Gives the spine of `request` the schema that `pin` names, if its rows are the pinned ones.
fn adopt(pin: &RowsPin, request: &mut TrainingSetRequest) -> Result<(), PipelinesError> {
    let invalid = |cause: ArrowError| PipelinesError::InvalidRequest {
        detail: format!("the manifest's spine can't be read: {cause}"),
    };
    let refuse = |problems: Vec<String>| PipelinesError::InvalidSpine {
        model: request.options.model.clone(),
        problems,
    };
    let schema = pin.arrow_schema().map_err(invalid)?;
    let differences = differences(&schema, &request.spine_schema);
    if !differences.is_empty() {
        return Err(refuse(differences));
    }
    let digest = RowsDigest::of(&request.spine_schema, &request.spine).map_err(invalid)?;
    if digest != pin.digest {
        return Err(refuse(vec![format!(
            "the spine is not the one of the manifest: the digest of its rows is {digest} instead of {}: pass the very \
             rows, in their order",
            pin.digest
        )]));
    }
    let relabel = |batch: &RecordBatch| {
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&schema), batch.columns().to_vec(), &options)
    };
    let spine: Result<Vec<RecordBatch>, ArrowError> = request.spine.iter().map(relabel).collect();
    request.spine = spine.map_err(invalid)?;
    request.spine_schema = schema;
    Ok(())
}

/// How the columns of a spine differ from the pinned ones, a line each.
fn differences(pinned: &Schema, found: &Schema) -> Vec<String> {
    let mut lines = Vec::new();
    for field in pinned.fields() {
        match found.field_with_name(field.name()) {
            Err(_) => lines.push(format!("column `{}` of the manifest's spine is missing", field.name())),
            Ok(other) if other.data_type() != field.data_type() => lines.push(format!(
                "column `{}` is {}, in the manifest's spine it was {}",
                field.name(),
                other.data_type(),
                field.data_type()
            )),
            Ok(_) => {}
        }
    }
    for field in found.fields() {
        if pinned.field_with_name(field.name()).is_err() {
            lines.push(format!("column `{}` is not in the manifest's spine", field.name()));
        }
    }
    let names = |schema: &Schema| {
        schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect::<Vec<_>>()
    };
    if lines.is_empty() && names(pinned) != names(found) {
        lines.push(format!(
            "the columns stand in another order: {} is the manifest's",
            names(pinned).join(", ")
        ));
    }
    lines
}

/// Pins a training set that was just made: of the spine and the result the schema and the digest.
pub(super) fn snapshot(
    plan: &Plan,
    tables: BTreeMap<String, TablePin>,
    spine: (&SchemaRef, String),
    result: (&SchemaRef, RowsDigest),
) -> Result<TrainingSetSnapshot, JobError> {
    Ok(TrainingSetSnapshot {
        definitions: plan.definitions.clone(),
        tables,
        spine: RowsPin::new(spine.0, spine.1)?,
        result: RowsPin::new(result.0, result.1.finish())?,
        built_by: BUILT_BY.to_owned(),
    })
}
