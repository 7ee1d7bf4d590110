//! The description of a graph: what is registered as an artifact of kind `graph`.

use crate::runtime::kind::parse_description;
use ondol_vocabulary::VersionedName;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The most nodes of a graph.
const MAX_NODES: usize = 32;

/// A graph of registered models.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GraphSpec {
    /// The node whose value is the prediction.
    pub output: String,
    /// Its nodes, by name. A node has one number a row.
    pub nodes: BTreeMap<String, NodeSpec>,
}

/// A node: exactly one of `model`, `weights`, `expression` and `switch`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NodeSpec {
    /// The prediction of a registered version: `trees@3`.
    pub model: Option<VersionedName>,
    /// For a model: which of its features come from another node, or from a feature of another name.
    pub features: BTreeMap<String, String>,
    /// The sum of nodes, each times its weight.
    pub weights: Option<BTreeMap<String, f64>>,
    /// An expression over nodes and the features of the graph's model.
    pub expression: Option<String>,
    /// The first case that holds: only its node is run for that row.
    pub switch: Option<Vec<CaseSpec>>,
}

/// A case of a switch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaseSpec {
    /// A condition over nodes and features; null does not hold. The last case has none, and the others have one.
    #[serde(default)]
    pub when: Option<String>,
    /// The node whose value it is.
    pub then: String,
}

impl GraphSpec {
    /// Parses a description and checks what can be checked without the models it names.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let spec: Self = parse_description(text)?;
        if spec.nodes.len() > MAX_NODES {
            return Err(format!(
                "the graph has {} nodes, at most {MAX_NODES} are taken",
                spec.nodes.len()
            ));
        }
        if !spec.nodes.contains_key(&spec.output) {
            return Err(format!("`output` is `{}`, which is no node", spec.output));
        }
        for (name, node) in &spec.nodes {
            node.check(name, &spec)?;
        }
        Ok(spec)
    }
}

impl NodeSpec {
    fn check(&self, name: &str, spec: &GraphSpec) -> Result<(), String> {
        let kinds = [
            self.model.is_some(),
            self.weights.is_some(),
            self.expression.is_some(),
            self.switch.is_some(),
        ];
        if kinds.into_iter().filter(|given| *given).count() != 1 {
            return Err(format!(
                "node `{name}` must have exactly one of `model`, `weights`, `expression` and `switch`"
            ));
        }
        if !self.features.is_empty() && self.model.is_none() {
            return Err(format!("node `{name}` has `features` but no `model` that takes them"));
        }
        let known = |node: &String| {
            if spec.nodes.contains_key(node) {
                Ok(())
            } else {
                Err(format!("node `{name}` names `{node}`, which is no node"))
            }
        };
        if let Some(weights) = &self.weights {
            if weights.is_empty() {
                return Err(format!("node `{name}` has no `weights`"));
            }
            if let Some((node, weight)) = weights.iter().find(|(_, weight)| !weight.is_finite()) {
                return Err(format!(
                    "node `{name}` gives `{node}` the weight {weight}: it must be finite"
                ));
            }
            weights.keys().try_for_each(known)?;
        }
        if let Some(cases) = &self.switch {
            let (last, others) = cases
                .split_last()
                .ok_or_else(|| format!("node `{name}` has no case: add {{ when = \"…\", then = \"node\" }}"))?;
            if last.when.is_some() || others.iter().any(|case| case.when.is_none()) {
                return Err(format!(
                    "node `{name}`: every case of a switch but the last has a `when`, and the last has none"
                ));
            }
            cases.iter().map(|case| &case.then).try_for_each(known)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_is_refused_by_its_node() {
        for (text, expected) in [
            ("output = \"b\"\n[nodes.a]\nmodel = \"m@1\"\n", "`output`"),
            ("output = \"a\"\n[nodes.a]\n", "exactly one"),
            (
                "output = \"a\"\n[nodes.a]\nmodel = \"m@1\"\nexpression = \"1\"\n",
                "exactly one",
            ),
            ("output = \"a\"\n[nodes.a]\nmodel = \"m\"\n", "m"),
            (
                "output = \"a\"\n[nodes.a]\nweights = { b = 1.0 }\n",
                "`b`, which is no node",
            ),
            ("output = \"a\"\n[nodes.a]\nweights = {}\n", "no `weights`"),
            (
                "output = \"a\"\n[nodes.a]\nswitch = [{ when = \"true\", then = \"a\" }]\n",
                "the last has none",
            ),
            (
                "output = \"a\"\n[nodes.a]\nexpression = \"1\"\nfeatures = { x = \"a\" }\n",
                "no `model`",
            ),
        ] {
            let error = GraphSpec::parse(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
