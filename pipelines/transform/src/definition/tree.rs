//! A definition file as a tree whose every key and value knows its place.

use super::report::{Place, Reports, choose};
use ondol_vocabulary::Value;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// A value and where it stands.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    file: usize,
    /// The file's whole text.
    text: &'a str,
    start: usize,
    end: usize,
    value: &'a DeValue<'a>,
}

/// A key and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    pub(super) place: Place,
}

/// A string value and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text<'a> {
    pub(super) value: &'a str,
    file: usize,
    start: usize,
    end: usize,
    /// Where the value's first byte stands, when the file spells it without escapes.
    base: Option<usize>,
}

/// A table's entries in the order of the file.
pub(super) struct Section<'a> {
    /// What messages call it: `source.transactions`.
    pub(super) title: String,
    /// Where its name stands.
    pub(super) place: Place,
    entries: Vec<(Word<'a>, Node<'a>)>,
}

impl<'a> Section<'a> {
    /// A whole file.
    pub(super) fn root(file: usize, text: &'a str, table: &'a DeTable<'a>) -> Self {
        Self {
            title: "file".to_owned(),
            place: Place { file, span: 0..0 },
            entries: entries(file, text, table),
        }
    }

    pub(super) fn entries(&self) -> &[(Word<'a>, Node<'a>)] {
        &self.entries
    }

    pub(super) fn get(&self, key: &str) -> Option<&(Word<'a>, Node<'a>)> {
        self.entries.iter().find(|(word, _)| word.text == key)
    }

    /// The string under `key`; another type is reported.
    pub(super) fn text(&self, key: &str, reports: &mut Reports<'_>) -> Option<Text<'a>> {
        let (_, node) = self.get(key)?;
        node.string(&format!("`{key}`"), reports)
    }

    /// The value under `key`; its absence is reported with `example`.
    pub(super) fn require(&self, key: &str, example: &str, reports: &mut Reports<'_>) -> Option<Node<'a>> {
        if let Some((_, node)) = self.get(key) {
            return Some(*node);
        }
        let message = format!("`{}` has no `{key}`", self.title);
        reports.add(&self.place, "missing-key", message, Some(format!("add {example}")));
        None
    }

    /// Reports every key that is not `known`.
    pub(super) fn only(&self, known: &[&str], reports: &mut Reports<'_>) {
        for (word, _) in &self.entries {
            if !known.contains(&word.text) {
                let message = format!("`{}` has no key `{}`", self.title, word.text);
                reports.add(
                    &word.place,
                    "unknown-key",
                    message,
                    choose(word.text, "known keys", known.iter().copied()),
                );
            }
        }
    }
}

impl<'a> Node<'a> {
    pub(super) fn place(&self) -> Place {
        Place {
            file: self.file,
            span: self.start..self.end,
        }
    }

    /// The string; another type is reported. `what` names the value in messages.
    pub(super) fn string(&self, what: &str, reports: &mut Reports<'_>) -> Option<Text<'a>> {
        match self.as_string() {
            Some(text) => Some(text),
            None => {
                self.wrong_type(what, "a string", reports);
                None
            }
        }
    }

    pub(super) fn as_string(&self) -> Option<Text<'a>> {
        let DeValue::String(value) = self.value else {
            return None;
        };
        let base = self
            .text
            .get(self.start..self.end)
            .and_then(|raw| plain_start(raw, value));
        Some(Text {
            value,
            file: self.file,
            start: self.start,
            end: self.end,
            base: base.map(|base| self.start + base),
        })
    }

    /// The truth value; `None` for another type.
    pub(super) fn as_bool(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(truth) => Some(*truth),
            _ => None,
        }
    }

    /// A scalar, as it is written; an offset date-time is its text. `None` for anything else.
    pub(super) fn as_value(&self) -> Option<Value> {
        let number = |written: &str| written.replace('_', "");
        Some(match self.value {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Boolean(truth) => Value::Bool(*truth),
            DeValue::Integer(written) => {
                Value::I64(i64::from_str_radix(&number(written.as_str()), written.radix()).ok()?)
            }
            DeValue::Float(written) => Value::F64(number(written.as_str()).parse().ok()?),
            DeValue::Datetime(moment) => Value::String(moment.to_string()),
            DeValue::Array(_) | DeValue::Table(_) => return None,
        })
    }

    /// What kind of value it is, with its article.
    pub(super) fn kind(&self) -> String {
        let found = self.value.type_str();
        let article = if found.starts_with(['a', 'i', 'o']) { "an" } else { "a" };
        format!("{article} {found}")
    }

    /// The elements of an array; `None` for another type.
    pub(super) fn as_array(&self) -> Option<Vec<Self>> {
        let DeValue::Array(array) = self.value else { return None };
        Some(
            array
                .iter()
                .map(|element| self.child(element.span(), element.get_ref()))
                .collect(),
        )
    }

    /// The table's entries; `None` for another type. `title` and `place` are those of its name.
    pub(super) fn as_section(&self, title: String, place: Place) -> Option<Section<'a>> {
        let DeValue::Table(table) = self.value else { return None };
        Some(Section {
            title,
            place,
            entries: entries(self.file, self.text, table),
        })
    }

    /// The table's entries; another type is reported.
    pub(super) fn section(&self, name: &Word<'a>, title: &str, reports: &mut Reports<'_>) -> Option<Section<'a>> {
        let section = self.as_section(title.to_owned(), name.place.clone());
        if section.is_none() {
            self.wrong_type(&format!("`{title}`"), "a table", reports);
        }
        section
    }

    pub(super) fn wrong_type(&self, what: &str, expected: &str, reports: &mut Reports<'_>) {
        let message = format!("{what} is {}, but must be {expected}", self.kind());
        reports.add(&self.place(), "wrong-type", message, None);
    }

    fn child(&self, span: Range<usize>, value: &'a DeValue<'a>) -> Self {
        Self {
            start: span.start,
            end: span.end,
            value,
            ..*self
        }
    }
}

impl Text<'_> {
    /// The whole value, quotes included.
    pub(super) fn place(&self) -> Place {
        Place {
            file: self.file,
            span: self.start..self.end,
        }
    }

    /// A part of the value; the whole where the file spells it with escapes.
    pub(super) fn part(&self, part: Range<usize>) -> Place {
        match self.base {
            Some(base) => Place {
                file: self.file,
                span: base + part.start..base + part.end,
            },
            None => self.place(),
        }
    }
}

/// TOML keeps no order of its own: the order of the file is that of the spans.
fn entries<'a>(file: usize, text: &'a str, table: &'a DeTable<'a>) -> Vec<(Word<'a>, Node<'a>)> {
    let mut entries: Vec<_> = table
        .iter()
        .map(|(key, value)| {
            let word = Word {
                text: key.get_ref().as_ref(),
                place: Place { file, span: key.span() },
            };
            let span = value.span();
            (
                word,
                Node {
                    file,
                    text,
                    start: span.start,
                    end: span.end,
                    value: value.get_ref(),
                },
            )
        })
        .collect();
    entries.sort_by_key(|(word, _)| word.place.span.start);
    entries
}

/// Where `value` starts in its quoted spelling, if that has no escapes.
fn plain_start(raw: &str, value: &str) -> Option<usize> {
    let quotes = if raw.starts_with("\"\"\"") || raw.starts_with("'''") {
        3
    } else {
        1
    };
    let inner = raw.get(quotes..raw.len().checked_sub(quotes)?)?;
    // A newline right after the opening quotes of a multi-line string is not part of it.
    let newline = match quotes {
        3 if inner.starts_with("\r\n") => 2,
        3 if inner.starts_with('\n') => 1,
        _ => 0,
    };
    (inner.get(newline..)? == value).then_some(quotes + newline)
}
