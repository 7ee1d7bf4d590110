//! What the bytes of an artifact are, where the register request does not say.
//!
//! Every form but ONNX has a beginning of its own; ONNX is a protobuf message without one, so what is left is taken for
//! it unless it is text, and ONNX Runtime has the last word.

use crate::runtime::RuntimeError;
use ondol_model_gateway_api::wire::ArtifactKind;

/// The kind of `artifact`.
pub fn recognise(artifact: &[u8]) -> Result<ArtifactKind, RuntimeError> {
    let text = artifact.trim_ascii_start();
    if text.starts_with(b"tree\n") || text.starts_with(b"tree\r\n") {
        return Ok(ArtifactKind::Lightgbm);
    }
    // UBJSON: an object whose first key's length has a type, which JSON never has there.
    if matches!(artifact, [b'{', b'L' | b'l' | b'I' | b'i' | b'U' | b'$' | b'#', ..]) {
        return Ok(ArtifactKind::Xgboost);
    }
    let Ok(text) = std::str::from_utf8(artifact) else {
        return Ok(ArtifactKind::Onnx);
    };
    match description(text) {
        Some(keys) if keys.contains_key("learner") => Ok(ArtifactKind::Xgboost),
        Some(keys) if keys.contains_key("protocol") || keys.contains_key("url") => Ok(ArtifactKind::Upstream),
        Some(keys) if keys.contains_key("nodes") || keys.contains_key("output") => Ok(ArtifactKind::Graph),
        Some(_) => Err(RuntimeError::Artifact(
            "a description of neither an upstream (`url`, `protocol`) nor a graph (`nodes`, `output`) nor XGBoost's \
             own JSON (`learner`)"
                .to_owned(),
        )),
        None if artifact.first().is_some_and(|first| *first < b' ') => Ok(ArtifactKind::Onnx),
        None => Err(RuntimeError::Artifact(
            "the bytes are no form of model that is known: send an ONNX file, a LightGBM text model, an XGBoost JSON or \
             UBJSON model, or the description of an upstream or of a graph"
                .to_owned(),
        )),
    }
}

/// The keys of a JSON object or TOML document.
fn description(text: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
    parse_description(text).ok()
}

/// Parses a description: JSON if it begins with `{`, TOML otherwise.
pub fn parse_description<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| error.to_string())
    } else {
        toml::from_str(text).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(artifact: &[u8], expected: ArtifactKind) {
        assert_eq!(
            recognise(artifact),
            Ok(expected),
            "{}",
            String::from_utf8_lossy(artifact)
        );
    }

    #[test]
    fn an_artifact_is_recognised_by_its_beginning_or_its_keys() {
        check(b"tree\nversion=v4\n", ArtifactKind::Lightgbm);
        check(b"{L\0\0\0\0\0\0\0\x07learner{", ArtifactKind::Xgboost);
        check(br#"{"learner":{},"version":[3,1,0]}"#, ArtifactKind::Xgboost);
        check(
            b"url = \"http://models:8000\"\nprotocol = \"v2-rest\"\n",
            ArtifactKind::Upstream,
        );
        check(br#"{"url":"http://models:8000"}"#, ArtifactKind::Upstream);
        check(b"output = \"mean\"\n[nodes.a]\nmodel = \"a@1\"\n", ArtifactKind::Graph);
        check(b"\x08\x08\x12\x0bondol-tests", ArtifactKind::Onnx);
        check(b"\x08\x08\xff\xfe", ArtifactKind::Onnx);
    }

    #[test]
    fn what_is_no_model_is_refused_with_what_to_send() {
        for artifact in [&b"not a model"[..], b"", b"{\"a\":1}"] {
            let error = recognise(artifact).unwrap_err().to_string();
            assert!(error.contains("upstream"), "{error}");
        }
    }
}
