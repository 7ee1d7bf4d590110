//! Which version serves whom: aliases, rules, the sticky split, and changes of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use http::HeaderMap;
use ondol_model_gateway_api::wire::{
    BatchPredictRequest, HeaderMatch, PredictRequest, Prediction, Remark, RollbackRequest, Routing, RoutingAction,
    RoutingChange, RoutingRevision, RoutingRule, Share, Target,
};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayError};
use ondol_vocabulary::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use support::{Bench, C1, inputs, request};

fn alias(name: &str) -> Target {
    Target::Alias(name.to_owned())
}

fn share(to: Target, percent: f64) -> Share {
    Share { to, percent }
}

/// Version 1 is the champion, version 2 the canary.
fn aliases() -> Routing {
    Routing {
        aliases: BTreeMap::from([("champion".to_owned(), 1), ("canary".to_owned(), 2)]),
        ..Routing::default()
    }
}

fn split(canary: f64) -> Routing {
    Routing {
        split: vec![share(alias("champion"), 100.0 - canary), share(alias("canary"), canary)],
        sticky_by: vec!["card_id".to_owned()],
        ..aliases()
    }
}

fn large() -> RoutingRule {
    RoutingRule {
        name: Some("large".to_owned()),
        when: Some("amount > 1000".to_owned()),
        header: None,
        to: Target::Version(2),
    }
}

async fn with_two_versions() -> Bench {
    let bench = Bench::patient().await;
    bench.register("matrix_double").await.unwrap();
    bench
}

async fn set(bench: &Bench, routing: Routing) -> Result<RoutingRevision, ModelGatewayError> {
    bench.set_routing("fraud", routing).await
}

fn card(number: usize) -> BTreeMap<String, Value> {
    inputs(&format!(
        r#"{{"card_id":"card-{number}","merchant_id":"m1","amount":8}}"#
    ))
}

async fn of_card(bench: &Bench, number: usize) -> Prediction {
    let request = PredictRequest {
        inputs: card(number),
        explain: Some(true),
        ..PredictRequest::default()
    };
    bench.gateway.predict("fraud", request).await.unwrap()
}

async fn versions_of(bench: &Bench, cards: std::ops::Range<usize>) -> Vec<u32> {
    let mut versions = Vec::new();
    for number in cards {
        versions.push(of_card(bench, number).await.model.version);
    }
    versions
}

#[tokio::test]
async fn without_a_routing_the_newest_version_serves() {
    let bench = with_two_versions().await;
    let routing = bench.gateway.routing("fraud").await.unwrap();
    assert_eq!((routing.revision, routing.action), (0, RoutingAction::Unset));
    assert_eq!(routing.effective, BTreeMap::from([(2, 100.0)]));
    let answer = bench.predict(C1).await.unwrap();
    assert_eq!((answer.model.version, answer.route.as_str()), (2, "default"));
    assert!(bench.gateway.routing_history("fraud").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_caller_may_name_a_version_or_an_alias() {
    let bench = with_two_versions().await;
    let revision = set(&bench, aliases()).await.unwrap();
    assert_eq!((revision.revision, revision.action), (1, RoutingAction::Set));
    for (name, version, route) in [
        ("fraud", 1, "default"),
        ("fraud@2", 2, "pinned"),
        ("fraud@canary", 2, "alias canary"),
        ("fraud@champion", 1, "alias champion"),
    ] {
        let answer = bench.gateway.predict(name, request(C1)).await.unwrap();
        assert_eq!(
            (answer.model.version, answer.route.as_str()),
            (version, route),
            "{name}"
        );
    }
    let error = bench.gateway.predict("fraud@canry", request(C1)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown model `fraud@canry`: did you mean `fraud@canary`?"
    );
    // A version that is registered now waits for a routing.
    bench.register("matrix_unnamed").await.unwrap();
    assert_eq!(bench.predict(C1).await.unwrap().model.version, 1);
}

#[tokio::test]
async fn the_same_key_gets_the_same_version_and_a_growing_canary_keeps_its_keys() {
    let bench = with_two_versions().await;
    set(&bench, split(20.0)).await.unwrap();
    let twenty = versions_of(&bench, 0..60).await;
    assert_eq!(versions_of(&bench, 0..60).await, twenty);
    let canaries = twenty.iter().filter(|version| **version == 2).count();
    assert!((3..30).contains(&canaries), "{canaries} of 60 cards");
    let revision = set(&bench, split(50.0)).await.unwrap();
    assert_eq!(revision.effective, BTreeMap::from([(1, 50.0), (2, 50.0)]));
    let fifty = versions_of(&bench, 0..60).await;
    assert!(
        twenty
            .iter()
            .zip(&fifty)
            .all(|(before, after)| *before == 1 || *after == 2)
    );
    assert!(fifty.iter().filter(|version| **version == 2).count() > canaries);
    let answer = of_card(&bench, 0).await;
    assert_eq!(answer.route, "split");
}

#[tokio::test]
async fn a_batch_is_split_by_route_and_answered_in_order() {
    let bench = with_two_versions().await;
    let routing = Routing {
        rules: vec![large()],
        ..split(50.0)
    };
    set(&bench, routing).await.unwrap();
    let instances: Vec<_> = (0..40)
        .map(|number| {
            let amount = if number % 5 == 0 { 2_000 } else { number };
            inputs(&format!(
                r#"{{"card_id":"card-{number}","merchant_id":"m1","amount":{amount}}}"#
            ))
        })
        .collect();
    let batch = BatchPredictRequest {
        instances: instances.clone(),
        explain: Some(true),
        ..BatchPredictRequest::default()
    };
    bench.store.reads.lock().unwrap().clear();
    let together = bench.gateway.batch_predict("fraud", batch).await.unwrap().predictions;
    assert_eq!(bench.store.reads.lock().unwrap().len(), 1, "one read for both versions");
    assert_eq!(together.len(), 40);
    let mut met = BTreeMap::<u32, usize>::new();
    for (answer, inputs) in together.iter().zip(instances) {
        let request = PredictRequest {
            inputs,
            explain: Some(true),
            ..PredictRequest::default()
        };
        let alone = bench.gateway.predict("fraud", request).await.unwrap();
        assert_eq!((&answer.model, &answer.route), (&alone.model, &alone.route));
        assert_eq!(answer.prediction, alone.prediction);
        assert_eq!(answer.features["amount"], alone.features["amount"]);
        *met.entry(answer.model.version).or_default() += 1;
    }
    assert_eq!(met.len(), 2, "{met:?}");
}

#[tokio::test]
async fn a_wrong_input_is_named_by_its_place_in_the_whole_batch() {
    let bench = with_two_versions().await;
    set(&bench, split(50.0)).await.unwrap();
    let mut instances: Vec<_> = (0..10).map(card).collect();
    instances[7].insert("amount".to_owned(), Value::String("much".to_owned()));
    let batch = BatchPredictRequest {
        instances,
        explain: Some(true),
        ..BatchPredictRequest::default()
    };
    let error = bench
        .gateway
        .batch_predict("fraud", batch)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("instance 7: input `amount` is the text `much`"),
        "{error}"
    );
}

#[tokio::test]
async fn rules_come_before_the_split_and_the_first_that_matches_decides() {
    let bench = with_two_versions().await;
    let header = |equals: &str, to| RoutingRule {
        name: None,
        when: None,
        header: Some(HeaderMatch {
            name: "X-Tenant".to_owned(),
            equals: equals.to_owned(),
        }),
        to,
    };
    let routing = Routing {
        rules: vec![
            header("careful", alias("champion")),
            large(),
            header("brave", alias("canary")),
        ],
        ..split(0.0)
    };
    set(&bench, routing).await.unwrap();
    for (tenant, amount, version, route) in [
        ("careful", "5000", 1, "rule 1"),
        ("brave", "5000", 2, "rule large"),
        ("brave", "5", 2, "rule 3"),
        ("other", "5000", 2, "rule large"),
        ("other", "5", 1, "split"),
        ("other", "null", 1, "split"),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("x-tenant", tenant.parse().unwrap());
        let request = PredictRequest {
            headers,
            ..request(&format!(r#"{{"card_id":"c1","merchant_id":"m1","amount":{amount}}}"#))
        };
        let answer = bench.gateway.predict("fraud", request).await.unwrap();
        let found = (answer.model.version, answer.route.as_str());
        assert_eq!(found, (version, route), "{tenant} {amount}");
    }
}

#[tokio::test]
async fn what_a_routing_leaves_out_is_completed_when_it_is_set() {
    let bench = with_two_versions().await;
    let routing = Routing {
        split: vec![share(Target::Version(2), 90.0), share(Target::Version(1), 10.0)],
        ..Routing::default()
    };
    let revision = set(&bench, routing).await.unwrap();
    assert_eq!(revision.routing.aliases, BTreeMap::from([("champion".to_owned(), 2)]));
    assert_eq!(revision.routing.sticky_by, ["card_id", "merchant_id"]);
}

#[tokio::test]
async fn a_routing_that_can_not_be_is_refused_with_the_field_and_the_remedy() {
    let bench = with_two_versions().await;
    let rule = |when: Option<&str>, to| RoutingRule {
        when: when.map(ToOwned::to_owned),
        ..RoutingRule {
            name: None,
            when: None,
            header: None,
            to,
        }
    };
    let with = |change: &dyn Fn(&mut Routing)| {
        let mut routing = aliases();
        change(&mut routing);
        routing
    };
    let cases = [
        (
            with(&|routing| _ = routing.aliases.insert("canary".to_owned(), 9)),
            "`aliases.canary` is 9, which is no registered version of `fraud` (those are 1, 2)",
        ),
        (
            with(&|routing| _ = routing.aliases.insert("7".to_owned(), 1)),
            "is no number",
        ),
        (
            with(&|routing| routing.split = vec![share(alias("canry"), 100.0)]),
            "`split[0].to` is `canry`, which is not among `aliases`: did you mean `canary`?",
        ),
        (
            with(&|routing| routing.split = vec![share(Target::Version(1), 60.0), share(Target::Version(2), 30.0)]),
            "add up to 90 percent",
        ),
        (
            with(&|routing| routing.split = vec![share(Target::Version(1), 99.999), share(Target::Version(2), 0.001)]),
            "at most two decimals",
        ),
        (
            with(&|routing| routing.split = vec![share(Target::Version(1), f64::NAN)]),
            "`split[0].percent` is NaN",
        ),
        (
            with(&|routing| routing.rules = vec![rule(None, Target::Version(1))]),
            "`rules[0]` has no condition",
        ),
        (
            with(&|routing| routing.rules = vec![rule(Some("amount + 1"), Target::Version(1))]),
            "it is not true or false",
        ),
        (
            with(&|routing| routing.rules = vec![rule(Some("amuont > 1"), Target::Version(1))]),
            "the model's inputs are: card_id, merchant_id, amount",
        ),
        (
            with(&|routing| routing.rules = vec![rule(Some("amount > 1"), Target::Version(7))]),
            "`rules[0].to` is `7`",
        ),
        (
            with(&|routing| routing.sticky_by = vec!["card".to_owned()]),
            "did you mean `card_id`?",
        ),
        (
            with(&|routing| routing.limits.max_flip_rate = Some(2.0)),
            "`limits.max_flip_rate` is 2",
        ),
        (
            with(&|routing| routing.limits.withdraw_canary = true),
            "nothing could ever break",
        ),
        (with(&|routing| routing.max_in_flight = Some(0)), "`max_in_flight` is 0"),
    ];
    for (routing, expected) in cases {
        let error = set(&bench, routing).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\n does not say: {expected}");
    }
    assert_eq!(bench.gateway.routing("fraud").await.unwrap().revision, 0);
    let error = bench.gateway.routing("frod").await.unwrap_err().to_string();
    assert_eq!(error, "unknown model `frod`: did you mean `fraud`?");
}

#[tokio::test]
async fn a_change_made_from_an_older_revision_is_refused() {
    let bench = with_two_versions().await;
    let change = |expected_revision| RoutingChange {
        routing: aliases(),
        expected_revision,
        remark: Remark {
            by: Some("ann".to_owned()),
            note: None,
        },
    };
    bench.gateway.set_routing("fraud", change(Some(0))).await.unwrap();
    let error = bench.gateway.set_routing("fraud", change(Some(0))).await.unwrap_err();
    let expected = ModelGatewayError::RevisionConflict {
        model: "fraud".to_owned(),
        expected: 0,
        current: 1,
    };
    assert_eq!(error, expected);
    bench.gateway.set_routing("fraud", change(None)).await.unwrap();
    let history = bench.gateway.routing_history("fraud").await.unwrap();
    assert_eq!(
        history.iter().map(|revision| revision.revision).collect::<Vec<_>>(),
        [2, 1]
    );
    assert_eq!(history[1].remark.by.as_deref(), Some("ann"));
    assert!(history[1].changed_at.is_some());
}

#[tokio::test]
async fn a_rollback_brings_every_key_back_and_another_one_goes_further() {
    let bench = with_two_versions().await;
    set(&bench, split(30.0)).await.unwrap();
    let before = versions_of(&bench, 0..40).await;
    set(&bench, split(60.0)).await.unwrap();
    set(&bench, aliases()).await.unwrap();
    let back = |to_revision| {
        let request = RollbackRequest {
            to_revision,
            ..RollbackRequest::default()
        };
        bench.gateway.rollback("fraud", request)
    };
    let second = back(None).await.unwrap();
    assert_eq!((second.revision, second.restores), (4, Some(2)));
    assert_eq!(second.effective, BTreeMap::from([(1, 40.0), (2, 60.0)]));
    let first = back(None).await.unwrap();
    assert_eq!((first.revision, first.restores), (5, Some(1)));
    assert_eq!(versions_of(&bench, 0..40).await, before);
    let unset = back(None).await.unwrap();
    assert_eq!(
        (unset.restores, unset.effective),
        (Some(0), BTreeMap::from([(2, 100.0)]))
    );
    let error = back(None).await.unwrap_err().to_string();
    assert!(error.contains("no revision before"), "{error}");
    assert_eq!(back(Some(3)).await.unwrap().routing, aliases());
    assert!(
        back(Some(90))
            .await
            .unwrap_err()
            .to_string()
            .contains("is at revision 7")
    );
}

#[tokio::test]
async fn a_routing_survives_a_restart_with_every_key_where_it_was() {
    let bench = with_two_versions().await;
    set(&bench, split(50.0)).await.unwrap();
    let before = versions_of(&bench, 0..30).await;
    let (folder, store) = (Arc::clone(&bench.folder), Arc::clone(&bench.store));
    bench.stop().await;
    let bench = Bench::open_in(folder, store, |config| config.deadline_ms = 60_000).await;
    assert_eq!(versions_of(&bench, 0..30).await, before);
    assert_eq!(bench.gateway.routing("fraud").await.unwrap().revision, 1);
}

#[tokio::test]
async fn a_decision_names_its_version_and_route() {
    let bench = with_two_versions().await;
    let routing = Routing {
        rules: vec![large()],
        ..aliases()
    };
    set(&bench, routing).await.unwrap();
    bench.predict(C1).await.unwrap();
    bench
        .predict(r#"{"card_id":"c1","merchant_id":"m1","amount":2000}"#)
        .await
        .unwrap();
    let decisions = bench.ingest.wait_for(2).await;
    let said: Vec<_> = decisions
        .iter()
        .map(|decision| {
            (
                decision["model_version"].as_i64().unwrap(),
                decision["route"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(said, [(1, "default"), (2, "rule large")]);
}
