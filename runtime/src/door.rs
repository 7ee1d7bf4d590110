//! Where connections come in: plain or over TLS, each with what is known of who is at its other end.

use crate::Shutdown;
use crate::tls::{PeerCertificate, TlsServer};
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Handshakes under way at most: further connections wait in the kernel.
const HANDSHAKES: usize = 256;
/// Connections that have shaken hands and wait for the server.
const WAITING: usize = 64;
/// How long to wait when the process can open no more connections.
const PAUSE: Duration = Duration::from_millis(200);

/// Who is at the other end of a connection: an extension of every request, as `ConnectInfo<Peer>`.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// What its verified certificate says; none without mutual TLS.
    pub certificate: Option<Arc<PeerCertificate>>,
}

/// Where connections come in.
pub(crate) enum Door {
    /// As they are.
    Plain(TcpListener),
    /// Once they have shaken hands.
    Tls {
        arrivals: mpsc::Receiver<(Box<TlsStream<TcpStream>>, Peer)>,
        address: SocketAddr,
    },
}

impl Door {
    /// Without `tls`, connections are taken as they are. With it, a task of `shutdown` shakes hands with them, many at a
    /// time: a client that is slow at it keeps nobody waiting.
    pub(crate) fn open(listener: TcpListener, tls: Option<TlsServer>, shutdown: &Shutdown) -> io::Result<Self> {
        let Some(tls) = tls else {
            return Ok(Self::Plain(listener));
        };
        let address = listener.local_addr()?;
        let (arrived, arrivals) = mpsc::channel(WAITING);
        let token = shutdown.token();
        shutdown.spawn("tls-handshakes", async move {
            token.run_until_cancelled(shake_hands(listener, tls, arrived)).await;
        });
        Ok(Self::Tls { arrivals, address })
    }
}

async fn shake_hands(listener: TcpListener, tls: TlsServer, arrived: mpsc::Sender<(Box<TlsStream<TcpStream>>, Peer)>) {
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            _ = handshakes.join_next(), if !handshakes.is_empty() => {}
            accepted = TcpListener::accept(&listener), if handshakes.len() < HANDSHAKES => match accepted {
                Ok((stream, address)) => {
                    handshakes.spawn(shake(stream, address, tls.clone(), arrived.clone()));
                }
                Err(error) => not_accepted(&error).await,
            },
        }
    }
}

async fn shake(
    stream: TcpStream,
    address: SocketAddr,
    tls: TlsServer,
    arrived: mpsc::Sender<(Box<TlsStream<TcpStream>>, Peer)>,
) {
    no_delay(&stream);
    let shaken = tokio::time::timeout(tls.patience(), TlsAcceptor::from(tls.current()).accept(stream)).await;
    let outcome = match &shaken {
        Ok(Ok(_)) => "done",
        Ok(Err(_)) => "failed",
        Err(_) => "timed-out",
    };
    metrics::counter!("ondol_tls_handshakes_total", "outcome" => outcome).increment(1);
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        // What a stranger does at the door is no fault of the server's.
        Ok(Err(error)) => return tracing::debug!(%address, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%address, "TLS handshake took too long"),
    };
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|own| Arc::new(PeerCertificate::of(own)));
    let peer = Peer { address, certificate };
    // Nobody receives it once the server has ended: then the connection ends too.
    let _ = arrived.send((Box::new(stream), peer)).await;
}

/// Answers are small and complete: waiting to fill a packet only adds latency.
fn no_delay(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::warn!(%error, "TCP_NODELAY can't be set");
    }
}

/// A connection that was gone before it was taken is nothing; a process that is out of file descriptors waits.
async fn not_accepted(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    tracing::error!(%error, "connections can't be accepted");
    tokio::time::sleep(PAUSE).await;
}

impl Listener for Door {
    type Io = Connection;
    type Addr = Peer;

    async fn accept(&mut self) -> (Connection, Peer) {
        match self {
            Self::Plain(listener) => loop {
                match TcpListener::accept(listener).await {
                    Ok((stream, address)) => {
                        no_delay(&stream);
                        let peer = Peer {
                            address,
                            certificate: None,
                        };
                        return (Connection::Plain(stream), peer);
                    }
                    Err(error) => not_accepted(&error).await,
                }
            },
            Self::Tls { arrivals, .. } => match arrivals.recv().await {
                Some((stream, peer)) => (Connection::Tls(stream), peer),
                // The task that shakes hands has ended with the shutdown, which ends the server too.
                None => std::future::pending().await,
            },
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        let address = match self {
            Self::Plain(listener) => listener.local_addr()?,
            Self::Tls { address, .. } => *address,
        };
        Ok(Peer {
            address,
            certificate: None,
        })
    }
}

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        stream.remote_addr().clone()
    }
}

/// A connection's bytes.
pub(crate) enum Connection {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, buffer),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, buffers),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, buffers),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
