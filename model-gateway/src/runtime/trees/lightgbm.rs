//! LightGBM's text form (`Booster.save_model`, version 3 and 4): a head of `key=value` lines, then a block per tree.

use super::TreeModel;
use super::forest::{Forest, Missing, RawNode, Rule};
use super::objective::Objective;
use std::collections::HashMap;
use std::str::FromStr;

/// The `key=value` lines of a block.
type Block<'t> = HashMap<&'t str, &'t str>;

/// Parses a model.
pub(super) fn parse(text: &str) -> Result<TreeModel, String> {
    let body = text.split("\nend of trees").next().unwrap_or(text);
    let mut blocks = body.split("\nTree=");
    let head_text = blocks.next().unwrap_or_default();
    let head = block(head_text);
    if head_text.lines().next().map(str::trim) != Some("tree") {
        return Err("it does not begin with `tree`".to_owned());
    }
    let features = number::<usize>(&head, "max_feature_idx")? + 1;
    let groups = number::<usize>(&head, "num_tree_per_iteration")?;
    if groups == 0 || groups > 100_000 {
        return Err(format!("`num_tree_per_iteration` is {groups}"));
    }
    let objective = objective(head.get("objective").copied().unwrap_or_default())?;
    let trees: Vec<Block<'_>> = blocks.map(block).collect();
    let is_average = head_text.lines().any(|line| line.trim() == "average_output");
    let iterations = trees.len() / groups;
    let divisor = if is_average {
        f64::from(u32::try_from(iterations).map_err(|_| "it has too many trees".to_owned())?)
    } else {
        1.0
    };
    let mut forest = Forest::new(Rule::LightGbm, vec![0.0; groups], divisor);
    for (place, tree) in trees.iter().enumerate() {
        let nodes = nodes(tree).map_err(|error| format!("tree {place}: {error}"))?;
        forest
            .add(&nodes, place % groups, features)
            .map_err(|error| format!("tree {place}: {error}"))?;
    }
    let names = head
        .get("feature_names")
        .map(|names| names.split_whitespace().map(ToOwned::to_owned).collect());
    Ok(TreeModel {
        forest,
        objective,
        features,
        names: names.unwrap_or_default(),
    })
}

fn block(text: &str) -> Block<'_> {
    text.lines()
        .filter_map(|line| line.trim_end().split_once('='))
        .collect()
}

fn value<'t>(block: &Block<'t>, key: &str) -> Result<&'t str, String> {
    block.get(key).copied().ok_or_else(|| format!("`{key}` is missing"))
}

fn number<T: FromStr>(block: &Block<'_>, key: &str) -> Result<T, String> {
    let text = value(block, key)?;
    text.trim().parse().map_err(|_| format!("`{key}` is `{text}`"))
}

/// A list of `len` numbers.
fn numbers<T: FromStr>(block: &Block<'_>, key: &str, len: usize) -> Result<Vec<T>, String> {
    let read = |text: &str| text.parse::<T>().map_err(|_| format!("`{key}` holds `{text}`"));
    let list: Vec<T> = value(block, key)?
        .split_whitespace()
        .map(read)
        .collect::<Result<_, _>>()?;
    if list.len() != len {
        return Err(format!("`{key}` has {} numbers, expected {len}", list.len()));
    }
    Ok(list)
}

fn objective(text: &str) -> Result<Objective, String> {
    let mut words = text.split_whitespace();
    let name = words.next().unwrap_or_default();
    let rest: Vec<&str> = words.collect();
    let sigmoid = || -> Result<Objective, String> {
        let scale = rest
            .iter()
            .find_map(|word| word.strip_prefix("sigmoid:"))
            .unwrap_or("1");
        let scale = scale.parse().map_err(|_| format!("`sigmoid` is `{scale}`"))?;
        Ok(Objective::Sigmoid(scale))
    };
    Ok(match name {
        "regression" if rest.contains(&"sqrt") => Objective::SignedSquare,
        // None: a function of the user's own, whose sums are what Python gives too.
        "" | "none" | "custom" | "regression" | "regression_l1" | "huber" | "fair" | "quantile" | "mape"
        | "lambdarank" | "rank_xendcg" => Objective::Identity,
        "poisson" | "gamma" | "tweedie" => Objective::Exp,
        "binary" | "multiclassova" => sigmoid()?,
        "multiclass" => Objective::Softmax,
        "cross_entropy" => Objective::Sigmoid(1.0),
        "cross_entropy_lambda" => Objective::LogOnePlusExp,
        other => {
            return Err(format!(
                "its objective `{other}` can't be evaluated: convert the model to ONNX"
            ));
        }
    })
}

/// The nodes of a tree: the splits, then the leaves.
fn nodes(tree: &Block<'_>) -> Result<Vec<RawNode>, String> {
    if tree.get("is_linear").is_some_and(|value| value.trim() == "1") {
        return Err(
            "its leaves are linear (`linear_tree`), which can't be evaluated: convert the model to ONNX".to_owned(),
        );
    }
    let leaves = number::<usize>(tree, "num_leaves")?;
    let splits = leaves.checked_sub(1).ok_or("it has no leaf")?;
    let leaf_values = numbers::<f64>(tree, "leaf_value", leaves)?;
    let mut nodes = Vec::with_capacity(splits + leaves);
    if splits > 0 {
        let features = numbers::<usize>(tree, "split_feature", splits)?;
        let thresholds = numbers::<f64>(tree, "threshold", splits)?;
        let decisions = numbers::<u8>(tree, "decision_type", splits)?;
        let lefts = numbers::<i64>(tree, "left_child", splits)?;
        let rights = numbers::<i64>(tree, "right_child", splits)?;
        let sets = Sets::read(tree)?;
        let child = |child: i64| {
            // A negative number is a leaf's, counted from -1.
            let place = if child < 0 {
                usize::try_from(!child).ok().map(|leaf| splits + leaf)
            } else {
                usize::try_from(child).ok()
            };
            place.ok_or_else(|| format!("a child is {child}"))
        };
        let rows = features
            .into_iter()
            .zip(thresholds)
            .zip(decisions)
            .zip(lefts.into_iter().zip(rights));
        for (((feature, threshold), decision), (left, right)) in rows {
            let (left, right) = (child(left)?, child(right)?);
            let default_left = decision & 2 != 0;
            nodes.push(if decision & 1 == 0 {
                let missing = match decision >> 2 & 3 {
                    0 => Missing::None,
                    1 => Missing::Zero,
                    2 => Missing::Nan,
                    other => return Err(format!("a split takes missing values in way {other}")),
                };
                RawNode::Number {
                    feature,
                    threshold,
                    missing,
                    default_left,
                    left,
                    right,
                }
            } else {
                let set = sets.at(threshold)?;
                RawNode::Category {
                    feature,
                    set,
                    default_left,
                    left,
                    right,
                }
            });
        }
    }
    nodes.extend(leaf_values.into_iter().map(RawNode::Leaf));
    Ok(nodes)
}

/// The sets of categories of a tree's splits.
struct Sets {
    boundaries: Vec<usize>,
    words: Vec<u32>,
}

impl Sets {
    fn read(tree: &Block<'_>) -> Result<Self, String> {
        let count = match tree.get("num_cat") {
            Some(_) => number::<usize>(tree, "num_cat")?,
            None => 0,
        };
        if count == 0 {
            return Ok(Self {
                boundaries: Vec::new(),
                words: Vec::new(),
            });
        }
        let boundaries = numbers::<usize>(tree, "cat_boundaries", count + 1)?;
        let words = numbers::<u32>(tree, "cat_threshold", boundaries.last().copied().unwrap_or_default())?;
        Ok(Self { boundaries, words })
    }

    /// The set that a split names by its threshold.
    fn at(&self, threshold: f64) -> Result<Vec<u32>, String> {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a place that is none is not found"
        )]
        let place = threshold as usize;
        let bounds = self.boundaries.get(place).zip(self.boundaries.get(place + 1));
        let words = bounds.and_then(|(begin, end)| self.words.get(*begin..*end));
        words
            .map(<[u32]>::to_vec)
            .ok_or_else(|| format!("a split names set {place} of categories, which is not there"))
    }
}
