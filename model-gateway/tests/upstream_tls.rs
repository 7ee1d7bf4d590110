//! Upstreams behind TLS: over HTTP and gRPC, checked against the authority that the description names.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

mod support;

use bytes::Bytes;
use ondol_testkit::authority::{Authority, Issued};
use ondol_wire::ContractError as _;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::sync::Arc;
use support::{Bench, C1};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Ends TLS before `plain`, with `issued` as its certificate. The port.
async fn terminate(issued: &Issued, plain: SocketAddr) -> u16 {
    let chain = CertificateDer::pem_file_iter(&issued.certificate).unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(&issued.key).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that refuses the certificate ends the handshake.
                let Ok(mut secured) = acceptor.accept(stream).await else {
                    return;
                };
                let mut plain = TcpStream::connect(plain).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut secured, &mut plain).await;
            });
        }
    });
    port
}

async fn serve(bench: &Bench) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, bench.gateway.open_inference()).into_future());
    address
}

async fn front() -> Bench {
    let bench = Bench::open_with(|config| config.deadline_ms = 120_000).await;
    bench.fill();
    bench
}

#[tokio::test]
async fn a_gateway_behind_tls_scores_the_same_over_grpc_and_http() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority").unwrap();
    let issued = authority.issue("models", "DNS:localhost").unwrap();
    let back = Bench::with_model().await;
    let port = terminate(&issued, serve(&back).await).await;
    let expected = back.predict(C1).await.unwrap().prediction;
    let ca = authority.certificate();
    for protocol in ["v2-grpc", "v2-rest"] {
        let spec = |more: &str| {
            Bytes::from(format!(
                "url = \"https://localhost:{port}\"\nprotocol = \"{protocol}\"\nmodel = \"fraud\"\ntimeout_ms = 60000\n{more}"
            ))
        };
        let front = front().await;
        let trusting = format!("ca = \"{}\"\n", ca.display());
        front.register_as("fraud", spec(&trusting)).await.unwrap();
        assert_eq!(front.predict(C1).await.unwrap().prediction, expected, "{protocol}");
        // Nobody of the system's authorities knows it.
        let refused = front.register_as("fraud", spec("")).await.unwrap_err();
        assert_eq!(refused.status(), 502, "{refused}");
        assert!(
            refused.to_string().to_lowercase().contains("certificate"),
            "{protocol}: {refused}"
        );
        let missing = front
            .register_as("fraud", spec("ca = \"/none.pem\"\n"))
            .await
            .unwrap_err();
        assert!(missing.to_string().contains("`ca` is `/none.pem`"), "{missing}");
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority").unwrap();
    let issued = authority.issue("others", "DNS:elsewhere").unwrap();
    let back = Bench::with_model().await;
    let port = terminate(&issued, serve(&back).await).await;
    let spec = format!(
        "url = \"https://localhost:{port}\"\nca = \"{}\"\nprotocol = \"v2-grpc\"\nmodel = \"fraud\"\n",
        authority.certificate().display()
    );
    let refused = front().await.register_as("fraud", Bytes::from(spec)).await.unwrap_err();
    assert_eq!(refused.status(), 502, "{refused}");
}
