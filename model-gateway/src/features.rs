//! A model's feature vector, looked up: one read of the feature store for the whole batch, then the compiled engine.
//!
//! Cost model: per request one [`ReadRequest`] and one pass of the engine over the batch's columns; nothing is planned
//! or looked up by name that did not change with the request.

use crate::fault::{internal, of_store, unavailable};
use crate::inputs::Inputs;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType as ArrowType, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use ondol_feature_store_api::FeatureStore;
use ondol_feature_store_api::wire::{EntityColumn, FeatureColumn, ReadRequest};
use ondol_model_gateway_api::ModelGatewayError;
use ondol_model_gateway_api::wire::ServedFeature;
use ondol_transform::VectorEngine;
use ondol_vocabulary::{
    EventTime, FeatureOrigin, FeatureRef, FeatureStatus, ModelDefinition, Snapshot, Value, VersionedName,
    ViewDefinition,
};
use std::collections::BTreeMap;

/// How one model's vector is looked up under one snapshot. Immutable and shared.
#[derive(Debug)]
pub struct Plan {
    snapshot_version: u64,
    engine: VectorEngine,
    /// The inputs that are join keys of the views read: places in the model's inputs.
    keys: Vec<usize>,
    /// Per vector entry the place of its feature in the engine's needs; none for inputs and derived features.
    needs: Vec<Option<usize>>,
}

/// What was served for a batch: the vector, and what each of its values is worth.
#[derive(Clone, Debug)]
pub struct Served {
    /// The moment the features are as of.
    pub as_of: EventTime,
    /// The vector, a column per entry in order.
    pub vector: RecordBatch,
    /// The view features as read, in the order of the engine's needs.
    pub columns: Vec<FeatureColumn>,
}

impl Plan {
    /// Compiles the lookup of `model`'s vector from the views that serve under `snapshot`.
    pub fn compile(model: &ModelDefinition, snapshot: &Snapshot) -> Result<Self, ModelGatewayError> {
        let mut views: Vec<&ViewDefinition> = Vec::new();
        for feature in model.view_features() {
            let (view, _) = snapshot
                .resolve(&feature)
                .ok_or_else(|| not_served(model, &feature, snapshot))?;
            if !views.iter().any(|known| known.name == view.definition.name) {
                views.push(&view.definition);
            }
        }
        let engine = VectorEngine::compile(model, &views).map_err(|error| {
            internal(format!(
                "the vector of model `{}` can't be compiled: {error}",
                model.name
            ))
        })?;
        let needs = model
            .features
            .iter()
            .map(|entry| match &entry.origin {
                FeatureOrigin::View { feature } => engine.needs().iter().position(|need| need == feature),
                FeatureOrigin::Input { .. } | FeatureOrigin::Derived { .. } => None,
            })
            .collect();
        let keys = keys(model, &views)?;
        Ok(Self {
            snapshot_version: snapshot.version,
            engine,
            keys,
            needs,
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

    /// Looks up the vectors of `inputs` as of `as_of`, or as of now: `now` where nothing is read.
    pub async fn serve(
        &self,
        store: &dyn FeatureStore,
        inputs: &Inputs,
        as_of: Option<EventTime>,
        now: EventTime,
    ) -> Result<Served, ModelGatewayError> {
        let (as_of, columns) = if self.engine.needs().is_empty() {
            (as_of.unwrap_or(now), Vec::new())
        } else {
            self.read(store, inputs, as_of).await?
        };
        let features: Vec<ArrayRef> = columns.iter().map(|column| ArrayRef::clone(&column.values)).collect();
        let vector = self
            .engine
            .assemble(&inputs.batch, &features)
            .map_err(|error| internal(format!("the feature vector can't be computed: {error}")))?;
        Ok(Served { as_of, vector, columns })
    }

    async fn read(
        &self,
        store: &dyn FeatureStore,
        inputs: &Inputs,
        as_of: Option<EventTime>,
    ) -> Result<(EventTime, Vec<FeatureColumn>), ModelGatewayError> {
        let entity = |place: &usize| {
            let field = self.model().inputs.get(*place)?;
            Some(EntityColumn {
                name: field.name.clone(),
                values: inputs.columns.get(*place)?.clone(),
            })
        };
        let request = ReadRequest {
            features: self.engine.needs().to_vec(),
            entities: self.keys.iter().filter_map(entity).collect(),
            as_of,
        };
        let batch = store.read(request).await.map_err(|error| of_store(&error))?;
        let needs = self.engine.needs();
        let as_asked = batch.rows == inputs.rows
            && batch.columns.len() == needs.len()
            && batch.columns.iter().zip(needs).all(|(column, need)| {
                column.feature == *need
                    && [column.values.len(), column.status.len(), column.event_time.len()] == [inputs.rows; 3]
            });
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
            .map(|(name, feature)| (name.to_owned(), feature))
            .collect()
    }

    /// Row `row` of what was served, in the vector's order.
    pub fn entries<'a>(&'a self, served: &'a Served, row: usize) -> impl Iterator<Item = (&'a str, ServedFeature)> {
        let vector = self
            .model()
            .features
            .iter()
            .zip(served.vector.columns())
            .zip(&self.needs);
        vector.map(move |((entry, values), need)| {
            let value = value_at(values, row);
            let feature = match need.and_then(|need| served.columns.get(need)) {
                Some(column) => of_view(column, row, value, served.as_of),
                None => of_request(value),
            };
            (entry.name.as_str(), feature)
        })
    }
}

fn of_view(column: &FeatureColumn, row: usize, value: Value, as_of: EventTime) -> ServedFeature {
    let event_time = column.event_time.get(row).copied().flatten();
    ServedFeature {
        value,
        age_ms: event_time.map(|time| as_of.since(time) / 1_000),
        status: column.status.get(row).copied().unwrap_or(FeatureStatus::Missing),
        view: Some(VersionedName::new(&column.feature.view, column.view_version)),
    }
}

fn of_request(value: Value) -> ServedFeature {
    let status = if value == Value::Null {
        FeatureStatus::Null
    } else {
        FeatureStatus::Fresh
    };
    ServedFeature {
        value,
        age_ms: None,
        status,
        view: None,
    }
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

/// Row `row` of a column as a JSON value; an `f32` as the `f64` that it equals, which is what was scored.
pub fn value_at(column: &ArrayRef, row: usize) -> Value {
    if row >= column.len() || column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        ArrowType::Utf8 => Value::String(column.as_string::<i32>().value(row).to_owned()),
        ArrowType::Boolean => Value::Bool(column.as_boolean().value(row)),
        ArrowType::Int32 => Value::I64(i64::from(column.as_primitive::<Int32Type>().value(row))),
        ArrowType::Int64 => Value::I64(column.as_primitive::<Int64Type>().value(row)),
        ArrowType::Float32 => Value::F64(f64::from(column.as_primitive::<Float32Type>().value(row))),
        ArrowType::Float64 => Value::F64(column.as_primitive::<Float64Type>().value(row)),
        ArrowType::Timestamp(TimeUnit::Microsecond, _) => Value::Timestamp(EventTime::from_micros(
            column.as_primitive::<TimestampMicrosecondType>().value(row),
        )),
        ArrowType::List(_) => {
            let items = column.as_list::<i32>().value(row);
            Value::List((0..items.len()).map(|item| value_at(&items, item)).collect())
        }
        // The engine's columns have the types of the vocabulary; another would be a bug, and its value unknown.
        _ => Value::Null,
    }
}
