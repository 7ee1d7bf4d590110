//! TLS on a real port, with certificates that `openssl` made.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use ondol_runtime::tls::{ClientCertificate, TlsError};
use ondol_runtime::{Peer, Shutdown, TlsConfig, TlsServer, require_token, serve_tls};
use ondol_testkit::authority::Authority;
use std::path::Path;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const SERVER: &str = "DNS:localhost,IP:127.0.0.1";

async fn names(ConnectInfo(peer): ConnectInfo<Peer>) -> String {
    let certificate = peer.certificate.as_deref();
    let names: Vec<&str> = certificate
        .map(|certificate| certificate.names().collect())
        .unwrap_or_default();
    names.join(" ")
}

fn config(authority: &Authority, name: &str) -> TlsConfig {
    let server = authority.issue(name, SERVER).unwrap();
    TlsConfig {
        certificate: server.certificate,
        key: server.key,
        reload_ms: 50,
        ..TlsConfig::default()
    }
}

/// A server's port.
async fn start(config: &TlsConfig, shutdown: &Shutdown) -> u16 {
    let tls = TlsServer::open(config, shutdown).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = Router::new().route("/", get(names));
    shutdown.spawn("http", serve_tls(listener, tls, router, shutdown.clone()));
    port
}

fn trusting(authority: &Path) -> reqwest::ClientBuilder {
    let pem = std::fs::read(authority).unwrap();
    reqwest::Client::builder()
        .use_rustls_tls()
        .tls_built_in_root_certs(false)
        .pool_max_idle_per_host(0)
        .add_root_certificate(reqwest::Certificate::from_pem(&pem).unwrap())
}

#[tokio::test]
async fn a_client_that_trusts_the_authority_is_served_over_either_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca").unwrap();
    let shutdown = Shutdown::new();
    let port = start(&config(&authority, "server"), &shutdown).await;
    let url = format!("https://localhost:{port}/");
    let client = trusting(&authority.certificate()).build().unwrap();
    let answer = client.get(&url).send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2, "by ALPN");
    assert_eq!(answer.text().await.unwrap(), "", "no client certificate was asked for");
    let old = trusting(&authority.certificate()).http1_only().build().unwrap();
    assert_eq!(old.get(&url).send().await.unwrap().version(), reqwest::Version::HTTP_11);

    let stranger = Authority::new(folder.path(), "other").unwrap();
    let wary = trusting(&stranger.certificate()).build().unwrap();
    assert!(wary.get(&url).send().await.is_err());
    assert!(
        reqwest::get(format!("http://localhost:{port}/")).await.is_err(),
        "plain"
    );
    assert!(shutdown.drain(std::time::Duration::from_secs(60)).await);
}

#[tokio::test]
async fn a_client_certificate_names_the_client_and_must_be_of_the_authority() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca").unwrap();
    let stranger = Authority::new(folder.path(), "other").unwrap();
    let own = authority
        .issue("checkout", "DNS:checkout.internal,URI:spiffe://bank/checkout")
        .unwrap();
    let foreign = stranger.issue("checkout", "DNS:checkout.internal").unwrap();
    let identity = |issued: &ondol_testkit::authority::Issued| {
        let identity = reqwest::Identity::from_pem(&issued.together().unwrap()).unwrap();
        trusting(&authority.certificate()).identity(identity).build().unwrap()
    };
    let nobody = trusting(&authority.certificate()).build().unwrap();
    let shutdown = Shutdown::new();
    for client_certificate in [ClientCertificate::Required, ClientCertificate::Optional] {
        let config = TlsConfig {
            client_ca: authority.certificate(),
            client_certificate,
            ..config(&authority, "server")
        };
        let url = format!("https://localhost:{}/", start(&config, &shutdown).await);
        let answer = identity(&own).get(&url).send().await.unwrap();
        let expected = "cn:checkout dns:checkout.internal uri:spiffe://bank/checkout";
        assert_eq!(answer.text().await.unwrap(), expected);
        assert!(identity(&foreign).get(&url).send().await.is_err());
        let anonymous = nobody.get(&url).send().await;
        assert_eq!(anonymous.is_ok(), client_certificate == ClientCertificate::Optional);
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_into_use_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let first = Authority::new(folder.path(), "first").unwrap();
    let second = Authority::new(folder.path(), "second").unwrap();
    let config = config(&first, "server");
    let shutdown = Shutdown::new();
    let url = format!("https://localhost:{}/", start(&config, &shutdown).await);
    let of_first = trusting(&first.certificate()).build().unwrap();
    let of_second = trusting(&second.certificate()).build().unwrap();
    assert!(of_first.get(&url).send().await.is_ok());

    // Half of a renewal: the certificate fits its key no more.
    let renewed = second.issue("server", SERVER).unwrap();
    std::fs::copy(&renewed.certificate, &config.certificate).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(of_first.get(&url).send().await.is_ok(), "the former pair stays in use");

    std::fs::copy(&renewed.key, &config.key).unwrap();
    while of_second.get(&url).send().await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(of_first.get(&url).send().await.is_err());
}

#[tokio::test]
async fn a_client_that_is_silent_at_the_door_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca").unwrap();
    let shutdown = Shutdown::new();
    let config = TlsConfig {
        handshake_ms: 500,
        ..config(&authority, "server")
    };
    let port = start(&config, &shutdown).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    let mut rude = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    rude.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let client = trusting(&authority.certificate()).build().unwrap();
    assert!(client.get(format!("https://localhost:{port}/")).send().await.is_ok());
    let mut rest = Vec::new();
    // The silent ones are turned away in the end.
    for mut stream in silent {
        let _ = stream.read_to_end(&mut rest).await;
    }
    assert!(rest.is_empty());
}

#[tokio::test]
async fn files_that_do_not_fit_are_named_without_their_content() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca").unwrap();
    let shutdown = Shutdown::new();
    let good = config(&authority, "server");
    let other = authority.issue("other", SERVER).unwrap();
    let refused = |config: TlsConfig| match TlsServer::open(&config, &shutdown) {
        Ok(_) => panic!("{config:?} was taken"),
        Err(error) => error,
    };
    let secret = std::fs::read_to_string(&good.key).unwrap();
    let swapped = refused(TlsConfig {
        certificate: good.key.clone(),
        key: good.certificate.clone(),
        ..good.clone()
    });
    assert!(
        matches!(&swapped, TlsError::Content { key: "certificate", .. }),
        "{swapped}"
    );
    assert!(!swapped.to_string().contains(secret.lines().nth(1).unwrap()));
    let strange = refused(TlsConfig {
        key: other.key,
        ..good.clone()
    });
    assert!(strange.to_string().contains("does not fit the key"), "{strange}");
    let half = refused(TlsConfig {
        key: "".into(),
        ..good.clone()
    });
    assert!(half.to_string().contains("`tls.key` is empty"), "{half}");
    let absent = refused(TlsConfig {
        client_ca: "/nowhere/ca.pem".into(),
        ..good
    });
    assert!(
        absent.to_string().contains("`/nowhere/ca.pem` can't be read"),
        "{absent}"
    );
    assert!(TlsServer::open(&TlsConfig::default(), &shutdown).unwrap().is_none());
}

#[tokio::test]
async fn a_service_token_lets_in_who_shows_it() {
    let shutdown = Shutdown::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let router = require_token(Router::new().route("/", get(|| async { "in" })), "0123456789abcdef");
    shutdown.spawn("http", serve_tls(listener, None, router, shutdown.clone()));
    let client = reqwest::Client::new();
    let status = |header: Option<&'static str>| {
        let mut request = client.get(&url);
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(status(Some("Bearer 0123456789abcdef")).await, 200);
    assert_eq!(status(Some("bearer 0123456789abcdef")).await, 200);
    for wrong in [
        None,
        Some(""),
        Some("Bearer"),
        Some("Bearer "),
        Some("Bearer 0123456789abcde"),
        Some("Basic 0123456789abcdef"),
    ] {
        assert_eq!(status(wrong).await, 401, "{wrong:?}");
    }
    let refused = client.get(&url).bearer_auth("guess-guess-guess").send().await.unwrap();
    assert_eq!(refused.headers()["www-authenticate"], "Bearer");
    let words = refused.text().await.unwrap();
    assert!(words.contains("peers.token") && !words.contains("guess"), "{words}");
}
