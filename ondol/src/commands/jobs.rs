//! `materialize`, `compact`, `vacuum` and `jobs`, and waiting for a job with a bar.

use crate::cli::{
    CompactArgs, ConnectArgs, JobsArgs, JobsCommand, JobsListArgs, MaterializeArgs, Output, SubmissionArgs, VacuumArgs,
};
use crate::print;
use anyhow::{Result, bail};
use ondol_pipelines_api::wire::{
    CompactRequest, Job, JobPage, JobQuery, JobRequest, JobState, MaterializeRequest, VacuumRequest,
};
use ondol_pipelines_api::{Pipelines, PipelinesError};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// How long a service may be away while somebody watches a job: jobs outlive a restart.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// `ondol materialize`.
pub(crate) async fn materialize(args: &MaterializeArgs, output: Output) -> Result<()> {
    let request = JobRequest::Materialize(MaterializeRequest {
        full: args.full,
        late_s: args.late,
        ..MaterializeRequest::of(&args.source)
    });
    submit(request, &args.submission, &args.connect, output).await
}

/// `ondol compact`.
pub(crate) async fn compact(args: &CompactArgs, output: Output) -> Result<()> {
    let request = JobRequest::Compact(CompactRequest {
        source: args.source.clone(),
    });
    submit(request, &args.submission, &args.connect, output).await
}

/// `ondol vacuum`.
pub(crate) async fn vacuum(args: &VacuumArgs, output: Output) -> Result<()> {
    let request = JobRequest::Vacuum(VacuumRequest {
        source: args.source.clone(),
        retention_ms: args.retention_hours.map(|hours| hours.saturating_mul(3_600_000)),
        keep_ms: args.keep_days.map(|days| days.saturating_mul(86_400_000)),
        dry_run: args.dry_run,
    });
    submit(request, &args.submission, &args.connect, output).await
}

/// Submits a request, and waits for its job unless asked not to.
pub(crate) async fn submit(
    request: JobRequest,
    how: &SubmissionArgs,
    connect: &ConnectArgs,
    output: Output,
) -> Result<()> {
    let pipelines = connect.pipelines()?;
    let job = pipelines.submit(request, how.key.clone()).await?;
    follow(pipelines.as_ref(), job, how, output).await
}

/// Waits for a submitted job unless asked not to, and says what came of it.
async fn follow(pipelines: &dyn Pipelines, job: Job, how: &SubmissionArgs, output: Output) -> Result<()> {
    if how.no_wait {
        return print::result(output, &job, |job: &Job| {
            format!("job {} accepted; follow it with `ondol jobs watch {}`", job.id, job.id)
        });
    }
    let job = wait(pipelines, job).await?;
    print::result(output, &job, ended)
}

/// What came of a job that succeeded, in a sentence.
fn ended(job: &Job) -> String {
    let told = |name: &str| {
        let outcome = job.outcome.as_ref()?;
        outcome.get(name)?.as_u64()
    };
    let subject = &job.subject;
    match job.kind.as_str() {
        "materialize" => match told("delivered") {
            Some(0) => format!("`{subject}` is online: nothing new to bring"),
            Some(rows) => format!("`{subject}` is online: {rows} rows delivered"),
            None => format!("`{subject}` is online"),
        },
        "compact" => match (told("files_removed"), told("files_added")) {
            (Some(0), _) => format!("the log of `{subject}` has nothing to merge"),
            (Some(from), Some(to)) => format!("the log of `{subject}`: {from} files became {to}"),
            _ => format!("the log of `{subject}` is compacted"),
        },
        "backfill" => format!("`{subject}` serves"),
        "statistics" => match told("dates") {
            Some(dates) => format!("the statistics of `{subject}` are up to date: {dates} dates read"),
            None => format!("the statistics of `{subject}` are up to date"),
        },
        "vacuum" => {
            let dry = job.outcome.as_ref().is_some_and(|outcome| outcome["dry_run"] == true);
            let verb = if dry { "would be" } else { "were" };
            let files = told("files_deleted").unwrap_or(0);
            let bytes = told("bytes_deleted").unwrap_or(0);
            format!("the log of `{subject}`: {files} files ({bytes} bytes) {verb} deleted")
        }
        kind => format!("job {} ({kind} of `{subject}`) succeeded", job.id),
    }
}

/// `ondol jobs`.
pub(crate) async fn run(args: &JobsArgs, output: Output) -> Result<()> {
    match &args.command {
        None => list(&args.list, output).await,
        Some(JobsCommand::Ls(list_args)) => list(list_args, output).await,
        Some(JobsCommand::Show(args)) => {
            let job = args.connect.pipelines()?.job(&args.job, None, Duration::ZERO).await?;
            print::result(output, &job, show)
        }
        Some(JobsCommand::Watch(args)) => {
            let pipelines = args.connect.pipelines()?;
            let job = pipelines.job(&args.job, None, Duration::ZERO).await?;
            let job = wait(pipelines.as_ref(), job).await?;
            print::result(output, &job, ended)
        }
        Some(JobsCommand::Cancel(args)) => {
            let job = args.connect.pipelines()?.cancel(&args.job).await?;
            print::result(output, &job, |job: &Job| match job.state {
                JobState::Cancelled => format!("job {} is cancelled", job.id),
                state if state.is_final() => format!("job {} has ended before: it {}", job.id, state.name()),
                _ => format!("job {} will stop at its next batch", job.id),
            })
        }
        Some(JobsCommand::Retry(args)) => {
            let pipelines = args.connect.pipelines()?;
            let job = pipelines.retry(&args.job, args.submission.key.clone()).await?;
            follow(pipelines.as_ref(), job, &args.submission, output).await
        }
    }
}

async fn list(args: &JobsListArgs, output: Output) -> Result<()> {
    let query = JobQuery {
        limit: args.limit,
        after: args.after.clone(),
        kind: args.kind.clone(),
        state: args.state,
        subject: args.subject.clone(),
        schedule: args.schedule.clone(),
    };
    let page = args.connect.pipelines()?.jobs(query).await?;
    // Programs get the jobs, as ever; the next page starts after the last of them.
    let JobPage { jobs, next } = page;
    print::result(output, &jobs, |jobs: &Vec<Job>| {
        let rows = jobs.iter().map(|job| {
            [
                job.id.clone(),
                job.kind.clone(),
                job.subject.clone(),
                job.state.name().to_owned(),
                job.stage.clone(),
                job.rows_done.to_string(),
                pace(job),
                job.error.clone().unwrap_or_default(),
            ]
        });
        let header = ["job", "kind", "subject", "state", "stage", "rows", "pace", "error"];
        let table = print::table(header, rows);
        match next {
            Some(next) => format!("{table}\n\nolder ones: --after {next}"),
            None => table,
        }
    })
}

/// Rows a second and the time left, of a job at work.
fn pace(job: &Job) -> String {
    let rate = job.rows_per_second.map(|rate| format!("{rate}/s"));
    let left = job.eta_seconds.map(|seconds| format!("{seconds} s left"));
    [rate, left].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn show(job: &Job) -> String {
    let time = |at: Option<ondol_vocabulary::EventTime>| at.map(|at| at.to_string());
    let total = job.rows_total.map(|total| format!(" of {total}")).unwrap_or_default();
    let lines = [
        ("job", Some(job.id.clone())),
        ("kind", Some(job.kind.clone())),
        ("subject", Some(job.subject.clone())),
        ("state", Some(job.state.name().to_owned())),
        ("stage", Some(job.stage.clone())),
        ("rows", Some(format!("{}{total}", job.rows_done))),
        ("pace", Some(pace(job)).filter(|pace| !pace.is_empty())),
        ("attempt", Some(job.attempt.to_string())),
        ("created", time(Some(job.created_at))),
        ("started", time(job.started_at)),
        ("ended", time(job.ended_at)),
        ("retry of", job.retry_of.clone()),
        ("schedule", job.schedule.clone()),
        ("error", job.error.clone()),
        ("outcome", job.outcome.as_ref().map(ToString::to_string)),
        (
            "model",
            job.manifest.as_ref().map(|manifest| manifest.model.to_string()),
        ),
    ];
    let given = lines.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let shown: Vec<String> = given.map(|(name, value)| format!("{name:10} {value}")).collect();
    shown.join("\n")
}

/// Watches `job` until it ends, also through a restart of the service; one that fails or is cancelled is an error.
pub(crate) async fn wait(pipelines: &dyn Pipelines, mut job: Job) -> Result<Job> {
    let bar = print::progress(job.rows_total, "rows");
    let mut heard = Instant::now();
    while !job.state.is_final() {
        bar.set_message(job.stage.clone());
        bar.set_style(print::bar_style(job.rows_total.is_some(), "rows"));
        if let Some(total) = job.rows_total {
            bar.set_length(total);
        }
        bar.set_position(job.rows_done);
        let look = pipelines
            .job(&job.id, Some(job.revision), Duration::from_secs(10))
            .await;
        match look {
            Ok(next) => {
                heard = Instant::now();
                if next.stage != job.stage && !std::io::stderr().is_terminal() {
                    tracing::info!(job = next.id, stage = next.stage, "job goes on");
                }
                job = next;
            }
            Err(PipelinesError::Unavailable { .. }) if heard.elapsed() < PATIENCE => {
                bar.set_message("the pipelines do not answer: waiting for them");
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    bar.finish_and_clear();
    match job.state {
        JobState::Succeeded => Ok(job),
        _ => bail!(
            "job {} {}: {}",
            job.id,
            job.state.name(),
            job.error.as_deref().unwrap_or("no reason given")
        ),
    }
}
