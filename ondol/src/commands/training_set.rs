//! `training-set`: a spine file in, the same rows with their feature vectors out, a manifest beside them; or the same
//! once more, from the manifest; or what an earlier job made.

use crate::cli::{AsOfArg, Output, TrainingSetArgs};
use crate::commands::{jobs, logged_training_set};
use crate::frames::{self, Inlet, Layout, Outlet, Target};
use crate::print;
use anyhow::{Context as _, Result, anyhow, bail};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::TryStreamExt as _;
use ondol_pipelines_api::wire::{
    AsOf, FeatureStatuses, Manifest, ManifestFeature, RowsPin, TrainingSetOptions, TrainingSetRequest,
};
use ondol_pipelines_api::{Pipelines, RowsDigest};
use ondol_vocabulary::Field;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `ondol training-set`.
pub(crate) async fn run(args: &TrainingSetArgs, output: Output) -> Result<()> {
    if args.from_decisions {
        return logged_training_set::run(args, output).await;
    }
    let layout = Layout {
        partition_by: args.partition_by.clone(),
        rows_per_file: args.rows_per_file,
    };
    let outlet = Outlet::new(&args.out, args.config.as_deref())?;
    let target = Target::new(outlet.path(), layout, args.format)?;
    outlet.check(target.is_folder()).await?;
    let pipelines = args.connect.pipelines()?;
    let (job, spine) = match &args.job {
        Some(id) => (pipelines.job(id, None, Duration::ZERO).await?, None),
        None => {
            let (request, spine) = match &args.from_manifest {
                Some(manifest) => again(args, manifest).await?,
                None => anew(args).await?,
            };
            target.check(&request.spine_schema)?;
            refuse_to_replace(&spine, &args.out)?;
            (pipelines.training_set(request).await?, Some(spine))
        }
    };
    let job = jobs::wait(pipelines.as_ref(), job).await?;
    let mut manifest = job
        .manifest
        .ok_or_else(|| anyhow!("job {} ({}) made no training set", job.id, job.kind))?;
    write(pipelines.as_ref(), &job.id, &target, &manifest).await?;

    if let Some(snapshot) = &mut manifest.snapshot {
        snapshot.spine.file = spine.as_ref().and_then(Inlet::recorded);
    }
    let manifest_text = serde_json::to_vec_pretty(&manifest)?;
    frames::write_text(&frames::manifest_path(outlet.path()), &manifest_text)?;
    let (out, manifest_file) = (outlet.shown().to_owned(), outlet.manifest());
    outlet.publish().await?;
    let summary = json!({"output": out, "manifest_file": manifest_file, "manifest": manifest});
    print::result(output, &summary, |_| summarize(&manifest, &out, &manifest_file))
}

/// A request for a training set of the present.
async fn anew(args: &TrainingSetArgs) -> Result<(TrainingSetRequest, Inlet)> {
    let (Some(model), Some(spine_file)) = (&args.model, &args.spine) else {
        bail!("name a model and its --spine, or a manifest with --from-manifest");
    };
    let spine_file = Inlet::open(spine_file, args.config.as_deref()).await?;
    refuse_to_replace(&spine_file, &args.out)?;
    let snapshot = args.connect.feature_store()?.snapshot().await?;
    let inputs = snapshot
        .model(model)
        .map(|model| model.definition.inputs.clone())
        .unwrap_or_default();
    let (spine_schema, spine) = frames::read(spine_file.path(), &inputs)?;
    let options = TrainingSetOptions {
        model: model.clone(),
        time_column: args.time_column.clone(),
        as_of: match args.as_of {
            AsOfArg::KnownAt => AsOf::KnownAt,
            AsOfArg::EventTime => AsOf::EventTime,
        },
        exact_status: args.exact_status,
    };
    let request = TrainingSetRequest {
        options,
        spine_schema,
        spine,
    };
    Ok((request, spine_file))
}

/// A request for the training set that the manifest at `path` describes.
async fn again(args: &TrainingSetArgs, path: &Path) -> Result<(TrainingSetRequest, Inlet)> {
    let file = Inlet::open(path, args.config.as_deref()).await?;
    let text = std::fs::read(file.path()).with_context(|| format!("can't read `{}`", path.display()))?;
    let manifest: Manifest = serde_json::from_slice(&text).with_context(|| {
        format!(
            "`{}` is no manifest of a training set: name the file written beside its output",
            path.display()
        )
    })?;
    let Some(snapshot) = &manifest.snapshot else {
        bail!(
            "`{}` is of form {}, which pins neither tables nor definitions: build the training set anew",
            path.display(),
            manifest.format
        );
    };
    let model = snapshot.definitions.model(&manifest.model.name);
    let inputs = model.map(|model| model.definition.inputs.clone()).unwrap_or_default();
    let columns = manifest.spine_columns.as_slice();
    let (schema, spine, file) = match &args.spine {
        // What the caller names is sent as it is: the service says what is wrong with it.
        Some(file) => {
            let file = Inlet::open(file, args.config.as_deref()).await?;
            let (schema, spine) = frames::read(file.path(), &inputs)?;
            (schema, spine, file)
        }
        None => find_spine(&snapshot.spine, (&file, args.config.as_deref()), &inputs, columns).await?,
    };
    let mut request = TrainingSetRequest::from_manifest(&manifest, &schema, spine)?;
    request.options.exact_status = args.exact_status;
    Ok((request, file))
}

/// The spine that `pin` recognizes: the file it was in, or else the training set beside the manifest, which begins with
/// the spine's columns.
async fn find_spine(
    pin: &RowsPin,
    (manifest, config): (&Inlet, Option<&Path>),
    inputs: &[Field],
    columns: &[String],
) -> Result<(SchemaRef, Vec<RecordBatch>, Inlet)> {
    let recorded = pin.file.as_ref().map(PathBuf::from);
    let candidates = recorded.into_iter().chain(manifest.described());
    let mut reasons = Vec::new();
    for file in candidates {
        let found = match Inlet::open(&file, config).await {
            Ok(file) => recognized(pin, &file, inputs, columns).map(|(schema, spine)| (schema, spine, file)),
            Err(reason) => Err(reason),
        };
        match found {
            Ok(found) => return Ok(found),
            Err(reason) => reasons.push(format!("\n  {reason:#}")),
        }
    }
    bail!(
        "the spine of this training set was not found: name it with --spine{}",
        reasons.concat()
    )
}

/// The spine's columns of `file`, if their digest is the pinned one.
fn recognized(
    pin: &RowsPin,
    file: &Inlet,
    inputs: &[Field],
    columns: &[String],
) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let (schema, batches) = frames::read_columns(file.path(), inputs, Some(columns))?;
    if RowsDigest::of(&schema, &batches)? != pin.digest {
        bail!("`{}` holds other rows than it did", file.shown());
    }
    Ok((schema, batches))
}

fn refuse_to_replace(spine: &Inlet, out: &Path) -> Result<()> {
    if spine.is(out) {
        bail!(
            "`{}` is both spine and output: the training set would replace the spine",
            out.display()
        );
    }
    Ok(())
}

/// Writes the rows of job `id` as they arrive.
async fn write(pipelines: &dyn Pipelines, id: &str, target: &Target, manifest: &Manifest) -> Result<()> {
    let mut rows = pipelines.rows(id).await?;
    let mut table = target.begin(&rows.schema, &manifest.time_column)?;
    let bar = print::progress(Some(manifest.rows), "rows");
    bar.set_message("writing");
    while let Some(batch) = rows.batches.try_next().await? {
        bar.inc(batch.num_rows() as u64);
        table.write(batch)?;
    }
    bar.finish_and_clear();
    table.finish()
}

fn summarize(manifest: &Manifest, out: &str, manifest_path: &str) -> String {
    let rows = manifest.features.iter().map(|feature| {
        let counted = |count: fn(&FeatureStatuses) -> u64| {
            let statuses = feature.statuses.as_ref();
            statuses.map_or_else(String::new, |statuses| count(statuses).to_string())
        };
        let unread = feature.statuses.as_ref().is_some_and(|statuses| statuses.unread > 0);
        let missing = counted(|statuses| statuses.missing + statuses.unread);
        [
            feature.name.clone(),
            feature.data_type.name().to_owned(),
            feature.nulls.to_string(),
            if unread { format!("≤ {missing}") } else { missing },
            counted(|statuses| statuses.stale),
            counted(|statuses| statuses.null),
            counted(|statuses| statuses.defaults),
        ]
    });
    let is_unread = |feature: &ManifestFeature| feature.statuses.as_ref().is_some_and(|statuses| statuses.unread > 0);
    let note = match manifest.features.iter().any(is_unread) {
        true => "\n≤: of some rows only old events could tell, which were not read (--exact-status reads them)",
        false => "",
    };
    let header = ["feature", "type", "nulls", "missing", "stale", "null", "default"];
    format!(
        "{}{note}\n\n{} rows × {} features of {} → {out}\nmanifest: {manifest_path}",
        print::table(header, rows),
        manifest.rows,
        manifest.features.len(),
        manifest.model,
    )
}
