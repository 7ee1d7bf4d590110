//! The protocols whose tensors are JSON tables, spoken to servers that look at every word: MLflow, TensorFlow Serving.

use crate::support::{C1, STRANGER};
use crate::{front, register, serve};
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

/// A server of MLflow's shape: the sum of a row's columns, null counting as 0.
async fn invocations(body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let split = &request["dataframe_split"];
    let names: Vec<&str> = split["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "card.n_1h",
            "card.spend_24h",
            "merchant.risk",
            "amount",
            "derived.ratio"
        ]
    );
    let sum = |row: &Value| -> f64 {
        row.as_array()
            .unwrap()
            .iter()
            .map(|cell| cell.as_f64().unwrap_or(0.0))
            .sum()
    };
    let sums: Vec<f64> = split["data"].as_array().unwrap().iter().map(sum).collect();
    Json(json!({ "predictions": sums })).into_response()
}

#[tokio::test]
async fn mlflow_gets_a_table_of_the_features_by_name() {
    let url = serve(Router::new().route("/invocations", post(invocations))).await;
    let front = front().await;
    register(&front, &format!("url = \"{url}\"\nprotocol = \"mlflow\"\n"))
        .await
        .unwrap();
    // 2 - 4 + 0.25 + 8 + 8 / -4
    assert_eq!(front.predict(C1).await.unwrap().prediction, json!(4.25));
    assert_eq!(front.predict(STRANGER).await.unwrap().prediction, json!(8.0));
}

#[tokio::test]
async fn tensorflow_serving_gets_columns_or_rows() {
    let metadata = json!({"model_spec": {"name": "m"}, "metadata": {"signature_def": {"signature_def": {"serving_default": {
        "inputs": {"X": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}, {"size": "5"}]}}},
        "outputs": {"y": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": "-1"}, {"size": "1"}]}}},
    }}}}});
    let predict = |body: Bytes| async move {
        // The server reads NaN, which serde does not.
        let text = String::from_utf8(body.to_vec()).unwrap().replace("NaN", "0");
        let request: Value = serde_json::from_str(&text).unwrap();
        let (rows, key) = match (&request["inputs"], &request["instances"]) {
            (Value::Array(rows), _) => (rows, "outputs"),
            (_, Value::Array(rows)) => (rows, "predictions"),
            _ => panic!("{request}"),
        };
        let sum = |row: &Value| -> f64 { row.as_array().unwrap().iter().map(|cell| cell.as_f64().unwrap()).sum() };
        let sums: Vec<[f64; 1]> = rows.iter().map(|row| [sum(row)]).collect();
        Json(json!({ key: sums }))
    };
    let router = Router::new()
        .route("/v1/models/m/metadata", get(move || async move { Json(metadata) }))
        .route("/v1/models/m:predict", post(predict));
    let url = serve(router).await;
    for shape in ["columns", "rows"] {
        let front = front().await;
        let spec = format!("url = \"{url}\"\nprotocol = \"tf-serving\"\nmodel = \"m\"\nshape = \"{shape}\"\n");
        register(&front, &spec).await.unwrap();
        assert_eq!(front.predict(C1).await.unwrap().prediction, json!(4.25));
        assert_eq!(front.predict(STRANGER).await.unwrap().prediction, json!(8.0));
    }
}
