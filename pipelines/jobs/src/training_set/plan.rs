//! What a training set needs: the model's views cut down to the features in use, and the source columns behind them.

use ondol_pipelines_api::PipelinesError;
use ondol_pipelines_api::wire::AsOf;
use ondol_transform::expression::ExpressionError;
use ondol_transform::{VectorEngine, ViewEngine};
use ondol_vocabulary::{
    FeatureRef, ModelVersion, Snapshot, SourceDefinition, SourceVersion, VersionedName, ViewVersion,
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
    /// What of the registry the plan rests on: the model, its views and their sources.
    pub definitions: Snapshot,
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
            definitions: definitions_of(snapshot, &model, &names),
            model,
        })
    }
}

/// `snapshot` cut down to `model`, the serving versions of `views` and the sources behind them.
fn definitions_of(snapshot: &Snapshot, model: &ModelVersion, views: &[&str]) -> Snapshot {
    let views: Vec<ViewVersion> = views
        .iter()
        .filter_map(|name| snapshot.active_view(name))
        .cloned()
        .collect();
    let read = |source: &&SourceVersion| {
        views
            .iter()
            .any(|view| view.definition.source == source.definition.name)
    };
    Snapshot {
        version: snapshot.version,
        sources: snapshot.sources.iter().filter(read).cloned().collect(),
        views: views.clone(),
        models: vec![model.clone()],
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
        Ok(Self {
            name: VersionedName::new(name, version.version),
            source: source.clone(),
            engine,
            needs: places,
        })
    }
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
