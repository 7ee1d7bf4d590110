//! The problem responses of OpenAPI documents, so that every operation of every contract describes them alike.

use crate::{Problem, problem};
use std::collections::BTreeMap;
use utoipa::openapi::{ContentBuilder, RefOr, ResponseBuilder, response::Response};
use utoipa::{IntoResponses, ToSchema};

macro_rules! problem_responses {
    ($($(#[$doc:meta])* $name:ident: $status:literal, $description:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                described($status, $description)
            }
        }
    )*};
}

problem_responses! {
    /// The request is not of the contract's form.
    BadRequest: "400", "The request is not of the contract's form; the detail names the field, the value and the remedy.";
    /// A name is unknown.
    NotFound: "404", "Unknown name; the detail suggests the nearest valid one.";
    /// The request contradicts what the service holds.
    Conflict: "409", "The request contradicts what the service holds.";
    /// The request is well-formed, and its content can't be used.
    Unprocessable: "422", "Well-formed, but its content can't be used; the detail says why.";
    /// A bound was hit.
    TooManyRequests: "429", "A configured bound was hit: try again later.";
    /// The service failed.
    Internal: "500", "A fault of the service's own.";
    /// Something the service asked answered wrongly.
    BadGateway: "502", "A server that the service had to ask can't be reached, or answered wrongly; the detail names it.";
    /// The service can't answer now.
    Unavailable: "503", "The service, or something it needs, can't answer now: try again later.";
    /// A deadline passed.
    GatewayTimeout: "504", "The request's deadline passed.";
    /// There is no room for what was asked.
    InsufficientStorage: "507", "There is no room for it: the detail says what takes the room, and the remedy.";
}

fn described(status: &str, description: &str) -> BTreeMap<String, RefOr<Response>> {
    let schema = utoipa::openapi::Ref::from_schema_name(Problem::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let response = ResponseBuilder::new()
        .description(description)
        .content(problem::MEDIA_TYPE, content)
        .build();
    BTreeMap::from([(status.to_owned(), RefOr::T(response))])
}

/// The schema of a body that is not JSON: an Arrow IPC stream, a file.
#[derive(Clone, Copy, Debug)]
pub struct Octets;

impl utoipa::PartialSchema for Octets {
    fn schema() -> RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .format(Some(utoipa::openapi::SchemaFormat::KnownFormat(
                utoipa::openapi::KnownFormat::Binary,
            )))
            .description(Some("Bytes of the media type."))
            .into()
    }
}

impl ToSchema for Octets {}
