//! The configuration of a server process: one section per service, and what belongs to the process.

use crate::cli::ServerArgs;
use anyhow::{Context as _, Result, bail};
use ondol_cluster::SqlConfig;
use ondol_feature_store::FeatureStoreConfig;
use ondol_ingest::config::{EmbeddedConfig, IngestConfig, StreamConfig};
use ondol_jobs::PipelinesConfig;
use ondol_model_gateway::ModelGatewayConfig;
use ondol_runtime::{ConfigLayers, LogFormat, S3Config, Secret, TlsConfig, token::TOKEN_BYTES};
use ondol_wire::Credentials;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use url::Url;

/// Configuration of `ondol serve` and `ondol dev`: defaults < file (`ondol.toml`) < environment (`ONDOL_…`) < flags.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OndolConfig {
    /// The address to serve on.
    pub(crate) listen: String,
    /// The folder that holds everything the process stores; each service has a folder of its own in it.
    pub(crate) data_dir: PathBuf,
    /// How logs are written: `text` or `json`.
    pub(crate) log_format: LogFormat,
    /// Which logs are written, as a `tracing` filter.
    pub(crate) log_filter: String,
    /// How long a shutdown may take to drain each service, in milliseconds.
    pub(crate) drain_ms: u64,
    /// How long a process that was told to stop goes on taking requests while `/readyz` says 503 already, in
    /// milliseconds: as long as a load balancer needs to see it. 0: none.
    pub(crate) drain_grace_ms: u64,
    /// Where the feature store answers, for the services that run without it.
    pub(crate) feature_store_url: Url,
    /// Where ingest answers, for the services that run without it.
    pub(crate) ingest_url: Url,
    /// TLS at this process's own address.
    pub(crate) tls: TlsConfig,
    /// How services show each other that they belong together.
    pub(crate) peers: PeersConfig,
    /// How to reach S3, for offline tables and batch sources that are there.
    pub(crate) s3: S3Config,
    /// The feature store.
    pub(crate) feature_store: FeatureStoreConfig,
    /// Ingest.
    pub(crate) ingest: IngestConfig,
    /// The pipelines.
    pub(crate) pipelines: PipelinesConfig,
    /// Queries over offline tables, which the pipelines answer.
    pub(crate) sql: SqlConfig,
    /// The model gateway.
    pub(crate) model_gateway: ModelGatewayConfig,
}

/// How services show each other that they belong together: what this process shows to those it calls, and, where there is
/// a token, what the feature store, ingest and the pipelines in it ask of who calls them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct PeersConfig {
    /// A token that all of them know: at least 16 characters, `${file:…}` or `${env:…}`. Empty: none is asked for.
    pub(crate) token: Secret,
    /// Certificates (PEM) of authorities to trust besides the system's. Empty: none.
    pub(crate) authorities: PathBuf,
    /// This process's certificate and key in one file (PEM), for services that ask for one. Empty: none.
    pub(crate) identity: PathBuf,
}

impl Default for PeersConfig {
    fn default() -> Self {
        Self {
            token: Secret::from(""),
            authorities: PathBuf::new(),
            identity: PathBuf::new(),
        }
    }
}

impl PeersConfig {
    /// The token, if there is one.
    pub(crate) fn token(&self) -> Result<Option<String>> {
        let token = self
            .token
            .reveal()
            .map_err(anyhow::Error::msg)
            .context("`peers.token`")?;
        if !token.is_empty() && token.len() < TOKEN_BYTES {
            bail!(
                "`peers.token` has {} characters: use at least {TOKEN_BYTES} random ones, such as \
                 `openssl rand -hex 32` makes",
                token.len()
            );
        }
        Ok((!token.is_empty()).then_some(token))
    }

    /// What other services are shown.
    pub(crate) fn credentials(&self) -> Result<Credentials> {
        let read = |key: &str, path: &Path| {
            if path.as_os_str().is_empty() {
                return Ok(None);
            }
            let pem = std::fs::read(path).with_context(|| format!("`peers.{key}`: can't read `{}`", path.display()));
            pem.map(Some)
        };
        Ok(Credentials {
            token: self.token()?,
            authorities: read("authorities", &self.authorities)?,
            identity: read("identity", &self.identity)?,
        })
    }
}

impl Default for OndolConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            data_dir: PathBuf::from(".ondol"),
            log_format: LogFormat::Json,
            log_filter: "info,buoyant_kernel=warn,deltalake_core=warn".to_owned(),
            drain_ms: 20_000,
            drain_grace_ms: 0,
            feature_store_url: local(8081),
            ingest_url: local(8082),
            tls: TlsConfig::default(),
            peers: PeersConfig::default(),
            s3: S3Config::default(),
            feature_store: FeatureStoreConfig::default(),
            ingest: IngestConfig::default(),
            pipelines: PipelinesConfig::default(),
            sql: SqlConfig::default(),
            model_gateway: ModelGatewayConfig::default(),
        }
    }
}

#[allow(clippy::expect_used, reason = "the text is fixed")]
fn local(port: u16) -> Url {
    Url::parse(&format!("http://127.0.0.1:{port}")).expect("a literal URL parses")
}

impl OndolConfig {
    /// Reads every layer. `preset` stands below the file: what a command changes of the defaults.
    pub(crate) fn load(args: &ServerArgs, preset: impl FnOnce(&mut Self)) -> Result<Self> {
        let mut layers = ConfigLayers::new();
        if let Some(file) = &args.config {
            layers = layers.file(file);
        } else if Path::new("ondol.toml").exists() {
            layers = layers.file("ondol.toml");
        }
        let mut flags = Map::new();
        if let Some(listen) = &args.listen {
            flags.insert("listen".to_owned(), Value::String(listen.clone()));
        }
        if let Some(data) = &args.data {
            flags.insert("data_dir".to_owned(), Value::String(data.display().to_string()));
        }
        let mut config: Self = layers.environment("ONDOL_", std::env::vars()).flags(flags).load()?;
        let defaults = Self::default();
        let mut preset_defaults = defaults.clone();
        preset(&mut preset_defaults);
        config.take_presets(&defaults, preset_defaults);
        config.place_data();
        Ok(config)
    }

    /// A value still at its default takes the command's own default.
    fn take_presets(&mut self, defaults: &Self, preset: Self) {
        if self.log_format == defaults.log_format {
            self.log_format = preset.log_format;
        }
        if self.log_filter == defaults.log_filter {
            self.log_filter = preset.log_filter;
        }
        if self.data_dir == defaults.data_dir {
            self.data_dir = preset.data_dir;
        }
    }

    /// Services whose folder is not named keep their data below the process's.
    fn place_data(&mut self) {
        let defaults = Self::default();
        let place = |own: &mut PathBuf, default: &Path, name: &str| {
            if own == default {
                *own = self.data_dir.join(name);
            }
        };
        place(
            &mut self.feature_store.data_dir,
            &defaults.feature_store.data_dir,
            "feature-store",
        );
        place(&mut self.pipelines.data_dir, &defaults.pipelines.data_dir, "pipelines");
        place(&mut self.sql.spill_dir, &defaults.sql.spill_dir, "pipelines/sql-spill");
        place(
            &mut self.model_gateway.data_dir,
            &defaults.model_gateway.data_dir,
            "model-gateway",
        );
        if let StreamConfig::Embedded(log) = &mut self.ingest.stream {
            place(&mut log.dir, &EmbeddedConfig::default().dir, "ingest/stream");
        }
        self.ingest
            .snapshot_file
            .get_or_insert_with(|| self.data_dir.join("ingest/snapshot.json"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(prefix: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(section) if !section.is_empty() => {
                for (key, inner) in section {
                    let path = if prefix.is_empty() {
                        key.clone()
                    } else {
                        format!("{prefix}.{key}")
                    };
                    keys(&path, inner, found);
                }
            }
            _ => found.push(prefix.to_owned()),
        }
    }

    #[test]
    fn every_key_is_in_the_operating_guide() {
        let guide = include_str!("../../docs/operating.md");
        let mut config = OndolConfig::default();
        let mut found = Vec::new();
        keys("", &serde_json::to_value(&config).unwrap(), &mut found);
        config.ingest.stream = StreamConfig::Kafka(ondol_ingest::config::KafkaConfig::default());
        keys("", &serde_json::to_value(&config).unwrap(), &mut found);
        let services = ["feature_store.", "ingest.", "pipelines.", "sql.", "model_gateway."];
        for key in found {
            let name = services
                .iter()
                .find_map(|service| key.strip_prefix(service))
                .unwrap_or(&key);
            assert!(
                guide.contains(&format!("`{name}`")),
                "docs/operating.md does not tell of `{key}`"
            );
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ondol.toml");
        std::fs::write(&file, "[feature_store]\nonlin = \"redis://x\"\n").unwrap();
        let args = ServerArgs {
            config: Some(file),
            listen: None,
            data: None,
        };
        let error = format!("{:#}", OndolConfig::load(&args, |_| {}).unwrap_err());
        assert!(error.contains("online"), "{error}");
    }

    #[test]
    fn services_keep_their_data_below_the_process_folder() {
        let args = ServerArgs {
            config: None,
            listen: None,
            data: Some(PathBuf::from("/somewhere")),
        };
        let config = OndolConfig::load(&args, |_| {}).unwrap();
        assert_eq!(config.feature_store.data_dir, PathBuf::from("/somewhere/feature-store"));
        assert_eq!(
            config.ingest.snapshot_file,
            Some(PathBuf::from("/somewhere/ingest/snapshot.json"))
        );
    }
}
