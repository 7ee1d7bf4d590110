//! One run: start everything, produce, strike, drain, compare.

use crate::check::{self, Truth};
use crate::estate::Estate;
use crate::event::Generator;
use crate::fault::{self, Fault};
use crate::producer::{Producer, wall_us};
use crate::report::{FaultReport, Report};
use crate::strike::strike;
use crate::views::{self, View};
use crate::watch::Watch;
use crate::{Options, topic};
use anyhow::{Context as _, Result, bail};
use ondol_feature_store_api::FeatureStore;
use ondol_feature_store_api::wire::{DefinitionFile, DefinitionFiles, Rebuild, RebuildState};
use ondol_runtime::Shutdown;
use ondol_vocabulary::{Snapshot, ViewState};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Faults that last at the same time.
const AT_ONCE: usize = 3;
/// Between two times at which everything must recover, in faults.
const BETWEEN_CALMS: usize = 12;
/// How long recovery may take once every fault is healed.
const RECOVERY: Duration = Duration::from_secs(150);
/// How long nothing may be under repair before stores are compared.
const QUIET: Duration = Duration::from_secs(4);
/// How long views may take to become active.
const ACTIVATION: Duration = Duration::from_secs(120);
/// Expected time of one fault, which sets the pace of event time.
const PER_FAULT: Duration = Duration::from_secs(6);
/// The most memory of one of Ondol's processes, in MiB.
const MEMORY_MIB: u64 = 1_024;

/// Runs, and reports; an error only when nothing could be started.
pub(crate) async fn run(options: &Options, folder: &Path) -> Result<Report> {
    let shutdown = Shutdown::new();
    let began = Instant::now();
    let estate = Arc::new(Estate::start(options, folder).await?);
    say(&format!("everything is up after {} s", began.elapsed().as_secs()));
    let watch = Watch::new();
    let (watching, watched, stopping) = (Arc::clone(&watch), Arc::clone(&estate), shutdown.token());
    shutdown.spawn("watch", async move {
        stopping.run_until_cancelled(watching.run(watched)).await;
    });
    let mut report = Report {
        seed: options.seed,
        redis: options.redis.to_string(),
        workers: options.workers,
        stores: options.stores,
        wait_replicas: options.wait_replicas,
        partitions: options.partitions,
        events_per_second: options.rate,
        began: chrono::Utc::now().format("%Y-%m-%d %H:%M UTC").to_string(),
        versions: versions(options, &estate).await,
        ..Report::default()
    };
    let began = Instant::now();
    let run = Run {
        options,
        folder,
        estate: Arc::clone(&estate),
        watch: Arc::clone(&watch),
    };
    if let Err(error) = run.disturb_and_compare(&mut report).await {
        report.failure = Some(format!("{error:#}"));
        let statements = estate.statements().await;
        std::fs::write(folder.join("statements.txt"), statements)?;
    }
    report.seconds = began.elapsed().as_secs();
    report.ended_by_themselves = watch.ended();
    report.rebuilds = watch.rebuilds();
    for target in estate.targets() {
        report.peak_mib.insert(target.name.clone(), target.peak_mib());
    }
    report.place_differences();
    shutdown.trigger();
    shutdown.drain(Duration::from_secs(10)).await;
    Ok(report)
}

struct Run<'a> {
    options: &'a Options,
    folder: &'a Path,
    estate: Arc<Estate>,
    watch: Arc<Watch>,
}

impl Run<'_> {
    async fn disturb_and_compare(&self, report: &mut Report) -> Result<()> {
        let Self { options, estate, .. } = self;
        let mut dice = StdRng::seed_from_u64(options.seed);
        let faults = fault::plan(&mut dice, options.faults, options.redis.is_cluster(), &options.only);
        let mut views = views::all();
        self.apply(&views).await?;
        let expected = PER_FAULT * u32::try_from(options.faults)?;
        let generator = Generator::new(StdRng::seed_from_u64(options.seed ^ 0x5eed));
        let producer = Producer::start(&estate.kafka, &estate.topic, generator, options.rate, expected)?;
        let struck = self.strike_all(&faults, &producer, &mut views, report).await;
        let stopped = Instant::now();
        let produced = tokio::task::block_in_place(|| producer.stop())?;
        struck?;
        say("every fault is healed: draining");
        let ends = tokio::task::block_in_place(|| topic::ends(&estate.kafka, &estate.topic))?;
        self.watch.reach(&ends, RECOVERY).await?;
        report.drained_ms = u64::try_from(stopped.elapsed().as_millis())?;
        self.wait_until_active(&views).await?;
        self.wait_until_repaired().await?;

        say("comparing");
        let records = tokio::task::block_in_place(|| topic::read(&estate.kafka, &estate.topic))?;
        for record in &records {
            *report.messages.entry(record.verdict.clone()).or_default() += 1;
        }
        report.unacknowledged = produced.unknown;
        let truth = Truth::of(records)?;
        let findings = &mut report.findings;
        check::kafka(&truth, &produced, findings);
        let log = tokio::task::block_in_place(|| check::offline::check(estate, &truth, self.folder, findings))?;
        report.offline_commits = log.commits;
        report.versions.insert("read by".to_owned(), log.software);
        for store in 0..estate.stores.len() {
            check::online::check(estate, store, &views, &truth, findings).await?;
        }
        report.repeated_dead_letters =
            tokio::task::block_in_place(|| check::dead_letters::check(estate, &truth, findings))?;
        self.check_memory(report)
    }

    /// Strikes fault after fault while the producer goes on; in the middle one more view is applied.
    async fn strike_all(
        &self,
        faults: &[Fault],
        producer: &Producer,
        views: &mut Vec<View>,
        report: &mut Report,
    ) -> Result<()> {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let mut under_way: JoinSet<Result<FaultReport>> = JoinSet::new();
        for fault in faults {
            let place = Arc::clone(&room).acquire_owned().await?;
            let (estate, watch) = (Arc::clone(&self.estate), Arc::clone(&self.watch));
            let (fault, reached) = (fault.clone(), producer.reached());
            let (gap, number) = (fault.gap, fault.number);
            under_way.spawn(async move {
                let mut struck = carry_out(&estate, &fault).await?;
                drop(place);
                // One that does not recover is found at the next calm.
                let recovered = watch.reach(&reached.ends(), RECOVERY).await;
                struck.recovered_ms = recovered.ok().and_then(|took| u64::try_from(took.as_millis()).ok());
                Ok(struck)
            });
            tokio::time::sleep(gap).await;
            if number == faults.len() / 2 + 1 {
                views.push(views::late());
                self.apply(views).await?;
            }
            while let Some(done) = under_way.try_join_next() {
                report.faults.push(done??);
            }
            if number % BETWEEN_CALMS == 0 || number == faults.len() {
                while let Some(done) = under_way.join_next().await {
                    report.faults.push(done??);
                }
                let took = self.watch.reach(&producer.reached().ends(), RECOVERY).await?;
                say(&format!(
                    "{number} faults; everything came through {} ms later",
                    took.as_millis()
                ));
            }
        }
        report.faults.sort_by_key(|fault| fault.number);
        Ok(())
    }

    async fn apply(&self, views: &[View]) -> Result<()> {
        let files = DefinitionFiles {
            files: vec![DefinitionFile {
                path: "faults.toml".to_owned(),
                text: views::definitions(&self.estate.topic, views),
            }],
        };
        let deadline = Instant::now() + ACTIVATION;
        let mut store = 0;
        loop {
            // Faults go on meanwhile: any replica will do, at any time.
            match self.estate.store(store)?.apply(files.clone()).await {
                Ok(_) => break,
                Err(error) if Instant::now() > deadline => return Err(error).context("definitions can't be applied"),
                Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
            store = (store + 1) % self.estate.stores.len();
        }
        if views.len() == views::all().len() {
            self.wait_until_active(views).await?;
        }
        Ok(())
    }

    /// Waits until every replica serves every view.
    async fn wait_until_active(&self, views: &[View]) -> Result<()> {
        let deadline = Instant::now() + ACTIVATION;
        for store in 0..self.estate.stores.len() {
            while !self
                .estate
                .store(store)?
                .snapshot()
                .await
                .is_ok_and(|snapshot| serves(&snapshot, views))
            {
                if Instant::now() > deadline {
                    bail!("replica {} does not serve all views within {ACTIVATION:?}", store + 1);
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(())
    }

    /// Waits until no view's rows are being built anew or ought to be, as any replica knows it.
    async fn wait_until_repaired(&self) -> Result<()> {
        let deadline = Instant::now() + RECOVERY;
        let mut quiet_since = Instant::now();
        // A loss is looked for with the next commit or so: one glance is not enough.
        while quiet_since.elapsed() < QUIET {
            for store in 0..self.estate.stores.len() {
                let rebuilds = self.estate.store(store)?.rebuilds().await;
                let done = |rebuilds: &Vec<Rebuild>| rebuilds.iter().all(|rebuild| rebuild.state == RebuildState::Done);
                if !rebuilds.as_ref().is_ok_and(done) {
                    quiet_since = Instant::now();
                    if Instant::now() > deadline {
                        bail!("rows are not built anew within {RECOVERY:?}: {rebuilds:?}");
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        Ok(())
    }

    fn check_memory(&self, report: &mut Report) -> Result<()> {
        let workers = self.estate.workers.iter().map(|worker| &worker.target);
        for target in workers.chain(&self.estate.stores) {
            if target.peak_mib() > MEMORY_MIB {
                let what = format!(
                    "{} took {} MiB, the bound is {MEMORY_MIB}",
                    target.name,
                    target.peak_mib()
                );
                report.findings.differ("memory", what, None);
            }
        }
        Ok(())
    }
}

fn serves(snapshot: &Snapshot, views: &[View]) -> bool {
    views.iter().all(|view| {
        snapshot
            .views
            .iter()
            .any(|held| held.definition.name == view.name && held.state == ViewState::Active)
    })
}

async fn carry_out(estate: &Estate, fault: &Fault) -> Result<FaultReport> {
    let struck = strike(estate, fault)
        .await
        .with_context(|| format!("fault {} ({:?}) can't be carried out", fault.number, fault.kind))?;
    let healed_ms = wall_us() / 1_000;
    let lasted = i64::try_from(struck.begun.elapsed().as_millis())?;
    say(&format!(
        "fault {}: {:?} of {} for {lasted} ms {}",
        fault.number, fault.kind, struck.target, struck.note
    ));
    Ok(FaultReport {
        number: fault.number,
        kind: fault.kind,
        target: struck.target,
        note: struck.note,
        begun_ms: healed_ms - lasted,
        healed_ms,
        recovered_ms: None,
    })
}

async fn versions(options: &Options, estate: &Estate) -> BTreeMap<String, String> {
    let printed = |program: &Path, argument: &str| {
        let output = std::process::Command::new(program).arg(argument).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let ondol = printed(&options.binary, "--version").unwrap_or_default();
    let jars = std::fs::read_dir(Path::new(&ondol_testkit::services::kafka_home()).join("libs"));
    let kafka = jars.ok().and_then(|jars| {
        let names = jars.flatten().map(|jar| jar.file_name().to_string_lossy().into_owned());
        names
            .filter_map(|name| Some(name.strip_prefix("kafka_2.13-")?.strip_suffix(".jar")?.to_owned()))
            .next()
    });
    BTreeMap::from([
        ("Ondol".to_owned(), ondol.trim_start_matches("ondol ").to_owned()),
        ("Kafka".to_owned(), kafka.unwrap_or_default()),
        ("Redis".to_owned(), estate.redis.version().await),
    ])
}

/// Tells whoever watches how far the run is.
#[allow(clippy::print_stderr, reason = "a tool that runs for minutes says what it does")]
pub(crate) fn say(text: &str) {
    eprintln!("faults {}: {text}", chrono::Utc::now().format("%H:%M:%S"));
}
