//! The key of an online row, and its one encoding per store.
//!
//! - Embedded: the view version's id, 4 bytes big-endian, then the entity key's bytes. A view is one contiguous range.
//! - Redis: `{prefix}:{<entity>}:<id>`, the entity key's bytes in a hash tag so that all views of one entity share a
//!   cluster slot, with `{`, `}` and `%` escaped as `%7B`, `%7D` and `%25`, and the id in decimal. An empty entity key
//!   (a view without key columns) would leave the tag empty, which Redis ignores: harmless, the whole key is hashed.

use ondol_vocabulary::EntityKey;
use std::io::Write;

/// Names one online row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RowKey {
    /// The view version's id.
    pub view_id: u32,
    /// Whose row.
    pub entity: EntityKey,
}

impl RowKey {
    /// The row of `entity` in view version `view_id`.
    pub const fn new(view_id: u32, entity: EntityKey) -> Self {
        Self { view_id, entity }
    }

    /// The key in the embedded store.
    pub fn embedded(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4 + self.entity.as_bytes().len());
        bytes.extend_from_slice(&self.view_id.to_be_bytes());
        bytes.extend_from_slice(self.entity.as_bytes());
        bytes
    }

    /// The entity of a key of the embedded store.
    pub(crate) fn entity_of_embedded(key: &[u8]) -> Option<EntityKey> {
        key.get(4..).map(|entity| EntityKey::from_bytes(entity.to_vec()))
    }

    /// The key in Redis.
    pub fn redis(&self, prefix: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(prefix.len() + self.entity.as_bytes().len() + 14);
        self.push_redis(prefix, &mut bytes);
        bytes
    }

    /// Appends [`Self::redis`] to `bytes`.
    pub(crate) fn push_redis(&self, prefix: &str, bytes: &mut Vec<u8>) {
        let entity = self.entity.as_bytes();
        bytes.extend_from_slice(prefix.as_bytes());
        bytes.extend_from_slice(b":{");
        for &byte in entity {
            match byte {
                b'{' => bytes.extend_from_slice(b"%7B"),
                b'}' => bytes.extend_from_slice(b"%7D"),
                b'%' => bytes.extend_from_slice(b"%25"),
                other => bytes.push(other),
            }
        }
        bytes.extend_from_slice(b"}:");
        // Writing to memory does not fail.
        let _ = write!(bytes, "{}", self.view_id);
    }

    /// The entity of a key in Redis; `None` when it is not one of view version `view_id` under `prefix`.
    pub(crate) fn entity_of_redis(key: &[u8], prefix: &str, view_id: u32) -> Option<EntityKey> {
        let rest = key.strip_prefix(prefix.as_bytes())?.strip_prefix(b":{")?;
        let escaped = rest.strip_suffix(format!("}}:{view_id}").as_bytes())?;
        let mut entity = Vec::with_capacity(escaped.len());
        let mut rest = escaped;
        while let Some((&byte, tail)) = rest.split_first() {
            if byte != b'%' {
                entity.push(byte);
                rest = tail;
                continue;
            }
            let (code, tail) = tail.split_first_chunk::<2>()?;
            entity.push(match code {
                b"7B" => b'{',
                b"7D" => b'}',
                b"25" => b'%',
                _ => return None,
            });
            rest = tail;
        }
        Some(EntityKey::from_bytes(entity))
    }

    /// A glob for `SCAN` that finds the keys of view version `view_id`.
    pub(crate) fn redis_pattern(prefix: &str, view_id: u32) -> String {
        let mut pattern = String::with_capacity(prefix.len() + 16);
        for character in prefix.chars() {
            if matches!(character, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
                pattern.push('\\');
            }
            pattern.push(character);
        }
        pattern.push_str(":{*}:");
        pattern.push_str(&view_id.to_string());
        pattern
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ondol_vocabulary::Value;
    use proptest::prelude::*;

    fn key(view_id: u32, values: &[Value]) -> RowKey {
        RowKey::new(view_id, EntityKey::from_values(values).unwrap().unwrap())
    }

    #[test]
    fn the_keys_of_format_version_1_stay_as_they_are() {
        let key = key(258, &[Value::String("a{%}".to_owned()), Value::I64(7)]);
        assert_eq!(
            key.embedded(),
            b"\x00\x00\x01\x02\x01\x04a{%}\x02\x07\x00\x00\x00\x00\x00\x00\x00"
        );
        assert_eq!(
            key.redis("ondol"),
            b"ondol:{\x01\x04a%7B%25%7D\x02\x07\x00\x00\x00\x00\x00\x00\x00}:258"
        );
    }

    #[test]
    fn a_key_of_another_view_or_prefix_is_not_taken_for_ours() {
        let bytes = key(12, &[Value::I64(1)]).redis("ondol");
        assert_eq!(RowKey::entity_of_redis(&bytes, "ondol", 2), None);
        assert_eq!(RowKey::entity_of_redis(&bytes, "ond", 12), None);
    }

    proptest! {
        #[test]
        fn keys_round_trip(view_id: u32, entity: Vec<u8>) {
            let key = RowKey::new(view_id, EntityKey::from_bytes(entity));
            prop_assert_eq!(RowKey::entity_of_embedded(&key.embedded()), Some(key.entity.clone()));
            prop_assert_eq!(RowKey::entity_of_redis(&key.redis("p"), "p", view_id), Some(key.entity));
        }
    }
}
