//! Triton as the upstream: its own program with its Python backend, as PyTriton packs it.

use crate::servers::{PATIENT, Server, ends_at_the_deadline, scores_as_in_process, tells_failures};
use crate::{front, register};

fn rest(server: &Server, more: &str) -> String {
    let url = server.rest();
    format!("url = \"{url}\"\nprotocol = \"v2-rest\"\nmodel = \"fraud\"\n{PATIENT}{more}")
}

fn grpc(server: &Server, more: &str) -> String {
    let url = server.grpc();
    format!("url = \"{url}\"\nprotocol = \"v2-grpc\"\nmodel = \"fraud\"\n{PATIENT}{more}")
}

#[tokio::test(flavor = "multi_thread")]
async fn triton_scores_to_the_bit_as_the_model_in_process_and_tells_what_is_wrong() {
    let server = Server::triton().await;
    let specs = [
        rest(&server, ""),
        grpc(&server, ""),
        rest(&server, "version = \"3\"\n"),
        grpc(&server, "version = \"3\"\n"),
    ];
    let (bench, registered) = scores_as_in_process(&specs).await;
    for model in registered {
        assert_eq!(model.inputs[0].shape, [-1, 5], "as the server tells");
        tells_failures(&bench, model.model.version, "its own log says why").await;
    }
    for spec in [rest(&server, "version = \"4\"\n"), grpc(&server, "version = \"4\"\n")] {
        let error = register(&front().await, &spec).await.unwrap_err().to_string();
        assert!(error.contains("version 4"), "{error}");
    }
    // JSON has no word for a missing value that Triton reads: said at registration, by Triton.
    let error = register(&front().await, &rest(&server, "binary = false\n"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("non-number"), "{error}");
    ends_at_the_deadline(&bench, 2).await;
    ends_at_the_deadline(&bench, 3).await;
    // Its backend keeps a region of shared memory.
    server.stop();
}
