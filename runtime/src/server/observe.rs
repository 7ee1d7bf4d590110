//! What happens around every request of a service: it is counted, timed and traced, a panic becomes a 500, and its body
//! has a limit.
//!
//! Cost model: this is on the way of every prediction, so it is one layer (each layer of a router costs a boxed service a
//! request), owns no future of its own, and asks the recorder for a counter once for each set of labels.

use super::MATCHES_NOTHING;
use crate::http::problem;
use crate::shutdown::panic_text;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use hashbrown::{Equivalent, HashMap};
use metrics::{Counter, Histogram, counter, histogram};
use pin_project_lite::pin_project;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tower::{Layer, Service};
use tracing::Span;

/// Answers that may come before the service has looked at the verb of a path: see [`verb_of`].
const BEFORE_THE_VERB: [StatusCode; 5] = [
    StatusCode::UNAUTHORIZED,
    StatusCode::FORBIDDEN,
    StatusCode::NOT_FOUND,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::TOO_MANY_REQUESTS,
];

/// Records requests of one service as `ondol_http_requests_total` and `ondol_http_request_duration_seconds`.
#[derive(Clone)]
pub(super) struct Observe(Arc<Watch>);

/// A service's requests and their meters.
struct Watch {
    service: &'static str,
    body_limit_bytes: usize,
    /// One for each set of labels that was seen: bounded by the routes, methods and statuses there are.
    meters: RwLock<HashMap<Labels, Meter>>,
}

#[derive(Clone)]
struct Meter {
    requests: Counter,
    seconds: Histogram,
}

#[derive(PartialEq, Eq, Hash)]
struct Labels {
    method: &'static str,
    status: u16,
    route: String,
    verb: Option<String>,
}

/// [`Labels`] that are not owned: of the same hash.
#[derive(Hash)]
struct Seen<'a> {
    method: &'static str,
    status: u16,
    route: &'a str,
    verb: Option<&'a str>,
}

impl Equivalent<Labels> for Seen<'_> {
    fn equivalent(&self, known: &Labels) -> bool {
        self.method == known.method
            && self.status == known.status
            && self.route == known.route
            && self.verb == known.verb.as_deref()
    }
}

impl Observe {
    /// Of `service`, whose requests have bodies of `body_limit_bytes` at most where a route sets no other limit.
    pub(super) fn new(service: &'static str, body_limit_bytes: usize) -> Self {
        Self(Arc::new(Watch {
            service,
            body_limit_bytes,
            meters: RwLock::default(),
        }))
    }
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed {
            inner,
            watch: Arc::clone(&self.0),
        }
    }
}

/// A service whose requests are observed.
#[derive(Clone)]
pub(super) struct Observed<S> {
    inner: S,
    watch: Arc<Watch>,
}

pin_project! {
    /// A request under way.
    pub(super) struct Observing<F> {
        #[pin]
        inner: F,
        span: Span,
        label: Label,
        watch: Arc<Watch>,
        started: Instant,
    }
}

/// What is known of a request before it is answered.
struct Label {
    method: &'static str,
    matched: Option<MatchedPath>,
    verb: Option<String>,
}

impl<S> Service<Request> for Observed<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Observing<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let label = Label::of(&request);
        let span = tracing::debug_span!(
            "request",
            service = self.watch.service,
            method = label.method,
            route = label.route(),
            traceparent = traceparent(&request)
        );
        DefaultBodyLimit::max(self.watch.body_limit_bytes).apply(&mut request);
        Observing {
            started: Instant::now(),
            inner: self.inner.call(request),
            span,
            label,
            watch: Arc::clone(&self.watch),
        }
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Observing<F> {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let polled = {
            let _within = this.span.enter();
            // After a panic the request is answered, and its future not polled again.
            std::panic::catch_unwind(AssertUnwindSafe(|| this.inner.poll(context)))
        };
        let response = match polled {
            Ok(polled) => {
                let Ok(response) = ready!(polled);
                response
            }
            Err(panic) => {
                let (service, route) = (this.watch.service, this.label.route());
                tracing::error!(service, route, panic = panic_text(panic.as_ref()), "request panicked");
                problem(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal",
                    "the request failed inside the service: see its log",
                )
            }
        };
        this.watch.record(this.label, response.status(), *this.started);
        Poll::Ready(Ok(response))
    }
}

impl Label {
    fn of(request: &Request) -> Self {
        let matched = request.extensions().get::<MatchedPath>().cloned();
        let route = matched.as_ref().map_or(MATCHES_NOTHING, MatchedPath::as_str);
        Self {
            method: method_label(request.method()),
            verb: verb_of(route, request.uri().path()).map(ToOwned::to_owned),
            matched,
        }
    }

    fn route(&self) -> &str {
        self.matched.as_ref().map_or(MATCHES_NOTHING, MatchedPath::as_str)
    }
}

impl Watch {
    fn record(&self, label: &Label, status: StatusCode, started: Instant) {
        let seen = Seen {
            method: label.method,
            status: status.as_u16(),
            route: label.route(),
            verb: label.verb.as_deref().filter(|_| !BEFORE_THE_VERB.contains(&status)),
        };
        let meter = self.meter(&seen);
        meter.requests.increment(1);
        meter.seconds.record(started.elapsed());
    }

    fn meter(&self, seen: &Seen<'_>) -> Meter {
        // A panic can't leave the map half-changed, so a poisoned lock is as good as any.
        let known = self.meters.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(meter) = known.get(seen) {
            return meter.clone();
        }
        drop(known);
        let route = match seen.verb {
            Some(verb) => format!("{}:{verb}", seen.route),
            None => seen.route.to_owned(),
        };
        let labels = [
            ("service", self.service.to_owned()),
            ("method", seen.method.to_owned()),
            ("route", route),
            ("status", seen.status.to_string()),
        ];
        let meter = Meter {
            requests: counter!("ondol_http_requests_total", &labels),
            seconds: histogram!("ondol_http_request_duration_seconds", &labels),
        };
        let labels = Labels {
            method: seen.method,
            status: seen.status,
            route: seen.route.to_owned(),
            verb: seen.verb.map(ToOwned::to_owned),
        };
        let mut known = self.meters.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(labels).or_insert(meter).clone()
    }
}

/// The verb of a path such as `/v1/models/fraud:predict`, whose route is `/v1/models/{model}`: the router can't match
/// a suffix, so several operations share one route and would share one label. A verb counts only once the service has
/// recognized it: before that it is the caller's word.
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
        check(MATCHES_NOTHING, "/a:b", None);
    }

    #[test]
    fn a_verb_that_nobody_recognized_makes_no_label() {
        let watch = Observe::new("s", 1);
        let label = |verb: &str| Label {
            method: "POST",
            matched: None,
            verb: Some(verb.to_owned()),
        };
        for verb in ["a", "b", "c"] {
            for status in BEFORE_THE_VERB {
                watch.0.record(&label(verb), status, Instant::now());
            }
        }
        let count = || watch.0.meters.read().unwrap().len();
        assert_eq!(count(), BEFORE_THE_VERB.len());
        for _ in 0..3 {
            watch.0.record(&label("predict"), StatusCode::OK, Instant::now());
        }
        assert_eq!(count(), BEFORE_THE_VERB.len() + 1);
    }
}
