//! How much memory loaded models take together, and who makes room when the bound is reached.
//!
//! A model is charged before it is loaded, and its charge ends when the last request has let go of it: so what is charged
//! is what is there, models that were evicted under a request among it. Who loads one at the bound evicts, oldest use
//! first, versions that no request reaches without naming them; where those that must stay leave no room, it is refused
//! by name. One load makes room at a time: two can't count on the same room, and the one that came first gets it.

use ondol_model_gateway_api::ModelGatewayError;
use ondol_vocabulary::VersionedName;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

/// How long a load waits for requests to let go of what was evicted, and for other loads.
const PATIENCE: Duration = Duration::from_secs(10);
/// Names in a refusal at most.
const NAMED: usize = 8;

/// The memory of loaded models.
#[derive(Debug)]
pub(crate) struct Memory {
    most_bytes: Option<usize>,
    charged: AtomicUsize,
    turn: Mutex<()>,
    /// Whoever has the turn is woken when a charge or a hold ends, or a load.
    changed: Notify,
}

/// Room that a model takes, until it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    memory: Arc<Memory>,
    bytes: usize,
}

/// A loaded version, as it is looked at for room.
#[derive(Debug)]
pub(super) struct Resident<V> {
    pub(super) version: V,
    pub(super) model: VersionedName,
    pub(super) bytes: usize,
    /// Requests reach it without naming it, or a loaded graph runs it that they reach.
    pub(super) stays: bool,
    /// Something that can't go on without it holds it.
    pub(super) held: bool,
    /// When it last answered, or was loaded.
    pub(super) used_ms: u64,
}

/// What comes next for a load.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Go,
    /// The resident at that place goes.
    Evict(usize),
    /// What was evicted, or is being loaded, is not settled yet.
    Wait,
    /// What stays leaves no room.
    Refuse,
}

impl Memory {
    /// With at most `most_bytes` charged, if they are bounded.
    pub(super) fn new(most_bytes: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            most_bytes,
            charged: AtomicUsize::new(0),
            turn: Mutex::new(()),
            changed: Notify::new(),
        })
    }

    /// Charges `bytes` for `model`, once there is room for them: `residents` are looked at anew each time, and `evict`
    /// takes one out.
    pub(super) async fn reserve<V>(
        self: &Arc<Self>,
        model: &str,
        bytes: usize,
        residents: impl Fn() -> Vec<Resident<V>>,
        evict: impl Fn(&V) -> bool,
    ) -> Result<Charge, ModelGatewayError> {
        let Some(most) = self.most_bytes.filter(|_| bytes > 0) else {
            return Ok(self.charge(bytes));
        };
        let until = Instant::now() + PATIENCE;
        let refuse = |error| {
            metrics::counter!("ondol_gateway_model_memory_refused_total").increment(1);
            Err(error)
        };
        let busy = || {
            crate::fault::unavailable(format!(
                "`{model}` waits for memory (`max_model_memory_mib`) that requests under way still take: try again"
            ))
        };
        let Ok(_turn) = tokio::time::timeout_at(until, self.turn.lock()).await else {
            return refuse(busy());
        };
        loop {
            let all = residents();
            let charged = self.charged.load(Ordering::Relaxed);
            match step(bytes, charged, most, &all) {
                Step::Go => return Ok(self.charge(bytes)),
                Step::Evict(place) => {
                    if let Some(resident) = all.get(place)
                        && evict(&resident.version)
                    {
                        tracing::info!(model = %resident.model, size_bytes = resident.bytes, for_model = model, "a model is evicted");
                        metrics::counter!("ondol_gateway_model_evictions_total", "model" => resident.model.name.clone())
                            .increment(1);
                    }
                }
                Step::Wait => {
                    // What `all` holds of versions must not keep what we wait for.
                    drop(all);
                    if tokio::time::timeout_at(until, self.changed.notified()).await.is_err() {
                        return refuse(busy());
                    }
                }
                Step::Refuse => return refuse(too_much(model, bytes, most, &all)),
            }
        }
    }

    fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.charged.fetch_add(bytes, Ordering::Relaxed);
        self.publish();
        Charge {
            memory: Arc::clone(self),
            bytes,
        }
    }

    /// Something has changed that a load may wait for.
    pub(super) fn changed(&self) {
        // One has the turn; with none, the next one looks once more than it must.
        self.changed.notify_one();
    }

    fn publish(&self) {
        let charged = self.charged.load(Ordering::Relaxed);
        metrics::gauge!("ondol_gateway_model_memory_bytes").set(charged as f64);
    }
}

impl Charge {
    /// What it came to, now that the model is loaded.
    pub(super) fn settle(&mut self, bytes: usize) {
        self.memory.charged.fetch_add(bytes, Ordering::Relaxed);
        self.memory.charged.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
        self.memory.publish();
        self.memory.changed();
    }

    /// How much it is.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.charged.fetch_sub(self.bytes, Ordering::Relaxed);
        self.memory.publish();
        self.memory.changed();
    }
}

/// What a load of `bytes` does next, where `charged` of `most` are.
fn step<V>(bytes: usize, charged: usize, most: usize, residents: &[Resident<V>]) -> Step {
    if charged.saturating_add(bytes) <= most {
        return Step::Go;
    }
    let sum = |of: &dyn Fn(&Resident<V>) -> bool| -> usize {
        let found = residents.iter().filter(|resident| of(resident));
        found.map(|resident| resident.bytes).sum()
    };
    // Looked at first: nothing is evicted for a model that has no room all the same.
    if sum(&|resident| resident.stays).saturating_add(bytes) > most {
        return Step::Refuse;
    }
    let settled = sum(&|_| true);
    let leaving = charged.saturating_sub(settled);
    let goes = residents
        .iter()
        .enumerate()
        .filter(|(_, resident)| !resident.stays && !resident.held);
    let oldest = goes.min_by_key(|(_, resident)| (resident.used_ms, &resident.model.name, resident.model.version));
    match oldest {
        // What was evicted before may be all that is needed.
        _ if leaving > 0 && settled.saturating_add(bytes) <= most => Step::Wait,
        Some((place, _)) => Step::Evict(place),
        None if leaving > 0 => Step::Wait,
        None => Step::Refuse,
    }
}

fn too_much<V>(model: &str, bytes: usize, most: usize, residents: &[Resident<V>]) -> ModelGatewayError {
    let mut stay: Vec<&Resident<V>> = residents
        .iter()
        .filter(|resident| (resident.stays || resident.held) && resident.bytes > 0)
        .collect();
    stay.sort_by_key(|resident| std::cmp::Reverse(resident.bytes));
    let total: usize = stay.iter().map(|resident| resident.bytes).sum();
    let named: Vec<String> = stay
        .iter()
        .take(NAMED)
        .map(|resident| format!("`{}` {}", resident.model, mebibytes(resident.bytes)))
        .collect();
    let more = stay.len().saturating_sub(NAMED);
    let held = match (named.as_slice(), more) {
        ([], _) => String::new(),
        (named, 0) => format!(", of which {} are taken by {}", mebibytes(total), named.join(", ")),
        (named, more) => format!(
            ", of which {} are taken by {} and {more} others",
            mebibytes(total),
            named.join(", ")
        ),
    };
    ModelGatewayError::ModelMemory {
        detail: format!(
            "`{model}` takes {}, and the models that must stay leave no room for it: `max_model_memory_mib` is {}{held}. \
             Raise it, lower `sessions`, take a version out of its model's routing, or unload one that is not needed \
             (POST /v2/repository/models/NAME/unload)",
            mebibytes(bytes),
            mebibytes(most),
        ),
    }
}

fn mebibytes(bytes: usize) -> String {
    let tenths = bytes.saturating_mul(10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name`, its size, and when it was used; in capitals what stays, with `!` what is held.
    fn residents(of: &[(&str, usize, u64)]) -> Vec<Resident<()>> {
        let resident = |(name, bytes, used_ms): &(&str, usize, u64)| Resident {
            version: (),
            model: VersionedName::new(*name, 1),
            bytes: *bytes,
            stays: name.chars().all(char::is_uppercase),
            held: name.ends_with('!'),
            used_ms: *used_ms,
        };
        of.iter().map(resident).collect()
    }

    fn check(bytes: usize, charged: usize, of: &[(&str, usize, u64)], expected: &Step) {
        assert_eq!(step(bytes, charged, 100, &residents(of)), *expected, "{of:?}");
    }

    #[test]
    fn the_version_that_was_used_longest_ago_goes() {
        check(40, 60, &[("a", 30, 2), ("b", 30, 1)], &Step::Go);
        check(41, 60, &[("a", 30, 2), ("b", 30, 1)], &Step::Evict(1));
    }

    #[test]
    fn what_stays_or_is_held_does_not_go() {
        check(50, 90, &[("S", 30, 1), ("h!", 30, 2), ("c", 30, 3)], &Step::Evict(2));
        check(50, 60, &[("S", 30, 1), ("h!", 30, 2)], &Step::Refuse);
    }

    #[test]
    fn nothing_goes_for_a_model_that_has_no_room_all_the_same() {
        check(80, 60, &[("S", 30, 1), ("c", 30, 3)], &Step::Refuse);
        check(101, 0, &[], &Step::Refuse);
    }

    #[test]
    fn what_is_about_to_leave_is_waited_for_before_more_goes() {
        // 50 are charged to what is no resident any more, or not yet.
        check(50, 80, &[("c", 30, 3)], &Step::Wait);
        check(80, 80, &[("c", 30, 3)], &Step::Evict(0));
        check(80, 50, &[], &Step::Wait);
    }

    #[tokio::test]
    async fn a_charge_ends_when_it_is_dropped_and_wakes_who_waits() {
        let memory = Memory::new(Some(100));
        let none = Vec::<Resident<()>>::new;
        let first = memory.reserve("a@1", 60, none, |()| true).await.unwrap();
        let waiting = {
            let memory = Arc::clone(&memory);
            tokio::spawn(async move { memory.reserve("b@1", 60, none, |()| true).await })
        };
        tokio::task::yield_now().await;
        drop(first);
        let mut second = waiting.await.unwrap().unwrap();
        second.settle(20);
        assert_eq!(memory.charged.load(Ordering::Relaxed), 20);
    }

    #[test]
    fn a_refusal_names_the_models_their_sizes_and_the_remedy() {
        let of = residents(&[("A", 3 << 20, 1), ("B", 5 << 20, 1), ("c", 9 << 20, 1)]);
        let error = too_much("new@2", 4 << 20, 10 << 20, &of).to_string();
        assert!(
            error.contains("`new@2` takes 4.0 MiB")
                && error.contains(
                    "`max_model_memory_mib` is 10.0 MiB, of which 8.0 MiB are taken by `B@1` 5.0 MiB, `A@1` 3.0 MiB."
                )
                && error.contains("Raise it"),
            "{error}"
        );
    }
}
