//! The built-in sources: decisions, what each prediction saw and said, and outcomes, what became of it. The model gateway
//! writes them. A view may read them like any other source; a definition file may not redefine them.

use ondol_vocabulary::{
    Arrival, ColumnOrigin, ColumnReading, DataType, Field, MessageShape, SourceDefinition, SourceOrigin, StreamFormat,
};

/// The name of the built-in source of decisions.
pub const DECISIONS: &str = "decisions";

/// Columns of decisions that are the JSON texts of what stands in the event, which has them as JSON: objects by name, and
/// the prediction, whatever it is. Events of before had texts that hold JSON, which such columns take as well.
const STRUCTURED: [&str; 8] = [
    "inputs",
    "vector",
    "statuses",
    "ages_ms",
    "views",
    "prediction",
    "event_times",
    "degraded",
];

/// The name of the built-in source of outcomes.
pub const OUTCOMES: &str = "outcomes";

/// Whether `source` is built in.
pub fn is_built_in(source: &str) -> bool {
    matches!(source, DECISIONS | OUTCOMES)
}

/// The built-in sources.
pub fn built_in_sources() -> [SourceDefinition; 2] {
    [decisions_source(), outcomes_source()]
}

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
        // JSON: inputs by name; the vector by feature name; status, age in milliseconds and view version alike.
        ("inputs", DataType::String),
        ("vector", DataType::String),
        ("statuses", DataType::String),
        ("ages_ms", DataType::String),
        ("views", DataType::String),
        ("prediction", DataType::String),
        // SHA-256 of the artifact that scored.
        ("model_digest", DataType::String),
        // By which way of the model's routing it was found.
        ("route", DataType::String),
        // JSON: the time of the newest event behind each feature; what the answer was made in spite of, null otherwise.
        ("event_times", DataType::String),
        ("degraded", DataType::String),
    ];
    stream(DECISIONS, "ondol.decisions", &columns, &STRUCTURED)
}

/// The stream of outcomes, joined with decisions by request id. Of several for one request, the latest counts.
pub fn outcomes_source() -> SourceDefinition {
    let columns = [
        ("request_id", DataType::String),
        ("model", DataType::String),
        // When it happened: the event time.
        ("at", DataType::Timestamp),
        // JSON.
        ("outcome", DataType::String),
        // The same as a number, where it is one; true is 1.
        ("value", DataType::F64),
    ];
    stream(OUTCOMES, "ondol.outcomes", &columns, &[])
}

fn stream(name: &str, topic: &str, columns: &[(&str, DataType)], structured: &[&str]) -> SourceDefinition {
    let json = |column: &&str| {
        let origin = ColumnOrigin::Field(vec![(*column).to_owned()]);
        ((*column).to_owned(), ColumnReading::json(origin))
    };
    SourceDefinition {
        name: name.to_owned(),
        origin: SourceOrigin::Stream {
            topic: topic.to_owned(),
            format: StreamFormat::Json,
            shape: MessageShape {
                columns: structured.iter().map(json).collect(),
                ..MessageShape::default()
            },
        },
        time: "at".to_owned(),
        late_us: 0,
        arrival: Arrival::Ingest,
        schema: columns
            .iter()
            .map(|(name, data_type)| Field {
                name: (*name).to_owned(),
                data_type: *data_type,
            })
            .collect(),
    }
}
