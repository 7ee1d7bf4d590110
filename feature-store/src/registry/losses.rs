//! What the online store is known to hold, so that a loss of acknowledged writes is noticed whoever asks first.
//!
//! A store that can lose what it acknowledged (Redis) tells its *life*, which changes whenever another server may have
//! taken over, and keeps a *mark* for each shard: a number that rises with every sync, written after the rows it
//! stands for. Servers lose the end of their history, never its middle, so a mark that is still there says that
//! every row written before it is, too.
//!
//! The registry holds the marks that a commit of the log relies on, and the life in which they were written. A new life
//! is admitted in one transaction that compares the marks the store still has with those recorded: if one is missing,
//! rows behind committed positions were lost, and `losses` rises. Marks are written and recorded only in the life that
//! is admitted, so nothing can hide a loss before it is seen.

use super::Registry;
use super::database::{failed, text, unsigned};
use ondol_feature_store_api::FeatureStoreError;
use sqlx::{Any, Transaction};
use std::collections::BTreeSet;

/// The present life is being looked at; no other process admits one, or records a mark, meanwhile.
pub struct Admission {
    transaction: Transaction<'static, Any>,
    /// The life admitted last; empty before the first.
    pub life: String,
    /// How often rows behind committed positions were lost.
    pub losses: u64,
    /// The marks recorded, by shard.
    pub marks: Vec<(String, u64)>,
}

impl Registry {
    /// How often rows behind committed positions were lost.
    pub async fn losses(&self) -> Result<u64, FeatureStoreError> {
        let row = sqlx::query("SELECT losses FROM online_lives WHERE id = 1")
            .fetch_one(&self.shared.database.pool)
            .await;
        unsigned(&row.map_err(|error| failed("reading", &error))?, "losses")
    }

    /// Ids of rows that serve and were begun before a loss: what was lost is missing from them.
    pub async fn lost_rows(&self) -> Result<BTreeSet<u32>, FeatureStoreError> {
        let rows = sqlx::query(
            "SELECT d.view_id FROM definition_versions d CROSS JOIN online_lives l
             JOIN view_rows w ON w.view_id = d.view_id
             WHERE d.noun = 'view' AND d.state = 'active' AND l.id = 1 AND w.losses < l.losses",
        )
        .fetch_all(&self.shared.database.pool)
        .await
        .map_err(|error| failed("reading", &error))?;
        rows.iter().map(|row| unsigned(row, "view_id")).collect()
    }

    /// Waits for its turn to admit a life.
    pub async fn admission(&self) -> Result<Admission, FeatureStoreError> {
        let begun = self.shared.database.pool.begin().await;
        let mut transaction = begun.map_err(|error| failed("opening", &error))?;
        sqlx::query("UPDATE online_lives SET life = life WHERE id = 1")
            .execute(&mut *transaction)
            .await
            .map_err(|error| failed("locking", &error))?;
        let state = sqlx::query("SELECT life, losses FROM online_lives WHERE id = 1")
            .fetch_one(&mut *transaction)
            .await
            .map_err(|error| failed("reading", &error))?;
        let rows = sqlx::query("SELECT shard, value FROM online_marks ORDER BY shard")
            .fetch_all(&mut *transaction)
            .await
            .map_err(|error| failed("reading", &error))?;
        let marks = rows
            .iter()
            .map(|row| Ok((text(row, "shard")?, unsigned(row, "value")?)));
        Ok(Admission {
            life: text(&state, "life")?,
            losses: unsigned(&state, "losses")?,
            marks: marks.collect::<Result<_, FeatureStoreError>>()?,
            transaction,
        })
    }

    /// Records marks that were written in `life`; false if another life has been admitted meanwhile.
    pub async fn record_marks(&self, life: &str, marks: &[(String, u64)]) -> Result<bool, FeatureStoreError> {
        let begun = self.shared.database.pool.begin().await;
        let mut transaction = begun.map_err(|error| failed("opening", &error))?;
        // The row's lock keeps an admission from comparing marks while these are recorded.
        let present = sqlx::query("UPDATE online_lives SET life = life WHERE id = 1 AND life = $1")
            .bind(life)
            .execute(&mut *transaction)
            .await
            .map_err(|error| failed("locking", &error))?;
        if present.rows_affected() == 0 {
            return Ok(false);
        }
        for (shard, value) in marks {
            sqlx::query(
                "INSERT INTO online_marks (shard, value) VALUES ($1, $2) ON CONFLICT (shard) DO UPDATE SET value =
                 CASE WHEN online_marks.value > excluded.value THEN online_marks.value ELSE excluded.value END",
            )
            .bind(shard)
            .bind(i64::try_from(*value).unwrap_or(i64::MAX))
            .execute(&mut *transaction)
            .await
            .map_err(|error| failed("writing", &error))?;
        }
        let committed = transaction.commit().await;
        committed.map_err(|error| failed("committing to", &error))?;
        Ok(true)
    }
}

impl Admission {
    /// Admits `life`. `lost` says that a recorded mark is gone: then the loss is counted and the marks start over.
    pub async fn admit(mut self, life: &str, lost: bool) -> Result<u64, FeatureStoreError> {
        let losses = self.losses + u64::from(lost);
        sqlx::query("UPDATE online_lives SET life = $1, losses = $2 WHERE id = 1")
            .bind(life)
            .bind(i64::try_from(losses).unwrap_or(i64::MAX))
            .execute(&mut *self.transaction)
            .await
            .map_err(|error| failed("writing", &error))?;
        if lost {
            sqlx::query("DELETE FROM online_marks")
                .execute(&mut *self.transaction)
                .await
                .map_err(|error| failed("writing", &error))?;
        }
        let committed = self.transaction.commit().await;
        committed.map_err(|error| failed("committing to", &error))?;
        Ok(losses)
    }
}
