//! What every service needs and no feature noun, in the order of a process's life: it reads its configuration, starts
//! telemetry and metrics, spawns tasks that one [`Shutdown`] owns, reports its health, serves HTTP, and drains.
//!
//! ```no_run
//! # async fn run(contract: axum::Router, openapi: utoipa::openapi::OpenApi) -> Result<(), Box<dyn std::error::Error>> {
//! use ondol_runtime::{Health, LogFormat, ServiceRouter, Shutdown, metrics, serve, telemetry};
//!
//! telemetry::init(LogFormat::Text, "info")?;
//! metrics::install()?;
//! let shutdown = Shutdown::new();
//! shutdown.on_signals()?;
//! metrics::maintain(&shutdown);
//! let health = Health::new();
//! let ready = health.register("store");
//! let router = ServiceRouter::new(&health).contract("feature-store", contract, openapi).build();
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! shutdown.spawn("http", serve(listener, router, shutdown.clone()));
//! ready.ready();
//! shutdown.triggered().await;
//! shutdown.drain(std::time::Duration::from_secs(30)).await;
//! # Ok(()) }
//! ```

pub mod clock;
pub mod config;
pub mod docs;
pub mod health;
pub mod http;
pub mod metrics;
pub mod objects;
pub mod secret;
pub mod server;
pub mod shutdown;
pub mod telemetry;
pub mod threads;
pub mod tls;
pub mod token;

mod door;

pub use clock::{Clock, ManualClock, SystemClock};
pub use config::{ConfigError, ConfigLayers};
pub use health::{Health, ReadyHandle};
pub use objects::{Location, ObjectStores, ObjectsError, S3Config};
pub use secret::Secret;
pub use server::{Peer, ServerShutdown, ServiceRouter, serve, serve_tls};
pub use shutdown::{Shutdown, TaskOutcome};
pub use telemetry::LogFormat;
pub use tls::{TlsConfig, TlsServer};
pub use token::require_token;
