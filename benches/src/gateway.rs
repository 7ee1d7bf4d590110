//! The gateway's own overhead: a prediction minus its feature read minus its model, the decision log on.
//!
//! Everything is in this process with embedded stores: the gateway, the feature store it reads 50 features from, and
//! ingest, whose durable stream takes the decisions. The read's time is taken inside each prediction, at the call to the
//! store; the model's is the median of the same ONNX session pool run alone. At load, requests come at half the rate
//! that the gateway reaches with eight callers, on the clock whether or not earlier ones are answered.

use crate::http::Server;
use crate::measure::{Samples, median};
use crate::metered::{Metered, READING};
use crate::payments::{Payments, card, fifty_features, merchant};
use crate::report::{Report, Row};
use crate::store::Store;
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use ondol_feature_store_api::FeatureStore;
use ondol_ingest::IngestService;
use ondol_ingest::config::{EmbeddedConfig, IngestConfig, StreamConfig};
use ondol_ingest_api::Ingest;
use ondol_model_gateway::runtime::Runtime as _;
use ondol_model_gateway::runtime::onnx::OnnxModel;
use ondol_model_gateway::runtime::tensor::{NamedTensor, TensorData};
use ondol_model_gateway::{ModelGatewayConfig, ModelGatewayService};
use ondol_model_gateway_api::wire::{PredictRequest, RegisterRequest};
use ondol_model_gateway_api::{ModelGateway, ModelGatewayClient};
use ondol_runtime::{Clock, Health, Shutdown, SystemClock};
use ondol_vocabulary::{EventTime, Value};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const DAY_US: i64 = 86_400_000_000;
const MODEL: &str = "bench";
const FEATURES: usize = 50;
/// Callers that find the peak rate.
const CALLERS: u64 = 8;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Payments in the store, over the last 7 days.
    #[arg(long, default_value_t = 200_000)]
    events: u64,
    /// Cards.
    #[arg(long, default_value_t = 4_000)]
    cards: u32,
    /// Merchants.
    #[arg(long, default_value_t = 1_000)]
    merchants: u32,
    /// Times that everything is measured; results are medians.
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Predictions of a repetition, one after another; a fifth of it over HTTP.
    #[arg(long, default_value_t = 5_000)]
    predictions: usize,
    /// Seconds under load of a repetition, and as many to find the peak.
    #[arg(long, default_value_t = 3)]
    load_seconds: u64,
    /// The Python that has the `onnx` package.
    #[arg(long, env = "ONDOL_TEST_PYTHON")]
    python: PathBuf,
    /// What writes the model.
    #[arg(long, default_value = "benches/peers/boosting.py")]
    model: PathBuf,
}

/// The parts of one prediction, by repetition.
#[derive(Default)]
struct Parts {
    overhead_p50: Vec<f64>,
    overhead_p99: Vec<f64>,
    total_p50: Vec<f64>,
    total_p99: Vec<f64>,
    read_p50: Vec<f64>,
    read_p99: Vec<f64>,
    model_p50: Vec<f64>,
    model_p99: Vec<f64>,
}

/// What one repetition of one way took.
struct Took {
    total: Samples,
    read: Samples,
    /// Total minus the read of the same prediction.
    rest: Samples,
}

/// Everything in this process.
struct Platform {
    gateway: Arc<ModelGatewayService>,
    store: Store,
    /// In the order in which they stop.
    shutdowns: [Shutdown; 2],
}

/// Runs it.
pub(crate) async fn run(args: &Args) -> Result<Report> {
    let parameters = Row::default()
        .with("features", FEATURES)
        .with("model", "100 trees of depth 6")
        .with("events", args.events)
        .with("cards", args.cards)
        .with("repetitions", args.repetitions)
        .with("predictions_per_repetition", args.predictions)
        .with("load_seconds", args.load_seconds);
    let mut report = Report::new("gateway", parameters);
    let folder = tempfile::tempdir()?;
    let artifact = artifact(args, folder.path()).await?;
    let config = ModelGatewayConfig {
        data_dir: folder.path().join("gateway"),
        ..ModelGatewayConfig::default()
    };
    let alone = OnnxModel::load(artifact.clone(), &config.onnx_options())?;
    let platform = Platform::open(args, folder.path(), config, artifact).await?;
    let requests = requests(args);
    let server = Server::start(
        "model-gateway",
        platform.gateway.router(),
        ondol_model_gateway_api::server::openapi(),
    )
    .await?;
    let client = ModelGatewayClient::new(server.url.clone())?;

    let (mut local, mut load, mut http) = (Parts::default(), Parts::default(), Parts::default());
    let (mut peaks, mut trips) = (Vec::new(), Vec::new());
    // One repetition more than counts: the first warms caches, plans and connections.
    for repetition in 0..=args.repetitions {
        let model = model_alone(&alone, args.predictions).await?;
        let one = predictions(platform.gateway.as_ref(), &requests, args.predictions).await?;
        let peak = peak(&platform.gateway, &requests, args.load_seconds).await?;
        let half = paced(&platform.gateway, &requests, peak / 2.0, args.load_seconds).await?;
        let remote = predictions(&client, &requests, args.predictions / 5).await?;
        let mut trip = Samples::new()?;
        for _ in 0..args.predictions / 5 {
            let begun = Instant::now();
            server.empty().call().await?;
            trip.add(begun.elapsed());
        }
        if repetition > 0 {
            local.add(&one, &model, 0.0);
            load.add(&half, &model, 0.0);
            http.add(&remote, &model, one.read.p50());
            peaks.push(peak);
            trips.push(trip.p50());
        }
    }
    report.row(local.row("one at a time"));
    report.row(load.row("half the peak rate").figure("peak_per_s", median(peaks)));
    report.row(http.row("http, one at a time").figure("trip_p50_us", median(trips)));
    report.note("times in µs; overhead = total − the read inside it − the model's median alone");
    report.note("http: overhead = total − the medians of read and model in process; trip = an empty round trip");
    server.stop().await?;
    platform.close().await?;
    Ok(report)
}

async fn artifact(args: &Args, folder: &Path) -> Result<Bytes> {
    let path = folder.join("boosting.onnx");
    let mut command = tokio::process::Command::new(&args.python);
    let status = command
        .arg(&args.model)
        .arg(FEATURES.to_string())
        .arg(&path)
        .status()
        .await?;
    ensure!(status.success(), "`{}` failed", args.model.display());
    Ok(Bytes::from(std::fs::read(path)?))
}

fn requests(args: &Args) -> Vec<PredictRequest> {
    let mut random = StdRng::seed_from_u64(5);
    let request = |_| {
        let inputs = BTreeMap::from([
            (
                "card".to_owned(),
                Value::String(card(random.random_range(0..args.cards))),
            ),
            (
                "merchant".to_owned(),
                Value::String(merchant(random.random_range(0..args.merchants))),
            ),
        ]);
        PredictRequest {
            inputs,
            explain: Some(true),
            ..PredictRequest::default()
        }
    };
    (0..256).map(request).collect()
}

impl Platform {
    async fn open(args: &Args, folder: &Path, config: ModelGatewayConfig, artifact: Bytes) -> Result<Self> {
        let store = Store::open(&folder.join("store"), None).await?;
        store.apply(fifty_features("bench")?).await?;
        let now = EventTime::now().micros();
        let payments = Payments::new(
            args.events,
            args.cards,
            args.merchants,
            now - 7 * DAY_US,
            now - 1_000_000,
        );
        store.fill(payments, args.events).await?;

        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let health = Health::new();
        let shutdowns = [Shutdown::new(), Shutdown::new()];
        let direct: Arc<dyn FeatureStore> = Arc::clone(&store.service) as _;
        let stream = EmbeddedConfig {
            dir: folder.join("stream"),
            ..EmbeddedConfig::default()
        };
        let ingest = IngestConfig {
            stream: StreamConfig::Embedded(stream),
            ..IngestConfig::default()
        };
        let ingest = IngestService::start(&ingest, Arc::clone(&direct), Arc::clone(&clock), &shutdowns[1], &health)?;
        let metered: Arc<dyn FeatureStore> = Metered::new(direct, false);
        let ingest: Arc<dyn Ingest> = ingest;
        let gateway = ModelGatewayService::open(config, metered, ingest, clock, &shutdowns[0], &health).await?;
        gateway
            .register(
                MODEL,
                RegisterRequest {
                    artifact,
                    kind: None,
                    manifest: None,
                },
            )
            .await?;
        Ok(Self {
            gateway,
            store,
            shutdowns,
        })
    }

    async fn close(self) -> Result<()> {
        for shutdown in &self.shutdowns {
            ensure!(shutdown.drain(Duration::from_secs(30)).await, "a service did not stop");
        }
        self.gateway.close().await;
        self.store.close().await
    }
}

/// The model on a vector, without anything around it.
async fn model_alone(model: &OnnxModel, runs: usize) -> Result<Samples> {
    let mut random = StdRng::seed_from_u64(3);
    let mut samples = Samples::new()?;
    for _ in 0..runs {
        let vector = (0..FEATURES).map(|_| random.random_range(0.0..500.0)).collect();
        let tensor = NamedTensor {
            name: "vector".to_owned(),
            shape: vec![1, i64::try_from(FEATURES)?],
            data: TensorData::F32(vector),
        };
        let begun = Instant::now();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        black_box(model.run(1, vec![tensor], deadline).await?);
        samples.add(begun.elapsed());
    }
    Ok(samples)
}

/// Predictions one after another.
async fn predictions(gateway: &dyn ModelGateway, requests: &[PredictRequest], count: usize) -> Result<Took> {
    let mut took = Took::new()?;
    for request in requests.iter().cycle().take(count) {
        took.add(predict(gateway, request.clone()).await?);
    }
    Ok(took)
}

/// One prediction: how long all of it took, and the read within.
async fn predict(gateway: &dyn ModelGateway, request: PredictRequest) -> Result<(Duration, Duration)> {
    let timed = async {
        let begun = Instant::now();
        let prediction = gateway.predict(MODEL, request).await?;
        let total = begun.elapsed();
        ensure!(
            prediction.features.len() == FEATURES,
            "a prediction from {} features",
            prediction.features.len()
        );
        Ok((total, READING.with(Cell::get)))
    };
    READING.scope(Cell::new(Duration::ZERO), timed).await
}

/// Predictions a second that eight callers get.
async fn peak(gateway: &Arc<ModelGatewayService>, requests: &[PredictRequest], seconds: u64) -> Result<f64> {
    let done = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let end = begun + Duration::from_secs(seconds);
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (gateway, done) = (Arc::clone(gateway), Arc::clone(&done));
        let requests: Vec<_> = requests.iter().skip(usize::try_from(caller)? * 8).cloned().collect();
        callers.spawn(async move {
            for request in requests.iter().cycle() {
                if Instant::now() >= end {
                    break;
                }
                predict(gateway.as_ref(), request.clone()).await?;
                done.fetch_add(1, Ordering::Relaxed);
                // A prediction may never wait, and then it never yields.
                tokio::task::yield_now().await;
            }
            anyhow::Ok(())
        });
    }
    while let Some(outcome) = callers.join_next().await {
        outcome??;
    }
    Ok(done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64())
}

/// Predictions at `rate` a second, each a task of its own that starts on the clock.
async fn paced(
    gateway: &Arc<ModelGatewayService>,
    requests: &[PredictRequest],
    rate: f64,
    seconds: u64,
) -> Result<Took> {
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    let mut started = 0_u64;
    let mut requests = requests.iter().cycle();
    let mut took = Took::new()?;
    while begun.elapsed() < Duration::from_secs(seconds) {
        let due = (begun.elapsed().as_secs_f64() * rate) as u64;
        while started < due {
            let (gateway, request) = (Arc::clone(gateway), requests.next().context("no requests")?.clone());
            tasks.spawn(async move { predict(gateway.as_ref(), request).await });
            started += 1;
        }
        while let Some(outcome) = tasks.try_join_next() {
            took.add(outcome??);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    while let Some(outcome) = tasks.join_next().await {
        took.add(outcome??);
    }
    Ok(took)
}

impl Took {
    fn new() -> Result<Self> {
        Ok(Self {
            total: Samples::new()?,
            read: Samples::new()?,
            rest: Samples::new()?,
        })
    }

    fn add(&mut self, (total, read): (Duration, Duration)) {
        self.total.add(total);
        self.read.add(read);
        self.rest.add(total.saturating_sub(read));
    }
}

impl Parts {
    /// `unseen_read`: the read's median where it could not be taken inside.
    fn add(&mut self, took: &Took, model: &Samples, unseen_read: f64) {
        self.overhead_p50.push(took.rest.p50() - model.p50() - unseen_read);
        self.overhead_p99.push(took.rest.p99() - model.p50() - unseen_read);
        self.total_p50.push(took.total.p50());
        self.total_p99.push(took.total.p99());
        let inside = unseen_read == 0.0;
        self.read_p50.push(if inside { took.read.p50() } else { unseen_read });
        self.read_p99.push(if inside { took.read.p99() } else { f64::NAN });
        self.model_p50.push(model.p50());
        self.model_p99.push(model.p99());
    }

    fn row(self, way: &str) -> Row {
        let mut row = Row::default()
            .with("way", way)
            .figure("overhead_p50_us", median(self.overhead_p50))
            .figure("overhead_p99_us", median(self.overhead_p99))
            .figure("total_p50_us", median(self.total_p50))
            .figure("total_p99_us", median(self.total_p99))
            .figure("read_p50_us", median(self.read_p50));
        let read_p99 = median(self.read_p99);
        if read_p99.is_finite() {
            row = row.figure("read_p99_us", read_p99);
        }
        row.figure("model_p50_us", median(self.model_p50))
            .figure("model_p99_us", median(self.model_p99))
    }
}
