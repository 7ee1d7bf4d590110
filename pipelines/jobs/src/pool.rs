//! Compute threads of one job: they live as long as the work they are given, and no longer.

use crate::error::JobError;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::runtime::Handle;

/// A number of threads and the runtime that does their I/O.
pub(crate) struct Pool {
    threads: usize,
    io: Handle,
}

impl Pool {
    /// `threads` threads whose I/O runs on `io`.
    pub(crate) fn new(threads: usize, io: Handle) -> Self {
        Self {
            threads: threads.max(1),
            io,
        }
    }

    /// The runtime for I/O.
    pub(crate) fn io(&self) -> &Handle {
        &self.io
    }

    /// Calls `work` for every item, on all threads, in the items' order as threads come free. The first error stops
    /// the rest and is returned. Blocks: call it where blocking is allowed.
    pub(crate) fn for_each<T: Sync>(
        &self,
        items: &[T],
        work: impl Fn(usize, &T) -> Result<(), JobError> + Sync,
    ) -> Result<(), JobError> {
        for_each(self.threads, items, work)
    }

    /// What `work` makes of every item, in the items' order; otherwise as [`Self::for_each`].
    pub(crate) fn map<T: Send, R: Send>(
        &self,
        items: Vec<T>,
        work: impl Fn(usize, T) -> Result<R, JobError> + Sync,
    ) -> Result<Vec<R>, JobError> {
        map(self.threads, items, work)
    }
}

/// [`Pool::map`] on `threads` threads.
pub(crate) fn map<T: Send, R: Send>(
    threads: usize,
    items: Vec<T>,
    work: impl Fn(usize, T) -> Result<R, JobError> + Sync,
) -> Result<Vec<R>, JobError> {
    let panicked = || JobError::internal("a compute thread panicked");
    let cell = |item: T| (Mutex::new(Some(item)), Mutex::new(None));
    let cells: Vec<_> = items.into_iter().map(cell).collect();
    for_each(threads, &cells, |number, (item, made)| {
        let item = item.lock().ok().and_then(|mut item| item.take());
        let result = work(number, item.ok_or_else(panicked)?)?;
        *made.lock().map_err(|_| panicked())? = Some(result);
        Ok(())
    })?;
    let made = cells.into_iter().map(|(_, made)| made.into_inner().ok().flatten());
    made.collect::<Option<Vec<R>>>().ok_or_else(panicked)
}

/// [`Pool::for_each`] on `threads` threads.
fn for_each<T: Sync>(
    threads: usize,
    items: &[T],
    work: impl Fn(usize, &T) -> Result<(), JobError> + Sync,
) -> Result<(), JobError> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let failure: Mutex<Option<JobError>> = Mutex::new(None);
    let run = || {
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return };
            if let Err(error) = work(index, item) {
                stop.store(true, Ordering::Relaxed);
                if let Ok(mut first) = failure.lock() {
                    first.get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for number in 1..threads.min(items.len()) {
            let named = std::thread::Builder::new().name(format!("job-{number}"));
            // A machine out of threads still has this one.
            if let Err(error) = named.spawn_scoped(scope, run) {
                tracing::warn!(%error, "no further compute thread");
            }
        }
        run();
    });
    match failure.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(error),
        Err(_) => Err(JobError::internal("a compute thread panicked")),
    }
}
