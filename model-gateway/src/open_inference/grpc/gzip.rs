//! Requests whose messages are packed with gzip, unpacked before they reach the service: its library would take them
//! only with a feature that every other gRPC user of the workspace would be built again for.
//!
//! A gRPC body is a sequence of messages, each behind a byte that says whether it is packed and its length in 4 bytes
//! (gRPC over HTTP/2, "Length-Prefixed-Message").

use crate::open_inference::compression::{Encoding, unpack};
use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::HeaderValue;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use std::io;
use tonic::Status;

/// The header that says how a request's messages may be packed.
const ENCODING: &str = "grpc-encoding";
/// The byte and the length before each message.
const PREFIX_BYTES: usize = 5;

/// `request` with its messages unpacked, each of at most `max_bytes`. Other encodings than gzip are left to the service to
/// refuse.
pub(super) fn unpack_messages(mut request: Request, max_bytes: usize) -> Request {
    if request
        .headers()
        .get(ENCODING)
        .is_some_and(|encoding| encoding == "gzip")
    {
        request
            .headers_mut()
            .insert(ENCODING, HeaderValue::from_static("identity"));
        request = request.map(|body| Body::from_stream(messages(body.into_data_stream(), max_bytes)));
    }
    request
}

/// What has arrived of a body and is not passed on yet.
struct Arriving {
    body: BodyDataStream,
    buffer: BytesMut,
}

fn messages(body: BodyDataStream, max_bytes: usize) -> impl stream::Stream<Item = Result<Bytes, Status>> {
    let arriving = Arriving {
        body,
        buffer: BytesMut::new(),
    };
    stream::try_unfold(arriving, move |mut arriving| async move {
        loop {
            if let Some(message) = take_message(&mut arriving.buffer, max_bytes)? {
                return Ok(Some((message, arriving)));
            }
            match arriving.body.next().await {
                Some(chunk) => {
                    let chunk = chunk.map_err(|error| Status::cancelled(error.to_string()))?;
                    arriving.buffer.extend_from_slice(&chunk);
                }
                // A message that was cut off is passed on as it is: the service says so.
                None if arriving.buffer.is_empty() => return Ok(None),
                None => return Ok(Some((arriving.buffer.split().freeze(), arriving))),
            }
        }
    })
    .into_stream()
}

/// The next whole message, unpacked, if it is there.
fn take_message(buffer: &mut BytesMut, max_bytes: usize) -> Result<Option<Bytes>, Status> {
    let Some(([is_packed, length @ ..], rest)) = buffer.split_first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    let (is_packed, length) = (*is_packed == 1, u32::from_be_bytes(*length) as usize);
    if length > max_bytes {
        return Err(too_large(max_bytes));
    }
    if rest.len() < length {
        return Ok(None);
    }
    let mut message = buffer.split_to(PREFIX_BYTES + length);
    if !is_packed {
        return Ok(Some(message.freeze()));
    }
    message.advance(PREFIX_BYTES);
    let unpacked = unpack(Encoding::Gzip, &message, max_bytes).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => too_large(max_bytes),
        _ => Status::invalid_argument(format!("the message can't be unpacked as gzip: {error}")),
    })?;
    let length = u32::try_from(unpacked.len()).map_err(|_| too_large(max_bytes))?;
    let mut plain = BytesMut::with_capacity(PREFIX_BYTES + unpacked.len());
    plain.put_u8(0);
    plain.put_u32(length);
    plain.put_slice(&unpacked);
    Ok(Some(plain.freeze()))
}

fn too_large(max_bytes: usize) -> Status {
    Status::resource_exhausted(format!(
        "the message has more than {max_bytes} bytes (`max_request_bytes`)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn frame(is_packed: bool, message: &[u8]) -> Vec<u8> {
        let mut frame = vec![u8::from(is_packed)];
        frame.put_u32(message.len() as u32);
        frame.extend(message);
        frame
    }

    fn gzip(message: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(message).unwrap();
        encoder.finish().unwrap()
    }

    async fn unpacked(body: Vec<u8>, chunk: usize, max_bytes: usize) -> Result<Vec<u8>, Status> {
        let chunks: Vec<Result<Vec<u8>, io::Error>> = body.chunks(chunk).map(|chunk| Ok(chunk.to_vec())).collect();
        let body = Body::from_stream(stream::iter(chunks)).into_data_stream();
        let messages: Vec<Bytes> = messages(body, max_bytes).try_collect().await?;
        Ok(messages.concat())
    }

    #[tokio::test]
    async fn messages_come_out_unpacked_however_they_are_cut() {
        let body = [
            frame(true, &gzip(b"first")),
            frame(false, b"second"),
            frame(true, &gzip(b"")),
        ]
        .concat();
        let expected = [frame(false, b"first"), frame(false, b"second"), frame(false, b"")].concat();
        for chunk in [1, 4, 7, 1_000] {
            assert_eq!(unpacked(body.clone(), chunk, 100).await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn a_small_message_does_not_become_a_huge_one() {
        let status = unpacked(frame(true, &gzip(&[0; 5_000])), 9, 1_000).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        let status = unpacked(frame(true, b"no gzip"), 9, 1_000).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    }
}
