//! What is asked and what must be answered: cards with a few payments each, and models that add up what they are given.
//!
//! Everything is a multiple of a quarter below a hundred thousand, so every sum is exact in the model's floats, and the
//! oracle can ask for equality. Versions of a model differ by a constant, so that an answer shows who gave it.

use bytes::Bytes;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::{Prediction, Trouble};
use ondol_vocabulary::{EventTime, FeatureStatus, Value};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// How many cards have payments.
pub(crate) const CARDS: usize = 12;

/// What stands for a spend and for a last amount where there is none, as [`DEFINITIONS`] declares.
const DEFAULTS: f64 = 2.5 + 0.5;

/// The definitions in force.
pub(crate) const DEFINITIONS: &str = r#"
[source.payments]
kafka  = "payments"
time   = "ts"
schema = { card_id = "string", amount = "f64", ts = "timestamp" }

[view.card]
from = "payments"
key  = "card_id"
features.n     = "count() over 24h"
features.spend = { expr = "sum(amount) over 24h", default = 2.5 }
features.last  = { expr = "last(amount)", default = 0.5 }

[model.steady]
inputs   = { card_id = "string", amount = "f64" }
features = ["card.*", "amount"]

[model.soft]
inputs   = { card_id = "string", amount = "f64" }
features = ["card.*", "amount"]
policy   = { unavailable = "serve", lookup = "300ms" }

[model.spare]
inputs   = { card_id = "string", amount = "f64" }
features = ["card.*", "amount"]
policy   = { unavailable = "default", lookup = "300ms" }

[model.plain]
inputs   = { amount = "f64" }
features = ["amount", "derived.half"]
derived.half = "amount / 2"

[model.strict]
inputs   = { amount = "f64" }
features = ["amount", "derived.half"]
derived.half = "amount / 2"
decisions.audit = "required"

[model.remote]
inputs   = { amount = "f64" }
features = ["amount", "derived.half"]
derived.half = "amount / 2"
"#;

/// A model of [`DEFINITIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Model {
    /// Can't answer without its features.
    Steady,
    /// Answers without them, as if they were null.
    Soft,
    /// Answers with their defaults.
    Spare,
    /// Has none.
    Plain,
    /// Has none, and answers only what is recorded.
    Strict,
    /// Has none, and runs on another server.
    Remote,
}

/// What an answer was worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// The exact value.
    Whole,
    /// The exact value for features that could not be had.
    Degraded,
    /// An error that the fault explains.
    Refused,
    /// The exact value of a vector that the caller sent.
    Raw,
}

/// One row that is scored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// A card's number; from [`CARDS`] on they are strangers.
    pub(crate) card: usize,
    /// A multiple of a half.
    pub(crate) amount: f64,
}

impl Model {
    pub(crate) const ALL: [Self; 6] = [
        Self::Steady,
        Self::Soft,
        Self::Spare,
        Self::Plain,
        Self::Strict,
        Self::Remote,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Soft => "soft",
            Self::Spare => "spare",
            Self::Plain => "plain",
            Self::Strict => "strict",
            Self::Remote => "remote",
        }
    }

    pub(crate) const fn has_features(self) -> bool {
        matches!(self, Self::Steady | Self::Soft | Self::Spare)
    }

    /// How long a caller waits: what has an answer under its fault is asked with all patience, since the machine may be
    /// slow, and what has none is not waited for long.
    pub(crate) const fn deadline_ms(self) -> u64 {
        match self {
            Self::Soft | Self::Spare | Self::Plain => 60_000,
            Self::Steady | Self::Remote => 5_000,
            Self::Strict => 2_500,
        }
    }

    /// The constant of a version's artifact.
    pub(crate) fn offset(self, version: u32) -> f32 {
        let place = Self::ALL.iter().position(|model| *model == self).unwrap();
        10_000.0 * place as f32 + 100.0 * version as f32
    }

    /// The artifact of version `version`.
    pub(crate) fn artifact(self, version: u32) -> Bytes {
        artifact(self.offset(version))
    }

    pub(crate) fn inputs(self, row: &Row) -> BTreeMap<String, Value> {
        let mut inputs = BTreeMap::from([("amount".to_owned(), Value::F64(row.amount))]);
        if self.has_features() {
            inputs.insert("card_id".to_owned(), Value::String(card_id(row.card)));
        }
        inputs
    }

    /// What `version` says of a row whose features are there, or not.
    pub(crate) fn score(self, version: u32, row: &Row, features: bool) -> f64 {
        let of_features = match self {
            Self::Plain | Self::Strict | Self::Remote => row.amount / 2.0,
            _ if features => {
                let payments = payments(row.card);
                let n = payments.len() as f64;
                match payments.last() {
                    Some(last) => n + payments.iter().sum::<f64>() + last,
                    None => DEFAULTS,
                }
            }
            Self::Spare => DEFAULTS,
            Self::Soft | Self::Steady => 0.0,
        };
        f64::from(self.offset(version)) + row.amount + of_features
    }

    /// What `answer` to `row` is worth, or why it is wrong.
    pub(crate) fn judge(self, row: &Row, answer: &Prediction) -> Result<Outcome, String> {
        let wrong = |why: String| Err(format!("{} of {row:?}: {why}: {answer:?}", self.name()));
        if answer.model.name != self.name() {
            return wrong("another model answered".to_owned());
        }
        let is_whole = answer.degraded.is_empty();
        let expected = self.score(answer.model.version, row, is_whole);
        if answer.prediction.as_f64() != Some(expected) {
            return wrong(format!("it must be {expected}"));
        }
        if is_whole {
            return match answer.features.values().find(|feature| {
                feature.status == FeatureStatus::Unavailable
                    || (feature.status == FeatureStatus::Missing && row.card < CARDS)
            }) {
                Some(feature) => wrong(format!("it does not say that {feature:?} is degraded")),
                None => Ok(Outcome::Whole),
            };
        }
        let may = matches!(self, Self::Soft | Self::Spare);
        if !may
            || answer
                .degraded
                .iter()
                .any(|found| found.trouble != Trouble::Unavailable)
        {
            return wrong("its policy has no such answer".to_owned());
        }
        let mut of_views = answer.features.iter().filter(|(name, _)| name.starts_with("card."));
        if of_views.any(|(_, feature)| feature.status != FeatureStatus::Unavailable) {
            return wrong("a feature of a degraded answer claims to be known".to_owned());
        }
        Ok(Outcome::Degraded)
    }
}

/// Whether `error` says that features can't be had in time.
pub(crate) fn is_of_features(error: &ModelGatewayError) -> bool {
    match error {
        ModelGatewayError::DeadlineExceeded { stage, .. } => stage == "features",
        ModelGatewayError::FeaturesRejected { trouble, .. } => *trouble == Trouble::Unavailable,
        ModelGatewayError::Unavailable { .. } => true,
        _ => false,
    }
}

/// Whether `error` says that a decision can't be recorded in time, which its model asks for.
pub(crate) fn is_of_audit(error: &ModelGatewayError) -> bool {
    match error {
        ModelGatewayError::Unavailable { detail } => detail.contains("decisions must be recorded"),
        ModelGatewayError::DeadlineExceeded { stage, .. } => stage == "audit",
        _ => false,
    }
}

/// The fixture that adds up its row and `offset`.
pub(crate) fn artifact(offset: f32) -> Bytes {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../model-gateway/tests/fixtures/exact.onnx"
    );
    let mut bytes = std::fs::read(path).unwrap();
    let constant = 1_234_567.0_f32.to_le_bytes();
    let at = bytes.windows(4).position(|window| window == constant).unwrap();
    bytes[at..at + 4].copy_from_slice(&offset.to_le_bytes());
    Bytes::from(bytes)
}

pub(crate) fn card_id(card: usize) -> String {
    format!("c{card}")
}

/// The amounts of a card's payments, oldest first.
pub(crate) fn payments(card: usize) -> Vec<f64> {
    let count = if card < CARDS { 3 + card } else { 0 };
    (0..count)
        .map(|number| (card + 2 * number) as f64 + 0.25 * number as f64)
        .collect()
}

/// Every payment as an event; the newest was made a moment ago.
pub(crate) fn events() -> Vec<Box<RawValue>> {
    let now = EventTime::now();
    let of_card = |card: usize| {
        let payments = payments(card);
        let count = payments.len();
        payments.into_iter().enumerate().map(move |(number, amount)| {
            let ts = now.plus_micros(-1_000_000 * (count - number) as i64).to_string();
            let event = serde_json::json!({"card_id": card_id(card), "amount": amount, "ts": ts});
            RawValue::from_string(event.to_string()).unwrap()
        })
    };
    (0..CARDS).flat_map(of_card).collect()
}
