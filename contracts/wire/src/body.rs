//! Request and response bodies of the routers: JSON and Arrow, refused with the contract's own problem.

use crate::{ContractError, Problem, problem};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use ondol_vocabulary::batch;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;

/// A JSON request body. Unlike axum's own, a malformed one is answered with contract `E`'s problem, and a missing
/// content type is accepted.
pub struct JsonBody<T, E>(pub T, pub PhantomData<E>);

/// An Arrow IPC request body: its schema and batches.
pub struct ArrowBody<E>(pub SchemaRef, pub Vec<RecordBatch>, pub PhantomData<E>);

impl<T: DeserializeOwned, E: ContractError, S: Send + Sync> FromRequest<S> for JsonBody<T, E> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let bytes = read_body::<E, S>(request, state).await?;
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Self(value, PhantomData)),
            Err(error) => Err(problem::respond(&E::invalid(format!(
                "the request body is not valid: {error}"
            )))),
        }
    }
}

impl<E: ContractError, S: Send + Sync> FromRequest<S> for ArrowBody<E> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let bytes = read_body::<E, S>(request, state).await?;
        let invalid = |why: &str| problem::respond(&E::invalid(format!("the body is no Arrow IPC stream: {why}")));
        batch::decode(&bytes)
            .map(|(schema, batches)| Self(schema, batches, PhantomData))
            .map_err(|error| invalid(&error.to_string()))
    }
}

/// The whole body, within the route's limit.
pub async fn read_body<E: ContractError, S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Response> {
    Bytes::from_request(request, state).await.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let detail = "the body is larger than this route takes: send it in parts".to_owned();
            Problem::of_wire(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail).into_response()
        } else {
            problem::respond(&E::invalid(rejection.body_text()))
        }
    })
}

/// An Arrow IPC response body.
pub struct ArrowStream(pub Vec<u8>);

impl IntoResponse for ArrowStream {
    fn into_response(self) -> Response {
        (
            [(header::CONTENT_TYPE, HeaderValue::from_static(batch::MEDIA_TYPE))],
            self.0,
        )
            .into_response()
    }
}
