//! Around all of a server's routes: who calls, and how callers are parted from when the server shuts down.
//!
//! A caller keeps its connections for its next requests. When a server closes one that is idle, a request that was sent in
//! the same moment is lost, and no client may repeat a POST by itself. So a server that will shut down says it with its
//! answers (`Connection: close`, RFC 9112 section 9.6): the caller sends its next request on a new connection, which leads
//! to another replica by then. HTTP/2 has GOAWAY for this, which names the streams that were not served.
//!
//! A request is run, but not past the shutdown: a GET changes nothing, so one that is still waiting (a long poll) is
//! answered "try again" shortly after the shutdown, rather than holding up the drain; a stream of events ends there, and
//! its client connects again. Every other method is finished.

use crate::door::{Door, Peer};
use crate::http::shutting_down;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderValue, Method, Version, header};
use axum::response::Response;
use axum::routing::future::RouteFuture;
use axum::serve::IncomingStream;
use futures::StreamExt;
use futures::future::BoxFuture;
use pin_project_lite::pin_project;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Context, Poll};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tower::Service;

/// Media type of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

/// How long a GET may still take once the shutdown has been triggered.
const GET_GRACE: Duration = Duration::from_secs(1);

/// Among the extensions of an HTTP/2 request: the shutdown of the server that it came by, for a conversation that has no
/// end of its own.
#[derive(Clone, Debug)]
pub struct ServerShutdown(Arc<Ends>);

impl ServerShutdown {
    /// Returns once the shutdown is triggered.
    pub async fn triggered(&self) {
        self.0.triggered.cancelled().await;
    }
}

/// When a server ends.
#[derive(Debug)]
struct Ends {
    announced: CancellationToken,
    triggered: CancellationToken,
}

/// All routes of a server: makes a [`Connection`] of each that comes in.
#[derive(Clone)]
pub(super) struct Routes {
    router: Router,
    shutdown: ServerShutdown,
}

impl Routes {
    /// Of a server that says at `announced` that it will end, and ends at `triggered`.
    pub(super) fn new(router: Router, announced: CancellationToken, triggered: CancellationToken) -> Self {
        Self {
            router,
            shutdown: ServerShutdown(Arc::new(Ends { announced, triggered })),
        }
    }
}

impl Service<IncomingStream<'_, Door>> for Routes {
    type Response = Connection;
    type Error = Infallible;
    type Future = Ready<Result<Connection, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, stream: IncomingStream<'_, Door>) -> Self::Future {
        ready(Ok(Connection {
            routes: self.clone(),
            peer: stream.remote_addr().clone(),
        }))
    }
}

/// The routes, for one caller's connection.
#[derive(Clone)]
pub(super) struct Connection {
    routes: Routes,
    peer: Peer,
}

impl Service<Request> for Connection {
    type Response = Response;
    type Error = Infallible;
    type Future = Parting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Parting {
        let Routes { router, shutdown } = &mut self.routes;
        request.extensions_mut().insert(ConnectInfo(self.peer.clone()));
        let persists = request.version() < Version::HTTP_2;
        if !persists {
            request.extensions_mut().insert(shutdown.clone());
        }
        let is_get = request.method() == Method::GET;
        let answer = router.call(request);
        Parting {
            answer: if is_get {
                Answer::Ending {
                    future: Box::pin(end_with(shutdown.clone(), answer)),
                }
            } else {
                Answer::Finished { future: answer }
            },
            parts: persists.then(|| shutdown.clone()),
        }
    }
}

pin_project! {
    /// A request under way, whose answer may be the last on its connection.
    pub(super) struct Parting {
        #[pin]
        answer: Answer,
        parts: Option<ServerShutdown>,
    }
}

pin_project! {
    #[project = AnswerProjection]
    enum Answer {
        Finished { #[pin] future: RouteFuture<Infallible> },
        Ending { future: BoxFuture<'static, Response> },
    }
}

impl Future for Parting {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match this.answer.project() {
            AnswerProjection::Finished { future } => {
                let Ok(response) = task::ready!(future.poll(context));
                response
            }
            AnswerProjection::Ending { future } => task::ready!(future.as_mut().poll(context)),
        };
        if this
            .parts
            .as_ref()
            .is_some_and(|shutdown| shutdown.0.announced.is_cancelled())
        {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        Poll::Ready(Ok(response))
    }
}

/// The answer to a GET, but not past the shutdown.
async fn end_with(shutdown: ServerShutdown, answer: RouteFuture<Infallible>) -> Response {
    let over = async {
        shutdown.triggered().await;
        tokio::time::sleep(GET_GRACE).await;
    };
    let response = tokio::select! {
        Ok(response) = answer => response,
        () = over => return shutting_down(),
    };
    let kind = response.headers().get(header::CONTENT_TYPE);
    if kind.is_none_or(|kind| kind != EVENT_STREAM) {
        return response;
    }
    let ended = shutdown.0.triggered.clone().cancelled_owned();
    response.map(|events| Body::from_stream(events.into_data_stream().take_until(ended)))
}
