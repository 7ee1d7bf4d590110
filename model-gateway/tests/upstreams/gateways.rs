//! Another gateway as the upstream, and what registration asks of one.

use crate::support::{Bench, C1, STRANGER};
use crate::{front, register, serve};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::ArtifactKind;
use ondol_wire::ContractError as _;
use serde_json::json;
use tokio::net::{TcpListener, UnixListener};

#[tokio::test]
async fn a_gateway_behind_a_gateway_scores_the_same_over_tcp_and_a_socket_in_json_and_in_bytes() {
    let back = Bench::with_model().await;
    let tcp = serve(back.gateway.open_inference()).await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("gateway.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let router = back.gateway.open_inference();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let unix = format!("unix://{}", socket.display());
    let forms = [
        "protocol = \"v2-rest\"\nbinary = true\n",
        "protocol = \"v2-rest\"\nbinary = false\n",
        "protocol = \"v2-grpc\"\n",
    ];
    for url in [&tcp, &unix] {
        for form in forms {
            let front = front().await;
            let spec = format!("url = \"{url}\"\nmodel = \"fraud\"\n{form}");
            let registered = register(&front, &spec).await.unwrap();
            assert_eq!(registered.kind, ArtifactKind::Upstream);
            assert_eq!(registered.inputs[0].shape, [-1, 5], "as the server tells");
            for json in [C1, STRANGER] {
                let expected = back.predict(json).await.unwrap();
                let found = front.predict(json).await.unwrap();
                assert_eq!(found.prediction, expected.prediction, "{url} {form}");
            }
        }
    }
}

#[tokio::test]
async fn a_grpc_upstream_that_is_unknown_or_down_says_so() {
    let back = Bench::open().await;
    let url = serve(back.gateway.open_inference()).await;
    let front = Bench::open().await;
    let spec = format!("url = \"{url}\"\nprotocol = \"v2-grpc\"\nmodel = \"nobody\"\n");
    let error = register(&front, &spec).await.unwrap_err();
    assert!(error.to_string().contains("NotFound"), "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let spec = format!("url = \"{url}\"\nprotocol = \"v2-grpc\"\nmodel = \"fraud\"\n");
    let error = register(&front, &spec).await.unwrap_err();
    assert_eq!(error.status(), StatusCode::BAD_GATEWAY, "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn an_upstream_of_another_width_is_refused_with_a_diff() {
    let metadata = json!({
        "name": "m", "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 7]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
    });
    let url = serve(Router::new().route("/v2/models/m", get(move || async move { Json(metadata) }))).await;
    let front = Bench::open().await;
    let spec = format!("url = \"{url}\"\nprotocol = \"v2-rest\"\nmodel = \"m\"\n");
    let error = register(&front, &spec).await.unwrap_err();
    assert!(matches!(&error, ModelGatewayError::Mismatch { .. }), "{error}");
    assert!(error.to_string().contains("found 7 columns"), "{error}");
}
