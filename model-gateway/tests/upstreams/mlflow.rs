//! MLflow's own scoring server as the upstream, with models that have a signature and models that have none.

use crate::servers::{PATIENT, Server, ends_at_the_deadline, scores_as_in_process, tells_failures};
use crate::{front, register};

fn spec(server: &Server, more: &str) -> String {
    format!("url = \"{}\"\nprotocol = \"mlflow\"\n{PATIENT}{more}", server.rest())
}

#[tokio::test(flavor = "multi_thread")]
async fn mlflow_scores_a_table_or_a_matrix_to_the_bit_as_the_model_in_process() {
    let server = Server::mlflow("").await;
    let matrix = "[[inputs]]\nname = \"X\"\ndatatype = \"FP64\"\nshape = [-1, 5]\n";
    let specs = [
        spec(&server, ""),
        spec(&server, "shape = \"rows\"\n"),
        spec(&server, matrix),
    ];
    let (bench, _) = scores_as_in_process(&specs).await;
    tells_failures(&bench, 2, "400 Bad Request").await;
    ends_at_the_deadline(&bench, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mlflow_holds_the_columns_against_the_models_signature() {
    let columns = r#"["card.n_1h", "card.spend_24h", "merchant.risk", "amount", "derived.ratio"]"#;
    let server = Server::mlflow(columns).await;
    scores_as_in_process(&[spec(&server, ""), spec(&server, "shape = \"rows\"\n")]).await;
    // A column that the signature has and the vector does not: MLflow says so, and the model is not registered.
    let more = columns.replace("[", "[\"card.age\", ");
    let server = Server::mlflow(&more).await;
    let error = register(&front().await, &spec(&server, ""))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("400 Bad Request: Failed to predict data"), "{error}");
}
