//! Bytes of an online row: ours, in Redis and embedded, against a Redis hash with a field per feature.
//!
//! The hash is the least that serves the same features: a field per feature, named as the feature, its value as text;
//! and once more with short names (`0` to `49`) and 8-byte values, which is as small as a hash gets. It holds the
//! values of one moment: it can't age a window without an event, take a late one, or tell a duplicate. A row keeps the
//! partial states of every tile that a window may still need, so it grows with the number of tiles that have events.

use crate::payments::{Payments, SOURCE, card, eight_features, windows};
use crate::redis_server::RedisServer;
use crate::report::{Report, Row};
use crate::store::Store;
use anyhow::{Context as _, Result};
use arrow::util::display::array_value_to_string;
use ondol_feature_store_api::FeatureStore as _;
use ondol_feature_store_api::wire::{DefinitionFiles, EntityColumn, FeatureBatch, ReadRequest};
use ondol_vocabulary::{EventTime, FeatureRef, Value};
use redb::{Database, ReadableDatabase as _, ReadableTableMetadata as _, TableDefinition};

const DAY_US: i64 = 86_400_000_000;
const ROWS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("rows.1");
/// Entities of one read.
const READ: u32 = 500;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Keys.
    #[arg(long, default_value_t = 5_000)]
    keys: u32,
    /// Events of each key on average, over 7 days; a row of results for each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100, 1_000])]
    events: Vec<u64>,
}

/// Runs it.
pub(crate) async fn run(args: &Args) -> Result<Report> {
    let parameters = Row::default().with("keys", args.keys).with("days", 7);
    let mut report = Report::new("bytes-per-key", parameters);
    let redis = RedisServer::start().await?;
    for features in [8, 50] {
        for &events in &args.events {
            report.row(weigh(args, &redis, features, events).await?);
            redis.clear().await?;
        }
    }
    report.note("row_bytes: the stored value; redis_*: MEMORY USAGE of a key, its name and overhead included");
    report.note("embedded_bytes: the file's stored bytes with their pages' overhead, per key");
    Ok(report)
}

async fn weigh(args: &Args, redis: &RedisServer, features: usize, events: u64) -> Result<Row> {
    let definitions = || -> Result<DefinitionFiles> {
        if features == 8 {
            Ok(eight_features("payments"))
        } else {
            windows(features)
        }
    };
    let count = events * u64::from(args.keys);
    let now = EventTime::now().micros();
    let payments = || Payments::new(count, args.keys, 1_000, now - 7 * DAY_US, now - 1_000_000);

    let folder = tempfile::tempdir()?;
    let embedded = Store::open(&folder.path().join("store"), None).await?;
    embedded.apply(definitions()?).await?;
    embedded.fill(payments(), count).await?;
    let held = embedded.service.online().scan(view_id(&embedded).await?).await?;
    let row_bytes = held.iter().map(|(_, row)| row.len()).sum::<usize>() as f64 / held.len() as f64;
    embedded.close().await?;
    let database = Database::open(folder.path().join("store/online.redb"))?;
    let stats = database.begin_read()?.open_table(ROWS)?.stats()?;
    let file_bytes = stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes();

    let store = Store::open(&folder.path().join("redis"), Some(&redis.url)).await?;
    store.apply(definitions()?).await?;
    store.fill(payments(), count).await?;
    let pattern = format!("{}:{{*}}:*", store.config.online_prefix);
    let redis_row = redis.bytes_per_key(&pattern).await?;
    for first in (0..args.keys).step_by(READ as usize) {
        let batch = read(&store, first..(first + READ).min(args.keys)).await?;
        write_hashes(redis, &batch, first).await?;
    }
    let text = redis.bytes_per_key("hash:text:*").await?;
    let short = redis.bytes_per_key("hash:short:*").await?;
    store.close().await?;
    Ok(Row::default()
        .with("features", features)
        .with("events_per_key", events)
        .figure("row_bytes", row_bytes)
        .figure("embedded_bytes", file_bytes as f64 / held.len() as f64)
        .figure("redis_row", redis_row)
        .figure("redis_hash", text)
        .figure("redis_hash_short", short)
        .figure("ratio", redis_row / text)
        .figure("ratio_short", redis_row / short))
}

async fn view_id(store: &Store) -> Result<u32> {
    let snapshot = store.service.snapshot().await?;
    let _source = snapshot.source(SOURCE).context("no source")?;
    Ok(snapshot.active_view("card").context("no view")?.id)
}

async fn read(store: &Store, cards: std::ops::Range<u32>) -> Result<FeatureBatch> {
    let snapshot = store.service.snapshot().await?;
    let view = snapshot.active_view("card").context("no view")?;
    let features = view.definition.features.iter();
    let request = ReadRequest {
        features: features
            .map(|feature| FeatureRef::new("card", &*feature.name))
            .collect(),
        entities: vec![EntityColumn {
            name: "card".to_owned(),
            values: cards.map(|number| Value::String(card(number))).collect(),
        }],
        as_of: None,
    };
    Ok(store.service.read(request).await?)
}

/// The same features as hashes, one with names and text, one as small as it gets.
async fn write_hashes(redis: &RedisServer, batch: &FeatureBatch, first: u32) -> Result<()> {
    let mut commands = redis::pipe();
    for row in 0..batch.rows {
        let card = card(first + u32::try_from(row)?);
        let (mut text, mut short) = (redis::cmd("HSET"), redis::cmd("HSET"));
        text.arg(format!("hash:text:{card}"));
        short.arg(format!("hash:short:{card}"));
        let mut fields = 0;
        for (place, (feature, column)) in batch.named().enumerate() {
            if !column.values.is_valid(row) {
                continue;
            }
            let value = array_value_to_string(&column.values, row)?;
            short
                .arg(place.to_string())
                .arg(value.parse::<f64>()?.to_le_bytes().as_slice());
            text.arg(feature.to_string()).arg(value);
            fields += 1;
        }
        if fields > 0 {
            commands.add_command(text).ignore();
            commands.add_command(short).ignore();
        }
    }
    redis.send(&commands).await
}
