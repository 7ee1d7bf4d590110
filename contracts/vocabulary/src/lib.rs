//! The nouns that travel on two or more wires, in the order the data meets them: a definition says what a
//! feature is; an event has a time, a value and a position; an entity has a key; a served feature has a status.
//!
//! This crate holds types and their stored or sent forms, and no behaviour of any service.

pub mod batch;
pub mod columns;
pub mod definition;
pub mod files;
pub mod key;
pub mod message;
pub mod name;
pub mod policy;
pub mod position;
mod shown;
pub mod snapshot;
pub mod status;
pub mod time;
pub mod value;

pub use definition::{
    Aggregation, Arrival, FeatureDefault, FeatureDefinition, FeatureKind, FeatureOrigin, Field, ModelDefinition,
    ModelFeature, SourceDefinition, SourceOrigin, TableFormat, ViewDefinition, Window,
};
pub use files::{DefinitionFile, DefinitionFiles, Diagnostic};
pub use key::EntityKey;
pub use message::{
    ChangeFormat, ColumnOrigin, ColumnReading, Framing, MessageShape, StreamFormat, TimestampUnit, Tombstones,
};
pub use name::{FeatureRef, VersionedName};
pub use policy::{Audit, DecisionPolicy, ModelPolicy, Remedy};
pub use position::{PartitionRange, SourcePosition};
pub use snapshot::{ModelVersion, Snapshot, SourceVersion, ViewState, ViewVersion};
pub use status::FeatureStatus;
pub use time::EventTime;
pub use value::{DataType, Element, Value};
