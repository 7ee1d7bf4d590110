//! Statistics as they are kept: a row for each source and event date in the ledger's database, and what they are of.
//!
//! The stored form of a date, version 1: `1`, the number of columns, and for each its name, its type's name and its
//! profile, each after its length. Numbers are `u32`, little-endian. A profile has a form of its own.

use super::changed::Known;
use super::reading::DayProfile;
use crate::error::JobError;
use ondol_transform::profile::ColumnProfile;
use ondol_vocabulary::{EventTime, Field};
use sqlx::{AnyPool, Row};
use std::collections::BTreeMap;

const VERSION: u8 = 1;

/// Dates written in one transaction.
const DATES_AT_ONCE: usize = 64;

/// The statistics of all sources. Clones share its connections.
#[derive(Clone)]
pub(crate) struct Kept {
    pool: AnyPool,
}

/// What statistics were last computed of.
#[derive(Clone, Debug)]
pub(crate) struct Computed {
    /// The table's identity.
    pub table: String,
    /// When.
    pub at: EventTime,
}

impl Kept {
    /// In the database of `pool`.
    pub(crate) async fn open(pool: AnyPool) -> Result<Self, JobError> {
        let bytes = match pool
            .acquire()
            .await
            .map_err(|cause| storage("open", &cause))?
            .backend_name()
        {
            "PostgreSQL" => "BYTEA",
            _ => "BLOB",
        };
        let tables = [
            format!(
                "CREATE TABLE IF NOT EXISTS pipelines_statistics (source TEXT NOT NULL, day BIGINT NOT NULL,
                 row_count BIGINT NOT NULL, profile {bytes} NOT NULL, PRIMARY KEY (source, day))"
            ),
            "CREATE TABLE IF NOT EXISTS pipelines_statistics_sources (source TEXT PRIMARY KEY, known TEXT NOT NULL,
             table_identity TEXT NOT NULL, computed_at BIGINT NOT NULL)"
                .to_owned(),
        ];
        for table in tables {
            // Two instances that start at once may both find that there is none; the second attempt finds one.
            let create = || sqlx::query(sqlx::AssertSqlSafe(table.clone())).execute(&pool);
            if create().await.is_err() {
                create().await.map_err(|cause| storage("open", &cause))?;
            }
        }
        Ok(Self { pool })
    }

    /// What the statistics of `source` are of; none if there are none, or ones that this version can't read.
    pub(super) async fn known(&self, source: &str) -> Result<Option<Known>, JobError> {
        let row = sqlx::query("SELECT known FROM pipelines_statistics_sources WHERE source = $1")
            .bind(source.to_owned())
            .fetch_optional(&self.pool)
            .await
            .map_err(|cause| storage("read", &cause))?;
        let Some(row) = row else { return Ok(None) };
        let text: String = row.try_get("known").map_err(|cause| storage("read", &cause))?;
        Ok(serde_json::from_str(&text)
            .inspect_err(|error| tracing::warn!(source, %error, "statistics are unreadable and computed anew"))
            .ok())
    }

    /// When and of what the statistics of `source` were computed.
    pub(crate) async fn computed(&self, source: &str) -> Result<Option<Computed>, JobError> {
        let row = sqlx::query("SELECT table_identity, computed_at FROM pipelines_statistics_sources WHERE source = $1")
            .bind(source.to_owned())
            .fetch_optional(&self.pool)
            .await
            .map_err(|cause| storage("read", &cause))?;
        let computed = |row: sqlx::any::AnyRow| {
            Ok(Computed {
                table: row.try_get("table_identity")?,
                at: EventTime::from_micros(row.try_get("computed_at")?),
            })
        };
        row.map(computed).transpose().map_err(|cause| storage("read", &cause))
    }

    /// Forgets everything of `source`.
    pub(super) async fn forget(&self, source: &str) -> Result<(), JobError> {
        for query in [
            "DELETE FROM pipelines_statistics_sources WHERE source = $1",
            "DELETE FROM pipelines_statistics WHERE source = $1",
        ] {
            sqlx::query(query)
                .bind(source.to_owned())
                .execute(&self.pool)
                .await
                .map_err(|cause| storage("forget", &cause))?;
        }
        Ok(())
    }

    /// Notes what the statistics of `source` are of, once they are all kept.
    pub(super) async fn note(&self, source: &str, known: &Known, table: &str, now: EventTime) -> Result<(), JobError> {
        let known = serde_json::to_string(known).map_err(JobError::internal)?;
        sqlx::query(
            "INSERT INTO pipelines_statistics_sources (source, known, table_identity, computed_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (source) DO UPDATE SET known = excluded.known, table_identity = excluded.table_identity,
                computed_at = excluded.computed_at",
        )
        .bind(source.to_owned())
        .bind(known)
        .bind(table.to_owned())
        .bind(now.micros())
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(|cause| storage("write", &cause))
    }

    /// Puts `days` in the place of what was kept of them, and of `gone`.
    pub(super) async fn replace(
        &self,
        source: &str,
        gone: Vec<i64>,
        days: BTreeMap<i64, DayProfile>,
    ) -> Result<(), JobError> {
        let mut changes: BTreeMap<i64, Option<DayProfile>> = gone.into_iter().map(|day| (day, None)).collect();
        changes.extend(days.into_iter().map(|(day, profile)| (day, Some(profile))));
        let changes: Vec<(i64, Option<DayProfile>)> = changes.into_iter().collect();
        for chunk in changes.chunks(DATES_AT_ONCE) {
            let mut transaction = self.pool.begin().await.map_err(|cause| storage("write", &cause))?;
            for (day, profile) in chunk {
                let query = match profile {
                    None => sqlx::query("DELETE FROM pipelines_statistics WHERE source = $1 AND day = $2")
                        .bind(source.to_owned())
                        .bind(*day),
                    Some(profile) => sqlx::query(
                        "INSERT INTO pipelines_statistics (source, day, row_count, profile) VALUES ($1, $2, $3, $4)
                         ON CONFLICT (source, day) DO UPDATE SET row_count = excluded.row_count, profile = excluded.profile",
                    )
                    .bind(source.to_owned())
                    .bind(*day)
                    .bind(i64::try_from(profile.rows).unwrap_or(i64::MAX))
                    .bind(encode(profile)),
                };
                query
                    .execute(&mut *transaction)
                    .await
                    .map_err(|cause| storage("write", &cause))?;
            }
            transaction.commit().await.map_err(|cause| storage("write", &cause))?;
        }
        Ok(())
    }

    /// The days of `source` in `[from, to)`, ascending.
    pub(crate) async fn days(&self, source: &str, from: i64, to: i64) -> Result<Vec<(i64, DayProfile)>, JobError> {
        let rows = sqlx::query(
            "SELECT day, row_count, profile FROM pipelines_statistics WHERE source = $1 AND day >= $2 AND day < $3
             ORDER BY day",
        )
        .bind(source.to_owned())
        .bind(from)
        .bind(to)
        .fetch_all(&self.pool)
        .await
        .map_err(|cause| storage("read", &cause))?;
        let read = |row: sqlx::any::AnyRow| -> Result<(i64, DayProfile), JobError> {
            let column = |cause: sqlx::Error| storage("read", &cause);
            let count: i64 = row.try_get("row_count").map_err(column)?;
            let bytes: Vec<u8> = row.try_get("profile").map_err(column)?;
            let profile = decode(u64::try_from(count).unwrap_or(0), &bytes).ok_or_else(|| {
                let cause = "they were written by another version: compute them again in full";
                JobError::storage(format!("can't read statistics of `{source}`"), cause)
            })?;
            Ok((row.try_get("day").map_err(column)?, profile))
        };
        rows.into_iter().map(read).collect()
    }
}

fn encode(day: &DayProfile) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    let number = |bytes: &mut Vec<u8>, number: usize| bytes.extend_from_slice(&(number as u32).to_le_bytes());
    number(&mut bytes, day.columns.len());
    for (field, profile) in &day.columns {
        let mut stored = Vec::new();
        profile.encode(&mut stored);
        for part in [field.name.as_bytes(), field.data_type.name().as_bytes(), &stored] {
            number(&mut bytes, part.len());
            bytes.extend_from_slice(part);
        }
    }
    bytes
}

fn decode(rows: u64, bytes: &[u8]) -> Option<DayProfile> {
    let (version, mut rest) = bytes.split_first()?;
    if *version != VERSION {
        return None;
    }
    let mut columns = Vec::new();
    for _ in 0..number(&mut rest)? {
        let name = std::str::from_utf8(part(&mut rest)?).ok()?.to_owned();
        let data_type = std::str::from_utf8(part(&mut rest)?).ok()?.parse().ok()?;
        let (profile, left) = ColumnProfile::decode(data_type, part(&mut rest)?).ok()?;
        if !left.is_empty() {
            return None;
        }
        columns.push((Field { name, data_type }, profile));
    }
    rest.is_empty().then_some(DayProfile { rows, columns })
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    let (number, left) = rest.split_first_chunk::<4>()?;
    *rest = left;
    usize::try_from(u32::from_le_bytes(*number)).ok()
}

fn part<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = number(rest)?;
    let (part, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(part)
}

fn storage(action: &str, cause: &sqlx::Error) -> JobError {
    JobError::storage(format!("can't {action} statistics"), cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, RecordBatch, StringArray};
    use ondol_vocabulary::DataType;
    use std::sync::Arc;

    #[test]
    fn a_kept_date_is_read_back_and_nothing_else_is() {
        let field = |name: &str, data_type| Field {
            name: name.to_owned(),
            data_type,
        };
        let batch = RecordBatch::try_from_iter([
            ("x", Arc::new(Float64Array::from(vec![1.0, f64::NAN])) as _),
            ("k", Arc::new(StringArray::from(vec![Some("a"), None])) as _),
        ])
        .unwrap();
        let mut day = DayProfile::new(&[field("x", DataType::F64), field("k", DataType::String)]);
        day.add(&batch, None).unwrap();
        day.columns.iter_mut().for_each(|(_, profile)| profile.seal());
        let bytes = encode(&day);
        assert_eq!(decode(2, &bytes), Some(day));
        for cut in 0..bytes.len() {
            assert_eq!(decode(2, &bytes[..cut]), None);
        }
        assert_eq!(decode(2, &[bytes.as_slice(), &[0]].concat()), None);
    }
}
