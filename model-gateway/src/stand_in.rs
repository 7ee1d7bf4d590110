//! The lookup of a request's vector, by the version asked for or by the one that the model's policy puts in its place.
//!
//! One version scores a whole batch: where the policy says so of one row, the stand-in scores all of them. A stand-in
//! takes the same inputs, and has no stand-in of its own.

use crate::features::{Looked, Plan, Served, Share, no_stand_in};
use crate::inputs::Inputs;
use crate::models::{Scorer, Version};
use crate::predict::{Deadline, Predictor};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_vocabulary::EventTime;
use std::sync::Arc;

/// A version that is ready to score.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) version: Arc<Version>,
    pub(crate) scorer: Arc<Scorer>,
    pub(crate) plan: Arc<Plan>,
}

impl Predictor {
    /// Looks the vectors of `inputs` up, unless a `share` of a call's read has them; with who scores them.
    pub(crate) async fn look_up(
        &self,
        asked: Prepared,
        inputs: &Inputs,
        share: Option<&Share>,
        as_of: Option<EventTime>,
        now: EventTime,
        deadline: Deadline,
    ) -> Result<(Prepared, Served), ModelGatewayError> {
        let store = &self.lookups;
        let (version, mut degraded) = match asked.plan.serve(store, share, inputs, as_of, now, deadline).await? {
            Looked::Served(served) => return Ok((asked, served)),
            Looked::Instead { version, degraded } => (version, degraded),
        };
        let record = &asked.version.record;
        let model = &record.registered.model;
        let refused = |why: &str| no_stand_in(&model.name, version, why);
        if model.version == version {
            return Err(refused("it is the version that was asked for"));
        }
        let prepared = deadline.model(self.prepare(&format!("{}@{version}", model.name))).await;
        let stand_in = prepared.map_err(|error| no_stand_in(&model.name, version, error))?;
        if stand_in.version.record.definition.inputs != record.definition.inputs {
            return Err(refused("it takes other inputs"));
        }
        match stand_in.plan.serve(store, None, inputs, as_of, now, deadline).await {
            Ok(Looked::Served(mut served)) => {
                degraded.append(&mut served.degraded);
                served.degraded = degraded;
                Ok((stand_in, served))
            }
            Ok(Looked::Instead { .. }) => Err(refused("its own features are not there either")),
            Err(error) => Err(no_stand_in(&model.name, version, error)),
        }
    }
}
