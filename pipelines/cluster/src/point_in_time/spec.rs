//! What a join is, as data: definitions, which events, and which columns of the spine it reads.

use crate::fault::EngineError;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use ondol_jobs::event_files::EventRange;
use ondol_jobs::point_in_time::JoinView;
use ondol_vocabulary::{SourceDefinition, ViewDefinition};
use serde::{Deserialize, Serialize};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// One view's join.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinSpec {
    /// The view, with the features that are wanted.
    pub view: ViewDefinition,
    /// What it reads.
    pub source: SourceDefinition,
    /// Which of their events can matter to the spine.
    pub range: EventRange,
    /// The spine's column of moments.
    pub time: String,
    /// Events that a partition may expect, about.
    pub events: u64,
    /// Bytes that a partition may hold of events: what is more goes to disk.
    pub memory_bytes: u64,
}

/// A specification, compiled; and its text, by which it is equal to others and travels.
#[derive(Clone, Debug)]
pub(crate) struct Join {
    pub spec: Arc<JoinSpec>,
    pub view: Arc<JoinView>,
    text: Arc<str>,
}

impl Join {
    /// Compiles `spec`.
    pub(crate) fn compile(spec: JoinSpec) -> Result<Self, EngineError> {
        let view =
            JoinView::compile(&spec.view, &spec.source).map_err(|cause| EngineError::Internal(cause.to_string()))?;
        let text = serde_json::to_string(&spec).map_err(|cause| EngineError::Internal(cause.to_string()))?;
        Ok(Self {
            spec: Arc::new(spec),
            view: Arc::new(view),
            text: text.into(),
        })
    }

    /// Of its bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, EngineError> {
        let spec = serde_json::from_slice(bytes)
            .map_err(|cause| EngineError::Internal(format!("a join of another version of Ondol: {cause}")))?;
        Self::compile(spec)
    }

    /// Its bytes.
    pub(crate) fn encode(&self) -> &[u8] {
        self.text.as_bytes()
    }

    /// The name of a feature's column.
    fn column(&self, feature: &str) -> String {
        format!("{}.{feature}", self.spec.view.name)
    }

    /// The join's columns: those of `spine`, then a nullable one for each feature, then what rows are worth to the view.
    pub(crate) fn schema(&self, spine: &Schema) -> SchemaRef {
        let features = self.view.features();
        let features = features.map(|feature| {
            let name = self.column(&feature.name);
            Arc::new(Field::new(name, feature.data_type.arrow(), true))
        });
        // No feature has an empty name.
        let worth = Arc::new(Field::new(self.column(""), DataType::UInt8, false));
        let fields = spine.fields().iter().cloned().chain(features).chain([worth]);
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// The names of the key's columns, in the spine as in the events.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.spec.view.key.iter().map(|field| field.name.as_str())
    }

    /// A line about it.
    pub(crate) fn describe(&self) -> String {
        let keys: Vec<&str> = self.keys().collect();
        format!(
            "view={}, key=[{}], features={}, as_of={:?}",
            self.spec.view.name,
            keys.join(", "),
            self.spec.view.features.len(),
            self.spec.range.as_of
        )
    }
}

impl PartialEq for Join {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Join {}

impl Hash for Join {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl PartialOrd for Join {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.text.partial_cmp(&other.text)
    }
}
