//! A job that this instance is at work on.

use crate::progress::Progress;
use crate::speed::Speed;
use ondol_pipelines_api::wire::Job;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// While only its speed changes, a job is made known again this often at most.
const SPEED_EVERY: Duration = Duration::from_secs(1);

/// A job at work.
pub(crate) struct Active {
    job: watch::Sender<Job>,
    cancel: CancellationToken,
    progress: Arc<Progress>,
    began: Instant,
    pace: Mutex<Pace>,
}

#[derive(Default)]
struct Pace {
    speed: Speed,
    published: Duration,
}

impl Active {
    /// `job`, just claimed.
    pub(super) fn new(job: Job, shutdown: CancellationToken) -> Self {
        let cancel = CancellationToken::new();
        Self {
            job: watch::Sender::new(job),
            progress: Arc::new(Progress::new(cancel.clone(), shutdown)),
            cancel,
            began: Instant::now(),
            pace: Mutex::default(),
        }
    }

    /// As it stands.
    pub(super) fn job(&self) -> Job {
        self.job.borrow().clone()
    }

    /// As it goes on. The channel ends when the job is let go.
    pub(super) fn watch(&self) -> watch::Receiver<Job> {
        self.job.subscribe()
    }

    /// What its work reports to.
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Asks it to stop.
    pub(super) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Makes progress visible, if there was any.
    pub(super) fn publish(&self) {
        let seen = self.progress.look();
        let at = self.began.elapsed();
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.speed.observe(at, &seen);
        let (rate, eta) = (pace.speed.rows_per_second(), pace.speed.eta_seconds(&seen));
        let due = at.saturating_sub(pace.published) >= SPEED_EVERY;
        let published = self.job.send_if_modified(|job| {
            let moved = job.stage != seen.stage || job.rows_done != seen.rows_done || job.rows_total != seen.rows_total;
            let faster = job.rows_per_second != rate || job.eta_seconds != eta;
            let news = moved || (faster && due);
            if news {
                (job.stage, job.rows_done, job.rows_total) = (seen.stage, seen.rows_done, seen.rows_total);
                (job.rows_per_second, job.eta_seconds) = (rate, eta);
                job.revision += 1;
            }
            news
        });
        if published {
            pace.published = at;
        }
    }

    /// Makes its end visible.
    pub(super) fn end(&self, job: Job) {
        self.job.send_replace(job);
    }
}
