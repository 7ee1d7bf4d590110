//! Schedules: when each is due, and the submissions that follow.
//!
//! Every instance looks for schedules that are due; the ledger lets one of them submit the job, in the same transaction
//! in which the schedule's next run is noted. A run that could not start in time, because no instance ran or the job
//! before it had not ended, starts as soon as it can, once: the next run after it is counted from the present.

use crate::config::PipelinesConfig;
use crate::error::JobError;
use crate::kind;
use crate::ledger::{Firing, Ledger, ScheduleRow};
use crate::queue::{Queue, unavailable};
use crate::recurring::{self, Period};
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use ondol_feature_store_api::FeatureStore;
use ondol_pipelines_api::PipelinesError;
use ondol_pipelines_api::wire::{JobRequest, RecurringTrainingSetRequest, Schedule, ScheduleRequest};
use ondol_runtime::Shutdown;
use ondol_vocabulary::{EventTime, Snapshot};
use ondol_wire::ContractError;
use std::sync::Arc;
use std::time::Duration;

/// How often schedules are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Runs that are foretold.
const FORETOLD: usize = 3;
const LONGEST_NAME: usize = 64;

/// When a schedule is due.
struct Times {
    cron: Cron,
    zone: Tz,
}

impl Times {
    /// The error is a sentence that names the field, the value and the remedy.
    fn parse(cron: &str, zone: &str) -> Result<Self, String> {
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let parsed = parser.parse(cron).map_err(|cause| {
            format!(
                "cron `{cron}`: {}; write five fields (minute, hour, day of the month, month, day of the week), for example \
                 `30 3 * * *` for half past three every day",
                cause.to_string().trim_end_matches('.')
            )
        })?;
        let zone = zone.parse().map_err(|_| {
            format!("zone `{zone}` is not in the IANA time zone database: write for example UTC or Asia/Seoul")
        })?;
        Ok(Self { cron: parsed, zone })
    }

    /// What a run that is due at `due` is about, at `now`: from the time before that, until the last time that has come.
    /// Runs that were missed are made up for by one, which is about all their time: runs leave nothing out in between.
    fn period(&self, due: EventTime, now: EventTime) -> Period {
        let before = |moment: EventTime, inclusive: bool| {
            let moment: DateTime<Utc> = DateTime::from_timestamp_micros(moment.micros())?;
            let found = self
                .cron
                .find_previous_occurrence(&moment.with_timezone(&self.zone), inclusive)
                .ok()?;
            Some(EventTime::from_micros(found.timestamp_micros()))
        };
        Period {
            start: before(due, false),
            end: before(now, true).filter(|end| *end >= due).or(Some(due)),
        }
    }

    /// The first moment after `moment`; none if it is never due again.
    fn after(&self, moment: EventTime) -> Option<EventTime> {
        let moment: DateTime<Utc> = DateTime::from_timestamp_micros(moment.micros())?;
        let next = self
            .cron
            .find_next_occurrence(&moment.with_timezone(&self.zone), false)
            .ok()?;
        Some(EventTime::from_micros(next.timestamp_micros()))
    }
}

/// Keeps a schedule.
pub(crate) async fn create(
    ledger: &Ledger,
    snapshot: &Snapshot,
    config: &PipelinesConfig,
    request: ScheduleRequest,
    now: EventTime,
) -> Result<Schedule, PipelinesError> {
    let ScheduleRequest {
        name,
        cron,
        zone,
        request,
        paused,
    } = request;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(fits) {
        return Err(PipelinesError::invalid(format!(
            "name `{}` is not 1 to {LONGEST_NAME} letters, digits, `-`, `_` or `.`",
            name.escape_debug()
        )));
    }
    let zone = zone.unwrap_or_else(|| "UTC".to_owned());
    let times = Times::parse(&cron, &zone).map_err(PipelinesError::invalid)?;
    let next_at = times
        .after(now)
        .ok_or_else(|| PipelinesError::invalid(format!("cron `{cron}` is never due: no such day comes")))?;
    if matches!(request, JobRequest::Backfill(_)) {
        return Err(PipelinesError::invalid(
            "a backfill is done once, and begun by itself: schedule jobs of kind materialize for what changes"
                .to_owned(),
        ));
    }
    kind::check(snapshot, &request, config)?;
    if let JobRequest::RecurringTrainingSet(request) = &request {
        recurring::check_recurs(request)?;
    }
    let row = ScheduleRow {
        request: serde_json::to_string(&request).map_err(|cause| PipelinesError::Internal {
            detail: cause.to_string(),
        })?,
        name,
        cron,
        zone,
        paused,
        created_at: now,
        next_at,
        last_run_at: None,
        last_job: None,
        last_error: None,
    };
    if !ledger.add_schedule(&row).await.map_err(unavailable)? {
        return Err(PipelinesError::ScheduleExists { name: row.name });
    }
    tracing::info!(schedule = row.name, "schedule made");
    shown(row).map_err(unavailable)
}

/// Every schedule, by name.
pub(crate) async fn list(ledger: &Ledger) -> Result<Vec<Schedule>, PipelinesError> {
    let rows = ledger.schedules().await.map_err(unavailable)?;
    rows.into_iter()
        .map(shown)
        .collect::<Result<_, _>>()
        .map_err(unavailable)
}

/// One schedule.
pub(crate) async fn find(ledger: &Ledger, name: &str) -> Result<Schedule, PipelinesError> {
    shown(row(ledger, name).await?).map_err(unavailable)
}

/// Lets a schedule rest, or go on from now.
pub(crate) async fn pause(
    ledger: &Ledger,
    name: &str,
    paused: bool,
    now: EventTime,
) -> Result<Schedule, PipelinesError> {
    let found = row(ledger, name).await?;
    if found.paused != paused {
        let times = Times::parse(&found.cron, &found.zone).map_err(PipelinesError::invalid)?;
        let next_at = times.after(now).unwrap_or(found.next_at);
        let written = ledger.pause_schedule(name, paused, next_at).await;
        written.map_err(unavailable)?;
        tracing::info!(schedule = name, paused, "schedule changed");
    }
    find(ledger, name).await
}

/// Removes a schedule; returns it as it was.
pub(crate) async fn remove(ledger: &Ledger, name: &str) -> Result<Schedule, PipelinesError> {
    let found = find(ledger, name).await?;
    ledger.remove_schedule(name).await.map_err(unavailable)?;
    tracing::info!(schedule = name, "schedule removed");
    Ok(found)
}

async fn row(ledger: &Ledger, name: &str) -> Result<ScheduleRow, PipelinesError> {
    if let Some(row) = ledger.schedule(name).await.map_err(unavailable)? {
        return Ok(row);
    }
    let all = ledger.schedules().await.map_err(unavailable)?;
    Err(PipelinesError::Unknown {
        kind: "schedule".to_owned(),
        name: name.to_owned(),
        suggestion: crate::nearest::nearest(name, all.iter().map(|row| row.name.as_str())),
    })
}

fn shown(row: ScheduleRow) -> Result<Schedule, JobError> {
    let unread = |cause: String| JobError::storage(format!("can't read schedule `{}`", row.name), cause);
    let times = Times::parse(&row.cron, &row.zone).map_err(unread)?;
    let request = serde_json::from_str(&row.request).map_err(|cause| unread(cause.to_string()))?;
    let runs = std::iter::successors(Some(row.next_at), |run| times.after(*run));
    Ok(Schedule {
        next_runs: if row.paused {
            Vec::new()
        } else {
            runs.take(FORETOLD).collect()
        },
        name: row.name,
        cron: row.cron,
        zone: row.zone,
        request,
        paused: row.paused,
        created_at: row.created_at,
        last_run_at: row.last_run_at,
        last_job: row.last_job,
        last_error: row.last_error,
    })
}

/// Submits what is due, until shutdown.
pub(crate) async fn keep(queue: Arc<Queue>, ledger: Ledger, store: Arc<dyn FeatureStore>, shutdown: Shutdown) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.triggered() => return,
        }
        if let Err(error) = submit_due(&queue, &ledger, store.as_ref()).await {
            tracing::warn!(%error, "schedules can't be looked at, trying again");
        }
    }
}

async fn submit_due(queue: &Queue, ledger: &Ledger, store: &dyn FeatureStore) -> Result<(), JobError> {
    let now = queue.now();
    let due = ledger.due_schedules(now).await?;
    if due.is_empty() {
        return Ok(());
    }
    let snapshot = store.snapshot().await?;
    for row in due {
        let name = row.name.clone();
        let times = Times::parse(&row.cron, &row.zone).map_err(JobError::internal)?;
        let firing = Firing {
            next_at: times.after(now).unwrap_or(EventTime::from_micros(i64::MAX)),
            due_at: row.next_at,
            name: row.name,
        };
        let outcome = match serde_json::from_str::<JobRequest>(&row.request) {
            Ok(request) => {
                let request = of_run(request, times.period(firing.due_at, now));
                queue.submit_due(&snapshot, &request, firing.clone()).await
            }
            Err(cause) => Err(PipelinesError::invalid(format!("its request can't be read: {cause}"))),
        };
        let outcome = match outcome {
            Ok(None) => continue,
            Ok(Some(job)) => {
                tracing::info!(schedule = name, job = job.id, "schedule due");
                "submitted"
            }
            // It stays due.
            Err(error) if error.retryable() => {
                tracing::warn!(schedule = name, %error, "a job that is due is not submitted, trying again");
                continue;
            }
            Err(error) => {
                tracing::error!(schedule = name, %error, "a job that is due is refused: skipped until the next time");
                ledger.skip_run(&firing, &error.to_string()).await?;
                "refused"
            }
        };
        metrics::counter!("ondol_pipelines_schedule_runs_total", "schedule" => name, "outcome" => outcome).increment(1);
    }
    Ok(())
}

/// The request of one run of a schedule, which is about `period`.
fn of_run(request: JobRequest, period: Period) -> JobRequest {
    match request {
        JobRequest::RecurringTrainingSet(request) => JobRequest::RecurringTrainingSet(RecurringTrainingSetRequest {
            start: period.start,
            end: period.end,
            ..request
        }),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cron: &str, zone: &str, now: &str, expected: &[&str]) {
        let times = Times::parse(cron, zone).unwrap();
        let now = EventTime::parse(now).unwrap();
        let runs = std::iter::successors(times.after(now), |run| times.after(*run));
        let runs: Vec<EventTime> = runs.take(expected.len()).collect();
        let expected: Vec<EventTime> = expected.iter().map(|text| EventTime::parse(text).unwrap()).collect();
        assert_eq!(runs, expected, "{cron} in {zone}");
    }

    #[test]
    fn a_schedule_is_due_by_the_clock_of_its_zone() {
        check(
            "30 3 * * *",
            "UTC",
            "2026-11-21T03:30:00Z",
            &["2026-11-22T03:30:00Z", "2026-11-23T03:30:00Z"],
        );
        check(
            "30 3 * * *",
            "Asia/Seoul",
            "2026-11-21T00:00:00Z",
            &["2026-11-21T18:30:00Z"],
        );
        check(
            "*/20 9-10 * * MON-FRI",
            "UTC",
            "2026-11-20T10:30:00Z",
            &["2026-11-20T10:40:00Z", "2026-11-23T09:00:00Z"],
        );
    }

    #[test]
    fn what_runs_are_about_leaves_no_time_out() {
        let times = Times::parse("30 3 * * *", "UTC").unwrap();
        let moment = |text| EventTime::parse(text).unwrap();
        let period = |due, now| {
            let Period { start, end } = times.period(moment(due), moment(now));
            [start.unwrap().to_string(), end.unwrap().to_string()]
        };
        assert_eq!(
            period("2026-11-21T03:30:00Z", "2026-11-21T03:30:00.4Z"),
            ["2026-11-20T03:30:00Z", "2026-11-21T03:30:00Z"]
        );
        // Nobody was there for two days.
        assert_eq!(
            period("2026-11-22T03:30:00Z", "2026-11-24T09:00:00Z"),
            ["2026-11-21T03:30:00Z", "2026-11-24T03:30:00Z"]
        );
        assert_eq!(
            times.after(moment("2026-11-24T09:00:00Z")),
            Some(moment("2026-11-25T03:30:00Z"))
        );
    }

    #[test]
    fn a_change_of_the_clock_neither_skips_a_day_nor_runs_twice() {
        check(
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        );
        let spring = Times::parse("30 2 * * *", "Europe/Berlin").unwrap();
        let mut run = EventTime::parse("2026-03-27T12:00:00Z").unwrap();
        let mut days = Vec::new();
        for _ in 0..4 {
            run = spring.after(run).unwrap();
            days.push(run.micros().div_euclid(86_400_000_000));
        }
        assert!(days.windows(2).all(|pair| pair[1] == pair[0] + 1), "{days:?}");
    }

    #[test]
    fn what_is_wrong_with_a_schedule_is_said() {
        for (cron, zone, expected) in [
            ("* * * *", "UTC", "five fields"),
            ("0 * * * * *", "UTC", "five fields"),
            ("61 * * * *", "UTC", "five fields"),
            ("0 0 * * *", "Seoul", "Asia/Seoul"),
        ] {
            let error = Times::parse(cron, zone).err().unwrap();
            assert!(error.contains(expected), "{error}");
        }
        let never = Times::parse("0 0 30 2 *", "UTC").unwrap();
        assert_eq!(never.after(EventTime::from_micros(0)), None);
    }
}
