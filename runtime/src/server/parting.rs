//! Parting from callers before a shutdown.
//!
//! A caller keeps its connections for its next requests. When a server closes one that is idle, a request that was sent in
//! the same moment is lost, and no client may repeat a POST by itself. So a server that will shut down says it with its
//! answers (`Connection: close`, RFC 9112 section 9.6): the caller sends its next request on a new connection, which leads
//! to another replica by then. HTTP/2 has GOAWAY for this, which names the streams that were not served.

use axum::extract::Request;
use axum::http::{HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::Response;
use tokio_util::sync::CancellationToken;

/// Runs a request; its answer ends the connection once `announced` is cancelled.
pub(crate) async fn part_after(announced: CancellationToken, request: Request, next: Next) -> Response {
    let persists = request.version() < Version::HTTP_2;
    let mut response = next.run(request).await;
    if persists && announced.is_cancelled() {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
