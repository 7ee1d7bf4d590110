//! The faults, and a plan of them: the same seed draws the same faults in the same order with the same pauses.

use clap::ValueEnum;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Serialize;
use std::time::Duration;

/// What can break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// An ingest worker: kill -9, started again.
    WorkerKilled,
    /// An ingest worker leaves as told (SIGTERM) and comes back: two rebalances.
    WorkerLeaves,
    /// One more ingest worker joins, and leaves: two rebalances.
    WorkerJoins,
    /// An ingest worker stands still until the group has given its partitions away, then writes on.
    WorkerZombie,
    /// A feature store replica: kill -9, started again.
    StoreKilled,
    /// A feature store replica ends as told and comes back.
    StoreLeaves,
    /// A feature store replica stands still while others serve, then writes on.
    StoreZombie,
    /// The broker that leads a partition: kill -9, started again.
    KafkaLeaderKilled,
    /// The broker that leads a partition stands still until another leads, then goes on.
    KafkaLeaderPaused,
    /// The Redis server, or a primary of the cluster: kill -9, started again (as the replica of its successor).
    RedisKilled,
    /// The Redis server restarts as told; in the cluster, a replica takes its primary's place as told.
    RedisFailover,
    /// The Redis server, or a primary, stands still (in the cluster until its replica leads), then goes on.
    RedisPaused,
    /// A primary of the cluster dies while its replica lags: what it had acknowledged meanwhile is lost with it.
    RedisLosesWrites,
    /// No fault but its remedy: a view's rows are built anew from the log while they serve.
    RowsRebuilt,
    /// Connections from a worker to the feature store are cut and refused.
    StoreCut,
    /// Bytes between a worker and the feature store are held back, then come all the same.
    StoreStalled,
    /// Connections from the workers to a broker are cut and refused.
    KafkaCut,
    /// Bytes between the workers and a broker are held back.
    KafkaStalled,
    /// Connections to Redis are cut and refused.
    RedisCut,
    /// Bytes to and from Redis are held back.
    RedisStalled,
    /// Connections to the registry's database are cut and refused.
    RegistryCut,
    /// The disk of the offline tables is full.
    StoreDiskFull,
    /// The disk of the workers' own folders is full.
    WorkerDiskFull,
}

/// How often each kind is in a deck, and how long it lasts, in milliseconds.
const DECK: [(Kind, usize, std::ops::Range<u64>); 23] = [
    (Kind::WorkerKilled, 3, 0..4_000),
    (Kind::WorkerLeaves, 1, 500..5_000),
    (Kind::WorkerJoins, 2, 4_000..12_000),
    (Kind::WorkerZombie, 3, 6_000..11_000),
    (Kind::StoreKilled, 3, 0..4_000),
    (Kind::StoreLeaves, 1, 0..3_000),
    (Kind::StoreZombie, 2, 3_000..10_000),
    (Kind::KafkaLeaderKilled, 2, 2_000..8_000),
    (Kind::KafkaLeaderPaused, 1, 4_000..12_000),
    (Kind::RedisKilled, 2, 0..6_000),
    (Kind::RedisFailover, 1, 0..1_000),
    (Kind::RedisPaused, 1, 1_000..7_000),
    (Kind::RedisLosesWrites, 2, 500..2_000),
    (Kind::RowsRebuilt, 1, 0..1_000),
    (Kind::StoreCut, 1, 0..4_000),
    (Kind::StoreStalled, 1, 1_000..8_000),
    (Kind::KafkaCut, 1, 0..6_000),
    (Kind::KafkaStalled, 1, 1_000..8_000),
    (Kind::RedisCut, 1, 0..4_000),
    (Kind::RedisStalled, 1, 500..5_000),
    (Kind::RegistryCut, 1, 1_000..6_000),
    (Kind::StoreDiskFull, 2, 1_500..8_000),
    (Kind::WorkerDiskFull, 1, 1_500..6_000),
];

/// One fault as planned.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Fault {
    /// Counts from 1.
    pub(crate) number: usize,
    pub(crate) kind: Kind,
    /// Picks what it strikes, and how, among what is there when it begins.
    pub(crate) dice: u32,
    /// How long it lasts.
    pub(crate) hold: Duration,
    /// How long after its beginning the next one may begin.
    pub(crate) gap: Duration,
}

impl Kind {
    /// A single server has its file written before it acknowledges: nothing can make it lose that but its disk.
    const fn is_for_single(self) -> bool {
        !matches!(self, Self::RedisLosesWrites)
    }
}

/// Draws `count` faults: decks that hold every kind (of `only`, unless that is empty), shuffled and dealt one after the
/// other.
pub(crate) fn plan(dice: &mut StdRng, count: usize, is_cluster: bool, only: &[Kind]) -> Vec<Fault> {
    let mut faults = Vec::with_capacity(count);
    let mut deck = Vec::new();
    while faults.len() < count {
        if deck.is_empty() {
            deck = DECK
                .iter()
                .filter(|(kind, ..)| is_cluster || kind.is_for_single())
                .filter(|(kind, ..)| only.is_empty() || only.contains(kind))
                .flat_map(|(kind, times, hold)| std::iter::repeat_n((*kind, hold.clone()), *times))
                .collect();
            deck.shuffle(dice);
        }
        let Some((kind, hold)) = deck.pop() else { break };
        faults.push(Fault {
            number: faults.len() + 1,
            kind,
            dice: dice.random(),
            hold: Duration::from_millis(dice.random_range(hold)),
            gap: Duration::from_millis(dice.random_range(200..6_000)),
        });
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::BTreeSet;

    #[test]
    fn a_deck_holds_every_kind() {
        let size = DECK.iter().map(|(_, times, _)| times).sum();
        let faults = plan(&mut StdRng::seed_from_u64(7), size, true, &[]);
        let kinds: BTreeSet<Kind> = faults.iter().map(|fault| fault.kind).collect();
        assert_eq!(kinds.len(), DECK.len());
    }

    #[test]
    fn one_seed_draws_one_plan() {
        let drawn = |seed| format!("{:?}", plan(&mut StdRng::seed_from_u64(seed), 50, false, &[]));
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
    }
}
