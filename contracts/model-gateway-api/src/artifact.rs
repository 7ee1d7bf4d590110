//! An artifact to register on the wire: a JSON envelope with the file in base64, since a request has one body and the
//! manifest must travel with it. A caller without a manifest may send the bare file.

use crate::error::ModelGatewayError;
use crate::wire::{ArtifactKind, RegisterRequest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ondol_wire::ContractError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An artifact and its training set's manifest, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ArtifactEnvelope {
    /// The artifact's bytes, base64 (standard alphabet, padded).
    pub artifact_base64: String,
    /// What they are; absent: recognised from the bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ArtifactKind>,
    /// The manifest of the training set the model was trained on, as written beside the output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub manifest: Option<serde_json::Value>,
}

impl From<RegisterRequest> for ArtifactEnvelope {
    fn from(request: RegisterRequest) -> Self {
        Self {
            artifact_base64: STANDARD.encode(&request.artifact),
            kind: request.kind,
            manifest: request.manifest,
        }
    }
}

impl TryFrom<ArtifactEnvelope> for RegisterRequest {
    type Error = ModelGatewayError;

    fn try_from(envelope: ArtifactEnvelope) -> Result<Self, ModelGatewayError> {
        let artifact = STANDARD
            .decode(&envelope.artifact_base64)
            .map_err(|error| ModelGatewayError::invalid(format!("`artifact_base64` is not base64: {error}")))?;
        Ok(Self {
            artifact: Bytes::from(artifact),
            kind: envelope.kind,
            manifest: envelope.manifest,
        })
    }
}
