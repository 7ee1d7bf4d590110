//! How a refusal is said: in the words and the form of the protocol that was spoken.

use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ondol_model_gateway_api::AccessError;
use ondol_wire::{ContractError as _, problem};
use serde_json::json;
use std::fmt::Write as _;

/// The protocol of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Problems of RFC 9457.
    Contract,
    /// `{"error": …}`.
    OpenInference,
    /// `{"error_code": …, "message": …}`.
    Mlflow,
    /// Status and message in the trailers.
    Grpc,
}

impl Protocol {
    pub(crate) fn of(request: &Request) -> Self {
        let content_type = request.headers().get(header::CONTENT_TYPE);
        let path = request.uri().path();
        if content_type.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
            Self::Grpc
        } else if path == "/v2" || path.starts_with("/v2/") {
            Self::OpenInference
        } else if path == "/invocations" || path.ends_with("/invocations") {
            Self::Mlflow
        } else {
            Self::Contract
        }
    }

    /// The answer that says `error`.
    pub(crate) fn refuse(self, error: &AccessError) -> Response {
        let mut response = match self {
            Self::Contract => problem::respond(error),
            Self::OpenInference => (error.status(), Json(json!({ "error": error.to_string() }))).into_response(),
            Self::Mlflow => {
                let body = json!({ "error_code": mlflow_code(error), "message": error.to_string() });
                (error.status(), Json(body)).into_response()
            }
            Self::Grpc => grpc(error),
        };
        mark(error, response.headers_mut());
        response
    }
}

fn mark(error: &AccessError, headers: &mut HeaderMap) {
    if let AccessError::Unauthenticated { .. } = error {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(seconds) = error.retry_after_seconds() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
}

fn mlflow_code(error: &AccessError) -> &'static str {
    match error {
        AccessError::Unauthenticated { .. } => "UNAUTHENTICATED",
        AccessError::Forbidden { .. } => "PERMISSION_DENIED",
        AccessError::RateLimited { .. } => "REQUEST_LIMIT_EXCEEDED",
        AccessError::Unavailable { .. } => "TEMPORARILY_UNAVAILABLE",
        AccessError::UnknownKey { .. } => "RESOURCE_DOES_NOT_EXIST",
        AccessError::TooLarge { .. } | AccessError::InvalidRequest { .. } => "BAD_REQUEST",
    }
}

/// The gRPC status of `error`.
pub fn grpc_code(error: &AccessError) -> u8 {
    match error {
        AccessError::Unauthenticated { .. } => 16,
        AccessError::Forbidden { .. } => 7,
        AccessError::RateLimited { .. } | AccessError::TooLarge { .. } => 8,
        AccessError::UnknownKey { .. } => 5,
        AccessError::InvalidRequest { .. } => 3,
        AccessError::Unavailable { .. } => 14,
    }
}

/// The HTTP status of an answer; of one over gRPC, whose own is always 200, the one that comes nearest.
pub(crate) fn status_of(response: &Response) -> u16 {
    let code = response
        .headers()
        .get("grpc-status")
        .and_then(|code| code.to_str().ok());
    match code {
        None | Some("0") => response.status().as_u16(),
        Some("3" | "9" | "11") => 400,
        Some("16") => 401,
        Some("7") => 403,
        Some("5") => 404,
        Some("6" | "10") => 409,
        Some("8") => 429,
        Some("14") => 503,
        Some(_) => 500,
    }
}

/// An answer of trailers only ("Trailers-Only" of the gRPC protocol over HTTP/2).
fn grpc(error: &AccessError) -> Response {
    let mut message = String::new();
    for byte in error.to_string().bytes() {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            message.push(char::from(byte));
        } else {
            // Writing to a string can't fail.
            let _ = write!(message, "%{byte:02X}");
        }
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(u16::from(grpc_code(error))));
    if let Ok(message) = HeaderValue::from_str(&message) {
        headers.insert("grpc-message", message);
    }
    response
}
