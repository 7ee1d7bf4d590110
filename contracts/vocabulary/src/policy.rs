//! What a model wants done when its features are not what it hopes for, and what is kept of its decisions. Part of the
//! model's definition, so that it is reviewed with it; the newest definition's policy holds for every registered version.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// What to do about features that are not fresh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelPolicy {
    /// Of a value older than its view's time to live.
    #[schema(value_type = String, example = "serve")]
    pub stale: Remedy,
    /// Of an entity that has no row.
    #[schema(value_type = String, example = "default")]
    pub missing: Remedy,
    /// Of a feature store that does not answer, or not in time.
    #[schema(value_type = String, example = "reject")]
    pub unavailable: Remedy,
    /// Of a feature whose definition is no longer the one the version was registered with.
    #[schema(value_type = String, example = "serve")]
    pub changed: Remedy,
    /// How long the lookup may take at most, in milliseconds, whatever the deadline leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lookup_ms: Option<u64>,
}

impl Default for ModelPolicy {
    fn default() -> Self {
        Self {
            stale: Remedy::Serve,
            missing: Remedy::Serve,
            unavailable: Remedy::Reject,
            changed: Remedy::Serve,
            lookup_ms: None,
        }
    }
}

impl ModelPolicy {
    /// Whether it is the one of a model that names none.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What to do about one kind of trouble. Written `serve`, `default`, `reject` or `fraud@2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Remedy {
    /// Score with what there is, as the model was trained: null, or the default that the feature declares.
    #[default]
    Serve,
    /// Score with the default that the feature declares, null where it declares none.
    Default,
    /// Let that registered version of the same model score instead.
    Version(u32),
    /// Refuse the request.
    Reject,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serve => f.write_str("serve"),
            Self::Default => f.write_str("default"),
            Self::Version(version) => write!(f, "@{version}"),
            Self::Reject => f.write_str("reject"),
        }
    }
}

impl FromStr for Remedy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "serve" => Ok(Self::Serve),
            "default" => Ok(Self::Default),
            "reject" => Ok(Self::Reject),
            _ => text
                .strip_prefix('@')
                .and_then(|version| version.parse().ok())
                .filter(|version| *version > 0)
                .map(Self::Version)
                .ok_or_else(|| format!("`{text}` is no remedy: use serve, default, reject or a version such as @2")),
        }
    }
}

impl TryFrom<String> for Remedy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Remedy> for String {
    fn from(remedy: Remedy) -> Self {
        remedy.to_string()
    }
}

/// What is kept of a model's decisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DecisionPolicy {
    /// How many of a million requests are recorded, chosen by request id.
    pub sample_ppm: u32,
    /// Whether an answer waits until its decision is durable, and fails when it can't be.
    pub audit: Audit,
}

impl DecisionPolicy {
    /// Every request, in [`Self::sample_ppm`].
    pub const EVERY: u32 = 1_000_000;

    /// Whether it is the one of a model that names none.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for DecisionPolicy {
    fn default() -> Self {
        Self {
            sample_ppm: Self::EVERY,
            audit: Audit::BestEffort,
        }
    }
}

/// What an answer owes its decision's record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Audit {
    /// Nothing: the record is written aside, and dropped and counted when there is no room.
    #[default]
    BestEffort,
    /// The answer waits until the record is durable.
    Required,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remedy_is_written_as_it_is_read() {
        for text in ["serve", "default", "reject", "@12"] {
            assert_eq!(text.parse::<Remedy>().unwrap().to_string(), text);
        }
        for wrong in ["", "@0", "@", "fraud@2", "Serve"] {
            assert!(wrong.parse::<Remedy>().is_err(), "{wrong}");
        }
    }
}
