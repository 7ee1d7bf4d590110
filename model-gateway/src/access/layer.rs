//! The door itself: what happens to a request before its route sees it.
//!
//! Where access is off, a request that asks for no change passes without a future of its own: this is on the way of every
//! prediction.

use super::Access;
use super::identity::Identity;
use super::refusal::{self, Protocol};
use super::routes::{self, Need};
use super::scopes::Action;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderValue, header};
use axum::response::Response;
use futures::future::BoxFuture;
use http_body_util::Limited;
use ondol_model_gateway_api::AccessError;
use ondol_model_gateway_api::wire::{AccessMode, AuditEntry};
use ondol_runtime::Peer;
use ondol_vocabulary::EventTime;
use ondol_wire::ContractError as _;
use pin_project_lite::pin_project;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};
use tower::{Layer, Service};

/// Says on every answer that access is off.
const ACCESS: &str = "ondol-access";

/// The caller of a request that was let in: an extension of the request. A handler whose model is named in the body
/// asks it before it does anything.
#[derive(Clone)]
pub struct Admission {
    access: Arc<Access>,
    identity: Arc<Identity>,
}

impl Admission {
    /// Whether the caller may do `action` with `model` (`fraud` or `fraud@3`) now.
    ///
    /// # Errors
    /// Which scope is missing, or that the rate is used up.
    pub fn admit(&self, action: Action, model: &str) -> Result<(), AccessError> {
        let model = routes::name(model);
        self.authorise(action, &model)?;
        self.access.take(&self.identity, &model)
    }

    /// The caller of the request that has `extensions`.
    ///
    /// # Errors
    /// When the request did not come through the door.
    pub fn of(extensions: &Extensions) -> Result<Self, AccessError> {
        extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| AccessError::Unauthenticated {
                detail: "the request did not come through the gateway's door".to_owned(),
            })
    }

    fn authorise(&self, action: Action, model: &str) -> Result<(), AccessError> {
        if self.identity.scopes.allow(action, model) {
            return Ok(());
        }
        Err(self.missing(&format!("{}:{model}", action.name())))
    }

    fn missing(&self, scope: &str) -> AccessError {
        AccessError::Forbidden {
            detail: format!(
                "{} lacks the scope `{scope}` (it has: {})",
                self.identity.who, self.identity.scopes
            ),
        }
    }

    /// What a request that may pass takes with it, and where its body must end, if it has not said where it does.
    fn settle(&self, protocol: Protocol, need: &Need, parts: &mut Parts) -> Result<Option<u64>, AccessError> {
        let limit = match self.access.body_limit(need, protocol) {
            Some(limit) => bounded(&parts.headers, limit)?,
            None => None,
        };
        // A change is kept with who made it.
        if parts.uri.path() == "/v1/identity" || need.change(&parts.method).is_some() {
            parts.extensions.insert(self.identity.shown(self.access.mode));
        }
        Ok(limit)
    }

    /// Whether the caller may do what its route asks for, as far as the path tells.
    fn permit(&self, need: &Need) -> Result<(), AccessError> {
        match need {
            Need::Open | Need::Known => self.access.take(&self.identity, ""),
            Need::Model(action, model) => self.admit(*action, model),
            // The method asks for the model, once it knows it.
            Need::Body(action) if self.identity.scopes.allow_some(*action) => Ok(()),
            Need::Body(action) => Err(self.missing(&format!("{}:MODEL", action.name()))),
            Need::Admin if self.identity.scopes.is_admin() => Ok(()),
            Need::Admin => Err(self.missing("admin")),
        }
    }
}

impl Access {
    fn take(&self, identity: &Identity, model: &str) -> Result<(), AccessError> {
        if self.mode == AccessMode::Off {
            return Ok(());
        }
        self.limits
            .take(&identity.tenant, model, self.clock.now_micros())
            .map_err(|retry_after_s| {
                let rate = self.limits.rate_of(&identity.tenant);
                let of = if model.is_empty() { String::new() } else { format!(" of model `{model}`") };
                AccessError::RateLimited {
                    detail: format!(
                        "tenant `{}` may ask {} times a second{of} (at most {} at once): try again in {retry_after_s} s",
                        identity.tenant,
                        rate.requests_per_s,
                        rate.capacity()
                    ),
                    retry_after_s,
                }
            })
    }

    async fn identify(&self, parts: &Parts) -> Result<Arc<Identity>, AccessError> {
        if self.mode == AccessMode::Off {
            return Ok(Arc::clone(&self.anyone));
        }
        let peer = parts.extensions.get::<ConnectInfo<Peer>>();
        let certificate = peer.and_then(|ConnectInfo(peer)| peer.certificate.as_deref());
        self.authentication.identify(&parts.headers, certificate).await
    }

    /// The largest body of a request that asks for `need`; none where the route has a limit of its own, or the protocol
    /// limits each message.
    fn body_limit(&self, need: &Need, protocol: Protocol) -> Option<u64> {
        match need {
            _ if protocol == Protocol::Grpc => None,
            Need::Model(Action::Register, _) => None,
            Need::Model(Action::Predict, _) | Need::Body(_) => Some(self.config.max_predict_bytes),
            Need::Open | Need::Known | Need::Model(..) | Need::Admin => Some(self.config.max_change_bytes),
        }
    }

    /// Notes in the audit log that `identity` asks for a change.
    async fn note(
        &self,
        identity: &Identity,
        action: &str,
        parts: &Parts,
        refused: Option<u16>,
    ) -> Result<String, AccessError> {
        let at = self.clock.now_micros();
        let moment = SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(at).unwrap_or(0));
        let id = self
            .entry_ids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .generate_from_datetime(moment);
        let id = id.map_err(|error| unwritten(&error))?.to_string();
        let entry = AuditEntry {
            id: id.clone(),
            at: EventTime::from_micros(at),
            who: identity.who.clone(),
            tenant: identity.tenant.clone(),
            action: action.to_owned(),
            subject: format!("{} {}", parts.method, parts.uri.path()),
            outcome: if refused.is_some() { "refused" } else { "pending" }.to_owned(),
            status: refused,
        };
        self.store.begin(&entry).await.map_err(|error| unwritten(&error))?;
        Ok(id)
    }

    /// Notes what came of a change.
    async fn conclude(&self, id: &str, status: u16) {
        let outcome = match status {
            200..=399 => "done",
            400..=499 => "refused",
            _ => "failed",
        };
        if let Err(error) = self.store.end(id, outcome, status).await {
            metrics::counter!("ondol_gateway_audit_errors_total").increment(1);
            tracing::error!(%error, entry = id, outcome, status, "what came of a change can't be noted in the audit log");
        }
    }
}

fn unwritten(error: &dyn std::fmt::Display) -> AccessError {
    metrics::counter!("ondol_gateway_audit_errors_total").increment(1);
    tracing::error!(%error, "a change can't be noted in the audit log");
    AccessError::Unavailable {
        detail: "the audit log can't be written, and no change is made without it: try again later".to_owned(),
    }
}

/// The door, for the routes behind it.
#[derive(Clone)]
pub(super) struct Guard(Arc<Access>);

impl Guard {
    pub(super) fn of(access: &Arc<Access>) -> Self {
        Self(Arc::clone(access))
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            access: Arc::clone(&self.0),
        }
    }
}

/// Routes behind the door.
#[derive(Clone)]
pub(super) struct Guarded<S> {
    inner: S,
    access: Arc<Access>,
}

pin_project! {
    /// A request at the door, or past it.
    #[project = GuardingProjection]
    pub(super) enum Guarding<F> {
        /// It was let in at once.
        Passed { #[pin] inner: F, access: Arc<Access> },
        /// It is looked at, or waits for what comes of its change.
        Asked { future: BoxFuture<'static, Response> },
    }
}

impl<S> Service<Request> for Guarded<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Guarding<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let access = Arc::clone(&self.access);
        let protocol = Protocol::of(&request);
        let need = routes::need(request.method(), request.uri().path());
        if need == Need::Open && access.config.open_health {
            let inner = self.inner.call(request);
            return Guarding::Passed { inner, access };
        }
        if access.mode == AccessMode::Off && need.change(request.method()).is_none() {
            let (mut parts, body) = request.into_parts();
            let entered = enter_as_anyone(&access, protocol, &need, &mut parts);
            count(&entered);
            return match entered {
                Ok(limit) => {
                    let inner = self.inner.call(Request::from_parts(parts, limited(body, limit)));
                    Guarding::Passed { inner, access }
                }
                Err(error) => Guarding::Asked {
                    future: Box::pin(std::future::ready(protocol.refuse(&error))),
                },
            };
        }
        // What was made ready is what is called.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        Guarding::Asked {
            future: Box::pin(ask(access, inner, protocol, need, request)),
        }
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Guarding<F> {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            GuardingProjection::Passed { inner, access } => {
                let Ok(response) = ready!(inner.poll(context));
                Poll::Ready(Ok(marked(access, response)))
            }
            GuardingProjection::Asked { future } => future.as_mut().poll(context).map(Ok),
        }
    }
}

/// Lets `request` in, or says why not.
async fn ask<S>(access: Arc<Access>, mut inner: S, protocol: Protocol, need: Need, request: Request) -> Response
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    let (mut parts, body) = request.into_parts();
    let outcome = enter(&access, protocol, &need, &mut parts).await;
    count(&outcome);
    let entered = match outcome {
        Ok(entered) => entered,
        Err(error) => return protocol.refuse(&error),
    };
    let Ok(response) = inner
        .call(Request::from_parts(parts, limited(body, entered.body_limit)))
        .await;
    if let Some(entry) = entered.entry {
        access.conclude(&entry, refusal::status_of(&response)).await;
    }
    marked(&access, response)
}

fn count<T>(outcome: &Result<T, AccessError>) {
    let counted = match outcome {
        Ok(_) => "granted",
        Err(error) => error.code(),
    };
    metrics::counter!("ondol_gateway_access_total", "outcome" => counted).increment(1);
}

/// A body that ends where it must.
fn limited(body: Body, limit: Option<u64>) -> Body {
    match limit {
        Some(limit) => Body::new(Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX))),
        None => body,
    }
}

/// As [`enter`], where access is off, of a request that asks for no change. Where its body must end.
fn enter_as_anyone(
    access: &Arc<Access>,
    protocol: Protocol,
    need: &Need,
    parts: &mut Parts,
) -> Result<Option<u64>, AccessError> {
    let admission = Admission {
        access: Arc::clone(access),
        identity: Arc::clone(&access.anyone),
    };
    admission.permit(need)?;
    let limit = admission.settle(protocol, need, parts)?;
    parts.extensions.insert(admission);
    Ok(limit)
}

/// A request that may pass.
struct Entered {
    /// Its entry in the audit log, if it asks for a change.
    entry: Option<String>,
    /// Where its body must end, if it has not said where it does.
    body_limit: Option<u64>,
}

/// Decides whether a request may pass.
async fn enter(
    access: &Arc<Access>,
    protocol: Protocol,
    need: &Need,
    parts: &mut Parts,
) -> Result<Entered, AccessError> {
    let identity = access.identify(parts).await?;
    let admission = Admission {
        access: Arc::clone(access),
        identity: Arc::clone(&identity),
    };
    let change = need.change(&parts.method);
    if let Err(error) = admission.permit(need) {
        if let (Some(action), AccessError::Forbidden { .. }) = (change, &error) {
            let status = error.status().as_u16();
            access.note(&identity, action, parts, Some(status)).await?;
        }
        return Err(error);
    }
    let body_limit = admission.settle(protocol, need, parts)?;
    let entry = match change {
        Some(action) => Some(access.note(&identity, action, parts, None).await?),
        None => None,
    };
    parts.extensions.insert(admission);
    Ok(Entered { entry, body_limit })
}

/// Refuses a body that says it is larger than `limit`; where one that does not say how large it is must end.
fn bounded(headers: &HeaderMap, limit: u64) -> Result<Option<u64>, AccessError> {
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<u64>().ok());
    match length {
        Some(length) if length > limit => Err(AccessError::TooLarge {
            detail: format!("the body has {length} bytes, this route takes {limit}: send it in parts"),
        }),
        Some(_) => Ok(None),
        None => Ok(Some(limit)),
    }
}

fn marked(access: &Access, mut response: Response) -> Response {
    if access.mode == AccessMode::Off {
        response.headers_mut().insert(ACCESS, HeaderValue::from_static("off"));
    }
    response
}
