//! Paths and queries, refused with the contract's own problem, and operations named by a verb after a colon:
//! `/v1/models/fraud:predict`. The router can't match a suffix, so such a segment is taken whole and split here.

use crate::{ContractError, Problem, problem};
use axum::extract::{FromRequestParts, Path};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, request::Parts};
use serde::de::DeserializeOwned;
use std::fmt::Write as _;
use std::marker::PhantomData;

/// A path's only parameter, decoded.
pub struct Segment<E>(pub String, pub PhantomData<E>);

/// Query parameters.
pub struct Query<T, E>(pub T, pub PhantomData<E>);

impl<E: ContractError, S: Send + Sync> FromRequestParts<S> for Segment<E> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(segment)) => Ok(Self(segment, PhantomData)),
            Err(rejection) => Err(problem::respond(&E::invalid(rejection.body_text()))),
        }
    }
}

impl<T: DeserializeOwned, E: ContractError, S: Send + Sync> FromRequestParts<S> for Query<T, E> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query, PhantomData)),
            Err(rejection) => Err(problem::respond(&E::invalid(format!(
                "query: {}",
                rejection.body_text()
            )))),
        }
    }
}

impl<E> Segment<E> {
    /// The name and the verb of `name:verb`.
    ///
    /// # Errors
    /// A 404 problem that lists `verbs` when the verb is none of them.
    #[allow(
        clippy::result_large_err,
        reason = "the error is the answer, built once per refused request"
    )]
    pub fn verb<'a>(&'a self, verbs: &[&'static str]) -> Result<(&'a str, &'static str), Response> {
        let found = self.0.rsplit_once(':').and_then(|(name, given)| {
            let verb = verbs.iter().find(|verb| **verb == given)?;
            Some((name, *verb))
        });
        found.ok_or_else(|| {
            let known: Vec<String> = verbs.iter().map(|verb| format!("`:{verb}`")).collect();
            let detail = format!("`{}` names no operation: end it with {}", self.0, known.join(" or "));
            Problem::of_wire(StatusCode::NOT_FOUND, "no-such-operation", detail).into_response()
        })
    }
}

/// `text` as one segment of a path, whatever it holds.
pub fn encode_segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string can't fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_holds_any_text() {
        assert_eq!(encode_segment("fraud@3"), "fraud@3");
        assert_eq!(encode_segment("a/b:c 가?"), "a%2Fb%3Ac%20%EA%B0%80%3F");
    }

    #[test]
    fn the_last_colon_starts_the_verb() {
        let segment = Segment::<()>("a:b:predict".to_owned(), PhantomData);
        assert_eq!(segment.verb(&["predict"]).unwrap(), ("a:b", "predict"));
        assert_eq!(segment.verb(&["cancel"]).unwrap_err().status(), StatusCode::NOT_FOUND);
        let segment = Segment::<()>("predict".to_owned(), PhantomData);
        assert!(segment.verb(&["predict"]).is_err());
    }
}
