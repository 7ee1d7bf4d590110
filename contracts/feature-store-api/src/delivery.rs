//! [`Delivery`] on the wire: its events as one Arrow record batch, its header as JSON in the schema's metadata.

use crate::wire::{Delivery, DeliveryHeader};
use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use std::sync::Arc;

impl Delivery {
    /// The events, with the header in their schema's metadata.
    ///
    /// # Errors
    /// When the header can't be written as JSON.
    pub fn to_arrow(&self) -> Result<RecordBatch, ArrowError> {
        let header = serde_json::to_string(&self.header).map_err(|error| ArrowError::ExternalError(Box::new(error)))?;
        let mut schema = self.events.schema().as_ref().clone();
        schema.metadata.insert(DeliveryHeader::METADATA_KEY.to_owned(), header);
        self.events.clone().with_schema(Arc::new(schema))
    }

    /// From what [`Self::to_arrow`] made, possibly elsewhere.
    ///
    /// # Errors
    /// When the header is absent or malformed.
    pub fn from_arrow(events: RecordBatch) -> Result<Self, ArrowError> {
        let mut schema = events.schema().as_ref().clone();
        let malformed = |why: String| {
            ArrowError::SchemaError(format!(
                "the schema's metadata `{}` {why}",
                DeliveryHeader::METADATA_KEY
            ))
        };
        let header = schema.metadata.remove(DeliveryHeader::METADATA_KEY);
        let header = header.ok_or_else(|| malformed("is absent".to_owned()))?;
        let header = serde_json::from_str(&header).map_err(|error| malformed(format!("is not a header: {error}")))?;
        // `with_schema` refuses to lose metadata, hence by parts.
        let (_, columns, rows) = events.into_parts();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
        let events = RecordBatch::try_new_with_options(Arc::new(schema), columns, &options)?;
        Ok(Self { header, events })
    }
}
