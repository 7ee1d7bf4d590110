//! What a served feature value is worth.

use serde::{Deserialize, Serialize};

/// The state of one feature value at the moment it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum FeatureStatus {
    /// Present and within its time to live.
    Fresh = 0,
    /// Older than its time to live: the value is withheld (null).
    Stale = 1,
    /// The entity has no row. Counts are 0, everything else is null.
    Missing = 2,
    /// The entity has a row; the value itself is null.
    Null = 3,
    /// The store did not answer, or not in time: nothing is known. Only the gateway says so; the store never does.
    Unavailable = 4,
}

impl FeatureStatus {
    /// The status whose wire number is `code`.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Fresh),
            1 => Some(Self::Stale),
            2 => Some(Self::Missing),
            3 => Some(Self::Null),
            4 => Some(Self::Unavailable),
            _ => None,
        }
    }

    /// The name used in JSON and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Missing => "missing",
            Self::Null => "null",
            Self::Unavailable => "unavailable",
        }
    }
}
