//! The registry's tables in SQLite or PostgreSQL, through one set of statements.
//!
//! Every change runs in a transaction whose first statement writes the one row of `registry_state`: it takes SQLite's
//! write lock, or PostgreSQL's row lock, so that changes of any number of processes happen one after the other and
//! each reads what the one before it wrote.
//!
//! | table | holds |
//! |---|---|
//! | `registry_state` | the registry's version, the next view id |
//! | `definition_versions` | every version of every definition, as JSON; only `state` ever changes |
//! | `applied_files` | the files as the user wrote them, for each registry version an apply made |
//! | `provisioned_generations` | what a bootstrap has finished, so that a restart does not repeat it |
//! | `view_rows` | of each view version's rows: since which loss they are whole, and how far they are built |
//! | `provisionings` | of each version that is being provisioned: how it stands, and whether it is held back |
//! | `rebuilds` | rows built anew for a version that serves, to take the place of its present ones |
//! | `discarded_rows` | rows that nobody reads any more and that are yet to be deleted |
//! | `uses` | what live models read: see `uses` |
//! | `forced_changes` | versions that were applied although live models did not survive it |
//! | `online_lives`, `online_marks` | what the online store is known to hold: see `losses` |

use super::catalog::{Catalog, Definition, Noun, Record};
use super::change::ChangeSet;
use ondol_feature_store_api::FeatureStoreError;
use ondol_vocabulary::{DefinitionFiles, EventTime, ViewState};
use sqlx::any::{AnyPoolOptions, AnyRow};
use sqlx::{Any, AnyPool, Row, Transaction};
use std::path::Path;
use std::time::Duration;

const TABLES: [&str; 15] = [
    "CREATE TABLE IF NOT EXISTS registry_state (
        id BIGINT PRIMARY KEY, version BIGINT NOT NULL, next_view_id BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS definition_versions (
        noun TEXT NOT NULL, name TEXT NOT NULL, version BIGINT NOT NULL, view_id BIGINT UNIQUE, source_version BIGINT,
        state TEXT NOT NULL, definition TEXT NOT NULL, applied_at BIGINT NOT NULL, PRIMARY KEY (noun, name, version))",
    "CREATE TABLE IF NOT EXISTS applied_files (
        registry_version BIGINT NOT NULL, position BIGINT NOT NULL, path TEXT NOT NULL, text TEXT NOT NULL,
        PRIMARY KEY (registry_version, position))",
    "CREATE TABLE IF NOT EXISTS provisioned_generations (
        view_id BIGINT NOT NULL, generation TEXT NOT NULL, PRIMARY KEY (view_id, generation))",
    "INSERT INTO registry_state (id, version, next_view_id) VALUES (1, 0, 1) ON CONFLICT (id) DO NOTHING",
    "CREATE TABLE IF NOT EXISTS view_rows (
        view_id BIGINT PRIMARY KEY, losses BIGINT NOT NULL, life TEXT NOT NULL, rows_done BIGINT NOT NULL,
        rows_total BIGINT, error TEXT)",
    "CREATE TABLE IF NOT EXISTS rebuilds (
        view_id BIGINT PRIMARY KEY, name TEXT NOT NULL, version BIGINT NOT NULL, source TEXT NOT NULL,
        state TEXT NOT NULL, started_at BIGINT NOT NULL, finished_at BIGINT)",
    "CREATE TABLE IF NOT EXISTS provisionings (
        view_id BIGINT PRIMARY KEY, stage TEXT NOT NULL, held BIGINT NOT NULL, started_at BIGINT)",
    "CREATE TABLE IF NOT EXISTS discarded_rows (view_id BIGINT PRIMARY KEY, since BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS online_lives (id BIGINT PRIMARY KEY, life TEXT NOT NULL, losses BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS online_marks (shard TEXT PRIMARY KEY, value BIGINT NOT NULL)",
    "INSERT INTO online_lives (id, life, losses) VALUES (1, '', 0) ON CONFLICT (id) DO NOTHING",
    "INSERT INTO view_rows (view_id, losses, life, rows_done, rows_total, error)
        SELECT view_id, 0, '', 0, NULL, NULL FROM definition_versions WHERE view_id IS NOT NULL
        ON CONFLICT (view_id) DO NOTHING",
    "CREATE TABLE IF NOT EXISTS uses (consumer TEXT PRIMARY KEY, published_at BIGINT NOT NULL, models TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS forced_changes (
        registry_version BIGINT PRIMARY KEY, forced_at BIGINT NOT NULL, broken TEXT NOT NULL)",
];

/// Tells the other processes that share a PostgreSQL registry of a change, once it is committed.
const NOTIFY: &str = "NOTIFY ondol_registry";

/// Two servers that start at once must not create the tables at once: PostgreSQL's IF NOT EXISTS is no lock.
const POSTGRES_SCHEMA_LOCK: &str = "DO $$ BEGIN PERFORM pg_advisory_xact_lock(7306511001); END $$";

/// Waiting for another process's change.
const BUSY_TIMEOUT: &str = "PRAGMA busy_timeout = 30000";
const CONNECTIONS: u32 = 4;

/// A pool of connections to the registry's database.
#[derive(Clone, Debug)]
pub(super) struct Database {
    pub(super) pool: AnyPool,
    /// Where a PostgreSQL registry is; none for SQLite, which one process has to itself.
    pub(super) postgres: Option<String>,
}

/// A change in progress: it holds the registry's lock. Dropped without [`Change::commit`], it changes nothing.
pub(super) struct Change {
    pub(super) transaction: Transaction<'static, Any>,
    notifies: bool,
}

impl Database {
    /// Connects, and creates what is absent.
    pub(super) async fn open(url: &str) -> Result<Self, FeatureStoreError> {
        sqlx::any::install_default_drivers();
        let sqlite = url.starts_with("sqlite:");
        if !sqlite && !url.starts_with("postgres:") && !url.starts_with("postgresql:") {
            return Err(FeatureStoreError::InvalidRequest {
                detail: format!(
                    "registry `{}`: use sqlite://path or postgres://host/database",
                    url.split(':').next().unwrap_or(url)
                ),
            });
        }
        let options = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(Duration::from_secs(30));
        let pool = if sqlite {
            let url = creating(url)?;
            let options = options.after_connect(|connection, _| {
                Box::pin(async move {
                    for pragma in [BUSY_TIMEOUT, "PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL"] {
                        sqlx::raw_sql(pragma).execute(&mut *connection).await?;
                    }
                    Ok(())
                })
            });
            options.connect(&url).await
        } else {
            options.connect(url).await
        };
        let database = Self {
            pool: pool.map_err(|error| failed("connecting to", &error))?,
            postgres: (!sqlite).then(|| url.to_owned()),
        };
        // SQLite refuses at once, without waiting, to turn a transaction that has read into one that writes.
        let begin = if sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" };
        let mut transaction = database
            .pool
            .begin_with(begin)
            .await
            .map_err(|error| failed("opening", &error))?;
        if !sqlite {
            let lock = sqlx::raw_sql(POSTGRES_SCHEMA_LOCK).execute(&mut *transaction).await;
            lock.map_err(|error| failed("locking", &error))?;
        }
        for statement in TABLES {
            let created = sqlx::raw_sql(statement).execute(&mut *transaction).await;
            created.map_err(|error| failed("creating tables of", &error))?;
        }
        transaction
            .commit()
            .await
            .map_err(|error| failed("creating tables of", &error))?;
        Ok(database)
    }

    /// The registry's version: cheap enough to poll.
    pub(super) async fn version(&self) -> Result<u64, FeatureStoreError> {
        let row = sqlx::query("SELECT version FROM registry_state WHERE id = 1")
            .fetch_one(&self.pool)
            .await;
        unsigned(&row.map_err(|error| failed("reading", &error))?, "version")
    }

    /// Waits for its turn to change the registry.
    pub(super) async fn change(&self) -> Result<Change, FeatureStoreError> {
        let mut transaction = self.pool.begin().await.map_err(|error| failed("opening", &error))?;
        let locked = sqlx::query("UPDATE registry_state SET version = version WHERE id = 1");
        locked
            .execute(&mut *transaction)
            .await
            .map_err(|error| failed("locking", &error))?;
        Ok(Change {
            transaction,
            notifies: self.postgres.is_some(),
        })
    }

    /// Generations of its source that are absorbed into a view version completely.
    pub(super) async fn provisioned(&self, view_id: u32) -> Result<Vec<String>, FeatureStoreError> {
        let rows = sqlx::query("SELECT generation FROM provisioned_generations WHERE view_id = $1")
            .bind(i64::from(view_id))
            .fetch_all(&self.pool)
            .await
            .map_err(|error| failed("reading", &error))?;
        rows.iter().map(|row| text(row, "generation")).collect()
    }

    /// Notes that a generation is absorbed into a view version completely.
    pub(super) async fn set_provisioned(&self, view_id: u32, generation: &str) -> Result<(), FeatureStoreError> {
        sqlx::query(
            "INSERT INTO provisioned_generations (view_id, generation) VALUES ($1, $2)
             ON CONFLICT (view_id, generation) DO NOTHING",
        )
        .bind(i64::from(view_id))
        .bind(generation)
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(|error| failed("writing", &error))
    }
}

impl Change {
    /// Everything in the registry, as no other change can alter it before this one ends.
    pub(super) async fn catalog(&mut self) -> Result<Catalog, FeatureStoreError> {
        let state = sqlx::query("SELECT version, next_view_id FROM registry_state WHERE id = 1")
            .fetch_one(&mut *self.transaction)
            .await
            .map_err(|error| failed("reading", &error))?;
        let rows = sqlx::query(
            "SELECT noun, name, version, view_id, source_version, state, definition, applied_at
             FROM definition_versions ORDER BY noun, name, version",
        )
        .fetch_all(&mut *self.transaction)
        .await
        .map_err(|error| failed("reading", &error))?;
        Ok(Catalog {
            version: unsigned(&state, "version")?,
            next_view_id: unsigned(&state, "next_view_id")?,
            records: rows.iter().map(record).collect::<Result<_, _>>()?,
            rebuilds: self.open_rebuilds().await?,
        })
    }

    /// Stores a set of changes and the files they come from, and moves the registry's version.
    pub(super) async fn store(&mut self, set: &ChangeSet, files: &DefinitionFiles) -> Result<(), FeatureStoreError> {
        for (noun, name, version) in &set.retire {
            self.set_state(*noun, name, *version, ViewState::Retired).await?;
        }
        for record in &set.insert {
            self.insert(record).await?;
        }
        let version = self.next_version().await?;
        for (position, file) in (0_i64..).zip(&files.files) {
            sqlx::query("INSERT INTO applied_files (registry_version, position, path, text) VALUES ($1, $2, $3, $4)")
                .bind(version)
                .bind(position)
                .bind(&file.path)
                .bind(&file.text)
                .execute(&mut *self.transaction)
                .await
                .map_err(|error| failed("writing", &error))?;
        }
        Ok(())
    }

    /// Sets the state of one version.
    pub(super) async fn set_state(
        &mut self,
        noun: Noun,
        name: &str,
        version: u32,
        state: ViewState,
    ) -> Result<(), FeatureStoreError> {
        if state == ViewState::Retired && noun == Noun::View {
            self.discard_rows_of(name, version).await?;
        }
        sqlx::query("UPDATE definition_versions SET state = $1 WHERE noun = $2 AND name = $3 AND version = $4")
            .bind(state_name(state))
            .bind(noun.name())
            .bind(name)
            .bind(i64::from(version))
            .execute(&mut *self.transaction)
            .await
            .map(drop)
            .map_err(|error| failed("writing", &error))
    }

    /// Moves the registry's version, and the next view id past the ids in use.
    pub(super) async fn next_version(&mut self) -> Result<i64, FeatureStoreError> {
        sqlx::query(
            "UPDATE registry_state SET version = version + 1,
             next_view_id = (SELECT COALESCE(MAX(view_id), 0) + 1 FROM
                (SELECT view_id FROM definition_versions UNION ALL SELECT view_id FROM rebuilds
                 UNION ALL SELECT next_view_id - 1 FROM registry_state WHERE id = 1) AS used) WHERE id = 1",
        )
        .execute(&mut *self.transaction)
        .await
        .map_err(|error| failed("writing", &error))?;
        let row = sqlx::query("SELECT version FROM registry_state WHERE id = 1")
            .fetch_one(&mut *self.transaction)
            .await
            .map_err(|error| failed("reading", &error))?;
        row.try_get("version").map_err(|error| failed("reading", &error))
    }

    /// Makes the change stand.
    pub(super) async fn commit(mut self) -> Result<(), FeatureStoreError> {
        if self.notifies {
            let notified = sqlx::raw_sql(NOTIFY).execute(&mut *self.transaction).await;
            notified.map_err(|error| failed("writing", &error))?;
        }
        self.transaction
            .commit()
            .await
            .map_err(|error| failed("committing to", &error))
    }

    async fn insert(&mut self, record: &Record) -> Result<(), FeatureStoreError> {
        let json = record
            .definition
            .to_json()
            .map_err(|error| unreadable(record.name(), &error))?;
        sqlx::query(
            "INSERT INTO definition_versions
             (noun, name, version, view_id, source_version, state, definition, applied_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(record.noun().name())
        .bind(record.name())
        .bind(i64::from(record.version))
        .bind(record.view_id.map(i64::from))
        .bind(record.source_version.map(i64::from))
        .bind(state_name(record.state))
        .bind(json.to_string())
        .bind(record.applied_at.micros())
        .execute(&mut *self.transaction)
        .await
        .map_err(|error| failed("writing", &error))?;
        match record.view_id {
            Some(view_id) => self.begin_rows(view_id).await,
            None => Ok(()),
        }
    }
}

/// The SQLite URL that also creates the file; its folder is created here.
fn creating(url: &str) -> Result<String, FeatureStoreError> {
    let path = url.trim_start_matches("sqlite:").trim_start_matches("//");
    let file = path.split('?').next().unwrap_or(path);
    if let Some(folder) = Path::new(file).parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|error| FeatureStoreError::Unavailable {
            detail: format!("creating the registry's folder {}: {error}", folder.display()),
        })?;
    }
    Ok(if path.contains('?') {
        url.to_owned()
    } else {
        format!("{url}?mode=rwc")
    })
}

fn record(row: &AnyRow) -> Result<Record, FeatureStoreError> {
    let (noun, name, state) = (text(row, "noun")?, text(row, "name")?, text(row, "state")?);
    let noun = Noun::parse(&noun).ok_or_else(|| unreadable(&name, &format!("unknown noun `{noun}`")))?;
    let definition =
        Definition::from_json(noun, &text(row, "definition")?).map_err(|error| unreadable(&name, &error))?;
    let applied_at: i64 = row.try_get("applied_at").map_err(|error| failed("reading", &error))?;
    Ok(Record {
        version: unsigned(row, "version")?,
        view_id: optional(row, "view_id")?,
        source_version: optional(row, "source_version")?,
        state: parse_state(&state).ok_or_else(|| unreadable(&name, &format!("unknown state `{state}`")))?,
        definition,
        applied_at: EventTime::from_micros(applied_at),
    })
}

pub(super) fn text(row: &AnyRow, column: &str) -> Result<String, FeatureStoreError> {
    row.try_get(column).map_err(|error| failed("reading", &error))
}

pub(super) fn unsigned<T: TryFrom<i64>>(row: &AnyRow, column: &str) -> Result<T, FeatureStoreError> {
    let value: i64 = row.try_get(column).map_err(|error| failed("reading", &error))?;
    T::try_from(value).map_err(|_| unreadable(column, &format!("{value} is out of range")))
}

pub(super) fn optional(row: &AnyRow, column: &str) -> Result<Option<u32>, FeatureStoreError> {
    let value: Option<i64> = row.try_get(column).map_err(|error| failed("reading", &error))?;
    value
        .map(|value| u32::try_from(value).map_err(|_| unreadable(column, &format!("{value} is out of range"))))
        .transpose()
}

const fn state_name(state: ViewState) -> &'static str {
    match state {
        ViewState::Provisioning => "provisioning",
        ViewState::Active => "active",
        ViewState::Retired => "retired",
    }
}

fn parse_state(text: &str) -> Option<ViewState> {
    [ViewState::Provisioning, ViewState::Active, ViewState::Retired]
        .into_iter()
        .find(|state| state_name(*state) == text)
}

pub(super) fn failed(doing: &str, error: &sqlx::Error) -> FeatureStoreError {
    FeatureStoreError::Unavailable {
        detail: format!("{doing} the registry's database: {error}"),
    }
}

fn unreadable(what: &str, error: &dyn std::fmt::Display) -> FeatureStoreError {
    FeatureStoreError::Internal {
        detail: format!("the registry's record of `{what}` is unreadable: {error}"),
    }
}
