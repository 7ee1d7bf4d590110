//! What fuzz targets call: the stored form of online rows, which is no interface of this crate.

use crate::online::value;
use bytes::Bytes;

/// The payload of a stored online value, and its stored form again; none for what is damaged.
pub fn online_value(stored: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let payload = value::open(Bytes::copy_from_slice(stored)).ok()?;
    let sealed = value::seal(&payload);
    Some((payload.to_vec(), sealed))
}

/// The stored form of `payload`.
pub fn sealed(payload: &[u8]) -> Vec<u8> {
    value::seal(payload)
}
