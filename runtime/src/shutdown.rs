//! Every task has an owner, a name and a way to stop: the [`Shutdown`] it was spawned by.

use futures::FutureExt;
use std::any::Any;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// Owns a process's tasks and tells them to stop. Clones share the same tasks.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Cancelled earlier than `token`, or with it.
    announced: CancellationToken,
    token: CancellationToken,
    tasks: TaskTracker,
}

/// What a task may return: nothing, or a result whose error is logged under the task's name.
pub trait TaskOutcome {
    /// The error, if the task failed.
    fn failure(&self) -> Option<&dyn Display>;
}

impl TaskOutcome for () {
    fn failure(&self) -> Option<&dyn Display> {
        None
    }
}

impl<T, E: Display> TaskOutcome for Result<T, E> {
    fn failure(&self) -> Option<&dyn Display> {
        self.as_ref().err().map(|error| error as &dyn Display)
    }
}

impl Shutdown {
    /// With no tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled once the shutdown is triggered. Long work selects on it; queues drain, then end.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Says that the shutdown is near: work goes on, and who serves sends callers elsewhere.
    pub fn announce(&self) {
        self.announced.cancel();
    }

    /// Cancelled once the shutdown is announced, or triggered.
    pub fn announced(&self) -> CancellationToken {
        self.announced.clone()
    }

    /// Tells every task to stop. Returns at once; repeating it changes nothing.
    pub fn trigger(&self) {
        self.announced.cancel();
        self.token.cancel();
    }

    /// Whether the shutdown has been triggered.
    pub fn is_triggered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns once the shutdown is triggered.
    pub async fn triggered(&self) {
        self.token.cancelled().await;
    }

    /// Runs `future` as a task that [`Self::drain`] waits for. Its error or panic is logged under `name`; a panic also
    /// reaches whoever joins the handle. Dropping the handle leaves the task running.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: TaskOutcome + Send + 'static,
    {
        let task = async move {
            match AssertUnwindSafe(future).catch_unwind().await {
                Ok(outcome) => {
                    if let Some(error) = outcome.failure() {
                        tracing::error!(task = name, %error, "task failed");
                    }
                    outcome
                }
                Err(panic) => {
                    tracing::error!(task = name, panic = panic_text(panic.as_ref()), "task panicked");
                    resume_unwind(panic)
                }
            }
        };
        self.tasks.spawn(task.instrument(tracing::info_span!("task", name)))
    }

    /// Triggers the shutdown and waits until every task has ended, at most `limit`. `false` when some are left.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.trigger();
        self.tasks.close();
        let drained = tokio::time::timeout(limit, self.tasks.wait()).await.is_ok();
        if !drained {
            tracing::warn!(
                left = self.tasks.len(),
                limit_s = limit.as_secs_f64(),
                "tasks outlived the shutdown limit"
            );
        }
        drained
    }

    /// Triggers the shutdown at the first SIGINT or SIGTERM; a second one ends the process at once with status 130,
    /// so that a person is never held up by a slow drain.
    ///
    /// # Errors
    /// When the handlers can't be installed.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = self.clone();
        // Not among the owned tasks: it must outlive the drain to hear the second signal, and ends with the process.
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if shutdown.is_triggered() {
                    tracing::warn!("second signal: ending without draining");
                    std::process::exit(130);
                }
                tracing::info!("signal received: shutting down");
                shutdown.trigger();
            }
        });
        Ok(())
    }
}

/// The words of a panic, where it has any.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "a panic without a message",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn drain_waits_for_tasks_that_heed_the_token() {
        let shutdown = Shutdown::new();
        let token = shutdown.token();
        let task = shutdown.spawn("heeds", async move { token.cancelled().await });
        assert!(!shutdown.is_triggered());
        assert!(shutdown.drain(Duration::from_secs(60)).await);
        assert!(task.is_finished());
    }

    #[tokio::test]
    async fn drain_gives_up_on_a_task_that_ignores_the_token() {
        let shutdown = Shutdown::new();
        shutdown.spawn("ignores", std::future::pending::<()>());
        assert!(!shutdown.drain(Duration::from_millis(10)).await);
    }

    #[tokio::test]
    async fn a_failed_or_panicked_task_does_not_hold_up_the_drain() {
        let shutdown = Shutdown::new();
        let failed = shutdown.spawn("fails", async { Err::<(), _>("reason") });
        let panicked = shutdown.spawn("panics", async {
            if true {
                panic!("reason");
            }
        });
        assert!(shutdown.drain(Duration::from_secs(60)).await);
        assert_eq!(failed.await.unwrap(), Err("reason"));
        assert!(panicked.await.unwrap_err().is_panic());
    }

    #[tokio::test]
    async fn a_signal_triggers_the_shutdown() {
        let shutdown = Shutdown::new();
        shutdown.on_signals().unwrap();
        let status = std::process::Command::new("kill")
            .args(["-TERM", &std::process::id().to_string()])
            .status();
        assert!(status.unwrap().success());
        tokio::time::timeout(Duration::from_secs(60), shutdown.triggered())
            .await
            .unwrap();
    }
}
