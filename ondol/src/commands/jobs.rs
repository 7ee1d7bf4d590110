//! `materialize` and `jobs`, and waiting for a job with a bar.

use crate::cli::{ConnectArgs, MaterializeArgs, Output};
use crate::print;
use anyhow::{Result, bail};
use ondol_pipelines_api::Pipelines;
use ondol_pipelines_api::wire::{Job, JobState, MaterializeRequest};
use std::time::Duration;

/// `ondol materialize`.
pub(crate) async fn materialize(args: &MaterializeArgs, output: Output) -> Result<()> {
    let pipelines = args.connect.pipelines()?;
    let job = pipelines
        .materialize(MaterializeRequest {
            source: args.source.clone(),
        })
        .await?;
    let job = wait(pipelines.as_ref(), job).await?;
    print::result(output, &job, |job: &Job| match job.rows_done {
        0 => format!("`{}` is online: nothing new to bring", job.subject),
        rows => format!("`{}` is online: {rows} rows", job.subject),
    })
}

/// `ondol jobs`.
pub(crate) async fn list(connect: &ConnectArgs, output: Output) -> Result<()> {
    let jobs = connect.pipelines()?.jobs().await?;
    print::result(output, &jobs, |jobs: &Vec<Job>| {
        let rows = jobs.iter().map(|job| {
            [
                job.id.clone(),
                job.kind.clone(),
                job.subject.clone(),
                state(job.state).to_owned(),
                job.stage.clone(),
                job.rows_done.to_string(),
                job.error.clone().unwrap_or_default(),
            ]
        });
        print::table(["job", "kind", "subject", "state", "stage", "rows", "error"], rows)
    })
}

/// Watches `job` until it ends; one that fails or is cancelled is an error.
pub(crate) async fn wait(pipelines: &dyn Pipelines, mut job: Job) -> Result<Job> {
    let bar = print::progress(job.rows_total, "rows");
    while !job.state.is_final() {
        bar.set_message(job.stage.clone());
        bar.set_style(print::bar_style(job.rows_total.is_some(), "rows"));
        if let Some(total) = job.rows_total {
            bar.set_length(total);
        }
        bar.set_position(job.rows_done);
        job = pipelines
            .job(&job.id, Some(job.revision), Duration::from_secs(10))
            .await?;
    }
    bar.finish_and_clear();
    match job.state {
        JobState::Succeeded => Ok(job),
        _ => bail!(
            "job {} {}: {}",
            job.id,
            state(job.state),
            job.error.as_deref().unwrap_or("no reason given")
        ),
    }
}

fn state(state: JobState) -> &'static str {
    match state {
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}
