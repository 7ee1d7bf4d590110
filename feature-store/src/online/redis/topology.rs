//! Who serves which slots, and who that is: the primaries of a cluster (or the one server), their histories, and a
//! key on each that can hold a mark.
//!
//! A server names its history by its replication id. It draws a new one when it starts, and when it is promoted; so a
//! set of replication ids never comes back, even when a failover is taken back. Benign events change it too (the first
//! replica ever attached): then nothing is missing, as the marks tell.

use super::super::Life;
use super::link::{Link, Node, failed};
use ondol_feature_store_api::FeatureStoreError;
use redis::cmd;
use std::collections::HashMap;
use std::ops::RangeInclusive;

/// Slots of a cluster.
const SLOTS: u16 = 16_384;

/// A server that takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Primary {
    /// Where it is.
    pub(super) node: Node,
    /// The slots it serves; none for a single server.
    slots: Vec<RangeInclusive<u16>>,
}

impl Primary {
    /// Names the shard: the tag of a key that lives on it.
    pub(super) fn shard(&self) -> String {
        let serves = |slot: u16| self.slots.is_empty() || self.slots.iter().any(|range| range.contains(&slot));
        // A shard without a single one of these slots is none that a cluster ends up with; the first tag is as good then.
        let tag = (0..u32::from(SLOTS) * 4).find(|tag| serves(slot_of(tag.to_string().as_bytes())));
        tag.unwrap_or(0).to_string()
    }
}

/// The servers that take writes, all slots between them.
pub(super) async fn primaries(link: &Link, address: &str) -> Result<Vec<Primary>, FeatureStoreError> {
    if matches!(link, Link::Server(_)) {
        return Ok(vec![Primary {
            node: None,
            slots: Vec::new(),
        }]);
    }
    let mut command = cmd("CLUSTER");
    command.arg("NODES");
    let table: String = link
        .query_at(&None, &command)
        .await
        .map_err(|error| failed(address, &error))?;
    let primaries = parse(&table);
    let served: usize = primaries
        .iter()
        .flat_map(|primary| &primary.slots)
        .map(|range| range.clone().count())
        .sum();
    if served != usize::from(SLOTS) {
        return Err(FeatureStoreError::Unavailable {
            detail: format!("the redis cluster at {address} serves {served} of {SLOTS} slots"),
        });
    }
    Ok(primaries)
}

/// The life of the servers that take writes.
pub(super) async fn life(link: &Link, address: &str, primaries: &[Primary]) -> Result<Life, FeatureStoreError> {
    let mut command = cmd("INFO");
    command.arg("replication");
    let asked = primaries.iter().map(|primary| async {
        let text: Result<String, _> = link.query_at(&primary.node, &command).await;
        text.map_err(|error| failed(address, &error))
    });
    let mut ids = Vec::with_capacity(primaries.len());
    for text in futures::future::try_join_all(asked).await? {
        let told: HashMap<&str, &str> = text.lines().filter_map(|line| line.trim().split_once(':')).collect();
        match (told.get("role"), told.get("master_replid")) {
            (Some(&"master"), Some(id)) => ids.push((*id).to_owned()),
            _ => {
                return Err(FeatureStoreError::Unavailable {
                    detail: format!("a server of redis at {address} is no primary at the moment"),
                });
            }
        }
    }
    ids.sort_unstable();
    Ok(Life(ids.join(",").into()))
}

/// The lines of `CLUSTER NODES` that serve slots: `id address flags primary ping pong epoch link slot…`. A node that
/// failed goes on serving its slots until a replica has them: commands to it fail, and that is what callers must see.
fn parse(table: &str) -> Vec<Primary> {
    let primary = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = fields.get(1)?.split(['@', ',']).next()?;
        let is_primary = fields.get(2)?.split(',').any(|flag| flag == "master");
        let (host, port) = address.rsplit_once(':')?;
        let slots: Vec<RangeInclusive<u16>> = fields.get(8..)?.iter().filter_map(|range| slots(range)).collect();
        (is_primary && !slots.is_empty()).then_some(())?;
        Some(Primary {
            node: Some((host.to_owned(), port.parse().ok()?)),
            slots,
        })
    };
    table.lines().filter_map(primary).collect()
}

/// `0-5460` or `7`; a slot in brackets is on its way and counted where it is served.
fn slots(text: &str) -> Option<RangeInclusive<u16>> {
    match text.split_once('-') {
        Some((from, to)) => Some(from.parse().ok()?..=to.parse().ok()?),
        None => text.parse().ok().map(|slot: u16| slot..=slot),
    }
}

/// The slot of a key's hash tag: CRC-16 of the XMODEM kind, as the cluster specification says.
fn slot_of(tag: &[u8]) -> u16 {
    let crc = tag.iter().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            }
        })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(slot_of(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"foo"), 12_182);
    }

    #[test]
    fn a_shard_is_named_by_a_key_that_lives_on_it() {
        let primary = Primary {
            node: None,
            slots: vec![12_182..=12_182, 100..=5_000],
        };
        let slot = slot_of(primary.shard().as_bytes());
        assert!(primary.slots.iter().any(|range| range.contains(&slot)));
    }

    #[test]
    fn only_nodes_that_serve_slots_are_primaries() {
        let table = "\
a1 127.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-5460 [93->-c3]
b1 127.0.0.1:7001@17001,host master,fail? - 0 0 2 disconnected 5461-10922 16383
c1 127.0.0.1:7002@17002 master,fail - 0 0 3 disconnected
d1 127.0.0.1:7003@17003 slave a1 0 0 1 connected
";
        let found = parse(table);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].node, Some(("127.0.0.1".to_owned(), 7001)));
        assert_eq!(found[1].slots, [5461..=10922, 16383..=16383]);
    }
}
