//! Errors on the wire: RFC 9457 problem documents that a client turns back into the very error the service returned.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

/// The media type of a problem document.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// What every error of a contract can say of itself. Implemented once per contract, on its error enum.
pub trait ContractError: std::error::Error + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The HTTP status.
    fn status(&self) -> StatusCode;
    /// A stable, documented name in kebab case, such as `unknown-view`.
    fn code(&self) -> &'static str;
    /// Whether the same call may succeed later.
    fn retryable(&self) -> bool;
    /// How long a caller should wait before it tries again: the answer's `Retry-After`. None says nothing of it.
    fn retry_after_seconds(&self) -> Option<u64> {
        None
    }
    /// The error a client reports when the service can't be reached or answers with something else than the contract.
    fn unavailable(detail: String) -> Self;
    /// The error for a request that is not of the contract's form.
    fn invalid(detail: String) -> Self;
}

/// An RFC 9457 problem document.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:ondol:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status' own phrase.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, with the offending value and the remedy.
    pub detail: String,
    /// A stable name of the error.
    pub code: String,
    /// Whether the same call may succeed later.
    pub retryable: bool,
    /// The error with its fields, for clients that act on them.
    #[serde(default)]
    pub error: serde_json::Value,
}

impl Problem {
    /// The document for `error`.
    pub fn of<E: ContractError>(error: &E) -> Self {
        let status = error.status();
        Self {
            kind: format!("urn:ondol:problem:{}", error.code()),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: error.to_string(),
            code: error.code().to_owned(),
            retryable: error.retryable(),
            error: serde_json::to_value(error).unwrap_or_default(),
        }
    }

    /// The error this document was made of. One that this client does not know (a newer service) becomes
    /// [`ContractError::unavailable`] or, where the request is to blame, [`ContractError::invalid`], with the
    /// document's own words.
    pub fn into_error<E: ContractError>(self) -> E {
        let Self {
            detail,
            code,
            error,
            status,
            retryable,
            ..
        } = self;
        let unknown = |_| match status {
            400..=499 if !retryable => E::invalid(format!("{detail} ({code})")),
            _ => E::unavailable(format!("{detail} ({code})")),
        };
        serde_json::from_value(error).unwrap_or_else(unknown)
    }

    /// A document of the wire itself, which no contract's error stands behind.
    pub(crate) fn of_wire(status: StatusCode, code: &str, detail: String) -> Self {
        Self {
            kind: format!("urn:ondol:problem:{code}"),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail,
            code: code.to_owned(),
            retryable: false,
            error: serde_json::Value::Null,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        (
            status,
            [(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))],
            body,
        )
            .into_response()
    }
}

/// The response for a contract's error: its problem document, logged when the fault is the service's own.
pub fn respond<E: ContractError>(error: &E) -> Response {
    let problem = Problem::of(error);
    if problem.status >= 500 {
        tracing::error!(
            code = problem.code,
            error = error as &dyn std::error::Error,
            "request failed"
        );
    }
    let mut response = problem.into_response();
    if let Some(seconds) = error.retry_after_seconds() {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The response for what a service returned: its value as JSON, or its error as a problem.
pub fn answer<T: Serialize, E: ContractError>(outcome: Result<T, E>) -> Response {
    match outcome {
        Ok(value) => Json(value).into_response(),
        Err(error) => respond(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, thiserror::Error, Serialize, Deserialize)]
    #[serde(tag = "code", rename_all = "kebab-case")]
    enum Known {
        #[error("{detail}")]
        Unavailable { detail: String },
        #[error("{detail}")]
        Invalid { detail: String },
    }

    impl ContractError for Known {
        fn status(&self) -> StatusCode {
            StatusCode::SERVICE_UNAVAILABLE
        }
        fn code(&self) -> &'static str {
            "known"
        }
        fn retryable(&self) -> bool {
            true
        }
        fn unavailable(detail: String) -> Self {
            Self::Unavailable { detail }
        }
        fn invalid(detail: String) -> Self {
            Self::Invalid { detail }
        }
    }

    fn check(status: u16, error: serde_json::Value, expected: &Known) {
        let document = Problem {
            error,
            ..Problem::of_wire(StatusCode::OK, "teapot", "why".to_owned())
        };
        assert_eq!(Problem { status, ..document }.into_error::<Known>(), *expected);
    }

    #[test]
    fn an_error_of_a_newer_service_keeps_its_words() {
        let newer = serde_json::json!({ "code": "teapot", "spout": 1 });
        check(503, newer.clone(), &Known::unavailable("why (teapot)".to_owned()));
        check(500, newer.clone(), &Known::unavailable("why (teapot)".to_owned()));
        check(422, newer, &Known::invalid("why (teapot)".to_owned()));
        check(413, serde_json::Value::Null, &Known::invalid("why (teapot)".to_owned()));
    }

    #[test]
    fn an_error_of_the_contract_is_itself() {
        let error = serde_json::json!({ "code": "unavailable", "detail": "gone" });
        check(400, error, &Known::unavailable("gone".to_owned()));
    }
}
