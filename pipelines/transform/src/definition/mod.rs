//! Definition files: TOML in, typed definitions or diagnostics out.
//!
//! `text → tree (every value knows its place) → sources → views → models`. Each step checks against what the one before
//! it yielded, and goes on past errors: one run reports all of them, and none that merely follows from another.
//! The grammar is documented for users in `docs/definitions.md`.

mod aggregate;
mod attachments;
mod column;
mod decisions;
mod default;
mod derived;
mod duration;
mod message;
mod model;
mod name;
mod policy;
mod render;
mod report;
mod source;
mod tree;
mod typed;
mod view;

pub use attachments::{attachments, beside, is_attachment};
pub use decisions::{DECISIONS, OUTCOMES, built_in_sources, decisions_source, is_built_in, outcomes_source};
pub use render::render;

use ondol_vocabulary::{DefinitionFiles, Diagnostic, ModelDefinition, SourceDefinition, ViewDefinition};
use report::{Place, Reports, choose};
use std::collections::HashMap;
use toml::Spanned;
use toml::de::DeTable;
use tree::{Section, Word};

/// Everything a set of definition files defines, type-checked, in the files' order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Definitions {
    /// Sources.
    pub sources: Vec<SourceDefinition>,
    /// Views.
    pub views: Vec<ViewDefinition>,
    /// Models.
    pub models: Vec<ModelDefinition>,
}

/// Parses and type-checks definition files. All errors found are returned, in the files' order.
///
/// Sources of one file may be used by views of another. The built-in sources ([`DECISIONS`], [`OUTCOMES`]) are known, and are not among
/// the sources returned. Equal files give equal definitions.
pub fn compile(files: &DefinitionFiles) -> Result<Definitions, Vec<Diagnostic>> {
    let mut reports = Reports::new(files);
    let documents: Vec<_> = files
        .files
        .iter()
        .enumerate()
        .map(|(file, text)| {
            let definitions = if is_attachment(&text.path) { "" } else { &text.text };
            parse(file, definitions, &mut reports)
        })
        .collect();
    // A tree with holes would give errors that only follow from the holes.
    if !reports.is_empty() {
        return Err(reports.into_diagnostics());
    }
    let mut blocks = Blocks::default();
    for (file, (text, document)) in files.files.iter().zip(&documents).enumerate() {
        blocks.collect(&Section::root(file, &text.text, document.get_ref()), &mut reports);
    }
    let definitions = definitions(&blocks, &mut reports);
    if reports.is_empty() {
        Ok(definitions)
    } else {
        Err(reports.into_diagnostics())
    }
}

fn parse<'t>(file: usize, text: &'t str, reports: &mut Reports<'_>) -> Spanned<DeTable<'t>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        reports.add(&Place { file, span }, "syntax", error.message(), None);
    }
    document
}

/// The named tables of all files, by noun.
#[derive(Default)]
struct Blocks<'a> {
    sources: Vec<(Word<'a>, Section<'a>)>,
    views: Vec<(Word<'a>, Section<'a>)>,
    models: Vec<(Word<'a>, Section<'a>)>,
    /// Where each was first defined.
    seen: HashMap<(&'static str, &'a str), Place>,
}

const NOUNS: [&str; 3] = ["source", "view", "model"];

impl<'a> Blocks<'a> {
    fn collect(&mut self, root: &Section<'a>, reports: &mut Reports<'_>) {
        for (word, node) in root.entries() {
            let Some(noun) = NOUNS.into_iter().find(|noun| *noun == word.text) else {
                let help = choose(
                    word.text,
                    "a file has [source.NAME], [view.NAME] and [model.NAME]",
                    NOUNS.into_iter(),
                );
                reports.add(&word.place, "unknown-key", format!("there is no `{}`", word.text), help);
                continue;
            };
            let Some(named) = node.section(word, noun, reports) else {
                continue;
            };
            for (name, node) in named.entries() {
                let title = format!("{noun}.{}", name.text);
                let Some(section) = node.section(name, &title, reports) else {
                    continue;
                };
                if let Some(first) = self.seen.get(&(noun, name.text)) {
                    let message = format!("`{title}` is defined twice: first in {}", reports.line_of(first));
                    reports.add(
                        &name.place,
                        "duplicate-name",
                        message,
                        Some("rename one of them".to_owned()),
                    );
                    continue;
                }
                self.seen.insert((noun, name.text), name.place.clone());
                match noun {
                    "source" => self.sources.push((name.clone(), section)),
                    "view" => self.views.push((name.clone(), section)),
                    _ => self.models.push((name.clone(), section)),
                }
            }
        }
    }
}

fn definitions(blocks: &Blocks<'_>, reports: &mut Reports<'_>) -> Definitions {
    let (mut sources, mut broken_sources) = (Vec::new(), Vec::new());
    for (name, section) in &blocks.sources {
        match source::compile(name, section, reports) {
            Some(source) => sources.push(source),
            None => broken_sources.push(name.text),
        }
    }
    sources.extend(built_in_sources());
    let (mut views, mut broken_views) = (Vec::new(), Vec::new());
    for (name, section) in &blocks.views {
        match view::compile(name, section, &sources, &broken_sources, reports) {
            Some(view) => views.push(view),
            None => broken_views.push(name.text),
        }
    }
    sources.retain(|source| !is_built_in(&source.name));
    let models = blocks.models.iter();
    let models = models
        .filter_map(|(name, section)| model::compile(name, section, &views, &broken_views, reports))
        .collect();
    Definitions {
        sources,
        views: views.into_iter().map(|view| view.definition).collect(),
        models,
    }
}

#[cfg(test)]
mod tests;
