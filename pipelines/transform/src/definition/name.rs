//! What names may look like.

use super::report::Reports;
use super::tree::Word;

/// The longest name: names become parts of topic names, file paths and metric labels.
const MAX_CHARS: usize = 64;

/// Checks the name of a source, view, model or feature: `[a-z][a-z0-9_]*`.
pub(super) fn check(noun: &str, word: &Word<'_>, reports: &mut Reports<'_>) -> bool {
    let lower = word.text.to_lowercase();
    let fits = word.text == lower && shape(word.text);
    fits || refuse(
        noun,
        word,
        "use lower-case letters, digits and `_`, beginning with a letter",
        reports,
    )
}

/// Checks the name of a column or input. Columns are named by other systems: any case will do.
pub(super) fn check_column(noun: &str, word: &Word<'_>, reports: &mut Reports<'_>) -> bool {
    shape(word.text)
        || refuse(
            noun,
            word,
            "use letters, digits and `_`, beginning with a letter",
            reports,
        )
}

fn shape(name: &str) -> bool {
    name.len() <= MAX_CHARS
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn refuse(noun: &str, word: &Word<'_>, rule: &str, reports: &mut Reports<'_>) -> bool {
    let name = word.text;
    let help = if name.starts_with('_') {
        "names that begin with `_` are reserved for the platform".to_owned()
    } else if name.len() > MAX_CHARS {
        format!("it has {} characters; {MAX_CHARS} is the most", name.len())
    } else {
        rule.to_owned()
    };
    reports.add(
        &word.place,
        "invalid-name",
        format!("`{name}` can't name a {noun}"),
        Some(help),
    );
    false
}
