//! A listing as a table of the engine.
//!
//! Columns, filters and limits go down into the Parquet reader: files are left out by the log's statistics and partition
//! values when the query is planned, row groups and pages by their own when it runs. Filters are applied again above the
//! scan, so skipping may be approximate. A column that a file lacks is null there.

use crate::listing::statistics::FileStatistics;
use crate::listing::{Listing, partition_value};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::config::TableParquetOptions;
use datafusion::common::{DFSchema, Statistics};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion_datasource::compute_all_files_statistics;
use object_store::ObjectMeta;
use object_store::path::Path;
use std::sync::Arc;

/// A table of Parquet files.
#[derive(Debug)]
pub(crate) struct ListedTable {
    listing: Listing,
    schema: SchemaRef,
}

impl ListedTable {
    /// Of `listing`.
    pub(crate) fn new(listing: Listing) -> Self {
        let schema = listing.schema();
        Self { listing, schema }
    }

    /// Whether each file may hold a row that passes `filters`.
    fn kept(&self, state: &dyn Session, filters: &[Expr], statistics: &FileStatistics<'_>) -> Result<Vec<bool>> {
        let all = || vec![true; self.listing.files.len()];
        let Some(filter) = conjunction(filters.to_vec()) else {
            return Ok(all());
        };
        let columns = DFSchema::try_from(Arc::clone(&self.schema))?;
        let filter = state.create_physical_expr(filter, &columns)?;
        let predicate = PruningPredicateBuilder::new()
            .with_file_schema(Arc::clone(&self.schema))
            .try_build(filter);
        // An expression that statistics can't judge keeps every file.
        predicate.map_or_else(|_| Ok(all()), |predicate| predicate.prune(statistics))
    }

    fn partitioned_file(&self, index: usize, statistics: &FileStatistics<'_>) -> Result<PartitionedFile> {
        let internal = |detail: &dyn std::fmt::Display| DataFusionError::Internal(detail.to_string());
        let file = (self.listing.files.get(index)).ok_or_else(|| internal(&"a file vanished from its list"))?;
        let values = self.listing.partition_columns.iter().zip(&file.partition_values);
        let values = values
            .map(|(field, text)| partition_value(text.as_deref(), field.data_type()))
            .collect::<Result<Vec<_>>>()?;
        let has_null = file.partition_values.iter().any(Option::is_none);
        let meta = ObjectMeta {
            location: Path::parse(&file.path).map_err(|cause| internal(&cause))?,
            last_modified: chrono::DateTime::from_timestamp_millis(file.modified_ms).unwrap_or_default(),
            size: file.size,
            e_tag: None,
            version: None,
        };
        let listed = PartitionedFile::new_from_meta(meta).with_partition_values(values);
        // The engine takes partition values for never null.
        let known = if has_null { None } else { statistics.of_file(index) };
        Ok(match known {
            Some(known) => listed.with_statistics(Arc::new(known)),
            None => PartitionedFile {
                statistics: Some(Arc::new(Statistics::new_unknown(&self.schema))),
                ..listed
            },
        })
    }
}

#[async_trait]
impl TableProvider for ListedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let statistics = FileStatistics::new(&self.listing);
        let kept = self.kept(state, filters, &statistics)?;
        let kept = kept.iter().enumerate().filter(|(_, kept)| **kept);
        let files = kept
            .map(|(index, _)| self.partitioned_file(index, &statistics))
            .collect::<Result<Vec<_>>>()?;
        if files.is_empty() {
            let columns = match projection {
                Some(columns) => Arc::new(self.schema.project(columns)?),
                None => Arc::clone(&self.schema),
            };
            return Ok(Arc::new(EmptyExec::new(columns)));
        }
        let groups = FileGroup::new(files).split_files(state.config().target_partitions().max(1));
        let (groups, all) = compute_all_files_statistics(groups, Arc::clone(&self.schema), true, false)?;
        let columns = TableSchema::builder(Arc::clone(&self.listing.file_schema))
            .with_table_partition_cols(self.listing.partition_columns.clone())
            .build();
        let options = TableParquetOptions {
            global: state.config_options().execution.parquet.clone(),
            ..TableParquetOptions::default()
        };
        let source = ParquetSource::new(columns).with_table_parquet_options(options);
        let scan = FileScanConfigBuilder::new(ObjectStoreUrl::parse(&self.listing.store)?, Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(all)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(scan))
    }
}
