//! The published layout of an offline table: columns, partitioning, file names, transaction identifiers.
//!
//! Any Delta reader may rely on it; `docs/offline-tables.md` describes it for users. Only this service writes it.

use arrow::datatypes::{DataType as ArrowType, Field as ArrowField, Schema as ArrowSchema, SchemaRef};
use deltalake_core::kernel::{
    ArrayType, DataType as DeltaType, Metadata, MetadataExt, PrimitiveType, StructField, StructType,
};
use ondol_feature_store_api::wire::columns;
use ondol_vocabulary::{DataType, SourceDefinition};
use std::sync::Arc;

/// `Utf8`, never null: names the life of the topic within which offsets compare.
pub(super) const GENERATION: &str = "_generation";

/// The columns that the log adds to a source's own, as stored in the files. `_event_date` is not among them: Delta
/// keeps partition values in the log and the folder names.
pub(super) fn added_columns() -> [(&'static str, DataType); 4] {
    [
        (columns::PARTITION, DataType::I32),
        (columns::OFFSET, DataType::I64),
        (columns::INGESTED_AT, DataType::Timestamp),
        (GENERATION, DataType::String),
    ]
}

/// Every column of a source's table in Delta's types: the source's own, nullable, then the added ones, then the marks of
/// sources that have them, nullable, as they may have come later than the table.
pub(super) fn delta_columns(source: &SourceDefinition) -> Vec<StructField> {
    let own = source
        .schema
        .iter()
        .map(|field| StructField::nullable(&field.name, delta_type(field.data_type)));
    let added = added_columns().map(|(name, data_type)| StructField::not_null(name, delta_type(data_type)));
    let marks = source
        .marks()
        .map(|name| StructField::nullable(name, DeltaType::Primitive(PrimitiveType::Boolean)));
    let date = StructField::nullable(columns::EVENT_DATE, DeltaType::Primitive(PrimitiveType::Date));
    own.chain(added).chain(marks).chain([date]).collect()
}

/// The table's new schema when the source has columns the table lacks. Columns are only ever added: files written
/// before read as null.
pub(super) fn evolve(
    schema: &StructType,
    metadata: &Metadata,
    source: &SourceDefinition,
) -> Result<Option<(StructType, Metadata)>, String> {
    let wanted = delta_columns(source);
    if let Some(column) = wanted.iter().find(|column| {
        schema
            .field(column.name())
            .is_some_and(|held| held.data_type() != column.data_type())
    }) {
        return Err(format!(
            "column `{}` can't become {}: the archived log holds another type, give the new column another name",
            column.name(),
            column.data_type()
        ));
    }
    let new: Vec<_> = wanted
        .into_iter()
        .filter(|column| schema.field(column.name()).is_none())
        .collect();
    if new.is_empty() {
        return Ok(None);
    }
    let evolved = StructType::try_new(schema.fields().cloned().chain(new)).map_err(|error| error.to_string())?;
    let metadata = metadata
        .clone()
        .with_schema(&evolved)
        .map_err(|error| error.to_string())?;
    Ok(Some((evolved, metadata)))
}

/// The schema of data files of a table with these Delta columns: all but the partition column.
pub(super) fn file_schema(table: &StructType) -> Result<SchemaRef, String> {
    let fields = table
        .fields()
        .filter(|field| field.name() != columns::EVENT_DATE)
        .map(|field| {
            let data_type = arrow_type(field.data_type()).ok_or_else(|| {
                format!(
                    "column `{}` has a type Ondol does not write: {}",
                    field.name(),
                    field.data_type()
                )
            })?;
            Ok(ArrowField::new(field.name(), data_type, field.is_nullable()))
        });
    Ok(Arc::new(ArrowSchema::new(fields.collect::<Result<Vec<_>, String>>()?)))
}

fn delta_type(data_type: DataType) -> DeltaType {
    let scalar = match data_type {
        DataType::List(element) => {
            return DeltaType::Array(Box::new(ArrayType::new(delta_type(element.data_type()), true)));
        }
        DataType::String => PrimitiveType::String,
        DataType::Bool => PrimitiveType::Boolean,
        DataType::I32 => PrimitiveType::Integer,
        DataType::I64 => PrimitiveType::Long,
        DataType::F32 => PrimitiveType::Float,
        DataType::F64 => PrimitiveType::Double,
        DataType::Timestamp => PrimitiveType::Timestamp,
    };
    DeltaType::Primitive(scalar)
}

fn arrow_type(delta: &DeltaType) -> Option<ArrowType> {
    DataType::ALL
        .into_iter()
        .find(|candidate| delta_type(*candidate) == *delta)
        .map(DataType::arrow)
}

/// The transaction identifier that holds a partition's position: `ondol/{source}/{generation}/{partition}`.
pub(super) fn app_id(source: &str, generation: &str, partition: i32) -> String {
    format!("ondol/{source}/{generation}/{partition}")
}

/// The generation and partition of a transaction identifier of `source`. A generation may itself contain slashes.
pub(super) fn parse_app_id<'a>(app_id: &'a str, source: &str) -> Option<(&'a str, i32)> {
    let rest = app_id.strip_prefix("ondol/")?.strip_prefix(source)?.strip_prefix('/')?;
    let (generation, partition) = rest.rsplit_once('/')?;
    Some((generation, partition.parse().ok()?))
}

/// Names the files of one commit, or of one compaction, by the commits whose rows they hold.
///
/// Within a partition of the topic, a later commit's offsets are greater: files whose commits don't overlap stand in
/// order, and those whose commits overlap have to be merged.
#[derive(Clone, Debug)]
pub(super) struct FileNames {
    name: String,
    count: u32,
}

impl FileNames {
    /// For the commit that is expected to become `version`. The random part keeps a lost race's files apart.
    pub(super) fn of_commit(version: u64) -> Self {
        Self {
            name: format!("{version:020}-{}", ulid::Ulid::new()),
            count: 0,
        }
    }

    /// For files that hold rows of the commits from the first to the last of `commits`.
    pub(super) fn of_commits(commits: (u64, u64)) -> Self {
        Self {
            name: format!("{:020}-{:020}-{}", commits.0, commits.1, ulid::Ulid::new()),
            count: 0,
        }
    }

    /// The next file's path within the table.
    pub(super) fn next(&mut self, event_date: &str) -> String {
        self.count += 1;
        format!(
            "{}={event_date}/part-{}-{:05}.zstd.parquet",
            columns::EVENT_DATE,
            self.name,
            self.count
        )
    }
}

/// The first and the last of the commits whose rows a file holds, by its path.
pub(super) fn commits_of(path: &str) -> Option<(u64, u64)> {
    let file = path.rsplit('/').next().unwrap_or(path);
    let mut parts = file.strip_prefix("part-")?.split('-');
    let version = |text: &str| (text.len() == 20).then(|| text.parse::<u64>().ok())?;
    let first = version(parts.next()?)?;
    // A ULID has 26 characters: what has 20 digits is a second version.
    let last = parts.next().and_then(version).unwrap_or(first);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_with_slashes_survives_the_transaction_identifier() {
        let id = app_id("clicks", "a/b", 3);
        assert_eq!(parse_app_id(&id, "clicks"), Some(("a/b", 3)));
        assert_eq!(parse_app_id(&id, "click"), None);
    }

    #[test]
    fn a_file_is_named_by_the_commits_whose_rows_it_holds() {
        assert_eq!(commits_of(&FileNames::of_commit(9).next("2013-01-02")), Some((9, 9)));
        assert_eq!(
            commits_of(&FileNames::of_commits((9, 40)).next("2013-01-02")),
            Some((9, 40))
        );
        assert_eq!(commits_of("_event_date=2013-01-02/part-00000-c000.parquet"), None);
    }
}
