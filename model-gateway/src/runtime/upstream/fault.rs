//! Why a call failed, and what may be done about it.

use crate::runtime::{RuntimeError, UpstreamFault};
use http::StatusCode;
use serde_json::error::Category;
use std::time::Duration;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A setting of the call can't be read here.
    Setup(String),
    /// No connection: nothing was sent.
    Unsent(String),
    /// The connection was lost before the whole answer was there.
    Broken(String),
    /// No whole answer in time.
    TimedOut(Duration),
    /// An answer whose status says failure, and the beginning of its words. They may quote what was sent.
    Status {
        status: StatusCode,
        detail: String,
        words: Option<String>,
    },
    /// An answer that is not of the protocol.
    Wrong(String),
}

impl Fault {
    pub(super) fn of_request(error: &reqwest::Error) -> Self {
        if error.is_connect() {
            Self::Unsent(cause(error))
        } else {
            Self::Broken(cause(error))
        }
    }

    pub(super) fn of_body(error: &reqwest::Error) -> Self {
        Self::Broken(cause(error))
    }

    /// Whether the same call may succeed at once.
    pub(super) fn is_retryable(&self, idempotent: bool) -> bool {
        match self {
            Self::Unsent(_) => true,
            Self::Broken(_) | Self::TimedOut(_) => idempotent,
            Self::Status { status, .. } => match status.as_u16() {
                // Refused before it was worked on.
                429 | 503 => true,
                408 | 500 | 502 | 504..=599 => idempotent,
                _ => false,
            },
            Self::Setup(_) | Self::Wrong(_) => false,
        }
    }

    /// Whether it says that the upstream is in trouble, rather than that this one call is wrong.
    pub(super) fn is_trouble(&self) -> bool {
        match self {
            Self::Unsent(_) | Self::Broken(_) | Self::TimedOut(_) | Self::Wrong(_) => true,
            Self::Status { status, .. } => status.is_server_error() && *status != StatusCode::NOT_IMPLEMENTED,
            Self::Setup(_) => false,
        }
    }

    /// An answer that is no JSON, or not of the protocol. Where it goes wrong is told, and not what stands there.
    pub(super) fn unreadable(error: &serde_json::Error) -> Self {
        Self::Wrong(format!("its answer can't be read: {}", place(error)))
    }

    /// What its kind is called in metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Setup(_) => "setup",
            Self::Unsent(_) => "unreachable",
            Self::Broken(_) => "broken",
            Self::TimedOut(_) => "timeout",
            Self::Status { .. } => "status",
            Self::Wrong(_) => "wrong",
        }
    }

    /// As the error of the run.
    pub(super) fn of(self, upstream: &str) -> RuntimeError {
        let fault = match self {
            Self::TimedOut(_) => UpstreamFault::TimedOut,
            _ => UpstreamFault::Failed,
        };
        let (detail, words) = match self {
            Self::TimedOut(waited) => (format!("no whole answer within {} ms", waited.as_millis()), None),
            Self::Unsent(detail) => (format!("it can't be reached: {detail}"), None),
            Self::Broken(detail) => (format!("the connection was lost: {detail}"), None),
            Self::Status { detail, words, .. } => (detail, words),
            Self::Setup(detail) | Self::Wrong(detail) => (detail, None),
        };
        RuntimeError::Upstream {
            upstream: upstream.to_owned(),
            fault,
            detail,
            words,
        }
    }
}

/// Where JSON goes wrong, without what stands there, as `serde_json` would tell.
fn place(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        Category::Io | Category::Eof => "it ends too soon",
        Category::Syntax => "it is no JSON",
        Category::Data => "it is not of the protocol",
    };
    format!("{what} (line {}, column {})", error.line(), error.column())
}

/// The innermost cause: `reqwest` hides it in the chain, and puts the whole URL in front.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if std::ptr::addr_eq(cause, error) {
        return "the request could not be made".to_owned();
    }
    cause.to_string()
}
