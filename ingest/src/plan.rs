//! What ingest needs to know of one source, compiled once per snapshot: columns, keys, arrival.

use crate::decode::formats::Formats;
use crate::decode::place::Reading;
use arrow::datatypes::{DataType as ArrowType, Field as ArrowField, Schema, SchemaRef};
use ondol_feature_store_api::wire::columns;
use ondol_vocabulary::{Arrival, DataType, Field, Snapshot, SourceDefinition, SourceOrigin, SourceVersion};
use std::sync::Arc;

/// How events of one version of a stream source are decoded and checked.
#[derive(Debug, PartialEq)]
pub struct SourcePlan {
    /// The source's name.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// The topic its events come from.
    pub topic: String,
    /// How its messages are read.
    pub reading: Reading,
    /// Its columns in declared order.
    pub fields: Vec<Field>,
    /// Which of them is the event time.
    pub time: usize,
    /// Columns that must not be null, each with the first view that needs it as a key.
    pub keys: Vec<KeyColumn>,
    /// When an event counts as known.
    pub arrival: Arrival,
    /// How long after its event time an event may reach its stream and still count, in microseconds; none: for ever.
    pub late_us: Option<i64>,
    /// Whether events may delete rows.
    pub has_deletions: bool,
    /// The schema of a delivery: the columns, then partition, offset and `ingested_at`, then the marks.
    pub schema: SchemaRef,
}

/// A column that is part of a view's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyColumn {
    /// Its place among the source's columns.
    pub column: usize,
    /// The view.
    pub view: String,
}

impl SourcePlan {
    /// The plan of `source` as `snapshot` has it, decoded by what `formats` has; none when it is a table.
    ///
    /// # Errors
    /// When the definition contradicts itself, which the registry rules out: names what is missing.
    pub fn compile(snapshot: &Snapshot, source: &SourceVersion, formats: &Formats) -> Result<Option<Self>, String> {
        let definition = &source.definition;
        let SourceOrigin::Stream { topic, format, shape } = &definition.origin else {
            return Ok(None);
        };
        let place = |name: &str| {
            let found = definition.schema.iter().position(|field| field.name == name);
            found.ok_or_else(|| format!("source `{}` has no column `{name}`", definition.name))
        };
        let time = place(&definition.time)?;
        let mut keys: Vec<KeyColumn> = Vec::new();
        for view in snapshot.views_of(&definition.name) {
            for key in &view.definition.key {
                let column = place(&key.name)?;
                if keys.iter().all(|known| known.column != column) {
                    keys.push(KeyColumn {
                        column,
                        view: view.definition.name.clone(),
                    });
                }
            }
        }
        Ok(Some(Self {
            name: definition.name.clone(),
            version: source.version,
            topic: topic.clone(),
            reading: Reading::new(format, shape, &definition.schema, formats.format(format, shape.framing)),
            fields: definition.schema.clone(),
            time,
            keys,
            arrival: definition.arrival,
            late_us: (definition.late_us > 0).then_some(definition.late_us),
            has_deletions: definition.origin.has_deletions(),
            schema: delivery_schema(definition),
        }))
    }
}

/// The schema of a delivery of events of `source`.
pub fn delivery_schema(source: &SourceDefinition) -> SchemaRef {
    let own = source
        .schema
        .iter()
        .map(|field| ArrowField::new(&field.name, field.data_type.arrow(), true));
    let added = [
        ArrowField::new(columns::PARTITION, ArrowType::Int32, false),
        ArrowField::new(columns::OFFSET, ArrowType::Int64, false),
        ArrowField::new(columns::INGESTED_AT, DataType::Timestamp.arrow(), false),
    ];
    let marks = source
        .marks()
        .map(|name| ArrowField::new(name, ArrowType::Boolean, false));
    Arc::new(Schema::new(own.chain(added).chain(marks).collect::<Vec<_>>()))
}
