//! A gRPC connection that sends messages whose bytes were made before, and hands back an answer's as they are.

use anyhow::{Context as _, Result};
use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use bytes::{Buf as _, BufMut as _, Bytes};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// The method that is called.
const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

/// One connection.
pub(super) struct Connection(Grpc<Channel>);

impl Connection {
    pub(super) async fn open(server: Uri) -> Result<Self> {
        let channel = Endpoint::from(server).tcp_nodelay(true).connect().await?;
        Ok(Self(Grpc::new(channel)))
    }

    /// One call; a status other than OK is an error.
    pub(super) async fn call(&mut self, message: Bytes) -> Result<Bytes> {
        self.0.ready().await?;
        let answer = self
            .0
            .unary(Request::new(message), PathAndQuery::from_static(INFER), AsTheyAre)
            .await
            .context("refused")?;
        Ok(answer.into_inner())
    }
}

/// Messages as bytes.
#[derive(Clone, Copy)]
struct AsTheyAre;

impl Codec for AsTheyAre {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for AsTheyAre {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for AsTheyAre {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
