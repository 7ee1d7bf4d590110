//! Inference on raw tensors: Ondol over REST (JSON and bytes) and gRPC, against MLServer, a FastAPI server and the bare
//! handler. Nothing is looked up. Ondol records each call as a decision; rows of a model whose decisions are not kept
//! say what that costs.

use super::Bench;
use super::ondol::Ondol;
use super::rounds::{Plan, Subject, check};
use super::server::Server;
use super::tensors::Vectors;
use crate::report::Report;
use anyhow::Result;
use std::sync::Arc;

/// The model whose decisions are not kept.
pub(super) const UNLOGGED: &str = "unlogged";
const ONDOL: &str = "ondol dev";
const ONDOL_UNLOGGED: &str = "ondol dev, nothing kept";
const JSON: &str = "json";
const BINARY: &str = "binary";
const GRPC: &str = "grpc";
/// How many times their requests per CPU second Ondol is to answer.
const OF_MLSERVER: f64 = 10.0;
const OF_FASTAPI: f64 = 4.0;
const OF_BARE: f64 = 0.5;

/// Runs it.
pub(super) async fn run(bench: &Bench<'_>, ondol: &Ondol, report: &mut Report) -> Result<()> {
    let peers = bench.peers()?;
    let bare = peers.bare().await?;
    let vectors = Vectors::make(&bench.model).await?;
    let subject = |name, what, server: &Arc<Server>, target, against| Subject {
        name,
        what,
        server: Arc::clone(server),
        target,
        against,
    };
    let (own, gateway) = (&ondol.server, ondol.gateway);
    let mut subjects = Vec::new();
    for (name, model) in [(ONDOL, "bench"), (ONDOL_UNLOGGED, UNLOGGED)] {
        subjects.push(subject(name, JSON, own, vectors.json(gateway, model), None));
        subjects.push(subject(name, BINARY, own, vectors.binary(gateway, model), None));
        subjects.push(subject(name, GRPC, own, vectors.grpc(gateway, model)?, None));
    }
    if !bench.args.without_peers {
        let (mlserver, grpc) = peers.mlserver().await?;
        let server = &mlserver.server;
        let against = Some((ONDOL, OF_MLSERVER));
        let target = vectors.json(mlserver.address, "bench");
        subjects.push(subject("mlserver", JSON, server, target, against));
        subjects.push(subject("mlserver", GRPC, server, vectors.grpc(grpc, "bench")?, against));
        let by_hand = peers.fastapi("tensor_app").await?;
        let target = vectors.by_hand(by_hand.address);
        let against = Some((ONDOL, OF_FASTAPI));
        subjects.push(subject("fastapi + onnxruntime", JSON, &by_hand.server, target, against));
    }
    let against = Some((ONDOL, OF_BARE));
    for (what, target) in [
        (JSON, vectors.json(bare.address, JSON)),
        (BINARY, vectors.binary(bare.address, BINARY)),
    ] {
        subjects.push(subject("bare axum handler", what, &bare.server, target, against));
    }
    check(&subjects).await?;
    let plan = Plan {
        part: "v2",
        callers: &bench.args.callers,
        rounds: bench.args.rounds,
        window: bench.window(),
        redis: None,
    };
    plan.run(&subjects, report).await
}
