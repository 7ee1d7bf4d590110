//! What is wrong with a lookup, and what the model's policy makes of it.

use super::Served;
use crate::fault::unavailable;
use ondol_feature_store_api::wire::FeatureColumn;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::{Degradation, Trouble};
use ondol_vocabulary::{FeatureRef, FeatureStatus, ModelPolicy, Remedy};
use std::time::Duration;

/// The most of a deadline that is kept for the model where there is no answer without the features.
const MODEL_SHARE: Duration = Duration::from_millis(50);

/// How a lookup ended.
#[derive(Debug)]
pub enum Looked {
    /// With a vector to score.
    Served(Served),
    /// By the policy, another version of the model must score.
    Instead {
        /// The version.
        version: u32,
        /// Why.
        degraded: Vec<Degradation>,
    },
}

/// A lookup's troubles so far. A remedy that is a version ends the lookup; one that refuses is an error.
#[derive(Debug)]
pub struct Troubled<'p> {
    model: &'p str,
    policy: &'p ModelPolicy,
    degraded: Vec<Degradation>,
}

impl<'p> Troubled<'p> {
    pub(super) fn new(model: &'p str, policy: &'p ModelPolicy) -> Self {
        Self {
            model,
            policy,
            degraded: Vec::new(),
        }
    }

    /// How much of a deadline the lookup may take: what the policy says; otherwise half of it where there is an answer
    /// without the features, and nearly all of it where there is none.
    pub(super) fn lookup_limit(&self, whole: Duration) -> Duration {
        let most = whole.saturating_sub((whole / 10).min(MODEL_SHARE));
        let share = match self.policy.unavailable {
            Remedy::Reject => most,
            Remedy::Serve | Remedy::Default | Remedy::Version(_) => whole / 2,
        };
        let said = self.policy.lookup_ms.map(Duration::from_millis);
        said.unwrap_or(share).min(most)
    }

    /// Whether declared defaults stand in for what the store did not give.
    pub(super) fn puts_defaults(&self) -> bool {
        self.policy.unavailable == Remedy::Default
    }

    /// Features whose definition has changed since the version was registered.
    pub(super) fn changed(&mut self, changes: &[String]) -> Result<Option<u32>, ModelGatewayError> {
        if changes.is_empty() {
            return Ok(None);
        }
        self.trouble(Trouble::Changed, self.policy.changed, || changes.join("; "))
    }

    /// A store that did not answer. What is the request's own fault stays that.
    pub(super) fn unavailable(&mut self, error: ModelGatewayError) -> Result<Option<u32>, ModelGatewayError> {
        let of_the_store = matches!(
            error,
            ModelGatewayError::Unavailable { .. }
                | ModelGatewayError::DeadlineExceeded { .. }
                | ModelGatewayError::Internal { .. }
        );
        if !of_the_store || self.policy.unavailable == Remedy::Reject {
            return Err(error);
        }
        self.trouble(Trouble::Unavailable, self.policy.unavailable, || error.to_string())
    }

    /// Values that are stale or missing. Looked for only where the policy does not just serve them: the feature's
    /// default, if it has one, came with the read.
    pub(super) fn unfresh(
        &mut self,
        features: &[FeatureRef],
        columns: &[FeatureColumn],
    ) -> Result<Option<u32>, ModelGatewayError> {
        let kinds = [
            (Trouble::Stale, self.policy.stale, FeatureStatus::Stale),
            (Trouble::Missing, self.policy.missing, FeatureStatus::Missing),
        ];
        for (trouble, remedy, status) in kinds {
            if matches!(remedy, Remedy::Serve | Remedy::Default) {
                continue;
            }
            let found: Vec<&FeatureRef> = features
                .iter()
                .zip(columns)
                .filter(|(_, column)| column.status.contains(&status))
                .map(|(feature, _)| feature)
                .collect();
            if found.is_empty() {
                continue;
            }
            let words = || {
                let names: Vec<String> = found.iter().map(ToString::to_string).collect();
                names.join(", ")
            };
            if let Some(version) = self.trouble(trouble, remedy, words)? {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    fn trouble(
        &mut self,
        trouble: Trouble,
        remedy: Remedy,
        detail: impl FnOnce() -> String,
    ) -> Result<Option<u32>, ModelGatewayError> {
        let detail = detail();
        let name = trouble.name();
        metrics::counter!("ondol_gateway_degraded_total", "trouble" => name, "remedy" => kind(remedy)).increment(1);
        if remedy == Remedy::Reject {
            return Err(ModelGatewayError::FeaturesRejected {
                model: self.model.to_owned(),
                trouble,
                detail,
            });
        }
        self.degraded.push(Degradation {
            trouble,
            remedy: remedy.to_string(),
            detail,
        });
        Ok(match remedy {
            Remedy::Version(version) => Some(version),
            Remedy::Serve | Remedy::Default | Remedy::Reject => None,
        })
    }

    pub(super) fn instead(self, version: u32) -> Looked {
        Looked::Instead {
            version,
            degraded: self.degraded,
        }
    }

    pub(super) fn into_degraded(self) -> Vec<Degradation> {
        self.degraded
    }
}

/// The remedy as a metric's label.
const fn kind(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::Serve => "serve",
        Remedy::Default => "default",
        Remedy::Version(_) => "version",
        Remedy::Reject => "reject",
    }
}

/// A stand-in that can't stand in.
pub(crate) fn no_stand_in(model: &str, version: u32, why: impl std::fmt::Display) -> ModelGatewayError {
    unavailable(format!(
        "the policy of `{model}` has version {version} score instead, which can't: {why}"
    ))
}
