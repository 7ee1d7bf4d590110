//! The trees of a model in one array, and the way of a row through them.
//!
//! LightGBM (`include/LightGBM/tree.h`): left if value <= threshold; how NaN and zero are taken is kept per node; a
//! category goes left if it is in the node's set, NaN and negatives go right. XGBoost (`src/predictor/`): left if value <
//! threshold, NaN by the node's default; a category goes right if it is in the node's set.

use std::mem::size_of;

/// Values this near to zero are zero to LightGBM.
const ZERO: f64 = 1e-35_f32 as f64;
/// Where XGBoost's categories end: whole numbers a single has.
const CATEGORIES: f64 = 16_777_216.0;

/// Which library's rules hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    LightGbm,
    XgBoost,
}

/// How LightGBM takes a missing value at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// As zero.
    None,
    /// Zero and NaN go the default way.
    Zero,
    /// NaN goes the default way.
    Nan,
}

/// A node as a file describes it. Children are nodes of the same tree.
#[derive(Clone, Debug)]
pub(super) enum RawNode {
    Leaf(f64),
    Number {
        feature: usize,
        threshold: f64,
        missing: Missing,
        default_left: bool,
        left: usize,
        right: usize,
    },
    Category {
        feature: usize,
        /// The categories of the set, as bits.
        set: Vec<u32>,
        default_left: bool,
        left: usize,
        right: usize,
    },
}

#[derive(Clone, Copy, Debug)]
struct Node {
    /// The threshold, or the leaf's value.
    value: f64,
    feature: u32,
    /// The next node is the left child.
    right: u32,
    /// Where the category's set begins, and how many words it has.
    set: u32,
    words: u32,
    kind: Kind,
    missing: Missing,
    default_left: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Leaf,
    Number,
    Category,
}

/// The trees of a model.
#[derive(Debug)]
pub(super) struct Forest {
    pub(super) rule: Rule,
    /// Sums a row: classes, or 1.
    pub(super) groups: usize,
    nodes: Vec<Node>,
    sets: Vec<u32>,
    /// The first node and the group of each tree, in the library's order.
    roots: Vec<(u32, u32)>,
    /// What sums begin with, a value a group.
    base: Vec<f64>,
    /// What sums are divided by before they become predictions: the trees of a random forest.
    pub(super) divisor: f64,
}

impl Forest {
    pub(super) fn new(rule: Rule, base: Vec<f64>, divisor: f64) -> Self {
        Self {
            rule,
            groups: base.len(),
            nodes: Vec::new(),
            sets: Vec::new(),
            roots: Vec::new(),
            base,
            divisor,
        }
    }

    pub(super) fn trees(&self) -> usize {
        self.roots.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.nodes.len() * size_of::<Node>() + self.sets.len() * size_of::<u32>()
    }

    /// Adds a tree of group `group`, whose first node is its root. Its nodes are laid out as they are walked, so those
    /// that a file keeps but nobody reaches are left out.
    pub(super) fn add(&mut self, tree: &[RawNode], group: usize, features: usize) -> Result<(), String> {
        if group >= self.groups {
            return Err(format!("a tree is of group {group}, there are {}", self.groups));
        }
        let small = |number: usize| u32::try_from(number).map_err(|_| "it has too many nodes".to_owned());
        self.roots.push((small(self.nodes.len())?, small(group)?));
        let mut seen = vec![false; tree.len()];
        // Nodes to lay out, and the node whose right child it is.
        let mut ahead: Vec<(usize, Option<usize>)> = vec![(0, None)];
        while let Some((place, parent)) = ahead.pop() {
            let node = tree
                .get(place)
                .ok_or_else(|| format!("a child is node {place}, the tree has {}", tree.len()))?;
            match seen.get_mut(place) {
                Some(seen) if !*seen => *seen = true,
                _ => return Err(format!("node {place} has two parents")),
            }
            let here = self.nodes.len();
            if let Some(parent) = parent.and_then(|parent| self.nodes.get_mut(parent)) {
                parent.right = small(here)?;
            }
            let (laid, children) = self.laid(node, features)?;
            self.nodes.push(laid);
            if let Some((left, right)) = children {
                ahead.push((right, Some(here)));
                // Popped next: the left child follows its parent.
                ahead.push((left, None));
            }
        }
        Ok(())
    }

    fn laid(&mut self, node: &RawNode, features: usize) -> Result<(Node, Option<(usize, usize)>), String> {
        let feature_of = |feature: usize| {
            u32::try_from(feature)
                .ok()
                .filter(|_| feature < features)
                .ok_or_else(|| format!("a node splits feature {feature}, the model has {features}"))
        };
        let mut laid = Node {
            value: 0.0,
            feature: 0,
            right: 0,
            set: 0,
            words: 0,
            kind: Kind::Leaf,
            missing: Missing::Nan,
            default_left: false,
        };
        Ok(match node {
            RawNode::Leaf(value) => {
                laid.value = *value;
                (laid, None)
            }
            RawNode::Number {
                feature,
                threshold,
                missing,
                default_left,
                left,
                right,
            } => {
                laid.kind = Kind::Number;
                laid.value = *threshold;
                laid.feature = feature_of(*feature)?;
                laid.missing = *missing;
                laid.default_left = *default_left;
                (laid, Some((*left, *right)))
            }
            RawNode::Category {
                feature,
                set,
                default_left,
                left,
                right,
            } => {
                let many = |_| "its categories are too many".to_owned();
                laid.kind = Kind::Category;
                laid.feature = feature_of(*feature)?;
                laid.default_left = *default_left;
                laid.set = u32::try_from(self.sets.len()).map_err(many)?;
                laid.words = u32::try_from(set.len()).map_err(many)?;
                self.sets.extend_from_slice(set);
                (laid, Some((*left, *right)))
            }
        })
    }

    /// The sums of `row`, a value a group.
    pub(super) fn sums(&self, row: &[f64], sums: &mut Vec<f64>) {
        sums.clear();
        sums.extend_from_slice(&self.base);
        for (root, group) in &self.roots {
            let leaf = self.leaf(*root, row);
            if let Some(sum) = sums.get_mut(*group as usize) {
                *sum = match self.rule {
                    Rule::LightGbm => *sum + leaf,
                    Rule::XgBoost => single(*sum + leaf),
                };
            }
        }
    }

    fn leaf(&self, root: u32, row: &[f64]) -> f64 {
        let mut place = root;
        // Trees were walked when they were added: children follow their parents, so this ends.
        while let Some(node) = self.nodes.get(place as usize) {
            let value = || row.get(node.feature as usize).copied().unwrap_or(f64::NAN);
            let is_left = match (node.kind, self.rule) {
                (Kind::Leaf, _) => return node.value,
                (Kind::Number, Rule::LightGbm) => left_by_number(node, value()),
                (Kind::Number, Rule::XgBoost) => {
                    let value = value();
                    if value.is_nan() {
                        node.default_left
                    } else {
                        value < node.value
                    }
                }
                (Kind::Category, Rule::LightGbm) => {
                    let value = value();
                    // NaN is none of the set.
                    value > -1.0 && self.holds(node, value.trunc())
                }
                (Kind::Category, Rule::XgBoost) => {
                    let value = value();
                    match value {
                        _ if value.is_nan() => node.default_left,
                        _ if !(0.0..CATEGORIES).contains(&value) => true,
                        _ => !self.holds(node, value.trunc()),
                    }
                }
            };
            place = if is_left { place + 1 } else { node.right };
        }
        f64::NAN
    }

    /// Whether a whole number is in the node's set.
    fn holds(&self, node: &Node, value: f64) -> bool {
        if value >= f64::from(node.words) * 32.0 {
            return false;
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole, not negative, bounded above"
        )]
        let category = value as u32;
        self.sets
            .get((node.set + category / 32) as usize)
            .is_some_and(|word| word >> (category % 32) & 1 == 1)
    }
}

fn left_by_number(node: &Node, value: f64) -> bool {
    let is_missing = match node.missing {
        Missing::None => false,
        Missing::Zero => value.is_nan() || (-ZERO..=ZERO).contains(&value),
        Missing::Nan => value.is_nan(),
    };
    if is_missing {
        return node.default_left;
    }
    let value = if value.is_nan() { 0.0 } else { value };
    value <= node.value
}

/// The sum of two singles, rounded as a single. A double holds it before that; rounding twice is safe for sums of two,
/// since a double has more than twice the digits of a single, and two.
#[allow(clippy::cast_possible_truncation, reason = "what single precision is")]
pub(super) fn single(value: f64) -> f64 {
    f64::from(value as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(feature: usize, left: usize, right: usize) -> RawNode {
        RawNode::Number {
            feature,
            threshold: 0.0,
            missing: Missing::Nan,
            default_left: true,
            left,
            right,
        }
    }

    #[test]
    fn a_tree_that_is_none_is_refused() {
        for (tree, expected) in [
            (vec![number(0, 1, 2), RawNode::Leaf(1.0)], "a child is node 2"),
            (vec![number(0, 1, 0), RawNode::Leaf(1.0)], "two parents"),
            (vec![number(0, 1, 1), RawNode::Leaf(1.0)], "two parents"),
            (
                vec![number(7, 1, 2), RawNode::Leaf(1.0), RawNode::Leaf(2.0)],
                "feature 7",
            ),
            (vec![], "a child is node 0"),
        ] {
            let mut forest = Forest::new(Rule::XgBoost, vec![0.0], 1.0);
            let error = forest.add(&tree, 0, 2).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_left_child_follows_its_parent_whatever_the_order_in_the_file() {
        let leaf = RawNode::Leaf;
        let tree = vec![
            number(0, 4, 1),
            number(1, 3, 2),
            leaf(3.0),
            leaf(2.0),
            leaf(1.0),
            leaf(9.0),
        ];
        let mut forest = Forest::new(Rule::XgBoost, vec![0.5], 1.0);
        forest.add(&tree, 0, 2).unwrap();
        assert_eq!(forest.nodes.len(), 5, "the leaf that nobody reaches is left out");
        let mut sums = Vec::new();
        for (row, expected) in [
            ([-1.0, 0.0], 1.5),
            ([1.0, -1.0], 2.5),
            ([1.0, 1.0], 3.5),
            ([f64::NAN, 1.0], 1.5),
        ] {
            forest.sums(&row, &mut sums);
            assert_eq!(sums, [expected]);
        }
    }
}
