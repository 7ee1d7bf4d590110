//! `replay` and `outcome`: a recorded decision scored anew, and what became of it.
//!
//! The decision is read from the offline table `decisions`, by the pipelines' SQL; the model gateway scores its exact
//! vector. So a replay works on any machine that reaches the services, and asks no service for more than its contract.

use crate::cli::{ConnectArgs, OutcomeArgs, Output, ReplayDecisionArgs};
use crate::print;
use anyhow::{Context as _, Result, anyhow, bail};
use arrow::array::RecordBatch;
use futures::TryStreamExt as _;
use ondol_model_gateway_api::wire::{OutcomeRequest, ScoreRequest};
use ondol_pipelines_api::sql::SqlRequest;
use ondol_vocabulary::{EventTime, Value};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;

/// How far the moment in a request id may lie from its decision's, in microseconds.
const AROUND_US: i64 = 3_600_000_000;

/// A recorded decision, as far as a replay needs it.
#[derive(Debug, Deserialize)]
struct Decision {
    model: String,
    model_version: i64,
    vector: String,
    prediction: String,
    model_digest: Option<String>,
}

/// `ondol replay`.
pub(crate) async fn replay(args: &ReplayDecisionArgs, output: Output) -> Result<()> {
    let decision = find(&args.connect, &args.request_id).await?;
    let recorded: serde_json::Value =
        serde_json::from_str(&decision.prediction).context("the recorded prediction is no JSON")?;
    let vector: BTreeMap<String, Value> =
        serde_json::from_str(&decision.vector).context("the recorded vector is no JSON")?;
    let by = format!("{}@{}", decision.model, decision.model_version);
    let asked = args.model.clone().unwrap_or_else(|| by.clone());
    let request = ScoreRequest {
        vectors: vec![vector],
        deadline_ms: None,
    };
    let scores = args.connect.model_gateway()?.score(&asked, request).await?;
    let again = scores
        .predictions
        .first()
        .ok_or_else(|| anyhow!("the gateway scored nothing"))?;
    // As text: floats are written so that they come back to the bit.
    let text = serde_json::Value::to_string;
    let same = text(again) == text(&recorded);
    let same_artifact = decision.model_digest.as_ref() == Some(&scores.sha256);
    let difference = match (again.as_f64(), recorded.as_f64()) {
        (Some(again), Some(recorded)) => Some(again - recorded),
        _ => None,
    };
    let summary = json!({
        "request_id": args.request_id,
        "recorded": { "model": by, "prediction": recorded, "model_digest": decision.model_digest },
        "replayed": { "model": scores.model, "prediction": again, "model_digest": scores.sha256 },
        "same": same,
        "difference": difference,
    });
    print::result(output, &summary, |_| {
        let verdict = match (same, difference) {
            (true, _) => "the same bits".to_owned(),
            (false, Some(difference)) => format!("differs by {difference}"),
            (false, None) => "differs".to_owned(),
        };
        let rows = [
            ["recorded".to_owned(), by.clone(), recorded.to_string()],
            ["replayed".to_owned(), scores.model.to_string(), again.to_string()],
        ];
        format!("{}\n\n{verdict}", print::table(["", "model", "prediction"], rows))
    })?;
    if args.model.is_none() && !same {
        let why = if same_artifact {
            "though the artifact is the one that was recorded"
        } else {
            "because the artifact is another than the one that was recorded"
        };
        bail!("{by} does not score the recorded vector as it did, {why}");
    }
    Ok(())
}

/// `ondol outcome`.
pub(crate) async fn outcome(args: &OutcomeArgs, output: Output) -> Result<()> {
    let outcome = serde_json::from_str(&args.outcome).unwrap_or_else(|_| Value::String(args.outcome.clone()));
    let at = args.at.as_deref().map(EventTime::parse).transpose()?;
    let request = OutcomeRequest {
        request_id: args.request_id.clone(),
        outcome,
        at,
    };
    let receipt = args.connect.model_gateway()?.outcome(&args.model, request).await?;
    print::result(output, &receipt, |receipt| {
        format!("recorded for {} at {}", receipt.request_id, receipt.at)
    })
}

/// The decision of `request_id`: in the table, or in what the store has yet to commit to it.
async fn find(connect: &ConnectArgs, request_id: &str) -> Result<Decision> {
    if request_id.is_empty() || !request_id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        bail!("`{request_id}` is no request id: copy it from the prediction's answer");
    }
    if let Some(found) = look(connect, request_id).await? {
        return Ok(found);
    }
    // What ingest has delivered and the store not yet committed.
    connect.feature_store()?.flush("decisions").await?;
    look(connect, request_id).await?.ok_or_else(|| {
        anyhow!(
            "no decision of `{request_id}` is in the log: it may be seconds too young, sampled out (`decisions.sample` of \
             the model), or dropped (`ondol_gateway_decisions_dropped_total`)"
        )
    })
}

async fn look(connect: &ConnectArgs, request_id: &str) -> Result<Option<Decision>> {
    // The id says when it was made, so that few dates are read.
    let around = moment(request_id).map(|at| {
        let bound = |us: i64| EventTime::from_micros(at.saturating_add(us));
        format!(" AND \"at\" BETWEEN '{}' AND '{}'", bound(-AROUND_US), bound(AROUND_US))
    });
    let query = format!(
        "SELECT model, model_version, vector, prediction, model_digest FROM decisions WHERE request_id = '{request_id}'{} \
         LIMIT 1",
        around.unwrap_or_default()
    );
    let found: Vec<Decision> = rows(connect, query).await?;
    Ok(found.into_iter().next())
}

/// The rows of a query.
pub(super) async fn rows<T: serde::de::DeserializeOwned>(connect: &ConnectArgs, query: String) -> Result<Vec<T>> {
    let request = SqlRequest { query, max_rows: None };
    let rows = connect.sql()?.sql(request).await?;
    let batches: Vec<RecordBatch> = rows.batches.try_collect().await?;
    let mut found = Vec::new();
    for batch in &batches {
        let mut writer = arrow::json::WriterBuilder::new()
            .with_explicit_nulls(true)
            .build::<_, arrow::json::writer::LineDelimited>(Vec::new());
        writer.write(batch)?;
        writer.finish()?;
        for line in serde_json::Deserializer::from_slice(&writer.into_inner()).into_iter() {
            found.push(line.context("the service sent a row that is not what was asked for")?);
        }
    }
    Ok(found)
}

/// Microseconds since the epoch in a ULID: its first ten letters are 48 bits of milliseconds, in Crockford's base 32.
fn moment(request_id: &str) -> Option<i64> {
    const DIGITS: &[u8] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let time = request_id.get(..10).filter(|_| request_id.len() == 26)?;
    let mut millis = 0_i64;
    for letter in time.bytes() {
        let digit = DIGITS.iter().position(|digit| *digit == letter.to_ascii_uppercase())?;
        millis = millis.checked_mul(32)?.checked_add(i64::try_from(digit).ok()?)?;
    }
    millis.checked_mul(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_says_when_it_was_made() {
        assert_eq!(moment("01ARYZ6S41TSV4RRFFQ69G5FAV"), Some(1_469_918_176_385_000));
        assert_eq!(moment("01ARYZ6S41"), None);
        assert_eq!(moment("01ARYZ6S4!TSV4RRFFQ69G5FAV"), None);
    }
}
