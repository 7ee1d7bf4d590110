//! `training-set`: a spine file in, the same rows with their feature vectors out, a manifest beside them.

use crate::cli::{AsOfArg, Output, TrainingSetArgs};
use crate::commands::jobs;
use crate::{frames, print};
use anyhow::{Context as _, Result, anyhow, bail};
use ondol_pipelines_api::wire::{AsOf, TrainingSetOptions, TrainingSetRequest};
use serde_json::json;
use std::path::Path;

/// `ondol training-set`.
pub(crate) async fn run(args: &TrainingSetArgs, output: Output) -> Result<()> {
    frames::writable(&args.out)?;
    let same = |path: &Path| std::fs::canonicalize(path).ok();
    if same(&args.spine).is_some_and(|spine| same(&args.out) == Some(spine)) {
        bail!(
            "`{}` is both spine and output: the training set would replace the spine",
            args.out.display()
        );
    }
    let snapshot = args.connect.feature_store()?.snapshot().await?;
    let inputs = snapshot
        .model(&args.model)
        .map(|model| model.definition.inputs.clone())
        .unwrap_or_default();
    let (spine_schema, spine) = frames::read(&args.spine, &inputs)?;

    let pipelines = args.connect.pipelines()?;
    let options = TrainingSetOptions {
        model: args.model.clone(),
        time_column: args.time_column.clone(),
        as_of: match args.as_of {
            AsOfArg::KnownAt => AsOf::KnownAt,
            AsOfArg::EventTime => AsOf::EventTime,
        },
    };
    let job = pipelines
        .training_set(TrainingSetRequest {
            options,
            spine_schema,
            spine,
        })
        .await?;
    let job = jobs::wait(pipelines.as_ref(), job).await?;
    let result = pipelines.result(&job.id).await?;
    let manifest = job.manifest.ok_or_else(|| anyhow!("job {} left no manifest", job.id))?;

    frames::write(&args.out, &result.schema, &result.batches)?;
    let manifest_path = frames::manifest_path(&args.out);
    std::fs::write(&manifest_path, serde_json::to_vec_pretty(&manifest)?)
        .with_context(|| format!("can't write `{}`", manifest_path.display()))?;

    let summary = json!({"output": args.out, "manifest_file": manifest_path, "manifest": manifest});
    print::result(output, &summary, |_| {
        let rows = manifest.features.iter().map(|feature| {
            [
                feature.name.clone(),
                feature.data_type.name().to_owned(),
                feature.nulls.to_string(),
            ]
        });
        format!(
            "{}\n\n{} rows × {} features of {} → {}\nmanifest: {}",
            print::table(["feature", "type", "nulls"], rows),
            manifest.rows,
            manifest.features.len(),
            manifest.model,
            args.out.display(),
            manifest_path.display(),
        )
    })
}
