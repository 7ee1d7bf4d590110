//! A model on another server that hangs, errs, answers nonsense, dies and flaps: its answers are exact or errors that name
//! it, and other models do not notice.

use crate::estate::Estate;
use crate::grpc::Servers;
use crate::load::{Load, Seen};
use crate::scene::{Model, Outcome};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_testkit::proxy::Proxy;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;

/// How the server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Well,
    /// No answer until it is in another mood.
    Hanging,
    Erring,
    /// Answers that are none: not of the protocol, of fewer rows, of text where numbers are due, broken off.
    Confused,
    /// Well, then in the other moods, a request each.
    Flapping,
}

/// A server of the Open Inference Protocol that adds up rows.
struct Server {
    port: u16,
    mood: watch::Sender<Mood>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Temper {
    mood: watch::Receiver<Mood>,
    served: AtomicUsize,
}

impl Server {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mood, moods) = watch::channel(Mood::Well);
        let temper = Arc::new(Temper {
            mood: moods,
            served: AtomicUsize::new(0),
        });
        let routes = Router::new()
            .route("/v2/models/m/infer", post(infer))
            .with_state(temper);
        let task = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { port, mood, task }
    }

    fn is(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }
}

async fn infer(State(temper): State<Arc<Temper>>, Json(request): Json<Value>) -> Response {
    let served = temper.served.fetch_add(1, Ordering::SeqCst);
    let mut moods = temper.mood.clone();
    let mood = *moods.borrow();
    match mood {
        Mood::Well => well(&request),
        Mood::Flapping if served % 4 < 2 => well(&request),
        Mood::Hanging => hanging(&mut moods, &request).await,
        Mood::Flapping if served % 8 == 2 => hanging(&mut moods, &request).await,
        Mood::Erring => erring(served),
        Mood::Flapping if served % 8 == 3 => erring(served),
        Mood::Confused | Mood::Flapping => confused(served, &request),
    }
}

async fn hanging(moods: &mut watch::Receiver<Mood>, request: &Value) -> Response {
    // Whoever asked has gone by then.
    let _mood = moods
        .wait_for(|mood| !matches!(mood, Mood::Hanging | Mood::Flapping))
        .await;
    well(request)
}

fn erring(served: usize) -> Response {
    let status = [
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::BAD_REQUEST,
    ][served % 3];
    (status, Json(json!({"error": "told to fail"}))).into_response()
}

fn confused(served: usize, request: &Value) -> Response {
    let data = scores(request);
    let rows = data.len();
    match served % 5 {
        0 => "<html>".into_response(),
        // A row more than were asked.
        1 => {
            let data: Vec<f64> = data.into_iter().chain([1.0]).collect();
            answer(&json!({"name": "y", "datatype": "FP32", "shape": [rows + 1], "data": data}))
        }
        2 => answer(&json!({"name": "y", "datatype": "FP32", "shape": [rows], "data": vec!["much"; rows]})),
        3 => answer(&json!({"name": "y", "datatype": "FP32", "shape": [rows], "data": []})),
        _ => {
            let broken = [
                Ok(Bytes::from("{\"outputs\":[{")),
                Err(std::io::Error::other("told to break off")),
            ];
            axum::body::Body::from_stream(futures::stream::iter(broken)).into_response()
        }
    }
}

fn well(request: &Value) -> Response {
    let data = scores(request);
    answer(&json!({"name": "y", "datatype": "FP32", "shape": [data.len()], "data": data}))
}

fn answer(output: &Value) -> Response {
    Json(json!({"model_name": "m", "outputs": [output]})).into_response()
}

fn scores(request: &Value) -> Vec<f64> {
    let input = &request["inputs"][0];
    let width = input["shape"][1].as_u64().unwrap() as usize;
    // What is missing is null, or a text.
    let cells = input["data"].as_array().unwrap().iter();
    let cells: Vec<f64> = cells.map(|cell| cell.as_f64().unwrap_or_default()).collect();
    let offset = f64::from(Model::Remote.offset(1));
    cells
        .chunks(width)
        .map(|row| offset + row.iter().sum::<f64>())
        .collect()
}

const MODELS: [Model; 3] = [Model::Remote, Model::Plain, Model::Steady];

/// Only the model that runs elsewhere may fail, with an error that says so.
fn upstream_only(model: Model, error: &ModelGatewayError) -> bool {
    let of_upstream = matches!(
        error,
        ModelGatewayError::Upstream { .. } | ModelGatewayError::DeadlineExceeded { .. }
    );
    model == Model::Remote && of_upstream
}

/// It is refused; whoever else is asked answers.
async fn failing(load: &Load) {
    load.more(Model::Remote, Outcome::Refused, 8).await;
    load.all_whole(&[Model::Plain, Model::Steady], 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_hangs_errs_lies_dies_and_flaps_gives_its_own_answers_or_none() {
    let server = Server::start().await;
    let proxy = Proxy::start("core to the upstream", &[server.port]).await.unwrap();
    let estate = Estate::start("", &[])
        .await
        .with_models(&[Model::Plain, Model::Steady])
        .await;
    let spec = format!(
        "url = \"http://127.0.0.1:{}\"\nprotocol = \"v2-rest\"\nmodel = \"m\"\nbinary = false\ntimeout_ms = 400\n\
         hedge_ms = 150\nretries = 1\n[breaker]\nopen_ms = 100\nmax_open_ms = 400\n\
         [[inputs]]\nname = \"X\"\ndatatype = \"FP32\"\nshape = [-1, 2]\n\
         [[outputs]]\nname = \"y\"\ndatatype = \"FP32\"\n",
        proxy.port
    );
    estate.register_bytes(Model::Remote, Bytes::from(spec)).await.unwrap();
    let load = Load::start(&estate, &MODELS, upstream_only);
    let grpc = Load::grpc(&Servers::one(estate.front().port), &MODELS, upstream_only);
    load.whole(20).await;
    grpc.whole(10).await;
    for mood in [Mood::Hanging, Mood::Erring, Mood::Confused] {
        server.is(mood);
        tokio::join!(failing(&load), failing(&grpc));
        server.is(Mood::Well);
        tokio::join!(load.whole(10), grpc.raw(&MODELS, 5));
    }
    // Both at once: what fails is refused, what does not is right.
    server.is(Mood::Flapping);
    failing(&load).await;
    load.whole(5).await;
    server.is(Mood::Well);
    load.whole(10).await;
    proxy.cut();
    failing(&load).await;
    proxy.mend();
    load.whole(10).await;
    proxy.stall();
    failing(&load).await;
    proxy.mend();
    load.whole(10).await;
    grpc.whole(5).await;
    named(&load.stop("upstream").await);
    for (caller, text) in grpc.stop("upstream, over gRPC").await.refusals {
        assert!(
            text.contains("127.0.0.1") || text.contains("deadline of"),
            "{caller:?}: {text}"
        );
    }
}

/// Every kind of refusal names the server and the model there.
fn named(seen: &Seen) {
    for ((_, code), text) in &seen.refusals {
        assert!(
            code == "deadline-exceeded" || text.contains("127.0.0.1"),
            "{code}: {text}"
        );
    }
    let codes: Vec<&str> = seen.refusals.keys().map(|(_, code)| code.as_str()).collect();
    for code in ["upstream-failed", "upstream-timed-out", "upstream-unavailable"] {
        assert!(codes.contains(&code), "{codes:?}");
    }
}
