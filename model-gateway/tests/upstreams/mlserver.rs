//! MLServer as the upstream. It takes no tensors as bytes over REST, so the gateway must find out and send JSON.

use crate::servers::{PATIENT, Server, ends_at_the_deadline, scores_as_in_process, tells_failures};
use crate::{front, register};

fn rest(server: &Server) -> String {
    format!(
        "url = \"{}\"\nprotocol = \"v2-rest\"\nmodel = \"fraud\"\n{PATIENT}",
        server.rest()
    )
}

fn grpc(server: &Server) -> String {
    format!(
        "url = \"{}\"\nprotocol = \"v2-grpc\"\nmodel = \"fraud\"\n{PATIENT}",
        server.grpc()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn mlserver_scores_to_the_bit_as_the_model_in_process_and_tells_what_is_wrong() {
    let server = Server::mlserver().await;
    let (bench, registered) = scores_as_in_process(&[rest(&server), grpc(&server)]).await;
    for known in registered {
        let told: Vec<_> = known
            .inputs
            .iter()
            .map(|input| (input.name.as_str(), input.shape.as_slice()))
            .collect();
        assert_eq!(told, [("X", [-1, 5].as_slice())]);
        assert_eq!(known.outputs.len(), 2);
        tells_failures(&bench, known.model.version, "its own log says why").await;
    }
    is_named(&rest(&server), "404 Not Found: Model nobody not found").await;
    is_named(&grpc(&server), "NotFound: Model nobody").await;
    // The last, for the server is busy with it ever after.
    ends_at_the_deadline(&bench, 3).await;
    ends_at_the_deadline(&bench, 2).await;
}

/// A model that the server does not have is refused at registration, in its words.
async fn is_named(spec: &str, words: &str) {
    let bench = front().await;
    let spec = spec.replace("\"fraud\"", "\"nobody\"");
    let error = register(&bench, &spec).await.unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}
