//! Structured logs to standard error: standard output belongs to what a command prints.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::IsTerminal as _;
use std::str::FromStr;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not of the form `info,ondol=debug`.
    #[error("`{filter}` is not a log filter such as `info` or `info,ondol_ingest=debug`")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The text is no log format.
    #[error("`{0}` is not a log format: use `text` or `json`")]
    Format(String),
}

impl FromStr for LogFormat {
    type Err = TelemetryError;

    fn from_str(text: &str) -> Result<Self, TelemetryError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(TelemetryError::Format(other.to_owned())),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Starts logging to standard error, of what `filter` lets through. The first call of a process decides; later ones
/// only check their filter, so that every test may call it.
///
/// # Errors
/// When `filter` is malformed.
pub fn init(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(filter).map_err(|source| TelemetryError::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    // Colours are for a terminal; a file or a collector would keep the escape codes.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    if started.is_err() {
        tracing::debug!("telemetry had been started before");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starting_twice_is_no_error() {
        init(LogFormat::Text, "info").unwrap();
        init(LogFormat::Json, "warn,ondol_runtime=debug").unwrap();
    }

    #[test]
    fn a_malformed_filter_is_named() {
        let error = init(LogFormat::Text, "info,=,=").unwrap_err();
        assert!(error.to_string().contains("`info,=,=`"), "{error}");
    }

    #[test]
    fn formats_are_read_back_as_written() {
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(format.to_string().parse::<LogFormat>().unwrap(), format);
        }
        assert!(
            "yaml"
                .parse::<LogFormat>()
                .unwrap_err()
                .to_string()
                .contains("`text` or `json`")
        );
    }
}
