//! Views at random, in a form that both the engine (as a definition) and the oracle (as plain code) understand.

use crate::events::{DAY, Event, HOUR, MINUTE, SECOND};
use crate::oracle::Value;
use ondol_vocabulary::{
    Aggregation, DataType, Element, FeatureDefault, FeatureDefinition, FeatureKind, Field, Value as Written,
    ViewDefinition, Window,
};
use proptest::prelude::*;

/// An expression over an event's columns: its SQL, its type, and what it means.
pub(crate) type Argument = (&'static str, DataType, fn(&Event) -> Value);
/// A condition on an event: its SQL and what it means.
pub(crate) type Condition = (&'static str, fn(&Event) -> bool);

pub(crate) const ARGUMENTS: [Argument; 9] = [
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
    ("n > 0", DataType::Bool, |event| {
        event.n.map_or(Value::Null, |n| Value::Bool(n > 0))
    }),
];
const NUMBERS: [usize; 5] = [0, 1, 2, 3, 7];
const TRUTHS: [usize; 2] = [5, 8];

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
        parameters: Vec<u32>,
        filter: Option<usize>,
        window: Option<Window>,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct View {
    pub features: Vec<Feature>,
    pub filter: Option<usize>,
    pub ttl_us: Option<i64>,
    /// Whether every feature declares the [`default`] of its type.
    pub with_defaults: bool,
}

impl Feature {
    pub(crate) fn data_type(&self) -> DataType {
        match self {
            Self::Latest(argument) => ARGUMENTS[*argument].1,
            Self::Aggregate { function, argument, .. } => {
                let argument = argument.map(|argument| ARGUMENTS[argument].1);
                match function {
                    Aggregation::Count | Aggregation::CountDistinct => DataType::I64,
                    Aggregation::Sum if matches!(argument, Some(DataType::I32 | DataType::I64)) => DataType::I64,
                    Aggregation::Sum
                    | Aggregation::Mean
                    | Aggregation::Variance
                    | Aggregation::VarPop
                    | Aggregation::Stddev
                    | Aggregation::StddevPop
                    | Aggregation::Quantile => DataType::F64,
                    Aggregation::Quantiles => DataType::List(Element::F64),
                    Aggregation::LastN | Aggregation::LastDistinct | Aggregation::TopK => {
                        DataType::List(argument.unwrap().element().unwrap())
                    }
                    Aggregation::Any | Aggregation::All => DataType::Bool,
                    Aggregation::Min | Aggregation::Max | Aggregation::First | Aggregation::Last => argument.unwrap(),
                }
            }
        }
    }

    fn definition(&self, at: usize, with_default: bool) -> FeatureDefinition {
        let kind = match self {
            Self::Latest(argument) => FeatureKind::LatestRow {
                expression: ARGUMENTS[*argument].0.to_owned(),
            },
            Self::Aggregate {
                function,
                argument,
                parameters,
                filter,
                window,
            } => FeatureKind::Aggregate {
                function: *function,
                argument: argument.map(|argument| ARGUMENTS[argument].0.to_owned()),
                parameters: parameters.clone(),
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
            default: with_default.then(|| FeatureDefault(default(data_type).0)),
        }
    }
}

impl View {
    pub(crate) fn of(features: Vec<Feature>) -> Self {
        Self {
            features,
            filter: None,
            ttl_us: None,
            with_defaults: false,
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
                .map(|(at, feature)| feature.definition(at, self.with_defaults))
                .collect(),
        }
    }
}

pub(crate) fn aggregate(function: Aggregation, argument: Option<&str>, window: Option<Window>) -> Feature {
    with_parameters(function, argument, &[], window)
}

pub(crate) fn with_parameters(
    function: Aggregation,
    argument: Option<&str>,
    parameters: &[u32],
    window: Option<Window>,
) -> Feature {
    let argument = argument.map(|name| ARGUMENTS.iter().position(|(known, ..)| *known == name).unwrap());
    Feature::Aggregate {
        function,
        argument,
        parameters: parameters.to_vec(),
        filter: None,
        window,
    }
}

/// A default of a type, as it is declared and as it is served.
pub(crate) fn default(data_type: DataType) -> (Written, Value) {
    let text = |text: &str| text.to_owned();
    match data_type {
        DataType::String => (Written::String(text("none")), Value::Text(text("none"))),
        DataType::Bool => (Written::Bool(true), Value::Bool(true)),
        DataType::I32 | DataType::I64 => (Written::I64(-7), Value::Integer(-7)),
        // No single is a tenth: the nearest one is served.
        DataType::F32 => (Written::F64(0.1), Value::f32(Some(0.1))),
        DataType::F64 => (Written::F64(-0.0), Value::f64(Some(-0.0))),
        DataType::Timestamp => (Written::String(text("1970-01-01T00:00:01Z")), Value::Integer(SECOND)),
        DataType::List(Element::F64) => (Written::List(vec![]), Value::List(vec![])),
        DataType::List(element) => {
            let (written, served) = default(element.data_type());
            (
                Written::List(vec![written.clone(), written]),
                Value::List(vec![served.clone(), served]),
            )
        }
    }
}

/// Over histories that count in `unit`s.
pub(crate) fn any_view(unit: i64) -> impl Strategy<Value = View> {
    let filter = prop::option::weighted(0.2, 0..CONDITIONS.len());
    let ttl = prop::option::weighted(0.3, prop_oneof![0..200 * unit, Just(0), Just(i64::MAX)]);
    let features = prop::collection::vec(any_feature(unit), 1..7);
    let views = (features, filter, ttl, prop::bool::weighted(0.3));
    views.prop_map(|(features, filter, ttl_us, with_defaults)| View {
        features,
        filter,
        ttl_us,
        with_defaults,
    })
}

fn any_feature(unit: i64) -> impl Strategy<Value = Feature> {
    let argument = prop::option::weighted(0.9, 0..ARGUMENTS.len());
    let filter = prop::option::weighted(0.3, 0..CONDITIONS.len());
    let function = prop::sample::select(Aggregation::ALL.to_vec());
    let window = prop::option::weighted(0.85, any_window(unit));
    let parameters = (1u32..6, prop::collection::vec(any_quantile(), 1..4));
    let aggregate = (function, argument, parameters, filter, window).prop_map(
        |(function, argument, parameters, filter, window)| {
            let (argument, parameters) = fitting(function, argument, parameters);
            Feature::Aggregate {
                function,
                argument,
                parameters,
                filter,
                window,
            }
        },
    );
    prop_oneof![1 => (0..ARGUMENTS.len()).prop_map(Feature::Latest), 8 => aggregate]
}

/// What `function` takes of what was drawn.
fn fitting(
    function: Aggregation,
    argument: Option<usize>,
    (n, mut quantiles): (u32, Vec<u32>),
) -> (Option<usize>, Vec<u32>) {
    let drawn = argument.unwrap_or(4);
    let number = NUMBERS[drawn % NUMBERS.len()];
    match function {
        Aggregation::Count => (argument, vec![]),
        Aggregation::Sum
        | Aggregation::Mean
        | Aggregation::Variance
        | Aggregation::VarPop
        | Aggregation::Stddev
        | Aggregation::StddevPop => (Some(number), vec![]),
        Aggregation::Quantile => (Some(number), quantiles[..1].to_vec()),
        Aggregation::Quantiles => {
            quantiles.sort_unstable();
            quantiles.dedup();
            (Some(number), quantiles)
        }
        Aggregation::LastN | Aggregation::LastDistinct | Aggregation::TopK => (Some(drawn), vec![n]),
        Aggregation::Any | Aggregation::All => (Some(TRUTHS[drawn % TRUTHS.len()]), vec![]),
        _ => (Some(drawn), vec![]),
    }
}

/// In millionths.
pub(crate) fn any_quantile() -> impl Strategy<Value = u32> {
    prop_oneof![
        prop::sample::select(vec![0, 10_000, 250_000, 500_000, 900_000, 999_000, 1_000_000]),
        0..=1_000_000u32,
    ]
}

/// Few hops, so that windows share tiles; widths that are no multiple of them, narrower than them, and huge. Some are
/// what people write, with the hop that is chosen for them.
fn any_window(unit: i64) -> impl Strategy<Value = Window> {
    let hop = prop::sample::select(vec![5 * unit, 15 * unit, 60 * unit, 7_777_777, 1]);
    let width = prop_oneof![
        4 => prop::sample::select(vec![15 * unit, 60 * unit, 100 * unit, 1440 * unit]),
        2 => 1..200 * unit,
        1 => prop::sample::select(vec![1, i64::MAX]),
    ];
    let chosen = (width, hop).prop_map(|(width_us, hop_us)| Window { width_us, hop_us });
    let automatic = prop::sample::select(WIDTHS.map(|(_, width)| width).to_vec()).prop_map(automatic);
    prop_oneof![2 => chosen, 1 => automatic]
}

/// Windows as they are written in definition files.
pub(crate) const WIDTHS: [(&str, i64); 12] = [
    ("1s", SECOND),
    ("10s", 10 * SECOND),
    ("1m", MINUTE),
    ("10m", 10 * MINUTE),
    ("1h", HOUR),
    ("3h", 3 * HOUR),
    ("24h", DAY),
    ("7d", 7 * DAY),
    ("12d", 12 * DAY),
    ("30d", 30 * DAY),
    ("90d", 90 * DAY),
    ("365d", 365 * DAY),
];

/// The window of a width whose hop is left to the platform, by the table in `docs/definitions.md`.
pub(crate) fn automatic(width_us: i64) -> Window {
    let hop_us = match width_us {
        width if width >= 12 * DAY => DAY,
        width if width >= 12 * HOUR => HOUR,
        width if width >= HOUR => 5 * MINUTE,
        width => (width / 12).max(SECOND).min(width),
    };
    Window { width_us, hop_us }
}
