//! Serves any [`FeatureStore`] over HTTP, and describes that in an OpenAPI document.

use crate::error::FeatureStoreError;
use crate::feature_batch::{FeatureBatchJson, packed};
use crate::maintenance::{Compaction, Vacuum, VacuumOptions};
use crate::provisioning::{self, view_id};
use crate::service::FeatureStore;
use crate::uses;
use crate::wire::{
    Applied, DefinitionFiles, DefinitionHistory, Delivery, DeliveryHeader, OfflineTable, PartitionPosition, Plan,
    ReadRequest, Rebuild, RebuildRequest, WriteReceipt,
};
use arrow::compute::concat_batches;
use arrow::error::ArrowError;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use http::{HeaderMap, HeaderValue, header};
use ondol_vocabulary::{Snapshot, batch};
use ondol_wire::responses::{BadRequest, Conflict, Internal, NotFound, Octets, Unavailable, Unprocessable};
use ondol_wire::{ArrowBody, ArrowStream, ContractError, JsonBody, Problem, Query, Segment, answer, problem};
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use utoipa::{IntoParams, OpenApi};

/// The longest a long poll is held; a caller that wants more polls again.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// How large a delivery may be.
pub const DELIVERY_LIMIT_BYTES: usize = 256 << 20;

type Store = Arc<dyn FeatureStore>;
type Body<T> = JsonBody<T, FeatureStoreError>;
type Name = Segment<FeatureStoreError>;

/// The routes of `store`.
pub fn router(store: Store) -> Router {
    Router::new()
        .route("/v1/definitions:plan", post(plan))
        .route("/v1/definitions:apply", post(apply))
        .route("/v1/definitions/{name}/history", get(history))
        .route("/v1/snapshot", get(snapshot))
        .route("/v1/uses", get(uses::uses))
        .route("/v1/uses/{consumer}", put(uses::publish))
        .route("/v1/views/{id}", post(view_verb))
        .route("/v1/provisionings", get(provisioning::provisionings))
        .route("/v1/sources/{source}/positions", get(positions))
        .route("/v1/sources/{source}", post(source_verb))
        .route(
            "/v1/deliveries",
            post(deliver).layer(DefaultBodyLimit::max(DELIVERY_LIMIT_BYTES)),
        )
        .route("/v1/features:read", post(read))
        .route("/v1/tables", get(tables))
        .route("/v1/offline/{source}", post(offline_verb))
        .route("/v1/rebuilds", get(rebuilds).post(rebuild))
        .with_state(store)
}

/// The OpenAPI 3.1 document of [`router`].
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ondol feature store",
        description = "Registry of definitions, write path, online reads and offline tables.\n\nErrors are RFC 9457 \
                       problems with a stable `code`; `retryable` says whether the same call may succeed later. Times \
                       are RFC 3339 with a zone. *As of t* means strictly before t.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        version = env!("CARGO_PKG_VERSION")
    ),
    tags(
        (name = "definitions", description = "What features are: sources, views, models, and their versions."),
        (name = "features", description = "Online reads."),
        (name = "writes", description = "Deliveries of decoded events, and how far each source is held."),
        (name = "tables", description = "The offline tables."),
        (name = "repair", description = "Online rows built anew from the log."),
    ),
    paths(
        plan, apply, history, snapshot, activate, provisioning::provisionings, provisioning::hold,
        provisioning::release, uses::uses, uses::publish, positions, flush, deliver, read, tables, compact, vacuum,
        rebuild, rebuilds
    ),
    components(schemas(Problem, DeliveryHeader))
)]
struct Document;

/// What applying definitions would change
///
/// Compares the files with the definitions in force, in data terms: new versions, rows to backfill, models affected.
/// Changes nothing.
#[utoipa::path(
    post, path = "/v1/definitions:plan", tag = "definitions", operation_id = "planDefinitions",
    request_body(content = DefinitionFiles, example = json!({"files": [{"path": "fraud.toml", "text": "[view.card]\nfrom = \"transactions\"\nkey = \"card_id\"\nfeatures.n_1h = \"count() over 1h\"\n"}]})),
    responses(
        (status = 200, description = "The plan.", body = Plan, example = json!({"base_version": 3, "changes": [{"noun": "view", "name": "card@2", "action": "update", "differences": ["feature n_1h: count() over 30m → count() over 1h"], "rows_to_backfill": 336776, "models_affected": ["fraud"], "row_bytes": {"typical": 103, "most": 390, "parts": [{"part": "up to 13 tiles of 5m", "typical": 73, "most": 270}]}}]})),
        BadRequest, Conflict, Unprocessable, Internal, Unavailable
    )
)]
async fn plan(State(store): State<Store>, JsonBody(files, _): Body<DefinitionFiles>) -> Response {
    answer(store.plan(files).await)
}

/// Make definitions the ones in force
///
/// Changed definitions become new immutable versions. Atomic and idempotent: applying the same files again changes
/// nothing. New view versions start as `provisioning`; the answer does not wait for them. Refused with 409 where a live
/// model reads what would be removed or changed, unless `force` is true.
#[utoipa::path(
    post, path = "/v1/definitions:apply", tag = "definitions", operation_id = "applyDefinitions",
    params(ApplyQuery),
    request_body(content = DefinitionFiles),
    responses(
        (status = 200, description = "What changed, and the definitions now in force.", body = Applied),
        BadRequest, Conflict, Unprocessable, Internal, Unavailable
    )
)]
async fn apply(
    State(store): State<Store>,
    Query(query, _): Query<ApplyQuery, FeatureStoreError>,
    JsonBody(files, _): Body<DefinitionFiles>,
) -> Response {
    if query.force {
        answer(store.apply_forced(files).await)
    } else {
        answer(store.apply(files).await)
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ApplyQuery {
    /// Apply also what live models do not survive.
    #[serde(default)]
    force: bool,
}

/// Every version of a source, view or model
#[utoipa::path(
    get, path = "/v1/definitions/{name}/history", tag = "definitions", operation_id = "definitionHistory",
    params(("name" = String, Path, description = "The name, without a version.", example = "card")),
    responses(
        (status = 200, description = "Newest first.", body = DefinitionHistory),
        NotFound, Internal, Unavailable
    )
)]
async fn history(State(store): State<Store>, Segment(name, _): Name) -> Response {
    answer(store.history(&name).await)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SnapshotQuery {
    /// Wait until the version exceeds this one.
    after: Option<u64>,
    /// Wait at most this long, in milliseconds; at most 60,000. Without it the answer comes at once.
    #[serde(default)]
    wait_ms: u64,
}

/// The definitions in force
///
/// With `after` and `wait_ms` a long poll: answers once the version exceeds `after`, or when the wait is over, changed
/// or not.
#[utoipa::path(
    get, path = "/v1/snapshot", tag = "definitions", operation_id = "snapshot",
    params(SnapshotQuery),
    responses(
        (status = 200, description = "The snapshot in force.", body = Snapshot),
        BadRequest, Internal, Unavailable
    )
)]
async fn snapshot(State(store): State<Store>, Query(query, _): Query<SnapshotQuery, FeatureStoreError>) -> Response {
    let snapshot = match query.after {
        Some(after) => {
            store
                .next_snapshot(after, Duration::from_millis(query.wait_ms).min(MAX_WAIT))
                .await
        }
        None => store.snapshot().await,
    };
    answer(snapshot)
}

/// Operations on a view version: its verbs share a route.
async fn view_verb(state: State<Store>, segment: Name) -> Response {
    match segment.verb(&["activate", "hold", "release"]) {
        Ok((id, "hold")) => provisioning::hold(state, id).await,
        Ok((id, "release")) => provisioning::release(state, id).await,
        Ok((id, _)) => activate(state, id).await,
        Err(unknown) => unknown,
    }
}

/// Activate a view version
///
/// Says that a view over a table has been provisioned, so that it serves from now on. Idempotent. Views over streams
/// are activated by the store itself.
#[utoipa::path(
    post, path = "/v1/views/{id}:activate", tag = "definitions", operation_id = "activateView",
    params(("id" = u32, Path, description = "The view version's id, as in the snapshot.", example = 7)),
    responses(
        (status = 200, description = "It serves.", body = Option<bool>, example = json!(null)),
        BadRequest, NotFound, Internal, Unavailable
    )
)]
async fn activate(State(store): State<Store>, id: &str) -> Response {
    match view_id(id) {
        Ok(id) => answer(store.activate(id).await),
        Err(refused) => problem::respond(&refused),
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct GenerationQuery {
    /// Names one life of the topic, or one version of the table.
    #[param(example = "q3Ndh2KTQ0mUkGvPzvYFqA")]
    generation: String,
}

/// Where to resume a source
///
/// The first offset of each partition that is not yet in the committed log. A partition that is not listed starts at
/// its beginning.
#[utoipa::path(
    get, path = "/v1/sources/{source}/positions", tag = "writes", operation_id = "sourcePositions",
    params(("source" = String, Path, description = "The source's name.", example = "transactions"), GenerationQuery),
    responses(
        (status = 200, description = "One entry per partition.", body = Vec<PartitionPosition>, example = json!([{"partition": 0, "next_offset": 42000}])),
        BadRequest, NotFound, Internal, Unavailable
    )
)]
async fn positions(
    State(store): State<Store>,
    Segment(source, _): Name,
    Query(query, _): Query<GenerationQuery, FeatureStoreError>,
) -> Response {
    answer(store.resume(&source, &query.generation).await)
}

/// Operations on a source: its verbs share a route.
async fn source_verb(state: State<Store>, segment: Name) -> Response {
    match segment.verb(&["flush"]) {
        Ok((source, _)) => flush(state, source).await,
        Err(unknown) => unknown,
    }
}

/// Commit what was written for a source
///
/// Returns once everything delivered before is in the offline table.
#[utoipa::path(
    post, path = "/v1/sources/{source}:flush", tag = "writes", operation_id = "flushSource",
    params(("source" = String, Path, description = "The source's name.", example = "transactions")),
    responses(
        (status = 200, description = "How far the source is held.", body = WriteReceipt),
        NotFound, Internal, Unavailable
    )
)]
async fn flush(State(store): State<Store>, source: &str) -> Response {
    answer(store.flush(source).await)
}

/// Deliver decoded events
///
/// An Arrow IPC stream: the source's columns in declared order, then `_partition` (Int32), `_offset` (Int64) and
/// `_ingested_at` (Timestamp, microseconds, UTC). The schema's metadata holds a `DeliveryHeader` as JSON under
/// `ondol.delivery`. Repeating a delivery, in whole or in part, changes nothing; one that would leave a gap is refused
/// with 409 and names the offset to resume from.
#[utoipa::path(
    post, path = "/v1/deliveries", tag = "writes", operation_id = "deliver",
    request_body(content = Octets, content_type = "application/vnd.apache.arrow.stream"),
    responses(
        (status = 200, description = "How far the source is held.", body = WriteReceipt, example = json!({"written": [{"partition": 0, "next_offset": 42500}], "durable": [{"partition": 0, "next_offset": 42000}]})),
        BadRequest, NotFound, Conflict, Internal, Unavailable
    )
)]
async fn deliver(State(store): State<Store>, ArrowBody(schema, batches, _): ArrowBody<FeatureStoreError>) -> Response {
    match concat_batches(&schema, &batches).and_then(Delivery::from_arrow) {
        Ok(delivery) => answer(store.write(delivery).await),
        Err(error) => problem::respond(&FeatureStoreError::invalid(format!("not a delivery: {error}"))),
    }
}

/// Read features online
///
/// One round trip to the online store for a batch of entities. Answers JSON; or, where the `Accept` header asks for
/// `application/vnd.apache.arrow.stream`, an Arrow IPC stream of one batch: a column of values per feature in the order
/// asked, `status` (a fixed-size binary cell per entity with a byte per feature: 0 fresh, 1 stale, 2 missing, 3 null), then
/// each distinct column `event_time` once; which is whose stands in the schema's metadata under `ondol.features`. Ondol's
/// own services ask for `application/vnd.ondol.features`, which has the same in fewer bytes and steps.
#[utoipa::path(
    post, path = "/v1/features:read", tag = "features", operation_id = "readFeatures",
    request_body(content = ReadRequest, example = json!({"features": ["card.n_1h", "card.spend_24h"], "entities": [{"name": "card_id", "values": ["c1", "c2"]}]})),
    responses(
        (status = 200, description = "Columns in the order asked, rows in the order of the entities.", content(
            (FeatureBatchJson = "application/json", example = json!({"as_of": "2026-11-21T09:00:00Z", "rows": 2, "features": [
                {"feature": "card.n_1h", "view_version": 1, "values": [7, 0], "status": ["fresh", "missing"], "event_time": ["2026-11-21T08:59:59.76Z", null]},
                {"feature": "card.spend_24h", "view_version": 1, "values": [412.5, null], "status": ["fresh", "missing"], "event_time": ["2026-11-21T08:59:59.76Z", null]}
            ]})),
            (Octets = "application/vnd.apache.arrow.stream"),
            (Octets = "application/vnd.ondol.features")
        )),
        BadRequest, NotFound, Unprocessable, Internal, Unavailable
    )
)]
async fn read(State(store): State<Store>, headers: HeaderMap, JsonBody(request, _): Body<ReadRequest>) -> Response {
    let features = match store.read(request).await {
        Ok(features) => features,
        Err(error) => return problem::respond(&error),
    };
    let encoded = if accepts(&headers, packed::MEDIA_TYPE) {
        features.to_packed().map(|bytes| {
            let media = HeaderValue::from_static(packed::MEDIA_TYPE);
            ([(header::CONTENT_TYPE, media)], bytes).into_response()
        })
    } else if accepts(&headers, batch::MEDIA_TYPE) {
        features
            .to_arrow()
            .and_then(|rows| batch::encode(&rows.schema(), &[rows]))
            .map(|bytes| ArrowStream(bytes).into_response())
    } else {
        Ok(Json(features.to_json()).into_response())
    };
    encoded.unwrap_or_else(|error| problem::respond(&internal(&error)))
}

fn accepts(headers: &HeaderMap, media: &str) -> bool {
    let accepted = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    accepted.into_iter().any(|value| value.contains(media))
}

fn internal(error: &ArrowError) -> FeatureStoreError {
    FeatureStoreError::Internal {
        detail: error.to_string(),
    }
}

/// The offline tables
///
/// Any Delta reader takes their URLs.
#[utoipa::path(
    get, path = "/v1/tables", tag = "tables", operation_id = "offlineTables",
    responses(
        (status = 200, description = "One per stream source.", body = Vec<OfflineTable>, example = json!([{"source": "transactions", "url": "file:///var/lib/ondol/offline/transactions", "version": 12, "rows": 336776}])),
        Internal, Unavailable
    )
)]
async fn tables(State(store): State<Store>) -> Response {
    answer(store.tables().await)
}

/// Operations on an offline table: its verbs share a route.
async fn offline_verb(state: State<Store>, segment: Name, body: Bytes) -> Response {
    match segment.verb(&["compact", "vacuum"]) {
        Ok((source, "compact")) => compact(state, source).await,
        Ok((source, _)) => match options(&body) {
            Ok(options) => vacuum(state, source, options).await,
            Err(refused) => problem::respond(&refused),
        },
        Err(unknown) => unknown,
    }
}

/// No body means the options' defaults.
fn options(body: &Bytes) -> Result<VacuumOptions, FeatureStoreError> {
    if body.is_empty() {
        return Ok(VacuumOptions::default());
    }
    serde_json::from_slice(body)
        .map_err(|error| FeatureStoreError::invalid(format!("the body is no JSON of vacuum options: {error}")))
}

/// Merge small files
///
/// Merges every small file of the source's offline table, event date by event date, into large ones. Rows, positions
/// and older versions stay what they are, and readers and writers go on meanwhile. The store does so by itself, too, once
/// a date has many small files.
#[utoipa::path(
    post, path = "/v1/offline/{source}:compact", tag = "tables", operation_id = "compactTable",
    params(("source" = String, Path, description = "The source's name.", example = "transactions")),
    responses(
        (status = 200, description = "What was merged.", body = Compaction, example = json!({"source": "transactions", "version": 3612, "commits": 1, "files_removed": 3600, "files_added": 2, "bytes_removed": 180000000, "bytes_added": 96000000, "rows": 7200000, "files_before": 3610, "files_after": 12})),
        BadRequest, NotFound, Internal, Unavailable
    )
)]
async fn compact(State(store): State<Store>, source: &str) -> Response {
    answer(store.compact(source).await)
}

/// Delete what no version needs
///
/// Deletes data files that no version within the retention refers to, and the log entries of older versions. Event
/// dates older than what is kept are dropped first, as a commit. With `dry_run` nothing changes.
#[utoipa::path(
    post, path = "/v1/offline/{source}:vacuum", tag = "tables", operation_id = "vacuumTable",
    params(("source" = String, Path, description = "The source's name.", example = "transactions")),
    request_body(content = Option<VacuumOptions>, example = json!({"retention_ms": 604800000, "dry_run": true})),
    responses(
        (status = 200, description = "What was deleted, or would be.", body = Vacuum, example = json!({"source": "transactions", "dry_run": true, "version": 3612, "oldest_version": 12, "dates_dropped": [], "rows_dropped": 0, "files_deleted": 3600, "bytes_deleted": 180000000, "log_entries_deleted": 3000, "files_kept": 12})),
        BadRequest, NotFound, Internal, Unavailable
    )
)]
async fn vacuum(State(store): State<Store>, source: &str, options: VacuumOptions) -> Response {
    answer(store.vacuum(source, options).await)
}

/// Build online rows anew
///
/// From the log, exact to a position, while the views serve: reads are answered from the old rows until the new ones
/// take their place. One rebuild of a view at a time: asking again while one runs changes nothing. Answers at once;
/// `GET /v1/rebuilds` says how it goes.
#[utoipa::path(
    post, path = "/v1/rebuilds", tag = "repair", operation_id = "rebuild",
    request_body(content = RebuildRequest, example = json!({"names": ["card"]})),
    responses(
        (status = 200, description = "How the rebuilds of these views stand.", body = Vec<Rebuild>, example = json!([{"view": "card", "version": 2, "source": "transactions", "state": "running", "rows_done": 0, "rows_total": null, "started_at": "2026-11-21T09:00:00Z", "finished_at": null, "error": null}])),
        BadRequest, NotFound, Internal, Unavailable
    )
)]
async fn rebuild(State(store): State<Store>, JsonBody(request, _): Body<RebuildRequest>) -> Response {
    answer(store.rebuild(request).await)
}

/// Rebuilds, and views that need one
///
/// The last rebuild of each view that serves. A view in state `advised` has lost rows that the online store had
/// acknowledged.
#[utoipa::path(
    get, path = "/v1/rebuilds", tag = "repair", operation_id = "rebuilds",
    responses(
        (status = 200, description = "At most one entry per view.", body = Vec<Rebuild>, example = json!([{"view": "card", "version": 2, "source": "transactions", "state": "done", "rows_done": 336776, "rows_total": 336776, "started_at": "2026-11-21T09:00:00Z", "finished_at": "2026-11-21T09:00:07Z", "error": null}])),
        Internal, Unavailable
    )
)]
async fn rebuilds(State(store): State<Store>) -> Response {
    answer(store.rebuilds().await)
}
