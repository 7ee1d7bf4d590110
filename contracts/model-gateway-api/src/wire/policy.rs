//! What an answer says when it was not made as the model hopes.

use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// Something that an answer was made in spite of, and what the model's policy made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Degradation {
    /// What was wrong.
    pub trouble: Trouble,
    /// What was done: `serve`, `default` or `@2`, the version that scored instead.
    pub remedy: String,
    /// The features and the reason, for people.
    pub detail: String,
}

/// What can be wrong with features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// Values older than their view's time to live.
    Stale,
    /// Entities that have no row.
    Missing,
    /// The feature store did not answer, or not in time.
    Unavailable,
    /// A feature's definition is no longer the one that the version was registered with.
    Changed,
}

impl Trouble {
    /// The name in answers, metrics and policies.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Missing => "missing",
            Self::Unavailable => "unavailable",
            Self::Changed => "changed",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
