//! The model gateway against what teams run instead of it, and against floors: requests answered per CPU second of all the
//! server's processes, and latency beside it.
//!
//! Every server scores with the same ONNX file on one thread a run, answers the same requests over loopback, and is a
//! process (or several) of its own: Ondol is the `ondol` binary, its peers are programs of `benches/peers/serving/`. The
//! client and Redis count for nobody; Redis's CPU is shown. Before anything is measured, every answer of every server is
//! compared with what the model says here.
//!
//! [`shapes`] and [`tensors`] are what is asked, [`load`] asks it over [`http1`] or [`grpc`], [`rounds`] takes turns, and
//! [`predict`] and [`v2`] say who is measured against whom, [`isolation`] what is troubled. [`ondol`], [`peers`] and [`floor`]
//! are the servers; [`kafka`] is where the streams are that are to be troubled.

mod floor;
mod grpc;
mod http1;
mod isolation;
mod kafka;
mod load;
mod model;
mod ondol;
mod peers;
mod predict;
mod rounds;
mod server;
mod shapes;
mod tensors;
mod v2;

pub(crate) use floor::{Args as FloorArgs, floor};

use crate::payments::Payments;
use crate::redis_server::RedisServer;
use crate::report::{Report, Row};
use anyhow::{Context as _, Result};
use model::Model;
use ondol::{Ondol, Places, Way};
use ondol_model_gateway_api::wire::ArtifactKind;
use ondol_vocabulary::EventTime;
use peers::{Peers, Python};
use shapes::{LATEST, WINDOWS};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Handle;

const DAY_US: i64 = 86_400_000_000;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The parts to run.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "predict,v2,isolation")]
    only: Vec<Part>,
    /// Seconds of one window.
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Windows of each subject and number of callers; results are medians.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Callers at a time: one, and enough to keep a server busy.
    #[arg(long, value_delimiter = ',', default_value = "1,16")]
    callers: Vec<usize>,
    /// Leaves out the peers that are programs in Python: for who works on what is measured.
    #[arg(long)]
    without_peers: bool,
    /// Payments in the store, over the last 7 days.
    #[arg(long, default_value_t = 200_000)]
    events: u64,
    /// Cards.
    #[arg(long, default_value_t = 4_000)]
    cards: u32,
    /// Merchants.
    #[arg(long, default_value_t = 1_000)]
    merchants: u32,
    /// The `ondol` program; absent: the one beside this program.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// The Python that has the `onnx` package.
    #[arg(long, env = "ONDOL_TEST_PYTHON")]
    python: PathBuf,
    /// What writes the model.
    #[arg(long, default_value = "benches/peers/boosting.py")]
    model: PathBuf,
    /// The folder of Kafka's libraries (`libs/*.jar`), for `isolation`.
    #[arg(long, env = "ONDOL_TEST_KAFKA_HOME")]
    kafka: Option<PathBuf>,
    #[command(flatten)]
    peers: Python,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Predictions by entity key.
    Predict,
    /// Open Inference V2 on raw tensors.
    V2,
    /// The tail of one model while something that it does not need is in trouble.
    Isolation,
}

/// What every part uses.
struct Bench<'a> {
    args: &'a Args,
    folder: TempDir,
    redis: RedisServer,
    model: Model,
    /// When its payments end: the same events to every installation.
    now_us: i64,
}

/// Runs it. Its servers and callers are tasks and processes of their own; what takes turns with them stays on one thread.
pub(crate) async fn run(args: &Args) -> Result<Report> {
    tokio::task::block_in_place(|| Handle::current().block_on(measure(args)))
}

async fn measure(args: &Args) -> Result<Report> {
    let parameters = Row::default()
        .with("features", model::FEATURES)
        .with("model", "100 trees of depth 6")
        .with("events", args.events)
        .with("cards", args.cards)
        .with("rounds", args.rounds)
        .with("seconds_per_window", args.seconds);
    let mut report = Report::new("serving", parameters);
    let folder = tempfile::tempdir()?;
    let bench = Bench {
        args,
        redis: RedisServer::start().await?,
        model: Model::write(&args.python, &args.model, folder.path()).await?,
        folder,
        now_us: EventTime::now().micros(),
    };
    if args.only.iter().any(|part| *part != Part::Isolation) {
        let ondol = bench.ondol(Way::OneProcess).await?;
        if args.only.contains(&Part::Predict) {
            predict::run(&bench, &ondol, &mut report).await?;
        }
        if args.only.contains(&Part::V2) {
            v2::run(&bench, &ondol, &mut report).await?;
        }
    }
    if args.only.contains(&Part::Isolation) {
        isolation::run(&bench, &mut report).await?;
    }
    report.note("cpu_us: of all of the server's processes, for a request; per_cpu_s: requests a CPU second of theirs");
    report.note("times: requests per CPU second of `ondol dev` over the server's, round by round; isolation: p99 over p99 alone");
    Ok(report)
}

impl Bench<'_> {
    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.args.seconds)
    }

    /// The Redis as host:port.
    fn redis_address(&self) -> Result<&str> {
        self.redis.url.strip_prefix("redis://").context("another kind of Redis")
    }

    fn redis_port(&self) -> Result<u16> {
        let (_, port) = self.redis_address()?.split_once(':').context("Redis has no port")?;
        Ok(port.parse()?)
    }

    fn peers(&self) -> Result<Peers> {
        let redis = self.redis_address()?;
        Peers::new(&self.args.peers, self.folder.path(), &self.model, redis)
    }

    async fn ondol(&self, way: Way) -> Result<Ondol> {
        self.ondol_at(way, self.places(&format!("{way:?}"))?).await
    }

    /// Where an installation keeps what, in a folder of that name.
    fn places(&self, name: &str) -> Result<Places> {
        Ok(Places {
            binary: ondol::binary(self.args.binary.as_deref())?,
            folder: self.folder.path().join(name),
            redis: self.redis.url.clone(),
            kafka: None,
        })
    }

    /// Ondol with payments in its store and a version of each model registered.
    async fn ondol_at(&self, way: Way, places: Places) -> Result<Ondol> {
        let ondol = Ondol::start(way, &places).await?;
        ondol.apply(ondol::definitions()?).await?;
        let (args, now) = (self.args, self.now_us);
        let payments = Payments::new(
            args.events,
            args.cards,
            args.merchants,
            now - 7 * DAY_US,
            now - 1_000_000,
        );
        ondol.push(payments, args.events).await?;
        for model in [WINDOWS.model, LATEST.model, v2::UNLOGGED] {
            let artifact = self.model.artifact.clone();
            ondol.register(model, artifact, ArtifactKind::Onnx).await?;
        }
        Ok(ondol)
    }
}
