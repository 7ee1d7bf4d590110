//! The real router on a loopback port, and the floor of any call to it: a round trip that does nothing.

use anyhow::{Context as _, Result, bail};
use ondol_runtime::{Health, ServiceRouter, Shutdown, serve};
use std::time::Duration;
use tokio::net::TcpListener;
use url::Url;

/// A server in this process.
pub(crate) struct Server {
    pub(crate) url: Url,
    empty: Empty,
    shutdown: Shutdown,
}

/// Calls `/healthz`.
#[derive(Clone)]
pub(crate) struct Empty {
    client: reqwest::Client,
    url: Url,
}

impl Server {
    /// Serves `router` as `name`.
    pub(crate) async fn start(
        name: &'static str,
        router: axum::Router,
        openapi: utoipa::openapi::OpenApi,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = Url::parse(&format!("http://{}", listener.local_addr()?))?;
        let shutdown = Shutdown::new();
        let router = ServiceRouter::new(&Health::new())
            .contract(name, router, openapi)
            .build();
        shutdown.spawn("http", serve(listener, router, shutdown.clone()));
        let client = reqwest::Client::builder().tcp_nodelay(true).build()?;
        let empty = Empty {
            client,
            url: url.join("/healthz")?,
        };
        Ok(Self { url, empty, shutdown })
    }

    /// The floor of a call.
    pub(crate) fn empty(&self) -> Empty {
        self.empty.clone()
    }

    pub(crate) async fn stop(self) -> Result<()> {
        if !self.shutdown.drain(Duration::from_secs(10)).await {
            bail!("the server did not stop");
        }
        Ok(())
    }
}

impl Empty {
    /// One round trip.
    pub(crate) async fn call(&self) -> Result<()> {
        let response = self
            .client
            .get(self.url.clone())
            .send()
            .await
            .context("the server can't be reached")?;
        response.bytes().await?;
        Ok(())
    }
}
