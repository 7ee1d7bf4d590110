//! Definitions as they stand after parsing and type-checking: what the registry stores and every service compiles
//! its plans from. The text a user writes is parsed by `ondol-transform`; these types are its result.

use crate::{DataType, DecisionPolicy, FeatureRef, MessageShape, ModelPolicy, StreamFormat, Tombstones, Value};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A named, typed column of a source or a model's input.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct Field {
    /// Column name.
    pub name: String,
    /// Column type.
    pub data_type: DataType,
}

/// Where events or rows come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SourceDefinition {
    /// Unique among sources.
    pub name: String,
    /// The stream or the table.
    pub origin: SourceOrigin,
    /// The column that holds event time.
    pub time: String,
    /// How late an event may reach its stream and still count, in microseconds: the record's timestamp minus its event
    /// time. 0: any event counts.
    pub late_us: i64,
    /// When an event counts as known to the platform.
    pub arrival: Arrival,
    /// Columns in declared order, the time column included.
    pub schema: Vec<Field>,
}

/// A stream of events or a table of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SourceOrigin {
    /// A topic, archived as an event log.
    Stream {
        /// The topic's name.
        topic: String,
        /// How each message is encoded.
        format: StreamFormat,
        /// Where in a message the columns are.
        #[serde(default, skip_serializing_if = "MessageShape::is_plain")]
        shape: MessageShape,
    },
    /// A table read where it stands.
    Table {
        /// Path or URL.
        location: String,
        /// How it is stored.
        format: TableFormat,
    },
}

/// How a table is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TableFormat {
    /// One Parquet file or a folder of them.
    Parquet,
    /// A Delta table.
    Delta,
}

/// When an event counts as known: the `ingested_at` that known-at joins compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Arrival {
    /// When ingest accepted it (the default of streams).
    Ingest,
    /// At its event time plus a delay: bulk-loaded or replayed history (the default of tables, delay 0).
    EventTime {
        /// Delay in microseconds.
        delay_us: i64,
    },
}

/// A feature view: features of one entity from one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ViewDefinition {
    /// Unique among views.
    pub name: String,
    /// The source's name.
    pub source: String,
    /// The join key columns, in declared order.
    pub key: Vec<Field>,
    /// A condition events must meet (SQL over the source's columns).
    pub filter: Option<String>,
    /// Age beyond which values are stale, in microseconds.
    pub ttl_us: Option<i64>,
    /// Features in declared order.
    pub features: Vec<FeatureDefinition>,
}

/// One feature of a view.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FeatureDefinition {
    /// Unique within the view.
    pub name: String,
    /// The expression as written.
    pub expression: String,
    /// What the expression means.
    pub kind: FeatureKind,
    /// The type of its values.
    pub data_type: DataType,
    /// What is served where it has no value; absent: null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<FeatureDefault>,
}

/// A value of a feature's type that stands where the feature has none. Numbers are finite; a moment is its RFC 3339
/// text, which is how it comes back from where definitions are stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct FeatureDefault(pub Value);

// Of finite numbers, equality is reflexive.
impl Eq for FeatureDefault {}

/// What a feature is computed from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FeatureKind {
    /// The expression's value in the row with the greatest (event time, source position).
    LatestRow {
        /// SQL over the source's columns.
        expression: String,
    },
    /// An aggregation over the entity's events.
    Aggregate {
        /// The function.
        function: Aggregation,
        /// SQL over the source's columns; absent for `count()`.
        argument: Option<String>,
        /// What else the function is given: `n` of `last_n`, `last_distinct` and `top_k`; quantiles in millionths.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        parameters: Vec<u32>,
        /// SQL condition over the source's columns.
        filter: Option<String>,
        /// The window; absent means all time.
        window: Option<Window>,
    },
}

/// An aggregation function. All of them skip null arguments.
///
/// The most frequent values are not among them: sketches of those keep the candidates that the order of events left
/// them, and a feature must not depend on that order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Number of events, or of non-null arguments. 0 over nothing.
    Count,
    /// Exact sum, rounded once.
    Sum,
    /// Exact sum divided by the count.
    Mean,
    /// Least value.
    Min,
    /// Greatest value.
    Max,
    /// Sample variance, from exact sums; null below two values.
    Variance,
    /// Population variance, from exact sums.
    VarPop,
    /// Square root of [`Self::Variance`].
    Stddev,
    /// Square root of [`Self::VarPop`].
    StddevPop,
    /// The value of the least (event time, source position).
    First,
    /// The value of the greatest (event time, source position).
    Last,
    /// The last `n` values, newest first.
    LastN,
    /// The last `n` distinct values, by the newest time of each, newest first.
    LastDistinct,
    /// Number of distinct values: exact while they are few, by sketch beyond.
    CountDistinct,
    /// One quantile, by sketch.
    Quantile,
    /// Several quantiles, by one sketch, as a list.
    Quantiles,
    /// The `k` greatest values, greatest first, each as often as it occurs.
    TopK,
    /// Whether any value is true.
    Any,
    /// Whether every value is true.
    All,
}

impl Aggregation {
    /// Every function, in the order shown to users.
    pub const ALL: [Self; 19] = [
        Self::Count,
        Self::Sum,
        Self::Mean,
        Self::Min,
        Self::Max,
        Self::Variance,
        Self::VarPop,
        Self::Stddev,
        Self::StddevPop,
        Self::First,
        Self::Last,
        Self::LastN,
        Self::LastDistinct,
        Self::CountDistinct,
        Self::Quantile,
        Self::Quantiles,
        Self::TopK,
        Self::Any,
        Self::All,
    ];

    /// Whether it counts: over nothing, and for an entity that nothing happened to, it is 0 rather than null.
    pub const fn counts(self) -> bool {
        matches!(self, Self::Count | Self::CountDistinct)
    }

    /// The name used in expressions.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Max => "max",
            Self::Variance => "variance",
            Self::VarPop => "var_pop",
            Self::Stddev => "stddev",
            Self::StddevPop => "stddev_pop",
            Self::First => "first",
            Self::Last => "last",
            Self::LastN => "last_n",
            Self::LastDistinct => "last_distinct",
            Self::CountDistinct => "count_distinct",
            Self::Quantile => "quantile",
            Self::Quantiles => "quantiles",
            Self::TopK => "top_k",
            Self::Any => "any",
            Self::All => "all",
        }
    }
}

/// A sawtooth window: at `t` it covers event times in `[floor(t - width, hop), t)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct Window {
    /// Width in microseconds.
    pub width_us: i64,
    /// Step of the window's tail in microseconds.
    pub hop_us: i64,
}

/// A model: a feature service and the interface of what scores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelDefinition {
    /// Unique among models.
    pub name: String,
    /// What a caller sends: entity keys and request-time values.
    pub inputs: Vec<Field>,
    /// The feature vector, in order, with wildcards expanded.
    pub features: Vec<ModelFeature>,
    /// Every derived feature the vector needs, in an order in which each only uses earlier ones. Their kind is
    /// [`FeatureKind::LatestRow`] over the request's row: inputs by name, features as `view.feature`, earlier derived
    /// ones as `derived.name`.
    pub derived: Vec<FeatureDefinition>,
    /// View features that derived expressions use, in order of first use.
    pub derived_needs: Vec<FeatureRef>,
    /// What to do about features that are not fresh.
    #[serde(default, skip_serializing_if = "ModelPolicy::is_default")]
    pub policy: ModelPolicy,
    /// What is kept of its decisions.
    #[serde(default, skip_serializing_if = "DecisionPolicy::is_default")]
    pub decisions: DecisionPolicy,
}

/// One entry of a model's feature vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelFeature {
    /// The name in training sets and responses: `card.n_1h`, `amount`, `derived.ratio`.
    pub name: String,
    /// The type of its values.
    pub data_type: DataType,
    /// Where its value comes from.
    pub origin: FeatureOrigin,
}

/// Where an entry of a feature vector comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FeatureOrigin {
    /// A feature of a view.
    View {
        /// Which one.
        feature: FeatureRef,
    },
    /// A value of the request.
    Input {
        /// The input's name.
        name: String,
    },
    /// An on-demand feature computed from inputs, view features and earlier derived ones.
    Derived {
        /// Its name, without the `derived.` prefix.
        name: String,
    },
}

impl SourceDefinition {
    /// The column called `name`.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.schema.iter().find(|field| field.name == name)
    }

    /// Names of the Boolean columns that say of each event what it is, beside the source's own: of
    /// [`crate::columns::DELETED`] and [`crate::columns::LATE`] those that its events can be.
    pub fn marks(&self) -> impl Iterator<Item = &'static str> {
        let deleted = self.origin.has_deletions().then_some(crate::columns::DELETED);
        let late = (self.late_us > 0 && self.is_stream()).then_some(crate::columns::LATE);
        deleted.into_iter().chain(late)
    }

    /// Whether events stream in, rather than being read from a table.
    pub const fn is_stream(&self) -> bool {
        matches!(self.origin, SourceOrigin::Stream { .. })
    }
}

impl SourceOrigin {
    /// Whether rows of the source can be deleted by later ones, so that only their latest state has a meaning.
    pub const fn has_deletions(&self) -> bool {
        match self {
            Self::Stream { shape, .. } => shape.changes.is_some() || matches!(shape.tombstones, Tombstones::Delete),
            Self::Table { .. } => false,
        }
    }
}

impl ViewDefinition {
    /// The feature called `name`.
    pub fn feature(&self, name: &str) -> Option<&FeatureDefinition> {
        self.features.iter().find(|feature| feature.name == name)
    }
}

impl ModelDefinition {
    /// Every view feature that the vector or a derived feature's expression needs, each once, by order of first use.
    pub fn view_features(&self) -> Vec<FeatureRef> {
        let mut needed: Vec<FeatureRef> = Vec::new();
        let used = self.features.iter().filter_map(|feature| match &feature.origin {
            FeatureOrigin::View { feature } => Some(feature),
            FeatureOrigin::Input { .. } | FeatureOrigin::Derived { .. } => None,
        });
        for feature in used.chain(&self.derived_needs) {
            if !needed.contains(feature) {
                needed.push(feature.clone());
            }
        }
        needed
    }
}
