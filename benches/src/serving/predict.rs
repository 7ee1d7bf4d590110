//! Predictions by key: Ondol against a FastAPI server around Feast's SDK, and one around a packed value in Redis.

use super::Bench;
use super::load::Target;
use super::ondol::{Ondol, Way};
use super::rounds::{Plan, Subject, check};
use super::server::Server;
use super::shapes::{Facts, LATEST, Shape, WINDOWS};
use crate::report::Report;
use anyhow::{Result, ensure};
use std::sync::Arc;

const ONE: &str = "ondol dev";
const SERVICES: &str = "ondol serve ×3";
const FEAST: &str = "fastapi + feast";
const PACKED: &str = "fastapi + packed value";
/// How many times their requests per CPU second Ondol is to answer.
const OF_FEAST: f64 = 20.0;
const OF_PACKED: f64 = 5.0;
/// Windows move on every five minutes: two installations can be asked on either side.
const TRIES: usize = 3;

/// Runs it.
pub(super) async fn run(bench: &Bench<'_>, one: &Ondol, report: &mut Report) -> Result<()> {
    let services = bench.ondol(Way::Services).await?;
    let shapes = [WINDOWS, LATEST];
    let mut facts = Vec::new();
    for shape in &shapes {
        facts.push(learn(bench, shape, one, &services).await?);
    }
    let mut subjects = Vec::new();
    for (shape, facts) in shapes.iter().zip(&facts) {
        for (name, ondol) in [(ONE, one), (SERVICES, &services)] {
            let target = shape.of_ondol(facts, ondol.gateway, false);
            subjects.push(subject(name, shape, &ondol.server, target, None));
        }
    }
    if !bench.args.without_peers {
        let peers = bench.peers()?;
        let seeds = shapes.iter().zip(&facts).map(|(shape, facts)| shape.seed(facts));
        peers.seed(&seeds.collect::<Result<Vec<_>>>()?).await?;
        let (feast, packed) = (peers.fastapi("feast_app").await?, peers.fastapi("packed_app").await?);
        for (shape, facts) in shapes.iter().zip(&facts) {
            for (name, peer, aim) in [(FEAST, &feast, OF_FEAST), (PACKED, &packed, OF_PACKED)] {
                let target = shape.of_peer(facts, peer.address);
                subjects.push(subject(name, shape, &peer.server, target, Some((ONE, aim))));
            }
        }
    }
    if let Some(facts) = facts.first() {
        subjects.push(Subject {
            name: ONE,
            what: "windows, explained",
            server: Arc::clone(&one.server),
            target: WINDOWS.of_ondol(facts, one.gateway, true),
            against: None,
        });
    }
    // Ondol's own were compared when they were learnt: its windows may have moved on since.
    check(subjects.iter().filter(|subject| subject.against.is_some())).await?;
    let plan = Plan {
        part: "predict",
        callers: &bench.args.callers,
        rounds: bench.args.rounds,
        window: bench.window(),
        redis: Some(&bench.redis),
    };
    plan.run(&subjects, report).await
}

fn subject(
    name: &'static str,
    shape: &Shape,
    server: &Arc<Server>,
    target: Target,
    against: Option<(&'static str, f64)>,
) -> Subject {
    Subject {
        name,
        what: shape.name,
        server: Arc::clone(server),
        target,
        against,
    }
}

/// What both installations say, which must be the same, with the features in the answer and without.
async fn learn(bench: &Bench<'_>, shape: &Shape, one: &Ondol, services: &Ondol) -> Result<Facts> {
    let (cards, merchants) = (bench.args.cards, bench.args.merchants);
    let mut tries = 0;
    loop {
        let facts = shape.learn(one, &bench.model, cards, merchants).await?;
        let checks = async {
            for ondol in [one, services] {
                shape.of_ondol(&facts, ondol.gateway, false).check().await?;
            }
            Ok(())
        };
        let checked: Result<()> = checks.await;
        if checked.is_ok() && shape.learn(services, &bench.model, cards, merchants).await? == facts {
            return Ok(facts);
        }
        tries += 1;
        ensure!(
            tries < TRIES,
            "one process and services disagree about {}: {checked:?}",
            shape.name
        );
    }
}
