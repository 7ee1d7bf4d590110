//! Online reads of 50 features in three views (24 windows, 16 latest-row values, 10 windows of a second entity).
//!
//! The floor is a raw multi-get of the same keys that copies the same bytes: redb on a copy of the store's own file, one
//! `MGET` on a connection of its own in Redis. Over HTTP the floor is that plus one round trip that does nothing. Floor
//! and read take turns, a block each, so that a busy neighbour slows both.

use crate::http::Server;
use crate::measure::{Samples, median};
use crate::payments::{Payments, card, fifty_features, merchant};
use crate::report::{Report, Row};
use crate::store::{Store, redis_url};
use anyhow::{Context as _, Result, ensure};
use ondol_feature_store::online::RowKey;
use ondol_feature_store_api::wire::{EntityColumn, ReadRequest};
use ondol_feature_store_api::{FeatureStore, FeatureStoreClient};
use ondol_vocabulary::{EntityKey, EventTime, FeatureRef, Snapshot, Value};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use redb::{Database, ReadableDatabase as _, TableDefinition};
use redis::aio::MultiplexedConnection;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const DAY_US: i64 = 86_400_000_000;
/// The embedded store's table: see `ondol_feature_store::online::embedded`.
const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows.1");
/// Different requests of one size, asked in turn.
const REQUESTS: usize = 64;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Payments in the store, over the last 7 days.
    #[arg(long, default_value_t = 200_000)]
    events: u64,
    /// Cards: each has events / cards payments.
    #[arg(long, default_value_t = 4_000)]
    cards: u32,
    /// Merchants.
    #[arg(long, default_value_t = 1_000)]
    merchants: u32,
    /// Blocks of the floor and of reads, by turns; results are the medians over blocks.
    #[arg(long, default_value_t = 7)]
    repetitions: usize,
    /// Reads of one entity in a block; a tenth of it for 10 and for 100 entities, a hundredth for the latter over HTTP.
    #[arg(long, default_value_t = 4_000)]
    reads: usize,
    /// Leave Redis out.
    #[arg(long)]
    no_redis: bool,
}

/// Runs it.
pub(crate) async fn run(args: &Args) -> Result<Report> {
    let parameters = Row::default()
        .with("features", 50)
        .with("views", 3)
        .with("events", args.events)
        .with("cards", args.cards)
        .with("merchants", args.merchants)
        .with("repetitions", args.repetitions)
        .with("reads_per_repetition", args.reads);
    let mut report = Report::new("online-read", parameters);
    measure(args, None, &mut report).await?;
    if !args.no_redis {
        measure(args, Some(&redis_url()?), &mut report).await?;
    }
    report.note("times in µs, medians over repetitions; ratio = read / floor of the same repetition");
    report.note("in process: floor = raw multi-get of the same rows; http: the same plus one empty round trip");
    Ok(report)
}

async fn measure(args: &Args, redis: Option<&str>, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = Store::open(&folder.path().join("store"), redis).await?;
    let snapshot = store.apply(fifty_features("bench")?).await?;
    let now = EventTime::now().micros();
    let payments = Payments::new(
        args.events,
        args.cards,
        args.merchants,
        now - 7 * DAY_US,
        now - 1_000_000,
    );
    store.fill(payments, args.events).await?;
    let life = store.service.online().life().await?;
    store.service.online().sync(&life).await?;

    let floor = match redis {
        Some(url) => {
            let client = redis::Client::open(with_nodelay(url)?)?;
            Floor::Redis(
                client.get_multiplexed_async_connection().await?,
                store.config.online_prefix.clone(),
            )
        }
        None => {
            // A file is owned by one database at a time: the floor reads a copy of it.
            let (own, copy) = (folder.path().join("store/online.redb"), folder.path().join("copy.redb"));
            std::fs::copy(own, &copy)?;
            let cache = store.config.online_cache_mib << 20;
            Floor::Embedded(Arc::new(Database::builder().set_cache_size(cache).open(copy)?))
        }
    };
    let name = if redis.is_some() { "redis" } else { "embedded" };
    let local: Arc<dyn FeatureStore> = Arc::clone(&store.service) as _;
    let server = Server::start(
        "feature-store",
        ondol_feature_store_api::server::router(Arc::clone(&local)),
        ondol_feature_store_api::server::openapi(),
    )
    .await?;
    let remote: Arc<dyn FeatureStore> = Arc::new(FeatureStoreClient::new(server.url.clone())?);

    for (entities, share) in [(1, 1), (10, 10), (100, 10)] {
        let workload = Workload::new(&snapshot, args, entities)?;
        let reads = (args.reads / share).max(10);
        let case = Case {
            name,
            workload: &workload,
            floor: &floor,
            repetitions: args.repetitions,
        };
        report.row(case.compare("in process", local.as_ref(), None, reads).await?);
        if entities != 10 {
            let reads = (args.reads / share / share).max(10);
            report.row(case.compare("http", remote.as_ref(), Some(&server), reads).await?);
        }
    }
    server.stop().await?;
    drop((local, floor));
    store.close().await
}

fn with_nodelay(url: &str) -> Result<redis::ConnectionInfo> {
    use redis::IntoConnectionInfo as _;
    let info = url.into_connection_info()?;
    Ok(info.set_tcp_settings(redis::io::tcp::TcpSettings::default().set_nodelay(true)))
}

/// Requests of one size, and the keys of the rows each needs.
struct Workload {
    entities: usize,
    requests: Vec<(ReadRequest, Vec<RowKey>)>,
}

impl Workload {
    fn new(snapshot: &Snapshot, args: &Args, entities: usize) -> Result<Self> {
        let view = |name: &str| snapshot.active_view(name).with_context(|| format!("no view {name}"));
        let views = [
            (view("card")?, true),
            (view("latest")?, true),
            (view("merchant")?, false),
        ];
        let mut features = Vec::new();
        for (version, _) in &views {
            let definition = &version.definition;
            let of_view = definition
                .features
                .iter()
                .map(|feature| FeatureRef::new(&*definition.name, &*feature.name));
            features.extend(of_view);
        }
        ensure!(features.len() == 50, "{} features, not 50", features.len());
        let features: Arc<[FeatureRef]> = features.into();
        let mut random = StdRng::seed_from_u64(entities as u64);
        let mut requests = Vec::with_capacity(REQUESTS);
        for _ in 0..REQUESTS {
            let mut column = |of: fn(u32) -> String, count: u32| -> Vec<Value> {
                (0..entities)
                    .map(|_| Value::String(of(random.random_range(0..count))))
                    .collect()
            };
            let (cards, merchants) = (column(card, args.cards), column(merchant, args.merchants));
            let mut keys = Vec::with_capacity(3 * entities);
            for (version, of_card) in &views {
                for value in if *of_card { &cards } else { &merchants } {
                    let key = EntityKey::from_values([value])?.context("a null key")?;
                    keys.push(RowKey::new(version.id, key));
                }
            }
            let entities = vec![
                EntityColumn {
                    name: "card".to_owned(),
                    values: cards,
                },
                EntityColumn {
                    name: "merchant".to_owned(),
                    values: merchants,
                },
            ];
            requests.push((
                ReadRequest {
                    features: features.clone(),
                    entities,
                    as_of: None,
                },
                keys,
            ));
        }
        Ok(Self { entities, requests })
    }
}

/// The least that could answer: the bytes, in one round trip.
enum Floor {
    Embedded(Arc<Database>),
    Redis(MultiplexedConnection, String),
}

impl Floor {
    /// The keys in the store's form.
    fn encode(&self, keys: &[RowKey]) -> Vec<Vec<u8>> {
        let key = |key: &RowKey| match self {
            Self::Embedded(_) => key.embedded(),
            Self::Redis(_, prefix) => key.redis(prefix),
        };
        keys.iter().map(key).collect()
    }

    /// The values of `keys`.
    async fn get(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>> {
        match self {
            Self::Embedded(database) => {
                let rows = database.begin_read()?.open_table(ROWS)?;
                let get = |key: &Vec<u8>| Ok(rows.get(key.as_slice())?.map(|value| value.value().to_vec()));
                keys.iter().map(get).collect()
            }
            Self::Redis(connection, _) => {
                let mut command = redis::cmd("MGET");
                command.arg(keys);
                Ok(command.query_async(&mut connection.clone()).await?)
            }
        }
    }
}

struct Case<'a> {
    name: &'static str,
    workload: &'a Workload,
    floor: &'a Floor,
    repetitions: usize,
}

impl Case<'_> {
    /// Floor and reads by turns.
    async fn compare(&self, way: &str, store: &dyn FeatureStore, http: Option<&Server>, reads: usize) -> Result<Row> {
        let empty = http.map(Server::empty);
        let keys: Vec<Vec<Vec<u8>>> = self
            .workload
            .requests
            .iter()
            .map(|(_, keys)| self.floor.encode(keys))
            .collect();
        let mut bytes = 0;
        for keys in &keys {
            for value in self.floor.get(keys).await? {
                bytes += value.context("an entity has no row: use more events")?.len();
            }
        }
        let rows = keys.iter().map(Vec::len).sum::<usize>();
        let mut blocks = Vec::with_capacity(self.repetitions);
        // One block more than counts: the first warms caches, plans and connections.
        for block in 0..=self.repetitions {
            let (mut floor, mut trip, mut read) = (Samples::new()?, Samples::new()?, Samples::new()?);
            for turn in 0..reads {
                let begun = Instant::now();
                black_box(self.floor.get(&keys[turn % keys.len()]).await?);
                floor.add(begun.elapsed());
            }
            if let Some(empty) = &empty {
                for _ in 0..reads {
                    let begun = Instant::now();
                    empty.call().await?;
                    trip.add(begun.elapsed());
                }
            }
            for turn in 0..reads {
                let request = self.workload.requests[turn % keys.len()].0.clone();
                let begun = Instant::now();
                black_box(store.read(request).await?);
                read.add(begun.elapsed());
            }
            if block > 0 {
                blocks.push((floor, trip, read));
            }
        }
        let over = |of: fn(&Samples) -> f64, floor: &Samples, trip: &Samples| {
            of(floor) + if http.is_some() { of(trip) } else { 0.0 }
        };
        let mid = |of: &dyn Fn(&(Samples, Samples, Samples)) -> f64| median(blocks.iter().map(of));
        let mut row = Row::default()
            .with("store", self.name)
            .with("way", way)
            .with("entities", self.workload.entities)
            .figure(
                "p50_ratio",
                mid(&|(floor, trip, read)| read.p50() / over(Samples::p50, floor, trip)),
            )
            .figure(
                "p99_ratio",
                mid(&|(floor, trip, read)| read.p99() / over(Samples::p99, floor, trip)),
            )
            .figure("read_p50_us", mid(&|(_, _, read)| read.p50()))
            .figure("read_p99_us", mid(&|(_, _, read)| read.p99()))
            .figure("floor_p50_us", mid(&|(floor, ..)| floor.p50()))
            .figure("floor_p99_us", mid(&|(floor, ..)| floor.p99()));
        if http.is_some() {
            row = row
                .figure("trip_p50_us", mid(&|(_, trip, _)| trip.p50()))
                .figure("trip_p99_us", mid(&|(_, trip, _)| trip.p99()));
        }
        Ok(row.with("bytes_per_row", bytes / rows.max(1)))
    }
}
