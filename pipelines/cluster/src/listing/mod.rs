//! An offline table as the query engine reads it: its Parquet files at one version, and what is known of each.
//!
//! A listing is data: it is opened once, where the query is planned, and travels with the plan. Whoever runs a part of
//! the plan reads exactly these files, whatever has been committed since.

mod delta;
mod folder;
pub(crate) mod statistics;

use crate::fault::EngineError;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use ondol_runtime::objects::{Location, ObjectStores};
use ondol_vocabulary::{SourceDefinition, SourceOrigin, TableFormat, batch};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A table's files at one version.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    /// Where it is, for messages.
    pub location: String,
    /// The object store: scheme and authority, such as `s3://lake/`. Paths of files start there.
    pub store: String,
    /// The files.
    pub files: Vec<ListedFile>,
    /// The columns that files hold.
    pub file_schema: SchemaRef,
    /// The columns whose values stand in a file's place in the table instead.
    pub partition_columns: Vec<FieldRef>,
}

/// One Parquet file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListedFile {
    /// Its path from the store's root, encoded as in a URL.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written, in milliseconds since 1970.
    pub modified_ms: i64,
    /// Values of the partition columns, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partition_values: Vec<Option<String>>,
    /// Its statistics as the Delta log holds them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<String>,
}

impl Listing {
    /// Lists the files of a Delta table, at `version` or the newest.
    pub(crate) async fn delta(
        objects: &ObjectStores,
        location: &str,
        version: Option<u64>,
    ) -> Result<Self, EngineError> {
        delta::open(&objects.at(location)?, version).await
    }

    /// Lists what `source` is: its log at `log_url`, or the table it names. A stream without a log yet is an empty table.
    pub(crate) async fn of_source(
        objects: &ObjectStores,
        source: &SourceDefinition,
        log_url: Option<&str>,
    ) -> Result<Self, EngineError> {
        match (&source.origin, log_url) {
            (SourceOrigin::Stream { .. }, Some(url)) => Self::delta(objects, url, None).await,
            (SourceOrigin::Stream { .. }, None) => Ok(Self::uncommitted(source)),
            (SourceOrigin::Table { location, format }, _) => match format {
                TableFormat::Delta => Self::delta(objects, location, None).await,
                TableFormat::Parquet => folder::open(&objects.at(location)?).await,
            },
        }
    }

    /// Files that were written by this process, all of one schema.
    #[cfg_attr(not(feature = "client"), allow(dead_code, reason = "only a cluster exchanges files"))]
    pub(crate) fn of_files(place: &Location, files: Vec<ListedFile>, file_schema: SchemaRef) -> Self {
        Self {
            location: place.to_string(),
            store: store_of(place),
            files,
            file_schema,
            partition_columns: Vec::new(),
        }
    }

    /// The log of a stream of which nothing has been committed.
    fn uncommitted(source: &SourceDefinition) -> Self {
        let fields = source.schema.iter();
        let fields = fields.map(|field| arrow::datatypes::Field::new(&field.name, field.data_type.arrow(), true));
        Self {
            location: format!("the log of `{}`", source.name),
            store: "file:///".to_owned(),
            files: Vec::new(),
            file_schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
            partition_columns: Vec::new(),
        }
    }

    /// Every column: those of the files, then those of their places.
    pub(crate) fn schema(&self) -> SchemaRef {
        let fields = self.file_schema.fields().iter().chain(&self.partition_columns);
        Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
    }
}

/// The store that `place` is in: scheme and authority.
fn store_of(place: &Location) -> String {
    let mut url = place.url().clone();
    url.set_path("/");
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

/// A listing's form on a wire. Arrow schemas travel as an IPC stream without batches.
#[derive(Serialize, Deserialize)]
struct WireListing {
    location: String,
    store: String,
    files: Vec<ListedFile>,
    file_schema: Vec<u8>,
    partition_columns: Vec<u8>,
}

impl Serialize for Listing {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = |schema: &SchemaRef| batch::encode(schema, &[]).map_err(serde::ser::Error::custom);
        WireListing {
            location: self.location.clone(),
            store: self.store.clone(),
            files: self.files.clone(),
            file_schema: bytes(&self.file_schema)?,
            partition_columns: bytes(&Arc::new(Schema::new(self.partition_columns.clone())))?,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Listing {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = WireListing::deserialize(deserializer)?;
        let schema = |bytes: &[u8]| batch::decode(bytes).map(|(schema, _)| schema);
        Ok(Self {
            location: wire.location,
            store: wire.store,
            files: wire.files,
            file_schema: schema(&wire.file_schema).map_err(serde::de::Error::custom)?,
            partition_columns: schema(&wire.partition_columns)
                .map_err(serde::de::Error::custom)?
                .fields()
                .iter()
                .cloned()
                .collect(),
        })
    }
}

/// Splits a table's columns into those of its files and those of their places.
fn split_columns(schema: &Schema, partition_columns: &[String]) -> (SchemaRef, Vec<FieldRef>) {
    let place = |field: &&FieldRef| partition_columns.contains(field.name());
    let in_files = schema.fields().iter().filter(|field| !place(field)).cloned();
    // In the order of the partition columns, as values are listed.
    let in_places = partition_columns.iter().filter_map(|name| {
        let (_, field) = schema.fields().find(name)?;
        Some(Arc::clone(field))
    });
    (Arc::new(Schema::new(in_files.collect::<Vec<_>>())), in_places.collect())
}

/// The value that a partition column's text stands for.
pub(crate) fn partition_value(
    text: Option<&str>,
    data_type: &DataType,
) -> Result<datafusion::scalar::ScalarValue, datafusion::error::DataFusionError> {
    use datafusion::scalar::ScalarValue;
    match text {
        Some(text) => ScalarValue::try_from_string(text.to_owned(), data_type),
        None => ScalarValue::try_from(data_type),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Field;

    #[test]
    fn a_listing_comes_back_from_its_bytes() {
        let listing = Listing {
            location: "s3://lake/t".to_owned(),
            store: "s3://lake/".to_owned(),
            files: vec![ListedFile {
                path: "t/day=2013-01-31/a.parquet".to_owned(),
                size: 7,
                modified_ms: 1,
                partition_values: vec![Some("2013-01-31".to_owned()), None],
                statistics: Some("{}".to_owned()),
            }],
            file_schema: Arc::new(Schema::new(vec![Field::new("a", DataType::Utf8, true)])),
            partition_columns: vec![Arc::new(Field::new("day", DataType::Date32, true))],
        };
        let bytes = serde_json::to_vec(&listing).unwrap();
        let back: Listing = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(format!("{listing:?}"), format!("{back:?}"));
    }

    #[test]
    fn partition_columns_stand_last_in_their_own_order() {
        let field = |name: &str| Field::new(name, DataType::Utf8, true);
        let schema = Schema::new(vec![field("a"), field("p"), field("b"), field("q")]);
        let (files, places) = split_columns(&schema, &["q".to_owned(), "p".to_owned()]);
        assert_eq!(
            files.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert_eq!(places.iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["q", "p"]);
    }
}
