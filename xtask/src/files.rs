//! A file is about one thing: beyond 500 lines before its tests it is usually two.

use crate::violation::Violation;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The most lines of a Rust file before its `#[cfg(test)]` module. It never rises.
const LIMIT: usize = 500;

/// Folders that hold nothing of ours.
const SKIPPED: [&str; 6] = ["target", "node_modules", ".git", ".venv", ".ondol", ".services"];

pub(crate) fn check(root: &Path) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    for path in find(root, "rs")? {
        // Integration tests are tests from their first line.
        if path.iter().any(|part| part == "tests") {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        if text.starts_with("// @generated") {
            continue;
        }
        let lines = lines_before_tests(&text);
        if lines > LIMIT {
            violations.push(Violation::new(
                "file-length",
                relative(root, &path),
                format!("{lines} lines before its tests, at most {LIMIT} are allowed"),
                "split it by noun: what are its two things?",
            ));
        }
    }
    Ok(violations)
}

fn lines_before_tests(text: &str) -> usize {
    let tests = text.lines().position(|line| line.starts_with("#[cfg(test)]"));
    tests.unwrap_or_else(|| text.lines().count())
}

/// Every file under `folder` with this extension, sorted.
pub(crate) fn find(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| format!("can't list {}", folder.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("can't list {}", folder.display()))?;
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry
                .file_type()
                .with_context(|| format!("can't look at {}", path.display()))?;
            if kind.is_dir() && !SKIPPED.iter().any(|skipped| name == *skipped) {
                open.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// `path` as seen from `root`.
pub(crate) fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_do_not_count() {
        assert_eq!(lines_before_tests("a\nb\n#[cfg(test)]\nmod tests {\n}\n"), 2);
        assert_eq!(lines_before_tests("a\nb\n"), 2);
        // A test-only item inside a function or module is part of the file.
        assert_eq!(lines_before_tests("a\n    #[cfg(test)]\n    b\nc\n"), 4);
    }
}
