//! Serves any [`OfflineSql`] over HTTP.

use super::{OfflineSql, SqlRequest};
use crate::error::PipelinesError;
use crate::rows::{self, Rows, cut_off};
use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, header};
use ondol_vocabulary::batch;
use ondol_wire::responses::{BadRequest, Internal, Octets, TooManyRequests, Unavailable, Unprocessable};
use ondol_wire::{JsonBody, problem};
use std::sync::Arc;

/// The media type of rows as JSON objects, one a line.
pub const JSON_LINES: &str = "application/x-ndjson";

type Service = Arc<dyn OfflineSql>;

/// The route of SQL.
pub fn router(service: Service) -> Router {
    Router::new().route("/v1/sql", post(sql)).with_state(service)
}

/// Query the offline tables
///
/// Every stream source's event log and every batch source is a table under the source's name. Read-only. The answer
/// streams in the form that `Accept` names: an Arrow IPC stream (`application/vnd.apache.arrow.stream`), JSON objects
/// one a line (`application/x-ndjson`), or a JSON array of objects (`application/json`, also without an `Accept`). A body
/// that ends before its end mark (the stream's, or the array's bracket) is incomplete: a limit was reached or the query
/// failed half-way, and the service's log says which.
#[utoipa::path(
    post, path = "/v1/sql", tag = "sql", operation_id = "sql",
    request_body(content = SqlRequest, example = json!({"query": "select count(*) as events from transactions"})),
    responses(
        (status = 200, description = "The rows.", content(
            (Vec<Object> = "application/json", example = json!([{"events": 7}])),
            (Octets = "application/vnd.apache.arrow.stream"),
            (Octets = "application/x-ndjson")
        )),
        BadRequest, Unprocessable, TooManyRequests, Internal, Unavailable
    )
)]
pub(crate) async fn sql(
    State(service): State<Service>,
    headers: HeaderMap,
    JsonBody(request, _): JsonBody<SqlRequest, PipelinesError>,
) -> Response {
    let form = Form::accepted(&headers);
    match service.sql(request).await {
        Ok(rows) => respond(form, rows),
        Err(error) => problem::respond(&error),
    }
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Arrow,
    JsonLines,
    JsonArray,
}

impl Form {
    fn accepted(headers: &HeaderMap) -> Self {
        let accept = headers
            .get(header::ACCEPT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if accept.contains(batch::MEDIA_TYPE) {
            Self::Arrow
        } else if accept.contains(JSON_LINES) {
            Self::JsonLines
        } else {
            Self::JsonArray
        }
    }
}

fn json_lines(rows: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer = WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, LineDelimited>(Vec::new());
    writer.write(rows)?;
    writer.finish()?;
    Ok(writer.into_inner())
}

fn respond(form: Form, rows: Rows) -> Response {
    let (media_type, begun) = match form {
        Form::Arrow => return rows::respond(rows),
        Form::JsonLines => (JSON_LINES, None),
        Form::JsonArray => ("application/json", Some(false)),
    };
    let body = stream::unfold(Some((begun, rows.batches)), |state| async {
        let (mut begun, mut batches) = state?;
        let piece = match batches.next().await {
            Some(rows) => rows.map_err(|error| cut_off(&error)).and_then(|rows| {
                let lines = json_lines(&rows).map_err(|error| cut_off(&error))?;
                Ok(match &mut begun {
                    Some(begun) => in_array(lines, begun),
                    None => lines,
                })
            }),
            None => {
                let end = begun.map_or("", |begun| if begun { "]" } else { "[]" });
                return Some((Ok(Bytes::from(end)), None));
            }
        };
        let goes_on = piece.is_ok().then_some((begun, batches));
        Some((piece.map(Bytes::from), goes_on))
    });
    (
        [(header::CONTENT_TYPE, HeaderValue::from_static(media_type))],
        Body::from_stream(body),
    )
        .into_response()
}

/// `lines` as part of an array that may have begun.
fn in_array(mut lines: Vec<u8>, begun: &mut bool) -> Vec<u8> {
    if lines.pop().is_none() {
        return lines;
    }
    // Within a value a line break is written as `\n`, so each one here ends a row.
    for byte in lines.iter_mut().filter(|byte| **byte == b'\n') {
        *byte = b',';
    }
    lines.insert(0, if std::mem::replace(begun, true) { b',' } else { b'[' });
    lines
}
