//! Training sets, two ways.
//!
//! - `windows`: count, sum, mean and max over 1 h, 24 h and 7 d as of each spine row, from an event log as the store
//!   writes it (a Delta table, several commits, a file per commit and event date);
//! - `latest`: ten features of each of three tables of different sizes and keys, with a time to live.
//!
//! The peers are DuckDB and Polars on the same Parquet files, by the same rules, each result written to a file. Each side
//! runs in a process of its own, so that peak memory is its own, and they take turns; afterwards all values are compared.
//! [`data`] writes what is read, [`job`] is our side.

mod data;
mod job;

pub(crate) use job::{JobArgs, job};

use crate::measure::median;
use crate::report::{Report, Row};
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to build: all of it unless named.
    #[arg(long)]
    work: Vec<Work>,
    /// Spine rows.
    #[arg(long, default_value_t = 1_000_000)]
    spine: u32,
    /// Events in the log, and rows of the largest table; the others have a tenth and a hundredth.
    #[arg(long, default_value_t = 10_000_000)]
    events: u64,
    /// Cards: entities of events and spine; as many are in the largest table, a tenth and a hundredth in the others.
    #[arg(long, default_value_t = 100_000)]
    cards: u32,
    /// Days that the events cover; the spine's rows lie after the first 7.
    #[arg(long, default_value_t = 30)]
    days: i64,
    /// Times that each side runs, by turns; results are medians.
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Memory for events, in MiB: half of what those of a week take, so that some are spilled.
    #[arg(long, default_value_t = 128)]
    event_memory_mib: u64,
    /// Memory for events of one more side, in MiB, which has to spill; 0: none.
    #[arg(long, default_value_t = 20)]
    little_memory_mib: u64,
    /// The Python that has DuckDB and Polars; without it there is no peer.
    #[arg(long, env = "ONDOL_TEST_PYTHON")]
    python: Option<PathBuf>,
    /// The peers.
    #[arg(long, default_value = "benches/peers/training_set.py")]
    peers: PathBuf,
    /// Where files are written, and left for a look; absent: a folder that goes.
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// A training set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Work {
    /// Windows over an event log.
    Windows,
    /// Latest rows of tables.
    Latest,
}

impl Work {
    const fn name(self) -> &'static str {
        match self {
            Self::Windows => "windows",
            Self::Latest => "latest",
        }
    }
}

/// What a side says of its run.
#[derive(Serialize, Deserialize)]
struct Outcome {
    seconds: f64,
    cpu_seconds: f64,
    peak_mib: f64,
}

/// Someone who builds the set.
struct Side {
    engine: String,
    program: PathBuf,
    arguments: Vec<String>,
    is_peer: bool,
    outcomes: Vec<Outcome>,
}

/// Runs it.
pub(crate) async fn run(args: &Args) -> Result<Report> {
    let parameters = Row::default()
        .with("spine_rows", args.spine)
        .with("events", args.events)
        .with("entities", args.cards)
        .with("days", args.days)
        .with("windows", "count, sum, mean, max over 1h, 24h, 7d of a log")
        .with("latest", "10 features of each of 3 tables, ttl 30d")
        .with("event_memory_mib", args.event_memory_mib)
        .with("repetitions", args.repetitions);
    let mut report = Report::new("training-set", parameters);
    let works = match args.work.as_slice() {
        [] => vec![Work::Windows, Work::Latest],
        named => named.to_vec(),
    };
    for work in works {
        let temporary = tempfile::tempdir()?;
        let folder = args.folder.as_ref().map_or(temporary.path(), PathBuf::as_path);
        let folder = folder.join(work.name());
        if !folder.exists() {
            std::fs::create_dir_all(&folder)?;
            data::write(work, args, &folder).await?;
        }
        measure(work, args, &folder, &mut report).await?;
    }
    report
        .note("times_faster = the fastest peer's seconds / seconds; memory_share = peak resident memory / that peer's");
    Ok(report)
}

/// Waits until the disk has what the side before has written: who syncs its own result would wait for that one's too.
async fn clean_pages() -> Result<()> {
    let status = Command::new("sync").status().await?;
    ensure!(status.success(), "`sync` ended with {status}");
    Ok(())
}

async fn measure(work: Work, args: &Args, folder: &Path, report: &mut Report) -> Result<()> {
    let mut sides = sides(work, args, folder)?;
    for _ in 0..args.repetitions {
        for side in &mut sides {
            clean_pages().await?;
            let outcome = outcome(side).await?;
            side.outcomes.push(outcome);
        }
    }
    let mid = |of: fn(&Outcome) -> f64, side: &Side| median(side.outcomes.iter().map(of));
    let seconds = |side: &Side| mid(|run| run.seconds, side);
    let peers = sides.iter().filter(|side| side.is_peer);
    let fastest = peers.min_by(|one, other| seconds(one).total_cmp(&seconds(other)));
    for side in &sides {
        let cost = Row::default()
            .with("work", work.name())
            .with("engine", side.engine.clone());
        let cost = match fastest {
            Some(peer) => cost.figure("times_faster", seconds(peer) / seconds(side)).figure(
                "memory_share",
                mid(|run| run.peak_mib, side) / mid(|run| run.peak_mib, peer),
            ),
            None => cost,
        };
        report.row(
            cost.figure("seconds", seconds(side))
                .figure("cpu_seconds", mid(|run| run.cpu_seconds, side))
                .figure("rows_per_s", f64::from(args.spine) / seconds(side))
                .figure("peak_mib", mid(|run| run.peak_mib, side)),
        );
    }
    for peer in sides.iter().filter(|side| side.is_peer) {
        let arguments = [&args.peers.display().to_string(), "compare", work.name(), &peer.engine];
        let arguments = arguments
            .map(str::to_owned)
            .into_iter()
            .chain([folder.display().to_string()]);
        report.note(
            output(&peer.program, &arguments.collect::<Vec<_>>())
                .await?
                .trim()
                .to_owned(),
        );
    }
    Ok(())
}

fn sides(work: Work, args: &Args, folder: &Path) -> Result<Vec<Side>> {
    let mut sides = Vec::new();
    let own = |engine: String, memory_mib: u64| -> Result<Side> {
        let arguments = [
            "training-set-job",
            work.name(),
            &folder.display().to_string(),
            &memory_mib.to_string(),
        ];
        Ok(Side {
            engine,
            program: std::env::current_exe()?,
            arguments: arguments.map(str::to_owned).to_vec(),
            is_peer: false,
            outcomes: Vec::new(),
        })
    };
    // A view of latest rows keeps no events: it can't spill.
    if args.little_memory_mib > 0 && work == Work::Windows {
        sides.push(own(
            format!("ondol, {} MiB for events", args.little_memory_mib),
            args.little_memory_mib,
        )?);
    }
    sides.push(own("ondol".to_owned(), args.event_memory_mib)?);
    for engine in ["duckdb", "polars"] {
        let Some(python) = &args.python else { continue };
        let arguments = [
            &args.peers.display().to_string(),
            "run",
            work.name(),
            engine,
            &folder.display().to_string(),
        ];
        sides.push(Side {
            engine: engine.to_owned(),
            program: python.clone(),
            arguments: arguments.map(str::to_owned).to_vec(),
            is_peer: true,
            outcomes: Vec::new(),
        });
    }
    Ok(sides)
}

/// Runs one side and reads the line it prints.
async fn outcome(side: &Side) -> Result<Outcome> {
    let text = output(&side.program, &side.arguments).await?;
    let line = text.lines().last().context("a side printed nothing")?;
    serde_json::from_str(line).with_context(|| format!("a side printed: {line}"))
}

async fn output(program: &Path, arguments: &[String]) -> Result<String> {
    let run = Command::new(program).args(arguments).output().await?;
    let said = String::from_utf8_lossy(&run.stderr);
    ensure!(
        run.status.success(),
        "`{}` failed: {}\n{said}",
        program.display(),
        run.status
    );
    Ok(String::from_utf8(run.stdout)?)
}
