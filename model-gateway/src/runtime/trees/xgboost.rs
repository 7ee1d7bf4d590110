//! XGBoost's own forms (`Booster.save_model`, version 1.0 on): JSON, or the same in UBJSON.

use super::TreeModel;
use super::forest::{Forest, Missing, RawNode, Rule, single};
use super::objective::Objective;
use super::ubjson;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Model {
    learner: Learner,
    #[serde(default)]
    version: Vec<u32>,
}

#[derive(Deserialize)]
struct Learner {
    #[serde(default)]
    feature_names: Vec<String>,
    gradient_booster: Value,
    learner_model_param: LearnerParameters,
    objective: ObjectiveName,
}

#[derive(Deserialize)]
struct ObjectiveName {
    name: String,
}

/// Numbers as texts, as XGBoost writes parameters.
#[derive(Deserialize)]
struct LearnerParameters {
    base_score: String,
    #[serde(default)]
    num_class: String,
    num_feature: String,
    #[serde(default)]
    num_target: String,
}

#[derive(Deserialize)]
struct TreeBooster {
    model: TreeList,
}

#[derive(Deserialize)]
struct TreeList {
    trees: Vec<Tree>,
    tree_info: Vec<usize>,
    #[serde(default)]
    cats: Categories,
}

/// Categories of a data frame, which XGBoost 3.1 on encodes anew for each prediction.
#[derive(Default, Deserialize)]
struct Categories {
    #[serde(default)]
    enc: Vec<Value>,
}

#[derive(Deserialize)]
struct DartBooster {
    gbtree: TreeBooster,
    weight_drop: Vec<f32>,
}

#[derive(Deserialize)]
struct Tree {
    left_children: Vec<i64>,
    right_children: Vec<i64>,
    split_indices: Vec<usize>,
    split_conditions: Vec<f32>,
    default_left: Vec<Flag>,
    #[serde(default)]
    split_type: Vec<u8>,
    #[serde(default)]
    categories: Vec<i64>,
    #[serde(default)]
    categories_nodes: Vec<usize>,
    #[serde(default)]
    categories_segments: Vec<usize>,
    #[serde(default)]
    categories_sizes: Vec<usize>,
    tree_param: TreeParameters,
}

#[derive(Deserialize)]
struct TreeParameters {
    #[serde(default)]
    size_leaf_vector: String,
}

/// Older versions write truth values, newer ones 0 and 1.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Flag {
    Truth(bool),
    Number(u8),
}

impl Flag {
    fn is_set(self) -> bool {
        match self {
            Self::Truth(value) => value,
            Self::Number(value) => value != 0,
        }
    }
}

/// Parses a model of either form.
pub(super) fn parse(artifact: &[u8]) -> Result<TreeModel, String> {
    // In JSON a quote follows the brace; in UBJSON the type of a length.
    let is_json = artifact
        .trim_ascii_start()
        .get(1..)
        .is_some_and(|rest| rest.trim_ascii_start().starts_with(b"\""));
    let model: Model = if is_json {
        serde_json::from_slice(artifact).map_err(|error| error.to_string())?
    } else {
        serde_json::from_value(ubjson::decode(artifact)?).map_err(|error| error.to_string())?
    };
    let Learner {
        feature_names,
        gradient_booster,
        learner_model_param: parameters,
        objective,
    } = model.learner;
    let features = count("num_feature", &parameters.num_feature)?;
    if !matches!(parameters.num_target.as_str(), "" | "0" | "1") {
        return Err(format!(
            "it has {} targets: only one can be evaluated",
            parameters.num_target
        ));
    }
    let groups = match parameters.num_class.as_str() {
        "" => 1,
        text => count("num_class", text)?.max(1),
    };
    let (function, link) = functions(&objective.name, model.version.first().copied().unwrap_or_default())?;
    let base = base(&parameters.base_score, groups, link)?;
    let (list, weights) = trees(gradient_booster)?;
    if list.trees.len() != list.tree_info.len() {
        return Err(format!(
            "it has {} trees and the groups of {}",
            list.trees.len(),
            list.tree_info.len()
        ));
    }
    if !list.cats.enc.is_empty() {
        return Err(
            "it was trained on a data frame's categories, which XGBoost encodes anew for each prediction: train \
                    it on their numbers"
                .to_owned(),
        );
    }
    let mut forest = Forest::new(Rule::XgBoost, base, 1.0);
    for (place, (tree, group)) in list.trees.iter().zip(&list.tree_info).enumerate() {
        let weight = weights
            .as_ref()
            .map(|weights| weights.get(place).copied().unwrap_or(1.0));
        let nodes = tree.nodes(weight).map_err(|error| format!("tree {place}: {error}"))?;
        forest
            .add(&nodes, *group, features)
            .map_err(|error| format!("tree {place}: {error}"))?;
    }
    Ok(TreeModel {
        forest,
        objective: function,
        features,
        names: feature_names,
    })
}

fn count(key: &str, text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|count| *count <= 1_000_000)
        .ok_or_else(|| format!("`{key}` is `{text}`"))
}

/// The trees, and a weight for each where the booster is `dart`.
fn trees(booster: Value) -> Result<(TreeList, Option<Vec<f32>>), String> {
    let name = booster
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let explain = |error: serde_json::Error| format!("its trees can't be read: {error}");
    match name.as_str() {
        "gbtree" => {
            let booster: TreeBooster = serde_json::from_value(booster).map_err(explain)?;
            Ok((booster.model, None))
        }
        "dart" => {
            let booster: DartBooster = serde_json::from_value(booster).map_err(explain)?;
            Ok((booster.gbtree.model, Some(booster.weight_drop)))
        }
        other => Err(format!("its booster `{other}` has no trees: convert the model to ONNX")),
    }
}

/// How a base score becomes a sum.
#[derive(Clone, Copy)]
enum Link {
    Identity,
    Logit,
    Log,
}

fn functions(name: &str, major: u32) -> Result<(Objective, Link), String> {
    Ok(match name {
        "reg:squarederror"
        | "reg:squaredlogerror"
        | "reg:absoluteerror"
        | "reg:pseudohubererror"
        | "reg:quantileerror"
        | "rank:pairwise"
        | "rank:ndcg"
        | "rank:map" => (Objective::Identity, Link::Identity),
        "binary:logistic" | "reg:logistic" => (Objective::SigmoidSingle, Link::Logit),
        // Before version 3 its base score was a probability.
        "binary:logitraw" if major >= 3 => (Objective::Identity, Link::Identity),
        "binary:logitraw" => {
            return Err(
                "its objective `binary:logitraw` is read as XGBoost 3 writes it: save it again with that".to_owned(),
            );
        }
        "binary:hinge" => (Objective::Hinge, Link::Identity),
        "count:poisson" | "reg:gamma" | "reg:tweedie" => (Objective::ExpSingle, Link::Log),
        "multi:softprob" => (Objective::SoftmaxSingle, Link::Identity),
        "multi:softmax" => (Objective::ArgMax, Link::Identity),
        other => {
            return Err(format!(
                "its objective `{other}` can't be evaluated: convert the model to ONNX"
            ));
        }
    })
}

/// What sums begin with. Newer versions write a list, with a score for all groups or one for each.
fn base(text: &str, groups: usize, link: Link) -> Result<Vec<f64>, String> {
    let wrong = || format!("`base_score` is `{text}`");
    let read = |text: &str| text.trim().parse::<f32>().map_err(|_| wrong());
    let list = text.trim().trim_start_matches('[').trim_end_matches(']');
    let scores: Vec<f32> = list.split(',').map(read).collect::<Result<_, _>>()?;
    let sum = |score: f32| {
        f64::from(match link {
            Link::Identity => score,
            Link::Logit => -(1.0 / score - 1.0).ln(),
            Link::Log => score.ln(),
        })
    };
    match scores.as_slice() {
        [one] => Ok(vec![sum(*one); groups]),
        several if several.len() == groups => Ok(several.iter().map(|score| sum(*score)).collect()),
        _ => Err(wrong()),
    }
}

impl Tree {
    fn nodes(&self, weight: Option<f32>) -> Result<Vec<RawNode>, String> {
        if !matches!(self.tree_param.size_leaf_vector.as_str(), "" | "0" | "1") {
            return Err("its leaves have several values, which can't be evaluated".to_owned());
        }
        let count = self.left_children.len();
        let lengths = [
            self.right_children.len(),
            self.split_indices.len(),
            self.split_conditions.len(),
            self.default_left.len(),
        ];
        if lengths.iter().any(|length| *length != count) {
            return Err("its lists are of different lengths".to_owned());
        }
        let node = |place: usize| {
            self.node(place, weight)
                .ok_or_else(|| format!("node {place} is not whole"))
        };
        (0..count).map(node).collect()
    }

    fn node(&self, place: usize, weight: Option<f32>) -> Option<RawNode> {
        let left = *self.left_children.get(place)?;
        let value = f64::from(*self.split_conditions.get(place)?);
        if left < 0 {
            let weighted = weight.map_or(value, |weight| single(value * f64::from(weight)));
            return Some(RawNode::Leaf(weighted));
        }
        let left = usize::try_from(left).ok()?;
        let right = usize::try_from(*self.right_children.get(place)?).ok()?;
        let feature = *self.split_indices.get(place)?;
        let default_left = self.default_left.get(place)?.is_set();
        if self.split_type.get(place).is_some_and(|kind| *kind == 1) {
            let set = self.set(place)?;
            return Some(RawNode::Category {
                feature,
                set,
                default_left,
                left,
                right,
            });
        }
        Some(RawNode::Number {
            feature,
            threshold: value,
            missing: Missing::Nan,
            default_left,
            left,
            right,
        })
    }

    /// The categories of a split, as bits.
    fn set(&self, place: usize) -> Option<Vec<u32>> {
        let which = self.categories_nodes.iter().position(|node| *node == place)?;
        let (begin, size) = (
            *self.categories_segments.get(which)?,
            *self.categories_sizes.get(which)?,
        );
        let mut set = Vec::new();
        for category in self.categories.get(begin..begin.checked_add(size)?)? {
            let category = usize::try_from(*category).ok().filter(|category| *category < 1 << 24)?;
            if set.len() <= category / 32 {
                set.resize(category / 32 + 1, 0);
            }
            *set.get_mut(category / 32)? |= 1 << (category % 32);
        }
        Some(set)
    }
}
