//! One stored record, and the header of the file that holds it. This file is the format's only codec.
//!
//! A segment file starts with [`HEADER`], then frames follow without gaps. A frame (version 1), little-endian:
//!
//! | bytes | holds |
//! |---|---|
//! | 4 | length of the body |
//! | 4 | CRC-32C of the body, continued from the topic's seed |
//! | 1 | flags: bit 0 the first record of its append, bit 1 the record has a key, bit 2 headers, bit 3 no value; others 0 |
//! | 8 | timestamp, microseconds since the epoch |
//! | 4 | length of the key |
//! | | key |
//! | 4 | with bit 2: length of the headers |
//! | | with bit 2: headers, as [`crate::source::headers`] lays them out |
//! | | value to the end of the body |
//!
//! The seed is a checksum of the topic's random generation, so bytes of another topic, or bytes that a client hid in a
//! value, never pass for a frame. Bit 0 tells a torn tail from damage: a later append's first frame proves that
//! everything before it had been acknowledged.

use crate::source::{NewRecord, StreamError, headers};
use ondol_vocabulary::EventTime;

/// First bytes of a segment file; the last one is the format's version.
pub(super) const HEADER: [u8; 8] = *b"ONDOLOG1";
/// Largest value and key of a record, together.
pub(super) const MAX_RECORD_BYTES: usize = 32 << 20;

const PREFIX: usize = 8;
const FIXED: usize = 13;
const FIRST: u8 = 1;
const KEYED: u8 = 2;
const HEADED: u8 = 4;
const TOMBSTONE: u8 = 8;

/// A record as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// Whether it is the first record of its append.
    pub(super) first: bool,
    /// When it was appended.
    pub(super) timestamp: EventTime,
    /// Its key.
    pub(super) key: Option<&'a [u8]>,
    /// Its headers, as they are stored.
    pub(super) headers: &'a [u8],
    /// Its value; none for a tombstone.
    pub(super) value: Option<&'a [u8]>,
    /// Bytes that the frame takes in the file.
    pub(super) size: usize,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameError {
    /// The bytes end before the frame does: at least this many are needed.
    Short(usize),
    /// Whatever follows, these bytes are no frame.
    Invalid,
}

/// The checksum's start for a topic of `generation`.
pub(super) fn seed(generation: &str) -> u32 {
    crc32c::crc32c(generation.as_bytes())
}

/// Refuses a record that a frame can't hold.
pub(super) fn check_size(record: &NewRecord) -> Result<(), StreamError> {
    let size_bytes = record.size_bytes();
    if size_bytes > MAX_RECORD_BYTES {
        return Err(StreamError::TooLarge {
            size_bytes,
            limit_bytes: MAX_RECORD_BYTES,
        });
    }
    Ok(())
}

/// Appends the frame of `record`, which [`check_size`] has accepted, to `out`.
pub(super) fn encode(seed: u32, first: bool, record: &NewRecord, out: &mut Vec<u8>) {
    let key = record.key.as_deref().unwrap_or_default();
    let value = record.value.as_deref().unwrap_or_default();
    let flags = u8::from(first) * FIRST
        + u8::from(record.key.is_some()) * KEYED
        + u8::from(!record.headers.is_empty()) * HEADED
        + u8::from(record.value.is_none()) * TOMBSTONE;
    let mut fixed = [0; FIXED];
    fixed[0] = flags;
    fixed[1..9].copy_from_slice(&record.timestamp.micros().to_le_bytes());
    fixed[9..].copy_from_slice(&(key.len() as u32).to_le_bytes());
    let headers = headers_of(record);
    let crc = [fixed.as_slice(), key, &headers, value]
        .iter()
        .fold(seed, |crc, part| crc32c::crc32c_append(crc, part));
    let length = FIXED + key.len() + headers.len() + value.len();
    out.reserve(PREFIX + length);
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&fixed);
    out.extend_from_slice(key);
    out.extend_from_slice(&headers);
    out.extend_from_slice(value);
}

/// The headers behind their length; nothing when there are none.
fn headers_of(record: &NewRecord) -> Vec<u8> {
    if record.headers.is_empty() {
        return Vec::new();
    }
    let headers = headers::encode(&record.headers);
    let mut stored = (headers.len() as u32).to_le_bytes().to_vec();
    stored.extend_from_slice(&headers);
    stored
}

/// The frame at the start of `bytes`.
pub(super) fn decode(seed: u32, bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(FrameError::Short(PREFIX))?;
    let (crc, rest) = rest.split_first_chunk::<4>().ok_or(FrameError::Short(PREFIX))?;
    let length = u32::from_le_bytes(*length) as usize;
    if !(FIXED..=FIXED + MAX_RECORD_BYTES).contains(&length) {
        return Err(FrameError::Invalid);
    }
    let body = rest.get(..length).ok_or(FrameError::Short(PREFIX + length))?;
    if crc32c::crc32c_append(seed, body) != u32::from_le_bytes(*crc) {
        return Err(FrameError::Invalid);
    }
    parse(body).ok_or(FrameError::Invalid)
}

fn parse(body: &[u8]) -> Option<Frame<'_>> {
    let size = PREFIX + body.len();
    let (&flags, rest) = body.split_first()?;
    let (timestamp, rest) = rest.split_first_chunk::<8>()?;
    let (key_length, rest) = rest.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_length) as usize)?;
    let known = flags & !(FIRST | KEYED | HEADED | TOMBSTONE) == 0;
    if !known || (flags & KEYED == 0 && !key.is_empty()) {
        return None;
    }
    let (headers, value) = match flags & HEADED {
        0 => (&[] as &[u8], rest),
        _ => {
            let (length, rest) = rest.split_first_chunk::<4>()?;
            rest.split_at_checked(u32::from_le_bytes(*length) as usize)?
        }
    };
    if flags & TOMBSTONE != 0 && !value.is_empty() {
        return None;
    }
    Some(Frame {
        first: flags & FIRST != 0,
        timestamp: EventTime::from_micros(i64::from_le_bytes(*timestamp)),
        key: (flags & KEYED != 0).then_some(key),
        headers,
        value: (flags & TOMBSTONE == 0).then_some(value),
        size,
    })
}

/// The frame at the start of `bytes` and what its record is encoded to; for fuzz targets. With `seal`, `bytes` get the
/// length and the checksum that make them a frame. None for what no encoder writes.
pub(crate) fn reencoded(bytes: &[u8], seal: bool) -> Option<(Vec<u8>, Vec<u8>)> {
    let seed = seed("fuzz");
    let mut bytes = bytes.to_vec();
    if seal && let Some((prefix, body)) = bytes.split_at_mut_checked(PREFIX) {
        let (length, crc) = prefix.split_at_mut(4);
        length.copy_from_slice(&(body.len() as u32).to_le_bytes());
        crc.copy_from_slice(&crc32c::crc32c_append(seed, body).to_le_bytes());
    }
    let frame = decode(seed, &bytes).ok()?;
    let record = NewRecord {
        key: frame.key.map(bytes::Bytes::copy_from_slice),
        headers: headers::Headers::new(frame.headers).to_owned(),
        timestamp: frame.timestamp,
        value: frame.value.map(bytes::Bytes::copy_from_slice),
    };
    let mut out = Vec::new();
    encode(seed, frame.first, &record, &mut out);
    let is_written_so =
        headers_of(&record).get(4..).unwrap_or_default() == frame.headers && out.get(PREFIX) == bytes.get(PREFIX);
    is_written_so.then(|| (bytes.get(..frame.size).unwrap_or_default().to_vec(), out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Header;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn record(key: Option<&'static [u8]>, value: &'static [u8]) -> NewRecord {
        NewRecord {
            key: key.map(Bytes::from_static),
            timestamp: EventTime::from_micros(1_357_017_420_000_001),
            value: Some(Bytes::from_static(value)),
            ..NewRecord::default()
        }
    }

    #[test]
    fn the_bytes_of_format_version_1_stay_as_they_are() {
        let mut bytes = Vec::new();
        encode(seed("01"), true, &record(Some(b"k1"), b"{\"a\":1}"), &mut bytes);
        let golden = include_bytes!("golden/frame_v1.bin");
        assert_eq!(bytes, golden);
        let frame = decode(seed("01"), golden).unwrap();
        assert_eq!(
            (frame.first, frame.key, frame.value),
            (true, Some(b"k1".as_slice()), Some(b"{\"a\":1}".as_slice()))
        );
    }

    #[test]
    fn the_bytes_of_headers_and_tombstones_stay_as_they_are() {
        let header = |name: &str, value: Option<&'static [u8]>| Header {
            name: name.to_owned(),
            value: value.map(Bytes::from_static),
        };
        let record = NewRecord {
            headers: vec![header("tenant", Some(b"t1")), header("trace", None)],
            value: None,
            ..record(Some(b"k1"), b"")
        };
        let mut bytes = Vec::new();
        encode(seed("01"), true, &record, &mut bytes);
        let golden = include_bytes!("golden/frame_v1_headers.bin");
        assert_eq!(bytes, golden);
        let frame = decode(seed("01"), golden).unwrap();
        assert_eq!((frame.key, frame.value), (Some(b"k1".as_slice()), None));
    }

    #[test]
    fn a_frame_of_another_topic_is_refused() {
        let mut bytes = Vec::new();
        encode(seed("a"), true, &record(None, b"x"), &mut bytes);
        assert_eq!(decode(seed("b"), &bytes), Err(FrameError::Invalid));
    }

    proptest! {
        #[test]
        fn any_record_round_trips(
            key: Option<Vec<u8>>,
            headers: Vec<(String, Option<Vec<u8>>)>,
            value: Option<Vec<u8>>,
            micros: i64,
            first: bool,
            rest: Vec<u8>,
        ) {
            let header = |(name, value): (String, Option<Vec<u8>>)| Header { name, value: value.map(Bytes::from) };
            let record = NewRecord {
                key: key.clone().map(Bytes::from),
                headers: headers.into_iter().map(header).collect(),
                timestamp: EventTime::from_micros(micros),
                value: value.clone().map(Bytes::from),
            };
            let stored = headers::encode(&record.headers);
            let mut bytes = Vec::new();
            encode(7, first, &record, &mut bytes);
            let size = bytes.len();
            bytes.extend(rest);
            let expected = Frame {
                first,
                timestamp: record.timestamp,
                key: key.as_deref(),
                headers: &stored,
                value: value.as_deref(),
                size,
            };
            prop_assert_eq!(decode(7, &bytes), Ok(expected));
            for cut in 0..size {
                prop_assert!(matches!(decode(7, &bytes[..cut]), Err(FrameError::Short(_))));
            }
        }

        #[test]
        fn any_flipped_bit_is_noticed(value: Vec<u8>, place: prop::sample::Index, bit in 0..8u8) {
            let mut bytes = Vec::new();
            let record = NewRecord { value: Some(Bytes::from(value)), ..NewRecord::default() };
            encode(7, true, &record, &mut bytes);
            let at = place.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(7, &bytes).is_err());
        }

        #[test]
        fn hostile_bytes_are_refused_without_a_panic(bytes: Vec<u8>) {
            let _ = decode(0, &bytes);
        }
    }
}
