//! All surfaces on one router, and the document that describes those of REST.

use crate::open_inference::{grpc, mlflow, rest};
use crate::predict::Predictor;
use axum::Router;
use std::sync::LazyLock;
use utoipa::openapi::OpenApi;

/// What the surfaces share.
#[derive(Clone)]
pub(crate) struct OpenInference {
    pub(crate) predictor: Predictor,
    /// The largest request, packed and unpacked.
    pub(crate) max_request_bytes: usize,
}

/// The routes of every surface, with requests of at most `max_request_bytes`.
pub fn router(predictor: Predictor, max_request_bytes: usize) -> Router {
    let shared = OpenInference {
        predictor,
        max_request_bytes,
    };
    rest::router(shared.clone())
        .merge(mlflow::router(shared.clone()))
        .merge(grpc::router(shared))
}

/// The OpenAPI document of the REST surfaces. It is written by hand, since the wire is fixed by its specifications.
pub fn openapi() -> OpenApi {
    static DOCUMENT: LazyLock<Option<OpenApi>> =
        LazyLock::new(|| serde_json::from_str(include_str!("../../../contracts/openapi/open-inference.json")).ok());
    // Tests hold that it is there; a gateway without its document still serves.
    DOCUMENT.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_document_is_an_openapi_document() {
        assert!(super::openapi().paths.paths.contains_key("/v2/models/{model}/infer"));
    }
}
