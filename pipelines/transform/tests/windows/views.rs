//! Views at random, in a form that both the engine (as a definition) and the oracle (as plain code) understand.

use crate::events::{Event, MINUTE};
use crate::oracle::Value;
use ondol_vocabulary::{Aggregation, DataType, FeatureDefinition, FeatureKind, Field, ViewDefinition, Window};
use proptest::prelude::*;

/// An expression over an event's columns: its SQL, its type, and what it means.
pub(crate) type Argument = (&'static str, DataType, fn(&Event) -> Value);
/// A condition on an event: its SQL and what it means.
pub(crate) type Condition = (&'static str, fn(&Event) -> bool);

pub(crate) const ARGUMENTS: [Argument; 8] = [
    ("amount", DataType::F64, |event| Value::f64(event.amount)),
    ("ratio", DataType::F32, |event| Value::f32(event.ratio)),
    ("n", DataType::I64, |event| Value::integer(event.n)),
    ("small", DataType::I32, |event| {
        Value::integer(event.small.map(i64::from))
    }),
    ("text", DataType::String, |event| {
        event.text.clone().map_or(Value::Null, Value::Text)
    }),
    ("flag", DataType::Bool, |event| {
        event.flag.map_or(Value::Null, Value::Bool)
    }),
    ("moment", DataType::Timestamp, |event| Value::integer(event.moment)),
    ("coalesce(n, 7)", DataType::I64, |event| {
        Value::integer(event.n.or(Some(7)))
    }),
];

pub(crate) const CONDITIONS: [Condition; 3] = [
    ("flag", |event| event.flag == Some(true)),
    ("n > 0", |event| event.n.is_some_and(|n| n > 0)),
    ("text = 'a'", |event| event.text.as_deref() == Some("a")),
];

#[derive(Clone, Debug)]
pub(crate) enum Feature {
    Latest(usize),
    Aggregate {
        function: Aggregation,
        argument: Option<usize>,
        filter: Option<usize>,
        window: Option<Window>,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct View {
    pub features: Vec<Feature>,
    pub filter: Option<usize>,
    pub ttl_us: Option<i64>,
}

impl Feature {
    pub(crate) fn data_type(&self) -> DataType {
        match self {
            Self::Latest(argument) => ARGUMENTS[*argument].1,
            Self::Aggregate { function, argument, .. } => {
                let argument = argument.map(|argument| ARGUMENTS[argument].1);
                match (function, argument) {
                    (Aggregation::Count, _) => DataType::I64,
                    (Aggregation::Mean, _) | (Aggregation::Sum, Some(DataType::F32 | DataType::F64)) => DataType::F64,
                    (Aggregation::Sum, _) => DataType::I64,
                    (_, argument) => argument.unwrap(),
                }
            }
        }
    }

    fn definition(&self, at: usize) -> FeatureDefinition {
        let kind = match self {
            Self::Latest(argument) => FeatureKind::LatestRow {
                expression: ARGUMENTS[*argument].0.to_owned(),
            },
            Self::Aggregate {
                function,
                argument,
                filter,
                window,
            } => FeatureKind::Aggregate {
                function: *function,
                argument: argument.map(|argument| ARGUMENTS[argument].0.to_owned()),
                parameters: Vec::new(),
                filter: filter.map(|filter| CONDITIONS[filter].0.to_owned()),
                window: *window,
            },
        };
        let data_type = self.data_type();
        FeatureDefinition {
            name: format!("f{at}"),
            expression: format!("{self:?}"),
            kind,
            data_type,
        }
    }
}

impl View {
    pub(crate) fn of(features: Vec<Feature>) -> Self {
        Self {
            features,
            filter: None,
            ttl_us: None,
        }
    }

    pub(crate) fn definition(&self) -> ViewDefinition {
        ViewDefinition {
            name: "view".to_owned(),
            source: "events".to_owned(),
            key: vec![Field {
                name: "key".to_owned(),
                data_type: DataType::String,
            }],
            filter: self.filter.map(|filter| CONDITIONS[filter].0.to_owned()),
            ttl_us: self.ttl_us,
            features: self
                .features
                .iter()
                .enumerate()
                .map(|(at, feature)| feature.definition(at))
                .collect(),
        }
    }
}

pub(crate) fn aggregate(function: Aggregation, argument: Option<&str>, window: Option<Window>) -> Feature {
    let argument = argument.map(|name| ARGUMENTS.iter().position(|(known, ..)| *known == name).unwrap());
    Feature::Aggregate {
        function,
        argument,
        filter: None,
        window,
    }
}

pub(crate) fn any_view() -> impl Strategy<Value = View> {
    let filter = prop::option::weighted(0.2, 0..CONDITIONS.len());
    let ttl = prop::option::weighted(0.3, prop_oneof![0..200 * MINUTE, Just(0), Just(i64::MAX)]);
    (prop::collection::vec(any_feature(), 1..7), filter, ttl).prop_map(|(features, filter, ttl_us)| View {
        features,
        filter,
        ttl_us,
    })
}

fn any_feature() -> impl Strategy<Value = Feature> {
    let argument = prop::option::weighted(0.9, 0..ARGUMENTS.len());
    let filter = prop::option::weighted(0.3, 0..CONDITIONS.len());
    let function = prop::sample::select(Aggregation::ALL.to_vec());
    let aggregate = (function, argument, filter, prop::option::weighted(0.85, any_window())).prop_map(
        |(function, argument, filter, window)| {
            let argument = match function {
                Aggregation::Count => argument,
                // The numbers come first.
                Aggregation::Sum | Aggregation::Mean => Some(argument.unwrap_or(0) % 4),
                _ => Some(argument.unwrap_or(4)),
            };
            Feature::Aggregate {
                function,
                argument,
                filter,
                window,
            }
        },
    );
    prop_oneof![1 => (0..ARGUMENTS.len()).prop_map(Feature::Latest), 5 => aggregate]
}

/// Few hops, so that windows share tiles; widths that are no multiple of them, narrower than them, and huge.
fn any_window() -> impl Strategy<Value = Window> {
    let hop = prop::sample::select(vec![5 * MINUTE, 15 * MINUTE, 60 * MINUTE, 7_777_777, 1]);
    let width = prop_oneof![
        4 => prop::sample::select(vec![15 * MINUTE, 60 * MINUTE, 100 * MINUTE, 1440 * MINUTE]),
        2 => 1..200 * MINUTE,
        1 => prop::sample::select(vec![1, i64::MAX]),
    ];
    (width, hop).prop_map(|(width_us, hop_us)| Window { width_us, hop_us })
}
