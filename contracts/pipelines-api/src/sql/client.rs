//! The [`OfflineSql`] that calls a [`router`](super::server::router).

use super::{OfflineSql, SqlRequest};
use crate::client::PipelinesClient;
use crate::error::PipelinesError;
use crate::rows::{self, Rows};
use async_trait::async_trait;
use http::{Method, header};
use ondol_vocabulary::batch;
use std::time::Duration;

/// How long an answer may travel; the service's own limit is shorter.
const TIMEOUT: Duration = Duration::from_secs(24 * 3_600);

#[async_trait]
impl OfflineSql for PipelinesClient {
    async fn sql(&self, request: SqlRequest) -> Result<Rows, PipelinesError> {
        let call = self
            .caller()
            .request(Method::POST, "/v1/sql")
            .timeout(TIMEOUT)
            .header(header::ACCEPT, batch::MEDIA_TYPE)
            .json(&request);
        let response = self.caller().response::<PipelinesError>(call).await?;
        rows::receive(response, self.caller().base().to_string()).await
    }
}
