//! What a training set needs: the model's views cut down to the features in use, and the source columns behind them.

use ondol_pipelines_api::PipelinesError;
use ondol_pipelines_api::wire::AsOf;
use ondol_transform::expression::ExpressionError;
use ondol_transform::{VectorEngine, ViewEngine};
use ondol_vocabulary::{
    DataType, FeatureKind, FeatureRef, Field, ModelVersion, Snapshot, SourceDefinition, VersionedName, ViewDefinition,
    columns,
};

/// A training set's plan, compiled against one snapshot.
pub(crate) struct Plan {
    /// The model, at the version in force.
    pub model: ModelVersion,
    /// Its feature vector.
    pub vector: VectorEngine,
    /// The views it needs, by order of first use.
    pub views: Vec<ViewPlan>,
    /// What rows may see.
    pub as_of: AsOf,
    /// The registry version planned against.
    pub registry_version: u64,
}

/// One view's part.
pub(crate) struct ViewPlan {
    /// The serving version.
    pub name: VersionedName,
    /// What it reads.
    pub source: SourceDefinition,
    /// The view with the needed features only. The value of a feature does not depend on its neighbours, and fewer of
    /// them mean fewer columns read and less kept for each entity.
    pub engine: ViewEngine,
    /// For each feature of `engine`, its places among the vector's needs.
    pub needs: Vec<Vec<usize>>,
    /// The source's columns that keys, time and expressions read, in declared order, and the marks of events.
    pub columns: Vec<Field>,
    /// How long before a moment an event can still matter; none if for ever.
    pub lookback_us: Option<i64>,
}

impl Plan {
    /// Compiles a training set of `model` against `snapshot`.
    pub(crate) fn compile(snapshot: &Snapshot, model: &str, as_of: AsOf) -> Result<Self, PipelinesError> {
        let model = snapshot
            .model(model)
            .ok_or_else(|| unknown_model(snapshot, model))?
            .clone();
        let needs = model.definition.view_features();
        let mut names: Vec<&str> = Vec::new();
        for need in &needs {
            if !names.contains(&need.view.as_str()) {
                names.push(&need.view);
            }
        }
        let mut definitions = Vec::with_capacity(names.len());
        for name in &names {
            definitions.push(
                &snapshot
                    .active_view(name)
                    .ok_or_else(|| not_active(&model, name))?
                    .definition,
            );
        }
        let vector = VectorEngine::compile(&model.definition, &definitions).map_err(|cause| broken(&model, &cause))?;
        let views = names
            .iter()
            .map(|name| ViewPlan::compile(snapshot, &model, name, vector.needs()))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            vector,
            views,
            as_of,
            registry_version: snapshot.version,
            model,
        })
    }
}

impl ViewPlan {
    fn compile(
        snapshot: &Snapshot,
        model: &ModelVersion,
        name: &str,
        needs: &[FeatureRef],
    ) -> Result<Self, PipelinesError> {
        let version = snapshot.active_view(name).ok_or_else(|| not_active(model, name))?;
        let source = &(snapshot.source(&version.definition.source))
            .ok_or_else(|| {
                internal(format!(
                    "view `{name}` reads source `{}`, which the registry lacks",
                    version.definition.source
                ))
            })?
            .definition;
        let used = |feature: &str| needs.iter().any(|need| need.view == name && need.feature == feature);
        if let Some(need) = needs
            .iter()
            .find(|need| need.view == name && version.definition.feature(&need.feature).is_none())
        {
            return Err(PipelinesError::Unavailable {
                detail: format!(
                    "view `{name}`@{} has no feature `{}` yet: its next version is still being provisioned",
                    version.version, need.feature
                ),
            });
        }
        let mut definition = version.definition.clone();
        definition.features.retain(|feature| used(&feature.name));
        let places = (definition.features.iter())
            .map(|feature| {
                let here = |need: &FeatureRef| need.view == name && need.feature == feature.name;
                (0..needs.len())
                    .filter(|&index| needs.get(index).is_some_and(here))
                    .collect()
            })
            .collect();
        let engine = ViewEngine::compile(&definition, source)
            .map_err(|cause| internal(format!("view `{name}` no longer compiles: {cause}")))?;
        // Of logs that have it, whatever the source says by now: what came late stays late.
        let late = source.is_stream().then(|| Field {
            name: columns::LATE.to_owned(),
            data_type: DataType::Bool,
        });
        let columns = engine.fields().iter().cloned().chain(late).collect();
        Ok(Self {
            name: VersionedName::new(name, version.version),
            source: source.clone(),
            engine,
            needs: places,
            columns,
            lookback_us: lookback(&definition),
        })
    }
}

/// The widest window and its hop, when everything the view serves lies in windows. A time to live makes an old event
/// matter by its mere presence (stale is not missing), so such a view looks back for ever.
fn lookback(view: &ViewDefinition) -> Option<i64> {
    if view.ttl_us.is_some() {
        return None;
    }
    let width = |kind: &FeatureKind| match kind {
        FeatureKind::Aggregate {
            window: Some(window), ..
        } => Some(window.width_us.saturating_add(window.hop_us)),
        FeatureKind::Aggregate { window: None, .. } | FeatureKind::LatestRow { .. } => None,
    };
    view.features
        .iter()
        .map(|feature| width(&feature.kind))
        .try_fold(0, |widest: i64, next| Some(widest.max(next?)))
}

fn unknown_model(snapshot: &Snapshot, name: &str) -> PipelinesError {
    let models = snapshot.models.iter().map(|model| model.definition.name.as_str());
    PipelinesError::Unknown {
        kind: "model".to_owned(),
        name: name.to_owned(),
        suggestion: crate::nearest::nearest(name, models),
    }
}

fn not_active(model: &ModelVersion, view: &str) -> PipelinesError {
    PipelinesError::Unavailable {
        detail: format!(
            "view `{view}` of model `{}` is still being provisioned: try again shortly",
            model.definition.name
        ),
    }
}

fn broken(model: &ModelVersion, cause: &ExpressionError) -> PipelinesError {
    internal(format!("model `{}` no longer compiles: {cause}", model.definition.name))
}

fn internal(detail: String) -> PipelinesError {
    PipelinesError::Internal { detail }
}
