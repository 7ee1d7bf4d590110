//! What is read: an event log or tables, and a spine.

use super::job::definitions;
use super::{Args, Work};
use crate::payments::{Payments, SOURCE, card, delivery};
use anyhow::{Context as _, Result};
use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use ondol_feature_store::offline::{EventLog, EventLogConfig};
use ondol_feature_store_api::wire::Delivery;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

const DAY_US: i64 = 86_400_000_000;
/// 2026-01-01T00:00:00Z.
const START_US: i64 = 1_767_225_600_000_000;
/// Events of one commit of the log.
const COMMIT_ROWS: u64 = 250_000;
/// Rows of a row group of the tables: what DuckDB writes.
const GROUP_ROWS: usize = 122_880;

/// The tables, each with its key, the columns of which the spine has too.
pub(super) const TABLES: [(&str, &str); 3] = [("users", "user"), ("merchants", "merchant"), ("countries", "country")];

/// Writes what `work` reads.
pub(super) async fn write(work: Work, args: &Args, folder: &Path) -> Result<()> {
    match work {
        Work::Windows => {
            write_log(args, folder).await?;
            let mut random = StdRng::seed_from_u64(11);
            let cards = (0..args.spine).map(|_| card(random.random_range(0..args.cards)));
            let cards = StringArray::from_iter_values(cards);
            write_spine(args, folder, vec![("card", Arc::new(cards))])
        }
        Work::Latest => {
            let (mut rows, mut entities) = (args.events, args.cards);
            let mut random = StdRng::seed_from_u64(13);
            let mut keys: Vec<(&str, ArrayRef)> = Vec::new();
            for (table, key) in TABLES {
                write_table(args, &folder.join(format!("{table}.parquet")), key, rows, entities)?;
                let ids = (0..args.spine).map(|_| i64::from(random.random_range(0..entities)));
                keys.push((key, Arc::new(Int64Array::from_iter_values(ids))));
                (rows, entities) = ((rows / 10).max(1), (entities / 10).max(1));
            }
            write_spine(args, folder, keys)
        }
    }
}

/// The log, by the store's own code.
async fn write_log(args: &Args, folder: &Path) -> Result<()> {
    let snapshot = definitions(Work::Windows, folder)?;
    let source = snapshot.sources.first().context("no source")?.definition.clone();
    let root = folder.join("offline").display().to_string();
    let log = EventLog::open(
        &root,
        EventLogConfig {
            max_buffered_rows: usize::MAX,
            ..EventLogConfig::default()
        },
    )?;
    let mut payments = Payments::new(args.events, args.cards, 1_000, START_US, START_US + args.days * DAY_US);
    let mut left = args.events;
    while left > 0 {
        let rows = left.min(COMMIT_ROWS);
        let batch: Vec<_> = (0..rows).map(|_| payments.next()).collect();
        let Delivery { header, events } = delivery(&source, &batch)?;
        log.append(&source, &header, &events).await?;
        log.commit(SOURCE).await?;
        left -= rows;
    }
    Ok(())
}

/// A table in order of time, as a history of changes is: a key and ten numbers.
fn write_table(args: &Args, path: &Path, key: &str, rows: u64, entities: u32) -> Result<()> {
    let mut random = StdRng::seed_from_u64(17 ^ rows);
    let step = args.days * DAY_US / i64::try_from(rows)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build();
    let mut writer: Option<ArrowWriter<File>> = None;
    let mut made = 0;
    while made < rows {
        let count = (rows - made).min(GROUP_ROWS as u64);
        let ids = (0..count).map(|_| i64::from(random.random_range(0..entities)));
        let ids = Int64Array::from_iter_values(ids);
        let times = (made..made + count).map(|row| START_US + row as i64 * step);
        let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
        let mut columns: Vec<(String, ArrayRef)> =
            vec![(key.to_owned(), Arc::new(ids)), ("ts".to_owned(), Arc::new(times))];
        for number in 0..10 {
            let column: ArrayRef = match number {
                8 => Arc::new(Int64Array::from_iter_values(
                    (0..count).map(|_| random.random_range(0..1_000_000)),
                )),
                9 => Arc::new(Int64Array::from_iter_values(
                    (0..count).map(|_| random.random_range(0..50)),
                )),
                _ => Arc::new(Float64Array::from_iter_values(
                    (0..count).map(|_| random.random::<f64>()),
                )),
            };
            columns.push((format!("f{number}"), column));
        }
        let batch = RecordBatch::try_from_iter(columns)?;
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(ArrowWriter::try_new(
                File::create(path)?,
                batch.schema(),
                Some(properties.clone()),
            )?),
        };
        writer.write(&batch)?;
        made += count;
    }
    writer.context("no rows")?.close()?;
    Ok(())
}

fn write_spine(args: &Args, folder: &Path, keys: Vec<(&str, ArrayRef)>) -> Result<()> {
    let mut random = StdRng::seed_from_u64(19);
    let (from, to) = (
        START_US + 7 * DAY_US.min(args.days * DAY_US / 8),
        START_US + args.days * DAY_US,
    );
    let times = (0..args.spine).map(|_| random.random_range(from..to));
    let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
    let labels: BooleanArray = (0..args.spine).map(|_| Some(random.random_ratio(1, 20))).collect();
    let rows: ArrayRef = Arc::new(Int64Array::from_iter_values((0..args.spine).map(i64::from)));
    let mut columns = vec![("row", rows)];
    columns.extend(keys);
    columns.extend([
        ("ts", Arc::new(times) as ArrayRef),
        ("label", Arc::new(labels) as ArrayRef),
    ]);
    write_parquet(&folder.join("spine.parquet"), &[RecordBatch::try_from_iter(columns)?])
}

pub(super) fn write_parquet(path: &Path, batches: &[RecordBatch]) -> Result<()> {
    let first = batches.first().context("no rows")?;
    let mut writer = ArrowWriter::try_new(File::create(path)?, first.schema(), None)?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.close()?;
    Ok(())
}
