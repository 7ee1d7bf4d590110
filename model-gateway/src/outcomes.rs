//! Outcomes: what became of what was predicted, sent to source `outcomes`, where they are joined with decisions by
//! request id.
//!
//! An outcome is durable before it is acknowledged. It is not looked up whether the request was ever made: decisions may
//! be sampled, and an outcome may come months later.

use crate::decision_log::is_transient;
use crate::fault::{internal, invalid, unavailable};
use ondol_ingest_api::Ingest;
use ondol_ingest_api::wire::PushRequest;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::{OutcomeReceipt, OutcomeRequest};
use ondol_vocabulary::{EventTime, Value};
use serde::Serialize;
use serde_json::value::to_raw_value;
use std::sync::Arc;
use std::time::Duration;

/// The stream source that takes outcomes.
pub const SOURCE: &str = "outcomes";

/// The longest request id. The gateway's own have 26 letters.
const LONGEST_ID: usize = 128;
/// How long ingest may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends outcomes.
#[derive(Clone)]
pub struct Outcomes {
    ingest: Arc<dyn Ingest>,
}

/// An outcome as it is written to the topic.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    request_id: &'a str,
    model: &'a str,
    at: EventTime,
    /// JSON.
    outcome: String,
    /// The same as a number, where it is one: true is 1, false 0.
    value: Option<f64>,
}

impl Outcomes {
    /// That go through `ingest`.
    pub fn new(ingest: Arc<dyn Ingest>) -> Self {
        Self { ingest }
    }

    /// Records `request` of `model`, at `now` unless it says when.
    pub async fn record(
        &self,
        model: &str,
        request: OutcomeRequest,
        now: EventTime,
    ) -> Result<OutcomeReceipt, ModelGatewayError> {
        let OutcomeRequest {
            request_id,
            outcome,
            at,
        } = request;
        if request_id.is_empty() || request_id.len() > LONGEST_ID || !request_id.is_ascii() {
            return Err(invalid(
                "`request_id` is not one: send the one that the prediction's answer has",
            ));
        }
        let value = match &outcome {
            Value::Bool(truth) => Some(f64::from(u8::from(*truth))),
            Value::I64(number) => Some(*number as f64),
            Value::F64(number) => Some(*number),
            Value::String(_) => None,
            Value::Null | Value::Timestamp(_) | Value::List(_) => {
                return Err(invalid(format!(
                    "`outcome` is {outcome}: send a number, a truth value or a text"
                )));
            }
        };
        let at = at.unwrap_or(now);
        let event = to_raw_value(&Outcome {
            request_id: &request_id,
            model,
            at,
            outcome: serde_json::to_string(&outcome).map_err(internal)?,
            value: value.filter(|value| value.is_finite()),
        })
        .map_err(internal)?;
        let push = self.ingest.push(SOURCE, PushRequest::from(vec![event]));
        match tokio::time::timeout(PATIENCE, push).await {
            Ok(Ok(_)) => {
                metrics::counter!("ondol_gateway_outcomes_total").increment(1);
                Ok(OutcomeReceipt { request_id, at })
            }
            Ok(Err(error)) if is_transient(&error) => Err(unavailable(format!("the outcome can't be kept: {error}"))),
            Ok(Err(error)) => Err(internal(format!("the outcome can't be kept: {error}"))),
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                Err(unavailable(format!(
                    "the outcome can't be kept: ingest did not answer within {seconds} s"
                )))
            }
        }
    }
}
