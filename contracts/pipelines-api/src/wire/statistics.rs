//! Statistics: what the columns of a source, or of a training set, come to.

use ondol_vocabulary::{DataType, EventTime, Value};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Statistics to bring up to date.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatisticsRequest {
    /// The source's name.
    pub source: String,
    /// Whether every date is read again, rather than those that have changed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
}

impl StatisticsRequest {
    /// What has changed in `source`.
    pub fn of(source: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            full: false,
        }
    }
}

/// What a statistics job came to: the `outcome` of its job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatisticsOutcome {
    /// What was read: the Delta version, or a fingerprint of the files.
    pub table: String,
    /// Event dates that were read.
    pub dates: u64,
    /// Rows that were read.
    pub rows: u64,
}

/// Of which event dates statistics are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StatisticsQuery {
    /// The first event date (UTC), as `2026-11-21`. Absent: the source's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The first event date (UTC) that no longer counts. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// Statistics of a source over a range of event dates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SourceStatistics {
    /// The source.
    pub source: String,
    /// What was read: the Delta version, or a fingerprint of the files.
    pub table: String,
    /// When they were last brought up to date.
    pub computed_at: EventTime,
    /// The first event date with rows, of those asked for.
    pub first_date: Option<String>,
    /// The last one.
    pub last_date: Option<String>,
    /// Event dates with rows.
    pub dates: u64,
    /// Rows on these dates. Rows without an event time are on none.
    pub rows: u64,
    /// The columns, in the source's order.
    pub columns: Vec<ColumnStatistics>,
}

/// What the values of one column come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ColumnStatistics {
    /// The column's name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// Values that are not null.
    pub count: u64,
    /// Nulls.
    pub nulls: u64,
    /// Values that are NaN.
    #[serde(default)]
    pub nans: u64,
    /// Of a bool, values that are true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trues: Option<u64>,
    /// The least value that is not NaN.
    pub min: Option<Value>,
    /// The greatest value that is not NaN.
    pub max: Option<Value>,
    /// The mean of numbers, from their exact sum.
    pub mean: Option<Value>,
    /// The standard deviation of numbers, as of a sample, from exact sums.
    pub stddev: Option<Value>,
    /// Quantiles of numbers, each within 1 %.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quantiles: Vec<QuantileValue>,
    /// Distinct values.
    pub distinct: u64,
    /// Whether that is exact (up to 128), or within some 5 %.
    pub distinct_is_exact: bool,
    /// The most frequent texts, most frequent first; absent for other types, and where there are too many texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frequent: Option<Vec<FrequentValue>>,
    /// How finite numbers spread between the least and the greatest, in bins of equal width.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub histogram: Vec<HistogramBin>,
}

/// A quantile and its value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QuantileValue {
    /// Which: between 0 and 1.
    pub quantile: f64,
    /// Its value.
    pub value: Value,
}

/// A text and how often it occurs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FrequentValue {
    /// The text; of a long one, its beginning.
    pub text: String,
    /// It occurs at least so often.
    pub at_least: u64,
    /// And at most so often: more than that only where it was not among the most frequent on some date.
    pub at_most: u64,
}

/// So many numbers lie between two bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HistogramBin {
    /// The lower bound.
    pub from: Value,
    /// The upper bound.
    pub to: Value,
    /// How many. A number within 1 % of a bound may count on its other side.
    pub count: u64,
}
