//! `[model.NAME]`: a feature vector over views, inputs and features derived from them at request time.

use super::column::fields;
use super::derived::{Derived, InScope};
use super::name;
use super::policy;
use super::report::{Place, Reports, choose, did_you_mean};
use super::tree::{Section, Text, Word};
use super::view::CompiledView;
use crate::nearest::nearest;
use ondol_vocabulary::{DataType, FeatureOrigin, FeatureRef, Field, ModelDefinition, ModelFeature, ViewDefinition};
use std::collections::HashSet;

const KEYS: [&str; 5] = ["inputs", "features", "derived", "policy", "decisions"];

/// Compiles a model. `views` are those that compiled, and `broken_views` the names of those that did not.
pub(super) fn compile(
    name: &Word<'_>,
    section: &Section<'_>,
    views: &[CompiledView],
    broken_views: &[&str],
    reports: &mut Reports<'_>,
) -> Option<ModelDefinition> {
    name::check("model", name, reports);
    section.only(&KEYS, reports);
    let example = "inputs = { card_id = \"string\" }: the entity keys and values that a caller sends";
    let node = section.require("inputs", example, reports);
    let features_node = section.require("features", "features = [\"view.*\"]", reports);
    let (word, _) = section.get("inputs")?;
    let table = node?.section(word, &format!("{}.inputs", section.title), reports)?;
    // With a broken input, everything that uses it would be wrong too.
    let inputs = fields("input", &table, reports)?;
    let scope = InScope {
        inputs: &inputs,
        views,
        broken_views,
    };
    let derived = Derived::compile(section, &scope, reports);
    let mut vector = Vector {
        scope: &scope,
        derived: &derived,
        entries: Vec::new(),
        used: Vec::new(),
    };
    let node = features_node?;
    let Some(entries) = node.as_array() else {
        node.wrong_type("`features`", "a list of names", reports);
        return None;
    };
    if entries.is_empty() {
        let help = "name at least one: \"view.*\", \"view.feature\", an input or \"derived.name\"";
        reports.add(
            &node.place(),
            "empty-value",
            "`features` is empty",
            Some(help.to_owned()),
        );
    }
    for entry in entries {
        if let Some(text) = entry.string("a feature", reports) {
            vector.add(text, reports);
        }
    }
    let Vector { entries, mut used, .. } = vector;
    let features: Vec<_> = entries.into_iter().map(|(feature, _)| feature).collect();
    let needed = features.iter().filter_map(|feature| match &feature.origin {
        FeatureOrigin::Derived { name } => Some(name.as_str()),
        FeatureOrigin::View { .. } | FeatureOrigin::Input { .. } => None,
    });
    let closure = derived.closure(needed);
    used.extend(derived.used_views(&scope));
    check_keys(&used, &inputs, &table, reports);
    let policy = section
        .get("policy")
        .and_then(|(word, node)| policy::policy(name.text, word, node, reports));
    let decisions = section
        .get("decisions")
        .and_then(|(word, node)| policy::decisions(name.text, word, node, reports));
    Some(ModelDefinition {
        name: name.text.to_owned(),
        inputs,
        features,
        derived: closure.definitions,
        derived_needs: closure.needs,
        policy: policy.unwrap_or_default(),
        decisions: decisions.unwrap_or_default(),
    })
}

/// The feature vector as it grows.
struct Vector<'m> {
    scope: &'m InScope<'m>,
    derived: &'m Derived,
    entries: Vec<(ModelFeature, Place)>,
    /// Views used, and where first.
    used: Vec<(&'m ViewDefinition, Place)>,
}

impl<'m> Vector<'m> {
    fn add(&mut self, text: Text<'_>, reports: &mut Reports<'_>) {
        match text.value.split_once('.') {
            None => self.input(text, reports),
            Some(("derived", "*")) => {
                for name in self.derived.names() {
                    self.derived(name, text, reports);
                }
            }
            Some(("derived", name)) => self.derived(name, text, reports),
            Some((view, feature)) => self.view(view, feature, text, reports),
        }
    }

    fn input(&mut self, text: Text<'_>, reports: &mut Reports<'_>) {
        let name = text.value;
        if let Some(input) = self.scope.inputs.iter().find(|input| input.name == name) {
            let origin = FeatureOrigin::Input { name: name.to_owned() };
            self.push(
                ModelFeature {
                    name: name.to_owned(),
                    data_type: input.data_type,
                    origin,
                },
                text,
                reports,
            );
            return;
        }
        let help = if self.scope.view(name).is_some() || self.scope.broken_views.contains(&name) {
            Some(format!("for all features of view `{name}`, write `{name}.*`"))
        } else if self.derived.names().any(|derived| derived == name) {
            did_you_mean(Some(&format!("derived.{name}")))
        } else {
            let names = self.scope.inputs.iter().map(|input| input.name.as_str());
            choose(name, "inputs", names)
        };
        reports.add(
            &text.place(),
            "unknown-input",
            format!("there is no input `{name}`"),
            help,
        );
    }

    fn derived(&mut self, name: &str, text: Text<'_>, reports: &mut Reports<'_>) {
        if let Some(data_type) = self.derived.data_type(name) {
            let origin = FeatureOrigin::Derived { name: name.to_owned() };
            self.push(
                ModelFeature {
                    name: format!("derived.{name}"),
                    data_type,
                    origin,
                },
                text,
                reports,
            );
        } else if !self.derived.names().any(|known| known == name) {
            let message = format!("there is no derived feature `{name}`");
            let help = match nearest(name, self.derived.names()) {
                Some(nearest) => did_you_mean(Some(nearest)),
                None => Some(format!("add derived.{name} = \"expression\"")),
            };
            reports.add(&text.place(), "unknown-feature", message, help);
        }
    }

    fn view(&mut self, view: &str, feature: &str, text: Text<'_>, reports: &mut Reports<'_>) {
        let Some(found) = self.scope.view(view) else {
            if !self.scope.broken_views.contains(&view) {
                let help = choose(view, "views", self.scope.view_names().chain(["derived"]));
                reports.add(
                    &text.place(),
                    "unknown-view",
                    format!("there is no view `{view}`"),
                    help,
                );
            }
            return;
        };
        let definition = &found.definition;
        if !self.used.iter().any(|(used, _)| used.name == definition.name) {
            self.used.push((definition, text.place()));
        }
        let mut matched = false;
        for candidate in &definition.features {
            if feature != "*" && feature != candidate.name {
                continue;
            }
            matched = true;
            let entry = ModelFeature {
                name: format!("{view}.{}", candidate.name),
                data_type: candidate.data_type,
                origin: FeatureOrigin::View {
                    feature: FeatureRef::new(view, &candidate.name),
                },
            };
            self.push(entry, text, reports);
        }
        if !matched && feature != "*" && !found.broken.iter().any(|broken| broken == feature) {
            let names = definition.features.iter().map(|feature| feature.name.as_str());
            let message = format!("view `{view}` has no feature `{feature}`");
            reports.add(
                &text.place(),
                "unknown-feature",
                message,
                choose(feature, "features", names),
            );
        }
    }

    fn push(&mut self, entry: ModelFeature, text: Text<'_>, reports: &mut Reports<'_>) {
        if let Some((_, first)) = self.entries.iter().find(|(known, _)| known.name == entry.name) {
            let message = format!(
                "`{}` is in the vector twice: first in {}",
                entry.name,
                reports.line_of(first)
            );
            reports.add(
                &text.place(),
                "duplicate-name",
                message,
                Some("remove one of them".to_owned()),
            );
            return;
        }
        self.entries.push((entry, text.place()));
    }
}

/// Every key column of every view used must be an input: it is how a caller names the entity.
fn check_keys(used: &[(&ViewDefinition, Place)], inputs: &[Field], table: &Section<'_>, reports: &mut Reports<'_>) {
    let mut seen = HashSet::new();
    for (view, place) in used {
        // A view used by the vector and by derived features is checked once, where it is used first.
        if !seen.insert(view.name.as_str()) {
            continue;
        }
        for key in &view.key {
            match inputs.iter().find(|input| input.name == key.name) {
                None => {
                    let message = format!("view `{}` needs its key `{}`, which is no input", view.name, key.name);
                    let help = format!("add {} = \"{}\" to `inputs`", key.name, key.data_type);
                    reports.add(place, "missing-key-input", message, Some(help));
                }
                Some(input) if !same_entity(input.data_type, key.data_type) => {
                    let message = format!(
                        "input `{}` is {}, but view `{}` has it as {}",
                        key.name, input.data_type, view.name, key.data_type
                    );
                    let place = table
                        .get(&key.name)
                        .map_or_else(|| place.clone(), |(_, node)| node.place());
                    reports.add(&place, "key-type", message, Some(format!("use \"{}\"", key.data_type)));
                }
                Some(_) => {}
            }
        }
    }
}

/// Integers of both widths name the same entities: their keys have the same bytes.
fn same_entity(input: DataType, key: DataType) -> bool {
    let is_integer = |data_type| matches!(data_type, DataType::I32 | DataType::I64);
    input == key || (is_integer(input) && is_integer(key))
}
