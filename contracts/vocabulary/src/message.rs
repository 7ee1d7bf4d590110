//! What a message of a stream is, and where in it a source's columns are.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// How a message of a stream is encoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StreamFormat {
    /// One JSON object a message.
    Json,
    /// One Avro record a message, in the binary encoding.
    Avro {
        /// The reader's schema as JSON text. Absent: the writer's schema decides, found in the schema registry.
        schema: Option<String>,
    },
    /// One Protobuf message a message.
    Protobuf {
        /// The `.proto` text. Absent: the writer's schema, found in the schema registry.
        schema: Option<String>,
        /// The message type's full name. Absent: the first of the file, or the one the frame names.
        message: Option<String>,
    },
}

/// Where in a message the columns are, and what a message stands for. The default: a message is an event, and a column
/// is the top-level field of its own name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessageShape {
    /// What stands before the encoded value.
    #[serde(default)]
    pub framing: Framing,
    /// Columns that are not the top-level field of their own name, by column.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, ColumnReading>,
    /// The path of an array each element of which is an event. In the paths of columns the array stands for its
    /// current element.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unnest: Option<Vec<String>>,
    /// Messages are changes of a database's rows. Such a source gives latest-row features.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<ChangeFormat>,
    /// What a message without a value is.
    #[serde(default)]
    pub tombstones: Tombstones,
}

/// What stands before an encoded value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// Nothing.
    #[default]
    None,
    /// A zero byte and the schema's id as 4 bytes, big endian (and message indexes for Protobuf), as Confluent's
    /// serializers write it.
    Confluent,
}

/// How a change of a database's row is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeFormat {
    /// Debezium's envelope: `before`, `after`, `op`, `source`, `ts_ms`; bare or within `{schema, payload}`. Columns are
    /// fields of the row.
    Debezium,
}

/// What a message without a value (the deletion marker of a compacted topic) is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tombstones {
    /// A bad event: a dead letter.
    #[default]
    DeadLetter,
    /// Nothing: it is passed over, and counted.
    Ignore,
    /// The deletion of the row that the record's key names. Such a source gives latest-row features.
    Delete,
}

/// Where a column's value is read, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ColumnReading {
    /// The place.
    pub origin: ColumnOrigin,
    /// The unit of a timestamp that is an integer.
    #[serde(default)]
    pub unit: TimestampUnit,
    /// Whether the column is the JSON text of what stands there, exactly as it stands in the message: an object, an array, a
    /// number, a truth value. A text is taken as the JSON that it holds, and is the column as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub json: bool,
}

impl ColumnReading {
    /// What stands at `origin`, as it stands there.
    pub const fn of(origin: ColumnOrigin) -> Self {
        Self {
            origin,
            unit: TimestampUnit::Microseconds,
            json: false,
        }
    }

    /// The JSON text of what stands at `origin`.
    pub const fn json(origin: ColumnOrigin) -> Self {
        Self {
            origin,
            unit: TimestampUnit::Microseconds,
            json: true,
        }
    }
}

/// The place of a column's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColumnOrigin {
    /// A field of the value (of the row, for changes), by its path from the top.
    Field(Vec<String>),
    /// The record's key, or a field of it by its path.
    Key(Vec<String>),
    /// A header of the record, as text; the last of that name.
    Header(String),
    /// A field of a change's envelope, by its path: `source.ts_ms`.
    Envelope(Vec<String>),
    /// The record's timestamp in the stream.
    Timestamp,
    /// The record's partition.
    Partition,
    /// The record's offset.
    Offset,
}

/// The unit of a timestamp that is an integer since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimestampUnit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    #[default]
    Microseconds,
    /// Nanoseconds; what is below a microsecond is cut off.
    Nanoseconds,
}

impl MessageShape {
    /// Whether it is the default.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}
