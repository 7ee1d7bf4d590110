//! A shutdown of the gateway's port while calls of the Open Inference Protocol over gRPC are under way.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use http::uri::PathAndQuery;
use ondol_model_gateway::open_inference::grpc::generated::model_infer_request::InferInputTensor;
use ondol_model_gateway::open_inference::grpc::generated::{
    InferTensorContents, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
};
use ondol_runtime::{Shutdown, serve};
use std::net::SocketAddr;
use std::time::Duration;
use support::Bench;
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// A gateway's port, and the shutdown of it.
async fn port(bench: &Bench) -> (SocketAddr, Shutdown) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new();
    shutdown.spawn(
        "http",
        serve(listener, bench.gateway.open_inference(), shutdown.clone()),
    );
    (address, shutdown)
}

async fn connect(address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
}

/// One row by key; an amount that tells which row.
fn request(amount: f64) -> ModelInferRequest {
    let text = |name: &str, value: &str| InferInputTensor {
        name: name.to_owned(),
        datatype: "BYTES".to_owned(),
        shape: vec![1],
        contents: Some(InferTensorContents {
            bytes_contents: vec![value.to_owned().into()],
            ..InferTensorContents::default()
        }),
        ..InferInputTensor::default()
    };
    let amount = InferInputTensor {
        name: "amount".to_owned(),
        datatype: "FP64".to_owned(),
        shape: vec![1],
        contents: Some(InferTensorContents {
            fp64_contents: vec![amount],
            ..InferTensorContents::default()
        }),
        ..InferInputTensor::default()
    };
    ModelInferRequest {
        model_name: "fraud".to_owned(),
        id: format!("{}", amount.contents.as_ref().unwrap().fp64_contents[0]),
        inputs: vec![text("card_id", "c1"), text("merchant_id", "m1"), amount],
        ..ModelInferRequest::default()
    }
}

async fn infer(channel: Channel, amount: f64) -> Result<ModelInferResponse, Status> {
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/inference.GRPCInferenceService/ModelInfer");
    let codec = ProstCodec::<ModelInferRequest, ModelInferResponse>::default();
    let answer = client.unary(Request::new(request(amount)), path, codec).await;
    answer.map(tonic::Response::into_inner)
}

/// An open stream: what is sent into it, and what comes.
async fn stream(
    channel: Channel,
    first: f64,
) -> (
    mpsc::UnboundedSender<ModelInferRequest>,
    Streaming<ModelStreamInferResponse>,
) {
    let (send, mut sent) = mpsc::unbounded_channel();
    send.send(request(first)).unwrap();
    let requests = futures::stream::poll_fn(move |context| sent.poll_recv(context));
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/inference.GRPCInferenceService/ModelStreamInfer");
    let codec = ProstCodec::<ModelInferRequest, ModelStreamInferResponse>::default();
    let answers = client.streaming(Request::new(requests), path, codec).await.unwrap();
    (send, answers.into_inner())
}

async fn next(answers: &mut Streaming<ModelStreamInferResponse>) -> Result<Option<String>, Status> {
    let answer = answers.message().await?;
    Ok(answer.map(|answer| {
        assert_eq!(answer.error_message, "");
        answer.infer_response.unwrap().id
    }))
}

/// Waits until `count` lookups are under way or done.
async fn asked(bench: &Bench, count: usize) {
    while bench.store.reads.lock().unwrap().len() < count {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_streams_under_way_are_answered_and_the_port_closes() {
    let bench = Bench::patient().await;
    let (address, shutdown) = port(&bench).await;
    let channel = connect(address).await.unwrap();
    let idle = connect(address).await.unwrap();
    infer(channel.clone(), 1.0).await.unwrap();
    let (send, mut answers) = stream(idle, 2.0).await;
    assert_eq!(next(&mut answers).await.unwrap().as_deref(), Some("2"));
    asked(&bench, 2).await;

    // Every lookup hangs from here on.
    let held = bench.store.gate.acquire_many(1_000).await.unwrap();
    let unary: Vec<_> = (0..4)
        .map(|call| tokio::spawn(infer(channel.clone(), f64::from(call))))
        .collect();
    for amount in [10.0, 11.0, 12.0] {
        send.send(request(amount)).unwrap();
    }
    asked(&bench, 9).await;
    let drained = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { shutdown.drain(Duration::from_secs(300)).await }
    });
    // New callers find nobody; those under way go on.
    while connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!drained.is_finished());
    drop(held);
    for (call, answer) in unary.into_iter().enumerate() {
        assert_eq!(answer.await.unwrap().unwrap().id, call.to_string());
    }
    for id in ["10", "11", "12"] {
        assert_eq!(next(&mut answers).await.unwrap().as_deref(), Some(id));
    }
    // The client left its stream open, as clients do: it is told, and holds nothing up.
    let ended = next(&mut answers).await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    assert!(ended.message().contains("shutting down"), "{ended}");
    drop((channel, answers));
    assert!(drained.await.unwrap());
    drop(send);
    bench.stop().await;
    assert_eq!(
        bench.ingest.events.lock().unwrap().len(),
        9,
        "every answer has its decision"
    );
}
