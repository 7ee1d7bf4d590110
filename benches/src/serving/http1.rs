//! An HTTP/1.1 connection that sends requests whose bytes were made before, and does no more with an answer than find its
//! end: what the client costs is taken from the server's cores.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, Bytes, BytesMut};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The header by which the binary tensor extension says how long the JSON part of a body is.
pub(super) const JSON_LENGTH: &str = "inference-header-content-length";
/// Bytes of an answer at most.
const LARGEST: usize = 1 << 20;

/// One connection, kept alive.
pub(super) struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

/// What came back.
pub(super) struct Answer {
    /// How much of the body is JSON, where bytes follow.
    pub(super) json_bytes: Option<usize>,
    pub(super) body: Bytes,
}

/// A whole request. `headers` are whole lines.
pub(super) fn post(path: &str, headers: &str, body: &[u8]) -> Bytes {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat().into()
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: BytesMut::with_capacity(16 << 10),
        })
    }

    /// One round trip; an answer that is no success is an error.
    pub(super) async fn call(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(request).await?;
        loop {
            if let Some(answer) = self.answer()? {
                return Ok(answer);
            }
            ensure!(self.buffer.len() < LARGEST, "an answer of more than {LARGEST} bytes");
            let read = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "the server closed the connection");
        }
    }

    /// The answer, once all of it is there.
    fn answer(&mut self) -> Result<Option<Answer>> {
        let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = std::str::from_utf8(&self.buffer[..end]).context("a head that is not text")?;
        let length = header(head, "content-length")?.context("an answer without content-length")?;
        let json_bytes = header(head, JSON_LENGTH)?;
        let is_ok = head.starts_with("HTTP/1.1 200");
        let whole = end + 4 + length;
        if self.buffer.len() < whole {
            return Ok(None);
        }
        let mut answer = self.buffer.split_to(whole);
        if !is_ok {
            bail!("refused: {}", String::from_utf8_lossy(&answer));
        }
        answer.advance(end + 4);
        Ok(Some(Answer {
            json_bytes,
            body: answer.freeze(),
        }))
    }
}

fn header(head: &str, name: &str) -> Result<Option<usize>> {
    let found = head.lines().find_map(|line| {
        let (own, value) = line.split_once(':')?;
        own.eq_ignore_ascii_case(name).then(|| value.trim())
    });
    found
        .map(|value| value.parse().with_context(|| format!("{name}: {value}")))
        .transpose()
}
