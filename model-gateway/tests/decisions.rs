//! Decisions: recorded as the model's definition says, scored anew, and answered by outcomes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use ondol_model_gateway::decision_log::is_sampled;
use ondol_model_gateway_api::wire::{BatchPredictRequest, OutcomeRequest, ScoreRequest};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError};
use ondol_vocabulary::{Audit, DecisionPolicy, EventTime, Value};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use support::{Bench, NOW, inputs};

const C1: &str = r#"{"card_id":"c1","merchant_id":"m1","amount":8.1}"#;
const STRANGER: &str = r#"{"card_id":"c9","merchant_id":"m9","amount":0.3}"#;

async fn bench(decisions: DecisionPolicy) -> Bench {
    let bench = Bench::open().await;
    bench
        .store
        .apply(|snapshot| snapshot.models[0].definition.decisions = decisions);
    bench.register("matrix").await.unwrap();
    bench.fill();
    bench
}

fn audited() -> DecisionPolicy {
    DecisionPolicy {
        audit: Audit::Required,
        ..DecisionPolicy::default()
    }
}

#[tokio::test]
async fn a_decision_holds_all_it_takes_to_understand_it() {
    let bench = bench(DecisionPolicy::default()).await;
    let answer = bench.predict(C1).await.unwrap();
    let logged = bench.ingest.wait_for(1).await.remove(0);
    assert_eq!(logged["request_id"], answer.request_id);
    assert_eq!(logged["model_digest"].as_str().unwrap().len(), 64);
    assert_eq!(logged["route"], "default");
    assert_eq!(logged["degraded"], serde_json::Value::Null);
    let times: BTreeMap<String, EventTime> = serde_json::from_value(logged["event_times"].clone()).unwrap();
    assert_eq!(times["card"], EventTime::from_micros(NOW - 60_000_000));
    let views: BTreeMap<String, u32> = serde_json::from_value(logged["views"].clone()).unwrap();
    assert_eq!(
        views,
        BTreeMap::from([("card".to_owned(), 1), ("merchant".to_owned(), 1)])
    );
}

#[tokio::test]
async fn a_recorded_vector_scores_to_the_same_bits() {
    let bench = bench(DecisionPolicy::default()).await;
    for request in [C1, STRANGER] {
        bench.predict(request).await.unwrap();
    }
    for logged in bench.ingest.wait_for(2).await {
        let vector = serde_json::from_value(logged["vector"].clone()).unwrap();
        let request = ScoreRequest {
            vectors: vec![vector],
            deadline_ms: None,
        };
        let scores = bench.gateway.score("fraud@1", request).await.unwrap();
        assert_eq!(scores.sha256, logged["model_digest"]);
        assert_eq!(scores.predictions[0].to_string(), logged["prediction"].to_string());
    }
    // Replays are not decisions.
    assert_eq!(bench.ingest.events.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_vector_that_is_not_the_models_is_refused_with_the_entry() {
    let bench = bench(DecisionPolicy::default()).await;
    let score = async |vector: &str| {
        let vectors = vec![serde_json::from_str(vector).unwrap()];
        let request = ScoreRequest {
            vectors,
            deadline_ms: None,
        };
        bench.gateway.score("fraud", request).await.unwrap_err().to_string()
    };
    let error = score(r#"{"card.n_1h": 1}"#).await;
    assert!(error.contains("vector 0 has no `card.spend_24h` (f64)"), "{error}");
    let whole = r#"{"card.n_1h":1,"card.spend_24h":null,"merchant.risk":"NaN","amount":1,"derived.ratio":1,"#;
    let error = score(&format!(r#"{whole}"amonut":1}}"#)).await;
    assert!(
        error.contains("`amonut`, which is not in the model's vector: did you mean `amount`?"),
        "{error}"
    );
    let error =
        score(r#"{"card.n_1h":"many","card.spend_24h":null,"merchant.risk":1,"amount":1,"derived.ratio":1}"#).await;
    assert!(error.contains("`card.n_1h` is the text `many`"), "{error}");
}

#[tokio::test]
async fn a_sample_of_the_decisions_is_chosen_by_request_id() {
    let half = DecisionPolicy {
        sample_ppm: 500_000,
        ..DecisionPolicy::default()
    };
    let bench = bench(half).await;
    let request = BatchPredictRequest {
        instances: vec![inputs(C1); 200],
        explain: Some(true),
        ..BatchPredictRequest::default()
    };
    let answers = bench.gateway.batch_predict("fraud", request).await.unwrap().predictions;
    let expected: Vec<String> = answers
        .into_iter()
        .map(|answer| answer.request_id)
        .filter(|id| is_sampled(id, 500_000))
        .collect();
    assert!((50..150).contains(&expected.len()), "{}", expected.len());
    let logged = bench.ingest.wait_for(expected.len()).await;
    bench.stop().await;
    let logged: Vec<&str> = logged
        .iter()
        .map(|event| event["request_id"].as_str().unwrap())
        .collect();
    assert_eq!(logged, expected);
    assert_eq!(bench.ingest.events.lock().unwrap().len(), expected.len());
}

#[tokio::test]
async fn an_audited_answer_comes_after_its_decision_or_not_at_all() {
    let bench = bench(audited()).await;
    let answer = bench.predict(C1).await.unwrap();
    // No wait: it is there.
    let events = bench.ingest.events.lock().unwrap().clone();
    assert_eq!(events.len(), 1);
    assert!(events[0].contains(&answer.request_id));

    bench.ingest.down.store(true, Ordering::SeqCst);
    let error = bench.predict(C1).await.unwrap_err();
    assert!(matches!(error, ModelGatewayError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("must be recorded"), "{error}");

    bench.ingest.down.store(false, Ordering::SeqCst);
    bench.predict(C1).await.unwrap();
    assert_eq!(bench.ingest.events.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn audited_answers_of_many_requests_share_pushes_and_lose_none() {
    let bench = bench(audited()).await;
    let calls = (0..200).map(|_| bench.predict(C1));
    let answers: Vec<_> = futures::future::join_all(calls).await;
    let ids: Vec<String> = answers.into_iter().map(|answer| answer.unwrap().request_id).collect();
    let events = bench.ingest.events.lock().unwrap().join("\n");
    assert!(ids.iter().all(|id| events.contains(id)));
    bench.stop().await;
}

#[tokio::test]
async fn without_an_audit_a_dead_stream_costs_no_answer() {
    let bench = bench(DecisionPolicy::default()).await;
    bench.ingest.down.store(true, Ordering::SeqCst);
    for _ in 0..20 {
        bench.predict(C1).await.unwrap();
    }
    bench.ingest.down.store(false, Ordering::SeqCst);
    assert_eq!(bench.ingest.wait_for(20).await.len(), 20);
}

#[tokio::test]
async fn an_outcome_is_durable_when_it_is_answered() {
    let bench = bench(DecisionPolicy::default()).await;
    let outcome = |outcome: Value, at| OutcomeRequest {
        request_id: "01JD6Z0S8N6J2V4Y7T3Q5W9XKB".to_owned(),
        outcome,
        at,
    };
    let at = EventTime::from_micros(NOW - 5);
    let receipt = bench
        .gateway
        .outcome("fraud", outcome(Value::Bool(true), Some(at)))
        .await
        .unwrap();
    assert_eq!(receipt.at, at);
    let receipt = bench
        .gateway
        .outcome("fraud", outcome(Value::String("charged back".to_owned()), None))
        .await
        .unwrap();
    assert_eq!(receipt.at, EventTime::from_micros(NOW));
    let kept = bench.ingest.outcomes.lock().unwrap().clone();
    let kept: Vec<serde_json::Value> = kept.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
    assert_eq!((&kept[0]["outcome"], &kept[0]["value"]), (&"true".into(), &1.0.into()));
    assert_eq!(kept[1]["outcome"], "\"charged back\"");
    assert_eq!(kept[1]["value"], serde_json::Value::Null);

    let error = bench
        .gateway
        .outcome("fraud", outcome(Value::Null, None))
        .await
        .unwrap_err();
    assert!(matches!(error, ModelGatewayError::InvalidRequest { .. }), "{error}");
    let error = bench
        .gateway
        .outcome("fruad", outcome(Value::I64(1), None))
        .await
        .unwrap_err();
    assert!(matches!(error, ModelGatewayError::UnknownModel { .. }), "{error}");
    bench.ingest.down.store(true, Ordering::SeqCst);
    let error = bench
        .gateway
        .outcome("fraud", outcome(Value::I64(1), None))
        .await
        .unwrap_err();
    assert!(matches!(error, ModelGatewayError::Unavailable { .. }), "{error}");
}
