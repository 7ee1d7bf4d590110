//! A token that our own services share: who shows it may call them, nobody else.

use crate::http::problem;
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

/// Bytes a token has at least: guessing is then hopeless, whatever they are.
pub const TOKEN_BYTES: usize = 16;

/// Lets only requests to `router` through that carry `Authorization: Bearer` and `token`.
pub fn require_token(router: Router, token: &str) -> Router {
    let token: Arc<str> = Arc::from(token);
    router.layer(from_fn(move |request: Request, next: Next| {
        let token = Arc::clone(&token);
        async move {
            if shown(request.headers()).is_some_and(|shown| bool::from(shown.as_bytes().ct_eq(token.as_bytes()))) {
                return next.run(request).await;
            }
            refused()
        }
    }))
}

/// The bearer token of a request, if it has one (RFC 6750).
fn shown(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn refused() -> Response {
    metrics::counter!("ondol_service_token_refusals_total").increment(1);
    let mut response = problem(
        StatusCode::UNAUTHORIZED,
        "unauthenticated",
        "this service takes calls with the service token only: send `Authorization: Bearer …` (`peers.token` in the \
         other services' configuration, `--service-token` or ONDOL_SERVICE_TOKEN of the command line)",
    );
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}
