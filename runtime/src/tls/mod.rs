//! TLS at the server's door: the certificate it shows and the clients it lets in, read from files and read again when
//! they change, so that a renewed certificate needs no restart.
//!
//! TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2 by ALPN. With `client_ca` a client shows a certificate of its own (mutual TLS);
//! what the certificate says of the client reaches the request as [`Peer`](crate::server::Peer). The cryptography is
//! `ring` by name: two providers are linked into the program, so the process has no default one to lean on.

mod peer;

pub use peer::PeerCertificate;

use crate::Shutdown;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// How a server is reached over TLS. Without a certificate it serves plain HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate chain (PEM), the server's own first. Empty: plain HTTP.
    pub certificate: PathBuf,
    /// The certificate's private key (PEM: PKCS #8, PKCS #1 or SEC 1).
    pub key: PathBuf,
    /// Certificates (PEM) of the authorities whose clients are let in. Empty: clients need no certificate.
    pub client_ca: PathBuf,
    /// Whether a client without a certificate is let in where `client_ca` is set: `required` or `optional`.
    pub client_certificate: ClientCertificate,
    /// How often the files are looked at for a change, in milliseconds.
    pub reload_ms: u64,
    /// How long a handshake may take, in milliseconds.
    pub handshake_ms: u64,
}

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificate {
    /// A client without one is turned away during the handshake.
    Required,
    /// A client without one is let in, to show something else (an API key).
    Optional,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            client_ca: PathBuf::new(),
            client_certificate: ClientCertificate::Required,
            reload_ms: 10_000,
            handshake_ms: 10_000,
        }
    }
}

impl TlsConfig {
    /// Whether TLS is spoken at all.
    pub fn is_on(&self) -> bool {
        [&self.certificate, &self.key, &self.client_ca]
            .iter()
            .any(|path| !path.as_os_str().is_empty())
    }
}

/// Why TLS can't be set up. No message holds anything of a key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A key is missing beside another.
    #[error("`tls.{missing}` is empty, and `tls.{given}` is set: name both files")]
    Incomplete {
        /// The empty key.
        missing: &'static str,
        /// The key that is set.
        given: &'static str,
    },
    /// A file can't be read.
    #[error("`tls.{key}`: `{}` can't be read", path.display())]
    Read {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("`tls.{key}`: `{}` holds {detail}", path.display())]
    Content {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// The server's side of TLS, kept up to date with its files. Clones share it.
#[derive(Clone, Debug)]
pub struct TlsServer {
    config: Arc<TlsConfig>,
    current: Arc<RwLock<Arc<ServerConfig>>>,
}

impl TlsServer {
    /// Reads the files, and looks at them again every `reload_ms` until `shutdown`. `None` where TLS is off.
    ///
    /// # Errors
    /// When a file is missing, can't be read, or does not fit the others.
    pub fn open(config: &TlsConfig, shutdown: &Shutdown) -> Result<Option<Self>, TlsError> {
        if !config.is_on() {
            return Ok(None);
        }
        let files = Files::read(config)?;
        let server = Self {
            config: Arc::new(config.clone()),
            current: Arc::new(RwLock::new(Arc::new(files.server(config)?))),
        };
        let (follower, token) = (server.clone(), shutdown.token());
        shutdown.spawn("tls-reload", async move {
            token.run_until_cancelled(follower.follow(files)).await;
        });
        Ok(Some(server))
    }

    /// What new connections are greeted with.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How long a handshake may take.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_millis(self.config.handshake_ms.max(1))
    }

    /// Takes changed files into use. Files that can't be used leave what is in use as it is: a certificate and its key
    /// are two files, and one of them is written first.
    async fn follow(self, mut known: Files) {
        let pause = Duration::from_millis(self.config.reload_ms.max(50));
        let mut complaint = String::new();
        loop {
            tokio::time::sleep(pause).await;
            let config = Arc::clone(&self.config);
            let read = tokio::task::spawn_blocking(move || {
                let files = Files::read(&config)?;
                let server = files.server(&config)?;
                Ok::<_, TlsError>((files, server))
            });
            match read.await {
                Ok(Ok((files, server))) => {
                    complaint.clear();
                    if files != known {
                        known = files;
                        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(server);
                        metrics::counter!("ondol_tls_reloads_total", "outcome" => "taken").increment(1);
                        tracing::info!("TLS files changed: new connections use them");
                    }
                }
                Ok(Err(error)) => {
                    let words = format!(
                        "{error}: {:?}",
                        std::error::Error::source(&error).map(ToString::to_string)
                    );
                    if words != complaint {
                        metrics::counter!("ondol_tls_reloads_total", "outcome" => "refused").increment(1);
                        tracing::error!(error = words, "TLS files can't be used: the former ones stay in use");
                        complaint = words;
                    }
                }
                Err(error) => tracing::error!(%error, "TLS files can't be looked at"),
            }
        }
    }
}

/// What the files hold.
#[derive(PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Files {
    fn read(config: &TlsConfig) -> Result<Self, TlsError> {
        let absent = |path: &Path| path.as_os_str().is_empty();
        let incomplete = |missing, given| Err(TlsError::Incomplete { missing, given });
        match (absent(&config.certificate), absent(&config.key)) {
            (true, true) => return incomplete("certificate", "client_ca"),
            (true, false) => return incomplete("certificate", "key"),
            (false, true) => return incomplete("key", "certificate"),
            (false, false) => {}
        }
        let read = |key, path: &Path| {
            std::fs::read(path).map_err(|source| TlsError::Read {
                key,
                path: path.to_owned(),
                source,
            })
        };
        Ok(Self {
            certificate: read("certificate", &config.certificate)?,
            key: read("key", &config.key)?,
            client_ca: if absent(&config.client_ca) {
                None
            } else {
                Some(read("client_ca", &config.client_ca)?)
            },
        })
    }

    fn server(&self, config: &TlsConfig) -> Result<ServerConfig, TlsError> {
        let content = |key, path: &Path, detail: String| TlsError::Content {
            key,
            path: path.to_owned(),
            detail,
        };
        let chain =
            certificates(&self.certificate).map_err(|detail| content("certificate", &config.certificate, detail))?;
        // The parser's words are not passed on: they could quote the key.
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| content("key", &config.key, "no private key in PEM".to_owned()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| content("certificate", &config.certificate, error.to_string()))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let wrong = |detail: String| content("client_ca", &config.client_ca, detail);
                let mut roots = RootCertStore::empty();
                for certificate in certificates(pem).map_err(wrong)? {
                    roots
                        .add(certificate)
                        .map_err(|error| wrong(format!("a certificate that can't be trusted: {error}")))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = match config.client_certificate {
                    ClientCertificate::Required => verifier,
                    ClientCertificate::Optional => verifier.allow_unauthenticated(),
                };
                let verifier = verifier.build().map_err(|error| wrong(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut server = builder.with_single_cert(chain, key).map_err(|error| {
            let detail = format!("a certificate that does not fit the key of `tls.key`: {error}");
            content("certificate", &config.certificate, detail)
        })?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(server)
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("no certificate in PEM".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("no certificates in PEM: {error}")),
    }
}
