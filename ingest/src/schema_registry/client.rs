//! The registry's protocol (Confluent Schema Registry, REST API v1): two questions, over HTTP.

use super::LookupError;
use crate::config::SchemaRegistryConfig;
use reqwest::{Certificate, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use url::Url;

/// How long one question may take.
const REQUEST: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(3);
/// Times a question is asked before the caller is told that there is no answer now.
const ATTEMPTS: u32 = 2;
const PAUSE: Duration = Duration::from_millis(100);
/// Largest answer taken.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// "Schema not found", and "version not found", "subject not found".
const NOT_FOUND: [u32; 3] = [40403, 40402, 40401];

pub(super) struct Client {
    http: reqwest::Client,
    /// Tried in turn until one answers.
    urls: Vec<Url>,
    auth: Option<Auth>,
    /// How often a question reached no registry.
    outages: AtomicU64,
}

enum Auth {
    Basic { username: String, password: String },
    Bearer(String),
}

/// A schema, as the registry answers.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) schema: String,
    /// Absent for Avro.
    #[serde(default = "avro", rename = "schemaType")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) references: Vec<ReferenceAnswer>,
}

/// A schema that another one uses, as the registry names it.
#[derive(Debug, Deserialize)]
pub(super) struct ReferenceAnswer {
    pub(super) name: String,
    pub(super) subject: String,
    pub(super) version: i64,
}

#[derive(Deserialize)]
struct Refusal {
    error_code: u32,
    #[serde(default)]
    message: String,
}

fn avro() -> String {
    super::Registered::AVRO.to_owned()
}

impl Client {
    pub(super) fn new(config: &SchemaRegistryConfig) -> Result<Option<Self>, String> {
        if config.url.trim().is_empty() {
            return Ok(None);
        }
        let urls = config
            .url
            .split(',')
            .map(|url| address(url.trim()))
            .collect::<Result<Vec<_>, _>>()?;
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .timeout(REQUEST)
            .pool_max_idle_per_host(1);
        if let Some(path) = &config.ca {
            let pem = std::fs::read(path)
                .map_err(|error| format!("the schema registry's `ca` can't be read: {}: {error}", path.display()))?;
            let certificates = Certificate::from_pem_bundle(&pem)
                .map_err(|error| format!("the schema registry's `ca` {} is no PEM file: {error}", path.display()))?;
            for certificate in certificates {
                http = http.add_root_certificate(certificate);
            }
        }
        let http = http
            .build()
            .map_err(|error| format!("the schema registry's client can't be made: {error}"))?;
        Ok(Some(Self {
            http,
            urls,
            auth: auth(config)?,
            outages: AtomicU64::new(0),
        }))
    }

    /// How often a question reached no registry.
    pub(super) fn outages(&self) -> u64 {
        self.outages.load(Ordering::Acquire)
    }

    /// Schema `id`; none when the registry says that there is none.
    pub(super) async fn by_id(&self, id: u32) -> Result<Option<Answer>, LookupError> {
        self.ask(&["schemas", "ids", &id.to_string()]).await
    }

    /// A version of a subject; none when the registry says that there is none.
    pub(super) async fn version(&self, reference: &ReferenceAnswer) -> Result<Option<Answer>, LookupError> {
        let version = reference.version.to_string();
        self.ask(&["subjects", &reference.subject, "versions", &version]).await
    }

    async fn ask(&self, path: &[&str]) -> Result<Option<Answer>, LookupError> {
        let mut last = String::new();
        let mut reached = false;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            for url in &self.urls {
                match self.ask_one(url, path, &mut reached).await {
                    Ok(answer) => return Ok(answer),
                    Err(why) => last = why,
                }
            }
        }
        if !reached {
            self.outages.fetch_add(1, Ordering::Release);
        }
        Err(LookupError::Unavailable(format!(
            "the schema registry does not answer: {last}"
        )))
    }

    /// # Errors
    /// Why there is no answer now.
    async fn ask_one(&self, base: &Url, path: &[&str], reached: &mut bool) -> Result<Option<Answer>, String> {
        let mut url = base.clone();
        // A base that can't take a path was refused when the client was made.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let shown = || format!("{} {}", base.host_str().unwrap_or_default(), url.path());
        let response = self
            .authorized(self.http.get(url.clone()))
            .send()
            .await
            .map_err(|error| format!("{}: {}", shown(), chain(&error.without_url())))?;
        *reached = true;
        let status = response.status();
        let body = body(response).await.map_err(|why| format!("{}: {why}", shown()))?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map(Some)
                .map_err(|error| format!("{} gives no schema ({error}): check the registry's `url`", shown()));
        }
        match (status, serde_json::from_slice::<Refusal>(&body)) {
            (StatusCode::NOT_FOUND, Ok(refusal)) if NOT_FOUND.contains(&refusal.error_code) => Ok(None),
            (StatusCode::NOT_FOUND, _) => Err(format!(
                "{} is not there (HTTP 404), but not as a registry says it: check the registry's `url`",
                shown()
            )),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => Err(format!(
                "{} is refused (HTTP {}): check `username` and `password`, or `token`, of [ingest.schema_registry]",
                shown(),
                status.as_u16()
            )),
            (_, Ok(refusal)) => {
                let message: String = refusal.message.chars().take(200).collect();
                Err(format!("{}: HTTP {}, {message}", shown(), status.as_u16()))
            }
            (_, Err(_)) => Err(format!("{}: HTTP {}", shown(), status.as_u16())),
        }
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.auth {
            None => request,
            Some(Auth::Basic { username, password }) => request.basic_auth(username, Some(password)),
            Some(Auth::Bearer(token)) => request.bearer_auth(token),
        }
    }
}

fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("`{text}` is no URL of a schema registry: {error}"))?;
    match url.scheme() {
        _ if !url.username().is_empty() || url.password().is_some() => {
            Err("the schema registry's `url` holds a password: use `username` and `password`".to_owned())
        }
        "http" | "https" => Ok(url),
        other => Err(format!(
            "the schema registry's `url` must begin with http or https, not {other}"
        )),
    }
}

fn auth(config: &SchemaRegistryConfig) -> Result<Option<Auth>, String> {
    let secret = |key: &str, value: &Option<crate::config::Secret>| {
        let revealed = value.as_ref().map(crate::config::Secret::reveal).transpose();
        revealed.map_err(|why| format!("`{key}` of [ingest.schema_registry]: {why}"))
    };
    let (password, token) = (secret("password", &config.password)?, secret("token", &config.token)?);
    match (&config.username, password, token) {
        (None, None, None) => Ok(None),
        (Some(username), Some(password), None) => Ok(Some(Auth::Basic {
            username: username.clone(),
            password,
        })),
        (None, None, Some(token)) => Ok(Some(Auth::Bearer(token))),
        _ => Err("[ingest.schema_registry] takes `username` and `password`, or `token`".to_owned()),
    }
}

async fn body(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| chain(&error.without_url()))? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(format!("its answer is larger than {MAX_ANSWER_BYTES} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// An error and its causes: reqwest's own text hides them.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
