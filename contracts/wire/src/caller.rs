//! The client's end of a wire: sends a request, turns a problem back into the contract's error.

use crate::{ContractError, Problem};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use http::Method;
use ondol_vocabulary::batch;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Calls one service at its base URL. Cheap to clone; connections are pooled.
#[derive(Clone)]
pub struct Caller {
    http: reqwest::Client,
    base: Url,
    token: Option<Arc<str>>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

/// What a caller shows of itself, and whom it trusts.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// A token, sent as `Authorization: Bearer …`: an API key, a JWT, a service token.
    pub token: Option<String>,
    /// Certificates (PEM) of authorities to trust besides the system's.
    pub authorities: Option<Vec<u8>>,
    /// The caller's own certificate and key (PEM), for servers that ask for one.
    pub identity: Option<Vec<u8>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("identity", &self.identity.as_ref().map(|_| "***"))
            .finish_non_exhaustive()
    }
}

impl Caller {
    /// How long one call may take unless the caller asks for another limit.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

    /// For the service at `base`, for example `http://localhost:8082`.
    pub fn new(base: Url) -> Result<Self, reqwest::Error> {
        Self::with(base, &Credentials::default())
    }

    /// As [`Self::new`], for a service that is shown `credentials`.
    pub fn with(base: Url, credentials: &Credentials) -> Result<Self, reqwest::Error> {
        let mut http = reqwest::Client::builder()
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(5))
            .timeout(Self::DEFAULT_TIMEOUT);
        if let Some(pem) = &credentials.authorities {
            for authority in reqwest::Certificate::from_pem_bundle(pem)? {
                http = http.add_root_certificate(authority);
            }
        }
        if let Some(pem) = &credentials.identity {
            http = http.identity(reqwest::Identity::from_pem(pem)?);
        }
        let token = credentials.token.as_ref().map(|token| Arc::from(token.as_str()));
        Ok(Self {
            http: http.build()?,
            base,
            token,
        })
    }

    /// The service's base URL.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// A request for `path`, which starts with `/` and may carry a query.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let mut url = self.base.as_str().trim_end_matches('/').to_owned();
        url.push_str(path);
        let request = self.http.request(method, url);
        match &self.token {
            // Marked as sensitive by `bearer_auth`: it is in no log of the client's.
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// GETs JSON.
    pub async fn get<T: DeserializeOwned, E: ContractError>(&self, path: &str) -> Result<T, E> {
        self.json(self.request(Method::GET, path)).await
    }

    /// POSTs JSON, receives JSON.
    pub async fn post<B: Serialize + ?Sized, T: DeserializeOwned, E: ContractError>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, E> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    /// POSTs an Arrow IPC stream, receives JSON.
    pub async fn post_arrow<T: DeserializeOwned, E: ContractError>(
        &self,
        path: &str,
        schema: &SchemaRef,
        batches: &[RecordBatch],
    ) -> Result<T, E> {
        let body = batch::encode(schema, batches).map_err(|error| E::invalid(error.to_string()))?;
        let request = self
            .request(Method::POST, path)
            .header(http::header::CONTENT_TYPE, batch::MEDIA_TYPE)
            .body(body);
        self.json(request).await
    }

    /// Sends `request` and reads a JSON answer.
    pub async fn json<T: DeserializeOwned, E: ContractError>(&self, request: reqwest::RequestBuilder) -> Result<T, E> {
        let bytes = self.bytes(request).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| E::unavailable(format!("{} answered outside its contract: {error}", self.base)))
    }

    /// Sends `request` and reads the answer's body; a problem becomes the contract's error.
    pub async fn bytes<E: ContractError>(&self, request: reqwest::RequestBuilder) -> Result<Bytes, E> {
        let response = self.response::<E>(request).await?;
        self.body(response).await
    }

    /// The rest of an answer.
    pub async fn body<E: ContractError>(&self, response: reqwest::Response) -> Result<Bytes, E> {
        response.bytes().await.map_err(|error| self.unreachable(&error))
    }

    /// Sends `request` and returns when the answer begins, its body still on the way; a problem becomes the contract's
    /// error.
    pub async fn response<E: ContractError>(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, E> {
        let response = request.send().await.map_err(|error| self.unreachable::<E>(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = response.bytes().await.map_err(|error| self.unreachable::<E>(&error))?;
        Err(match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => problem.into_error(),
            Err(_) => E::unavailable(format!("{} answered {status}", self.base)),
        })
    }

    fn unreachable<E: ContractError>(&self, error: &reqwest::Error) -> E {
        E::unavailable(format!("{} can't be reached: {}", self.base, chain(error)))
    }
}

/// An error and its causes in one line: `reqwest` hides the reason in the source chain.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
