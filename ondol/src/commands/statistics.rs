//! `statistics`: what the columns of a source come to.

use super::jobs;
use crate::cli::{Output, StatisticsArgs};
use crate::print;
use anyhow::Result;
use ondol_pipelines_api::wire::{
    ColumnStatistics, HistogramBin, JobRequest, SourceStatistics, StatisticsQuery, StatisticsRequest,
};
use ondol_vocabulary::Value;

/// Frequent texts shown of a column.
const FREQUENT: usize = 3;
/// Heights of a bar, from none to full.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// `ondol statistics`.
pub(crate) async fn run(args: &StatisticsArgs, output: Output) -> Result<()> {
    let pipelines = args.connect.pipelines()?;
    if !args.kept {
        let request = StatisticsRequest {
            source: args.source.clone(),
            full: args.full,
        };
        let job = pipelines.submit(JobRequest::Statistics(request), None).await?;
        jobs::wait(pipelines.as_ref(), job).await?;
    }
    let query = StatisticsQuery {
        from: args.from.clone(),
        to: args.to.clone(),
    };
    let statistics = pipelines.statistics(&args.source, query).await?;
    print::result(output, &statistics, shown)
}

fn shown(statistics: &SourceStatistics) -> String {
    let dates = match (&statistics.first_date, &statistics.last_date) {
        (Some(first), Some(last)) => format!("{} dates from {first} to {last}", statistics.dates),
        _ => "no dates".to_owned(),
    };
    let head = format!("{}: {} rows on {dates}", statistics.source, statistics.rows);
    let header = [
        "column", "type", "nulls", "distinct", "min", "p50", "p99", "max", "mean", "stddev", "spread",
    ];
    let rows = statistics.columns.iter().map(row);
    format!("{head}\n{}", print::table(header, rows))
}

fn row(column: &ColumnStatistics) -> [String; 11] {
    let all = column.count + column.nulls;
    let nulls = match (column.nulls, all) {
        (0, _) => "0".to_owned(),
        (nulls, all) => format!("{:.1}%", 100.0 * nulls as f64 / all as f64),
    };
    let mark = if column.distinct_is_exact { "" } else { "~" };
    let quantile = |wanted: f64| {
        let found = column.quantiles.iter().find(|found| found.quantile == wanted);
        short(found.map(|found| &found.value))
    };
    [
        column.name.clone(),
        column.data_type.name().to_owned(),
        nulls,
        format!("{mark}{}", column.distinct),
        short(column.min.as_ref()),
        quantile(0.5),
        quantile(0.99),
        short(column.max.as_ref()),
        short(column.mean.as_ref()),
        short(column.stddev.as_ref()),
        spread(column),
    ]
}

/// A sparkline of numbers, the most frequent of texts, the share of trues.
fn spread(column: &ColumnStatistics) -> String {
    if let Some(trues) = column.trues {
        return match column.count {
            0 => String::new(),
            count => format!("{:.1}% true", 100.0 * trues as f64 / count as f64),
        };
    }
    if let Some(frequent) = &column.frequent {
        let texts = frequent.iter().take(FREQUENT).map(|value| {
            let about = if value.at_least == value.at_most { "" } else { "≥" };
            format!("{} {about}{}", cut(&value.text), value.at_least)
        });
        return texts.collect::<Vec<_>>().join(", ");
    }
    sparkline(&column.histogram)
}

fn sparkline(bins: &[HistogramBin]) -> String {
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(0);
    let bar = |bin: &HistogramBin| {
        let height = (bin.count * (BARS.len() as u64 - 1)).div_ceil(most.max(1));
        BARS.get(usize::try_from(height).unwrap_or(0)).copied().unwrap_or(' ')
    };
    bins.iter().map(bar).collect()
}

/// A value in a few characters.
fn short(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::F64(number)) if *number != 0.0 && !(1e-3..1e7).contains(&number.abs()) => format!("{number:.3e}"),
        Some(Value::F64(number)) => {
            let digits = format!("{number:.3}");
            digits.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        Some(value) => cut(&value.to_string()),
    }
}

fn cut(text: &str) -> String {
    const LONGEST: usize = 24;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    let begin: String = text.chars().take(LONGEST - 1).collect();
    format!("{begin}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_a_line_of_bars() {
        let bin = |count| HistogramBin {
            from: Value::Null,
            to: Value::Null,
            count,
        };
        assert_eq!(sparkline(&[bin(0), bin(1), bin(8), bin(4)]), " ▁█▄");
        assert_eq!(sparkline(&[]), "");
    }

    #[test]
    fn numbers_are_short() {
        for (value, expected) in [
            (Value::F64(1.5), "1.5"),
            (Value::F64(0.0), "0"),
            (Value::F64(1.0 / 3.0), "0.333"),
            (Value::F64(12_345_678_901.0), "1.235e10"),
            (Value::I64(7), "7"),
            (Value::String("x".repeat(30)), "xxxxxxxxxxxxxxxxxxxxxxx…"),
        ] {
            assert_eq!(short(Some(&value)), expected);
        }
    }
}
