//! Kinds of jobs: everything the queue must know of one is here. A new kind is a variant of
//! [`JobRequest`](ondol_pipelines_api::wire::JobRequest), a [`Work`], and a line in [`check`].

use crate::backfill::{BACKFILL, Backfill};
use crate::config::PipelinesConfig;
use crate::engine::Engines;
use crate::error::JobError;
use crate::materialize::{Materialization, Reaches};
use crate::progress::Progress;
use crate::recurring::{RECURRING_TRAINING_SET, RecurringTrainingSet};
use crate::results::Results;
use crate::statistics::{Kept, Statistics, Workplace};
use crate::training_set::{Limits, TrainingSet};
use async_trait::async_trait;
use ondol_feature_store_api::FeatureStore;
use ondol_feature_store_api::maintenance::VacuumOptions;
use ondol_pipelines_api::PipelinesError;
use ondol_pipelines_api::wire::{JobRequest, Manifest, VacuumRequest};
use ondol_vocabulary::{EventTime, Snapshot};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;

/// The kind of training sets, whose requests bring a spine.
pub(crate) const TRAINING_SET: &str = "training-set";

/// The kind that only watches what another service does. Its jobs take no place from those that work, and no memory.
pub(crate) const WATCHING: &str = BACKFILL;

/// Memory of a job that holds a few batches at a time.
const STREAMING_MIB: u64 = 256;
/// Memory of a job that only asks another service.
const ASKING_MIB: u64 = 16;
/// Times a spine is held while a training set is built: as it came, cast, and its moments and keys.
const SPINE_COPIES: u64 = 3;

/// What a job does. It is given a fresh start by every attempt: what an earlier one left must not matter.
#[async_trait]
pub(crate) trait Work: Send {
    /// Does it. Long work looks at `context.progress` between batches, and ends when that says so.
    async fn run(self: Box<Self>, context: &Context) -> Result<Outcome, JobError>;
}

/// What work works with.
pub(crate) struct Context {
    /// The feature store.
    pub store: Arc<dyn FeatureStore>,
    /// Bounds.
    pub config: PipelinesConfig,
    /// Memory that the job was given, in MiB.
    pub memory_mib: u64,
    /// Where results go, and under which name: another one for every attempt.
    pub results: Results,
    /// The name of this attempt's result.
    pub result: String,
    /// How far views have been given batch sources.
    pub reaches: Reaches,
    /// Statistics of sources.
    pub kept: Kept,
    /// What computes elsewhere.
    pub engines: Engines,
    /// The present.
    pub now: EventTime,
    /// How far it is, and whether to go on.
    pub progress: Arc<Progress>,
}

/// What a job came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// In the terms of its kind.
    pub value: Option<Value>,
    /// Of a training set.
    pub manifest: Option<Manifest>,
}

impl Outcome {
    /// Told in the terms of a kind.
    pub(crate) fn of(value: &impl Serialize) -> Result<Self, JobError> {
        Ok(Self {
            value: Some(serde_json::to_value(value).map_err(JobError::internal)?),
            manifest: None,
        })
    }
}

/// A request that fits the definitions in force.
pub(crate) struct Checked {
    /// The model, source or view version it is about.
    pub subject: String,
    /// Memory that the job takes.
    pub memory_mib: u64,
    /// What it does.
    pub work: Box<dyn Work>,
}

/// Checks a request against definitions. The one place that knows every kind without a spine.
pub(crate) fn check(
    snapshot: &Snapshot,
    request: &JobRequest,
    config: &PipelinesConfig,
) -> Result<Checked, PipelinesError> {
    let checked = |subject: &str, memory_mib, work| Checked {
        subject: subject.to_owned(),
        memory_mib,
        work,
    };
    Ok(match request {
        JobRequest::Materialize(request) => {
            let work = Materialization::check(snapshot, request.clone())?;
            checked(&request.source, STREAMING_MIB, Box::new(work))
        }
        JobRequest::Compact(request) => {
            stream(snapshot, &request.source)?;
            let work = Compact(request.source.clone());
            checked(&request.source, ASKING_MIB, Box::new(work))
        }
        JobRequest::Vacuum(request) => {
            stream(snapshot, &request.source)?;
            checked(&request.source, ASKING_MIB, Box::new(Vacuum(request.clone())))
        }
        JobRequest::Statistics(request) => {
            let work = Statistics::check(snapshot, request.clone())?;
            checked(&request.source, STREAMING_MIB, Box::new(work))
        }
        JobRequest::Backfill(request) => checked(&request.view, 0, Box::new(Backfill::check(request)?)),
        JobRequest::RecurringTrainingSet(request) => {
            let work = RecurringTrainingSet::check(snapshot, request)?;
            // How large the spine is will be seen.
            checked(
                &request.model,
                config.event_memory_mib.saturating_add(STREAMING_MIB),
                Box::new(work),
            )
        }
    })
}

/// Whether jobs of this kind have rows to fetch.
pub(crate) fn has_rows(kind: &str) -> bool {
    kind == TRAINING_SET || kind == RECURRING_TRAINING_SET
}

/// What the join of a training set may take of what its job was given.
pub(crate) fn training_set_limits(context: &Context) -> Limits {
    let limits = context.config.limits();
    Limits {
        // A job that got less than it asked for makes do with what the spine leaves, and something to work with.
        memory_bytes: limits.memory_bytes.min(context.memory_mib << 20).max(64 << 20),
        ..limits
    }
}

/// Memory that a training set takes whose spine has `bytes`.
pub(crate) fn training_set_mib(spine_bytes: u64, config: &PipelinesConfig) -> u64 {
    config.event_memory_mib.saturating_add(spine_mib(spine_bytes))
}

fn spine_mib(bytes: u64) -> u64 {
    bytes.saturating_mul(SPINE_COPIES).div_ceil(1 << 20)
}

/// Whether `name` is a stream, whose log can be kept up.
fn stream(snapshot: &Snapshot, name: &str) -> Result<(), PipelinesError> {
    match snapshot.source(name) {
        Some(source) if source.definition.is_stream() => Ok(()),
        Some(_) => Err(PipelinesError::InvalidRequest {
            detail: format!(
                "source `{name}` is a table of somebody else's: only logs of streams are compacted and vacuumed"
            ),
        }),
        None => {
            let streams = snapshot.sources.iter().filter(|source| source.definition.is_stream());
            Err(PipelinesError::Unknown {
                kind: "source".to_owned(),
                name: name.to_owned(),
                suggestion: crate::nearest::nearest(name, streams.map(|source| source.definition.name.as_str())),
            })
        }
    }
}

#[async_trait]
impl Work for TrainingSet {
    async fn run(self: Box<Self>, context: &Context) -> Result<Outcome, JobError> {
        let result = (context.results.clone(), context.result.clone());
        let manifest = (*self)
            .build(
                context.store.as_ref(),
                training_set_limits(context),
                context.now,
                Arc::clone(&context.progress),
                result,
                context.engines.joins.as_deref(),
            )
            .await?;
        Ok(Outcome {
            manifest: Some(manifest),
            value: None,
        })
    }
}

#[async_trait]
impl Work for Materialization {
    async fn run(self: Box<Self>, context: &Context) -> Result<Outcome, JobError> {
        let (store, rows) = (context.store.as_ref(), context.config.delivery_rows);
        let outcome = Self::run(*self, store, &context.reaches, rows, Arc::clone(&context.progress)).await?;
        Outcome::of(&outcome)
    }
}

#[async_trait]
impl Work for Statistics {
    async fn run(self: Box<Self>, context: &Context) -> Result<Outcome, JobError> {
        let workplace = Workplace {
            store: context.store.as_ref(),
            kept: &context.kept,
            batch_rows: context.config.batch_rows,
            memory_mib: context.memory_mib,
            now: context.now,
            progress: &context.progress,
        };
        Outcome::of(&Self::run(*self, workplace).await?)
    }
}

/// Merges the small files of a log.
struct Compact(String);

#[async_trait]
impl Work for Compact {
    async fn run(self: Box<Self>, context: &Context) -> Result<Outcome, JobError> {
        context.progress.stage("the store compacts the log", None);
        tokio::select! {
            done = context.store.compact(&self.0) => Outcome::of(&done?),
            reason = context.progress.stopped() => Err(reason),
        }
    }
}

/// Deletes what the retention of a log no longer needs.
struct Vacuum(VacuumRequest);

#[async_trait]
impl Work for Vacuum {
    async fn run(self: Box<Self>, context: &Context) -> Result<Outcome, JobError> {
        context.progress.stage("the store vacuums the log", None);
        let VacuumRequest {
            source,
            retention_ms,
            keep_ms,
            dry_run,
        } = self.0;
        let options = VacuumOptions {
            retention_ms,
            keep_ms,
            dry_run,
        };
        tokio::select! {
            done = context.store.vacuum(&source, options) => Outcome::of(&done?),
            reason = context.progress.stopped() => Err(reason),
        }
    }
}
