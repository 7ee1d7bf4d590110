//! Statistics of a source's columns, kept by event date, so that those of any range of dates are merged from parts.
//!
//! 1. [`changed`] says which dates have changed since the last run: of a Delta table by its commits (a compaction changes
//!    none), of files without a log by the files;
//! 2. [`reading`] reads these dates and profiles every column of each;
//! 3. [`kept`] keeps a profile for each date in the ledger's database;
//! 4. [`answer`] merges those of the dates asked for.
//!
//! What a profile is, and why parts add up to the same bits, is `ondol_transform::profile`.

mod answer;
mod changed;
mod kept;
mod reading;

use crate::error::JobError;
use crate::progress::Progress;
use crate::table::{Marks, Scan, Table, TimeRange};
use changed::{Changed, changed};
use ondol_feature_store_api::FeatureStore;
use ondol_pipelines_api::PipelinesError;
use ondol_pipelines_api::wire::{StatisticsOutcome, StatisticsRequest};
use ondol_vocabulary::{EventTime, Snapshot, SourceDefinition};
use reading::Reading;
use std::collections::BTreeSet;
use std::sync::Arc;

pub(crate) use answer::{Summary, days, statistics};
pub(crate) use kept::Kept;

/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// Statistics that were checked and can be computed.
pub(crate) struct Statistics {
    request: StatisticsRequest,
}

/// What a run works with.
pub(crate) struct Workplace<'a> {
    pub store: &'a dyn FeatureStore,
    pub kept: &'a Kept,
    pub batch_rows: usize,
    pub memory_mib: u64,
    pub now: EventTime,
    pub progress: &'a Arc<Progress>,
}

impl Statistics {
    /// As `request` says.
    pub(crate) fn check(snapshot: &Snapshot, request: StatisticsRequest) -> Result<Self, PipelinesError> {
        source(snapshot, &request.source)?;
        Ok(Self { request })
    }

    /// Reads the dates that have changed, and keeps what they come to.
    pub(crate) async fn run(self, at: Workplace<'_>) -> Result<StatisticsOutcome, JobError> {
        let name = self.request.source;
        at.progress.stage("opening the table", None);
        let snapshot = at.store.snapshot().await?;
        let Some(source) = snapshot.source(&name) else {
            return Err(JobError::internal(format!("source `{name}` is gone")));
        };
        let source = &source.definition;
        let table = tokio::select! {
            table = open(at.store, source) => table?,
            reason = at.progress.stopped() => return Err(reason),
        };
        let known = at.kept.known(&name).await?.filter(|_| !self.request.full);
        let (changed, known) = changed(&table, source, known.as_ref(), at.batch_rows).await?;
        let mut outcome = StatisticsOutcome {
            table: table.identity.clone(),
            ..StatisticsOutcome::default()
        };
        match changed {
            Changed::Everything => {
                at.kept.forget(&name).await?;
                at.read(&name, table, source, None, &mut outcome).await?;
            }
            Changed::Days(days) if days.is_empty() => {}
            Changed::Days(days) => at.read(&name, table, source, Some(&days), &mut outcome).await?,
        }
        at.kept.note(&name, &known, &outcome.table, at.now).await?;
        at.progress.stage(
            format!("{} dates read, {} rows", outcome.dates, outcome.rows),
            Some(outcome.rows),
        );
        at.progress.add(outcome.rows);
        metrics::counter!("ondol_pipelines_statistics_rows_total", "source" => name).increment(outcome.rows);
        Ok(outcome)
    }
}

impl Workplace<'_> {
    /// Reads `days`, or every day, some at a time, and keeps the profiles of each.
    async fn read(
        &self,
        name: &str,
        table: Table,
        source: &SourceDefinition,
        days: Option<&BTreeSet<i64>>,
        outcome: &mut StatisticsOutcome,
    ) -> Result<(), JobError> {
        let none = Marks {
            positions: false,
            arrival: false,
        };
        let (schema, time) = (source.schema.clone(), source.time.clone());
        let scan = Scan::new(table, schema, time, true, self.batch_rows.max(1)).with_marks(none);
        let reading = Arc::new(Reading::new(scan, source, days.cloned(), self.memory_mib));
        let mut from = days.and_then(|days| days.first().copied()).unwrap_or(i64::MIN);
        let past = days
            .and_then(|days| days.last())
            .map_or(i64::MAX, |last| last.saturating_add(1));
        loop {
            self.progress.checkpoint()?;
            let range = TimeRange {
                from: from.saturating_mul(DAY_US),
                before: past.saturating_mul(DAY_US),
            };
            let units = reading.scan().units(range).await?;
            let rows = units.iter().map(|unit| unit.rows).sum();
            self.progress.stage(format!("reading {name}"), Some(rows));
            let (io, progress) = (tokio::runtime::Handle::current(), Arc::clone(self.progress));
            let work = Arc::clone(&reading);
            let read = tokio::task::spawn_blocking(move || work.read(&units, from, &io, &progress));
            let part = read.await.map_err(JobError::internal)??;
            outcome.dates = outcome.dates.saturating_add(part.days.len() as u64);
            outcome.rows = outcome.rows.saturating_add(part.rows());
            let next = part.next;
            // What has no rows any more among the dates that were read is gone.
            let gone = days.into_iter().flat_map(|days| days.range(from..next.unwrap_or(past)));
            self.kept.replace(name, gone.copied().collect(), part.days).await?;
            match next {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }
}

/// The source called `name`.
pub(crate) fn source<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a SourceDefinition, PipelinesError> {
    let source = snapshot.source(name).ok_or_else(|| PipelinesError::Unknown {
        kind: "source".to_owned(),
        name: name.to_owned(),
        suggestion: crate::nearest::nearest(
            name,
            snapshot.sources.iter().map(|source| source.definition.name.as_str()),
        ),
    })?;
    Ok(&source.definition)
}

async fn open(store: &dyn FeatureStore, source: &SourceDefinition) -> Result<Table, JobError> {
    if !source.is_stream() {
        return Table::open(source, None).await;
    }
    // What was ingested before the job counts.
    store.flush(&source.name).await?;
    let tables = store.tables().await?;
    let log = tables
        .iter()
        .find(|table| table.source == source.name && table.version.is_some());
    Table::open(source, log.map(|table| table.url.as_str())).await
}
