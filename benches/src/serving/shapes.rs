//! The predictions by key that are asked for, in two shapes of 50 features, and what each must be answered: learnt from
//! Ondol's own answers, which list the features, and from the model run on them here.
//!
//! - *windows*: 34 windows and 16 latest-row values, of a card and a merchant, in three rows. Windows are finished when they
//!   are read, and move on with the clock; the peers get the numbers as they were when the benchmark began.
//! - *latest*: 50 latest-row values of a card in one row: the same work for everybody.

use super::http1::{Answer, post};
use super::load::{Door, Target};
use super::model::Model;
use super::ondol::Ondol;
use crate::payments::{card, merchant};
use anyhow::{Context as _, Result, ensure};
use ondol_feature_store_api::FeatureStore as _;
use ondol_model_gateway_api::ModelGateway as _;
use ondol_model_gateway_api::wire::{PredictRequest, Prediction};
use ondol_vocabulary::Value;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Requests of a shape, each of other entities.
const REQUESTS: usize = 512;

/// A shape of request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    /// The model in Ondol.
    pub(super) model: &'static str,
    entities: &'static [&'static str],
}

pub(super) const WINDOWS: Shape = Shape {
    name: "windows",
    model: "bench",
    entities: &["card", "merchant"],
};
pub(super) const LATEST: Shape = Shape {
    name: "latest",
    model: "wide",
    entities: &["card"],
};

/// What is known of a shape's requests.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Facts {
    /// The entities of each request, by the shape's names of them.
    keys: Vec<Vec<String>>,
    /// The vector's names, `view.feature`, in order.
    features: Vec<String>,
    /// The vector of each request; null is none, so that vectors compare equal.
    vectors: Vec<Vec<Option<f32>>>,
    probabilities: Arc<Vec<f32>>,
}

impl Shape {
    fn keys(&self, cards: u32, merchants: u32) -> Vec<Vec<String>> {
        let mut random = StdRng::seed_from_u64(5);
        let mut key = |entity: &&str| match *entity {
            "merchant" => merchant(random.random_range(0..merchants)),
            _ => card(random.random_range(0..cards)),
        };
        (0..REQUESTS)
            .map(|_| self.entities.iter().map(&mut key).collect())
            .collect()
    }

    /// Asks `ondol` for everything, explained, and has `model` score the vectors that it tells.
    pub(super) async fn learn(&self, ondol: &Ondol, model: &Model, cards: u32, merchants: u32) -> Result<Facts> {
        let snapshot = ondol.store.snapshot().await?;
        let definition = &snapshot.model(self.model).context("no model definition")?.definition;
        let features: Vec<String> = definition.features.iter().map(|feature| feature.name.clone()).collect();
        let keys = self.keys(cards, merchants);
        let (mut vectors, mut probabilities) = (Vec::new(), Vec::new());
        for key in &keys {
            let inputs = self.entities.iter().zip(key);
            let inputs = inputs.map(|(name, key)| ((*name).to_owned(), Value::String(key.clone())));
            let request = PredictRequest {
                inputs: inputs.collect(),
                explain: Some(true),
                ..PredictRequest::default()
            };
            let answer = ondol.predictions.predict(self.model, request).await?;
            let vector = features.iter().map(|feature| number(&answer, feature));
            let vector = vector.collect::<Result<Vec<_>>>()?;
            let expected = model
                .probability(vector.iter().map(|value| value.unwrap_or(f32::NAN)).collect())
                .await?;
            let answered = answer.prediction.as_f64().context("a prediction that is no number")? as f32;
            ensure!(
                answered == expected,
                "{} answered {answered}, and not {expected}",
                self.name
            );
            vectors.push(vector);
            probabilities.push(expected);
        }
        Ok(Facts {
            keys,
            features,
            vectors,
            probabilities: Arc::new(probabilities),
        })
    }

    /// For the peers: the features of every entity by view, as `peers/serving/seed.py` takes them.
    pub(super) fn seed(&self, facts: &Facts) -> Result<serde_json::Value> {
        /// A view's name, its features, and their values by entity.
        type Seed = (String, Vec<String>, BTreeMap<String, Vec<Option<f32>>>);
        let mut views: Vec<Seed> = Vec::new();
        for (place, feature) in facts.features.iter().enumerate() {
            let (view, feature) = feature.split_once('.').context("a feature without a view")?;
            if views.last().is_none_or(|(last, ..)| last != view) {
                views.push((view.to_owned(), Vec::new(), BTreeMap::new()));
            }
            let (_, features, rows) = views.last_mut().context("no view")?;
            features.push(feature.to_owned());
            for (keys, vector) in facts.keys.iter().zip(&facts.vectors) {
                let row = rows.entry(self.key_of(view, keys)?).or_default();
                // An entity that several requests ask for has the same values in each.
                if row.len() < features.len() {
                    row.push(vector.get(place).copied().flatten());
                }
            }
        }
        let views: Vec<_> = views
            .into_iter()
            .map(|(name, features, rows)| {
                let entity = if name == "merchant" { "merchant" } else { "card" };
                json!({"name": name, "entity": entity, "features": features, "rows": rows})
            })
            .collect();
        Ok(json!({"name": self.name, "entities": self.entities, "views": views}))
    }

    fn key_of(&self, view: &str, keys: &[String]) -> Result<String> {
        let entity = if view == "merchant" { "merchant" } else { "card" };
        let place = self
            .entities
            .iter()
            .position(|name| *name == entity)
            .context("no such entity")?;
        keys.get(place).cloned().context("a request without an entity")
    }

    /// Predictions by Ondol's gateway; `explained` with every feature in the answer.
    pub(super) fn of_ondol(&self, facts: &Facts, gateway: SocketAddr, explained: bool) -> Target {
        let path = format!("/v1/models/{}:predict", self.model);
        self.target(
            facts,
            gateway,
            &path,
            |keys| json!({"inputs": keys, "explain": explained}),
        )
    }

    /// Predictions by one of the Python servers.
    pub(super) fn of_peer(&self, facts: &Facts, server: SocketAddr) -> Target {
        self.target(facts, server, &format!("/{}", self.name), |keys| keys)
    }

    /// Predictions by Ondol's gateway whose answers nobody compares.
    pub(super) fn asked(&self, cards: u32, merchants: u32, gateway: SocketAddr) -> Target {
        let facts = Facts {
            keys: self.keys(cards, merchants),
            features: Vec::new(),
            vectors: Vec::new(),
            probabilities: Arc::default(),
        };
        self.of_ondol(&facts, gateway, false)
    }

    fn target(
        &self,
        facts: &Facts,
        address: SocketAddr,
        path: &str,
        body: impl Fn(serde_json::Value) -> serde_json::Value,
    ) -> Target {
        let requests = facts.keys.iter().map(|keys| {
            let keys: BTreeMap<&str, &String> = self.entities.iter().copied().zip(keys).collect();
            post(path, "", body(json!(keys)).to_string().as_bytes())
        });
        Target {
            door: Door::Http(address),
            requests: Arc::new(requests.collect()),
            expected: Arc::clone(&facts.probabilities),
            probability: prediction,
        }
    }
}

fn number(answer: &Prediction, feature: &str) -> Result<Option<f32>> {
    let served = answer.features.get(feature);
    Ok(match &served.with_context(|| format!("no feature {feature}"))?.value {
        Value::Null => None,
        Value::I64(value) => Some(*value as f32),
        Value::F64(value) => Some(*value as f32),
        other => anyhow::bail!("{feature} is {other:?}"),
    })
}

fn prediction(answer: &Answer) -> Result<f32> {
    #[derive(serde::Deserialize)]
    struct Body {
        prediction: f64,
    }
    let body: Body = serde_json::from_slice(&answer.body)?;
    Ok(body.prediction as f32)
}
