//! A model's feature vector, looked up: one read of the feature store for the whole batch, then the compiled engine.
//!
//! What is not as it should be (`troubles`: values that are stale or missing, a store that does not answer, a feature
//! whose definition has changed since the version was registered: `definition_change`) is dealt with as the model's policy
//! says, the one in force for every version. The answer says what was done.
//!
//! Cost model: per request one [`ReadRequest`] and one pass of the engine over the batch's columns; nothing is planned
//! or looked up by name that did not change with the request.

mod definition_change;
mod lookups;
mod shared;
mod troubles;
mod values;

pub use lookups::{Lookups, StoreBreakerConfig};
pub use shared::{Share, SharedRead};
pub(crate) use troubles::no_stand_in;
pub use troubles::{Looked, Troubled};
pub use values::{column, value_at};

use crate::catalog::VersionRecord;
use crate::fault::{internal, of_store, unavailable};
use crate::inputs::Inputs;
use crate::predict::Deadline;
use arrow::array::{ArrayRef, RecordBatch};
use ondol_feature_store_api::FeatureStore;
use ondol_feature_store_api::wire::{EntityColumn, FeatureColumn, ReadRequest};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::{Degradation, ServedFeature};
use ondol_transform::VectorEngine;
use ondol_vocabulary::{
    DataType, DecisionPolicy, EventTime, FeatureOrigin, FeatureRef, FeatureStatus, ModelDefinition, ModelPolicy,
    Snapshot, Value, VersionedName, ViewDefinition,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How one model's vector is looked up under one snapshot. Immutable and shared.
#[derive(Debug)]
pub struct Plan {
    snapshot_version: u64,
    engine: VectorEngine,
    /// The inputs that are join keys of the views read: places in the model's inputs.
    keys: Vec<usize>,
    /// Per vector entry the place of its feature in the engine's needs; none for inputs and derived features.
    needs: Vec<Option<usize>>,
    /// What stands in for each of the engine's needs while the store does not answer.
    absent: Vec<Absent>,
    /// The policy in force.
    policy: ModelPolicy,
    /// What is kept of the decisions.
    decisions: DecisionPolicy,
    /// What has changed since the version was registered, a line each.
    changes: Vec<String>,
}

/// A feature that the store did not give.
#[derive(Debug)]
struct Absent {
    data_type: DataType,
    view_version: u32,
    /// Its default, as a column of one row.
    default: Option<ArrayRef>,
}

/// What was served for a batch: the vector, and what each of its values is worth.
#[derive(Clone, Debug)]
pub struct Served {
    /// The moment the features are as of.
    pub as_of: EventTime,
    /// The vector, a column per entry in order.
    pub vector: RecordBatch,
    /// The view features read: the engine's needs.
    pub features: Arc<[FeatureRef]>,
    /// A column of each of them.
    pub columns: Vec<FeatureColumn>,
    /// What it was served in spite of.
    pub degraded: Vec<Degradation>,
    /// Per view feature whether its values are defaults in the place of an answer; empty when the store answered.
    defaulted: Vec<bool>,
}

impl Plan {
    /// Compiles the lookup of `record`'s vector from the views that serve under `snapshot`, with the policy in force.
    pub fn compile(record: &VersionRecord, snapshot: &Snapshot) -> Result<Self, ModelGatewayError> {
        let model = &record.definition;
        let mut views: Vec<&ViewDefinition> = Vec::new();
        let mut versions: Vec<u32> = Vec::new();
        for feature in model.view_features() {
            let (view, _) = snapshot
                .resolve(&feature)
                .ok_or_else(|| not_served(model, &feature, snapshot))?;
            if !views.iter().any(|known| known.name == view.definition.name) {
                views.push(&view.definition);
                versions.push(view.version);
            }
        }
        let engine = VectorEngine::compile(model, &views)
            .map_err(|error| unavailable(format!("the vector of {} can't be looked up: {error}", model.name)))?;
        let needs = model
            .features
            .iter()
            .map(|entry| match &entry.origin {
                FeatureOrigin::View { feature } => engine.needs().iter().position(|need| need == feature),
                FeatureOrigin::Input { .. } | FeatureOrigin::Derived { .. } => None,
            })
            .collect();
        let keys = keys(model, &views)?;
        let absent = engine
            .needs()
            .iter()
            .map(|need| absent(need, &views, &versions))
            .collect::<Result<_, _>>()?;
        let in_force = snapshot.model(&model.name).map(|version| &version.definition);
        Ok(Self {
            snapshot_version: snapshot.version,
            keys,
            needs,
            absent,
            policy: in_force.map(|model| model.policy.clone()).unwrap_or_default(),
            decisions: in_force.map(|model| model.decisions.clone()).unwrap_or_default(),
            changes: definition_change::changes(&record.views, &views, engine.needs()),
            engine,
        })
    }

    /// The snapshot it was compiled under.
    pub fn snapshot_version(&self) -> u64 {
        self.snapshot_version
    }

    /// The model whose vector it looks up.
    pub fn model(&self) -> &ModelDefinition {
        self.engine.definition()
    }

    /// What is kept of the model's decisions.
    pub fn decisions(&self) -> &DecisionPolicy {
        &self.decisions
    }

    /// The features it reads, each with the version of its view.
    pub fn reads(&self) -> impl Iterator<Item = (&FeatureRef, u32)> {
        let versions = self.absent.iter().map(|absent| absent.view_version);
        self.engine.needs().iter().zip(versions)
    }

    /// Looks up the vectors of `inputs` as of `as_of`, or as of now: `now` where nothing is read. What a `share` has is not
    /// read again. By the policy, another version must score instead, or nothing may.
    pub async fn serve(
        &self,
        store: &Lookups,
        share: Option<&Share>,
        inputs: &Inputs,
        as_of: Option<EventTime>,
        now: EventTime,
        deadline: Deadline,
    ) -> Result<Looked, ModelGatewayError> {
        let mut troubled = Troubled::new(&self.model().name, &self.policy);
        if let Some(version) = troubled.changed(&self.changes)? {
            return Ok(troubled.instead(version));
        }
        if self.engine.needs().is_empty() {
            return self.served(inputs, as_of.unwrap_or(now), Vec::new(), Vec::new(), troubled);
        }
        let limit = troubled.lookup_limit(deadline.whole());
        let read = match share.and_then(|share| share.columns(self.engine.needs())) {
            Some(read) => read,
            None => {
                let read = self.read(store.store(), inputs, as_of);
                store.within(deadline, limit, read).await
            }
        };
        match read {
            Ok((as_of, columns)) => match troubled.unfresh(self.engine.needs(), &columns)? {
                Some(version) => Ok(troubled.instead(version)),
                None => self.served(inputs, as_of, columns, Vec::new(), troubled),
            },
            Err(error) => {
                if let Some(version) = troubled.unavailable(error)? {
                    return Ok(troubled.instead(version));
                }
                let (columns, defaulted) = self.absent(inputs.rows, troubled.puts_defaults())?;
                self.served(inputs, as_of.unwrap_or(now), columns, defaulted, troubled)
            }
        }
    }

    fn served(
        &self,
        inputs: &Inputs,
        as_of: EventTime,
        columns: Vec<FeatureColumn>,
        defaulted: Vec<bool>,
        troubled: Troubled<'_>,
    ) -> Result<Looked, ModelGatewayError> {
        let features: Vec<ArrayRef> = columns.iter().map(|column| ArrayRef::clone(&column.values)).collect();
        let vector = self
            .engine
            .assemble(&inputs.batch, &features)
            .map_err(|error| internal(format!("the feature vector can't be computed: {error}")))?;
        Ok(Looked::Served(Served {
            as_of,
            vector,
            features: Arc::clone(self.engine.needs()),
            columns,
            degraded: troubled.into_degraded(),
            defaulted,
        }))
    }

    /// The columns that stand in for a store that does not answer, and which of them are defaults.
    fn absent(&self, rows: usize, defaults: bool) -> Result<(Vec<FeatureColumn>, Vec<bool>), ModelGatewayError> {
        let status: Arc<[FeatureStatus]> = vec![FeatureStatus::Unavailable; rows].into();
        let event_time: Arc<[Option<EventTime>]> = vec![None; rows].into();
        let columns = self.absent.iter().map(|absent| {
            let default = absent.default.as_ref().filter(|_| defaults);
            let column = FeatureColumn {
                view_version: absent.view_version,
                values: values::constant(default, absent.data_type, rows)?,
                status: Arc::clone(&status),
                event_time: Arc::clone(&event_time),
            };
            Ok((column, default.is_some()))
        });
        columns.collect()
    }

    /// The join keys of `inputs` that its views are read by.
    fn entities(&self, inputs: &Inputs) -> impl Iterator<Item = EntityColumn> {
        self.keys.iter().filter_map(|place| {
            let field = self.model().inputs.get(*place)?;
            Some(EntityColumn {
                name: field.name.clone(),
                values: inputs.columns.get(*place)?.clone(),
            })
        })
    }

    async fn read(
        &self,
        store: &dyn FeatureStore,
        inputs: &Inputs,
        as_of: Option<EventTime>,
    ) -> Result<(EventTime, Vec<FeatureColumn>), ModelGatewayError> {
        let request = ReadRequest {
            features: Arc::clone(self.engine.needs()),
            entities: self.entities(inputs).collect(),
            as_of,
        };
        let batch = store.read(request).await.map_err(|error| of_store(&error))?;
        let needs = self.engine.needs();
        let as_asked = batch.rows == inputs.rows
            && batch.columns.len() == needs.len()
            && (Arc::ptr_eq(&batch.features, needs) || batch.features == *needs)
            && batch
                .columns
                .iter()
                .all(|column| [column.values.len(), column.status.len(), column.event_time.len()] == [inputs.rows; 3]);
        if !as_asked {
            return Err(unavailable(
                "the feature store answered outside its contract: other features or rows than asked",
            ));
        }
        Ok((batch.as_of, batch.columns))
    }

    /// Row `row` of what was served, by feature name.
    pub fn row(&self, served: &Served, row: usize) -> BTreeMap<String, ServedFeature> {
        self.entries(served, row)
            .map(|entry| (entry.name.to_owned(), entry.into()))
            .collect()
    }

    /// Row `row` of what was served, in the vector's order.
    pub fn entries<'a>(&'a self, served: &'a Served, row: usize) -> impl Iterator<Item = Entry<'a>> {
        let vector = self
            .model()
            .features
            .iter()
            .zip(served.vector.columns())
            .zip(&self.needs);
        vector.map(move |((entry, values), need)| {
            let value = value_at(values, row);
            let column = need.and_then(|need| Some((need, served.features.get(need)?, served.columns.get(need)?)));
            let Some((need, feature, column)) = column else {
                return Entry::of_request(&entry.name, value);
            };
            let event_time = column.event_time.get(row).copied().flatten();
            Entry {
                name: &entry.name,
                value,
                age_ms: event_time.map(|time| served.as_of.since(time) / 1_000),
                status: column.status.get(row).copied().unwrap_or(FeatureStatus::Missing),
                view: Some((&feature.view, column.view_version)),
                defaulted: served.defaulted.get(need).copied().unwrap_or_default(),
            }
        })
    }
}

/// One entry of one request's vector, and what it is worth: a [`ServedFeature`] that owns no names.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value.
    pub value: Value,
    /// Age of the newest event behind it, where it is of a view.
    pub age_ms: Option<i64>,
    /// What the value is worth.
    pub status: FeatureStatus,
    /// The view it is of, and that view's version.
    pub view: Option<(&'a str, u32)>,
    /// Whether the value is a default in the place of an answer.
    pub defaulted: bool,
}

impl<'a> Entry<'a> {
    fn of_request(name: &'a str, value: Value) -> Self {
        let status = if value == Value::Null {
            FeatureStatus::Null
        } else {
            FeatureStatus::Fresh
        };
        Self {
            name,
            value,
            age_ms: None,
            status,
            view: None,
            defaulted: false,
        }
    }
}

impl From<Entry<'_>> for ServedFeature {
    fn from(entry: Entry<'_>) -> Self {
        Self {
            value: entry.value,
            age_ms: entry.age_ms,
            status: entry.status,
            view: entry.view.map(|(name, version)| VersionedName::new(name, version)),
            defaulted: entry.defaulted,
        }
    }
}

impl Served {
    /// Whether the store did not answer.
    pub fn without_store(&self) -> bool {
        !self.defaulted.is_empty()
    }

    /// The times of the newest events behind row `row`, in the order of [`Self::columns`].
    pub fn event_times(&self, row: usize) -> impl Iterator<Item = (&FeatureRef, EventTime)> {
        let columns = self.features.iter().zip(&self.columns);
        columns.filter_map(move |(feature, column)| Some((feature, column.event_time.get(row).copied().flatten()?)))
    }
}

/// What stands in for `need`, which one of `views` has.
fn absent(need: &FeatureRef, views: &[&ViewDefinition], versions: &[u32]) -> Result<Absent, ModelGatewayError> {
    let mut found = views.iter().zip(versions).filter(|(view, _)| view.name == need.view);
    let (feature, version) = found
        .find_map(|(view, version)| Some((view.feature(&need.feature)?, *version)))
        .ok_or_else(|| internal(format!("no view has feature `{need}`")))?;
    Ok(Absent {
        data_type: feature.data_type,
        view_version: version,
        default: values::default_of(feature)?,
    })
}

fn not_served(model: &ModelDefinition, feature: &FeatureRef, snapshot: &Snapshot) -> ModelGatewayError {
    let detail = match snapshot.newest_view(&feature.view) {
        Some(view) if snapshot.active_view(&feature.view).is_none() => {
            format!(
                "view `{}@{}` is still being provisioned: try again shortly",
                view.definition.name, view.version
            )
        }
        _ => format!(
            "feature `{feature}` of model `{}` is no longer defined: register a version for the new definition",
            model.name
        ),
    };
    unavailable(detail)
}

/// Places among the model's inputs of the join keys of `views`, each once.
fn keys(model: &ModelDefinition, views: &[&ViewDefinition]) -> Result<Vec<usize>, ModelGatewayError> {
    let mut keys = Vec::new();
    for (view, key) in views
        .iter()
        .flat_map(|view| view.key.iter().map(move |key| (view, key)))
    {
        let place = model
            .inputs
            .iter()
            .position(|input| input.name == key.name)
            .ok_or_else(|| {
                unavailable(format!(
                    "key `{}` of view `{}` is no input of model `{}`: add it to the model's inputs",
                    key.name, view.name, model.name
                ))
            })?;
        if !keys.contains(&place) {
            keys.push(place);
        }
    }
    Ok(keys)
}
