//! SQL over the offline tables: the same five parts as the contract around it, for one operation whose answer streams.
//!
//! Rows travel as they are computed. What can be known before the first of them (the text, the names, the types) is an
//! error of the call; what happens later (a limit, a fault) ends the body before its end mark, which every reader
//! notices.

pub mod client;
pub mod server;

use crate::error::PipelinesError;
use crate::rows::Rows;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A query.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlRequest {
    /// One `SELECT`, `WITH`, `EXPLAIN`, `DESCRIBE` or `SHOW TABLES` over sources by name.
    #[schema(example = "select card_id, count(*) from transactions group by card_id")]
    pub query: String,
    /// Rows to answer at most; without it all of them, up to the service's bound, beyond which the query fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rows: Option<u64>,
}

/// Answers queries over the offline tables: the event log of each stream source and each batch source, by name.
#[async_trait]
pub trait OfflineSql: Send + Sync + 'static {
    /// Plans `request` and starts it. Returns when the first rows, or the first error, are there.
    async fn sql(&self, request: SqlRequest) -> Result<Rows, PipelinesError>;
}
