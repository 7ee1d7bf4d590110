//! HTTP to one upstream, over TCP or a Unix socket, with connections kept.

use crate::runtime::RuntimeError;
use crate::runtime::upstream::fault::Fault;
use crate::runtime::upstream::spec::UpstreamSpec;
use bytes::{Bytes, BytesMut};
use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use ondol_runtime::Secret;
use std::str::FromStr as _;
use std::time::Duration;

/// How long a connection that nobody uses is kept. Shorter than servers usually keep theirs, so that a call rarely meets
/// one that was just closed.
const IDLE: Duration = Duration::from_secs(4);
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(1);
/// The most of an error's body that is told.
const TOLD: usize = 300;

/// Calls one server.
#[derive(Debug)]
pub(super) struct Transport {
    client: reqwest::Client,
    base: String,
    headers: Vec<(HeaderName, Secret)>,
    max_bytes: usize,
}

/// A call to make. Cheap to copy: it may be made again.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    /// Starts with `/`.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// What the server answered, with a status that says success.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// The authorities of the description.
fn authorities(spec: &UpstreamSpec) -> Result<Vec<reqwest::Certificate>, RuntimeError> {
    let Some(ca) = &spec.ca else { return Ok(Vec::new()) };
    let refuse = |error: &dyn std::fmt::Display| RuntimeError::Artifact(format!("`ca` is `{}`: {error}", ca.display()));
    let pem = std::fs::read(ca).map_err(|error| refuse(&error))?;
    reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| refuse(&error))
}

impl Transport {
    pub(super) fn open(spec: &UpstreamSpec) -> Result<Self, RuntimeError> {
        let address = spec.address().map_err(RuntimeError::Artifact)?;
        let mut builder = reqwest::Client::builder()
            .tcp_nodelay(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT.min(spec.timeout()))
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(spec.concurrency);
        for certificate in authorities(spec)? {
            builder = builder.add_root_certificate(certificate);
        }
        if let Some(socket) = address.socket {
            builder = builder.unix_socket(socket);
        }
        let header = |(name, value): (&String, &Secret)| {
            let parsed = HeaderName::from_str(name);
            let parsed = parsed.map_err(|_| RuntimeError::Artifact(format!("`headers`: `{name}` is no header's name")));
            parsed.map(|name| (name, value.clone()))
        };
        Ok(Self {
            client: builder
                .build()
                .map_err(|error| RuntimeError::Artifact(error.to_string()))?,
            base: address.base,
            headers: spec.headers.iter().map(header).collect::<Result<_, _>>()?,
            max_bytes: spec.max_answer_bytes,
        })
    }

    /// Makes `call` once. Dropping the future closes its connection.
    pub(super) async fn send(&self, call: Call) -> Result<Answer, Fault> {
        let mut headers = call.headers;
        for (name, value) in &self.headers {
            let text = value
                .reveal()
                .map_err(|error| Fault::Setup(format!("header `{name}`: {error}")))?;
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| Fault::Setup(format!("header `{name}` holds what no header can")))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let request = self
            .client
            .request(call.method, format!("{}{}", self.base, call.path))
            .headers(headers)
            .body(call.body);
        let response = request.send().await.map_err(|error| Fault::of_request(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = self.body(response).await?;
        if status.is_success() {
            return Ok(Answer { headers, body });
        }
        Err(Fault::Status {
            status,
            detail: format!("it answered {status}"),
            words: words(&body),
        })
    }

    async fn body(&self, mut response: reqwest::Response) -> Result<Bytes, Fault> {
        let mut whole = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| Fault::of_body(&error))? {
            if whole.len() + chunk.len() > self.max_bytes {
                return Err(Fault::Wrong(format!(
                    "its answer is longer than {} bytes (`max_answer_bytes`)",
                    self.max_bytes
                )));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }
}

/// The beginning of an error's words, if it has any.
fn words(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let words = serde_json::from_str::<serde_json::Value>(&text).ok().and_then(|value| {
        let message = ["error", "detail", "message"]
            .iter()
            .find_map(|key| value.get(key)?.as_str());
        message.map(ToOwned::to_owned)
    });
    let words: String = words
        .unwrap_or_else(|| text.trim().to_owned())
        .chars()
        .take(TOLD)
        .collect();
    Some(words).filter(|words| !words.is_empty())
}
