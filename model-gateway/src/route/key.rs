//! A request's place in the split: a hash of the model's name and the values it sticks by.
//!
//! The same on every replica, of every version, for ever: it is written down here (FNV-1a of 64 bits, then the finalizer
//! of MurmurHash3, which spreads FNV's weak high bits) and pinned by tests, and depends on nothing else. A model's name
//! is part of it, so that the keys that try the canary of one model are not those that try the canary of every other.

use crate::route::slots::{SLOTS, Slot};
use ondol_vocabulary::Value;

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// Hashes what a request sticks by, value after value.
#[derive(Clone, Copy, Debug)]
pub struct KeyHash(u64);

impl KeyHash {
    /// For `model`.
    pub fn of(model: &str) -> Self {
        Self(OFFSET).bytes(model.as_bytes()).byte(0xff)
    }

    /// With `value` too. A float that is a whole number is not that integer: values have the types of the inputs.
    #[must_use]
    pub fn and(self, value: &Value) -> Self {
        match value {
            Value::Null => self.byte(0),
            Value::Bool(truth) => self.byte(1).byte(u8::from(*truth)),
            Value::I64(number) => self.byte(2).bytes(&number.to_le_bytes()),
            Value::F64(number) => self.byte(3).bytes(&canonical(*number).to_le_bytes()),
            Value::String(text) => {
                let length = text.len() as u64;
                self.byte(4).bytes(&length.to_le_bytes()).bytes(text.as_bytes())
            }
            Value::Timestamp(time) => self.byte(5).bytes(&time.micros().to_le_bytes()),
            Value::List(values) => {
                let length = values.len() as u64;
                let start = self.byte(6).bytes(&length.to_le_bytes());
                values.iter().fold(start, Self::and)
            }
        }
    }

    /// The place among [`SLOTS`], evenly.
    pub fn slot(self) -> Slot {
        let mixed = finalize(self.0);
        let slot = (u128::from(mixed) * u128::from(SLOTS)) >> 64;
        // Below SLOTS by construction.
        slot as Slot
    }

    fn byte(self, byte: u8) -> Self {
        Self((self.0 ^ u64::from(byte)).wrapping_mul(PRIME))
    }

    fn bytes(self, bytes: &[u8]) -> Self {
        bytes.iter().fold(self, |hash, byte| hash.byte(*byte))
    }
}

/// Equal numbers have equal bits: -0 is 0, and there is one NaN.
fn canonical(number: f64) -> u64 {
    if number == 0.0 {
        0
    } else if number.is_nan() {
        f64::NAN.to_bits()
    } else {
        number.to_bits()
    }
}

fn finalize(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ondol_vocabulary::EventTime;

    fn slot(model: &str, values: &[Value]) -> Slot {
        values.iter().fold(KeyHash::of(model), KeyHash::and).slot()
    }

    #[test]
    fn the_places_of_keys_never_change() {
        let text = |text: &str| Value::String(text.to_owned());
        let places = [
            slot("fraud", &[text("c1")]),
            slot("fraud", &[text("c2")]),
            slot("risk", &[text("c1")]),
            slot("fraud", &[text("c1"), Value::I64(7)]),
            slot("fraud", &[Value::Null]),
            slot("fraud", &[Value::F64(0.5), Value::Bool(true)]),
            slot("fraud", &[Value::Timestamp(EventTime::from_micros(5))]),
        ];
        assert_eq!(places, GOLDEN);
    }

    const GOLDEN: [Slot; 7] = [8580, 1801, 5451, 5327, 1199, 7743, 9559];

    #[test]
    fn texts_are_told_apart_by_where_they_end() {
        let text = |text: &str| Value::String(text.to_owned());
        assert_ne!(slot("m", &[text("ab"), text("c")]), slot("m", &[text("a"), text("bc")]));
        assert_eq!(slot("m", &[Value::F64(0.0)]), slot("m", &[Value::F64(-0.0)]));
    }

    #[test]
    fn keys_spread_evenly() {
        let mut tenths = [0_u32; 10];
        for key in 0..100_000 {
            let slot = slot("fraud", &[Value::String(format!("card-{key}"))]);
            tenths[usize::from(slot) * 10 / SLOTS as usize] += 1;
        }
        // 10,000 each; six standard deviations are 570.
        assert!(tenths.iter().all(|count| count.abs_diff(10_000) < 570), "{tenths:?}");
    }
}
