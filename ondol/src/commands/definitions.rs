//! `plan`, `apply`, `ls` and `show`: definition files to the registry, and the registry to the eye.

use super::backfill;
use crate::cli::{ApplyArgs, ConnectArgs, DefinitionArgs, Output, ShowArgs};
use crate::failure::WrongDefinitions;
use crate::print;
use anyhow::{Context as _, Result, bail};
use ondol_feature_store_api::wire::{Applied, Change, ChangeAction, DefinitionHistory, Plan};
use ondol_feature_store_api::{FeatureStore, FeatureStoreError};
use ondol_pipelines_api::Pipelines;
use ondol_pipelines_api::wire::{JobQuery, JobState};
use ondol_transform::definition::{attachments, beside, is_attachment};
use ondol_vocabulary::{
    DataType, DefinitionFile, DefinitionFiles, FeatureDefinition, ModelDefinition, Snapshot, SourceDefinition,
    SourceOrigin, ViewState,
};
use std::collections::BTreeMap;
use std::io::{ErrorKind, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// `ondol plan`.
pub(crate) async fn plan(args: &DefinitionArgs, output: Output) -> Result<()> {
    let files = read_files(&args.files)?;
    let plan = args
        .connect
        .feature_store()?
        .plan(files.clone())
        .await
        .map_err(|error| explain(error, &files, output))?;
    print::result(output, &plan, |plan: &Plan| {
        if plan.changes.is_empty() {
            return format!(
                "nothing would change: registry version {} holds these definitions",
                plan.base_version
            );
        }
        format!("{}\n`ondol apply` makes these changes.", describe(&plan.changes))
    })
}

/// `ondol apply`.
pub(crate) async fn apply(args: &ApplyArgs, output: Output) -> Result<()> {
    let files = read_files(&args.definitions.files)?;
    let store = args.definitions.connect.feature_store()?;
    let pipelines = args.definitions.connect.pipelines()?;
    let failed_before = failed_materializations(pipelines.as_ref()).await;
    let applying = if args.force {
        store.apply_forced(files.clone())
    } else {
        store.apply(files.clone())
    };
    let mut applied = applying.await.map_err(|error| explain(error, &files, output))?;
    if !args.no_wait {
        applied.snapshot =
            wait_until_active(store.as_ref(), applied.snapshot, pipelines.as_ref(), &failed_before).await?;
    }
    print::result(output, &applied, |applied: &Applied| {
        if applied.changes.is_empty() {
            return format!(
                "nothing changed: registry version {} holds these definitions",
                applied.snapshot.version
            );
        }
        format!(
            "{}\napplied as registry version {}",
            describe(&applied.changes),
            applied.snapshot.version
        )
    })
}

/// The failed jobs that brought a batch source online: source and error by job. Empty when the pipelines do not answer:
/// that is no reason not to apply.
async fn failed_materializations(pipelines: &dyn Pipelines) -> BTreeMap<String, (String, String)> {
    let query = JobQuery {
        kind: Some("materialize".to_owned()),
        state: Some(JobState::Failed),
        ..JobQuery::default()
    };
    let page = pipelines.jobs(query).await.unwrap_or_default();
    page.jobs
        .into_iter()
        .map(|job| (job.id, (job.subject, job.error.unwrap_or_default())))
        .collect()
}

/// How far a job is that brings one of `sources` online.
async fn at_work(pipelines: &dyn Pipelines, sources: &[&str]) -> Option<String> {
    let query = JobQuery {
        kind: Some("materialize".to_owned()),
        state: Some(JobState::Running),
        ..JobQuery::default()
    };
    let page = pipelines.jobs(query).await.ok()?;
    let job = page
        .jobs
        .into_iter()
        .find(|job| sources.contains(&job.subject.as_str()))?;
    let total = job.rows_total.map(|total| format!(" of {total}")).unwrap_or_default();
    Some(format!(": {}, {}{total} rows", job.stage, job.rows_done))
}

/// Waits until no view is being provisioned, or until a batch source of one can't be read.
async fn wait_until_active(
    store: &dyn FeatureStore,
    mut snapshot: Snapshot,
    pipelines: &dyn Pipelines,
    failed_before: &BTreeMap<String, (String, String)>,
) -> Result<Snapshot> {
    let bar = print::progress(None, "views");
    let started = Instant::now();
    loop {
        let provisioning: Vec<_> = snapshot
            .views
            .iter()
            .filter(|view| view.state == ViewState::Provisioning)
            .map(|view| &view.definition)
            .collect();
        let waiting: Vec<&str> = provisioning.iter().map(|view| view.name.as_str()).collect();
        if waiting.is_empty() {
            bar.finish_and_clear();
            return Ok(snapshot);
        }
        for (job, (source, error)) in failed_materializations(pipelines).await {
            if let Some(view) = provisioning.iter().find(|view| view.source == source)
                && !failed_before.contains_key(&job)
            {
                bar.finish_and_clear();
                bail!(
                    "applied as registry version {}, but view `{}` does not serve yet: {error}. It is tried again by \
                     itself; `ondol jobs` shows how it stands",
                    snapshot.version,
                    view.name
                );
            }
        }
        let sources: Vec<&str> = provisioning.iter().map(|view| view.source.as_str()).collect();
        if let Some(held) = backfill::held(store, &waiting).await {
            bar.finish_and_clear();
            bail!(
                "applied as registry version {}, but view `{}` is held back: `ondol backfill {}` lets it go on",
                snapshot.version,
                held.view,
                held.name()
            );
        }
        let stage = match at_work(pipelines, &sources).await {
            Some(stage) => stage,
            None => backfill::progress(store).await.unwrap_or_default(),
        };
        bar.set_message(format!("provisioning {}{stage}", waiting.join(", ")));
        if started.elapsed() > Duration::from_secs(600) {
            bar.finish_and_clear();
            bail!(
                "still provisioning after 10 minutes: {}. It goes on in the background; `ondol ls` and `ondol jobs` \
                 show how it stands",
                waiting.join(", ")
            );
        }
        let next = store.next_snapshot(snapshot.version, Duration::from_secs(2)).await?;
        snapshot = Snapshot::clone(&next);
    }
}

/// Reads definition files; a folder stands for the `.toml` files directly in it, by name.
pub(crate) fn read_files(paths: &[PathBuf]) -> Result<DefinitionFiles> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            for inner in toml_files(path)? {
                files.push(read_file(&inner)?);
            }
        } else {
            files.push(read_file(path)?);
        }
    }
    if files.is_empty() {
        bail!("no definition file found: `ondol init` writes a first one");
    }
    let schemas = schema_files(&files)?;
    files.extend(schemas);
    Ok(DefinitionFiles { files })
}

/// The message schemas that the definitions name: they travel with them.
fn schema_files(definitions: &[DefinitionFile]) -> Result<Vec<DefinitionFile>> {
    let mut schemas: Vec<DefinitionFile> = Vec::new();
    for definition in definitions {
        for name in attachments(&definition.text) {
            let path = beside(&definition.path, &name);
            // Of other names the compiler says what is wrong, and nothing is read for it.
            if !is_attachment(&path) || schemas.iter().any(|schema| schema.path == path) {
                continue;
            }
            let context = || format!("can't read `{path}`, which `{}` names", definition.path);
            let text = std::fs::read_to_string(&path).with_context(context)?;
            schemas.push(DefinitionFile { path, text });
        }
    }
    Ok(schemas)
}

fn toml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("can't list `{}`", folder.display());
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(context)? {
        let path = entry.with_context(context)?.path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn read_file(path: &Path) -> Result<DefinitionFile> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::NotFound => ": `ondol init` writes a first definition file",
            ErrorKind::InvalidData => ": a definition file is UTF-8 text",
            _ => "",
        };
        anyhow::Error::from(error).context(format!("can't read `{}`{remedy}", path.display()))
    })?;
    Ok(DefinitionFile {
        path: path.display().to_string(),
        text,
    })
}

/// Diagnostics become pictures of the lines they point at.
fn explain(error: FeatureStoreError, files: &DefinitionFiles, output: Output) -> anyhow::Error {
    match error {
        FeatureStoreError::InvalidDefinitions { diagnostics } => {
            let color = std::io::stderr().is_terminal();
            let picture = ondol_transform::definition::render(files, &diagnostics, color && output == Output::Text);
            WrongDefinitions { picture, diagnostics }.into()
        }
        other => other.into(),
    }
}

fn describe(changes: &[Change]) -> String {
    let mut text = String::new();
    for change in changes {
        let sign = match change.action {
            ChangeAction::Create => "+",
            ChangeAction::Update => "~",
            ChangeAction::Remove => "-",
        };
        text.push_str(&format!("{sign} {} {}\n", change.noun, change.name));
        for difference in &change.differences {
            text.push_str(&format!("    {difference}\n"));
        }
        if let Some(rows) = change.rows_to_backfill {
            text.push_str(&format!("    {rows} rows to read for it\n"));
        }
        if let Some(row) = &change.row_bytes {
            let line = |typical, most| format!("about {}, at most {}", size(typical), size(most));
            text.push_str(&format!("    a row for each entity: {}\n", line(row.typical, row.most)));
            for part in &row.parts {
                text.push_str(&format!("        {}: {}\n", part.part, line(part.typical, part.most)));
            }
        }
        if change.noun != "model" && !change.models_affected.is_empty() {
            text.push_str(&format!("    models affected: {}\n", change.models_affected.join(", ")));
        }
    }
    text
}

/// `870 B`, `1.9 KB`, `12 MB`.
fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        ..1e3 => format!("{bytes} B"),
        ..1e4 => format!("{:.1} KB", bytes / 1e3),
        ..1e6 => format!("{:.0} KB", bytes / 1e3),
        ..1e7 => format!("{:.1} MB", bytes / 1e6),
        _ => format!("{:.0} MB", bytes / 1e6),
    }
}

/// `ondol ls`.
pub(crate) async fn ls(connect: &ConnectArgs, output: Output) -> Result<()> {
    let snapshot = connect.feature_store()?.snapshot().await?;
    print::result(output, snapshot.as_ref(), list)
}

fn list(snapshot: &Snapshot) -> String {
    let sources = snapshot.sources.iter().map(|source| {
        let origin = describe_origin(&source.definition.origin);
        [
            "source".to_owned(),
            format!("{}@{}", source.definition.name, source.version),
            origin,
            String::new(),
        ]
    });
    let views = snapshot.views.iter().map(|view| {
        let key: Vec<&str> = view.definition.key.iter().map(|field| field.name.as_str()).collect();
        let state = match view.state {
            ViewState::Provisioning => "provisioning",
            ViewState::Active => "active",
            ViewState::Retired => "retired",
        };
        let what = format!(
            "{} features by {} from {}",
            view.definition.features.len(),
            key.join(", "),
            view.definition.source
        );
        [
            "view".to_owned(),
            format!("{}@{}", view.definition.name, view.version),
            what,
            state.to_owned(),
        ]
    });
    let models = snapshot.models.iter().map(|model| {
        let what = format!("{} features", model.definition.features.len());
        [
            "model".to_owned(),
            format!("{}@{}", model.definition.name, model.version),
            what,
            String::new(),
        ]
    });
    print::table(["noun", "name", "what", "state"], sources.chain(views).chain(models))
}

/// `ondol show`.
pub(crate) async fn show(args: &ShowArgs, output: Output) -> Result<()> {
    let history = args.connect.feature_store()?.history(&args.name).await?;
    print::result(output, &history, describe_history)
}

fn describe_history(history: &DefinitionHistory) -> String {
    let mut text = String::new();
    for version in &history.versions {
        let mark = if version.in_force { "  (in force)" } else { "" };
        text.push_str(&format!(
            "{} {}@{}, applied {}{mark}\n",
            history.noun, history.name, version.version, version.applied_at
        ));
        for line in describe_definition(&history.noun, &version.definition) {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text
}

/// What a definition holds, a line each; nothing of one that a newer server wrote in another form.
fn describe_definition(noun: &str, definition: &serde_json::Value) -> Vec<String> {
    let line = |name: &str, data_type: DataType, what: &str| format!("{name:24} {:15} {what}", data_type.name());
    let of_features = |features: &[FeatureDefinition], prefix: &str| -> Vec<String> {
        let name = |feature: &FeatureDefinition| format!("{prefix}{}", feature.name);
        features
            .iter()
            .map(|feature| line(&name(feature), feature.data_type, &feature.expression))
            .collect()
    };
    match noun {
        "source" => read::<SourceDefinition>(definition).map_or_else(Vec::new, |source| {
            let origin = describe_origin(&source.origin);
            let columns = source.schema.iter().map(|column| {
                let place = place_of(&source.origin, &column.name);
                line(&column.name, column.data_type, &place).trim_end().to_owned()
            });
            std::iter::once(origin).chain(columns).collect()
        }),
        "model" => read::<ModelDefinition>(definition).map_or_else(Vec::new, |model| {
            let inputs = model
                .inputs
                .iter()
                .map(|input| line(&input.name, input.data_type, "input"));
            let features = model
                .features
                .iter()
                .map(|feature| line(&feature.name, feature.data_type, "vector"));
            inputs
                .chain(features)
                .chain(of_features(&model.derived, "derived."))
                .collect()
        }),
        _ => definition
            .get("features")
            .and_then(read::<Vec<FeatureDefinition>>)
            .map_or_else(Vec::new, |features| of_features(&features, "")),
    }
}

fn describe_origin(origin: &SourceOrigin) -> String {
    match origin {
        SourceOrigin::Stream { topic, format, shape } => {
            let format = (format.name() != "json").then(|| format.name().to_owned());
            let options = shape.options().into_iter().map(|(key, value)| format!("{key} {value}"));
            let said: Vec<String> = format.into_iter().chain(options).collect();
            if said.is_empty() {
                format!("topic {topic}")
            } else {
                format!("topic {topic} ({})", said.join(", "))
            }
        }
        SourceOrigin::Table { location, .. } => location.clone(),
    }
}

/// Where a column is in a record; nothing for the field of its own name.
fn place_of(origin: &SourceOrigin, column: &str) -> String {
    match origin {
        SourceOrigin::Stream { shape, .. } => shape.columns.get(column).map_or(String::new(), ToString::to_string),
        SourceOrigin::Table { .. } => String::new(),
    }
}

fn read<T: serde::de::DeserializeOwned>(definition: &serde_json::Value) -> Option<T> {
    serde_json::from_value(definition.clone()).ok()
}
