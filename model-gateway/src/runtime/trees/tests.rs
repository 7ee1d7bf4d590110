//! Equality with the libraries: the sums of 10,000 rows bit by bit, and the predictions of the first ones.

use super::*;
use crate::artifact::sha256;
use serde::Deserialize;
use std::path::{Path, PathBuf};

const ROWS: usize = 10_000;
const COLUMNS: usize = 6;
const TOLD: usize = 500;

#[derive(Deserialize)]
struct Case {
    name: String,
    file: String,
    raw_sha256: String,
    width: usize,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/trees")
}

fn parse(file: &str) -> Result<TreeModel, String> {
    let bytes = std::fs::read(folder().join(file)).unwrap();
    if file.contains(".lightgbm") {
        lightgbm::parse(std::str::from_utf8(&bytes).unwrap())
    } else {
        xgboost::parse(&bytes)
    }
}

/// The rows of `make_trees.py`.
fn rows(seed: u64) -> Vec<f64> {
    let mut state = seed;
    let cell = |place: usize| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^= word >> 31;
        let (kind, fraction) = (word % 100, (word >> 11) as f64 / (1u64 << 53) as f64);
        match kind {
            0..10 => f64::NAN,
            _ if place % COLUMNS == 5 => (fraction * 15.0).trunc() - 1.0,
            10..15 => 0.0,
            15..17 => (fraction - 0.5) * 1e12,
            _ => (fraction - 0.5) * 8.0,
        }
    };
    (0..ROWS * COLUMNS).map(cell).collect()
}

fn cells_of(case: &Case, model: &TreeModel) -> Vec<f64> {
    let mut cells = rows(2);
    if model.forest.rule == Rule::XgBoost {
        cells.iter_mut().for_each(|cell| *cell = forest::single(*cell));
        if matches!(case.name.as_str(), "boost_categories" | "boost_one_hot") {
            // The library refuses negative categories of a matrix that says its types.
            for cell in cells.iter_mut().skip(5).step_by(COLUMNS).filter(|cell| **cell < 0.0) {
                *cell = f64::NAN;
            }
        }
    }
    cells
}

fn bytes_of(model: &TreeModel, values: &[f64]) -> Vec<u8> {
    let bytes = values.iter().map(|value| match model.forest.rule {
        Rule::LightGbm => value.to_le_bytes().to_vec(),
        Rule::XgBoost => (*value as f32).to_le_bytes().to_vec(),
    });
    bytes.flatten().collect()
}

#[test]
fn every_model_sums_and_predicts_as_its_own_library() {
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(folder().join("cases.json")).unwrap()).unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let model = parse(&case.file).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let cells = cells_of(&case, &model);
        let (mut sums, mut raw) = (Vec::new(), Vec::new());
        for row in cells.chunks_exact(COLUMNS) {
            model.forest.sums(row, &mut sums);
            raw.extend_from_slice(&sums);
        }
        assert_eq!(
            sha256(&bytes_of(&model, &raw)),
            case.raw_sha256,
            "the sums of {}",
            case.name
        );
        let predictions = model.predict(&cells);
        assert_eq!(predictions.len(), ROWS * case.width, "{}", case.name);
        let expected = std::fs::read(folder().join(format!("{}.expected", case.name))).unwrap();
        let (expected, tolerance): (Vec<f64>, f64) = match model.forest.rule {
            // The last digit of an exponential is the C library's.
            Rule::LightGbm => (
                expected
                    .as_chunks()
                    .0
                    .iter()
                    .map(|bytes| f64::from_le_bytes(*bytes))
                    .collect(),
                4.0 * f64::EPSILON,
            ),
            Rule::XgBoost => {
                let singles = expected
                    .as_chunks()
                    .0
                    .iter()
                    .map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
                (singles.collect(), 4.0 * f64::from(f32::EPSILON))
            }
        };
        assert_eq!(expected.len(), TOLD * case.width);
        for (place, (found, expected)) in predictions.iter().zip(expected).enumerate() {
            let difference = (found - expected).abs();
            assert!(
                difference <= tolerance * expected.abs().max(f64::MIN_POSITIVE),
                "{} at {place}: {found} is not {expected}",
                case.name
            );
        }
    }
}

#[test]
fn what_can_not_be_evaluated_equally_is_refused_by_name() {
    let text = std::fs::read_to_string(folder().join("light_binary.lightgbm")).unwrap();
    for (from, to, expected) in [
        ("is_linear=0", "is_linear=1", "linear"),
        ("objective=binary", "objective=telepathy", "`telepathy`"),
        ("max_feature_idx=5", "max_feature_idx=2", "the model has 3"),
        ("left_child=1", "left_child=9999", "a child is node 9999"),
        ("num_leaves=15", "num_leaves=16", "expected 16"),
        ("max_feature_idx=5", "", "`max_feature_idx` is missing"),
    ] {
        assert!(text.contains(from), "{from}");
        let error = lightgbm::parse(&text.replace(from, to)).err().unwrap();
        assert!(error.contains(expected), "{error}");
    }
    let json = std::fs::read_to_string(folder().join("boost_binary.xgboost.json")).unwrap();
    for (from, to, expected) in [
        ("\"binary:logistic\"", "\"survival:cox\"", "`survival:cox`"),
        ("\"name\":\"gbtree\"", "\"name\":\"gblinear\"", "`gblinear`"),
        (
            "\"size_leaf_vector\":\"1\"",
            "\"size_leaf_vector\":\"3\"",
            "several values",
        ),
        ("\"num_feature\":\"6\"", "\"num_feature\":\"x\"", "`num_feature`"),
        ("\"enc\":[]", "\"enc\":[1]", "categories"),
    ] {
        assert!(json.contains(from), "{from}");
        let error = xgboost::parse(json.replace(from, to).as_bytes()).err().unwrap();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused_or_read_and_never_worse() {
    for file in [
        "light_binary.lightgbm",
        "boost_binary.xgboost.json",
        "boost_binary_ubj.xgboost.ubj",
    ] {
        let bytes = std::fs::read(folder().join(file)).unwrap();
        for cut in (0..bytes.len()).step_by(bytes.len() / 97) {
            let part = &bytes[..cut];
            let parsed = match std::str::from_utf8(part) {
                Ok(text) if file.contains(".lightgbm") => lightgbm::parse(text),
                _ => xgboost::parse(part),
            };
            if let Ok(model) = parsed {
                model.predict(&[0.0; COLUMNS]);
            }
        }
    }
}
