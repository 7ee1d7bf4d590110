//! How a model's requests find their version: the stored document, its changes, and what was measured by it.

use ondol_vocabulary::EventTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// How a model's requests find their version. In order: a version or alias that the caller names (`fraud@3`,
/// `fraud@canary`), the first rule that matches, the split, the alias `champion`, the newest registered version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Routing {
    /// Names for versions. `champion` serves what nothing else routes; without it the newest registered version does.
    pub aliases: BTreeMap<String, u32>,
    /// Looked at before the split, in order: the first that matches decides.
    pub rules: Vec<RoutingRule>,
    /// Shares of the requests that no rule takes; together 100 percent. Empty: all of them go to the champion.
    pub split: Vec<Share>,
    /// The inputs whose values decide a request's place in the split: the same values, the same version. Left empty
    /// when it is set, it becomes the model's join keys, or all its inputs when it has none.
    pub sticky_by: Vec<String>,
    /// Versions that score what was served, off the request's path.
    pub shadow: Vec<Shadow>,
    /// What a version must keep to be promoted, and a canary to stay.
    pub limits: Limits,
    /// Requests of this model under way at most; absent: the gateway's `max_in_flight_per_model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
}

/// A version, by its number or by an alias.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Target {
    /// By its number.
    Version(u32),
    /// By an alias.
    Alias(String),
}

/// Sends requests that match to one version. Where both conditions are given, both must hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoutingRule {
    /// What it is called in decisions; absent: its place, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// An expression over the model's inputs that must be true: `amount > 1000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// A header the call must carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderMatch>,
    /// Where to.
    pub to: Target,
}

/// A header with a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderMatch {
    /// Its name, in any case.
    pub name: String,
    /// Its value, exactly.
    pub equals: String,
}

/// A share of the split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Where to.
    pub to: Target,
    /// How much, in percent, to two decimals.
    pub percent: f64,
}

/// A version that scores what was served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Shadow {
    /// Which version.
    pub version: Target,
    /// The score at which a decision turns: a flip is a request whose two scores lie on different sides. Absent: only
    /// predictions that are labels or lists of class scores can flip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flip_at: Option<f64>,
    /// How many of the served requests it scores, in percent.
    #[serde(default = "whole", skip_serializing_if = "is_whole")]
    pub sample_percent: f64,
}

fn whole() -> f64 {
    100.0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form serde asks for")]
fn is_whole(percent: &f64) -> bool {
    *percent >= 100.0
}

/// What a version must keep. A limit that is absent is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests that must have been measured before anything is concluded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_requests: Option<u64>,
    /// Failed requests, as a share of 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_error_rate: Option<f64>,
    /// The 99th percentile of the time a run of the model takes, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_p99_ms: Option<f64>,
    /// Flipped decisions, as a share of 1; measured by a shadow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_flip_rate: Option<f64>,
    /// The mean of the absolute difference between both scores; measured by a shadow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_mean_difference: Option<f64>,
    /// Whether a canary of the split that breaks `max_error_rate` or `max_p99_ms` is taken out of it at once.
    pub withdraw_canary: bool,
}

/// A change of a routing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoutingChange {
    /// The whole new document.
    pub routing: Routing,
    /// The revision it was made from; refused when another has come between. Absent: whatever it is.
    pub expected_revision: Option<u64>,
    /// Who changes it and why.
    pub remark: Remark,
}

/// Who changes something and why, for the history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Remark {
    /// Who. A gateway with authentication puts the caller's name in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A routing as it stands in the history, which is never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RoutingRevision {
    /// The model.
    pub model: String,
    /// Counts from 1 for each model; 0: nothing has been set.
    pub revision: u64,
    /// The document.
    pub routing: Routing,
    /// How it came to be.
    pub action: RoutingAction,
    /// When; absent for revision 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_at: Option<EventTime>,
    /// Who and why.
    #[serde(flatten)]
    pub remark: Remark,
    /// The limits that were not met and overridden by `force`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forced_past: Vec<String>,
    /// The revision whose document this one brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<u64>,
    /// Where requests that no rule takes go now: percent by version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, f64>)]
    pub effective: BTreeMap<u32, f64>,
}

/// How a revision came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoutingAction {
    /// Nothing has been set: the newest registered version serves.
    Unset,
    /// Someone wrote the document.
    Set,
    /// A version became the champion.
    Promote,
    /// An earlier revision was brought back.
    Rollback,
    /// The gateway took a canary out that broke its limits.
    Withdraw,
}

/// Makes a version the champion, if it keeps the routing's limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PromoteRequest {
    /// Which; absent: the alias `canary`, or the only version that the split or the shadows try beside the champion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Target>,
    /// Promote also what does not keep the limits. Recorded.
    pub force: bool,
    /// The revision the decision was made on; refused when another has come between.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_revision: Option<u64>,
    /// Who. A gateway with authentication puts the caller's name in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Brings an earlier routing back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RollbackRequest {
    /// Which revision; absent: the one before. Repeating it goes back further.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_revision: Option<u64>,
    /// Who. A gateway with authentication puts the caller's name in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What was measured of a model's versions by all replicas since its routing made them run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RoutingReport {
    /// The model.
    pub model: String,
    /// Versions that served, by version.
    pub live: Vec<LiveReport>,
    /// Shadows, by the version that served and the shadow.
    pub shadows: Vec<ShadowReport>,
}

/// What was measured of a version that served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LiveReport {
    /// Which version.
    pub version: u32,
    /// Since when.
    pub since: EventTime,
    /// Requests (rows of batches too) it scored or failed on.
    pub requests: u64,
    /// How many failed in the model.
    pub errors: u64,
    /// As a share of 1.
    pub error_rate: f64,
    /// Time of a run of the model.
    pub latency_ms: Quantiles,
}

/// What was measured of a shadow beside the version that served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ShadowReport {
    /// The version that served.
    pub served: u32,
    /// The shadow.
    pub shadow: u32,
    /// Since when.
    pub since: EventTime,
    /// Requests that both scored.
    pub compared: u64,
    /// Requests on which the shadow failed.
    pub errors: u64,
    /// Errors as a share of 1.
    pub error_rate: f64,
    /// Requests it did not score because the queue was full.
    pub dropped: u64,
    /// Requests whose vector it could not have, and why the last one.
    pub skipped: u64,
    /// Why requests were skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped_because: Option<String>,
    /// Absolute difference of both scores, its mean.
    pub mean_difference: f64,
    /// Its maximum.
    pub max_difference: f64,
    /// Its quantiles, each at most an eighth too large.
    pub difference: Quantiles,
    /// The score at which a decision turns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flip_at: Option<f64>,
    /// Decisions that turned.
    pub flips: u64,
    /// As a share of 1.
    pub flip_rate: f64,
    /// Time of a run of the shadow.
    pub latency_ms: Quantiles,
}

/// Quantiles of something measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Quantiles {
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
}

impl Routing {
    /// The alias that serves what nothing else routes.
    pub const CHAMPION: &'static str = "champion";
    /// The alias that is promoted when no version is named.
    pub const CANARY: &'static str = "canary";

    /// The version that `target` stands for; none when the alias is not set.
    pub fn resolve(&self, target: &Target) -> Option<u32> {
        match target {
            Target::Version(version) => Some(*version),
            Target::Alias(alias) => self.aliases.get(alias).copied(),
        }
    }
}

impl RoutingRevision {
    /// What stands before anything is set.
    pub fn unset(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            revision: 0,
            routing: Routing::default(),
            action: RoutingAction::Unset,
            changed_at: None,
            remark: Remark::default(),
            forced_past: Vec::new(),
            restores: None,
            effective: BTreeMap::new(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "{version}"),
            Self::Alias(alias) => f.write_str(alias),
        }
    }
}

impl FromStr for Target {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text
            .parse()
            .map_or_else(|_| Self::Alias(text.to_owned()), Self::Version))
    }
}

impl fmt::Display for RoutingAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unset => "unset",
            Self::Set => "set",
            Self::Promote => "promote",
            Self::Rollback => "rollback",
            Self::Withdraw => "withdraw",
        })
    }
}
