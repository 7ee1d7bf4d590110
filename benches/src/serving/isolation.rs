//! One model's tail while something that it does not need is in trouble: the upstream of another model hangs or is dead;
//! Redis hangs, is slow or is dead, for a model that reads features beside one that reads none; Kafka hangs or is dead, for
//! a model whose decisions must be recorded beside one whose decisions may be lost; ingest hangs behind the decision log.
//!
//! Requests come on the clock, at a rate that the gateway bears easily, and a request's time begins when it is due. Windows
//! take turns: alone, in trouble, alone, in trouble …; in trouble, requests that meet the trouble come too, at a rate of their
//! own, and are left to fail. Each begins when the one before it is over for the server, too: who met the trouble is
//! answered again, and what requests leave to be done (decisions to be written, and to be committed a second later) is done.

use super::Bench;
use super::http1::post;
use super::kafka::Kafka;
use super::load::{Caller, Door, Paced, Target};
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
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::process::Command;

/// Requests a second of the model that is watched, and of the one that meets the trouble.
const WATCHED: f64 = 600.0;
const TROUBLED: f64 = 50.0;
/// Windows of each kind for each round of the run: a tail is made of few requests, and the median of few tails is chance.
const TURNS: usize = 4;
/// Callers of each: as many as may be waiting at a time.
const WATCHING: usize = 16;
const WAITING: usize = 64;
/// How late Redis's answers, and what is asked of it, are when it is slow.
const SLOW: Duration = Duration::from_millis(250);
/// How long a trouble may last after its end, and how often it is looked whether it does.
const LONGEST: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);
/// How much longer the tail may be.
const AIM: f64 = 1.5;

/// Something to be switched on and off.
#[derive(Clone, Copy)]
enum Trouble<'a> {
    /// Nothing goes wrong: what the requests of the other model take by themselves.
    Nothing,
    Hangs(&'a Proxy),
    IsSlow(&'a Proxy),
    IsDead(&'a Proxy),
    /// A process stands still.
    Stops(u32),
}

/// Who is watched, and what goes wrong meanwhile.
struct Scene<'a> {
    what: &'static str,
    server: &'static str,
    ondol: &'a Ondol,
    watched: Target,
    trouble: Trouble<'a>,
    meets_it: Option<Target>,
}

/// Runs it.
pub(super) async fn run(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    one_process(bench, report).await?;
    services(bench, report).await?;
    on_kafka(bench, report).await
}

/// What is by itself in `ondol dev`: other models' upstreams, and Redis.
async fn one_process(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let redis = Proxy::start("redis", &[bench.redis_port()?]).await?;
    let (upstream, _upstream) = start_upstream().await?;
    let mut places = bench.places("isolation")?;
    places.redis = format!("redis://127.0.0.1:{}", redis.port);
    let ondol = bench.ondol_at(Way::OneProcess, places).await?;
    ondol.apply_more(models()).await?;
    ondol
        .register("plain", bench.model.artifact.clone(), ArtifactKind::Onnx)
        .await?;
    ondol
        .register("far", far(upstream.port), ArtifactKind::Upstream)
        .await?;
    let of_upstream = |what, trouble| Scene {
        what,
        server: "ondol dev",
        ondol: &ondol,
        watched: by_key(bench, &ondol),
        trouble,
        meets_it: Some(asked("far", &json!({"x": 1.0}), &ondol)),
    };
    let of_redis = |what, trouble| Scene {
        what,
        server: "ondol dev",
        ondol: &ondol,
        watched: asked("plain", &plain_inputs(), &ondol),
        trouble,
        meets_it: Some(by_key(bench, &ondol)),
    };
    for scene in [
        of_upstream("another model is asked, nothing is wrong", Trouble::Nothing),
        of_upstream("another model's upstream hangs", Trouble::Hangs(&upstream)),
        of_upstream("another model's upstream is dead", Trouble::IsDead(&upstream)),
        of_redis("redis hangs, the model reads no features", Trouble::Hangs(&redis)),
        of_redis("redis is slow, the model reads no features", Trouble::IsSlow(&redis)),
        of_redis("redis is dead, the model reads no features", Trouble::IsDead(&redis)),
    ] {
        report.row(scene.measure(bench).await?);
    }
    Ok(())
}

/// What is a process of its own.
async fn services(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let ondol = bench
        .ondol_at(Way::Services, bench.places("isolation-services")?)
        .await?;
    let ingest = ondol.server.id("serve-ingest").context("ingest does not run")?;
    let scene = Scene {
        what: "ingest hangs",
        server: "ondol serve ×3",
        ondol: &ondol,
        watched: by_key(bench, &ondol),
        trouble: Trouble::Stops(ingest),
        meets_it: None,
    };
    report.row(scene.measure(bench).await?);
    Ok(())
}

/// The streams in Kafka: decisions, and the payments too.
async fn on_kafka(bench: &Bench<'_>, report: &mut Report) -> Result<()> {
    let kafka = Kafka::start(bench.args.kafka.as_deref(), bench.folder.path()).await?;
    let mut places = bench.places("isolation-kafka")?;
    places.kafka = Some(kafka.bootstrap());
    let ondol = bench.ondol_at(Way::OneProcess, places).await?;
    ondol.apply_more(models()).await?;
    ondol
        .register("strict", bench.model.artifact.clone(), ArtifactKind::Onnx)
        .await?;
    let scene = |what, trouble| Scene {
        what,
        server: "ondol dev on kafka",
        ondol: &ondol,
        watched: by_key(bench, &ondol),
        trouble,
        meets_it: Some(asked("strict", &plain_inputs(), &ondol)),
    };
    for scene in [
        scene("kafka hangs, decisions may be lost", Trouble::Hangs(&kafka.proxy)),
        scene("kafka is dead, decisions may be lost", Trouble::IsDead(&kafka.proxy)),
    ] {
        report.row(scene.measure(bench).await?);
    }
    Ok(())
}

impl Scene<'_> {
    async fn measure(&self, bench: &Bench<'_>) -> Result<Row> {
        let time = bench.window();
        self.watch(time).await?;
        let (mut alone, mut troubled) = (Vec::new(), Vec::new());
        for _ in 0..bench.args.rounds * TURNS {
            self.ondol.server.settle().await?;
            alone.push(self.watch(time).await?);
            self.ondol.server.settle().await?;
            let outcome = self.watch_in_trouble(time).await;
            self.trouble.end().await?;
            troubled.push(outcome?);
            self.is_over().await?;
        }
        let failed: u64 = alone.iter().chain(&troubled).map(|window| window.failed).sum();
        ensure!(
            failed == 0,
            "{}: {failed} requests of the model that is watched failed",
            self.what
        );
        Ok(self.row(&alone, &troubled))
    }

    async fn watch(&self, time: Duration) -> Result<Paced> {
        let watching = self.watched.callers(WATCHING).await?;
        self.watched.paced(watching, WATCHED, time).await
    }

    /// Connections are made before the trouble begins: so many at once would be a trouble of their own.
    async fn watch_in_trouble(&self, time: Duration) -> Result<Paced> {
        let watching = self.watched.callers(WATCHING).await?;
        let waiting = match &self.meets_it {
            Some(target) => target.callers(WAITING).await?,
            None => Vec::new(),
        };
        self.trouble.begin().await?;
        let watched = self.watched.paced(watching, WATCHED, time);
        match &self.meets_it {
            Some(target) => tokio::join!(watched, target.paced(waiting, TROUBLED, time)).0,
            None => watched.await,
        }
    }

    /// Returns once who met the trouble is answered again.
    async fn is_over(&self) -> Result<()> {
        let Some(target) = &self.meets_it else { return Ok(()) };
        let request = target.requests.first().context("nothing is asked")?;
        let begun = Instant::now();
        loop {
            let told = async { Caller::open(&target.door).await?.call(request).await };
            let Err(error) = told.await else { return Ok(()) };
            ensure!(begun.elapsed() < LONGEST, "{} is not over: {error:#}", self.what);
            tokio::time::sleep(LOOK).await;
        }
    }

    fn row(&self, alone: &[Paced], troubled: &[Paced]) -> Row {
        let p99 = |paced: &Paced| paced.latency.p99();
        let mid = |windows: &[Paced], of: fn(&Paced) -> f64| median(windows.iter().map(of));
        let ratio = mid(troubled, p99) / mid(alone, p99);
        // Each beside the one before it: how far apart chance alone takes them.
        let rounds = || {
            troubled
                .iter()
                .zip(alone)
                .map(|(troubled, alone)| p99(troubled) / p99(alone))
        };
        Row::default()
            .with("part", "isolation")
            .with("what", self.what)
            .with("server", self.server)
            .figure("p50_us", mid(troubled, |paced| paced.latency.p50()))
            .figure("p99_us", mid(troubled, p99))
            .figure("alone_p50_us", mid(alone, |paced| paced.latency.p50()))
            .figure("alone_p99_us", mid(alone, p99))
            .figure("times", ratio)
            .figure("least", rounds().fold(f64::INFINITY, f64::min))
            .figure("most", rounds().fold(0.0, f64::max))
            .with("aim", AIM)
            .with("verdict", if ratio <= AIM { "met" } else { "missed" })
    }
}

impl Trouble<'_> {
    async fn begin(self) -> Result<()> {
        match self {
            Self::Nothing => {}
            Self::Hangs(proxy) => proxy.stall(),
            Self::IsSlow(proxy) => proxy.slow(SLOW),
            Self::IsDead(proxy) => proxy.cut(),
            Self::Stops(process) => signal("-STOP", process).await?,
        }
        Ok(())
    }

    async fn end(self) -> Result<()> {
        match self {
            Self::Nothing => {}
            Self::Hangs(proxy) | Self::IsSlow(proxy) | Self::IsDead(proxy) => proxy.mend(),
            Self::Stops(process) => signal("-CONT", process).await?,
        }
        Ok(())
    }
}

fn by_key(bench: &Bench<'_>, ondol: &Ondol) -> Target {
    WINDOWS.asked(bench.args.cards, bench.args.merchants, ondol.gateway)
}

async fn signal(signal: &str, process: u32) -> Result<()> {
    let status = Command::new("kill")
        .args([signal, &process.to_string()])
        .status()
        .await?;
    ensure!(status.success(), "the process {process} can't be signalled");
    Ok(())
}

/// Models that read no features, one of whose decisions must be recorded, and one that is on another server.
fn models() -> DefinitionFiles {
    let names: Vec<String> = (1..=FEATURES).map(|place| format!("a{place}")).collect();
    let inputs: Vec<String> = names.iter().map(|name| format!("{name} = \"f64\"")).collect();
    let of_inputs = format!("inputs = {{ {} }}\nfeatures = {}\n", inputs.join(", "), json!(names));
    let text = format!(
        "[model.plain]\n{of_inputs}\n[model.strict]\n{of_inputs}decisions.audit = \"required\"\n\n\
         [model.far]\ninputs = {{ x = \"f64\" }}\nfeatures = [\"x\"]\n",
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
