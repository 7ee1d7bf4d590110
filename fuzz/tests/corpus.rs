//! What fuzzing has found worth keeping, fed to its targets again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use ondol_fuzz::{TARGETS, seeds, target};
use std::path::Path;

#[test]
fn every_target_has_seeds_and_takes_them() {
    let seeds = seeds::all();
    for (name, target) in TARGETS {
        let (_, seeds) = seeds.iter().find(|(known, _)| *known == name).unwrap();
        assert!(!seeds.is_empty(), "{name}");
        target(&[]);
        for seed in seeds {
            target(seed);
            for length in [1, seed.len() / 2, seed.len().saturating_sub(1)] {
                target(&seed[..length.min(seed.len())]);
            }
        }
    }
}

#[test]
fn the_kept_corpus_is_taken() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for folder in std::fs::read_dir(corpus).unwrap() {
        let folder = folder.unwrap();
        let name = folder.file_name().into_string().unwrap();
        let target = target(&name).unwrap_or_else(|| panic!("corpus/{name} belongs to no target"));
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap().path();
            let input = std::fs::read(&file).unwrap();
            // The name of the input that panics is in the test's output.
            println!("{}", file.display());
            target(&input);
        }
    }
}
