//! Records: runs of them as they are read, in one buffer, and one to append.

use super::headers::{self, Header, Headers};
use bytes::Bytes;
use ondol_vocabulary::EventTime;

/// A run of records of one partition, in one buffer: reading costs no allocation per record.
#[derive(Debug, Default)]
pub struct Records {
    /// The partition.
    pub partition: i32,
    /// First offset covered: where the run before it ended.
    pub from: i64,
    /// First offset not covered.
    pub to: i64,
    entries: Vec<Entry>,
    /// Of each record its key, its headers, its value.
    bytes: Vec<u8>,
    /// Which assignment or seek of the partition the run belongs to; readers drop runs of an earlier one.
    pub(super) epoch: u64,
}

#[derive(Debug)]
struct Entry {
    offset: i64,
    timestamp: EventTime,
    /// Lengths; none when absent.
    key: Option<u32>,
    headers: u32,
    /// Where the record ends in the bytes.
    end: usize,
    tombstone: bool,
}

/// One record as it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its partition.
    pub partition: i32,
    /// Where it stands in its partition.
    pub offset: i64,
    /// When the stream, or its producer, says it was written.
    pub timestamp: EventTime,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Headers<'a>,
    /// The message; none for a tombstone.
    pub value: Option<&'a [u8]>,
}

/// A record to append.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// Records of one key go to one partition; those without are spread.
    pub key: Option<Bytes>,
    /// Its headers.
    pub headers: Vec<Header>,
    /// When it was produced.
    pub timestamp: EventTime,
    /// The message; none for a tombstone.
    pub value: Option<Bytes>,
}

impl NewRecord {
    /// Bytes of its key, headers and value.
    pub fn size_bytes(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers = self
            .headers
            .iter()
            .map(|header| header.name.len() + length(&header.value));
        length(&self.key) + headers.sum::<usize>() + length(&self.value)
    }
}

impl Records {
    /// An empty run that starts at `from`.
    pub fn starting(partition: i32, from: i64) -> Self {
        Self {
            partition,
            from,
            to: from,
            ..Self::default()
        }
    }

    /// A run without records that covers `[from, to)`.
    pub fn covering(partition: i32, from: i64, to: i64) -> Self {
        Self {
            to,
            ..Self::starting(partition, from)
        }
    }

    /// Drops what lies at or past `offset`, so that the run ends there.
    pub fn truncate(&mut self, offset: i64) {
        let kept = self.entries.partition_point(|entry| entry.offset < offset);
        self.entries.truncate(kept);
        self.bytes.truncate(self.entries.last().map_or(0, |entry| entry.end));
        self.to = self.to.min(offset.max(self.from));
    }

    /// The first record's timestamp.
    pub fn first_timestamp(&self) -> Option<EventTime> {
        self.entries.first().map(|entry| entry.timestamp)
    }

    pub(super) fn of_epoch(partition: i32, from: i64, epoch: u64) -> Self {
        Self {
            epoch,
            ..Self::starting(partition, from)
        }
    }

    /// Adds the record at `offset`, which must lie at or past [`Records::to`], with neither key nor headers; offsets
    /// between are covered as empty.
    pub fn push(&mut self, offset: i64, timestamp: EventTime, value: Option<&[u8]>) {
        self.push_with(offset, timestamp, None, value, |_| {});
    }

    /// As [`Self::push`], with a key and the headers that `add` gives to its argument.
    pub fn push_with(
        &mut self,
        offset: i64,
        timestamp: EventTime,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        add: impl FnOnce(&mut HeaderSink<'_>),
    ) {
        self.bytes.extend_from_slice(key.unwrap_or_default());
        let before = self.bytes.len();
        add(&mut HeaderSink(&mut self.bytes));
        let headers = self.bytes.len() - before;
        self.bytes.extend_from_slice(value.unwrap_or_default());
        // Streams bound records far below 4 GiB.
        let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        self.entries.push(Entry {
            offset,
            timestamp,
            key: key.map(|key| length(key.len())),
            headers: length(headers),
            end: self.bytes.len(),
            tombstone: value.is_none(),
        });
        self.to = offset.saturating_add(1);
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all keys, headers and values.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The records in offset order.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        let mut start = 0;
        self.entries.iter().map(move |entry| {
            let bytes = self.bytes.get(start..entry.end).unwrap_or_default();
            start = entry.end;
            // Both lengths were taken from these bytes.
            let (key, rest) = bytes
                .split_at_checked(entry.key.unwrap_or_default() as usize)
                .unwrap_or_default();
            let (headers, value) = rest.split_at_checked(entry.headers as usize).unwrap_or_default();
            Record {
                partition: self.partition,
                offset: entry.offset,
                timestamp: entry.timestamp,
                key: entry.key.map(|_| key),
                headers: Headers::new(headers),
                value: (!entry.tombstone).then_some(value),
            }
        })
    }
}

/// Takes the headers of a record, in order.
#[derive(Debug)]
pub struct HeaderSink<'r>(&'r mut Vec<u8>);

impl HeaderSink<'_> {
    /// One header.
    pub fn add(&mut self, name: &str, value: Option<&[u8]>) {
        headers::push(self.0, name, value);
    }

    /// Headers that are encoded already.
    pub(super) fn add_encoded(&mut self, headers: &[u8]) {
        self.0.extend_from_slice(headers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_gives_back_what_was_pushed() {
        let time = EventTime::from_micros(5);
        let mut records = Records::starting(2, 10);
        records.push(10, time, Some(b"ab"));
        records.push(12, time, None);
        records.push(13, time, Some(b""));
        assert_eq!((records.from, records.to, records.size_bytes()), (10, 14, 2));
        let seen: Vec<_> = records.iter().map(|record| (record.offset, record.value)).collect();
        assert_eq!(
            seen,
            [(10, Some(b"ab".as_slice())), (12, None), (13, Some(b"".as_slice()))]
        );
    }

    #[test]
    fn a_run_is_cut_at_an_offset() {
        let time = EventTime::from_micros(5);
        let mut records = Records::starting(2, 10);
        records.push(10, time, Some(b"ab"));
        records.push(12, time, Some(b"cd"));
        records.push(13, time, Some(b"ef"));
        records.truncate(12);
        assert_eq!(
            (records.from, records.to, records.len(), records.size_bytes()),
            (10, 12, 1, 2)
        );
        records.truncate(5);
        assert_eq!((records.to, records.len()), (10, 0));
        records.truncate(20);
        assert_eq!(records.to, 10);
    }

    #[test]
    fn a_record_keeps_its_key_and_its_headers() {
        let time = EventTime::from_micros(5);
        let mut records = Records::starting(0, 0);
        records.push_with(0, time, Some(b"k"), Some(b"v"), |headers| {
            headers.add("tenant", Some(b"a"));
            headers.add("trace", None);
        });
        records.push_with(1, time, Some(b""), None, |_| {});
        let seen: Vec<_> = records.iter().collect();
        assert_eq!(
            (seen[0].key, seen[0].value),
            (Some(b"k".as_slice()), Some(b"v".as_slice()))
        );
        let headers: Vec<_> = seen[0].headers.iter().collect();
        assert_eq!(headers, [("tenant", Some(b"a".as_slice())), ("trace", None)]);
        assert_eq!(
            (seen[1].key, seen[1].headers, seen[1].value),
            (Some(b"".as_slice()), Headers::default(), None)
        );
    }
}
