//! Sums of doubles without rounding, the plainest way: a fixed-point number of 128 bits.
//!
//! It holds any sum of fewer than 2^50 values whose magnitude is 0 or between 2^-10 and 2^14, which the events' amounts
//! are. It shares nothing with the engine's accumulator, which takes every double.

/// Bits after the point: a double of at least 2^-10 has its last bit at 2^-62 or above.
const POINT: i32 = 63;

/// An exact sum.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ExactSum {
    scaled: i128,
    count: u32,
}

impl ExactSum {
    /// Adds `value`; false when it is out of the range that can be held.
    #[must_use]
    pub(crate) fn add(&mut self, value: f64) -> bool {
        self.count += 1;
        if value == 0.0 {
            return true;
        }
        if !(2f64.powi(-10)..2f64.powi(14)).contains(&value.abs()) {
            return false;
        }
        let bits = value.to_bits();
        let exponent = i32::try_from((bits >> 52) & 0x7ff).unwrap_or_default();
        let mantissa = i128::from((bits & ((1 << 52) - 1)) | (1 << 52));
        let scaled = mantissa << (exponent - 1_075 + POINT);
        self.scaled += if value < 0.0 { -scaled } else { scaled };
        true
    }

    /// The sum, rounded once to the nearest double, ties to even; none over nothing.
    pub(crate) fn sum(&self) -> Option<f64> {
        // The conversion rounds as wanted; the power of two is exact.
        (self.count > 0).then(|| self.scaled as f64 * 2f64.powi(-POINT))
    }

    /// The rounded sum divided by the count; none over nothing.
    pub(crate) fn mean(&self) -> Option<f64> {
        Some(self.sum()? / f64::from(self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(values: &[f64]) -> Option<f64> {
        let mut sum = ExactSum::default();
        values.iter().for_each(|value| assert!(sum.add(*value)));
        sum.sum()
    }

    #[test]
    fn a_sum_is_rounded_once() {
        assert_eq!(sum(&[0.1; 10]), Some(1.0));
        assert_eq!(sum(&[8_192.0, 0.001, -8_192.0]), Some(0.001));
        assert_eq!(sum(&[0.0]), Some(0.0));
        assert_eq!(sum(&[]), None);
    }

    #[test]
    fn what_can_not_be_held_is_refused() {
        assert!(!ExactSum::default().add(1e-9));
        assert!(!ExactSum::default().add(f64::NAN));
    }
}
