//! The reference page, docs/definitions.md: its examples compile, its errors are shown as they are.

use super::*;

/// The examples of the reference are definitions: each fenced `toml` block compiles by itself.
#[test]
fn the_examples_of_the_reference_compile() {
    let reference = include_str!("../../../../../docs/definitions.md");
    let blocks: Vec<_> = reference
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(blocks.len() > 2, "{}", blocks.len());
    for block in blocks {
        compiled(block);
    }
}

/// And its error examples are what the compiler says: each `text` block after a `toml wrong` block.
#[test]
fn the_errors_of_the_reference_are_shown_as_they_are() {
    let reference = include_str!("../../../../../docs/definitions.md");
    let examples: Vec<_> = reference.split("```toml wrong\n").skip(1).collect();
    assert!(examples.len() > 2, "{}", examples.len());
    for example in examples {
        let (text, rest) = example.split_once("```").unwrap();
        let shown = rest
            .split("```text\n")
            .nth(1)
            .and_then(|shown| shown.split("```").next())
            .unwrap();
        assert_eq!(shown.trim_end(), errors(text).trim_end());
    }
}
