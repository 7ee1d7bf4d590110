//! One model's tail while something that it does not need is in trouble: the upstream of another model hangs or is dead,
//! Redis hangs for a model that reads features beside one that reads none, ingest hangs behind the decision log.
//!
//! Requests come on the clock, at a rate that the gateway bears easily, and a request's time begins when it is due. Windows
//! take turns: alone, in trouble, alone, in trouble …; in trouble, requests that meet the trouble come too, at a rate of their
//! own, and are left to fail. Each begins after a breath, so that one is not measured while the other's requests still end.

use super::Bench;
use super::http1::post;
use super::load::Door;
use super::load::{Paced, Target};
use super::model::FEATURES;
use super::ondol::{Ondol, Way};
use super::shapes::WINDOWS;
use crate::measure::median;
use crate::report::{Report, Row};
use anyhow::{Context as _, Result, ensure};
use axum::routing::post as answer_post;
use axum::{Json, Router};
use bytes::Bytes;
use ondol_feature_store_api::wire::{DefinitionFile, DefinitionFiles};
use ondol_model_gateway_api::wire::ArtifactKind;
use ondol_runtime::Shutdown;
use ondol_testkit::proxy::Proxy;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::process::Command;

/// Requests a second of the model that is watched, and of the one that meets the trouble.
const WATCHED: f64 = 300.0;
const TROUBLED: f64 = 50.0;
/// Callers of each: as many as may be waiting at a time.
const WATCHING: usize = 16;
const WAITING: usize = 64;
/// Between two windows.
const BREATH: Duration = Duration::from_millis(700);
/// How much longer the tail may be.
const AIM: f64 = 1.5;

/// Something to be switched on and off.
enum Trouble<'a> {
    Hangs(&'a Proxy),
    IsDead(&'a Proxy),
    /// A process stands still.
    Stops(u32),
}

/// Who is watched, and what goes wrong meanwhile.
struct Scene<'a> {
    what: &'static str,
    server: &'static str,
    watched: Target,
    trouble: Trouble<'a>,
    meets_it: Option<Target>,
}

/// Runs it.
pub(super) async fn run(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let redis = Proxy::start("redis", &[bench.redis_port()?]).await?;
    let (upstream, _upstream) = start_upstream().await?;
    let one = bench
        .ondol_at(
            Way::OneProcess,
            "isolation",
            &format!("redis://127.0.0.1:{}", redis.port),
        )
        .await?;
    one.apply_more(models()).await?;
    one.register("plain", bench.model.artifact.clone(), ArtifactKind::Onnx)
        .await?;
    one.register("far", far(upstream.port), ArtifactKind::Upstream).await?;
    let services = bench
        .ondol_at(Way::Services, "isolation-services", &bench.redis.url)
        .await?;
    let ingest = services.server.id("serve-ingest").context("ingest does not run")?;

    let by_key = |ondol: &Ondol| WINDOWS.asked(bench.args.cards, bench.args.merchants, ondol.gateway);
    let scenes = [
        Scene {
            what: "another model's upstream hangs",
            server: "ondol dev",
            watched: by_key(&one),
            trouble: Trouble::Hangs(&upstream),
            meets_it: Some(asked("far", &json!({"x": 1.0}), &one)),
        },
        Scene {
            what: "another model's upstream is dead",
            server: "ondol dev",
            watched: by_key(&one),
            trouble: Trouble::IsDead(&upstream),
            meets_it: Some(asked("far", &json!({"x": 1.0}), &one)),
        },
        Scene {
            what: "redis hangs, the model reads no features",
            server: "ondol dev",
            watched: asked("plain", &plain_inputs(), &one),
            trouble: Trouble::Hangs(&redis),
            meets_it: Some(by_key(&one)),
        },
        Scene {
            what: "ingest hangs",
            server: "ondol serve ×3",
            watched: by_key(&services),
            trouble: Trouble::Stops(ingest),
            meets_it: None,
        },
    ];
    for scene in &scenes {
        report.row(scene.measure(bench).await?);
    }
    Ok(())
}

impl Scene<'_> {
    async fn measure(&self, bench: &Bench<'_>) -> Result<Row> {
        let time = bench.window();
        self.watched.paced(WATCHING, WATCHED, time).await?;
        let (mut alone, mut troubled) = (Vec::new(), Vec::new());
        for _ in 0..bench.args.rounds {
            tokio::time::sleep(BREATH).await;
            alone.push(self.watched.paced(WATCHING, WATCHED, time).await?);
            tokio::time::sleep(BREATH).await;
            self.trouble.begin().await?;
            let watched = self.watched.paced(WATCHING, WATCHED, time);
            let both = async {
                match &self.meets_it {
                    Some(target) => tokio::join!(watched, target.paced(WAITING, TROUBLED, time)).0,
                    None => watched.await,
                }
            };
            let outcome = both.await;
            self.trouble.end().await?;
            troubled.push(outcome?);
        }
        let mid = |windows: &[Paced], of: fn(&Paced) -> f64| median(windows.iter().map(of));
        let failed: u64 = alone.iter().chain(&troubled).map(|window| window.failed).sum();
        ensure!(
            failed == 0,
            "{}: {failed} requests of the model that is watched failed",
            self.what
        );
        let p99 = |paced: &Paced| paced.latency.p99();
        let ratio = mid(&troubled, p99) / mid(&alone, p99);
        Ok(Row::default()
            .with("part", "isolation")
            .with("what", self.what)
            .with("server", self.server)
            .figure("p50_us", mid(&troubled, |paced| paced.latency.p50()))
            .figure("p99_us", mid(&troubled, p99))
            .figure("alone_p50_us", mid(&alone, |paced| paced.latency.p50()))
            .figure("alone_p99_us", mid(&alone, p99))
            .figure("times", ratio)
            .with("aim", AIM)
            .with("verdict", if ratio <= AIM { "met" } else { "missed" }))
    }
}

impl Trouble<'_> {
    async fn begin(&self) -> Result<()> {
        match self {
            Self::Hangs(proxy) => proxy.stall(),
            Self::IsDead(proxy) => proxy.cut(),
            Self::Stops(process) => signal("-STOP", *process).await?,
        }
        Ok(())
    }

    async fn end(&self) -> Result<()> {
        match self {
            Self::Hangs(proxy) | Self::IsDead(proxy) => proxy.mend(),
            Self::Stops(process) => signal("-CONT", *process).await?,
        }
        Ok(())
    }
}

async fn signal(signal: &str, process: u32) -> Result<()> {
    let status = Command::new("kill")
        .args([signal, &process.to_string()])
        .status()
        .await?;
    ensure!(status.success(), "the process {process} can't be signalled");
    Ok(())
}

/// A model that reads no features, and one that is on another server.
fn models() -> DefinitionFiles {
    let names: Vec<String> = (1..=FEATURES).map(|place| format!("a{place}")).collect();
    let inputs: Vec<String> = names.iter().map(|name| format!("{name} = \"f64\"")).collect();
    let text = format!(
        "[model.plain]\ninputs = {{ {} }}\nfeatures = {}\n\n[model.far]\ninputs = {{ x = \"f64\" }}\nfeatures = [\"x\"]\n",
        inputs.join(", "),
        json!(names)
    );
    DefinitionFiles {
        files: vec![DefinitionFile {
            path: "isolation.toml".to_owned(),
            text,
        }],
    }
}

fn plain_inputs() -> Value {
    let inputs = (1..=FEATURES).map(|place| (format!("a{place}"), json!(place as f64 * 7.25)));
    Value::Object(inputs.collect())
}

/// The same request of `model` again and again.
fn asked(model: &str, inputs: &Value, ondol: &Ondol) -> Target {
    let body = json!({"inputs": inputs, "explain": false}).to_string();
    let request = post(&format!("/v1/models/{model}:predict"), "", body.as_bytes());
    Target {
        door: Door::Http(ondol.gateway),
        requests: Arc::new(vec![request]),
        expected: Arc::default(),
        probability: |_| Ok(f32::NAN),
    }
}

fn far(port: u16) -> Bytes {
    format!("url = \"http://127.0.0.1:{port}\"\nprotocol = \"mlflow\"\nmodel = \"far\"\ntimeout_ms = 1000\n").into()
}

/// A server of MLflow's protocol that says 0.5, behind a proxy; it ends with the guard.
async fn start_upstream() -> Result<(Proxy, Guard)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let router = Router::new().route("/invocations", answer_post(invocations));
    let shutdown = Shutdown::new();
    shutdown.spawn("upstream", ondol_runtime::serve(listener, router, shutdown.clone()));
    Ok((Proxy::start("upstream", &[port]).await?, Guard(shutdown)))
}

async fn invocations(Json(body): Json<Value>) -> Json<Value> {
    let rows = body.pointer("/dataframe_split/data").and_then(Value::as_array);
    Json(json!({"predictions": vec![0.5; rows.map_or(1, Vec::len)]}))
}

struct Guard(Shutdown);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.trigger();
    }
}
