//! Ledgers that several instances share.

/// A PostgreSQL ledger of its own; removed by [`Schema::drop`].
pub struct Schema {
    name: String,
    /// Its URL as a ledger.
    pub ledger: String,
}

impl Schema {
    pub async fn create() -> Self {
        let url = ondol_testkit::services::postgres();
        let name = ondol_testkit::unique_name("pipelines");
        execute(&url, &format!("CREATE SCHEMA \"{name}\"")).await;
        let joint = if url.contains('?') { '&' } else { '?' };
        Self {
            ledger: format!("{url}{joint}options=-c%20search_path%3D{name}"),
            name,
        }
    }

    pub async fn drop(self) {
        let drop = format!("DROP SCHEMA \"{}\" CASCADE", self.name);
        execute(&ondol_testkit::services::postgres(), &drop).await;
    }
}

/// Runs statements in a database.
pub async fn execute(url: &str, statements: &str) {
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(url).await.unwrap();
    let statements = sqlx::AssertSqlSafe(statements.to_owned());
    sqlx::raw_sql(statements).execute(&pool).await.unwrap();
    pool.close().await;
}
