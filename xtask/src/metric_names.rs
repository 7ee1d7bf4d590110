//! docs/metrics.md tells of every metric of the code, and of no other.

use crate::files::{find, relative};
use crate::violation::Violation;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const PAGE: &str = "docs/metrics.md";
/// What a metric's name begins with.
const PREFIX: &str = "ondol_";
/// What stands before a metric's name in code: a macro, or a constant that one is given.
const BEFORE: [&str; 4] = ["counter!(", "gauge!(", "histogram!(", ": &str ="];

pub(crate) fn check(root: &Path) -> Result<Vec<Violation>> {
    let mut used: BTreeMap<String, String> = BTreeMap::new();
    for path in find(root, "rs")? {
        let place = relative(root, &path);
        let is_ours = place.starts_with("xtask") || place.split('/').any(|part| part == "tests" || part == "benches");
        if is_ours {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        for name in names_in_code(&text) {
            used.entry(name).or_insert_with(|| place.clone());
        }
    }
    let page = std::fs::read_to_string(root.join(PAGE)).unwrap_or_default();
    Ok(compare(&used, &names_in_table(&page)))
}

fn compare(used: &BTreeMap<String, String>, told: &BTreeSet<String>) -> Vec<Violation> {
    let missing = used
        .iter()
        .filter(|(name, _)| !told.contains(*name))
        .map(|(name, place)| {
            let what = format!("counts `{name}`, of which {PAGE} does not tell");
            Violation::new("metrics", place.clone(), what, format!("add a line for it to {PAGE}"))
        });
    let gone = told.iter().filter(|name| !used.contains_key(*name)).map(|name| {
        let what = format!("tells of `{name}`, which the code does not count");
        Violation::new("metrics", PAGE, what, "remove the line, or correct the name")
    });
    missing.chain(gone).collect()
}

/// Names of metrics that `text`, without its tests, uses.
fn names_in_code(text: &str) -> BTreeSet<String> {
    let code = text.split("\n#[cfg(test)]").next().unwrap_or_default();
    let mut names = BTreeSet::new();
    let quoted = format!("\"{PREFIX}");
    for (at, _) in code.match_indices(&quoted) {
        let before = code.get(..at).unwrap_or_default().trim_end();
        let rest = code.get(at + 1..).unwrap_or_default();
        let name = rest.split('"').next().unwrap_or_default();
        if BEFORE.iter().any(|start| before.ends_with(start)) && is_name(name) {
            names.insert(name.to_owned());
        }
    }
    names
}

/// Names that stand first in a row of a table.
fn names_in_table(page: &str) -> BTreeSet<String> {
    let first = |line: &str| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned());
    page.lines().filter_map(first).filter(|name| is_name(name)).collect()
}

fn is_name(text: &str) -> bool {
    text.starts_with(PREFIX)
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_macros_and_constants_and_not_in_tests() {
        let code = "metrics::counter!(\"ondol_a_total\");\nmetrics::gauge!(\n    \"ondol_b\",\n \"x\" => y)\n\
                    const C: &str = \"ondol_c\"; let url = \"ondol_database\";\n#[cfg(test)]\nmod tests { counter!(\"ondol_d\") }";
        let names: Vec<String> = names_in_code(code).into_iter().collect();
        assert_eq!(names, ["ondol_a_total", "ondol_b", "ondol_c"]);
    }

    #[test]
    fn a_metric_without_a_line_and_a_line_without_a_metric_are_violations() {
        let told = names_in_table("| metric |\n| `ondol_a` | counter |\n| `ondol_b` | gauge |\n| `listen` |\n");
        let used = [("ondol_a", "x.rs"), ("ondol_c", "y.rs")].map(|(name, place)| (name.to_owned(), place.to_owned()));
        let violations = compare(&used.into(), &told);
        let places: Vec<&str> = violations.iter().map(|violation| violation.place.as_str()).collect();
        assert_eq!(places, ["y.rs", PAGE]);
    }
}
