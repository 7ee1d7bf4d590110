//! The `ondol` binary: its size, the time from start to `/readyz`, and its memory when idle.
//!
//! Each is a real process (`ondol dev`) on a free port. *Fresh* starts in an empty folder; *warm* starts in the folder
//! that a demo filled (definitions, events, a model); *after kill -9* starts where the warm one was killed.

use crate::measure::{median, memory_mib};
use crate::report::{Report, Row};
use anyhow::{Context as _, Result, bail, ensure};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// How long a start may take.
const LONGEST: Duration = Duration::from_secs(60);

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The binary; absent: the one beside this program.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Starts of each kind; results are medians.
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// Seconds of a cold build, as measured elsewhere: recorded.
    #[arg(long)]
    cold_build_s: Option<f64>,
    /// What was different about that build.
    #[arg(long)]
    cold_build_note: Option<String>,
}

/// One start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Asked,
    Killed,
}

/// Runs it.
pub(crate) async fn run(args: &Args) -> Result<Report> {
    let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("ondol"));
    let binary = args.binary.clone().map_or_else(beside, Ok)?;
    let mut report = Report::new("process", Row::default().with("repetitions", args.repetitions));
    let size = std::fs::metadata(&binary)
        .with_context(|| format!("no binary at `{}`", binary.display()))?
        .len();
    report.row(
        Row::default()
            .with("figure", "binary size, MB")
            .figure("value", size as f64 / 1e6),
    );
    if let Some(seconds) = args.cold_build_s {
        report.row(Row::default().with("figure", "cold build, s").figure("value", seconds));
    }

    let folder = tempfile::tempdir()?;
    let (mut fresh, mut warm, mut killed) = (Vec::new(), Vec::new(), Vec::new());
    let (mut idle_fresh, mut idle_warm) = (Vec::new(), Vec::new());
    for repetition in 0..args.repetitions {
        let own = folder.path().join(format!("fresh-{repetition}"));
        fresh.push(start(&binary, &own, Some(&mut idle_fresh), End::Asked).await?);
    }
    let demo = folder.path().join("demo");
    let mut command = Command::new(&binary);
    command
        .args(["demo", "--exit", "--listen", "127.0.0.1:0", "--data"])
        .arg(&demo)
        .stdout(Stdio::null());
    ensure!(
        command.status().await?.success(),
        "`ondol demo` failed: is ORT_DYLIB_PATH set?"
    );
    for _ in 0..args.repetitions {
        warm.push(start(&binary, &demo, Some(&mut idle_warm), End::Killed).await?);
        killed.push(start(&binary, &demo, None, End::Asked).await?);
    }
    let figures = [
        ("start to ready, fresh, ms", fresh),
        ("start to ready, warm, ms", warm),
        ("start to ready after kill -9, ms", killed),
        ("resident after 5 s idle, fresh, MiB", idle_fresh),
        ("resident after 5 s idle, warm, MiB", idle_warm),
    ];
    for (name, values) in figures {
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        report.row(
            Row::default()
                .with("figure", name)
                .figure("value", median(values))
                .figure("most", most),
        );
    }
    if let Some(note) = &args.cold_build_note {
        report.note(format!("cold build: {note}"));
    }
    Ok(report)
}

/// Milliseconds from the start of a process to its readiness.
async fn start(binary: &Path, data: &Path, idle: Option<&mut Vec<f64>>, end: End) -> Result<f64> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let begun = Instant::now();
    let mut child = Command::new(binary)
        .args(["dev", "--listen", &address.to_string(), "--data"])
        .arg(data)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let took = wait_until_ready(&mut child, address, begun).await?;
    let pid = child.id().context("the process has ended")?;
    if let Some(idle) = idle {
        tokio::time::sleep(Duration::from_secs(5)).await;
        idle.push(memory_mib(Some(pid), "VmRSS")?);
    }
    match end {
        End::Killed => child.kill().await?,
        End::Asked => {
            let asked = Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
            ensure!(asked.success(), "the process can't be stopped");
            tokio::time::timeout(LONGEST, child.wait())
                .await
                .context("the process does not stop")??;
        }
    }
    Ok(took)
}

async fn wait_until_ready(child: &mut Child, address: SocketAddr, begun: Instant) -> Result<f64> {
    loop {
        if is_ready(address) {
            return Ok(begun.elapsed().as_secs_f64() * 1e3);
        }
        if let Some(status) = child.try_wait()? {
            bail!("the process ended before it was ready: {status}");
        }
        ensure!(begun.elapsed() < LONGEST, "not ready after {} s", LONGEST.as_secs());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn is_ready(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(100))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(start.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}
