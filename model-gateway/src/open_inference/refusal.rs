//! An error of the protocol's surfaces: a status and one text. Over REST it is `{"error": "…"}`, as clients expect.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_wire::ContractError;
use serde_json::json;

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) error: String,
    retry_after_seconds: Option<u64>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            error: error.into(),
            retry_after_seconds: None,
        }
    }
}

impl From<ModelGatewayError> for Refusal {
    fn from(error: ModelGatewayError) -> Self {
        Self {
            status: error.status(),
            retry_after_seconds: error.retry_after_seconds(),
            error: error.to_string(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self {
            status,
            error,
            retry_after_seconds,
        } = self;
        if status.is_server_error() {
            tracing::error!(error, status = status.as_u16(), "open inference request failed");
        }
        let mut response = (status, Json(json!({ "error": error }))).into_response();
        if let Some(seconds) = retry_after_seconds {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
