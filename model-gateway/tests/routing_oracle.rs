//! Random routings and random requests against the slow and obvious way to route: one request at a time, the first rule
//! whose conditions hold, else the slot that the key hashes to, else the champion. The hash, the slots and the
//! three-valued logic of conditions are written here a second time, as docs/routing.md tells them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use http::{HeaderMap, HeaderName, HeaderValue};
use ondol_model_gateway_api::ModelGateway;
use ondol_model_gateway_api::wire::{
    BatchPredictRequest, HeaderMatch, RollbackRequest, Routing, RoutingRule, Share, Target,
};
use ondol_testkit::services;
use ondol_vocabulary::Value;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use support::{Bench, FakeStore, artifact};

/// A version each.
const FIXTURES: [&str; 4] = ["matrix", "matrix_double", "matrix_unnamed", "columns_float"];
const VERSIONS: u32 = FIXTURES.len() as u32;
const SLOTS: usize = 10_000;
const HEADERS: [&str; 3] = ["x-team", "x-beta", "x-none"];
const WORDS: [&str; 3] = ["red", "blue", "Red"];

type Instance = BTreeMap<String, Value>;

// ---- Conditions, as SQL and as truth ---------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Condition {
    /// `amount` compared: operator, number.
    Amount(&'static str, i32),
    Card(bool, &'static str),
    IsNull(&'static str, bool),
    Not(Box<Condition>),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
}

impl Condition {
    fn sql(&self) -> String {
        match self {
            Self::Amount(operator, number) => format!("amount {operator} {number}"),
            Self::Card(equal, card) => format!("card_id {} '{card}'", if *equal { "=" } else { "<>" }),
            Self::IsNull(field, is) => format!("{field} is {}null", if *is { "" } else { "not " }),
            Self::Not(inner) => format!("not ({})", inner.sql()),
            Self::And(a, b) => format!("({}) and ({})", a.sql(), b.sql()),
            Self::Or(a, b) => format!("({}) or ({})", a.sql(), b.sql()),
        }
    }

    /// None where SQL says unknown.
    fn truth(&self, instance: &Instance) -> Option<bool> {
        match self {
            Self::Amount(operator, number) => {
                let (amount, number) = (float(&instance["amount"])?, f64::from(*number));
                Some(match *operator {
                    ">" => amount > number,
                    ">=" => amount >= number,
                    "<" => amount < number,
                    "=" => amount == number,
                    other => panic!("{other}"),
                })
            }
            Self::Card(equal, card) => match &instance["card_id"] {
                Value::String(found) => Some((found == card) == *equal),
                _ => None,
            },
            Self::IsNull(field, is) => Some((instance[*field] == Value::Null) == *is),
            Self::Not(inner) => inner.truth(instance).map(|truth| !truth),
            Self::And(a, b) => match (a.truth(instance), b.truth(instance)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Self::Or(a, b) => match (a.truth(instance), b.truth(instance)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
        }
    }
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::F64(number) => Some(*number),
        _ => None,
    }
}

fn condition() -> impl Strategy<Value = Condition> {
    let leaf = prop_oneof![
        4 => (prop::sample::select(vec![">", ">=", "<", "="]), -3_i32..4).prop_map(|(operator, number)| Condition::Amount(operator, number)),
        2 => (any::<bool>(), prop::sample::select(vec!["card-1", "card-2", "card-30"])).prop_map(|(equal, card)| Condition::Card(equal, card)),
        1 => (prop::sample::select(vec!["amount", "card_id", "merchant_id"]), any::<bool>()).prop_map(|(field, is)| Condition::IsNull(field, is)),
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            inner.prop_map(|inner| Condition::Not(Box::new(inner))),
            two.clone().prop_map(|(a, b)| Condition::And(Box::new(a), Box::new(b))),
            two.prop_map(|(a, b)| Condition::Or(Box::new(a), Box::new(b))),
        ]
    })
}

// ---- Routings --------------------------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
struct Rule {
    when: Option<Condition>,
    header: Option<(&'static str, &'static str)>,
    to: u32,
}

/// A routing, and its conditions as they are judged here.
#[derive(Clone, Debug)]
struct Plan {
    champion: u32,
    rules: Vec<Rule>,
    /// Hundredths of a percent; empty: no split.
    shares: BTreeMap<u32, usize>,
    sticky_by: Vec<&'static str>,
}

impl Plan {
    fn routing(&self) -> Routing {
        let rule = |rule: &Rule| RoutingRule {
            name: None,
            when: rule.when.as_ref().map(Condition::sql),
            header: rule.header.map(|(name, equals)| HeaderMatch {
                name: name.to_owned(),
                equals: equals.to_owned(),
            }),
            to: Target::Version(rule.to),
        };
        let share = |(version, slots): (&u32, &usize)| Share {
            to: if *version == self.champion {
                Target::Alias("champion".to_owned())
            } else {
                Target::Version(*version)
            },
            percent: *slots as f64 / 100.0,
        };
        Routing {
            aliases: BTreeMap::from([("champion".to_owned(), self.champion)]),
            rules: self.rules.iter().map(rule).collect(),
            split: self.shares.iter().map(share).collect(),
            sticky_by: self.sticky_by.iter().map(|key| (*key).to_owned()).collect(),
            ..Routing::default()
        }
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    let header = || {
        (
            prop::sample::select(HEADERS.to_vec()),
            prop::sample::select(WORDS.to_vec()),
        )
    };
    let conditions = prop_oneof![
        3 => condition().prop_map(|when| (Some(when), None)),
        2 => header().prop_map(|header| (None, Some(header))),
        1 => (condition(), header()).prop_map(|(when, header)| (Some(when), Some(header))),
    ];
    (conditions, 1..=VERSIONS).prop_map(|((when, header), to)| Rule { when, header, to })
}

fn shares() -> impl Strategy<Value = BTreeMap<u32, usize>> {
    let cuts = proptest::collection::vec((1..=VERSIONS, 0..=SLOTS), 0..4);
    prop_oneof![
        1 => Just(BTreeMap::new()),
        5 => (cuts, 1..=VERSIONS).prop_map(|(cuts, last)| {
            let (mut left, mut shares) = (SLOTS, BTreeMap::new());
            for (version, share) in cuts {
                let share = share.min(left);
                left -= share;
                *shares.entry(version).or_default() += share;
            }
            *shares.entry(last).or_default() += left;
            shares.retain(|_, share| *share > 0);
            shares
        }),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let sticky_by = prop::sample::select(vec![vec!["card_id"], vec!["merchant_id"], vec!["card_id", "amount"]]);
    (
        1..=VERSIONS,
        proptest::collection::vec(rule(), 0..4),
        shares(),
        sticky_by,
    )
        .prop_map(|(champion, rules, shares, sticky_by)| Plan {
            champion,
            rules,
            shares,
            sticky_by,
        })
}

fn instance() -> impl Strategy<Value = Instance> {
    let text = |name: &'static str, most: u32| {
        prop_oneof![
            1 => Just(Value::Null),
            15 => (0..most).prop_map(move |number| Value::String(format!("{name}-{number}"))),
        ]
    };
    let amount = prop_oneof![
        1 => Just(Value::Null),
        9 => (-8_i32..9).prop_map(|halves| Value::F64(f64::from(halves) / 2.0)),
    ];
    (text("card", 60), text("merchant", 8), amount).prop_map(|(card, merchant, amount)| {
        BTreeMap::from([
            ("card_id".to_owned(), card),
            ("merchant_id".to_owned(), merchant),
            ("amount".to_owned(), amount),
        ])
    })
}

fn headers() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let one = (
        prop::sample::select(HEADERS[..2].to_vec()),
        prop::sample::select(WORDS.to_vec()),
    );
    proptest::collection::vec(one, 0..4)
}

// ---- The oracle ------------------------------------------------------------------------------------------------------

/// Which version has each slot; none before the first split.
#[derive(Clone, Debug, Default, PartialEq)]
struct Slots(Option<Vec<u32>>);

impl Slots {
    /// A version that has too many slots gives its highest away; they go to those that have too few, lowest slot first,
    /// lowest version first. What had no split before belonged to the `champion`.
    fn changed(&self, shares: &BTreeMap<u32, usize>, champion_before: u32) -> Self {
        if shares.is_empty() {
            return Self(None);
        }
        let mut slots = self.0.clone().unwrap_or_else(|| vec![champion_before; SLOTS]);
        let count = |slots: &[u32], version: u32| slots.iter().filter(|held| **held == version).count();
        let held: BTreeSet<u32> = slots.iter().copied().collect();
        for version in held {
            let surplus = count(&slots, version).saturating_sub(shares.get(&version).copied().unwrap_or(0));
            let highest: Vec<usize> = (0..SLOTS)
                .rev()
                .filter(|slot| slots[*slot] == version)
                .take(surplus)
                .collect();
            for slot in highest {
                slots[slot] = 0;
            }
        }
        for (version, wanted) in shares {
            let lacking = wanted.saturating_sub(count(&slots, *version));
            let lowest: Vec<usize> = (0..SLOTS).filter(|slot| slots[*slot] == 0).take(lacking).collect();
            for slot in lowest {
                slots[slot] = *version;
            }
        }
        Self(Some(slots))
    }
}

/// FNV-1a of 64 bits over the model's name and the values, then MurmurHash3's finalizer, scaled to the slots.
fn slot(model: &str, values: &[&Value]) -> usize {
    let mut bytes = model.as_bytes().to_vec();
    bytes.push(0xff);
    for value in values {
        match value {
            Value::Null => bytes.push(0),
            Value::F64(number) => {
                bytes.push(3);
                // The two zeros are one key.
                bytes.extend((number + 0.0).to_bits().to_le_bytes());
            }
            Value::String(text) => {
                bytes.push(4);
                bytes.extend((text.len() as u64).to_le_bytes());
                bytes.extend(text.as_bytes());
            }
            other => panic!("{other}"),
        }
    }
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    for factor in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^= hash >> 33;
    ((u128::from(hash) * SLOTS as u128) >> 64) as usize
}

/// The version and the way of one request.
fn route(model: &str, plan: &Plan, slots: &Slots, headers: &[(&str, &str)], instance: &Instance) -> (u32, String) {
    for (place, rule) in plan.rules.iter().enumerate() {
        let by_header = rule.header.is_none_or(|wanted| headers.contains(&wanted));
        let by_condition = rule.when.as_ref().is_none_or(|when| when.truth(instance) == Some(true));
        if by_header && by_condition {
            return (rule.to, format!("rule {}", place + 1));
        }
    }
    match &slots.0 {
        None => (plan.champion, "default".to_owned()),
        Some(slots) => {
            let key: Vec<&Value> = plan.sticky_by.iter().map(|key| &instance[*key]).collect();
            (slots[slot(model, &key)], "split".to_owned())
        }
    }
}

// ---- The gateway -----------------------------------------------------------------------------------------------------

async fn with_versions(bench: &Bench, model: &str) {
    for (place, fixture) in FIXTURES.into_iter().enumerate() {
        let registered = bench.register_as(model, artifact(fixture)).await.unwrap();
        assert_eq!(registered.model.version as usize, place + 1);
    }
}

async fn set(bench: &Bench, model: &str, plan: &Plan) {
    let set = bench.set_routing(model, plan.routing()).await;
    set.unwrap_or_else(|error| panic!("{error}: {:#?}", plan.routing()));
}

/// The version and the way of each of `instances`, in one call.
async fn routed(bench: &Bench, model: &str, headers: &[(&str, &str)], instances: &[Instance]) -> Vec<(u32, String)> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(
            name.parse::<HeaderName>().unwrap(),
            HeaderValue::from_static(word(value)),
        );
    }
    let batch = BatchPredictRequest {
        instances: instances.to_vec(),
        headers: map,
        explain: Some(false),
        ..BatchPredictRequest::default()
    };
    let answer = bench.gateway.batch_predict(model, batch).await.unwrap();
    let way = |answer: &ondol_model_gateway_api::wire::Prediction| (answer.model.version, answer.route.clone());
    answer.predictions.iter().map(way).collect()
}

fn word(value: &str) -> &'static str {
    WORDS.into_iter().find(|word| *word == value).unwrap()
}

/// Ever the same draws: a failure is seen again.
struct Draws(TestRunner);

impl Draws {
    fn new() -> Self {
        Self(TestRunner::deterministic())
    }

    fn draw<S: Strategy>(&mut self, strategy: S) -> S::Value {
        strategy.new_tree(&mut self.0).unwrap().current()
    }
}

#[tokio::test]
async fn every_request_goes_where_the_first_rule_that_holds_the_slot_or_the_champion_says() {
    let bench = Bench::open_with(|config| config.deadline_ms = 120_000).await;
    with_versions(&bench, "fraud").await;
    let mut draws = Draws::new();
    let (mut slots, mut champion) = (Slots::default(), VERSIONS);
    let mut ways = BTreeMap::<String, usize>::new();
    for _ in 0..60 {
        let plan = draws.draw(plan());
        slots = slots.changed(&plan.shares, champion);
        champion = plan.champion;
        set(&bench, "fraud", &plan).await;
        let (headers, instances) = (
            draws.draw(headers()),
            draws.draw(proptest::collection::vec(instance(), 80)),
        );
        let found = routed(&bench, "fraud", &headers, &instances).await;
        for (instance, found) in instances.iter().zip(found) {
            let expected = route("fraud", &plan, &slots, &headers, instance);
            assert_eq!(found, expected, "{instance:?} with {headers:?} by {plan:#?}");
            *ways.entry(found.1).or_default() += 1;
        }
        // Alone, a request goes where it goes among others.
        let alone = routed(&bench, "fraud", &headers, &instances[..1]).await;
        assert_eq!(alone[0], route("fraud", &plan, &slots, &headers, &instances[0]));
    }
    for way in ["rule 1", "rule 2", "rule 3", "split", "default"] {
        assert!(
            ways.get(way).is_some_and(|count| *count > 50),
            "{way} was hardly tried: {ways:?}"
        );
    }
}

/// One request per slot, in the order of the slots.
fn a_key_of_each_slot(model: &str) -> Vec<Instance> {
    let mut keys: Vec<Option<Instance>> = vec![None; SLOTS];
    let mut left = SLOTS;
    for number in 0.. {
        let card = Value::String(format!("card-{number}"));
        let place = &mut keys[slot(model, &[&card])];
        if place.is_none() {
            *place = Some(BTreeMap::from([
                ("card_id".to_owned(), card),
                ("merchant_id".to_owned(), Value::Null),
                ("amount".to_owned(), Value::Null),
            ]));
            left -= 1;
        }
        if left == 0 {
            break;
        }
    }
    keys.into_iter().map(Option::unwrap).collect()
}

async fn versions(bench: &Bench, model: &str, instances: &[Instance]) -> Vec<u32> {
    let mut versions = Vec::new();
    for part in instances.chunks(1_000) {
        versions.extend(
            routed(bench, model, &[], part)
                .await
                .into_iter()
                .map(|(version, _)| version),
        );
    }
    versions
}

#[tokio::test]
async fn of_all_keys_exactly_as_many_move_as_the_shares_differ_and_a_rollback_moves_them_back() {
    let bench = Bench::open_with(|config| config.deadline_ms = 120_000).await;
    with_versions(&bench, "fraud").await;
    let keys = a_key_of_each_slot("fraud");
    let mut draws = Draws::new();
    let mut held: Option<(BTreeMap<u32, usize>, Vec<u32>)> = None;
    for _ in 0..12 {
        let shares = loop {
            let shares = draws.draw(shares());
            if !shares.is_empty() {
                break shares;
            }
        };
        let plan = Plan {
            champion: 1,
            rules: Vec::new(),
            shares: shares.clone(),
            sticky_by: vec!["card_id"],
        };
        set(&bench, "fraud", &plan).await;
        let found = versions(&bench, "fraud", &keys).await;
        let mut counts = BTreeMap::<u32, usize>::new();
        for version in &found {
            *counts.entry(*version).or_default() += 1;
        }
        assert_eq!(counts, shares, "every version has its share, to the slot");
        if let Some((before, were)) = &held {
            let moved = were
                .iter()
                .zip(&found)
                .filter(|(before, after)| before != after)
                .count();
            let gained =
                |(version, share): (&u32, &usize)| share.saturating_sub(before.get(version).copied().unwrap_or(0));
            let must: usize = shares.iter().map(gained).sum();
            assert_eq!(moved, must, "from {before:?} to {shares:?}");
        }
        held = Some((shares, found));
    }
    // There and back.
    let (_, found) = held.unwrap();
    let plan = Plan {
        champion: 1,
        rules: Vec::new(),
        shares: BTreeMap::from([(1, SLOTS)]),
        sticky_by: vec!["card_id"],
    };
    set(&bench, "fraud", &plan).await;
    assert!(
        versions(&bench, "fraud", &keys)
            .await
            .iter()
            .all(|version| *version == 1)
    );
    bench
        .gateway
        .rollback("fraud", RollbackRequest::default())
        .await
        .unwrap();
    assert_eq!(versions(&bench, "fraud", &keys).await, found);
}

/// Waits until `bench` routes `instances` as `expected`.
async fn follows(bench: &Bench, model: &str, instances: &[Instance], expected: &[(u32, String)]) {
    let began = Instant::now();
    loop {
        let found = routed(bench, model, &[], instances).await;
        if found == expected {
            return;
        }
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "{found:?} is not {expected:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_key_has_the_same_version_on_every_replica_and_after_a_restart() {
    let model = services::unique_name("fraud");
    let store = FakeStore::new(support::snapshot());
    store.apply(|snapshot| snapshot.models[0].definition.name = model.clone());
    let artifacts = tempfile::tempdir().unwrap();
    let artifacts = artifacts.path();
    let a = Bench::replica(&store, artifacts).await;
    with_versions(&a, &model).await;
    let mut b = Bench::replica(&store, artifacts).await;
    let mut draws = Draws::new();
    let (mut slots, mut champion) = (Slots::default(), VERSIONS);
    for round in 0..12 {
        let plan = draws.draw(plan());
        slots = slots.changed(&plan.shares, champion);
        champion = plan.champion;
        // Now the one, now the other is told.
        set(if round % 2 == 0 { &a } else { &b }, &model, &plan).await;
        let instances = draws.draw(proptest::collection::vec(instance(), 60));
        let expected: Vec<_> = instances
            .iter()
            .map(|instance| route(&model, &plan, &slots, &[], instance))
            .collect();
        follows(&a, &model, &instances, &expected).await;
        follows(&b, &model, &instances, &expected).await;
        if round % 4 == 3 {
            // Another process of another day: nothing is kept but the database.
            b.stop().await;
            b = Bench::replica(&store, artifacts).await;
            follows(&b, &model, &instances, &expected).await;
        }
    }
    a.stop().await;
    b.stop().await;
}
