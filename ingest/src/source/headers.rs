//! A record's headers in one run of bytes, so that reading them costs no allocation per record.
//!
//! Each header, little-endian: 4 bytes length of the name, the name, 4 bytes length of the value (all ones: null), the
//! value. The embedded log stores them so.

use bytes::Bytes;

/// Length of a value that is null.
const NULL: u32 = u32::MAX;

/// A header of a record to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name; names may repeat.
    pub name: String,
    /// Its value.
    pub value: Option<Bytes>,
}

/// The headers of a record that was read, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    /// The headers that `bytes` hold; whatever does not follow the layout ends them.
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (header, after) = next(rest)?;
            rest = after;
            Some(header)
        })
    }

    /// The value of the last header called `name`.
    pub fn last(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().filter(|(known, _)| *known == name).last()?.1
    }

    /// As headers of a record to append.
    pub fn to_owned(&self) -> Vec<Header> {
        let owned = |(name, value): (&str, Option<&[u8]>)| Header {
            name: name.to_owned(),
            value: value.map(Bytes::copy_from_slice),
        };
        self.iter().map(owned).collect()
    }
}

/// A header's name and value.
type Pair<'a> = (&'a str, Option<&'a [u8]>);

/// The first header, and what follows it.
fn next(bytes: &[u8]) -> Option<(Pair<'_>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (name, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (value, rest) = match u32::from_le_bytes(*length) {
        NULL => (None, rest),
        length => rest
            .split_at_checked(length as usize)
            .map(|(value, rest)| (Some(value), rest))?,
    };
    Some(((std::str::from_utf8(name).ok()?, value), rest))
}

/// Appends one header to `out`.
pub(super) fn push(out: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    // Streams bound records far below 4 GiB.
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(NULL - 1).to_le_bytes();
    out.extend_from_slice(&length(name.as_bytes()));
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&value.map_or(NULL.to_le_bytes(), length));
    out.extend_from_slice(value.unwrap_or_default());
}

/// The bytes that hold `headers`.
pub(super) fn encode(headers: &[Header]) -> Vec<u8> {
    let mut out = Vec::new();
    for header in headers {
        push(&mut out, &header.name, header.value.as_deref());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_header_of_a_name_counts_even_when_it_is_null() {
        let header = |name: &str, value: Option<&'static [u8]>| Header {
            name: name.to_owned(),
            value: value.map(Bytes::from_static),
        };
        let bytes = encode(&[
            header("a", Some(b"1")),
            header("b", Some(b"2")),
            header("a", Some(b"3")),
        ]);
        assert_eq!(Headers::new(&bytes).last("a"), Some(b"3".as_slice()));
        assert_eq!(Headers::new(&bytes).last("c"), None);
        let bytes = encode(&[header("a", Some(b"1")), header("a", None)]);
        assert_eq!(Headers::new(&bytes).last("a"), None);
    }

    proptest! {
        #[test]
        fn any_headers_round_trip(headers: Vec<(String, Option<Vec<u8>>)>) {
            let headers: Vec<Header> = headers
                .into_iter()
                .map(|(name, value)| Header { name, value: value.map(Bytes::from) })
                .collect();
            prop_assert_eq!(Headers::new(&encode(&headers)).to_owned(), headers);
        }

        #[test]
        fn hostile_bytes_end_the_headers_without_a_panic(bytes: Vec<u8>) {
            let _ = Headers::new(&bytes).iter().count();
        }
    }
}
