//! Where columns are and what messages are, in words: for plans and listings.

use crate::{
    ChangeFormat, ColumnOrigin, ColumnReading, Framing, MessageShape, StreamFormat, TimestampUnit, Tombstones,
};
use std::fmt;

impl fmt::Display for ColumnReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.origin.fmt(f)?;
        if self.json {
            f.write_str(" as JSON")?;
        }
        match self.unit {
            TimestampUnit::Microseconds => Ok(()),
            TimestampUnit::Seconds => f.write_str(" in s"),
            TimestampUnit::Milliseconds => f.write_str(" in ms"),
            TimestampUnit::Nanoseconds => f.write_str(" in ns"),
        }
    }
}

impl fmt::Display for ColumnOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(path) => write!(f, "path {}", path.join(".")),
            Self::Key(path) if path.is_empty() => f.write_str("the key"),
            Self::Key(path) => write!(f, "key {}", path.join(".")),
            Self::Header(name) => write!(f, "header {name}"),
            Self::Envelope(path) => write!(f, "envelope {}", path.join(".")),
            Self::Timestamp => f.write_str("the record's timestamp"),
            Self::Partition => f.write_str("the record's partition"),
            Self::Offset => f.write_str("the record's offset"),
        }
    }
}

impl StreamFormat {
    /// The name used in definition files.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Avro { .. } => "avro",
            Self::Protobuf { .. } => "protobuf",
        }
    }
}

impl MessageShape {
    /// What is not the default, as (key of the definition file, value); the columns are not among them.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        let mut options = Vec::new();
        match self.framing {
            Framing::None => {}
            Framing::Confluent => options.push(("framing", "confluent".to_owned())),
        }
        options.extend(self.unnest.iter().map(|path| ("unnest", path.join("."))));
        match self.changes {
            None => {}
            Some(ChangeFormat::Debezium) => options.push(("changes", "debezium".to_owned())),
        }
        match self.tombstones {
            Tombstones::DeadLetter => {}
            Tombstones::Ignore => options.push(("tombstones", "ignore".to_owned())),
            Tombstones::Delete => options.push(("tombstones", "delete".to_owned())),
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_as_they_are_written() {
        let reading = |origin, unit| {
            let reading = ColumnReading {
                unit,
                ..ColumnReading::of(origin)
            };
            reading.to_string()
        };
        let path = || vec!["payload".to_owned(), "id".to_owned()];
        assert_eq!(
            reading(ColumnOrigin::Field(path()), TimestampUnit::Microseconds),
            "path payload.id"
        );
        assert_eq!(
            reading(ColumnOrigin::Envelope(path()), TimestampUnit::Milliseconds),
            "envelope payload.id in ms"
        );
        assert_eq!(
            reading(ColumnOrigin::Key(Vec::new()), TimestampUnit::Microseconds),
            "the key"
        );
        assert_eq!(
            ColumnReading::json(ColumnOrigin::Field(path())).to_string(),
            "path payload.id as JSON"
        );
    }
}
