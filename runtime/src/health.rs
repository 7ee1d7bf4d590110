//! Whether a process is alive (`/healthz`) and whether it should get traffic (`/readyz`).

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, http::StatusCode};
use serde::Serialize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The checks that make a process ready. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Health {
    checks: Arc<Mutex<Vec<Check>>>,
}

/// Reports one check. Clones report the same one. A handle that is dropped leaves the check as it stands.
#[derive(Clone, Debug)]
pub struct ReadyHandle {
    health: Health,
    index: usize,
}

/// One check as `/readyz` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What is checked, for example `online-store`.
    pub name: &'static str,
    /// Whether it lets traffic in.
    pub ready: bool,
    /// Why it does not; or, where it does, what is worth knowing of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Serialize)]
struct Report {
    status: &'static str,
    checks: Vec<Check>,
}

impl Health {
    /// Without checks: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check, which is not ready ("starting") until its handle says so. Two checks may share a name.
    pub fn register(&self, name: &'static str) -> ReadyHandle {
        let mut checks = self.lock();
        checks.push(Check {
            name,
            ready: false,
            reason: Some("starting".to_owned()),
        });
        ReadyHandle {
            health: self.clone(),
            index: checks.len() - 1,
        }
    }

    /// Whether every check is ready.
    pub fn is_ready(&self) -> bool {
        self.lock().iter().all(|check| check.ready)
    }

    /// Every check as it stands, in order of registration.
    pub fn checks(&self) -> Vec<Check> {
        self.lock().clone()
    }

    /// `/healthz` and `/readyz`.
    pub fn routes(&self) -> Router {
        Router::new()
            .route(
                "/healthz",
                get(|| async { Json(serde_json::json!({ "status": "ok" })) }),
            )
            .route("/readyz", get(readyz))
            .with_state(self.clone())
    }

    // A panic while the lock is held can't leave a check half-written, so a poisoned lock is taken as it is.
    fn lock(&self) -> MutexGuard<'_, Vec<Check>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadyHandle {
    /// The check lets traffic in.
    pub fn ready(&self) {
        self.set(true, None);
    }

    /// The check lets traffic in, and `note` is worth knowing.
    pub fn ready_with(&self, note: impl Into<String>) {
        self.set(true, Some(note.into()));
    }

    /// The check keeps traffic out, because of `reason`.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(false, Some(reason.into()));
    }

    fn set(&self, ready: bool, reason: Option<String>) {
        if let Some(check) = self.health.lock().get_mut(self.index) {
            if check.ready != ready {
                tracing::info!(check = check.name, ready, reason, "readiness changed");
            }
            check.ready = ready;
            check.reason = reason;
        }
    }
}

async fn readyz(State(health): State<Health>) -> Response {
    let checks = health.checks();
    if checks.iter().all(|check| check.ready) {
        Json(Report {
            status: "ready",
            checks,
        })
        .into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(Report {
                status: "not-ready",
                checks,
            }),
        )
            .into_response()
    }
}
