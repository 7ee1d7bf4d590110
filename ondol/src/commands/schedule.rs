//! `schedule`: jobs that are submitted again and again.

use crate::cli::{Output, ScheduleAddArgs, ScheduleCommand};
use crate::print;
use anyhow::{Context as _, Result, bail};
use ondol_pipelines_api::wire::{JobRequest, Schedule, ScheduleRequest};
use serde_json::{Map, Value, json};

/// `ondol schedule`.
pub(crate) async fn run(command: &ScheduleCommand, output: Output) -> Result<()> {
    match command {
        ScheduleCommand::Add(args) => {
            let request = ScheduleRequest {
                name: args.name.clone(),
                cron: args.cron.clone(),
                zone: Some(args.zone.clone()),
                request: request(args)?,
                paused: args.paused,
            };
            let made = args.connect.pipelines()?.create_schedule(request).await?;
            print::result(output, &made, next)
        }
        ScheduleCommand::Ls(connect) => {
            let schedules = connect.pipelines()?.schedules().await?;
            print::result(output, &schedules, |schedules: &Vec<Schedule>| table(schedules))
        }
        ScheduleCommand::Pause(args) => {
            let paused = args.connect.pipelines()?.pause_schedule(&args.name, true).await?;
            print::result(output, &paused, next)
        }
        ScheduleCommand::Resume(args) => {
            let resumed = args.connect.pipelines()?.pause_schedule(&args.name, false).await?;
            print::result(output, &resumed, next)
        }
        ScheduleCommand::Rm(args) => {
            let removed = args.connect.pipelines()?.remove_schedule(&args.name).await?;
            print::result(output, &removed, |schedule: &Schedule| {
                format!("schedule `{}` is removed; its jobs stay", schedule.name)
            })
        }
    }
}

/// The kind whose jobs are about a model; those of all others are about a source.
const OF_A_MODEL: &str = "recurring-training-set";

/// The job's request, from its kind, its subject and `--set`.
fn request(args: &ScheduleAddArgs) -> Result<JobRequest> {
    let mut fields = Map::new();
    fields.insert("kind".to_owned(), json!(args.kind));
    let subject = if args.kind == OF_A_MODEL { "model" } else { "source" };
    fields.insert(subject.to_owned(), json!(args.subject));
    for pair in &args.set {
        let Some((name, value)) = pair.split_once('=') else {
            bail!("--set `{pair}` is no NAME=VALUE: write for example --set dry_run=true");
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
        fields.insert(name.to_owned(), value);
    }
    serde_json::from_value(Value::Object(fields))
        .with_context(|| format!("`{}` of `{}` can't be scheduled", args.kind, args.subject))
}

fn next(schedule: &Schedule) -> String {
    match schedule.next_runs.first() {
        Some(next) => format!("schedule `{}`: next run at {next}", schedule.name),
        None => format!(
            "schedule `{}` rests: `ondol schedule resume {}`",
            schedule.name, schedule.name
        ),
    }
}

fn table(schedules: &[Schedule]) -> String {
    let rows = schedules.iter().map(|schedule| {
        let next = schedule.next_runs.first().map(ToString::to_string);
        [
            schedule.name.clone(),
            schedule.cron.clone(),
            schedule.zone.clone(),
            schedule.request.kind().to_owned(),
            next.unwrap_or_else(|| "paused".to_owned()),
            schedule.last_job.clone().unwrap_or_default(),
            schedule.last_error.clone().unwrap_or_default(),
        ]
    });
    print::table(
        ["schedule", "cron", "zone", "job", "next run", "last job", "error"],
        rows,
    )
}
