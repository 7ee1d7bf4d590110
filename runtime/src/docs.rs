//! The OpenAPI document at `/openapi.json` and a page to browse it at `/docs`. The page's files are in the binary, so
//! that it works without internet.

use axum::Router;
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::SwaggerUi;

/// `/openapi.json` and `/docs`.
pub fn routes(openapi: OpenApi) -> Router {
    SwaggerUi::new("/docs").url("/openapi.json", openapi).into()
}
