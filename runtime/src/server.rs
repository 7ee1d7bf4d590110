//! One port: the contracts' routers, health, metrics and documents together, over HTTP/1.1 and HTTP/2.

mod observe;
mod parting;

use crate::door::Door;
pub use crate::door::Peer;
use crate::http::{method_not_allowed, not_found};
use crate::tls::TlsServer;
use crate::{Health, Shutdown, docs, metrics};
use axum::Router;
use observe::Observe;
use parting::Routes;
pub use parting::ServerShutdown;
use tokio::net::TcpListener;
use utoipa::openapi::OpenApi;

/// Route label of requests that no route matched: their paths are the caller's words and must not become labels.
const MATCHES_NOTHING: &str = "unmatched";

/// Composes what one port serves. Contracts must not overlap in their routes: an overlap panics when it is built.
pub struct ServiceRouter {
    routes: Router,
    /// Routes that are counted, each under a service.
    observed: Vec<(&'static str, Router)>,
    openapi: Option<OpenApi>,
    title: Option<String>,
    body_limit_bytes: usize,
}

impl ServiceRouter {
    /// How large a request body may be where neither the route nor [`Self::body_limit`] says otherwise.
    pub const BODY_LIMIT_BYTES: usize = 64 << 20;

    /// With `/healthz`, `/readyz` and `/metrics`.
    pub fn new(health: &Health) -> Self {
        let routes = health.routes().merge(metrics::routes());
        Self {
            routes,
            observed: Vec::new(),
            openapi: None,
            title: None,
            body_limit_bytes: Self::BODY_LIMIT_BYTES,
        }
    }

    /// Adds a contract's routes and its document. Its requests are counted under `service`.
    #[must_use]
    pub fn contract(mut self, service: &'static str, router: Router, openapi: OpenApi) -> Self {
        self.openapi = Some(match self.openapi.take() {
            Some(first) => first.merge_from(openapi),
            None => openapi,
        });
        self.undocumented(service, router)
    }

    /// Adds routes whose document is published elsewhere, such as a protocol's. Counted under `service`.
    #[must_use]
    pub fn undocumented(mut self, service: &'static str, router: Router) -> Self {
        let router = router.method_not_allowed_fallback(method_not_allowed);
        self.observed.push((service, router));
        self
    }

    /// The title of the merged document; without it the first contract's stands.
    #[must_use]
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = Some(title.into());
        self
    }

    /// How large a request body may be on routes that set no limit of their own.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit_bytes = bytes;
        self
    }

    /// The router to [`serve`].
    pub fn build(self) -> Router {
        let limit = self.body_limit_bytes;
        let mut routes = self.routes;
        for (service, router) in self.observed {
            routes = routes.merge(router.layer(Observe::new(service, limit)));
        }
        if let Some(mut openapi) = self.openapi {
            if let Some(title) = self.title {
                openapi.info.title = title;
            }
            routes = routes.merge(docs::routes(openapi));
        }
        let unmatched = Router::new().fallback(not_found).layer(Observe::new("none", limit));
        routes.fallback_service(unmatched)
    }
}

/// Serves `router` on `listener` until `shutdown` is triggered; then takes no new connections, finishes the requests
/// under way and returns; a GET that is still waiting a second later (a long poll) is answered with a retryable 503.
/// From the shutdown's announcement on, answers over HTTP/1.1 end their connections, so that callers come back on new
/// ones, which a load balancer leads elsewhere. HTTP/1.1 and HTTP/2 with prior knowledge (h2c) share the port.
pub async fn serve(listener: TcpListener, router: Router, shutdown: Shutdown) {
    serve_tls(listener, None, router, shutdown).await;
}

/// As [`serve`], over TLS where `tls` is there.
pub async fn serve_tls(listener: TcpListener, tls: Option<TlsServer>, router: Router, shutdown: Shutdown) {
    let address = listener
        .local_addr()
        .map(|address| address.to_string())
        .unwrap_or_default();
    let encrypted = tls.is_some();
    let door = match Door::open(listener, tls, &shutdown) {
        Ok(door) => door,
        Err(error) => return tracing::error!(address, %error, "serving failed"),
    };
    tracing::info!(address, tls = encrypted, "serving");
    let routes = Routes::new(router, shutdown.announced(), shutdown.token());
    let served = axum::serve(door, routes)
        .with_graceful_shutdown(shutdown.token().cancelled_owned())
        .await;
    match served {
        Ok(()) => tracing::info!(address, "stopped serving"),
        Err(error) => tracing::error!(address, %error, "serving failed"),
    }
}
