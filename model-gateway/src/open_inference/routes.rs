//! All surfaces on one router, and the document that describes those of REST.

use crate::open_inference::{grpc, mlflow, rest};
use crate::predict::Predictor;
use axum::Router;
use std::sync::{Arc, LazyLock};
use utoipa::openapi::OpenApi;

/// The document of the REST surfaces.
const DOCUMENT: &str = include_str!("../../../contracts/openapi/open-inference.json");

/// What the surfaces share.
#[derive(Clone)]
pub(crate) struct OpenInference {
    /// Shared whole: a handler's state is cloned for every request.
    pub(crate) predictor: Arc<Predictor>,
    /// The largest request, packed and unpacked.
    pub(crate) max_request_bytes: usize,
}

/// The routes of every surface, with requests of at most `max_request_bytes`.
pub fn router(predictor: Predictor, max_request_bytes: usize) -> Router {
    let shared = OpenInference {
        predictor: Arc::new(predictor),
        max_request_bytes,
    };
    rest::router(shared.clone())
        .merge(mlflow::router(shared.clone()))
        .merge(grpc::router(shared))
}

/// The OpenAPI document of the REST surfaces. It is written by hand, since the wire is fixed by its specifications.
pub fn openapi() -> OpenApi {
    static PARSED: LazyLock<Option<OpenApi>> = LazyLock::new(|| serde_json::from_str(DOCUMENT).ok());
    // A test holds that it can be read; a gateway without its document still serves.
    PARSED.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_an_openapi_document() {
        let document: OpenApi = serde_json::from_str(DOCUMENT).unwrap();
        assert!(document.paths.paths.contains_key("/v2/models/{model}/infer"));
        assert!(openapi() == document);
    }
}
