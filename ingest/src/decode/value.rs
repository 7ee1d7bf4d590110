//! What every format gives: a tree of values, borrowed from the message where it can be, of which only what the columns
//! need must be there. One reading of paths, types, units, arrays and changes serves JSON, Avro and Protobuf alike.

use super::wanted::Wanted;
use super::{Fault, Reason, Rejection, excerpt};
use ondol_vocabulary::Framing;
use std::borrow::Cow;
use std::fmt;

/// A decoded value, before a column gives it a meaning.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value<'a> {
    /// Null, or a branch of a union that is.
    #[default]
    Null,
    /// Truth value.
    Bool(bool),
    /// Whole number.
    I64(i64),
    /// Whole number beyond `i64`.
    U64(u64),
    /// Number with a fraction; single precision widened.
    F64(f64),
    /// Text, the name of an enum's symbol, or a UUID's text.
    Text(Cow<'a, str>),
    /// Bytes that are no text: no column takes them.
    Bytes,
    /// A decimal number, with all its digits: `-12.50`.
    Decimal(String),
    /// A moment of known unit (Avro's logical types, Protobuf's `Timestamp`): microseconds since the epoch.
    Micros(i64),
    /// A sequence. Empty when its elements are not wanted.
    Array(Vec<Value<'a>>),
    /// A record, or a map with text keys. Fields that are not wanted may be missing; of several of one name the last
    /// counts.
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
    /// Any of the others, with the JSON text that it stands in the message as: where a column is that text.
    Json(&'a str, Box<Value<'a>>),
}

/// One half of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// The record's key.
    Key,
    /// The record's value.
    Value,
}

/// One encoded value, its frame taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded<'a> {
    /// Which half of the record it is.
    pub half: Half,
    /// The schema's id in the registry, when the framing names one.
    pub schema: Option<u32>,
    /// The encoded value (behind Protobuf's message indexes it is the format's to skip them).
    pub bytes: &'a [u8],
}

/// Reads values of one encoding: compiled once per source, used by one batch after the other, on the blocking pool, so
/// that it may wait for a schema registry.
pub trait Format: fmt::Debug + Send + Sync {
    /// The value of `encoded`: what `wanted` names of it must be in the result, anything else may be.
    ///
    /// # Errors
    /// [`Fault::Rejected`] when these bytes are no value, now or ever; [`Fault::Unavailable`] when it can't be told now
    /// (the registry does not answer): the batch is then tried again.
    fn read<'a>(&self, encoded: Encoded<'a>, wanted: &'a Wanted) -> Result<Value<'a>, Fault>;
}

/// A format that can't be had: every record waits, and the source's status says why.
#[derive(Debug)]
pub struct Unavailable(pub String);

impl Format for Unavailable {
    fn read<'a>(&self, _: Encoded<'a>, _: &'a Wanted) -> Result<Value<'a>, Fault> {
        Err(Fault::Unavailable(self.0.clone()))
    }
}

/// First byte of a frame.
const MAGIC: u8 = 0;
/// Bytes before the encoded value.
const FRAME_BYTES: usize = 5;

/// Takes the frame off a record's value.
///
/// # Errors
/// [`Reason::Malformed`] when there is none.
pub fn unframe(framing: Framing, bytes: &[u8]) -> Result<Encoded<'_>, Rejection> {
    let half = Half::Value;
    match framing {
        Framing::None => Ok(Encoded {
            half,
            schema: None,
            bytes,
        }),
        Framing::Confluent => framed(half, bytes).ok_or_else(|| {
            let shown = bytes.first().map_or("is empty".to_owned(), |byte| {
                format!("has {} bytes and begins with {byte:#04x}", bytes.len())
            });
            let detail = format!(
                "the message {shown}, but a zero byte and 4 bytes of the schema's id must stand first: check the \
                 producer's serializer, or set framing = \"none\" in the source"
            );
            Rejection::new(Reason::Malformed, detail)
        }),
    }
}

/// `bytes` without their frame; none when they have none.
pub fn framed(half: Half, bytes: &[u8]) -> Option<Encoded<'_>> {
    let (frame, rest) = bytes.split_first_chunk::<FRAME_BYTES>()?;
    let [MAGIC, id @ ..] = *frame else {
        return None;
    };
    Some(Encoded {
        half,
        schema: Some(u32::from_be_bytes(id)),
        bytes: rest,
    })
}

impl<'a> Value<'a> {
    /// The value itself, without the text that it may come with.
    pub fn bare(&self) -> &Self {
        match self {
            Self::Json(_, value) => value.bare(),
            value => value,
        }
    }

    /// As [`Self::bare`].
    pub fn into_bare(self) -> Self {
        match self {
            Self::Json(_, value) => value.into_bare(),
            value => value,
        }
    }

    /// The field `name` of an object.
    pub fn field(&self, name: &str) -> Option<&Value<'a>> {
        match self.bare() {
            Self::Object(fields) => fields.iter().rfind(|(known, _)| known == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The value in words, for a rejection.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(truth) => truth.to_string(),
            Self::I64(number) => number.to_string(),
            Self::U64(number) => number.to_string(),
            Self::F64(number) => number.to_string(),
            Self::Text(text) => format!("{:?}", excerpt(text)),
            Self::Bytes => "a byte string".to_owned(),
            Self::Decimal(digits) => digits.clone(),
            Self::Micros(micros) => format!("the moment {}", ondol_vocabulary::EventTime::from_micros(*micros)),
            Self::Array(_) => "an array".to_owned(),
            Self::Object(_) => "an object".to_owned(),
            Self::Json(_, value) => value.shown(),
        }
    }
}
