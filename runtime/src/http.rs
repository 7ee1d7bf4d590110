//! Answers that no contract gives: to a path or method that nothing serves, and at the shutdown. Each is a problem document.

use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

/// The answer to a path that nothing serves.
pub(crate) async fn not_found(uri: Uri) -> Response {
    problem(
        StatusCode::NOT_FOUND,
        "no-such-route",
        &format!("nothing is served at `{}`: see /docs", uri.path()),
    )
}

/// The answer to a method that the path does not take.
pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let detail = format!("`{}` does not take {method}: see /docs", uri.path());
    problem(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", &detail)
}

/// The answer to a request that outlasts the server.
pub(crate) fn shutting_down() -> Response {
    problem(
        StatusCode::SERVICE_UNAVAILABLE,
        "unavailable",
        "the service is shutting down: try again",
    )
}

/// An RFC 9457 problem document in the form of the contracts'.
pub(crate) fn problem(status: StatusCode, code: &str, detail: &str) -> Response {
    let body = serde_json::json!({
        "type": format!("urn:ondol:problem:{code}"),
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail,
        "code": code,
        "retryable": status == StatusCode::SERVICE_UNAVAILABLE,
    });
    (
        status,
        [(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        )],
        body.to_string(),
    )
        .into_response()
}
