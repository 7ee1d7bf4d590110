//! Requests and responses that are compressed as a whole: `Content-Encoding` and `Accept-Encoding`, gzip and deflate.
//!
//! Unpacking is bounded by the size of requests, so that a small body can't become a huge one. What takes long is done
//! aside from async threads.

use crate::fault::internal;
use crate::open_inference::refusal::Refusal;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use std::io::{self, Read, Write};

/// Answers up to about a packet are sent as they are: packed they would not arrive sooner.
const WORTH_PACKING_BYTES: usize = 1_400;
/// More than this is packed and unpacked aside: it takes about 500 µs.
const INLINE_BYTES: usize = 32 << 10;

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `gzip`.
    Gzip,
    /// `deflate`, which means the zlib format.
    Deflate,
}

impl Encoding {
    fn parse(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    /// The encoding an answer may have; the first that is accepted.
    pub(crate) fn accepted(headers: &HeaderMap) -> Option<Self> {
        let accepted = headers.get_all(header::ACCEPT_ENCODING).iter();
        let names = accepted
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        names
            .filter_map(|name| match name.split_once(';') {
                None => Self::parse(name),
                Some((name, quality)) => Self::parse(name).filter(|_| !is_zero(quality)),
            })
            .next()
    }
}

/// `q=0` and its longer forms: not wanted at all.
fn is_zero(quality: &str) -> bool {
    let value = quality
        .trim()
        .strip_prefix("q=")
        .and_then(|value| value.trim().parse::<f32>().ok());
    value == Some(0.0)
}

/// The body as it was before it was packed as `headers` say; at most `max_bytes` of it.
pub(crate) async fn unpacked(headers: &HeaderMap, body: Bytes, max_bytes: usize) -> Result<Bytes, Refusal> {
    let Some(name) = headers.get(header::CONTENT_ENCODING) else {
        return Ok(body);
    };
    let name = String::from_utf8_lossy(name.as_bytes());
    if name.is_empty() || name.eq_ignore_ascii_case("identity") {
        return Ok(body);
    }
    let Some(encoding) = Encoding::parse(&name) else {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("content encoding `{name}` is not supported: gzip, deflate and none are"),
        ));
    };
    let unpacked = if body.len() <= INLINE_BYTES / 8 {
        unpack(encoding, &body, max_bytes)
    } else {
        let unpacking = tokio::task::spawn_blocking(move || unpack(encoding, &body, max_bytes));
        unpacking.await.map_err(internal)?
    };
    unpacked.map(Bytes::from).map_err(|error| {
        let status = match error.kind() {
            io::ErrorKind::FileTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        Refusal::new(
            status,
            format!("the body can't be unpacked as {}: {error}", encoding.name()),
        )
    })
}

/// `packed` as it was before; an error of kind [`io::ErrorKind::FileTooLarge`] when that has more than `max_bytes`.
pub fn unpack(encoding: Encoding, packed: &[u8], max_bytes: usize) -> io::Result<Vec<u8>> {
    let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
    let mut unpacked = Vec::new();
    match encoding {
        Encoding::Gzip => MultiGzDecoder::new(packed).take(limit).read_to_end(&mut unpacked)?,
        Encoding::Deflate => ZlibDecoder::new(packed).take(limit).read_to_end(&mut unpacked)?,
    };
    if unpacked.len() > max_bytes {
        let detail = format!("it has more than {max_bytes} bytes (`max_request_bytes`)");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, detail));
    }
    Ok(unpacked)
}

/// `bytes` packed, and the header that says so, where a client accepts it and it is worth it.
pub(crate) async fn packed(
    accepted: Option<Encoding>,
    bytes: Vec<u8>,
) -> Result<(Vec<u8>, Option<HeaderValue>), Refusal> {
    let Some(encoding) = accepted.filter(|_| bytes.len() > WORTH_PACKING_BYTES) else {
        return Ok((bytes, None));
    };
    let packed = if bytes.len() <= INLINE_BYTES {
        pack(encoding, &bytes)
    } else {
        let packing = tokio::task::spawn_blocking(move || pack(encoding, &bytes));
        packing.await.map_err(internal)?
    };
    let packed = packed.map_err(internal)?;
    Ok((packed, Some(HeaderValue::from_static(encoding.name()))))
}

/// Fast rather than small: an answer is sent once.
fn pack(encoding: Encoding, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let room = Vec::with_capacity(bytes.len() / 2);
    match encoding {
        Encoding::Gzip => {
            let mut encoder = GzEncoder::new(room, Compression::fast());
            encoder.write_all(bytes)?;
            encoder.finish()
        }
        Encoding::Deflate => {
            let mut encoder = ZlibEncoder::new(room, Compression::fast());
            encoder.write_all(bytes)?;
            encoder.finish()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[tokio::test]
    async fn a_body_comes_back_from_either_encoding() {
        let text = b"tensor ".repeat(20_000);
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let (bytes, name) = packed(Some(encoding), text.clone()).await.unwrap();
            assert!(bytes.len() < text.len() / 10);
            let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, name.unwrap())]);
            assert_eq!(unpacked(&headers, Bytes::from(bytes), text.len()).await.unwrap(), text);
        }
        assert_eq!(packed(Some(Encoding::Gzip), b"short".to_vec()).await.unwrap().1, None);
    }

    #[tokio::test]
    async fn a_small_body_does_not_become_a_huge_one() {
        let bomb = pack(Encoding::Gzip, &vec![0; 1 << 20]).unwrap();
        let headers = headers(header::CONTENT_ENCODING, "gzip");
        let refused = unpacked(&headers, Bytes::from(bomb), 1_000).await.unwrap_err();
        assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(refused.error.contains("more than 1000 bytes"), "{}", refused.error);
    }

    #[tokio::test]
    async fn what_is_not_packed_as_it_says_is_refused() {
        let refused = |encoding| async move {
            let headers = headers(header::CONTENT_ENCODING, encoding);
            unpacked(&headers, Bytes::from_static(b"{}"), 1_000)
                .await
                .unwrap_err()
                .status
        };
        assert_eq!(refused("gzip").await, StatusCode::BAD_REQUEST);
        assert_eq!(refused("br").await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }

    #[test]
    fn the_first_encoding_that_is_accepted_is_taken() {
        let accepted = |value| Encoding::accepted(&headers(header::ACCEPT_ENCODING, value));
        assert_eq!(accepted("br, gzip, deflate"), Some(Encoding::Gzip));
        assert_eq!(accepted("gzip;q=0, deflate;q=0.5"), Some(Encoding::Deflate));
        assert_eq!(accepted("identity"), None);
    }
}
