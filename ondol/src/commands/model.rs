//! `model register`, `model ls` and `predict`.

use crate::cli::{ConnectArgs, Output, PredictArgs, RegisterArgs};
use crate::{frames, print};
use anyhow::{Context as _, Result, bail};
use ondol_model_gateway_api::wire::{ModelSummary, PredictRequest, Prediction, RegisterRequest, RegisteredModel};
use ondol_vocabulary::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// `ondol model register`.
pub(crate) async fn register(args: &RegisterArgs, output: Output) -> Result<()> {
    let artifact =
        std::fs::read(&args.artifact).with_context(|| format!("can't read `{}`", args.artifact.display()))?;
    let manifest = args.training_set.as_deref().map(read_manifest).transpose()?;
    let request = RegisterRequest {
        artifact: artifact.into(),
        kind: args.kind,
        manifest,
    };
    let registered = args.connect.model_gateway()?.register(&args.model, request).await?;
    print::result(output, &registered, |registered: &RegisteredModel| {
        format!(
            "registered {} ({}, sha256 {}…), checked against version {} of its definition",
            registered.model,
            registered.kind,
            registered.sha256.get(..12).unwrap_or(&registered.sha256),
            registered.definition_version
        )
    })
}

/// The manifest beside a training set; the manifest itself may be named too.
fn read_manifest(path: &Path) -> Result<serde_json::Value> {
    let manifest = if path.extension().is_some_and(|ending| ending == "json") {
        path.to_owned()
    } else {
        frames::manifest_path(path)
    };
    let bytes = std::fs::read(&manifest).with_context(|| {
        format!(
            "can't read `{}`: `ondol training-set` writes it beside the training set",
            manifest.display()
        )
    })?;
    serde_json::from_slice(&bytes).with_context(|| format!("`{}` is not a manifest", manifest.display()))
}

/// `ondol model ls`.
pub(crate) async fn list(connect: &ConnectArgs, output: Output) -> Result<()> {
    let models = connect.model_gateway()?.models().await?;
    print::result(output, &models, |models: &Vec<ModelSummary>| {
        let rows = models.iter().map(|model| {
            let inputs: Vec<String> = model
                .inputs
                .iter()
                .map(|(name, kind)| format!("{name}: {kind}"))
                .collect();
            let serving = model.versions.first().map_or_else(
                || "nothing registered".to_owned(),
                |version| format!("{}, since {}", version.model, version.registered_at),
            );
            [
                model.name.clone(),
                inputs.join(", "),
                model.features.len().to_string(),
                serving,
            ]
        });
        print::table(["model", "inputs", "features", "serving"], rows)
    })
}

/// `ondol predict`.
pub(crate) async fn predict(args: &PredictArgs, output: Output) -> Result<()> {
    let mut inputs = BTreeMap::new();
    let models = args.connect.model_gateway()?.models().await?;
    let name = args.model.split('@').next().unwrap_or(&args.model);
    let types = models
        .iter()
        .find(|model| model.name == name)
        .map(|model| model.inputs.clone())
        .unwrap_or_default();
    for input in &args.inputs {
        let Some((name, text)) = input.split_once('=') else {
            bail!("`{input}` is not of the form name=value");
        };
        let is_text = types
            .get(name)
            .is_some_and(|kind| !kind.is_numeric() && *kind != ondol_vocabulary::DataType::Bool);
        let value = if is_text {
            Value::String(text.to_owned())
        } else {
            serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
        };
        inputs.insert(name.to_owned(), value);
    }
    let request = PredictRequest {
        inputs,
        explain: Some(true),
        ..PredictRequest::default()
    };
    let prediction = args.connect.model_gateway()?.predict(&args.model, request).await?;
    print::result(output, &prediction, describe)
}

/// A prediction with the vector behind it.
pub(crate) fn describe(prediction: &Prediction) -> String {
    let rows = prediction.features.iter().map(|(name, feature)| {
        let age = feature.age_ms.map(|age| format!("{age} ms")).unwrap_or_default();
        [
            name.clone(),
            feature.value.to_string(),
            feature.status.name().to_owned(),
            age,
        ]
    });
    format!(
        "{}  by {}  (request {})\n\n{}",
        prediction.prediction,
        prediction.model,
        prediction.request_id,
        print::table(["feature", "value", "status", "age"], rows)
    )
}
