//! What a run found, for programs (JSON) and for people (Markdown).

use crate::check::Findings;
use crate::fault::Kind;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A run.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) redis: String,
    pub(crate) workers: usize,
    pub(crate) stores: usize,
    /// Replicas of each Redis primary that confirm rows before a commit.
    pub(crate) wait_replicas: u32,
    pub(crate) partitions: i32,
    pub(crate) events_per_second: u32,
    pub(crate) began: String,
    /// From the first message to the last comparison.
    pub(crate) seconds: u64,
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) faults: Vec<FaultReport>,
    /// Messages in the topic, by verdict.
    pub(crate) messages: BTreeMap<String, u64>,
    /// Messages that Kafka never acknowledged: whether they stand in the topic is for the topic to say.
    pub(crate) unacknowledged: u64,
    /// From the end of producing until everything was committed.
    pub(crate) drained_ms: u64,
    pub(crate) offline_commits: i64,
    /// Dead letters written more than once.
    pub(crate) repeated_dead_letters: u64,
    /// Views whose online rows were built anew, after a loss or because it was asked for, and how often.
    pub(crate) rebuilds: BTreeMap<String, u64>,
    /// Processes that ended without being told to.
    pub(crate) ended_by_themselves: Vec<String>,
    /// The most memory of each process, in MiB.
    pub(crate) peak_mib: BTreeMap<String, u64>,
    pub(crate) findings: Findings,
    /// Why the run could not be finished.
    pub(crate) failure: Option<String>,
}

/// One fault as it was.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FaultReport {
    pub(crate) number: usize,
    pub(crate) kind: Kind,
    pub(crate) target: String,
    pub(crate) note: String,
    /// When it began and was healed, in milliseconds since 1970.
    pub(crate) begun_ms: i64,
    pub(crate) healed_ms: i64,
    /// From then until everything acknowledged by then was committed.
    pub(crate) recovered_ms: Option<u64>,
}

impl Report {
    /// Whether every store holds what it must.
    pub(crate) fn is_clean(&self) -> bool {
        self.failure.is_none() && self.findings.differences == 0
    }

    /// Names the faults that lasted around each difference.
    pub(crate) fn place_differences(&mut self) {
        for difference in &mut self.findings.described {
            let Some(at) = difference.produced_ms else { continue };
            let around = self.faults.iter().filter(|fault| {
                let recovered = i64::try_from(fault.recovered_ms.unwrap_or(30_000)).unwrap_or(i64::MAX);
                (fault.begun_ms - 3_000..=fault.healed_ms.saturating_add(recovered)).contains(&at)
            });
            difference.faults = around.map(|fault| fault.number).collect();
        }
    }

    /// For people.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a string can't fail.
        let _written = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let messages: u64 = self.messages.values().sum();
        let good = self.messages.get("good").copied().unwrap_or_default();
        let versions: Vec<String> = self
            .versions
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        writeln!(text, "| | |\n|---|---|")?;
        writeln!(text, "| began, took | {}, {} s |", self.began, self.seconds)?;
        writeln!(text, "| seed | {} |", self.seed)?;
        writeln!(
            text,
            "| set-up | {} ingest workers (up to 2 more), {} feature store replicas, Redis {} (`online_wait_replicas` {}), \
             3 Kafka brokers, {} partitions |",
            self.workers, self.stores, self.redis, self.wait_replicas, self.partitions
        )?;
        writeln!(text, "| versions | {} |", versions.join(", "))?;
        writeln!(text, "| faults | {} |", self.faults.len())?;
        writeln!(
            text,
            "| messages | {messages}: {good} good events, {} bad; {} a second asked for |",
            messages - good,
            self.events_per_second
        )?;
        for (area, elements) in &self.findings.compared {
            writeln!(text, "| compared: {area} | {elements} |")?;
        }
        writeln!(text, "| **differences** | **{}** |", self.findings.differences)?;
        for (area, differences) in &self.findings.differences_by_area {
            writeln!(text, "| differences: {area} | {differences} |")?;
        }
        writeln!(
            text,
            "| dead letters written more than once | {} |",
            self.repeated_dead_letters
        )?;
        writeln!(text, "| messages Kafka did not acknowledge | {} |", self.unacknowledged)?;
        let rebuilds: Vec<String> = self
            .rebuilds
            .iter()
            .map(|(view, times)| format!("{view} {times}"))
            .collect();
        writeln!(text, "| online rows built anew | {} |", rebuilds.join(", "))?;
        writeln!(text, "| offline commits | {} |", self.offline_commits)?;
        writeln!(text, "| drained after the last message in | {} ms |", self.drained_ms)?;
        writeln!(
            text,
            "| processes that ended by themselves | {} |",
            self.ended_by_themselves.len()
        )?;
        let memory: Vec<String> = self
            .peak_mib
            .iter()
            .map(|(name, mib)| format!("{name} {mib}"))
            .collect();
        writeln!(text, "| most memory, MiB | {} |", memory.join(", "))?;
        if let Some(failure) = &self.failure {
            writeln!(text, "| **not finished** | {} |", failure.replace('\n', " "))?;
        }
        self.write_faults(text)?;
        self.write_differences(text)
    }

    fn write_faults(&self, text: &mut String) -> std::fmt::Result {
        let mut kinds: BTreeMap<Kind, Vec<&FaultReport>> = BTreeMap::new();
        for fault in &self.faults {
            kinds.entry(fault.kind).or_default().push(fault);
        }
        writeln!(
            text,
            "\n| fault | times | recovery: median | longest |\n|---|---|---|---|"
        )?;
        for (kind, faults) in kinds {
            let mut recoveries: Vec<u64> = faults.iter().filter_map(|fault| fault.recovered_ms).collect();
            recoveries.sort_unstable();
            let middle = recoveries.get(recoveries.len() / 2).copied().unwrap_or_default();
            let longest = recoveries.last().copied().unwrap_or_default();
            let name = serde_json::to_string(&kind).unwrap_or_default();
            let name = name.trim_matches('"').replace('-', " ");
            writeln!(text, "| {name} | {} | {middle} ms | {longest} ms |", faults.len())?;
        }
        Ok(())
    }

    fn write_differences(&self, text: &mut String) -> std::fmt::Result {
        if self.findings.described.is_empty() {
            return Ok(());
        }
        writeln!(text, "\n| area | difference | faults around it |\n|---|---|---|")?;
        for difference in self.findings.described.iter().take(40) {
            let around: Vec<String> = difference.faults.iter().map(usize::to_string).collect();
            writeln!(
                text,
                "| {} | {} | {} |",
                difference.area,
                difference.what,
                around.join(", ")
            )?;
        }
        Ok(())
    }
}
