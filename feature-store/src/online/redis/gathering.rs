//! Reads that arrive together travel together.
//!
//! What a command costs (a turn of the client's own task, a system call each way, a timer) does not depend on its keys, and
//! an online read has one or two. So a read goes at once while few commands are under way, and otherwise waits for one of
//! them to end and goes in one command with whatever else waits by then: nobody waits while the store is idle, and the busier
//! it is, the less a read costs.
//!
//! A read that nobody waits for any more changes nothing for the others: commands that carry several reads are run by a task
//! of their own, which goes on until nothing waits. A command that fails fails for those in it.

use super::KEYS_PER_COMMAND;
use bytes::Bytes;
use ondol_feature_store_api::FeatureStoreError;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Commands under way at once: one is being answered while the next is sent.
const COMMANDS_IN_FLIGHT: usize = 2;

/// Reads that wait at most. Callers bound their requests far below it; reads that were given up count until their turn.
const MOST_WAITING: usize = 65_536;

/// Who has the rows.
pub(super) trait Source: Send + Sync + 'static {
    /// The stored rows of `keys`, a read's after the other's, in one command.
    fn get(&self, keys: &[&Keys]) -> impl Future<Output = Result<Vec<Option<Bytes>>, FeatureStoreError>> + Send;
}

/// The keys of one read, as they are sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Keys {
    /// Appends what `write` appends, as a key.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .filter_map(|(start, end)| self.bytes.get(start..*end))
    }
}

/// Gathers reads of a source.
pub(super) struct Gathering<S: Source> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    source: S,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    in_flight: usize,
    /// None while a command more may be under way.
    waiting: VecDeque<Read>,
}

struct Read {
    keys: Keys,
    answer: oneshot::Sender<Answer>,
}

type Answer = Result<Vec<Option<Bytes>>, FeatureStoreError>;

/// When a read goes.
enum Turn {
    Now(Keys),
    /// With others; then it is answered here.
    Later(oneshot::Receiver<Answer>),
}

/// One of the commands that may be under way. Given back, it goes to what waits.
struct Permit<S: Source>(Arc<Inner<S>>);

impl<S: Source> Gathering<S> {
    pub(super) fn new(source: S) -> Self {
        let inner = Inner {
            source,
            state: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The stored rows of `keys`, at most as many as one command takes.
    pub(super) async fn get(&self, keys: Keys) -> Result<Vec<Option<Bytes>>, FeatureStoreError> {
        let turn = self.inner.state().turn(keys)?;
        match turn {
            Turn::Now(keys) => {
                let _permit = Permit(Arc::clone(&self.inner));
                self.inner.source.get(&[&keys]).await
            }
            Turn::Later(answer) => answer.await.unwrap_or_else(|_| {
                Err(FeatureStoreError::Unavailable {
                    detail: "the process is stopping: the read was not sent".to_owned(),
                })
            }),
        }
    }
}

impl<S> Inner<S> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// When a read of `keys` goes.
    fn turn(&mut self, keys: Keys) -> Result<Turn, FeatureStoreError> {
        if self.in_flight < COMMANDS_IN_FLIGHT {
            self.in_flight += 1;
            return Ok(Turn::Now(keys));
        }
        if self.waiting.len() >= MOST_WAITING {
            self.waiting.retain(|read| !read.answer.is_closed());
        }
        if self.waiting.len() >= MOST_WAITING {
            return Err(FeatureStoreError::Unavailable {
                detail: format!(
                    "{MOST_WAITING} reads wait for the online store: it answers more slowly than they come"
                ),
            });
        }
        let (answer, answered) = oneshot::channel();
        self.waiting.push_back(Read { keys, answer });
        Ok(Turn::Later(answered))
    }

    /// The reads of the next command: those that came first and are still waited for.
    fn next(&mut self) -> Vec<Read> {
        let mut reads = Vec::new();
        let mut keys = 0;
        while let Some(read) = self.waiting.front() {
            let is_wanted = !read.answer.is_closed();
            if is_wanted && !reads.is_empty() && keys + read.keys.len() > KEYS_PER_COMMAND {
                break;
            }
            let Some(read) = self.waiting.pop_front() else { break };
            if is_wanted {
                keys += read.keys.len();
                reads.push(read);
            }
        }
        reads
    }
}

impl<S: Source> Permit<S> {
    /// Runs commands until nothing waits; `reads` are those of the first.
    async fn serve(self, mut reads: Vec<Read>) {
        while !reads.is_empty() {
            let keys: Vec<&Keys> = reads.iter().map(|read| &read.keys).collect();
            let answer = self.0.source.get(&keys).await;
            hand_out(reads, answer);
            reads = self.0.state().next();
        }
    }
}

impl<S: Source> Drop for Permit<S> {
    fn drop(&mut self) {
        let reads = {
            let mut state = self.0.state();
            let reads = state.next();
            if reads.is_empty() {
                state.in_flight -= 1;
            }
            reads
        };
        if reads.is_empty() {
            return;
        }
        // The permit stands for them now. They were taken before there is a task: a runtime that is stopping drops it
        // unrun, and they end with it.
        let permit = Self(Arc::clone(&self.0));
        if let Ok(runtime) = Handle::try_current() {
            // Those who wait own the task: it ends with them, and the client bounds each command in time.
            drop(runtime.spawn(permit.serve(reads)));
        }
    }
}

/// Gives each read its part of the answer.
fn hand_out(reads: Vec<Read>, answer: Answer) {
    match answer {
        Ok(rows) => {
            let mut rows = rows.into_iter();
            for Read { keys, answer } in reads {
                let part: Vec<Option<Bytes>> = rows.by_ref().take(keys.len()).collect();
                // Who is not there any more does not miss it.
                let _ = answer.send(Ok(part));
            }
        }
        Err(error) => {
            for read in reads {
                let _ = read.answer.send(Err(error.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
