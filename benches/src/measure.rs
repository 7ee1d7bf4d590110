//! Samples of durations, medians of repetitions, and what the kernel says a process has used.

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use std::time::Duration;

/// Ticks of `/proc/…/stat` a second: fixed by the kernel's interface on Linux.
const TICKS: f64 = 100.0;

/// Durations of one repetition.
pub(crate) struct Samples(Histogram<u64>);

impl Samples {
    pub(crate) fn new() -> Result<Self> {
        // One nanosecond to a minute, three digits.
        Ok(Self(Histogram::new_with_bounds(1, 60_000_000_000, 3)?))
    }

    pub(crate) fn add(&mut self, sample: Duration) {
        self.0
            .saturating_record(u64::try_from(sample.as_nanos()).unwrap_or(u64::MAX).max(1));
    }

    /// The quantile, in microseconds.
    pub(crate) fn us(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1_000.0
    }

    pub(crate) fn p50(&self) -> f64 {
        self.us(0.5)
    }

    pub(crate) fn p99(&self) -> f64 {
        self.us(0.99)
    }
}

/// The median of repetitions.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

/// CPU seconds that a process has used, its ended children not included. `None`: this process.
pub(crate) fn cpu_seconds(pid: Option<u32>) -> Result<f64> {
    let stat = std::fs::read_to_string(proc_file(pid, "stat"))?;
    // The second field is the command in parentheses and may hold blanks.
    let (_, fields) = stat.rsplit_once(") ").context("/proc/…/stat has another form")?;
    let mut times = fields.split(' ').skip(11);
    let mut next = || -> Result<f64> { Ok(times.next().context("/proc/…/stat is short")?.parse()?) };
    Ok((next()? + next()?) / TICKS)
}

/// A line of `/proc/…/status`, in MiB: `VmRSS`, or `VmHWM` for the peak.
pub(crate) fn memory_mib(pid: Option<u32>, field: &str) -> Result<f64> {
    let status = std::fs::read_to_string(proc_file(pid, "status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib: f64 = line
        .and_then(|line| line.split_whitespace().next())
        .context("no such line")?
        .parse()?;
    Ok(kib / 1_024.0)
}

fn proc_file(pid: Option<u32>, name: &str) -> String {
    pid.map_or_else(|| format!("/proc/self/{name}"), |pid| format!("/proc/{pid}/{name}"))
}
