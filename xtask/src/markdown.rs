//! Documents lead somewhere, and the two readmes tell the same story.

use crate::files::{find, relative};
use crate::violation::Violation;
use anyhow::{Context, Result};
use std::path::Path;

const README: &str = "README.md";
const KOREAN_README: &str = "README.ko.md";

/// A markdown text's outline: what must agree between translations.
#[derive(Debug, PartialEq, Eq)]
struct Outline {
    headings: usize,
    code_blocks: usize,
}

pub(crate) fn check(root: &Path) -> Result<Vec<Violation>> {
    let mut violations = readmes(root)?;
    let mut documents = if root.join("docs").is_dir() {
        find(&root.join("docs"), "md")?
    } else {
        Vec::new()
    };
    for name in [README, KOREAN_README, "ARCHITECTURE.md", "CHANGELOG.md"] {
        documents.extend(root.join(name).is_file().then(|| root.join(name)));
    }
    for path in documents {
        let text = read(&path)?;
        let folder = path.parent().unwrap_or(root);
        for link in links(&text) {
            let target = link.split(['#', '?', ' ']).next().unwrap_or_default();
            let is_relative = !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:");
            let from = if target.starts_with('/') { root } else { folder };
            if is_relative && !from.join(target.trim_start_matches('/')).exists() {
                violations.push(Violation::new(
                    "broken-link",
                    relative(root, &path),
                    format!("links to `{target}`, which does not exist"),
                    "correct the link, or write what it points to",
                ));
            }
        }
    }
    Ok(violations)
}

fn readmes(root: &Path) -> Result<Vec<Violation>> {
    if !root.join(README).is_file() {
        return Ok(Vec::new());
    }
    if !root.join(KOREAN_README).is_file() {
        let what = "is absent, though README.md exists";
        return Ok(vec![Violation::new(
            "readmes",
            KOREAN_README,
            what,
            "translate README.md",
        )]);
    }
    let (english, korean) = (
        outline(&read(&root.join(README))?),
        outline(&read(&root.join(KOREAN_README))?),
    );
    if english == korean {
        return Ok(Vec::new());
    }
    let what = format!(
        "has {} headings and {} code blocks, README.md has {} and {}",
        korean.headings, korean.code_blocks, english.headings, english.code_blocks
    );
    Ok(vec![Violation::new(
        "readmes",
        KOREAN_README,
        what,
        "bring the translation up to date",
    )])
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))
}

fn outline(text: &str) -> Outline {
    let mut outline = Outline {
        headings: 0,
        code_blocks: 0,
    };
    for (line, in_code) in lines(text) {
        outline.headings += usize::from(!in_code && is_heading(line));
        outline.code_blocks += usize::from(in_code && is_fence(line));
    }
    outline
}

fn is_heading(line: &str) -> bool {
    line.trim_start_matches('#').starts_with(' ') && line.starts_with('#')
}

fn is_fence(line: &str) -> bool {
    line.trim_start().starts_with("```")
}

/// The lines of `text`, with whether each belongs to a code block. A block's opening fence does, its closing one not.
fn lines(text: &str) -> impl Iterator<Item = (&str, bool)> {
    text.lines().scan(false, |in_code, line| {
        if is_fence(line) {
            *in_code = !*in_code;
        }
        Some((line, *in_code))
    })
}

/// The targets of `[text](target)` outside code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (line, in_code) in lines(text) {
        if in_code {
            continue;
        }
        // Between single backquotes stands code too.
        for prose in line.split('`').step_by(2) {
            found.extend(targets(prose));
        }
        // A link whose text is code is cut by the split above: its target stands at the start of a later piece.
        found.extend(
            line.split("`](")
                .skip(1)
                .filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())),
        );
    }
    found
}

fn targets(prose: &str) -> impl Iterator<Item = String> {
    prose.split("](").skip(1).filter_map(|rest| {
        let target = rest.split_once(')')?.0;
        Some(target.split_whitespace().next()?.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_code_are_not_links() {
        let text =
            "see [a](docs/a.md) and [`b`](b.md#part \"title\")\n```\n[c](c.md)\n```\n`[d](d.md)` [e](https://e)\n";
        let found = links(text);
        let has = |target: &str| found.iter().any(|link| link.split(' ').next() == Some(target));
        assert!(has("docs/a.md") && has("b.md#part") && has("https://e"), "{found:?}");
        assert!(!has("c.md") && !has("d.md"), "{found:?}");
    }

    #[test]
    fn an_outline_counts_headings_and_code_blocks() {
        let text = "# One\n\n```sh\n# a comment\n```\n\n## Two\n#hashtag\n```\nx\n```\n";
        assert_eq!(
            outline(text),
            Outline {
                headings: 2,
                code_blocks: 2
            }
        );
    }
}
