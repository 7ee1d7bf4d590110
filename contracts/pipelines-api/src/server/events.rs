//! A job's life as server-sent events (the HTML standard, section 9.2), so that a browser's `EventSource` follows it.

use super::{Id, Service};
use crate::error::PipelinesError;
use crate::wire::{Job, JobState};
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream};
use http::{HeaderMap, StatusCode};
use ondol_wire::responses::{BadRequest, Internal, NotFound, Unavailable};
use ondol_wire::{ContractError, Problem, Segment, problem};
use std::convert::Infallible;
use std::time::Duration;
use utoipa::ToSchema;

/// Silence after which a comment is sent, so that nothing on the way takes the connection for dead.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long one wait for a change is.
const WAIT: Duration = Duration::from_secs(30);
/// What a client is told to wait before it connects again.
const RECONNECT: Duration = Duration::from_secs(1);
const LAST_EVENT_ID: &str = "last-event-id";

/// Where a feed stands.
struct Feed {
    pipelines: Service,
    id: String,
    /// A look at the job that has not been sent.
    unsent: Option<Job>,
    /// The revision and state sent last, or seen by the client before.
    seen: Option<u64>,
    state: Option<JobState>,
    over: bool,
}

/// A job as events
///
/// An event per change of state or progress: `state` when the state is another one, else `progress`; `end` is the last
/// one, and the stream ends with it. `error` (a problem document) ends it early. Each event's data is the job, its id
/// the job's revision: a client that connects again with `Last-Event-ID` misses nothing that still holds. When there is
/// nothing more to tell the answer is 204, at which an `EventSource` stops. A comment every 10 seconds keeps the
/// connection alive.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/events", tag = "jobs", operation_id = "jobEvents",
    params(
        ("id" = String, Path, description = "The job's id.", example = "01JD6Z0S8N6J2V4Y7T3Q5W9XKB"),
        ("Last-Event-ID" = Option<u64>, Header, description = "The last revision seen.")
    ),
    responses(
        (status = 200, description = "Events until the job's end.", body = JobEvents, content_type = "text/event-stream"),
        (status = 204, description = "The job has ended, and the client has seen its end."),
        BadRequest, NotFound, Internal, Unavailable
    )
)]
pub(super) async fn events(State(pipelines): State<Service>, Segment(id, _): Id, headers: HeaderMap) -> Response {
    let seen = match headers.get(LAST_EVENT_ID).map(|value| revision(value.as_bytes())) {
        None => None,
        Some(Ok(revision)) => Some(revision),
        Some(Err(error)) => return problem::respond(&error),
    };
    let job = match pipelines.job(&id, None, Duration::ZERO).await {
        Ok(job) => job,
        Err(error) => return problem::respond(&error),
    };
    let news = seen != Some(job.revision);
    if !news && job.state.is_final() {
        return StatusCode::NO_CONTENT.into_response();
    }
    let feed = Feed {
        pipelines,
        id,
        state: (!news).then_some(job.state),
        unsent: news.then_some(job),
        seen,
        over: false,
    };
    Sse::new(feed.events())
        .keep_alive(KeepAlive::new().interval(HEARTBEAT))
        .into_response()
}

impl Feed {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut feed| async {
            let event = feed.next().await?;
            Some((Ok(event), feed))
        })
    }

    /// The next event; none after the last.
    async fn next(&mut self) -> Option<Event> {
        if self.over {
            return None;
        }
        loop {
            let look = match self.unsent.take() {
                Some(job) => Ok(job),
                None => self.pipelines.job(&self.id, self.seen, WAIT).await,
            };
            match look {
                Ok(job) if Some(job.revision) == self.seen => {}
                Ok(job) => return Some(self.event(&job)),
                Err(error) => {
                    self.over = true;
                    return Some(json("error", &Problem::of(&error)));
                }
            }
        }
    }

    fn event(&mut self, job: &Job) -> Event {
        self.over = job.state.is_final();
        let name = match () {
            () if self.over => "end",
            () if self.state != Some(job.state) => "state",
            () => "progress",
        };
        self.state = Some(job.state);
        self.seen = Some(job.revision);
        json(name, job).id(job.revision.to_string()).retry(RECONNECT)
    }
}

fn json(name: &str, data: &impl serde::Serialize) -> Event {
    // Jobs and problems are plain data: only a map with keys that are no text could fail.
    Event::default()
        .event(name)
        .json_data(data)
        .unwrap_or_else(|_| Event::default().event(name))
}

fn revision(value: &[u8]) -> Result<u64, PipelinesError> {
    let text = String::from_utf8_lossy(value);
    text.parse().map_err(|_| {
        PipelinesError::invalid(format!(
            "Last-Event-ID `{}` is no revision of a job: leave it out to hear everything",
            text.escape_debug()
        ))
    })
}

/// Events of a job: `event: state|progress|end`, `id: REVISION`, `data: JOB`.
#[derive(ToSchema)]
#[schema(value_type = String)]
pub(super) struct JobEvents(#[allow(dead_code, reason = "the form of the body, for the document")] String);
