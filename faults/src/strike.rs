//! Carrying out a fault: it begins, lasts, and is healed.

use crate::estate::{Estate, SESSION};
use crate::fault::{Fault, Kind};
use crate::redis::{NODE_TIMEOUT, Node};
use crate::target::{Held, Target};
use crate::{topic, views};
use anyhow::{Context as _, Result};
use ondol_feature_store_api::FeatureStore;
use ondol_feature_store_api::wire::RebuildRequest;
use ondol_testkit::proxy::Proxy;
use std::time::{Duration, Instant};

/// How long a process may take to end as told.
const PATIENCE: Duration = Duration::from_secs(45);

/// What was done.
#[derive(Clone, Debug)]
pub(crate) struct Struck {
    /// What was struck.
    pub(crate) target: String,
    /// What else is worth knowing.
    pub(crate) note: String,
    pub(crate) begun: Instant,
}

impl Struck {
    fn at(target: &str) -> Self {
        Self {
            target: target.to_owned(),
            note: String::new(),
            begun: Instant::now(),
        }
    }
}

/// Carries out `fault` and heals it.
pub(crate) async fn strike(estate: &Estate, fault: &Fault) -> Result<Struck> {
    let Fault { kind, dice, hold, .. } = *fault;
    match kind {
        Kind::WorkerKilled => kill(worker(estate, dice)?, hold).await,
        Kind::WorkerLeaves => leave(worker(estate, dice)?, hold).await,
        Kind::WorkerJoins => join(estate, dice, hold).await,
        Kind::WorkerZombie => pause(worker(estate, dice)?, hold.max(SESSION * 3 / 2)).await,
        Kind::StoreKilled => kill(pick(&estate.stores, dice)?, hold).await,
        Kind::StoreLeaves => leave(pick(&estate.stores, dice)?, hold).await,
        Kind::StoreZombie => store_zombie(estate, dice, hold).await,
        Kind::KafkaLeaderKilled => {
            let _turn = estate.broker_turn.lock().await;
            kill(leader(estate, dice)?, hold).await
        }
        Kind::KafkaLeaderPaused => {
            let _turn = estate.broker_turn.lock().await;
            pause(leader(estate, dice)?, hold).await
        }
        Kind::RedisKilled | Kind::RedisFailover | Kind::RedisPaused => redis(estate, kind, dice, hold).await,
        Kind::RedisLosesWrites => lose_writes(estate, dice, hold).await,
        Kind::RowsRebuilt => rebuild(estate, dice, hold).await,
        Kind::StoreCut | Kind::StoreStalled => {
            let workers: Vec<&Proxy> = estate.workers.iter().map(|worker| &worker.store_proxy).collect();
            disturb(&some(&workers, dice), kind == Kind::StoreStalled, hold).await
        }
        Kind::KafkaCut | Kind::KafkaStalled => {
            let proxies: Vec<&Proxy> = estate.kafka_proxies.iter().collect();
            disturb(&some(&proxies, dice), kind == Kind::KafkaStalled, hold).await
        }
        Kind::RedisCut | Kind::RedisStalled => {
            // In a cluster, replicas follow through these proxies too.
            let _turn = estate.redis.turn.lock().await;
            let proxies: Vec<&Proxy> = estate.redis_proxies.iter().collect();
            let struck = disturb(&some(&proxies, dice), kind == Kind::RedisStalled, hold).await?;
            estate.redis.wait_until_whole().await?;
            Ok(struck)
        }
        Kind::RegistryCut => disturb(&[&estate.registry_proxy], dice.is_multiple_of(2), hold).await,
        Kind::StoreDiskFull | Kind::WorkerDiskFull => fill(estate, kind, hold).await,
    }
}

async fn kill(target: &Target, hold: Duration) -> Result<Struck> {
    let mut held = target.hold().await;
    let struck = Struck::at(&target.name);
    held.kill()?;
    tokio::time::sleep(hold).await;
    held.start()?;
    Ok(struck)
}

async fn leave(target: &Target, hold: Duration) -> Result<Struck> {
    let mut held = target.hold().await;
    let mut struck = Struck::at(&target.name);
    struck.note = end(&mut held)?;
    tokio::time::sleep(hold).await;
    held.start()?;
    Ok(struck)
}

/// Ends a process as told; what there is to say of it.
fn end(held: &mut Held<'_>) -> Result<String> {
    if !held.is_running() {
        return Ok("it had ended already".to_owned());
    }
    let asked = Instant::now();
    let status = tokio::task::block_in_place(|| held.process.terminate(PATIENCE))?;
    let took = asked.elapsed().as_millis();
    held.kill()?;
    Ok(match status {
        None => format!("it did not end within {PATIENCE:?} and was killed"),
        Some(status) if status.success() => format!("ended in {took} ms"),
        Some(status) => format!("ended in {took} ms with {status}"),
    })
}

async fn join(estate: &Estate, dice: u32, hold: Duration) -> Result<Struck> {
    let spare: Vec<&Target> = estate
        .workers
        .iter()
        .filter(|worker| worker.is_spare)
        .map(|worker| &worker.target)
        .collect();
    let target = *pick(&spare, dice)?;
    let mut held = target.hold().await;
    let mut struck = Struck::at(&target.name);
    held.start()?;
    tokio::time::sleep(hold).await;
    struck.note = end(&mut held)?;
    Ok(struck)
}

async fn pause(target: &Target, hold: Duration) -> Result<Struck> {
    let mut held = target.hold().await;
    let struck = Struck::at(&target.name);
    // One that has ended by itself is started again by its watch.
    if held.is_running() {
        held.process.pause()?;
        tokio::time::sleep(hold).await;
        held.process.resume()?;
    }
    Ok(struck)
}

/// Pauses a replica; the load balancer notices, sends workers elsewhere, and may or may not close what is open.
async fn store_zombie(estate: &Estate, dice: u32, hold: Duration) -> Result<Struck> {
    let target = pick(&estate.stores, dice)?;
    let mut held = target.hold().await;
    let mut struck = Struck::at(&target.name);
    if !held.is_running() {
        return Ok(struck);
    }
    let closes = dice.is_multiple_of(2);
    let alone = estate.stores.len() == 1;
    held.process.pause()?;
    tokio::time::sleep(hold / 8).await;
    if !alone {
        struck.note = if closes {
            "connections closed"
        } else {
            "connections left open"
        }
        .to_owned();
        estate
            .workers
            .iter()
            .for_each(|worker| worker.store_proxy.take_out(target.port, closes));
    }
    tokio::time::sleep(hold * 7 / 8).await;
    held.process.resume()?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    estate
        .workers
        .iter()
        .for_each(|worker| worker.store_proxy.take_in(target.port));
    Ok(struck)
}

/// The broker that leads a partition.
fn leader(estate: &Estate, dice: u32) -> Result<&Target> {
    let partition = i32::try_from(dice % estate.partitions.unsigned_abs().max(1))?;
    let deadline = Instant::now() + Duration::from_secs(60);
    let leader = loop {
        let asked = tokio::task::block_in_place(|| topic::leader(&estate.kafka, &estate.topic, partition));
        match asked {
            Ok(leader) => break leader,
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(200))),
        }
    };
    let index = usize::try_from(leader - 1)?;
    estate.brokers.get(index).context("no such broker")
}

async fn redis(estate: &Estate, kind: Kind, dice: u32, hold: Duration) -> Result<Struck> {
    let _turn = estate.redis.turn.lock().await;
    let is_cluster = estate.redis.is_cluster;
    if kind == Kind::RedisFailover && is_cluster {
        let replicas = estate.redis.replicas().await;
        let node: &Node = pick(&replicas, dice)?;
        let mut struck = Struck::at(&node.target.name);
        node.command(&["CLUSTER", "FAILOVER"]).await?;
        struck.note = "takes its primary's place".to_owned();
        tokio::time::sleep(Duration::from_secs(1)).await;
        estate.redis.wait_until_whole().await?;
        return Ok(struck);
    }
    let primaries = estate.redis.primaries().await;
    let node: &Node = pick(&primaries, dice)?;
    // Half of the time, long enough for its replica to take its place.
    let long = is_cluster && dice.is_multiple_of(2);
    let hold = if long { hold + NODE_TIMEOUT * 2 } else { hold };
    let mut struck = match kind {
        Kind::RedisPaused => pause(&node.target, hold).await?,
        Kind::RedisFailover => leave(&node.target, hold).await?,
        _ => kill(&node.target, hold).await?,
    };
    estate.redis.wait_until_whole().await?;
    if is_cluster {
        let info = node.command(&["INFO", "replication"]).await?;
        let leads = info.contains("role:master");
        struck.note = if leads {
            "it leads again"
        } else {
            "its replica has taken its place"
        }
        .to_owned();
    }
    Ok(struck)
}

/// Holds a replica still while its primary goes on, kills the primary, and lets the replica take its place.
async fn lose_writes(estate: &Estate, dice: u32, hold: Duration) -> Result<Struck> {
    let _turn = estate.redis.turn.lock().await;
    let replicas = estate.redis.replicas().await;
    let replica: &Node = pick(&replicas, dice)?;
    let primary = estate.redis.primary_of(replica).await?;
    let mut primary_held = primary.target.hold().await;
    let mut replica_held = replica.target.hold().await;
    let mut struck = Struck::at(&primary.target.name);
    replica_held.process.pause()?;
    // What stands in the replica's own buffers it will still read; its link must end here.
    primary.command(&["CLIENT", "KILL", "TYPE", "replica"]).await.ok();
    tokio::time::sleep(hold).await;
    let acknowledged = primary.command(&["INFO", "replication"]).await.ok();
    primary_held.kill()?;
    replica_held.process.resume()?;
    drop(replica_held);
    let held = replica.command(&["INFO", "replication"]).await.ok();
    tokio::time::sleep(NODE_TIMEOUT * 3).await;
    primary_held.start()?;
    drop(primary_held);
    estate.redis.wait_until_whole().await?;
    let offset = |info: Option<String>, name: &str| -> Option<i64> {
        info?
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    };
    let offsets = offset(acknowledged, "master_repl_offset:").zip(offset(held, "slave_repl_offset:"));
    let behind = offsets.map_or_else(
        || "an unknown number of".to_owned(),
        |(acknowledged, held)| (acknowledged - held).to_string(),
    );
    struck.note = format!(
        "{} leads without the last {behind} bytes of commands",
        replica.target.name
    );
    Ok(struck)
}

/// Asks a replica to build a view's rows anew, and goes on without waiting for it.
async fn rebuild(estate: &Estate, dice: u32, hold: Duration) -> Result<Struck> {
    let views = views::all();
    let view = pick(&views, dice)?.name;
    let mut struck = Struck::at(&format!("view {view}"));
    let store = dice as usize % estate.stores.len().max(1);
    let request = RebuildRequest {
        names: vec![view.to_owned()],
    };
    // Refused while the replica or what it needs is down: then it was no rebuild.
    struck.note = match estate.store(store)?.rebuild(request).await {
        Ok(_) => "asked for",
        Err(_) => "refused",
    }
    .to_owned();
    tokio::time::sleep(hold).await;
    Ok(struck)
}

async fn disturb(proxies: &[&Proxy], stalls: bool, hold: Duration) -> Result<Struck> {
    // In one order for all, so that two faults never wait for each other.
    let mut turns = Vec::new();
    for proxy in proxies {
        turns.push(proxy.turn.lock().await);
    }
    let names: Vec<&str> = proxies.iter().map(|proxy| proxy.name.as_str()).collect();
    let mut struck = Struck::at(&names.join(", "));
    struck.note = if stalls { "stalled" } else { "cut" }.to_owned();
    for proxy in proxies {
        if stalls { proxy.stall() } else { proxy.cut() }
    }
    tokio::time::sleep(hold).await;
    proxies.iter().for_each(|proxy| proxy.mend());
    Ok(struck)
}

async fn fill(estate: &Estate, kind: Kind, hold: Duration) -> Result<Struck> {
    let _turn = estate.disk_turn.lock().await;
    let (name, disk) = match kind {
        Kind::StoreDiskFull => ("disk of the offline tables", &estate.store_disk),
        _ => ("disk of the workers", &estate.worker_disk),
    };
    let struck = Struck::at(name);
    tokio::task::block_in_place(|| disk.fill())?;
    tokio::time::sleep(hold).await;
    tokio::task::block_in_place(|| disk.free())?;
    Ok(struck)
}

fn worker(estate: &Estate, dice: u32) -> Result<&Target> {
    let workers: Vec<&Target> = estate
        .workers
        .iter()
        .filter(|worker| !worker.is_spare)
        .map(|worker| &worker.target)
        .collect();
    pick(&workers, dice).copied()
}

fn pick<T>(choice: &[T], dice: u32) -> Result<&T> {
    let index = dice as usize % choice.len().max(1);
    choice.get(index).context("there is nothing to strike")
}

/// All of them every third time, else one.
fn some<'a>(proxies: &[&'a Proxy], dice: u32) -> Vec<&'a Proxy> {
    if dice.is_multiple_of(3) {
        return proxies.to_vec();
    }
    pick(proxies, dice).map_or_else(|_| Vec::new(), |proxy| vec![*proxy])
}
