//! Schedules: due by their clock, one job at a time, one instance each.

use crate::support::lake::reach_s3;
use crate::support::{FakeStore, config};
use crate::{Schema, compact, store};
use ondol_jobs::{PipelinesConfig, PipelinesService};
use ondol_pipelines_api::wire::{Job, JobQuery, JobState, ScheduleRequest};
use ondol_pipelines_api::{Pipelines, PipelinesError};
use ondol_runtime::{Clock, Health, ManualClock, Shutdown};
use ondol_vocabulary::EventTime;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const MINUTE: i64 = 60_000_000;

fn noon() -> ManualClock {
    ManualClock::at(EventTime::parse("2026-01-01T12:00:30Z").unwrap().micros())
}

async fn open(clock: &ManualClock, store: Arc<FakeStore>, config: PipelinesConfig) -> (PipelinesService, Shutdown) {
    reach_s3();
    let shutdown = Shutdown::new();
    let clock: Arc<dyn Clock> = Arc::new(clock.clone());
    let service = PipelinesService::open(config, store, clock, &shutdown, &Health::new()).await;
    (service.unwrap(), shutdown)
}

fn every_five_minutes() -> ScheduleRequest {
    ScheduleRequest {
        name: "often".to_owned(),
        cron: "*/5 * * * *".to_owned(),
        zone: None,
        request: compact(),
        paused: false,
    }
}

async fn jobs(service: &PipelinesService) -> Vec<Job> {
    let query = JobQuery {
        schedule: Some("often".to_owned()),
        ..JobQuery::default()
    };
    service.jobs(query).await.unwrap().jobs
}

/// The schedule's jobs, once there are `count` and all have ended.
async fn ended(service: &PipelinesService, count: usize) -> Vec<Job> {
    let all = async || loop {
        let jobs = jobs(service).await;
        assert!(jobs.len() <= count, "{jobs:?}");
        if jobs.len() == count && jobs.iter().all(|job| job.state.is_final()) {
            return jobs;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    tokio::time::timeout(Duration::from_secs(120), all()).await.unwrap()
}

/// Long enough for schedules to be looked at several times, were anything due.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(1_500)).await;
}

#[tokio::test]
async fn missed_runs_run_once_and_never_two_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, store) = (noon(), store());
    let (service, shutdown) = open(&clock, store.clone(), config(folder.path())).await;
    let made = service.create_schedule(every_five_minutes()).await.unwrap();
    let times = |texts: [&str; 3]| texts.map(|text| EventTime::parse(text).unwrap());
    let expected = ["2026-01-01T12:05:00Z", "2026-01-01T12:10:00Z", "2026-01-01T12:15:00Z"];
    assert_eq!(made.next_runs, times(expected));
    a_while().await;
    assert_eq!(jobs(&service).await, []);

    clock.advance(5 * MINUTE);
    let first = ended(&service, 1).await.remove(0);
    assert_eq!((first.kind.as_str(), first.state), ("compact", JobState::Succeeded));
    // Nobody is there for an hour: one run makes up for twelve.
    assert!(shutdown.drain(Duration::from_secs(30)).await);
    drop(service);
    clock.advance(60 * MINUTE);
    store.held.store(true, Ordering::SeqCst);
    let (service, shutdown) = open(&clock, store.clone(), config(folder.path())).await;
    let started = async || loop {
        if jobs(&service).await.len() == 2 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    tokio::time::timeout(Duration::from_secs(120), started()).await.unwrap();
    let schedule = service.schedule("often").await.unwrap();
    let expected = ["2026-01-01T13:10:00Z", "2026-01-01T13:15:00Z", "2026-01-01T13:20:00Z"];
    assert_eq!(schedule.next_runs, times(expected));
    // That run takes longer than its schedule allows: the next waits for it, and is one.
    clock.advance(30 * MINUTE);
    a_while().await;
    assert_eq!(jobs(&service).await.len(), 2);
    store.held.store(false, Ordering::SeqCst);
    ended(&service, 3).await;
    let schedule = service.schedule("often").await.unwrap();
    assert_eq!(schedule.last_job.as_ref(), Some(&jobs(&service).await[0].id));
    assert!(shutdown.drain(Duration::from_secs(30)).await);
}

#[tokio::test]
async fn a_paused_schedule_rests_and_makes_up_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let clock = noon();
    let (service, shutdown) = open(&clock, store(), config(folder.path())).await;
    service.create_schedule(every_five_minutes()).await.unwrap();
    assert_eq!(service.pause_schedule("often", true).await.unwrap().next_runs, []);
    clock.advance(20 * MINUTE);
    a_while().await;
    assert_eq!(jobs(&service).await, []);
    let resumed = service.pause_schedule("often", false).await.unwrap();
    let next = EventTime::parse("2026-01-01T12:25:00Z").unwrap();
    assert_eq!(resumed.next_runs[0], next);
    clock.advance(5 * MINUTE);
    ended(&service, 1).await;

    let taken = service.create_schedule(every_five_minutes()).await.unwrap_err();
    assert!(matches!(taken, PipelinesError::ScheduleExists { .. }), "{taken}");
    let unknown = service.schedule("oftn").await.unwrap_err();
    assert_eq!(unknown.to_string(), "unknown schedule `oftn`: did you mean `often`?");
    service.remove_schedule("often").await.unwrap();
    assert_eq!(service.schedules().await.unwrap(), []);
    assert_eq!(jobs(&service).await.len(), 1, "jobs stay");
    assert!(shutdown.drain(Duration::from_secs(30)).await);
}

#[tokio::test]
async fn what_is_wrong_with_a_schedule_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (service, shutdown) = open(&noon(), store(), config(folder.path())).await;
    let with = |change: fn(&mut ScheduleRequest)| {
        let mut request = every_five_minutes();
        change(&mut request);
        request
    };
    for (request, expected) in [
        (with(|request| request.name = "a b".to_owned()), "name `a b`"),
        (with(|request| request.cron = "soon".to_owned()), "cron `soon`"),
        (with(|request| request.cron = "0 0 30 2 *".to_owned()), "never due"),
        (with(|request| request.zone = Some("Mars".to_owned())), "zone `Mars`"),
        (
            with(|request| {
                request.request =
                    ondol_pipelines_api::wire::JobRequest::Compact(ondol_pipelines_api::wire::CompactRequest {
                        source: "evnts".to_owned(),
                    });
            }),
            "did you mean `events`?",
        ),
    ] {
        let refused = service.create_schedule(request).await.unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    }
    assert_eq!(service.schedules().await.unwrap(), []);
    assert!(shutdown.drain(Duration::from_secs(30)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_one_instance_submits_what_is_due() {
    let folder = tempfile::tempdir().unwrap();
    let schema = Schema::create().await;
    let config = PipelinesConfig {
        ledger: Some(schema.ledger.clone()),
        ..config(folder.path())
    };
    let (clock, store) = (noon(), store());
    let (left, stop_left) = open(&clock, store.clone(), config.clone()).await;
    let (right, stop_right) = open(&clock, store.clone(), config).await;
    left.create_schedule(every_five_minutes()).await.unwrap();
    for run in 1..=5 {
        clock.advance(5 * MINUTE);
        ended(&right, run).await;
    }
    assert_eq!(store.compacted.lock().unwrap().len(), 5);
    assert_eq!(left.schedules().await.unwrap(), right.schedules().await.unwrap());
    assert!(stop_left.drain(Duration::from_secs(30)).await);
    assert!(stop_right.drain(Duration::from_secs(30)).await);
    schema.drop().await;
}
