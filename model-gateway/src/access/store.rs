//! Keys and the audit log in the gateway's database, in tables of their own. SQLite or PostgreSQL, by URL. A moment that
//! is not there is 0.

use super::keys::{KeptKey, hex, unhex};
use ondol_model_gateway_api::wire::{AuditEntry, AuditPage, AuditQuery, KeySummary};
use ondol_vocabulary::EventTime;
use sqlx::any::{AnyPoolOptions, AnyRow};
use sqlx::{AnyPool, Row as _};
use std::time::Duration;

/// Keys at most that are read: each is in the memory of every replica.
pub const KEYS: i64 = 100_000;
/// Entries of one page of the audit log, unless asked for otherwise, and at most.
const PAGE: (u32, u32) = (100, 1_000);

const TABLES: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS gateway_keys (
        id TEXT PRIMARY KEY,
        sha256 TEXT NOT NULL,
        label TEXT NOT NULL,
        tenant TEXT NOT NULL,
        scopes TEXT NOT NULL,
        created_at BIGINT NOT NULL,
        expires_at BIGINT NOT NULL,
        revoked_at BIGINT NOT NULL,
        last_used_at BIGINT NOT NULL
    )",
    "CREATE TABLE IF NOT EXISTS gateway_audit (
        id TEXT PRIMARY KEY,
        at BIGINT NOT NULL,
        who TEXT NOT NULL,
        tenant TEXT NOT NULL,
        action TEXT NOT NULL,
        subject TEXT NOT NULL,
        outcome TEXT NOT NULL,
        status BIGINT NOT NULL
    )",
];

/// The database of keys and of the audit log.
#[derive(Clone, Debug)]
pub struct AccessStore {
    pool: AnyPool,
}

impl AccessStore {
    /// Connects, and makes the tables if they are not there.
    ///
    /// # Errors
    /// When the database can't be used.
    pub async fn open(url: &str) -> Result<Self, sqlx::Error> {
        sqlx::any::install_default_drivers();
        // Keys are read now and then, changes are rare: one connection, and SQLite has one writer anyway.
        let pool = AnyPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(10))
            .connect(url)
            .await?;
        for table in TABLES {
            // PostgreSQL may refuse one of two gateways that make the table at the same moment: by then it is there.
            if sqlx::query(table).execute(&pool).await.is_err() {
                sqlx::query(table).execute(&pool).await?;
            }
        }
        Ok(Self { pool })
    }

    /// Every key, newest first.
    pub async fn keys(&self) -> Result<Vec<KeptKey>, sqlx::Error> {
        let rows = sqlx::query(
            "SELECT id, sha256, label, tenant, scopes, created_at, expires_at, revoked_at, last_used_at
             FROM gateway_keys ORDER BY created_at DESC, id LIMIT $1",
        )
        .bind(KEYS)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(key_of).collect()
    }

    /// The key called `id`.
    pub async fn key(&self, id: &str) -> Result<Option<KeptKey>, sqlx::Error> {
        let row = sqlx::query(
            "SELECT id, sha256, label, tenant, scopes, created_at, expires_at, revoked_at, last_used_at
             FROM gateway_keys WHERE id = $1",
        )
        .bind(id)
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(key_of).transpose()
    }

    /// Adds a key. Durable when it returns.
    pub async fn add_key(&self, key: &KeptKey) -> Result<(), sqlx::Error> {
        let summary = &key.summary;
        sqlx::query(
            "INSERT INTO gateway_keys
                (id, sha256, label, tenant, scopes, created_at, expires_at, revoked_at, last_used_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0)",
        )
        .bind(summary.id.as_str())
        .bind(hex(&key.digest))
        .bind(summary.label.as_str())
        .bind(summary.tenant.as_str())
        .bind(summary.scopes.join(" "))
        .bind(summary.created_at.micros())
        .bind(summary.expires_at.map_or(0, |at| at.micros()))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Notes that `id` is revoked since `now`, unless it was before.
    pub async fn revoke(&self, id: &str, now: EventTime) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE gateway_keys SET revoked_at = $1 WHERE id = $2 AND revoked_at = 0")
            .bind(now.micros())
            .bind(id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Notes when `id` was used, unless a later use is known.
    pub async fn note_use(&self, id: &str, used_at: i64) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE gateway_keys SET last_used_at = $1 WHERE id = $2 AND last_used_at < $3")
            .bind(used_at)
            .bind(id)
            .bind(used_at)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Writes `entry` down. Durable when it returns.
    pub async fn begin(&self, entry: &AuditEntry) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO gateway_audit (id, at, who, tenant, action, subject, outcome, status)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(entry.id.as_str())
        .bind(entry.at.micros())
        .bind(entry.who.as_str())
        .bind(entry.tenant.as_str())
        .bind(entry.action.as_str())
        .bind(entry.subject.as_str())
        .bind(entry.outcome.as_str())
        .bind(i64::from(entry.status.unwrap_or(0)))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Notes what came of the entry called `id`.
    pub async fn end(&self, id: &str, outcome: &str, status: u16) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE gateway_audit SET outcome = $1, status = $2 WHERE id = $3")
            .bind(outcome)
            .bind(i64::from(status))
            .bind(id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// A page of the audit log, newest first.
    pub async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, sqlx::Error> {
        let limit = query.limit.unwrap_or(PAGE.0).clamp(1, PAGE.1);
        // Above every id, which are digits and capitals.
        let before = query.before.as_deref().unwrap_or("~");
        let action = query.action.as_deref().unwrap_or_default();
        let rows = sqlx::query(
            "SELECT id, at, who, tenant, action, subject, outcome, status FROM gateway_audit
             WHERE id < $1 AND ($2 = '' OR action = $3) ORDER BY id DESC LIMIT $4",
        )
        .bind(before)
        .bind(action)
        .bind(action)
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        let entries: Vec<AuditEntry> = rows.iter().map(entry_of).collect::<Result<_, _>>()?;
        let full = entries.len() == limit as usize;
        let next = entries.last().filter(|_| full).map(|entry| entry.id.clone());
        Ok(AuditPage { entries, next })
    }

    /// Removes the entries of the audit log before `time`, and returns how many there were.
    pub async fn forget_before(&self, time: EventTime) -> Result<u64, sqlx::Error> {
        let removed = sqlx::query("DELETE FROM gateway_audit WHERE at < $1")
            .bind(time.micros())
            .execute(&self.pool)
            .await?;
        Ok(removed.rows_affected())
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

fn moment(micros: i64) -> Option<EventTime> {
    (micros != 0).then(|| EventTime::from_micros(micros))
}

fn key_of(row: &AnyRow) -> Result<KeptKey, sqlx::Error> {
    let sha256: String = row.try_get("sha256")?;
    let scopes: String = row.try_get("scopes")?;
    let summary = KeySummary {
        id: row.try_get("id")?,
        label: row.try_get("label")?,
        tenant: row.try_get("tenant")?,
        scopes: scopes.split_ascii_whitespace().map(ToOwned::to_owned).collect(),
        created_at: EventTime::from_micros(row.try_get("created_at")?),
        expires_at: moment(row.try_get("expires_at")?),
        revoked_at: moment(row.try_get("revoked_at")?),
        last_used_at: moment(row.try_get("last_used_at")?),
    };
    let digest = unhex(&sha256).ok_or_else(|| {
        sqlx::Error::Decode(format!("key `{}`: column `sha256` is no SHA-256 in hexadecimal", summary.id).into())
    })?;
    Ok(KeptKey { summary, digest })
}

fn entry_of(row: &AnyRow) -> Result<AuditEntry, sqlx::Error> {
    let status: i64 = row.try_get("status")?;
    Ok(AuditEntry {
        id: row.try_get("id")?,
        at: EventTime::from_micros(row.try_get("at")?),
        who: row.try_get("who")?,
        tenant: row.try_get("tenant")?,
        action: row.try_get("action")?,
        subject: row.try_get("subject")?,
        outcome: row.try_get("outcome")?,
        status: u16::try_from(status).ok().filter(|status| *status != 0),
    })
}
