//! A process that faults strike: whoever holds it has it to himself, so two faults never undo each other's work.

use anyhow::Result;
use ondol_testkit::process::Process;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use tokio::sync::{Mutex, MutexGuard};

/// A process and what is watched of it meanwhile.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) port: u16,
    process: Mutex<Process>,
    /// 0 while it does not run.
    id: AtomicU32,
    /// The most memory it was seen with.
    peak_bytes: AtomicU64,
}

/// A target in one's hands.
pub(crate) struct Held<'a> {
    target: &'a Target,
    pub(crate) process: MutexGuard<'a, Process>,
}

impl Target {
    pub(crate) fn new(port: u16, process: Process) -> Self {
        Self {
            name: process.name().to_owned(),
            port,
            id: AtomicU32::new(process.id().unwrap_or_default()),
            process: Mutex::new(process),
            peak_bytes: AtomicU64::new(0),
        }
    }

    /// Waits until nobody else has it.
    pub(crate) async fn hold(&self) -> Held<'_> {
        Held {
            target: self,
            process: self.process.lock().await,
        }
    }

    /// Takes it if nobody has it.
    pub(crate) fn try_hold(&self) -> Option<Held<'_>> {
        let process = self.process.try_lock().ok()?;
        Some(Held { target: self, process })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Looks at its memory.
    pub(crate) fn measure(&self) {
        let id = self.id.load(Ordering::Relaxed);
        if id == 0 {
            return;
        }
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"))
            .and_then(|kib| kib.trim().parse::<u64>().ok());
        if let Some(kib) = kib {
            self.peak_bytes.fetch_max(kib * 1024, Ordering::Relaxed);
        }
    }

    pub(crate) fn peak_mib(&self) -> u64 {
        self.peak_bytes.load(Ordering::Relaxed) >> 20
    }
}

impl Held<'_> {
    pub(crate) fn start(&mut self) -> Result<()> {
        self.process.start()?;
        let id = self.process.id().unwrap_or_default();
        self.target.id.store(id, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        self.target.id.store(0, Ordering::Relaxed);
        Ok(self.process.kill()?)
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.is_running()
    }
}
