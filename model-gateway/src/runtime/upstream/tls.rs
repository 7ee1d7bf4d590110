//! TLS to a server that speaks gRPC: HTTP/2 by ALPN, checked against the system's authorities and those of the
//! description. (Calls over HTTP are `reqwest`'s, which does the same.)

use crate::runtime::upstream::spec::UpstreamSpec;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;

/// Connects to one server.
#[derive(Clone)]
pub(super) struct Connector {
    tls: TlsConnector,
    name: ServerName<'static>,
    host: Arc<str>,
    port: u16,
}

impl Connector {
    /// To the server of `spec`, whose `url` begins with `https:`.
    pub(super) fn open(spec: &UpstreamSpec) -> Result<Self, String> {
        let url = url::Url::parse(&spec.url).map_err(|error| format!("`url` is `{}`: {error}", spec.url))?;
        let host = match url.host() {
            Some(url::Host::Domain(name)) => name.to_owned(),
            Some(url::Host::Ipv4(address)) => address.to_string(),
            Some(url::Host::Ipv6(address)) => address.to_string(),
            None => return Err(format!("`url` is `{}`: it names no host", spec.url)),
        };
        let name = ServerName::try_from(host.clone())
            .map_err(|error| format!("`url` is `{}`: no certificate is for that name: {error}", spec.url))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(authorities(spec.ca.as_deref())?)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            name,
            host: host.into(),
            port: url.port_or_known_default().unwrap_or(443),
        })
    }

    async fn connect(self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let stream = TcpStream::connect((self.host.as_ref(), self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(self.tls.connect(self.name, stream).await?))
    }
}

/// Where the server is was told at the start: the argument only says it again.
impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// Those of the system, and of the file `ca`.
fn authorities(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // A certificate of the system that can't be read is as one that is not there.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(ca) = ca {
        let unreadable = |error: &dyn std::fmt::Display| format!("`ca` is `{}`: {error}", ca.display());
        for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| unreadable(&error))? {
            let certificate = certificate.map_err(|error| unreadable(&error))?;
            roots.add(certificate).map_err(|error| unreadable(&error))?;
        }
    }
    Ok(roots)
}
