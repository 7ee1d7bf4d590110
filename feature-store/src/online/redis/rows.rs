//! Stored rows, by `MGET`.

use super::gathering::{Gathering, Keys, Source};
use super::link::{Link, failed};
use bytes::Bytes;
use ondol_feature_store_api::FeatureStoreError;
use redis::Cmd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that a command's name and the length of an argument take, at most.
const FRAME_BYTES: usize = 24;

/// Reads rows.
pub(super) enum Rows {
    /// Of one server, those that are asked for at the same time in one command.
    Server(Gathering<Commands>),
    /// Of a cluster. Its client splits a command by slots and waits for all parts: reads in one command would all wait for
    /// the slowest node, and fail with any.
    Cluster(Commands),
}

/// Sends the commands.
pub(super) struct Commands {
    link: Link,
    address: String,
    /// How many commands have failed.
    failures: Arc<AtomicU64>,
}

impl Rows {
    /// From the server or cluster that `link` leads to; commands that fail are counted in `failures`.
    pub(super) fn new(link: Link, address: &str, failures: Arc<AtomicU64>) -> Self {
        let is_cluster = matches!(link, Link::Cluster(_));
        let commands = Commands {
            link,
            address: address.to_owned(),
            failures,
        };
        if is_cluster {
            Self::Cluster(commands)
        } else {
            Self::Server(Gathering::new(commands))
        }
    }

    /// The stored rows of `keys`, at most as many as one command takes.
    pub(super) async fn get(&self, keys: Keys) -> Result<Vec<Option<Bytes>>, FeatureStoreError> {
        match self {
            Self::Server(reads) => reads.get(keys).await,
            Self::Cluster(commands) => commands.get(&[&keys]).await,
        }
    }
}

impl Source for Commands {
    async fn get(&self, keys: &[&Keys]) -> Result<Vec<Option<Bytes>>, FeatureStoreError> {
        let count: usize = keys.iter().map(|keys| keys.len()).sum();
        let bytes: usize = keys.iter().flat_map(|keys| keys.iter()).map(<[u8]>::len).sum();
        let mut command = Cmd::with_capacity(1 + count, bytes + (1 + count) * FRAME_BYTES);
        command.arg("MGET");
        for key in keys.iter().flat_map(|keys| keys.iter()) {
            command.arg(key);
        }
        let stored: Result<Vec<Option<Vec<u8>>>, _> = self.link.query(&command).await;
        let stored = stored.map_err(|error| {
            self.failures.fetch_add(1, Ordering::Release);
            failed(&self.address, &error)
        })?;
        if stored.len() != count {
            let detail = format!("redis at {} answered {} of {count} rows", self.address, stored.len());
            return Err(FeatureStoreError::Internal { detail });
        }
        Ok(stored.into_iter().map(|row| row.map(Bytes::from)).collect())
    }
}
