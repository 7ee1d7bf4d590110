//! Profiles merged and told.

use super::DAY_US;
use super::kept::Computed;
use super::reading::DayProfile;
use crate::error::JobError;
use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use ondol_pipelines_api::PipelinesError;
use ondol_pipelines_api::wire::{
    ColumnStatistics, FrequentValue, HistogramBin, QuantileValue, SourceStatistics, StatisticsQuery,
};
use ondol_transform::profile::ColumnProfile;
use ondol_vocabulary::{DataType, EventTime, Field, Value};

/// The quantiles that are told, in millionths.
const QUANTILES: [u32; 7] = [10_000, 50_000, 250_000, 500_000, 750_000, 950_000, 990_000];
/// Frequent texts that are told.
const FREQUENT: usize = 20;
/// Bins of a histogram.
const BINS: usize = 20;

/// What the columns of some rows come to: for rows that are at hand, such as those of a training set.
pub(crate) struct Summary {
    all: DayProfile,
}

impl Summary {
    /// Of rows of this schema. A column of a type that no feature has is left out.
    pub(crate) fn of(schema: &Schema) -> Self {
        let columns = schema.fields().iter().filter_map(|field| {
            Some(Field {
                name: field.name().clone(),
                data_type: DataType::from_arrow(field.data_type())
                    .filter(|known| known.arrow() == *field.data_type())?,
            })
        });
        Self {
            all: DayProfile::new(&columns.collect::<Vec<_>>()),
        }
    }

    /// Takes in rows.
    pub(crate) fn add(&mut self, rows: &RecordBatch) -> Result<(), JobError> {
        self.all.add(rows, None)
    }

    /// What they come to, by column.
    pub(crate) fn columns(&self) -> Vec<ColumnStatistics> {
        self.all
            .columns
            .iter()
            .map(|(field, profile)| told(field, profile))
            .collect()
    }
}

/// The days that `query` asks for: `[from, to)`, in days since 1970.
pub(crate) fn days(query: &StatisticsQuery) -> Result<(i64, i64), PipelinesError> {
    let day = |name: &str, date: &Option<String>, otherwise: i64| match date {
        None => Ok(otherwise),
        Some(date) => match chrono::NaiveDate::parse_from_str(date, "%Y-%m-%d") {
            Ok(date) => Ok(date.signed_duration_since(chrono::NaiveDate::default()).num_days()),
            Err(_) => Err(PipelinesError::InvalidRequest {
                detail: format!("`{name}` is `{date}`, which is no date: write it as 2026-11-21"),
            }),
        },
    };
    let (from, to) = (day("from", &query.from, i64::MIN)?, day("to", &query.to, i64::MAX)?);
    if from >= to {
        return Err(PipelinesError::InvalidRequest {
            detail: "`from` is not before `to`: `to` is the first date that no longer counts".to_owned(),
        });
    }
    Ok((from, to))
}

/// The statistics of `source` over `days`, in the order and types of its present `columns`.
pub(crate) fn statistics(
    source: &str,
    columns: &[Field],
    computed: Computed,
    days: &[(i64, DayProfile)],
) -> SourceStatistics {
    let merged = columns.iter().map(|field| {
        let mut all = ColumnProfile::new(field.data_type);
        let parts = days.iter().flat_map(|(_, day)| &day.columns);
        for (_, part) in parts.filter(|(known, _)| known == field) {
            all.merge(part);
        }
        told(field, &all)
    });
    let date = |day: Option<&(i64, DayProfile)>| {
        let date = EventTime::from_micros(day?.0.saturating_mul(DAY_US)).to_string();
        Some(date.split('T').next().unwrap_or(&date).to_owned())
    };
    SourceStatistics {
        source: source.to_owned(),
        table: computed.table,
        computed_at: computed.at,
        first_date: date(days.first()),
        last_date: date(days.last()),
        dates: days.len() as u64,
        rows: days.iter().map(|(_, day)| day.rows).sum(),
        columns: merged.collect(),
    }
}

fn told(field: &Field, profile: &ColumnProfile) -> ColumnStatistics {
    let (distinct, distinct_is_exact) = profile.distinct();
    let quantiles = QUANTILES.iter().filter_map(|quantile| {
        Some(QuantileValue {
            quantile: f64::from(*quantile) / 1_000_000.0,
            value: Value::F64(profile.quantile(*quantile)?),
        })
    });
    let frequent = profile.frequent(FREQUENT).map(|texts| {
        let told = texts.into_iter().map(|text| FrequentValue {
            text: text.text,
            at_least: text.at_least,
            at_most: text.at_most,
        });
        told.collect()
    });
    let histogram = profile.histogram(BINS).into_iter().map(|bin| HistogramBin {
        from: Value::F64(bin.from),
        to: Value::F64(bin.to),
        count: bin.count,
    });
    ColumnStatistics {
        name: field.name.clone(),
        data_type: field.data_type,
        count: profile.count(),
        nulls: profile.nulls(),
        nans: profile.nans(),
        trues: profile.trues(),
        min: profile.min(),
        max: profile.max(),
        mean: profile.mean().map(Value::F64),
        stddev: profile.stddev().map(Value::F64),
        quantiles: quantiles.collect(),
        distinct,
        distinct_is_exact,
        frequent,
        histogram: histogram.collect(),
    }
}
