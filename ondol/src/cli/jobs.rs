//! What can be typed to start, follow and schedule jobs.

use super::ConnectArgs;
use clap::{Args, Subcommand};
use ondol_pipelines_api::wire::{IdempotencyKey, JobState};

#[derive(Debug, Args)]
pub(crate) struct MaterializeArgs {
    /// The batch source.
    pub(crate) source: String,
    /// Give every view all rows anew, whatever it has been given.
    #[arg(long)]
    pub(crate) full: bool,
    /// Of a Parquet source whose files are written again as rows are added: how much later than the newest row so far a
    /// row may come.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) late: Option<u64>,
    #[command(flatten)]
    pub(crate) submission: SubmissionArgs,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// How a job is submitted.
#[derive(Debug, Args)]
pub(crate) struct SubmissionArgs {
    /// Return as soon as the job is accepted instead of when it has ended.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Names the submission: repeating it with the same key starts no second job.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<IdempotencyKey>,
}

#[derive(Debug, Args)]
pub(crate) struct BackfillArgs {
    /// The view, as `card` or `card@2`. Left out: show every version that is being provisioned.
    #[arg(value_name = "VIEW[@VERSION]")]
    pub(crate) view: Option<String>,
    #[command(flatten)]
    pub(crate) submission: SubmissionArgs,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CompactArgs {
    /// The stream source whose log it is.
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) submission: SubmissionArgs,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct VacuumArgs {
    /// The stream source whose log it is.
    pub(crate) source: String,
    /// How long what no version needs any more is kept; also how far back versions stay readable. Left out: as the
    /// feature store is configured.
    #[arg(long, value_name = "HOURS")]
    pub(crate) retention_hours: Option<u64>,
    /// Drop event dates older than this first. Left out: as the feature store is configured.
    #[arg(long, value_name = "DAYS")]
    pub(crate) keep_days: Option<u64>,
    /// Only say what would be deleted.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) submission: SubmissionArgs,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct JobsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<JobsCommand>,
    #[command(flatten)]
    pub(crate) list: JobsListArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// List jobs, newest first.
    Ls(JobsListArgs),
    /// Show everything about a job.
    Show(JobArgs),
    /// Follow a job to its end; fails when the job does.
    Watch(JobArgs),
    /// Ask a job to stop.
    Cancel(JobArgs),
    /// Submit the request of a job that has ended once more.
    Retry(RetryArgs),
}

#[derive(Debug, Args)]
pub(crate) struct JobsListArgs {
    /// Only jobs of this kind: training-set, materialize, backfill, compact, vacuum, …
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// Only jobs in this state: queued, running, succeeded, failed, cancelled.
    #[arg(long)]
    pub(crate) state: Option<JobState>,
    /// Only jobs on this model, source or view version.
    #[arg(long)]
    pub(crate) subject: Option<String>,
    /// Only jobs of this schedule.
    #[arg(long)]
    pub(crate) schedule: Option<String>,
    /// At most this many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) limit: u32,
    /// Only jobs older than this one: the page after the one that it ended.
    #[arg(long, value_name = "JOB")]
    pub(crate) after: Option<String>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct JobArgs {
    /// The job.
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RetryArgs {
    /// The job.
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) submission: SubmissionArgs,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Submit a job again and again.
    Add(ScheduleAddArgs),
    /// List schedules.
    Ls(ConnectArgs),
    /// Let a schedule rest.
    Pause(ScheduleArgs),
    /// Let a schedule go on; what fell due while it rested is not made up for.
    Resume(ScheduleArgs),
    /// Remove a schedule; its jobs stay.
    Rm(ScheduleArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleAddArgs {
    /// Its name.
    pub(crate) name: String,
    /// When: minute, hour, day of the month, month, day of the week, as in `30 3 * * *`.
    pub(crate) cron: String,
    /// The kind of job: materialize, compact, vacuum, statistics, recurring-training-set.
    pub(crate) kind: String,
    /// The source it works on; of a training set the model.
    #[arg(value_name = "SOURCE|MODEL")]
    pub(crate) subject: String,
    /// The time zone of the fields, for example Asia/Seoul.
    #[arg(long, default_value = "UTC")]
    pub(crate) zone: String,
    /// A further field of the job's request, as `name=value`; the value is JSON, or else text. May be given several times.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) set: Vec<String>,
    /// Start paused.
    #[arg(long)]
    pub(crate) paused: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    /// The schedule.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}
