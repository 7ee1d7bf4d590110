//! Shadows, what they come to, and the promotions and withdrawals that look at it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use ondol_model_gateway_api::wire::{
    BatchPredictRequest, Limits, PromoteRequest, Routing, RoutingAction, RoutingReport, Shadow, ShadowReport, Share,
    Target,
};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError};
use ondol_vocabulary::DataType;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use support::{Bench, C1, from_input, from_view, inputs};
use tower::ServiceExt as _;

/// The logistic function of -1.25 is under a half, the sum itself is negative.
const LOW: &str = r#"{"card_id":"c1","merchant_id":"m1","amount":0.5}"#;

fn shadow(version: u32) -> Shadow {
    Shadow {
        version: Target::Version(version),
        flip_at: Some(0.5),
        sample_percent: 100.0,
    }
}

fn routing() -> Routing {
    Routing {
        aliases: BTreeMap::from([("champion".to_owned(), 1)]),
        shadow: vec![shadow(2)],
        ..Routing::default()
    }
}

async fn set(bench: &Bench, routing: Routing) {
    bench.set_routing("fraud", routing).await.unwrap();
}

/// Waits until the one shadow has dealt with `requests`.
async fn dealt_with(bench: &Bench, requests: u64) -> ShadowReport {
    loop {
        let report = bench.gateway.routing_report("fraud").await.unwrap();
        let done = |shadow: &ShadowReport| shadow.compared + shadow.errors + shadow.skipped + shadow.dropped;
        if let Some(shadow) = report.shadows.iter().find(|shadow| done(shadow) >= requests) {
            return shadow.clone();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn batch(bench: &Bench, rows: usize) {
    let batch = BatchPredictRequest {
        instances: vec![inputs(C1); rows],
        explain: Some(true),
        ..BatchPredictRequest::default()
    };
    bench.gateway.batch_predict("fraud", batch).await.unwrap();
}

#[tokio::test]
async fn a_shadow_scores_what_was_served_without_another_read() {
    let bench = Bench::patient().await;
    bench.register("columns").await.unwrap();
    set(&bench, routing()).await;
    bench.store.reads.lock().unwrap().clear();
    let answer = bench.predict(C1).await.unwrap();
    assert_eq!(answer.model.version, 1);
    bench.predict(LOW).await.unwrap();
    let report = dealt_with(&bench, 2).await;
    assert_eq!(bench.store.reads.lock().unwrap().len(), 2);
    assert_eq!((report.served, report.shadow, report.compared), (1, 2, 2));
    // The shadow says the sum where the champion says its logistic function: 4.25 for 0.986.
    assert!(report.max_difference > 3.2 && report.max_difference < 4.3, "{report:?}");
    assert!(
        report.mean_difference > 1.0 && report.mean_difference < report.max_difference,
        "{report:?}"
    );
    assert_eq!((report.flips, report.flip_rate, report.errors), (0, 0.0, 0));
    assert!(report.latency_ms.p99 > 0.0);
    // The decisions are of what was served.
    assert_eq!(bench.ingest.wait_for(2).await.len(), 2);
}

#[tokio::test]
async fn a_shadow_of_another_definition_has_its_vector_from_the_same_read_or_says_why_not() {
    let bench = Bench::patient().await;
    // The vector of the second version has the same width in another order: its columns are among those read.
    bench.store.apply(|snapshot| {
        let model = &mut snapshot.models[0];
        model.version += 1;
        model.definition.features.swap(0, 1);
    });
    bench.register("matrix_unnamed").await.unwrap();
    set(&bench, routing()).await;
    batch(&bench, 3).await;
    let report = dealt_with(&bench, 3).await;
    // A sum of the same values.
    assert_eq!((report.compared, report.max_difference), (3, 0.0));

    // The third reads what the champion does not.
    bench.store.apply(|snapshot| {
        let model = &mut snapshot.models[0];
        model.version += 1;
        model.definition.features = vec![
            from_view("merchant.country", DataType::String),
            from_input("amount", DataType::F64),
        ];
    });
    // No fixture takes that vector; a shadow the other way round does: the champion reads less than its shadow.
    let narrow = Routing {
        aliases: BTreeMap::from([("champion".to_owned(), 2)]),
        shadow: vec![shadow(1)],
        ..Routing::default()
    };
    set(&bench, narrow).await;
    batch(&bench, 2).await;
    let report = dealt_with(&bench, 2).await;
    assert_eq!((report.served, report.shadow), (2, 1));
    assert_eq!(report.compared, 2);
}

/// Sends rows of the champion's own tensor.
async fn post_tensor(bench: &Bench, rows: serde_json::Value) {
    let count = rows.as_array().unwrap().len();
    let body = json!({ "inputs": [{ "name": "X", "shape": [count, 5], "datatype": "FP32", "data": rows }] });
    post(bench, "/v2/models/fraud/infer", &body).await;
}

async fn post(bench: &Bench, path: &str, body: &serde_json::Value) {
    let request = axum::http::Request::post(path)
        .header("content-type", "application/json")
        .body(axum::body::Body::from(body.to_string()))
        .unwrap();
    let answer = bench.gateway.router().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn a_shadow_scores_what_a_caller_sent_for_the_model_itself() {
    let bench = Bench::patient().await;
    // The same vector in tensors of another form: one a column.
    bench.register("columns").await.unwrap();
    set(&bench, routing()).await;
    bench.store.reads.lock().unwrap().clear();
    post_tensor(&bench, json!([[2, -4.0, 0.25, 8, -2], [1, 0.5, 0, 0, 0]])).await;
    let report = dealt_with(&bench, 2).await;
    // The shadow says the sum where the champion says its logistic function: 4.25 for 0.986, 1.5 for 0.818.
    assert_eq!((report.served, report.shadow, report.compared), (1, 2, 2));
    assert!((report.max_difference - 3.264).abs() < 0.01, "{report:?}");
    assert!((report.mean_difference - 1.973).abs() < 0.01, "{report:?}");
    let vector =
        json!({ "card.n_1h": 2, "card.spend_24h": -4.0, "merchant.risk": 0.25, "amount": 8.0, "derived.ratio": -2.0 });
    post(
        &bench,
        "/v1/models/fraud/invocations",
        &json!({ "dataframe_records": [vector] }),
    )
    .await;
    let report = dealt_with(&bench, 3).await;
    assert_eq!((report.compared, report.errors, report.skipped), (3, 0, 0));
    assert!((report.max_difference - 3.264).abs() < 0.01, "{report:?}");
    assert!(bench.store.reads.lock().unwrap().is_empty(), "nothing is looked up");
}

#[tokio::test]
async fn a_shadow_that_needs_what_the_caller_did_not_send_is_skipped_and_says_why() {
    let bench = Bench::open_with(|config| {
        config.decision_log.max_raw_bytes = 20;
        config.deadline_ms = 60_000;
    })
    .await;
    bench.register("matrix").await.unwrap();
    bench.store.apply(|snapshot| {
        let model = &mut snapshot.models[0];
        model.version += 1;
        model.definition.features.swap(0, 1);
    });
    bench.register("matrix_unnamed").await.unwrap();
    bench.store.apply(|snapshot| {
        let model = &mut snapshot.models[0];
        model.version += 1;
        model.definition.derived[0].expression = "amount * 2.0".to_owned();
    });
    bench.register("matrix_unnamed").await.unwrap();
    let mut routing = routing();
    set(&bench, routing.clone()).await;
    // The same entries in another order.
    post_tensor(&bench, json!([[2, -4.0, 0.25, 8, -2]])).await;
    let report = dealt_with(&bench, 1).await;
    assert_eq!((report.compared, report.max_difference), (1, 0.0));
    // Another way to compute one.
    routing.shadow = vec![shadow(3)];
    set(&bench, routing.clone()).await;
    post_tensor(&bench, json!([[2, -4.0, 0.25, 8, -2]])).await;
    let report = dealt_with(&bench, 1).await;
    assert_eq!((report.compared, report.skipped), (0, 1));
    let reason = report.skipped_because.unwrap();
    assert!(reason.contains("`derived.ratio`"), "{reason}");
}

#[tokio::test]
async fn a_shadow_whose_columns_cannot_hold_what_was_sent_is_skipped_and_does_not_quote_it() {
    let bench = Bench::patient().await;
    bench.register("columns").await.unwrap();
    set(&bench, routing()).await;
    // The champion takes singles, the shadow a count.
    post_tensor(&bench, json!([[2.5, -4.0, 0.25, 8, -2]])).await;
    let report = dealt_with(&bench, 1).await;
    assert_eq!((report.compared, report.errors, report.skipped), (0, 0, 1));
    let reason = report.skipped_because.unwrap();
    assert!(reason.contains("can't hold") && !reason.contains("2.5"), "{reason}");
}

#[tokio::test]
async fn a_large_row_that_a_caller_sent_does_not_wait_for_a_shadow() {
    let bench = Bench::open_with(|config| {
        config.decision_log.max_raw_bytes = 19;
        config.deadline_ms = 60_000;
    })
    .await;
    bench.register("matrix").await.unwrap();
    bench.register("columns").await.unwrap();
    set(&bench, routing()).await;
    post_tensor(&bench, json!([[2, -4.0, 0.25, 8, -2]])).await;
    let report = dealt_with(&bench, 1).await;
    assert_eq!((report.compared, report.skipped), (0, 1));
    assert!(report.skipped_because.unwrap().contains("20 bytes"));
}

#[tokio::test]
async fn a_shadow_that_finds_no_room_is_dropped_and_counted_and_requests_go_on() {
    let bench = Bench::open_with(|config| {
        config.shadow_queue = 2;
        config.deadline_ms = 60_000;
    })
    .await;
    bench.register("matrix").await.unwrap();
    bench.fill();
    bench.register("columns").await.unwrap();
    set(&bench, routing()).await;
    batch(&bench, 3).await;
    let report = dealt_with(&bench, 3).await;
    assert_eq!((report.dropped, report.compared), (3, 0));
    batch(&bench, 2).await;
    assert_eq!(dealt_with(&bench, 5).await.compared, 2);
}

#[tokio::test]
async fn a_shadow_may_score_a_sample() {
    let bench = Bench::patient().await;
    bench.register("columns").await.unwrap();
    let mut routing = routing();
    routing.shadow[0].sample_percent = 25.0;
    set(&bench, routing).await;
    for _ in 0..20 {
        bench.predict(C1).await.unwrap();
    }
    assert_eq!(dealt_with(&bench, 5).await.compared, 5);
}

#[tokio::test]
async fn a_shadow_that_was_taken_away_and_comes_back_is_measured_anew() {
    let bench = Bench::patient().await;
    bench.register("columns").await.unwrap();
    set(&bench, routing()).await;
    batch(&bench, 4).await;
    dealt_with(&bench, 4).await;
    // A change that leaves it where it is keeps what was measured.
    let limits = Limits {
        min_requests: Some(1),
        ..Limits::default()
    };
    set(&bench, Routing { limits, ..routing() }).await;
    assert_eq!(dealt_with(&bench, 4).await.compared, 4);
    let mut without = routing();
    without.shadow.clear();
    set(&bench, without).await;
    let report: RoutingReport = bench.gateway.routing_report("fraud").await.unwrap();
    assert!(report.shadows.is_empty());
    set(&bench, routing()).await;
    batch(&bench, 1).await;
    assert_eq!(dealt_with(&bench, 1).await.compared, 1);
}

#[tokio::test]
async fn a_promotion_is_refused_with_what_is_not_met_and_forced_on_the_record() {
    let bench = Bench::patient().await;
    bench.register("columns").await.unwrap();
    let limits = Limits {
        min_requests: Some(5),
        max_mean_difference: Some(0.5),
        max_flip_rate: Some(0.0),
        max_error_rate: Some(0.0),
        ..Limits::default()
    };
    set(&bench, Routing { limits, ..routing() }).await;
    batch(&bench, 3).await;
    dealt_with(&bench, 3).await;
    let refused = bench
        .gateway
        .promote("fraud", PromoteRequest::default())
        .await
        .unwrap_err();
    let ModelGatewayError::LimitsNotMet { version, unmet } = &refused else {
        panic!("{refused}");
    };
    assert_eq!((version.as_str(), unmet.len()), ("fraud@2", 2), "{refused}");
    assert!(unmet[0].contains("3 requests were measured"), "{refused}");
    assert!(unmet[1].contains("`max_mean_difference` is 0.5"), "{refused}");
    assert_eq!(bench.predict(C1).await.unwrap().model.version, 1);

    let forced = PromoteRequest {
        force: true,
        by: Some("ann".to_owned()),
        note: Some("the scale changed".to_owned()),
        ..PromoteRequest::default()
    };
    let promoted = bench.gateway.promote("fraud", forced).await.unwrap();
    assert_eq!(
        (promoted.action, promoted.forced_past.len()),
        (RoutingAction::Promote, 2)
    );
    assert!(promoted.routing.shadow.is_empty());
    assert_eq!(bench.predict(C1).await.unwrap().model.version, 2);
    let back = bench.gateway.rollback("fraud", <_>::default()).await.unwrap();
    assert_eq!(back.restores, Some(1));
    assert_eq!(bench.predict(C1).await.unwrap().model.version, 1);
}

#[tokio::test]
async fn a_version_that_keeps_the_limits_is_promoted() {
    let bench = Bench::patient().await;
    bench.register("matrix_double").await.unwrap();
    let limits = Limits {
        min_requests: Some(5),
        max_mean_difference: Some(0.001),
        max_flip_rate: Some(0.0),
        max_error_rate: Some(0.0),
        max_p99_ms: Some(600_000.0),
        withdraw_canary: false,
    };
    set(&bench, Routing { limits, ..routing() }).await;
    batch(&bench, 5).await;
    dealt_with(&bench, 5).await;
    let promoted = bench.gateway.promote("fraud", PromoteRequest::default()).await.unwrap();
    assert!(promoted.forced_past.is_empty());
    assert_eq!(promoted.effective, BTreeMap::from([(2, 100.0)]));
    let error = bench
        .gateway
        .promote("fraud", PromoteRequest::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("name one"), "{error}");
}

#[tokio::test]
async fn a_canary_that_breaks_its_limits_is_taken_out_by_itself() {
    let bench = Bench::open_with(|config| {
        config.catalog_refresh_ms = 10;
        config.deadline_ms = 60_000;
    })
    .await;
    bench.register("matrix").await.unwrap();
    bench.fill();
    bench.register("matrix_double").await.unwrap();
    let canary = Routing {
        aliases: BTreeMap::from([("champion".to_owned(), 1)]),
        split: vec![Share {
            to: Target::Version(2),
            percent: 100.0,
        }],
        limits: Limits {
            min_requests: Some(3),
            // No run takes no time: whatever the machine, the limit is broken.
            max_p99_ms: Some(0.0),
            withdraw_canary: true,
            ..Limits::default()
        },
        ..Routing::default()
    };
    set(&bench, canary).await;
    assert_eq!(bench.predict(C1).await.unwrap().model.version, 2);
    while bench.predict(C1).await.unwrap().model.version == 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let history = bench.gateway.routing_history("fraud").await.unwrap();
    assert_eq!((history[0].revision, history[0].action), (2, RoutingAction::Withdraw));
    assert_eq!(history[0].remark.by.as_deref(), Some("gateway"));
    let note = history[0].remark.note.as_deref().unwrap();
    assert!(note.contains("`max_p99_ms` is 0"), "{note}");
    assert!(history[0].routing.split.is_empty());
}
