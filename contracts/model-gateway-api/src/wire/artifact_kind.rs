//! The kinds of artifact a model version can be.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// What an artifact is, and so what runs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ArtifactKind {
    /// An ONNX file, run in process by ONNX Runtime. What versions registered before there were kinds are.
    #[default]
    Onnx,
    /// A LightGBM model in its own text form, evaluated in process.
    Lightgbm,
    /// An XGBoost model in its own form (JSON or UBJSON), evaluated in process.
    Xgboost,
    /// The description (TOML or JSON) of a model on another server.
    Upstream,
    /// The description (TOML or JSON) of a graph of registered models.
    Graph,
}

impl ArtifactKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Onnx, Self::Lightgbm, Self::Xgboost, Self::Upstream, Self::Graph];

    /// Its name on the wire and the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Onnx => "onnx",
            Self::Lightgbm => "lightgbm",
            Self::Xgboost => "xgboost",
            Self::Upstream => "upstream",
            Self::Graph => "graph",
        }
    }
}

impl fmt::Display for ArtifactKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ArtifactKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("unknown kind of artifact `{text}`: one of {names}")
        })
    }
}
