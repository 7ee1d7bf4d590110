//! Event time: microseconds since the Unix epoch, UTC.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;

/// A moment in UTC with microsecond resolution. On JSON wires it is an RFC 3339 string; in Arrow it is
/// `Timestamp(Microsecond, "UTC")`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EventTime(i64);

/// Why a text is not an [`EventTime`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EventTimeError {
    /// The text has no zone, so the moment is ambiguous.
    #[error("naive timestamp `{0}`: add `Z` or an offset such as `+09:00`")]
    Naive(String),
    /// The text is no RFC 3339 timestamp.
    #[error("`{0}` is not an RFC 3339 timestamp such as `2013-01-01T05:17:00Z`")]
    Malformed(String),
}

impl EventTime {
    /// The earliest representable moment.
    pub const MIN: Self = Self(i64::MIN);
    /// The latest representable moment.
    pub const MAX: Self = Self(i64::MAX);

    /// From microseconds since the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The wall clock's present. Callers that need replay inject a clock instead.
    pub fn now() -> Self {
        Self(Utc::now().timestamp_micros())
    }

    /// Parses an RFC 3339 timestamp, and what is written of moments that have none. A text without a zone is refused
    /// rather than guessed.
    pub fn parse(text: &str) -> Result<Self, EventTimeError> {
        match DateTime::parse_from_rfc3339(text) {
            Ok(moment) => Ok(Self(moment.timestamp_micros())),
            Err(_) if is_naive(text) => Err(EventTimeError::Naive(text.to_owned())),
            Err(_) => far(text).ok_or_else(|| EventTimeError::Malformed(text.to_owned())),
        }
    }

    /// Microseconds from `earlier` to `self`, negative when `earlier` is later.
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment moved by `micros`, saturating at the ends.
    pub const fn plus_micros(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }
}

/// A moment outside the years 0 to 9999 of RFC 3339, in the form in which it is shown: with a signed year, or in
/// microseconds beyond the calendar.
fn far(text: &str) -> Option<EventTime> {
    let time = match text.strip_suffix("us") {
        Some(micros) => EventTime(micros.parse().ok()?),
        None => {
            let moment = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.fZ").ok()?;
            EventTime(moment.and_utc().timestamp_micros())
        }
    };
    (time.to_string() == text).then_some(time)
}

fn is_naive(text: &str) -> bool {
    [
        "%Y-%m-%dT%H:%M:%S%.f",
        "%Y-%m-%d %H:%M:%S%.f",
        "%Y-%m-%dT%H:%M",
        "%Y-%m-%d %H:%M",
    ]
    .iter()
    .any(|format| chrono::NaiveDateTime::parse_from_str(text, format).is_ok())
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::<Utc>::from_timestamp_micros(self.0) {
            Some(moment) => f.write_str(&moment.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            None => write!(f, "{}us", self.0),
        }
    }
}

impl Serialize for EventTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

impl utoipa::PartialSchema for EventTime {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .format(Some(utoipa::openapi::SchemaFormat::KnownFormat(
                utoipa::openapi::KnownFormat::DateTime,
            )))
            .into()
    }
}

impl utoipa::ToSchema for EventTime {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_without_a_zone_is_refused() {
        let text = "2013-01-01T05:17:00".to_owned();
        assert_eq!(EventTime::parse(&text), Err(EventTimeError::Naive(text)));
    }

    #[test]
    fn every_moment_is_read_as_it_is_written() {
        let year = 366 * 86_400_000_000;
        for micros in [
            i64::MIN,
            i64::MAX,
            231_331 * year,
            -262_000 * year,
            -2_000 * year,
            -1,
            0,
            8_000 * year,
        ] {
            let time = EventTime::from_micros(micros);
            assert_eq!(EventTime::parse(&time.to_string()), Ok(time), "{time}");
        }
        let other = "12us".to_owned();
        assert_eq!(
            EventTime::parse(&other),
            Err(EventTimeError::Malformed(other)),
            "one form for each moment"
        );
    }

    #[test]
    fn text_and_micros_round_trip() {
        let time = EventTime::from_micros(1_357_017_420_000_001);
        assert_eq!(EventTime::parse(&time.to_string()), Ok(time));
        assert_eq!(time.to_string(), "2013-01-01T05:17:00.000001Z");
    }
}
