//! The idempotency key of a submission, from its header.

use crate::error::PipelinesError;
use crate::wire::IdempotencyKey;
use axum::extract::FromRequestParts;
use axum::response::Response;
use http::request::Parts;
use ondol_wire::{ContractError, problem};
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{ObjectBuilder, schema::Type};

/// The key of a submission, if it has one.
pub(super) struct Key(pub(super) Option<IdempotencyKey>);

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let Some(value) = parts.headers.get(IdempotencyKey::HEADER) else {
            return Ok(Self(None));
        };
        String::from_utf8_lossy(value.as_bytes())
            .parse()
            .map(|key| Self(Some(key)))
            .map_err(|detail| problem::respond(&PipelinesError::invalid(detail)))
    }
}

impl IntoParams for Key {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let text = ObjectBuilder::new().schema_type(Type::String).max_length(Some(255));
        let parameter = ParameterBuilder::new()
            .name("Idempotency-Key")
            .parameter_in(ParameterIn::Header)
            .description(Some(
                "Names this submission: 1 to 255 visible ASCII characters, a UUID for example. Sent again with the same \
                 request it answers with the same job; with another request it is refused with 422. Kept for 24 hours \
                 unless configured otherwise.",
            ))
            .schema(Some(text));
        vec![parameter.build()]
    }
}
