//! One version of what is heavy, or what must be the same type everywhere, in `Cargo.lock`.

use crate::violation::Violation;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::Path;

const LOCK: &str = "Cargo.lock";

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
}

pub(crate) fn check(root: &Path) -> Result<Vec<Violation>> {
    let text = std::fs::read_to_string(root.join(LOCK)).context("can't read Cargo.lock")?;
    violations_of(&text)
}

fn violations_of(text: &str) -> Result<Vec<Violation>> {
    let lock: Lock = toml::from_str(text).context("Cargo.lock is not TOML")?;
    let versions = |of: &dyn Fn(&str) -> bool| -> BTreeSet<&str> {
        lock.package
            .iter()
            .filter(|locked| of(&locked.name))
            .map(|locked| locked.version.as_str())
            .collect()
    };
    // The arrow crates exchange types: they only fit each other at one version. `parquet` is released with them.
    let families: [(&str, BTreeSet<&str>); 3] = [
        (
            "arrow, arrow-* and parquet",
            versions(&|name| is_arrow(name) || name == "parquet"),
        ),
        ("object_store", versions(&|name| name == "object_store")),
        ("datafusion-*", versions(&|name| name.starts_with("datafusion"))),
    ];
    let several = families.into_iter().filter(|(_, versions)| versions.len() > 1);
    Ok(several
        .map(|(family, versions)| {
            let what = format!(
                "{family} in versions {}",
                versions.into_iter().collect::<Vec<_>>().join(", ")
            );
            let remedy = "find who wants the odd one with `cargo tree -d`, and pin one that all accept";
            Violation::new("one-version", LOCK, what, remedy)
        })
        .collect())
}

fn is_arrow(name: &str) -> bool {
    name == "arrow" || name.starts_with("arrow-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(packages: &[(&str, &str)], expected: usize) {
        let text: String = packages
            .iter()
            .map(|(name, version)| format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n"))
            .collect();
        assert_eq!(violations_of(&text).unwrap().len(), expected, "{packages:?}");
    }

    #[test]
    fn a_second_arrow_is_found() {
        check(&[("arrow", "59.3.0"), ("arrow-array", "59.3.0"), ("serde", "1.0.0")], 0);
        check(&[("arrow", "59.3.0"), ("arrow-array", "58.0.0")], 1);
        check(&[("arrow", "59.3.0"), ("parquet", "60.0.0")], 1);
        check(&[("object_store", "0.13.0"), ("object_store", "0.12.0")], 1);
    }
}
