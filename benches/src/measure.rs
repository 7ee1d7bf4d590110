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

    /// With the samples of `other`.
    pub(crate) fn merge(&mut self, other: &Self) -> Result<()> {
        Ok(self.0.add(&other.0)?)
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

/// CPU seconds that a process and all below it have used so far, those that have ended and were waited for included.
pub(crate) fn tree_cpu_seconds(pid: u32) -> Result<f64> {
    let mut processes = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that ends while we look is gone, and its parent has its time.
        if let Ok(stat) = std::fs::read_to_string(proc_file(Some(id), "stat")) {
            processes.push((id, parent_and_ticks(&stat)?));
        }
    }
    let (mut sum, mut of) = (0, vec![pid]);
    while let Some(id) = of.pop() {
        for (child, (parent, ticks)) in &processes {
            if *child == id {
                sum += ticks;
            }
            if *parent == id {
                of.push(*child);
            }
        }
    }
    Ok(sum as f64 / TICKS)
}

/// Of a line of `/proc/…/stat`: the parent, and user and system time, its own and its waited-for children's.
fn parent_and_ticks(stat: &str) -> Result<(u32, u64)> {
    let (_, fields) = stat.rsplit_once(") ").context("/proc/…/stat has another form")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let parent = fields.get(1).context("/proc/…/stat is short")?.parse()?;
    let times = fields.get(11..15).context("/proc/…/stat is short")?;
    let ticks = times.iter().map(|ticks| ticks.parse::<u64>());
    Ok((parent, ticks.sum::<Result<u64, _>>()?))
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
