//! The stored form of an online row's value, the same in every store: the XXH3-64 digest of the payload (8 bytes,
//! little-endian), then the payload. The digest detects damage, and is what a conditional write compares, so that a
//! writer sends 8 bytes of the old row and not all of it.

use bytes::{Buf, Bytes};
use ondol_feature_store_api::FeatureStoreError;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a digest.
pub(super) const DIGEST_BYTES: usize = 8;

/// The digest of a payload.
pub(super) fn digest(payload: &[u8]) -> [u8; DIGEST_BYTES] {
    xxh3_64(payload).to_le_bytes()
}

/// The stored form of `payload`.
pub(crate) fn seal(payload: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(DIGEST_BYTES + payload.len());
    stored.extend_from_slice(&digest(payload));
    stored.extend_from_slice(payload);
    stored
}

/// The payload of a stored form, checked.
pub(crate) fn open(mut stored: Bytes) -> Result<Bytes, FeatureStoreError> {
    let damaged = |detail: String| Err(FeatureStoreError::Internal { detail });
    let Some((held, payload)) = stored.split_first_chunk::<DIGEST_BYTES>() else {
        return damaged(format!(
            "an online row of {} bytes is too short to be one",
            stored.len()
        ));
    };
    if digest(payload) != *held {
        return damaged(format!(
            "an online row of {} bytes does not match its digest: it is damaged",
            stored.len()
        ));
    }
    stored.advance(DIGEST_BYTES);
    Ok(stored)
}

/// Whether a stored form (or its absence) is that of `expected`.
pub(super) fn is_expected(stored: Option<&[u8]>, expected: Option<&[u8]>) -> bool {
    match (stored, expected) {
        (None, None) => true,
        (Some(stored), Some(expected)) => stored.get(..DIGEST_BYTES) == Some(&digest(expected)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_of_format_version_1_stays_as_it_is() {
        assert_eq!(
            seal(b"row"),
            [0x6d, 0x10, 0xca, 0x60, 0x7a, 0x94, 0x0e, 0xda, b'r', b'o', b'w']
        );
    }

    #[test]
    fn a_damaged_value_is_an_error() {
        let mut stored = seal(b"row");
        assert_eq!(open(Bytes::from(stored.clone())).unwrap(), "row");
        stored[9] ^= 1;
        assert!(open(Bytes::from(stored)).is_err());
        assert!(open(Bytes::from_static(b"short")).is_err());
    }
}
