//! The built-in source of decisions: what each prediction saw and said, written by the model gateway. A view may read
//! it like any other source; a definition file may not redefine it.

use ondol_vocabulary::{Arrival, DataType, Field, MessageShape, SourceDefinition, SourceOrigin, StreamFormat};

/// The name of the built-in source of decisions.
pub const DECISIONS: &str = "decisions";

/// The stream of decisions, one JSON object per prediction.
pub fn decisions_source() -> SourceDefinition {
    let columns = [
        ("request_id", DataType::String),
        ("model", DataType::String),
        ("model_version", DataType::I64),
        ("definition_version", DataType::I64),
        // When it was scored: the event time.
        ("at", DataType::Timestamp),
        // The moment as of which features were read.
        ("as_of", DataType::Timestamp),
        ("latency_us", DataType::I64),
        ("features_us", DataType::I64),
        ("model_us", DataType::I64),
        // JSON objects: inputs by name; the vector by feature name; status, age in milliseconds and view version alike.
        ("inputs", DataType::String),
        ("vector", DataType::String),
        ("statuses", DataType::String),
        ("ages_ms", DataType::String),
        ("views", DataType::String),
        ("prediction", DataType::String),
    ];
    SourceDefinition {
        name: DECISIONS.to_owned(),
        origin: SourceOrigin::Stream {
            topic: "ondol.decisions".to_owned(),
            format: StreamFormat::Json,
            shape: MessageShape::default(),
        },
        time: "at".to_owned(),
        late_us: 0,
        arrival: Arrival::Ingest,
        schema: columns
            .map(|(name, data_type)| Field {
                name: name.to_owned(),
                data_type,
            })
            .to_vec(),
    }
}
