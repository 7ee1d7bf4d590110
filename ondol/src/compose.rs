//! Services put together: which of them run in this process, and how they reach the others. A service holds its
//! neighbours as `Arc<dyn Trait>`; whether that is the service itself or a client is decided here and nowhere else.

use crate::cli::ServiceName;
use crate::config::OndolConfig;
use anyhow::{Context as _, Result};
use ondol_cluster::{EngineConfig, PlanEngine, SqlService};
use ondol_feature_store::FeatureStoreService;
use ondol_feature_store_api::{FeatureStore, FeatureStoreClient};
use ondol_ingest::IngestService;
use ondol_ingest_api::{Ingest, IngestClient};
use ondol_jobs::PipelinesService;
use ondol_jobs::engine::{Engines, JoinEngine};
use ondol_model_gateway::ModelGatewayService;
use ondol_model_gateway::access::AccessSetting;
use ondol_model_gateway_api::wire::AccessMode;
use ondol_pipelines_api::{OfflineSql, Pipelines};
use ondol_runtime::{
    Clock, Health, ObjectStores, ReadyHandle, ServiceRouter, Shutdown, SystemClock, TlsServer, require_token, serve_tls,
};
use ondol_wire::Credentials;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// The model gateway's name.
const GATEWAY: &str = "model-gateway";

/// Services at work behind one address.
pub(crate) struct Process {
    address: SocketAddr,
    is_encrypted: bool,
    access: Option<AccessMode>,
    http: Shutdown,
    /// In the order in which they must stop: who calls before who is called, so that each can drain into the next.
    services: Vec<(&'static str, Shutdown)>,
    drain: Duration,
    /// Whether the process wants requests at all.
    ready: ReadyHandle,
    /// How long it goes on taking them after it said that it wants no more.
    drain_grace: Duration,
}

impl Process {
    /// Starts `service` (or all of them) and serves it.
    pub(crate) async fn start(service: ServiceName, config: OndolConfig) -> Result<Self> {
        let listener = TcpListener::bind(&config.listen).await.with_context(|| {
            format!(
                "can't listen on `{}`: choose another address with --listen",
                config.listen
            )
        })?;
        let address = listener.local_addr().context("the listener has no address")?;
        ondol_runtime::metrics::install().context("metrics can't be set up")?;
        ondol_runtime::objects::configure(&config.s3).context("S3 can't be set up")?;

        let http = Shutdown::new();
        let tls = TlsServer::open(&config.tls, &http).context("TLS can't be set up")?;
        let is_encrypted = tls.is_some();
        let mut builder = Builder::new(service, config)?;
        builder.decide_access(address)?;
        let ready = builder.health.register("process");
        let drain_grace = Duration::from_millis(builder.config.drain_grace_ms);
        builder.feature_store().await?;
        builder.ingest().await?;
        builder.pipelines().await?;
        builder.model_gateway().await?;
        let Builder {
            routes,
            mut services,
            drain,
            access,
            ..
        } = builder;
        ready.ready();
        // Started callees first; stopped callers first.
        services.reverse();

        ondol_runtime::metrics::maintain(&http);
        http.spawn("http", serve_tls(listener, tls, routes.build(), http.clone()));
        Ok(Self {
            address,
            is_encrypted,
            access,
            http,
            services,
            drain,
            ready,
            drain_grace,
        })
    }

    /// Where it serves.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it serves, as a URL.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.is_encrypted { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Whether the gateway asks its callers who they are; none where there is no gateway.
    pub(crate) fn access(&self) -> Option<AccessMode> {
        self.access
    }

    /// Says that it wants no more requests, goes on for as long as who sends them needs to hear it, stops taking them,
    /// then drains service by service.
    pub(crate) async fn stop(self) {
        self.ready.not_ready("shutting down");
        self.http.announce();
        tokio::time::sleep(self.drain_grace).await;
        self.http.trigger();
        if !self.http.drain(self.drain).await {
            tracing::warn!("requests were still under way when the drain's time was up");
        }
        for (name, shutdown) in &self.services {
            shutdown.trigger();
            if !shutdown.drain(self.drain).await {
                tracing::warn!(service = name, "the service was still draining when its time was up");
            }
        }
    }
}

struct Builder {
    which: ServiceName,
    config: OndolConfig,
    clock: Arc<dyn Clock>,
    health: Health,
    routes: ServiceRouter,
    services: Vec<(&'static str, Shutdown)>,
    drain: Duration,
    access: Option<AccessMode>,
    /// What the services that are no gateway ask of who calls them.
    token: Option<String>,
    /// What services in other processes are shown.
    credentials: Credentials,
    feature_store: Option<Arc<dyn FeatureStore>>,
    ingest: Option<Arc<dyn Ingest>>,
}

impl Builder {
    fn new(which: ServiceName, config: OndolConfig) -> Result<Self> {
        let (token, credentials) = (config.peers.token()?, config.peers.credentials()?);
        let health = Health::new();
        let routes = ServiceRouter::new(&health).title("Ondol");
        let drain = Duration::from_millis(config.drain_ms);
        Ok(Self {
            which,
            config,
            clock: Arc::new(SystemClock),
            health,
            routes,
            services: Vec::new(),
            drain,
            access: None,
            token,
            credentials,
            feature_store: None,
            ingest: None,
        })
    }

    /// Decides whether the gateway asks its callers who they are, before anything is started.
    fn decide_access(&mut self, address: SocketAddr) -> Result<()> {
        if !self.runs(ServiceName::ModelGateway) {
            return Ok(());
        }
        let access = &mut self.config.model_gateway.access;
        let mode = access.resolve(address).map_err(anyhow::Error::msg)?;
        access.mode = match mode {
            AccessMode::Required => AccessSetting::Required,
            AccessMode::Off => AccessSetting::Off,
        };
        if mode == AccessMode::Required && self.token.is_none() && self.which == ServiceName::All {
            tracing::warn!(
                "the model gateway asks its callers who they are; the feature store, ingest and the pipelines at the \
                 same address don't: set `peers.token`"
            );
        }
        self.access = Some(mode);
        Ok(())
    }

    /// `router` for who shows the services' token, where there is one.
    fn among_services(&self, router: axum::Router) -> axum::Router {
        match &self.token {
            Some(token) => require_token(router, token),
            None => router,
        }
    }

    fn runs(&self, service: ServiceName) -> bool {
        self.which == ServiceName::All || self.which == service
    }

    fn service(&mut self, name: &'static str) -> Shutdown {
        let shutdown = Shutdown::new();
        self.services.push((name, shutdown.clone()));
        shutdown
    }

    fn contract(&mut self, name: &'static str, router: axum::Router, openapi: utoipa::openapi::OpenApi) {
        let routes = std::mem::replace(&mut self.routes, ServiceRouter::new(&self.health));
        // The gateway has a door of its own.
        let router = if name == GATEWAY {
            router
        } else {
            self.among_services(router)
        };
        self.routes = routes.contract(name, router, openapi);
    }

    async fn feature_store(&mut self) -> Result<()> {
        if !self.runs(ServiceName::FeatureStore) {
            let client = FeatureStoreClient::with(self.config.feature_store_url.clone(), &self.credentials)?;
            self.feature_store = Some(Arc::new(client));
            return Ok(());
        }
        let shutdown = self.service("feature-store");
        let service = FeatureStoreService::open(&self.config.feature_store, Arc::clone(&self.clock), &shutdown)
            .await
            .context("the feature store can't start")?;
        service.report_health(self.health.register("online-store"), &shutdown);
        self.contract(
            "feature-store",
            ondol_feature_store_api::server::router(Arc::clone(&service) as Arc<dyn FeatureStore>),
            ondol_feature_store_api::server::openapi(),
        );
        self.feature_store = Some(service);
        Ok(())
    }

    fn the_feature_store(&self) -> Result<Arc<dyn FeatureStore>> {
        self.feature_store.clone().context("the feature store comes first")
    }

    async fn ingest(&mut self) -> Result<()> {
        if !self.runs(ServiceName::Ingest) {
            self.ingest = Some(Arc::new(IngestClient::with(
                self.config.ingest_url.clone(),
                &self.credentials,
            )?));
            return Ok(());
        }
        let shutdown = self.service("ingest");
        let service = IngestService::start(
            &self.config.ingest,
            self.the_feature_store()?,
            Arc::clone(&self.clock),
            &shutdown,
            &self.health,
        )
        .context("ingest can't start")?;
        self.contract(
            "ingest",
            ondol_ingest_api::server::router(Arc::clone(&service) as Arc<dyn Ingest>),
            ondol_ingest_api::server::openapi(),
        );
        self.ingest = Some(service);
        Ok(())
    }

    async fn pipelines(&mut self) -> Result<()> {
        if !self.runs(ServiceName::Pipelines) {
            return Ok(());
        }
        let shutdown = self.service("pipelines");
        let objects = ObjectStores::of_process();
        let engine: Option<Arc<dyn JoinEngine>> = if self.config.pipelines.is_embedded() {
            None
        } else {
            let config = EngineConfig::of(&self.config.pipelines);
            let engine = PlanEngine::cluster(&config, objects.clone()).context("the pipelines can't start")?;
            Some(Arc::new(engine))
        };
        let sql = SqlService::new(self.config.sql.clone(), self.the_feature_store()?, objects)
            .context("the pipelines can't start")?;
        let sql: Arc<dyn OfflineSql> = Arc::new(sql);
        let engines = Engines {
            joins: engine,
            sql: Some(Arc::clone(&sql)),
        };
        let service = PipelinesService::open_on(
            engines,
            self.config.pipelines.clone(),
            self.the_feature_store()?,
            Arc::clone(&self.clock),
            &shutdown,
            &self.health,
        )
        .await
        .context("the pipelines can't start")?;
        let service: Arc<dyn Pipelines> = Arc::new(service);
        if self.config.pipelines.flight {
            let routes = std::mem::replace(&mut self.routes, ServiceRouter::new(&self.health));
            let flight = self.among_services(ondol_jobs::flight::router(Arc::clone(&service)));
            self.routes = routes.undocumented("flight", flight);
        }
        self.contract(
            "pipelines",
            ondol_pipelines_api::server::router(service).merge(ondol_pipelines_api::sql::server::router(sql)),
            ondol_pipelines_api::server::openapi(),
        );
        Ok(())
    }

    async fn model_gateway(&mut self) -> Result<()> {
        if !self.runs(ServiceName::ModelGateway) {
            return Ok(());
        }
        let shutdown = self.service(GATEWAY);
        let ingest = self.ingest.clone().context("ingest comes before the gateway")?;
        let service = ModelGatewayService::open(
            self.config.model_gateway.clone(),
            self.the_feature_store()?,
            ingest,
            Arc::clone(&self.clock),
            &shutdown,
            &self.health,
        )
        .await
        .context("the model gateway can't start")?;
        let router = service.router();
        let document = ondol_model_gateway_api::server::openapi();
        self.contract(
            GATEWAY,
            router,
            document.merge_from(ondol_model_gateway::open_inference::openapi()),
        );
        Ok(())
    }
}
