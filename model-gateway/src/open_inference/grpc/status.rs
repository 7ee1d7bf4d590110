//! Errors as gRPC statuses, and the deadline that a gRPC call brings.

use crate::open_inference::refusal::Refusal;
use axum::http::StatusCode;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

/// A refusal as a status: the same words, and the code that a client acts on.
pub(super) fn of(refusal: Refusal) -> Status {
    let code = match refusal.status {
        StatusCode::BAD_REQUEST => Code::InvalidArgument,
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::NOT_FOUND => Code::NotFound,
        StatusCode::CONFLICT => Code::Aborted,
        StatusCode::UNPROCESSABLE_ENTITY => Code::FailedPrecondition,
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::TOO_MANY_REQUESTS | StatusCode::INSUFFICIENT_STORAGE => {
            Code::ResourceExhausted
        }
        StatusCode::NOT_IMPLEMENTED => Code::Unimplemented,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        StatusCode::GATEWAY_TIMEOUT => Code::DeadlineExceeded,
        _ => Code::Internal,
    };
    if refusal.status.is_server_error() {
        tracing::error!(error = refusal.error, code = ?code, "open inference request failed");
    }
    Status::new(code, refusal.error)
}

/// The header by which a gRPC client says how long it waits: digits and a unit (gRPC over HTTP/2, "Timeout").
pub(super) fn deadline_ms(metadata: &MetadataMap) -> Option<u64> {
    let value = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => count.checked_mul(3_600_000),
        "M" => count.checked_mul(60_000),
        "S" => count.checked_mul(1_000),
        "m" => Some(count),
        "u" => Some(count.div_ceil(1_000)),
        "n" => Some(count.div_ceil(1_000_000)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calls_timeout_is_its_deadline() {
        let check = |value: &'static str, expected| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", value.parse().unwrap());
            assert_eq!(deadline_ms(&metadata), expected, "{value}");
        };
        check("2S", Some(2_000));
        check("150m", Some(150));
        check("1500u", Some(2));
        check("1H", Some(3_600_000));
        check("5", None);
        check("S", None);
    }
}
