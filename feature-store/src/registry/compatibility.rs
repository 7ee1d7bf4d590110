//! Changes that can't be made in one step, because something that stays depends on what would go.
//!
//! Two things stay: the archived log, whose columns keep their types for ever, and view versions that go on serving
//! until their successors are provisioned.

use super::catalog::{Catalog, Definition, Noun, Record};
use super::change::ChangeSet;
use ondol_vocabulary::{DefinitionFiles, Diagnostic, FeatureKind, SourceDefinition, ViewDefinition, ViewState};

/// A change that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    code: &'static str,
    /// The source it is about, and the column where there is one: where the diagnostic points.
    source: String,
    column: Option<String>,
    message: String,
    help: String,
}

/// Everything in `set` that can't be done.
pub(super) fn check(catalog: &Catalog, set: &ChangeSet) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for record in &set.insert {
        if let Definition::Source(source) = &record.definition {
            refusals.extend(types(catalog, source));
            refusals.extend(deletions(catalog, source));
            refusals.extend(spellings(catalog, source));
            refusals.extend(columns_in_use(catalog, set, source));
        }
    }
    refusals.extend(sources_in_use(catalog, set));
    refusals
}

/// A column of a stream keeps the type it has in the log, under whatever version of the source it was written.
fn types(catalog: &Catalog, source: &SourceDefinition) -> Vec<Refusal> {
    if !source.is_stream() {
        return Vec::new();
    }
    let archived = |name: &str| {
        let versions = catalog.versions(Noun::Source, &source.name);
        versions
            .filter_map(|record| as_source(record))
            .filter(|old| old.is_stream())
            .find_map(|old| old.field(name))
    };
    let changed = source.schema.iter().filter_map(|field| {
        let old = archived(&field.name).filter(|old| old.data_type != field.data_type)?;
        Some(Refusal {
            code: "incompatible-type",
            source: source.name.clone(),
            column: Some(field.name.clone()),
            message: format!(
                "column `{}` of source `{}` can't change from {} to {}: the event log holds it as {}",
                field.name, source.name, old.data_type, field.data_type, old.data_type
            ),
            help: "give the new column another name".to_owned(),
        })
    });
    changed.collect()
}

/// Rows of a stream can be deleted or they can't: online rows keep the mark of it from their first event on, and the log
/// has it of every event. Everything else of a message's shape may change: it says how events are read from now on.
fn deletions(catalog: &Catalog, source: &SourceDefinition) -> Option<Refusal> {
    let mut old = catalog
        .versions(Noun::Source, &source.name)
        .filter_map(as_source)
        .filter(|old| old.is_stream() && source.is_stream());
    let had = old.find(|old| old.origin.has_deletions() != source.origin.has_deletions())?;
    let message = if had.origin.has_deletions() {
        format!("rows of source `{}` could be deleted, and no longer can", source.name)
    } else {
        format!("rows of source `{}` could not be deleted until now", source.name)
    };
    Some(Refusal {
        code: "incompatible-deletions",
        source: source.name.clone(),
        column: None,
        message,
        help: "define the source under another name, which reads the topic from its beginning".to_owned(),
    })
}

/// Delta tells columns apart without regard to case.
fn spellings(catalog: &Catalog, source: &SourceDefinition) -> Vec<Refusal> {
    if !source.is_stream() {
        return Vec::new();
    }
    let archived: Vec<&str> = catalog
        .versions(Noun::Source, &source.name)
        .filter_map(as_source)
        .filter(|old| old.is_stream())
        .chain([source])
        .flat_map(|version| version.schema.iter().map(|field| field.name.as_str()))
        .collect();
    let clashing = source.schema.iter().filter_map(|field| {
        let other = archived
            .iter()
            .find(|name| **name != field.name && name.eq_ignore_ascii_case(&field.name))?;
        Some(Refusal {
            code: "column-differs-by-case",
            source: source.name.clone(),
            column: Some(field.name.clone()),
            message: format!(
                "columns `{}` and `{other}` of source `{}` differ only by case, which the event log can't tell apart",
                field.name, source.name
            ),
            help: "give one of them another name".to_owned(),
        })
    });
    clashing.collect()
}

/// Versions of views that go on serving after `set`.
fn surviving<'a>(catalog: &'a Catalog, set: &'a ChangeSet) -> impl Iterator<Item = (&'a Record, &'a ViewDefinition)> {
    let goes = |record: &Record| {
        set.retire
            .iter()
            .any(|(noun, name, version)| *noun == Noun::View && name == record.name() && *version == record.version)
    };
    catalog
        .living()
        .filter(move |record| !goes(record))
        .filter_map(|record| match &record.definition {
            Definition::View(view) => Some((record, view)),
            Definition::Source(_) | Definition::Model(_) => None,
        })
}

fn columns_in_use(catalog: &Catalog, set: &ChangeSet, source: &SourceDefinition) -> Vec<Refusal> {
    let Some(before) = catalog.current(Noun::Source, &source.name).and_then(as_source) else {
        return Vec::new();
    };
    let lost = before
        .schema
        .iter()
        .filter(|old| source.field(&old.name).is_none_or(|new| new.data_type != old.data_type));
    let mut refusals = Vec::new();
    for column in lost {
        for (record, view) in surviving(catalog, set).filter(|(_, view)| view.source == source.name) {
            if mentions(view, &column.name) {
                refusals.push(Refusal {
                    code: "column-in-use",
                    source: source.name.clone(),
                    column: Some(column.name.clone()),
                    message: format!(
                        "column `{}` of source `{}` can't go yet: view `{}@{}` uses it and serves until its successor \
                         is provisioned",
                        column.name, source.name, view.name, record.version
                    ),
                    help: "first apply the view without the column, then the source without it".to_owned(),
                });
            }
        }
    }
    refusals
}

fn sources_in_use(catalog: &Catalog, set: &ChangeSet) -> Vec<Refusal> {
    let replaced = |name: &str| {
        set.insert
            .iter()
            .any(|new| new.noun() == Noun::Source && new.name() == name)
    };
    let gone = set
        .retire
        .iter()
        .filter(|(noun, name, _)| *noun == Noun::Source && !replaced(name));
    let mut refusals = Vec::new();
    for (_, source, _) in gone {
        for (record, view) in surviving(catalog, set).filter(|(_, view)| view.source == *source) {
            let doing = if record.state == ViewState::Active {
                "serves"
            } else {
                "is being provisioned"
            };
            refusals.push(Refusal {
                code: "source-in-use",
                source: source.clone(),
                column: None,
                message: format!(
                    "source `{source}` can't go yet: view `{}@{}` {doing} from it",
                    view.name, record.version
                ),
                help: "first apply the view's change and wait until it is active, then remove the source".to_owned(),
            });
        }
    }
    refusals
}

fn as_source(record: &Record) -> Option<&SourceDefinition> {
    match &record.definition {
        Definition::Source(source) => Some(source),
        Definition::View(_) | Definition::Model(_) => None,
    }
}

/// Whether the view's key or any of its expressions names `column`. A word in a string literal counts too: refusing
/// too much costs an extra step, refusing too little would stop a serving view.
fn mentions(view: &ViewDefinition, column: &str) -> bool {
    let expressions = view.features.iter().flat_map(|feature| match &feature.kind {
        FeatureKind::LatestRow { expression } => vec![expression.as_str()],
        FeatureKind::Aggregate { argument, filter, .. } => argument.iter().chain(filter).map(String::as_str).collect(),
    });
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let names = |text: &str| {
        text.split(|c| !is_word(c))
            .any(|word| word.eq_ignore_ascii_case(column))
    };
    view.key.iter().any(|field| field.name == column)
        || expressions
            .chain(view.filter.as_deref())
            .any(|text| names(text) || text.contains(column))
}

/// Refusals as diagnostics that point into the files.
pub(super) fn diagnostics(files: &DefinitionFiles, refusals: &[Refusal]) -> Vec<Diagnostic> {
    refusals.iter().map(|refusal| diagnostic(files, refusal)).collect()
}

fn diagnostic(files: &DefinitionFiles, refusal: &Refusal) -> Diagnostic {
    let header = format!("[source.{}]", refusal.source);
    let found = files
        .files
        .iter()
        .find_map(|file| Some((file, file.text.find(&header)?)));
    let (file, text, start, length) = match found {
        Some((file, start)) => {
            let body = start + header.len();
            let within = file.text.get(body..).unwrap_or_default();
            let end = within.find("\n[").unwrap_or(within.len());
            let column = refusal
                .column
                .as_deref()
                .and_then(|name| Some((body + within.get(..end)?.find(name)?, name.len())));
            let (start, length) = column.unwrap_or((start, header.len()));
            (file.path.clone(), file.text.as_str(), start, length)
        }
        None => (
            files.files.first().map(|file| file.path.clone()).unwrap_or_default(),
            "",
            0,
            0,
        ),
    };
    let before = text.get(..start).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Diagnostic {
        code: refusal.code.to_owned(),
        file,
        line: number(before.matches('\n').count() + 1),
        column: number(before.get(line_start..).unwrap_or_default().chars().count() + 1),
        start: number(start),
        end: number(start + length),
        message: refusal.message.clone(),
        help: Some(refusal.help.clone()),
    }
}
