//! Where an error stands in the files, and the list of all errors found.

use ondol_vocabulary::{DefinitionFiles, Diagnostic};
use std::ops::Range;

/// A stretch of text in one of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) span: Range<usize>,
}

/// The errors found so far.
pub(super) struct Reports<'a> {
    files: &'a DefinitionFiles,
    found: Vec<(usize, Diagnostic)>,
}

impl<'a> Reports<'a> {
    pub(super) const fn new(files: &'a DefinitionFiles) -> Self {
        Self {
            files,
            found: Vec::new(),
        }
    }

    /// Adds an error. `code` is stable; `help` says what to do.
    pub(super) fn add(&mut self, place: &Place, code: &str, message: impl Into<String>, help: Option<String>) {
        let Some(file) = self.files.files.get(place.file) else {
            return;
        };
        let start = floor_char(&file.text, place.span.start);
        let end = floor_char(&file.text, place.span.end).max(start);
        let (line, column) = line_and_column(&file.text, start);
        let diagnostic = Diagnostic {
            code: code.to_owned(),
            file: file.path.clone(),
            line,
            column,
            start: small(start),
            end: small(end),
            message: message.into(),
            help,
        };
        self.found.push((place.file, diagnostic));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All errors, in the order of the files and of their text.
    pub(super) fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        self.found
            .sort_by_key(|(file, diagnostic)| (*file, diagnostic.start, diagnostic.end));
        self.found.into_iter().map(|(_, diagnostic)| diagnostic).collect()
    }

    /// The text of the file `name` beside the one that `place` is in, when it was sent along.
    pub(super) fn beside(&self, place: &Place, name: &str) -> Option<String> {
        let path = super::attachments::beside(&self.files.files.get(place.file)?.path, name);
        let found = self.files.files.iter().find(|file| file.path == path)?;
        Some(found.text.clone())
    }

    /// `path:line` of a place, for messages about another place.
    pub(super) fn line_of(&self, place: &Place) -> String {
        match self.files.files.get(place.file) {
            Some(file) => format!("{}:{}", file.path, line_and_column(&file.text, place.span.start).0),
            None => "another file".to_owned(),
        }
    }
}

/// "did you mean `x`?"
pub(super) fn did_you_mean(name: Option<&str>) -> Option<String> {
    name.map(|name| format!("did you mean `{name}`?"))
}

/// "did you mean `x`?", or what there is to choose from.
pub(super) fn choose<'c>(name: &str, what: &str, candidates: impl Iterator<Item = &'c str> + Clone) -> Option<String> {
    if let Some(nearest) = crate::nearest::nearest(name, candidates.clone()) {
        return did_you_mean(Some(nearest));
    }
    let all: Vec<_> = candidates.collect();
    if all.is_empty() {
        None
    } else {
        Some(format!("{what}: {}", all.join(", ")))
    }
}

fn floor_char(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

fn line_and_column(text: &str, offset: usize) -> (u32, u32) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(start..).map_or(0, |line| line.chars().count()) + 1;
    (small(line), small(column))
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
