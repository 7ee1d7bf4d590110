//! `training-set --from-decisions`: the vectors that were really scored, with what became of them.
//!
//! Nothing is joined as of anything: a row is a recorded decision's exact vector, typed as the model's definition has it,
//! beside the latest outcome of its request. A decision that was delivered twice counts once.

use crate::cli::{Output, TrainingSetArgs};
use crate::frames::{self, Layout, Outlet, Target};
use crate::print;
use anyhow::{Context as _, Result, anyhow, bail};
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType as ArrowType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use futures::TryStreamExt as _;
use ondol_feature_store_api::FeatureStore;
use ondol_model_gateway::features::column;
use ondol_model_gateway::manifest::same_vector;
use ondol_pipelines_api::sql::SqlRequest;
use ondol_pipelines_api::wire::{AsOf, Manifest, ManifestFeature};
use ondol_vocabulary::{DataType, EventTime, ModelDefinition, ModelVersion, Value, VersionedName};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The columns beside the vector.
const BESIDE: [&str; 4] = ["request_id", "at", "outcome", "label"];

/// `ondol training-set MODEL --from-decisions`.
pub(crate) async fn run(args: &TrainingSetArgs, output: Output) -> Result<()> {
    let name = args
        .model
        .as_ref()
        .ok_or_else(|| anyhow!("name the model whose decisions are taken"))?;
    let layout = Layout {
        partition_by: args.partition_by.clone(),
        rows_per_file: args.rows_per_file,
    };
    let outlet = Outlet::new(&args.out, args.config.as_deref())?;
    let target = Target::new(outlet.path(), layout, args.format)?;
    outlet.check(target.is_folder()).await?;

    let store = args.connect.feature_store()?;
    let snapshot = store.snapshot().await?;
    let model = snapshot
        .model(name)
        .ok_or_else(|| anyhow!("there is no model `{name}`: `ondol ls` lists them"))?;
    // What is delivered and not yet committed counts too.
    for source in ["decisions", "outcomes"] {
        store.flush(source).await?;
    }
    let request = SqlRequest {
        query: query(args, model, &same_versions(store.as_ref(), model).await?)?,
        max_rows: None,
    };
    let mut rows = args.connect.sql()?.sql(request).await?;
    let schema = schema(&model.definition);
    target.check(&schema)?;
    let mut table = target.begin(&schema, "at")?;
    let mut made = Made::new(&model.definition);
    while let Some(batch) = rows.batches.try_next().await? {
        table.write(made.take(&model.definition, &schema, &batch)?)?;
    }
    if made.rows == 0 {
        bail!(
            "no decision of {name} by definition {name}@{} has an outcome: record outcomes with \
             `POST /v1/models/{name}:outcome` or `ondol outcome`",
            model.version
        );
    }
    table.finish()?;
    let tables = store.tables().await?;
    let tables = tables
        .into_iter()
        .filter(|table| matches!(table.source.as_str(), "decisions" | "outcomes"))
        .filter_map(|table| Some((table.source, table.version?.to_string())))
        .collect();
    let manifest = made.manifest(model, snapshot.version, tables)?;
    let manifest_text = serde_json::to_vec_pretty(&manifest)?;
    frames::write_text(&frames::manifest_path(outlet.path()), &manifest_text)?;
    let (out, manifest_file) = (outlet.shown().to_owned(), outlet.manifest());
    outlet.publish().await?;
    let summary = json!({"output": out, "manifest_file": manifest_file, "manifest": manifest});
    print::result(output, &summary, |_| {
        format!(
            "{} decisions of {} with their outcomes → {out}\nmanifest: {manifest_file}",
            manifest.rows, manifest.model
        )
    })
}

/// The versions of the definition whose vector is that of the one in force: another policy is another version, too.
async fn same_versions(store: &dyn FeatureStore, model: &ModelVersion) -> Result<Vec<String>> {
    let history = store.history(&format!("model.{}", model.definition.name)).await?;
    let mut versions = Vec::new();
    for version in history.versions {
        let definition: ModelDefinition = serde_json::from_value(version.definition)?;
        if same_vector(&definition, &model.definition) {
            versions.push(version.version.to_string());
        }
    }
    Ok(versions)
}

/// Decisions by `versions` of the definition, each once, with the latest outcome of its request.
fn query(args: &TrainingSetArgs, model: &ModelVersion, versions: &[String]) -> Result<String> {
    let mut when = String::new();
    for (bound, operator) in [(&args.start, ">="), (&args.end, "<")] {
        if let Some(text) = bound {
            let at = EventTime::parse(text).with_context(|| format!("`{text}` is no moment"))?;
            when.push_str(&format!(" AND \"at\" {operator} '{at}'"));
        }
    }
    // Names of models are identifiers: nothing in them needs quoting. What a caller sent raw is no vector of features: an
    // input's value is never an object.
    let name = &model.definition.name;
    Ok(format!(
        "SELECT d.request_id, d.\"at\", d.vector, d.views, o.outcome, o.value FROM (
            SELECT request_id, \"at\", vector, views, row_number() OVER (
                PARTITION BY request_id ORDER BY _partition, _offset) AS copy
            FROM decisions WHERE model = '{name}' AND definition_version IN ({}){when}
                AND inputs NOT LIKE '{{\"raw\":{{%'
        ) d JOIN (
            SELECT request_id, outcome, value, row_number() OVER (
                PARTITION BY request_id ORDER BY \"at\" DESC, _ingested_at DESC, _offset DESC) AS place
            FROM outcomes WHERE model = '{name}'
        ) o ON o.request_id = d.request_id WHERE d.copy = 1 AND o.place = 1 ORDER BY d.\"at\", d.request_id",
        versions.join(", ")
    ))
}

fn schema(model: &ModelDefinition) -> SchemaRef {
    let moment = ArrowType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let types = [ArrowType::Utf8, moment, ArrowType::Utf8, ArrowType::Float64];
    let beside = BESIDE.into_iter().zip(types).map(|(name, data_type)| {
        let nullable = matches!(name, "outcome" | "label");
        Field::new(name, data_type, nullable)
    });
    let vector = model
        .features
        .iter()
        .map(|feature| Field::new(&feature.name, feature.data_type.arrow(), true));
    Arc::new(Schema::new(beside.chain(vector).collect::<Vec<_>>()))
}

/// What the rows come to.
struct Made {
    rows: u64,
    nulls: Vec<u64>,
    views: BTreeSet<VersionedName>,
}

impl Made {
    fn new(model: &ModelDefinition) -> Self {
        Self {
            rows: 0,
            nulls: vec![0; model.features.len()],
            views: BTreeSet::new(),
        }
    }

    /// Rows of the query as rows of the training set.
    fn take(&mut self, model: &ModelDefinition, schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
        let rows = batch.num_rows();
        let mut columns: Vec<Vec<Value>> = model.features.iter().map(|_| Vec::with_capacity(rows)).collect();
        let (vectors, views) = (texts(batch, "vector")?, texts(batch, "views")?);
        for (vector, views) in vectors.iter().zip(&views) {
            let vector = vector.ok_or_else(|| anyhow!("a decision has no vector"))?;
            let mut vector: BTreeMap<String, Value> = serde_json::from_str(vector)?;
            for (feature, column) in model.features.iter().zip(&mut columns) {
                column.push(vector.remove(&feature.name).unwrap_or(Value::Null));
            }
            let versions: BTreeMap<String, u32> = serde_json::from_str(views.unwrap_or("{}"))?;
            let versions = versions.into_iter();
            self.views
                .extend(versions.map(|(view, version)| VersionedName::new(view, version)));
        }
        let moments = batch
            .column_by_name("at")
            .and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>())
            .ok_or_else(|| anyhow!("column `at` of the decisions is no moment"))?;
        let moments = TimestampMicrosecondArray::from(moments.values().to_vec()).with_timezone("UTC");
        let labels = batch
            .column_by_name("value")
            .and_then(|column| column.as_primitive_opt::<arrow::datatypes::Float64Type>())
            .ok_or_else(|| anyhow!("column `value` of the outcomes is no number"))?;
        let mut made: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(texts(batch, "request_id")?)),
            Arc::new(moments),
            Arc::new(StringArray::from(texts(batch, "outcome")?)),
            Arc::new(Float64Array::from_iter(labels.iter())),
        ];
        for ((feature, values), nulls) in model.features.iter().zip(&columns).zip(&mut self.nulls) {
            let column = column(&feature.name, feature.data_type, values).map_err(|detail| anyhow!(detail))?;
            *nulls += column.null_count() as u64;
            made.push(column);
        }
        self.rows += rows as u64;
        Ok(RecordBatch::try_new(Arc::clone(schema), made)?)
    }

    fn manifest(
        &self,
        model: &ModelVersion,
        registry_version: u64,
        tables: BTreeMap<String, String>,
    ) -> Result<Manifest> {
        let mut views: Vec<VersionedName> = Vec::new();
        for view in &self.views {
            if let Some(other) = views.iter().find(|known| known.name == view.name) {
                bail!(
                    "the decisions were made from {other} and from {view}, and a model is trained on one of them: choose with \
                     --start and --end"
                );
            }
            views.push(view.clone());
        }
        let feature = |(name, data_type, nulls): (&String, DataType, u64)| ManifestFeature {
            name: name.clone(),
            data_type,
            nulls,
            statistics: None,
            statuses: None,
        };
        let features = model.definition.features.iter().zip(&self.nulls);
        Ok(Manifest {
            format: Manifest::FORMAT,
            model: VersionedName::new(&model.definition.name, model.version),
            as_of: AsOf::KnownAt,
            registry_version,
            views,
            tables,
            time_column: "at".to_owned(),
            spine_columns: BESIDE.map(str::to_owned).to_vec(),
            features: features
                .map(|(entry, nulls)| feature((&entry.name, entry.data_type, *nulls)))
                .collect(),
            rows: self.rows,
            built_at: EventTime::now(),
            snapshot: None,
        })
    }
}

/// A column of texts, whichever way the engine holds them.
fn texts<'b>(batch: &'b RecordBatch, name: &str) -> Result<Vec<Option<&'b str>>> {
    let column = batch
        .column_by_name(name)
        .ok_or_else(|| anyhow!("the service sent no column `{name}`"))?;
    if let Some(texts) = column.as_string_opt::<i32>() {
        return Ok(texts.iter().collect());
    }
    if let Some(texts) = column.as_string_view_opt() {
        return Ok(texts.iter().collect());
    }
    bail!("column `{name}` is {}, not text", column.data_type())
}
