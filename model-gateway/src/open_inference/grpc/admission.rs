//! The door's second question: a gRPC request names its model inside, so the method asks whether its caller may.

use crate::access::refusal::grpc_code;
use crate::access::{Action, Admission};
use ondol_model_gateway_api::AccessError;
use tonic::{Code, Request, Status};

/// Whether the caller of `request` may do `action` with `model`.
pub(super) fn ask<T>(request: &Request<T>, action: Action, model: &str) -> Result<(), Status> {
    caller(request)?.admit(action, model).map_err(|error| status(&error))
}

/// Who sent `request`, for a stream that asks again and again.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Admission, Status> {
    Admission::of(request.extensions()).map_err(|error| status(&error))
}

fn status(error: &AccessError) -> Status {
    Status::new(Code::from(i32::from(grpc_code(error))), error.to_string())
}
