//! What requests execute: every model's versions and its compiled routing, in a table that is replaced whole.

use crate::fault::{invalid, nearest};
use crate::models::Version;
use crate::route::bulkhead::Bulkhead;
use crate::route::history::StoredRevision;
use crate::route::key::KeyHash;
use crate::route::rules::Rule;
use crate::route::values::conformed;
use crate::shadow::Track;
use http::HeaderMap;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::{Routing, Target};
use ondol_vocabulary::{Field, ModelPolicy, Remedy, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Every model that has a version, by name.
pub type Table = HashMap<String, Arc<ModelRoutes>>;

/// One model's versions and routing. Immutable.
#[derive(Debug)]
pub struct ModelRoutes {
    /// The model's name.
    pub name: String,
    /// Its registered versions, oldest first; at least one.
    pub versions: Vec<Arc<Version>>,
    /// The routing it was compiled from.
    pub revision: Arc<StoredRevision>,
    /// What it may have under way.
    pub bulkhead: Arc<Bulkhead>,
    /// Versions that score what was served.
    pub shadows: Vec<Arc<Track>>,
    default: Choice,
    rules: Vec<Rule>,
    split: Option<Split>,
}

/// The version of a request, and why it.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The version.
    pub version: Arc<Version>,
    /// The way it was found.
    pub route: Arc<str>,
}

/// The versions of a batch.
#[derive(Clone, Debug)]
pub enum Choices {
    /// One for all requests.
    All(Choice),
    /// One per request.
    Each(Vec<Choice>),
}

/// Shares, ready to be looked up: a place in `choices` per slot.
#[derive(Debug)]
struct Split {
    model: String,
    keys: Vec<Field>,
    slots: Vec<u8>,
    choices: Vec<Choice>,
}

impl ModelRoutes {
    /// Compiles the routing of a model with `versions`, oldest first.
    pub fn compile(
        name: &str,
        versions: Vec<Arc<Version>>,
        revision: Arc<StoredRevision>,
        bulkhead: Arc<Bulkhead>,
        shadows: Vec<Arc<Track>>,
    ) -> Result<Self, ModelGatewayError> {
        let routing = &revision.revision.routing;
        let default = default_version(routing, &versions)
            .ok_or_else(|| ModelGatewayError::NothingRegistered { name: name.to_owned() })?;
        let inputs = &default.record.definition.inputs;
        let choice = |version: u32, route: &str| {
            let version = find(&versions, version)?;
            Some(Choice {
                version: Arc::clone(version),
                route: route.into(),
            })
        };
        let mut rules = Vec::with_capacity(routing.rules.len());
        for (place, rule) in routing.rules.iter().enumerate() {
            let label = rule.name.clone().unwrap_or_else(|| (place + 1).to_string());
            let target = routing.resolve(&rule.to);
            let target = target.and_then(|version| choice(version, &format!("rule {label}")));
            let target = target.ok_or_else(|| unknown_target(&format!("rules[{place}].to"), &rule.to, name))?;
            rules.push(Rule::compile(rule, place, inputs, target)?);
        }
        let split = match &revision.layout {
            None => None,
            Some(layout) => {
                let mut places: Vec<u32> = layout.shares().into_keys().collect();
                places.truncate(usize::from(u8::MAX));
                let choices = places.iter().map(|version| {
                    let missing = || unknown_target("split", &Target::Version(*version), name);
                    choice(*version, "split").ok_or_else(missing)
                });
                let choices = choices.collect::<Result<Vec<_>, _>>()?;
                let place = |version: &u32| places.iter().position(|known| known == version).unwrap_or(0);
                // At most 255 places, so each fits.
                let slots = layout.versions().iter().map(|version| place(version) as u8).collect();
                let keys = routing.sticky_by.iter();
                let keys = keys
                    .filter_map(|key| inputs.iter().find(|input| input.name == *key))
                    .cloned();
                Some(Split {
                    model: name.to_owned(),
                    keys: keys.collect(),
                    slots,
                    choices,
                })
            }
        };
        Ok(Self {
            default: Choice {
                version: Arc::clone(default),
                route: "default".into(),
            },
            name: name.to_owned(),
            versions,
            bulkhead,
            shadows,
            rules,
            split,
            revision,
        })
    }

    /// The version that serves what nothing else routes.
    pub fn default_version(&self) -> &Arc<Version> {
        &self.default.version
    }

    /// The same, and by which way it is found.
    pub fn default_choice(&self) -> &Choice {
        &self.default
    }

    /// The versions that a request may reach without naming one: the default, aliases, rules, shares, shadows, and what
    /// the model's `policy` has stand in.
    pub fn live(&self, policy: Option<&ModelPolicy>) -> BTreeSet<u32> {
        let routing = &self.revision.revision.routing;
        let mut live = BTreeSet::from([self.default_version().record.registered.model.version]);
        live.extend(routing.aliases.values());
        let targets = routing.rules.iter().map(|rule| &rule.to);
        let targets = targets.chain(routing.split.iter().map(|share| &share.to));
        let targets = targets.chain(routing.shadow.iter().map(|shadow| &shadow.version));
        live.extend(targets.filter_map(|target| routing.resolve(target)));
        if let Some(policy) = policy {
            let remedies = [policy.stale, policy.missing, policy.unavailable, policy.changed];
            live.extend(remedies.into_iter().filter_map(|remedy| match remedy {
                Remedy::Version(version) => Some(version),
                Remedy::Serve | Remedy::Default | Remedy::Reject => None,
            }));
        }
        live
    }

    /// The version that a caller names after the `@`: a number or an alias.
    pub fn named(&self, reference: &str) -> Option<Choice> {
        let (version, route) = match reference.parse() {
            Ok(version) => (version, "pinned".to_owned()),
            Err(_) => {
                let alias = self.revision.revision.routing.aliases.get(reference);
                (*alias?, format!("alias {reference}"))
            }
        };
        Some(Choice {
            version: Arc::clone(find(&self.versions, version)?),
            route: route.into(),
        })
    }

    /// The nearest thing to `reference` that names a version.
    pub fn nearest(&self, reference: &str) -> Option<String> {
        let newest = self.versions.last()?.record.registered.model.to_string();
        let aliases = self.revision.revision.routing.aliases.keys().map(String::as_str);
        let alias = nearest(reference, aliases).filter(|_| reference.parse::<u32>().is_err());
        Some(alias.map_or(newest, |alias| format!("{}@{alias}", self.name)))
    }

    /// The versions of the requests of a call with `headers`.
    pub fn choose(
        &self,
        headers: &HeaderMap,
        instances: &[BTreeMap<String, Value>],
    ) -> Result<Choices, ModelGatewayError> {
        if self.rules.is_empty() && self.split.is_none() {
            return Ok(Choices::All(self.default.clone()));
        }
        let mut chosen: Vec<Option<Choice>> = vec![None; instances.len()];
        for rule in self.rules.iter().filter(|rule| rule.takes(headers)) {
            let holds = rule.holds(instances)?;
            for (row, place) in chosen.iter_mut().enumerate() {
                let matches = holds
                    .as_ref()
                    .is_none_or(|holds| holds.get(row).copied().unwrap_or(false));
                if place.is_none() && matches {
                    *place = Some(rule.choice.clone());
                }
            }
        }
        let rest = |instance: &BTreeMap<String, Value>| match &self.split {
            Some(split) => split.choice(instance).unwrap_or(&self.default).clone(),
            None => self.default.clone(),
        };
        let chosen = chosen.into_iter().zip(instances);
        Ok(Choices::Each(
            chosen
                .map(|(choice, instance)| choice.unwrap_or_else(|| rest(instance)))
                .collect(),
        ))
    }
}

impl Split {
    fn choice(&self, instance: &BTreeMap<String, Value>) -> Option<&Choice> {
        let hash = self.keys.iter().fold(KeyHash::of(&self.model), |hash, field| {
            hash.and(&conformed(field, instance))
        });
        let place = self.slots.get(usize::from(hash.slot()))?;
        self.choices.get(usize::from(*place))
    }
}

/// The version that serves what nothing else routes: the champion, or the newest one.
pub fn default_version<'v>(routing: &Routing, versions: &'v [Arc<Version>]) -> Option<&'v Arc<Version>> {
    match routing.aliases.get(Routing::CHAMPION) {
        Some(champion) => find(versions, *champion),
        None => versions.last(),
    }
}

/// Version `number` among `versions`.
pub fn find(versions: &[Arc<Version>], number: u32) -> Option<&Arc<Version>> {
    versions
        .iter()
        .find(|version| version.record.registered.model.version == number)
}

/// A target that stands for nothing.
pub fn unknown_target(field: &str, target: &Target, model: &str) -> ModelGatewayError {
    invalid(format!(
        "`{field}` is `{target}`, which is neither a registered version of `{model}` nor one of `aliases`: register it, or \
         add the alias"
    ))
}
