//! Whether a server of the Open Inference Protocol takes tensors as bytes: an extension, which Triton, Ondol and newer
//! servers speak and MLServer does not. A server that does not answers 500 or worse, so it is asked, once: `GET /v2`
//! lists what it speaks.

use crate::runtime::upstream::fault::Fault;
use crate::runtime::upstream::transport::{Answer, Call, Transport};
use bytes::Bytes;
use http::{HeaderMap, Method};
use serde::Deserialize;
use std::time::Duration;
use tokio::sync::OnceCell;

/// What the extension is called.
const BINARY: &str = "binary_tensor_data";
/// How long a server may take to tell what it speaks, at most.
const TELL: Duration = Duration::from_secs(1);

/// Whether tensors go as bytes.
#[derive(Debug)]
pub(super) struct BinaryTensors(OnceCell<bool>);

#[derive(Deserialize)]
struct ServerMetadata {
    #[serde(default)]
    extensions: Vec<String>,
}

impl BinaryTensors {
    /// As the description says, or unknown until the server is asked.
    pub(super) fn new(said: Option<bool>) -> Self {
        Self(OnceCell::new_with(said))
    }

    /// What was said or told.
    pub(super) fn known(&self) -> Option<bool> {
        self.0.get().copied()
    }

    /// Asks the server behind `http`, unless another call does. While it does not tell the answer is no, since every
    /// server reads JSON, and the next call asks again. Takes half of `left` at most.
    pub(super) async fn ask(&self, http: &Transport, left: Duration) -> bool {
        let ask = self.0.get_or_try_init(|| ask(http));
        let told = tokio::time::timeout(TELL.min(left / 2), ask).await;
        matches!(told, Ok(Ok(true)))
    }
}

async fn ask(http: &Transport) -> Result<bool, Fault> {
    let call = Call {
        method: Method::GET,
        path: "/v2".to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
    };
    match http.send(call).await {
        Ok(answer) => Ok(lists_binary(&answer)),
        // It answers, and has no such page: a server behind a path, or one that tells nothing of itself.
        Err(Fault::Status { status, .. }) if status.is_client_error() => Ok(false),
        Err(fault) => Err(fault),
    }
}

fn lists_binary(answer: &Answer) -> bool {
    serde_json::from_slice::<ServerMetadata>(&answer.body)
        .is_ok_and(|told| told.extensions.iter().any(|extension| extension == BINARY))
}
