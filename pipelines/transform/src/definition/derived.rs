//! A model's derived features: expressions over inputs, view features and each other, put in an order in which each
//! only uses earlier ones.

use super::name;
use super::report::{Place, Reports};
use super::tree::{Section, Text, Word};
use super::typed::{self, arrow_schema};
use super::view::CompiledView;
use crate::expression::Expression;
use ondol_vocabulary::{DataType, FeatureDefinition, FeatureKind, FeatureRef, Field, ViewDefinition};
use std::collections::BTreeSet;

/// What a model's expressions and vector may name.
pub(super) struct InScope<'m> {
    pub(super) inputs: &'m [Field],
    pub(super) views: &'m [CompiledView],
    pub(super) broken_views: &'m [&'m str],
}

impl<'m> InScope<'m> {
    pub(super) fn view(&self, name: &str) -> Option<&'m CompiledView> {
        self.views.iter().find(|view| view.definition.name == name)
    }

    pub(super) fn view_names(&self) -> impl Iterator<Item = &'m str> + Clone {
        self.views
            .iter()
            .map(|view| view.definition.name.as_str())
            .chain(self.broken_views.iter().copied())
    }

    /// Whether `name` (`view.feature`) stands for something whose own error is reported elsewhere.
    fn is_broken(&self, name: &str) -> bool {
        let Some((view, feature)) = name.split_once('.') else {
            return false;
        };
        self.broken_views.contains(&view)
            || self
                .view(view)
                .is_some_and(|view| view.broken.iter().any(|broken| broken == feature))
    }
}

/// The derived features of a model.
pub(super) struct Derived {
    /// In declared order, right or wrong.
    declared: Vec<String>,
    /// Those that are right, each after those that it uses.
    ordered: Vec<Compiled>,
}

struct Compiled {
    definition: FeatureDefinition,
    /// What its expression reads, in order of first use.
    columns: Vec<String>,
    place: Place,
}

/// What a vector needs of the derived features.
pub(super) struct Closure {
    pub(super) definitions: Vec<FeatureDefinition>,
    pub(super) needs: Vec<FeatureRef>,
}

impl Derived {
    pub(super) fn compile(section: &Section<'_>, scope: &InScope<'_>, reports: &mut Reports<'_>) -> Self {
        let mut derived = Self {
            declared: Vec::new(),
            ordered: Vec::new(),
        };
        let Some((word, node)) = section.get("derived") else {
            return derived;
        };
        let Some(table) = node.section(word, &format!("{}.derived", section.title), reports) else {
            return derived;
        };
        let mut pending = Vec::new();
        for (word, node) in table.entries() {
            name::check("derived feature", word, reports);
            derived.declared.push(word.text.to_owned());
            if let Some(text) = node.string(&format!("`derived.{}`", word.text), reports) {
                pending.push((word.clone(), text));
            }
        }
        let graph = Graph::new(pending);
        for index in graph.order(reports) {
            let (word, text) = &graph.nodes[index];
            derived.add(word, *text, scope, reports);
        }
        derived
    }

    fn add(&mut self, word: &Word<'_>, text: Text<'_>, scope: &InScope<'_>, reports: &mut Reports<'_>) {
        let names = Expression::names(text.value).unwrap_or_default();
        if names.iter().any(|name| scope.is_broken(name) || self.is_broken(name)) {
            return;
        }
        let schema = arrow_schema(&self.columns(scope));
        let Some(typed) = typed::plan(text, 0..text.value.len(), &schema, reports) else {
            return;
        };
        let definition = FeatureDefinition {
            name: word.text.to_owned(),
            expression: text.value.to_owned(),
            kind: FeatureKind::LatestRow { expression: typed.text },
            data_type: typed.data_type,
            default: None,
        };
        self.ordered.push(Compiled {
            definition,
            columns: typed.expression.columns(),
            place: text.place(),
        });
    }

    /// Declared, and not yet right although what it uses was compiled before: its own error is reported.
    fn is_broken(&self, name: &str) -> bool {
        name.strip_prefix("derived.")
            .is_some_and(|name| self.declared.iter().any(|known| known == name) && self.data_type(name).is_none())
    }

    /// What the next derived feature may read.
    fn columns(&self, scope: &InScope<'_>) -> Vec<Field> {
        let mut columns = scope.inputs.to_vec();
        for view in scope.views {
            let view = &view.definition;
            columns.extend(view.features.iter().map(|feature| Field {
                name: format!("{}.{}", view.name, feature.name),
                data_type: feature.data_type,
            }));
        }
        columns.extend(self.ordered.iter().map(|derived| Field {
            name: format!("derived.{}", derived.definition.name),
            data_type: derived.definition.data_type,
        }));
        columns
    }

    /// Names in declared order, of those too that are wrong.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.declared.iter().map(String::as_str)
    }

    /// The type of a derived feature that is right.
    pub(super) fn data_type(&self, name: &str) -> Option<DataType> {
        let found = self.ordered.iter().find(|derived| derived.definition.name == name);
        found.map(|derived| derived.definition.data_type)
    }

    /// The views that derived features read, and where.
    pub(super) fn used_views<'m>(&self, scope: &InScope<'m>) -> Vec<(&'m ViewDefinition, Place)> {
        let mut used = Vec::new();
        for derived in &self.ordered {
            for column in &derived.columns {
                let view = column.split_once('.').and_then(|(view, _)| scope.view(view));
                used.extend(view.map(|view| (&view.definition, derived.place.clone())));
            }
        }
        used
    }

    /// The derived features that `wanted` ones need, themselves included, and the view features that all of them read.
    pub(super) fn closure<'n>(&self, wanted: impl Iterator<Item = &'n str>) -> Closure {
        let mut needed: BTreeSet<&str> = wanted.collect();
        // Users stand after what they use: one pass backwards finds all.
        for derived in self.ordered.iter().rev() {
            if needed.contains(derived.definition.name.as_str()) {
                needed.extend(
                    derived
                        .columns
                        .iter()
                        .filter_map(|column| column.strip_prefix("derived.")),
                );
            }
        }
        let kept: Vec<_> = self
            .ordered
            .iter()
            .filter(|derived| needed.contains(derived.definition.name.as_str()))
            .collect();
        let mut needs = Vec::new();
        for column in kept.iter().flat_map(|derived| &derived.columns) {
            if let Some((view, feature)) = column.split_once('.').filter(|(view, _)| *view != "derived") {
                let need = FeatureRef::new(view, feature);
                if !needs.contains(&need) {
                    needs.push(need);
                }
            }
        }
        Closure {
            definitions: kept.into_iter().map(|derived| derived.definition.clone()).collect(),
            needs,
        }
    }
}

/// Derived features and which of them each uses.
struct Graph<'a> {
    nodes: Vec<(Word<'a>, Text<'a>)>,
    uses: Vec<Vec<usize>>,
}

impl<'a> Graph<'a> {
    fn new(nodes: Vec<(Word<'a>, Text<'a>)>) -> Self {
        let index = |name: &str| {
            let name = name.strip_prefix("derived.")?;
            nodes.iter().position(|(word, _)| word.text == name)
        };
        // A text that does not parse uses nothing; its error is reported when it is planned.
        let uses = nodes.iter().map(|(_, text)| {
            let names = Expression::names(text.value).unwrap_or_default();
            names.iter().filter_map(|name| index(name)).collect()
        });
        let uses = uses.collect();
        Self { nodes, uses }
    }

    /// Indexes in declared order, except that each comes after what it uses. Those of a cycle, and their users, are
    /// left out; each cycle is reported.
    fn order(&self, reports: &mut Reports<'_>) -> Vec<usize> {
        let mut order: Vec<usize> = Vec::with_capacity(self.nodes.len());
        let mut done = vec![false; self.nodes.len()];
        let is_ready = |index: &usize, done: &[bool]| !done[*index] && self.uses[*index].iter().all(|used| done[*used]);
        while let Some(index) = (0..self.nodes.len()).find(|index| is_ready(index, &done)) {
            done[index] = true;
            order.push(index);
        }
        let mut reported = BTreeSet::new();
        for index in 0..self.nodes.len() {
            if !done[index] && !reported.contains(&index) {
                let cycle = self.cycle_from(index, &done);
                if cycle.iter().all(|member| reported.insert(*member)) {
                    self.report(&cycle, reports);
                }
            }
        }
        order
    }

    /// Follows first unordered uses from `start` until one repeats: every unordered node has one.
    fn cycle_from(&self, start: usize, done: &[bool]) -> Vec<usize> {
        let mut path = vec![start];
        while let Some(next) = path
            .last()
            .and_then(|last| self.uses[*last].iter().find(|used| !done[**used]).copied())
        {
            if let Some(begin) = path.iter().position(|seen| *seen == next) {
                path.drain(..begin);
                return path;
            }
            path.push(next);
        }
        path
    }

    fn report(&self, cycle: &[usize], reports: &mut Reports<'_>) {
        let names = cycle
            .iter()
            .chain(cycle.first())
            .map(|index| format!("derived.{}", self.nodes[*index].0.text));
        let message = format!(
            "derived features use each other: {}",
            names.collect::<Vec<_>>().join(" → ")
        );
        if let Some((word, _)) = cycle.first().map(|index| &self.nodes[*index]) {
            let help = "break the cycle: a derived feature may only use features that don't use it";
            reports.add(&word.place, "cycle", message, Some(help.to_owned()));
        }
    }
}
