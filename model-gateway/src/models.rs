//! What is registered, ready to run: the catalog's rows in memory, each with its loaded model and its compiled plan.

use crate::artifact::ArtifactFolder;
use crate::catalog::{Catalog, CatalogError, VersionRecord};
use crate::fault::{internal, nearest, of_runtime, unavailable};
use crate::features::Plan;
use crate::layout::Layout;
use crate::runtime::onnx::{OnnxModel, OnnxOptions};
use crate::score::Score;
use bytes::Bytes;
use ondol_model_gateway_api::ModelGatewayError;
use ondol_vocabulary::{ModelDefinition, Snapshot};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::OnceCell;

/// Every registered version.
#[derive(Debug)]
pub struct Models {
    catalog: Catalog,
    artifacts: ArtifactFolder,
    options: OnnxOptions,
    by_name: RwLock<BTreeMap<String, Vec<Arc<Version>>>>,
}

/// One registered version.
#[derive(Debug)]
pub struct Version {
    /// What was registered.
    pub record: VersionRecord,
    scorer: OnceCell<Arc<Scorer>>,
    plan: RwLock<Option<Arc<Plan>>>,
}

/// A model that is loaded and knows how to take a vector and where its prediction is.
#[derive(Debug)]
pub struct Scorer {
    /// The loaded artifact.
    pub onnx: Arc<OnnxModel>,
    /// How it takes a vector.
    pub layout: Layout,
    /// Where its prediction is.
    pub score: Score,
}

impl Models {
    /// Reads the catalog. Loads no artifact: see [`Self::warm_up`].
    pub async fn open(catalog: Catalog, artifacts: ArtifactFolder, options: OnnxOptions) -> Result<Self, CatalogError> {
        let mut by_name: BTreeMap<String, Vec<Arc<Version>>> = BTreeMap::new();
        for record in catalog.versions().await? {
            by_name
                .entry(record.registered.model.name.clone())
                .or_default()
                .push(Arc::new(Version::new(record)));
        }
        Ok(Self {
            catalog,
            artifacts,
            options,
            by_name: RwLock::new(by_name),
        })
    }

    /// How artifacts are loaded.
    pub fn options(&self) -> &OnnxOptions {
        &self.options
    }

    /// The versions of `name`, oldest first.
    pub fn versions(&self, name: &str) -> Vec<Arc<Version>> {
        self.by_name
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
            .unwrap_or_default()
    }

    /// The version that scores `model`: `fraud` is the newest, `fraud@3` the third.
    pub fn resolve(&self, model: &str, snapshot: &Snapshot) -> Result<Arc<Version>, ModelGatewayError> {
        let (name, pinned) = match model.rsplit_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (model, None),
        };
        if snapshot.model(name).is_none() {
            let known = snapshot.models.iter().map(|model| model.definition.name.as_str());
            return Err(ModelGatewayError::UnknownModel {
                name: model.to_owned(),
                suggestion: nearest(name, known),
            });
        }
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        let versions = by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        let found = match pinned {
            None => versions.last(),
            // A version that is no number is found nowhere.
            Some(pinned) => pinned.parse().ok().and_then(|pinned: u32| {
                versions
                    .iter()
                    .find(|version| version.record.registered.model.version == pinned)
            }),
        };
        found.cloned().ok_or_else(|| match versions.last() {
            None => ModelGatewayError::NothingRegistered { name: name.to_owned() },
            Some(newest) => ModelGatewayError::UnknownModel {
                name: model.to_owned(),
                suggestion: Some(newest.record.registered.model.to_string()),
            },
        })
    }

    /// Keeps `artifact` and adds `record` as its model's next version: the file is durable before the row that names
    /// it. An artifact that is the newest version already, checked against the same definition, is that version.
    pub async fn add(
        &self,
        artifact: Bytes,
        record: VersionRecord,
        scorer: Arc<Scorer>,
    ) -> Result<VersionRecord, ModelGatewayError> {
        let name = record.registered.model.name.clone();
        if let Some(newest) = self.versions(&name).last()
            && newest.record.registered.sha256 == record.registered.sha256
            && newest.record.registered.definition_version == record.registered.definition_version
        {
            return Ok(newest.record.clone());
        }
        let artifacts = self.artifacts.clone();
        tokio::task::spawn_blocking(move || artifacts.keep(&artifact))
            .await
            .map_err(internal)?
            .map_err(|error| unavailable(format!("the artifact can't be kept: {error}")))?;
        let record = self
            .catalog
            .add(record)
            .await
            .map_err(|error| unavailable(chain(&error)))?;
        let version = Version::new(record.clone());
        // The cell is new, so this can't fail.
        let _ = version.scorer.set(scorer);
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        let versions = by_name.entry(name).or_default();
        versions.push(Arc::new(version));
        versions.sort_by_key(|version| version.record.registered.model.version);
        Ok(record)
    }

    /// The model of `version`, loaded on first use. A load that failed is tried again at the next request.
    pub async fn scorer(&self, version: &Version) -> Result<Arc<Scorer>, ModelGatewayError> {
        version
            .scorer
            .get_or_try_init(|| async {
                let (artifacts, options) = (self.artifacts.clone(), self.options.clone());
                let sha256 = version.record.registered.sha256.clone();
                let definition = version.record.definition.clone();
                let load = move || {
                    let artifact = artifacts
                        .read(&sha256)
                        .map_err(|error| unavailable(format!("the artifact is gone: {error}")))?;
                    Scorer::load(artifact, &definition, &options)
                };
                tokio::task::spawn_blocking(load).await.map_err(internal)?.map(Arc::new)
            })
            .await
            .cloned()
    }

    /// Loads the newest version of every model, so that first requests find it loaded.
    pub async fn warm_up(&self) {
        let newest: Vec<Arc<Version>> = {
            let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
            by_name
                .values()
                .filter_map(|versions| versions.last().cloned())
                .collect()
        };
        for version in newest {
            if let Err(error) = self.scorer(&version).await {
                tracing::warn!(model = %version.record.registered.model, %error, "a registered model can't be loaded");
            }
        }
    }

    /// Closes the database.
    pub async fn close(&self) {
        self.catalog.close().await;
    }
}

impl Version {
    fn new(record: VersionRecord) -> Self {
        Self {
            record,
            scorer: OnceCell::new(),
            plan: RwLock::new(None),
        }
    }

    /// The plan by which the version's vector is looked up under `snapshot`; compiled once a snapshot.
    pub fn plan(&self, snapshot: &Snapshot) -> Result<Arc<Plan>, ModelGatewayError> {
        let known = self.plan.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(plan) = known.filter(|plan| plan.snapshot_version() == snapshot.version) {
            return Ok(plan);
        }
        let plan = Arc::new(Plan::compile(&self.record.definition, snapshot)?);
        *self.plan.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&plan));
        Ok(plan)
    }
}

impl Scorer {
    /// Loads `artifact`, which takes the vector of `definition`. Blocks for milliseconds.
    pub fn load(
        artifact: Bytes,
        definition: &ModelDefinition,
        options: &OnnxOptions,
    ) -> Result<Self, ModelGatewayError> {
        let onnx = OnnxModel::load(artifact, options).map_err(|error| of_runtime(&error))?;
        let mismatch = |differences| ModelGatewayError::Mismatch {
            model: definition.name.clone(),
            differences,
        };
        let layout = Layout::fit(definition, onnx.info()).map_err(mismatch)?;
        let score = Score::choose(&onnx.info().outputs).ok_or_else(|| internal("the artifact has no output"))?;
        Ok(Self {
            onnx: Arc::new(onnx),
            layout,
            score,
        })
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
