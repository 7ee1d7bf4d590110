//! What happens around every request: it is counted, timed and traced; a panic becomes a 500; a path or method that
//! nothing serves becomes a problem document.

use crate::shutdown::panic_text;
use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::{FutureExt, StreamExt};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Route label of requests that no route matched: their paths are the caller's words and must not become labels.
const UNMATCHED: &str = "unmatched";

/// Media type of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

/// How long a GET may still take once the shutdown has been triggered.
const GET_GRACE: Duration = Duration::from_secs(1);

/// Runs one request of `service` and records it as `ondol_http_requests_total` and
/// `ondol_http_request_duration_seconds`.
pub(crate) async fn observe(service: &'static str, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = method_label(request.method());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
    let verb = verb_of(route, request.uri().path()).map(ToOwned::to_owned);
    let span = tracing::debug_span!("request", service, method, route, traceparent = traceparent(&request));

    let response = match AssertUnwindSafe(next.run(request))
        .catch_unwind()
        .instrument(span)
        .await
    {
        Ok(response) => response,
        Err(panic) => {
            tracing::error!(service, route, panic = panic_text(panic.as_ref()), "request panicked");
            problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the request failed inside the service: see its log",
            )
        }
    };

    let status = response.status();
    // A verb counts only once the service has recognized it: see `verb_of`.
    let route = match verb {
        Some(verb) if status != StatusCode::NOT_FOUND => format!("{route}:{verb}"),
        _ => route.to_owned(),
    };
    let labels = [
        ("service", service.to_owned()),
        ("method", method.to_owned()),
        ("route", route),
        ("status", status.as_str().to_owned()),
    ];
    metrics::counter!("ondol_http_requests_total", &labels).increment(1);
    metrics::histogram!("ondol_http_request_duration_seconds", &labels).record(started.elapsed());
    response
}

/// The verb of a path such as `/v1/models/fraud:predict`, whose route is `/v1/models/{model}`: the router can't match
/// a suffix, so several operations share one route and would share one label.
fn verb_of<'a>(route: &str, path: &'a str) -> Option<&'a str> {
    let (_, verb) = path.rsplit('/').next()?.rsplit_once(':')?;
    let plausible = route.ends_with('}') && verb.len() <= 32 && verb.bytes().all(|byte| byte.is_ascii_alphabetic());
    (plausible && !verb.is_empty()).then_some(verb)
}

fn traceparent(request: &Request) -> &str {
    request
        .headers()
        .get("traceparent")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// An unknown method is a caller's word too.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

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

/// Among a request's extensions: the shutdown of the server that it came by, for a conversation that has no end of its own.
#[derive(Clone, Debug)]
pub struct ServerShutdown(CancellationToken);

impl ServerShutdown {
    /// Returns once the shutdown is triggered.
    pub async fn triggered(&self) {
        self.0.cancelled().await;
    }
}

/// Runs a request, but not past the shutdown: a GET changes nothing, so one that is still waiting (a long poll) is
/// answered "try again" shortly after the shutdown, rather than holding up the drain; a stream of events ends there, and
/// its client connects again. Every other method is finished; its handler is told of the shutdown ([`ServerShutdown`]).
pub(crate) async fn end_with(shutdown: CancellationToken, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(ServerShutdown(shutdown.clone()));
    if request.method() != Method::GET {
        return next.run(request).await;
    }
    let over = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GET_GRACE).await;
    };
    let response = tokio::select! {
        response = next.run(request) => response,
        () = over => return shutting_down(),
    };
    let kind = response.headers().get(header::CONTENT_TYPE);
    if kind.is_none_or(|kind| kind != EVENT_STREAM) {
        return response;
    }
    response.map(|events| {
        let events = events.into_data_stream();
        Body::from_stream(events.take_until(shutdown.cancelled_owned()))
    })
}

fn shutting_down() -> Response {
    problem(
        StatusCode::SERVICE_UNAVAILABLE,
        "unavailable",
        "the service is shutting down: try again",
    )
}

/// An RFC 9457 problem document in the form of the contracts', for answers that no contract gives.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plausible_verb_of_a_parameter_becomes_part_of_a_route() {
        let check = |route, path, expected: Option<&str>| assert_eq!(verb_of(route, path), expected, "{path}");
        check("/v1/models/{model}", "/v1/models/fraud:predict", Some("predict"));
        check("/v1/models/{model}", "/v1/models/fraud", None);
        check("/v1/models/{model}", "/v1/models/fraud:", None);
        check("/v1/models/{model}", "/v1/models/fraud:9", None);
        check("/v1/features:read", "/v1/features:read", None);
        check(UNMATCHED, "/a:b", None);
    }
}
