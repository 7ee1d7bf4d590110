//! Inference on raw tensors: Ondol over REST (JSON and bytes) and gRPC, against MLServer, a FastAPI server and the bare
//! handler. Nothing is looked up. Ondol records each call as a decision; rows of a model whose decisions are not kept
//! say what that costs.

use super::Bench;
use super::ondol::Ondol;
use super::rounds::{Plan, Subject, check};
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
    let (mlserver, mlserver_grpc) = peers.mlserver().await?;
    let by_hand = peers.fastapi("tensor_app").await?;
    let bare = peers.bare().await?;
    let vectors = Vectors::make(&bench.model).await?;
    let subject = |name, what, server, target, against| Subject {
        name,
        what,
        server: Arc::clone(server),
        target,
        against,
    };
    let (own, gateway) = (&ondol.server, ondol.gateway);
    let subjects = [
        subject(ONDOL, JSON, own, vectors.json(gateway, "bench"), None),
        subject(ONDOL, BINARY, own, vectors.binary(gateway, "bench"), None),
        subject(ONDOL, GRPC, own, vectors.grpc(gateway, "bench")?, None),
        subject(ONDOL_UNLOGGED, JSON, own, vectors.json(gateway, UNLOGGED), None),
        subject(ONDOL_UNLOGGED, BINARY, own, vectors.binary(gateway, UNLOGGED), None),
        subject(ONDOL_UNLOGGED, GRPC, own, vectors.grpc(gateway, UNLOGGED)?, None),
        subject(
            "mlserver",
            JSON,
            &mlserver.server,
            vectors.json(mlserver.address, "bench"),
            Some((ONDOL, OF_MLSERVER)),
        ),
        subject(
            "mlserver",
            GRPC,
            &mlserver.server,
            vectors.grpc(mlserver_grpc, "bench")?,
            Some((ONDOL, OF_MLSERVER)),
        ),
        subject(
            "fastapi + onnxruntime",
            JSON,
            &by_hand.server,
            vectors.by_hand(by_hand.address),
            Some((ONDOL, OF_FASTAPI)),
        ),
        subject(
            "bare axum handler",
            JSON,
            &bare.server,
            vectors.json(bare.address, "json"),
            Some((ONDOL, OF_BARE)),
        ),
        subject(
            "bare axum handler",
            BINARY,
            &bare.server,
            vectors.binary(bare.address, "binary"),
            Some((ONDOL, OF_BARE)),
        ),
    ];
    check(&subjects).await?;
    let plan = Plan {
        part: "v2",
        rounds: bench.args.rounds,
        window: bench.window(),
        redis: None,
    };
    plan.run(&subjects, report).await
}
