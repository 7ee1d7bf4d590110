//! A routing as someone wrote it, checked against what is registered and completed: nothing behind checks it again.
//!
//! Completed means that what would otherwise depend on the moment is written down: the champion where the document needs
//! one, and the inputs that requests stick by.

use crate::fault::{did_you_mean, invalid};
use crate::models::Version;
use crate::route::rules::Rule;
use crate::route::slots::{Layout, SLOTS};
use crate::route::table::{Choice, default_version, find, unknown_target};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::{Limits, Routing, Target};
use ondol_vocabulary::{Field, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most versions of one split.
const MOST_SHARES: usize = 32;

/// What a document is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// The model.
    pub model: &'a str,
    /// Its registered versions, oldest first.
    pub versions: &'a [Arc<Version>],
    /// The definitions in force.
    pub snapshot: &'a Snapshot,
}

impl Ground<'_> {
    /// `routing`, completed, or what is wrong with it.
    pub fn complete(&self, mut routing: Routing) -> Result<Routing, ModelGatewayError> {
        let newest = self
            .versions
            .last()
            .ok_or_else(|| ModelGatewayError::NothingRegistered {
                name: self.model.to_owned(),
            })?;
        let needs_champion = !(routing.rules.is_empty() && routing.split.is_empty() && routing.shadow.is_empty());
        if needs_champion && !routing.aliases.contains_key(Routing::CHAMPION) {
            let newest = newest.record.registered.model.version;
            routing.aliases.insert(Routing::CHAMPION.to_owned(), newest);
        }
        self.check_aliases(&routing)?;
        let champion = default_version(&routing, self.versions).unwrap_or(newest);
        let inputs = &champion.record.definition.inputs;
        if routing.sticky_by.is_empty() && !routing.split.is_empty() {
            routing.sticky_by = self.sticky_by(champion);
        }
        check_sticky(&routing.sticky_by, inputs)?;
        self.check_rules(&routing, champion)?;
        self.check_split(&routing, champion)?;
        self.check_shadows(&routing, champion)?;
        check_limits(&routing.limits)?;
        if routing.max_in_flight == Some(0) {
            return Err(invalid("`max_in_flight` is 0: allow at least 1, or leave it out"));
        }
        Ok(routing)
    }

    fn check_aliases(&self, routing: &Routing) -> Result<(), ModelGatewayError> {
        for (alias, version) in &routing.aliases {
            let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
            if alias.is_empty() || alias.len() > 64 || !alias.chars().all(plain) || alias.parse::<u32>().is_ok() {
                return Err(invalid(format!(
                    "`aliases` has `{alias}`: a name has letters, digits, `-`, `_` and `.`, and is no number"
                )));
            }
            if find(self.versions, *version).is_none() {
                let model = self.model;
                let known: Vec<String> = self
                    .versions
                    .iter()
                    .map(|version| version.record.registered.model.version.to_string())
                    .collect();
                return Err(invalid(format!(
                    "`aliases.{alias}` is {version}, which is no registered version of `{model}` (those are {})",
                    known.join(", ")
                )));
            }
        }
        Ok(())
    }

    /// The join keys of the views that `version` reads, or all its inputs when it reads none.
    fn sticky_by(&self, version: &Version) -> Vec<String> {
        let definition = &version.record.definition;
        let features = definition.view_features();
        let views = features.iter().filter_map(|feature| self.snapshot.resolve(feature));
        let keys: BTreeSet<&str> = views
            .flat_map(|(view, _)| view.definition.key.iter().map(|key| key.name.as_str()))
            .collect();
        let of_key = |input: &&Field| keys.is_empty() || keys.contains(input.name.as_str());
        let inputs = definition.inputs.iter().filter(of_key);
        inputs.map(|input| input.name.clone()).collect()
    }

    /// The version that `target` stands for, which takes the same inputs as the champion.
    fn reachable(
        &self,
        routing: &Routing,
        field: &str,
        target: &Target,
        champion: &Version,
    ) -> Result<Arc<Version>, ModelGatewayError> {
        let version = self.version(routing, field, target)?;
        if version.record.definition.inputs != champion.record.definition.inputs {
            return Err(invalid(format!(
                "`{field}` is `{target}`: `{}` takes other inputs than the champion `{}`, so a caller can't know what to \
                 send: give it an alias that callers name",
                version.record.registered.model, champion.record.registered.model
            )));
        }
        Ok(version)
    }

    fn version(&self, routing: &Routing, field: &str, target: &Target) -> Result<Arc<Version>, ModelGatewayError> {
        let version = routing.resolve(target).and_then(|version| find(self.versions, version));
        version.cloned().ok_or_else(|| match target {
            Target::Alias(alias) => {
                let near = did_you_mean(alias, routing.aliases.keys().map(String::as_str));
                invalid(format!("`{field}` is `{alias}`, which is not among `aliases`{near}"))
            }
            Target::Version(_) => unknown_target(field, target, self.model),
        })
    }

    fn check_rules(&self, routing: &Routing, champion: &Version) -> Result<(), ModelGatewayError> {
        let mut names = BTreeSet::new();
        for (place, rule) in routing.rules.iter().enumerate() {
            if let Some(name) = rule.name.as_ref().filter(|name| !names.insert(name.as_str())) {
                return Err(invalid(format!(
                    "`rules[{place}].name` is `{name}`, which another rule has too"
                )));
            }
            let version = self.reachable(routing, &format!("rules[{place}].to"), &rule.to, champion)?;
            let choice = Choice {
                version,
                route: "rule".into(),
            };
            Rule::compile(rule, place, &champion.record.definition.inputs, choice)?;
        }
        Ok(())
    }

    fn check_split(&self, routing: &Routing, champion: &Version) -> Result<(), ModelGatewayError> {
        if routing.split.len() > MOST_SHARES {
            return Err(invalid(format!(
                "`split` has {} shares, at most {MOST_SHARES} are taken",
                routing.split.len()
            )));
        }
        let mut sum = 0_u32;
        for (place, share) in routing.split.iter().enumerate() {
            let slots = slots_of(share.percent).ok_or_else(|| {
                invalid(format!(
                    "`split[{place}].percent` is {}: give it from 0 to 100, with at most two decimals",
                    share.percent
                ))
            })?;
            sum += u32::from(slots);
            self.reachable(routing, &format!("split[{place}].to"), &share.to, champion)?;
        }
        if sum != u32::from(SLOTS) && !routing.split.is_empty() {
            return Err(invalid(format!(
                "the shares of `split` add up to {} percent: they must add up to 100",
                f64::from(sum) / 100.0
            )));
        }
        Ok(())
    }

    fn check_shadows(&self, routing: &Routing, champion: &Version) -> Result<(), ModelGatewayError> {
        let mut known = BTreeSet::new();
        for (place, shadow) in routing.shadow.iter().enumerate() {
            let field = format!("shadow[{place}]");
            let version = self.version(routing, &format!("{field}.version"), &shadow.version)?;
            let number = version.record.registered.model.version;
            if number == champion.record.registered.model.version {
                return Err(invalid(format!(
                    "`{field}.version` is `{}`, which is the champion: a shadow is compared with what serves",
                    shadow.version
                )));
            }
            if !known.insert(number) {
                return Err(invalid(format!(
                    "`{field}.version` is `{}`, which is there twice",
                    shadow.version
                )));
            }
            if !(shadow.sample_percent > 0.0 && shadow.sample_percent <= 100.0) {
                return Err(invalid(format!(
                    "`{field}.sample_percent` is {}: give it above 0 and up to 100",
                    shadow.sample_percent
                )));
            }
            if shadow.flip_at.is_some_and(|score| !score.is_finite()) {
                return Err(invalid(format!(
                    "`{field}.flip_at` is no number: give the score at which a decision turns"
                )));
            }
        }
        Ok(())
    }
}

fn check_sticky(sticky_by: &[String], inputs: &[Field]) -> Result<(), ModelGatewayError> {
    for (place, name) in sticky_by.iter().enumerate() {
        if !inputs.iter().any(|input| input.name == *name) {
            let known = || inputs.iter().map(|input| input.name.as_str());
            return Err(invalid(format!(
                "`sticky_by[{place}]` is `{name}`, which is no input of the model{} (it takes {})",
                did_you_mean(name, known()),
                known().collect::<Vec<_>>().join(", ")
            )));
        }
        if sticky_by.iter().take(place).any(|earlier| earlier == name) {
            return Err(invalid(format!("`sticky_by` has `{name}` twice")));
        }
    }
    Ok(())
}

fn check_limits(limits: &Limits) -> Result<(), ModelGatewayError> {
    let rates = [
        ("max_error_rate", limits.max_error_rate),
        ("max_flip_rate", limits.max_flip_rate),
    ];
    for (name, rate) in rates {
        if let Some(rate) = rate.filter(|rate| !(0.0..=1.0).contains(rate)) {
            return Err(invalid(format!(
                "`limits.{name}` is {rate}: give a share of 1, such as 0.01"
            )));
        }
    }
    let sizes = [
        ("max_p99_ms", limits.max_p99_ms),
        ("max_mean_difference", limits.max_mean_difference),
    ];
    for (name, size) in sizes {
        if let Some(size) = size.filter(|size| !size.is_finite() || *size < 0.0) {
            return Err(invalid(format!("`limits.{name}` is {size}: give a number from 0 on")));
        }
    }
    if limits.withdraw_canary && limits.max_error_rate.is_none() && limits.max_p99_ms.is_none() {
        return Err(invalid(
            "`limits.withdraw_canary` is set without `max_error_rate` or `max_p99_ms`: nothing could ever break",
        ));
    }
    Ok(())
}

/// A share in percent as slots, if it has at most two decimals.
fn slots_of(percent: f64) -> Option<u16> {
    let slots = percent * f64::from(SLOTS) / 100.0;
    let whole = slots.round();
    let fits = (0.0..=f64::from(SLOTS)).contains(&whole) && (slots - whole).abs() < 1e-6;
    fits.then_some(whole as u16)
}

/// Where the keys of a completed routing are, after those of `before`, whose requests without a split all went to
/// `default`.
pub fn layout(routing: &Routing, before: Option<&Layout>, default: u32) -> Option<Layout> {
    if routing.split.is_empty() {
        return None;
    }
    let mut wanted: BTreeMap<u32, u16> = BTreeMap::new();
    for share in &routing.split {
        if let (Some(version), Some(slots)) = (routing.resolve(&share.to), slots_of(share.percent)) {
            *wanted.entry(version).or_default() += slots;
        }
    }
    wanted.retain(|_, slots| *slots > 0);
    let whole = Layout::whole(default);
    Some(before.unwrap_or(&whole).with_shares(&wanted))
}
