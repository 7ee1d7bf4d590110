//! The definitions of a small model.

use ondol_vocabulary::{
    Aggregation, Arrival, DataType, DecisionPolicy, FeatureDefinition, FeatureKind, FeatureOrigin, FeatureRef, Field,
    ModelDefinition, ModelFeature, ModelPolicy, ModelVersion, Snapshot, SourceDefinition, SourceOrigin, SourceVersion,
    StreamFormat, ViewDefinition, ViewState, ViewVersion, Window,
};

pub fn field(name: &str, data_type: DataType) -> Field {
    Field {
        name: name.to_owned(),
        data_type,
    }
}

fn latest(name: &str, data_type: DataType) -> FeatureDefinition {
    let kind = FeatureKind::LatestRow {
        expression: name.to_owned(),
    };
    FeatureDefinition {
        name: name.to_owned(),
        expression: name.to_owned(),
        kind,
        data_type,
        default: None,
    }
}

pub fn aggregate(name: &str, function: Aggregation, argument: Option<&str>, data_type: DataType) -> FeatureDefinition {
    let kind = FeatureKind::Aggregate {
        function,
        argument: argument.map(ToOwned::to_owned),
        parameters: Vec::new(),
        filter: None,
        window: Some(Window {
            width_us: 3_600_000_000,
            hop_us: 300_000_000,
        }),
    };
    let expression = format!("{}({}) over 1h", function.name(), argument.unwrap_or_default());
    FeatureDefinition {
        name: name.to_owned(),
        expression,
        kind,
        data_type,
        default: None,
    }
}

fn source(name: &str, schema: Vec<Field>) -> SourceVersion {
    let definition = SourceDefinition {
        name: name.to_owned(),
        origin: SourceOrigin::Stream {
            topic: name.to_owned(),
            format: StreamFormat::Json,
            shape: ondol_vocabulary::MessageShape::default(),
        },
        time: "ts".to_owned(),
        late_us: 0,
        arrival: Arrival::Ingest,
        schema,
    };
    SourceVersion { version: 1, definition }
}

fn view(id: u32, name: &str, source: &str, key: &str, features: Vec<FeatureDefinition>) -> ViewVersion {
    let definition = ViewDefinition {
        name: name.to_owned(),
        source: source.to_owned(),
        key: vec![field(key, DataType::String)],
        filter: None,
        ttl_us: None,
        features,
    };
    ViewVersion {
        id,
        version: 1,
        state: ViewState::Active,
        definition,
    }
}

pub fn from_view(name: &str, data_type: DataType) -> ModelFeature {
    let feature: FeatureRef = name.parse().unwrap();
    ModelFeature {
        name: name.to_owned(),
        data_type,
        origin: FeatureOrigin::View { feature },
    }
}

pub fn from_input(name: &str, data_type: DataType) -> ModelFeature {
    ModelFeature {
        name: name.to_owned(),
        data_type,
        origin: FeatureOrigin::Input { name: name.to_owned() },
    }
}

pub fn from_derived(name: &str, data_type: DataType) -> ModelFeature {
    let origin = FeatureOrigin::Derived { name: name.to_owned() };
    ModelFeature {
        name: format!("derived.{name}"),
        data_type,
        origin,
    }
}

pub fn derived(name: &str, expression: &str, data_type: DataType) -> FeatureDefinition {
    let kind = FeatureKind::LatestRow {
        expression: expression.to_owned(),
    };
    FeatureDefinition {
        name: name.to_owned(),
        expression: expression.to_owned(),
        kind,
        data_type,
        default: None,
    }
}

/// `fraud`: card.n_1h, card.spend_24h, merchant.risk, amount, derived.ratio.
pub fn fraud() -> ModelDefinition {
    ModelDefinition {
        name: "fraud".to_owned(),
        inputs: vec![
            field("card_id", DataType::String),
            field("merchant_id", DataType::String),
            field("amount", DataType::F64),
        ],
        features: vec![
            from_view("card.n_1h", DataType::I64),
            from_view("card.spend_24h", DataType::F64),
            from_view("merchant.risk", DataType::F64),
            from_input("amount", DataType::F64),
            from_derived("ratio", DataType::F64),
        ],
        derived: vec![derived("ratio", "amount / nullif(card.spend_24h, 0)", DataType::F64)],
        derived_needs: vec![FeatureRef::new("card", "spend_24h")],
        policy: ModelPolicy::default(),
        decisions: DecisionPolicy::default(),
    }
}

/// The definitions in force: two views and `fraud`.
pub fn snapshot() -> Snapshot {
    Snapshot {
        version: 7,
        sources: vec![
            source(
                "transactions",
                vec![
                    field("card_id", DataType::String),
                    field("amount", DataType::F64),
                    field("ts", DataType::Timestamp),
                ],
            ),
            source(
                "merchants",
                vec![
                    field("merchant_id", DataType::String),
                    field("risk", DataType::F64),
                    field("country", DataType::String),
                    field("ts", DataType::Timestamp),
                ],
            ),
        ],
        views: vec![
            view(
                1,
                "card",
                "transactions",
                "card_id",
                vec![
                    aggregate("n_1h", Aggregation::Count, None, DataType::I64),
                    aggregate("spend_24h", Aggregation::Sum, Some("amount"), DataType::F64),
                ],
            ),
            view(
                2,
                "merchant",
                "merchants",
                "merchant_id",
                vec![latest("risk", DataType::F64), latest("country", DataType::String)],
            ),
        ],
        models: vec![ModelVersion {
            version: 3,
            definition: fraud(),
        }],
    }
}

/// The manifest of a training set of the model's vector.
pub fn manifest() -> serde_json::Value {
    serde_json::json!({
        "format": 1,
        "model": "fraud@3",
        "as_of": "known-at",
        "registry_version": 7,
        "views": ["card@1", "merchant@1"],
        "tables": { "transactions": "12" },
        "time_column": "ts",
        "spine_columns": ["card_id", "merchant_id", "amount", "ts", "label"],
        "features": [
            { "name": "card.n_1h", "data_type": "i64", "nulls": 0 },
            { "name": "card.spend_24h", "data_type": "f64", "nulls": 3 },
            { "name": "merchant.risk", "data_type": "f64", "nulls": 0 },
            { "name": "amount", "data_type": "f64", "nulls": 0 },
            { "name": "derived.ratio", "data_type": "f64", "nulls": 3 },
        ],
        "rows": 100,
        "built_at": "2026-11-20T00:00:00Z",
    })
}
