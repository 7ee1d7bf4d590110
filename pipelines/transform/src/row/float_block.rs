//! Floats looked at together: their extremes, and their exact sum, several times as fast as one by one.
//!
//! The extremes are taken lane by lane, without a branch, which compilers turn into vector instructions. They tell which
//! exponents there are; mantissas are then added up by exponent, in integers that can't overflow within a block (R. M.
//! Neal, *Fast exact summation using small and large superaccumulators*, arXiv:1505.05571, 2015: the small
//! superaccumulator), and these are put together once.

use super::exact_sum::{FRACTION_BITS, SPECIAL_EXPONENT};

/// Values of a block, at most: the sum of so many mantissas of 53 bits and a sign fits into 64.
pub(crate) const BLOCK: usize = 1 << (i64::BITS - FRACTION_BITS - 2);
/// Exponents of a block whose sum is taken at once.
const SPREAD: usize = 64;
const LANES: usize = 4;

/// Up to [`BLOCK`] floats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FloatBlock<'a> {
    values: &'a [f64],
    /// Of what is not NaN.
    least: f64,
    greatest: f64,
    /// The least magnitude that is not zero, and the greatest of all: of what is not NaN.
    nearest: f64,
    farthest: f64,
    nans: usize,
}

/// A sum of finite values: `units · 2^(shift − 1074)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockSum {
    pub(crate) units: i128,
    pub(crate) shift: usize,
}

/// What has been seen in each lane.
struct Lanes {
    least: [f64; LANES],
    greatest: [f64; LANES],
    nearest: [f64; LANES],
    farthest: [f64; LANES],
    nans: [u64; LANES],
}

impl Lanes {
    /// Comparisons with NaN are false, so that it moves nothing.
    #[inline(always)]
    fn take(&mut self, values: &[f64; LANES]) {
        for (lane, &value) in values.iter().enumerate() {
            let less = |one: f64, other: f64| if one < other { one } else { other };
            let more = |one: f64, other: f64| if one > other { one } else { other };
            let magnitude = value.abs();
            let nonzero = if magnitude == 0.0 { f64::INFINITY } else { magnitude };
            self.least[lane] = less(value, self.least[lane]);
            self.greatest[lane] = more(value, self.greatest[lane]);
            self.nearest[lane] = less(nonzero, self.nearest[lane]);
            self.farthest[lane] = more(magnitude, self.farthest[lane]);
            self.nans[lane] += u64::from(value.is_nan());
        }
    }
}

impl<'a> FloatBlock<'a> {
    /// Looks at `values`, up to [`BLOCK`] of them.
    pub(crate) fn of(values: &'a [f64]) -> Self {
        debug_assert!(values.len() <= BLOCK, "a block of {} values", values.len());
        let mut lanes = Lanes {
            least: [f64::INFINITY; LANES],
            greatest: [f64::NEG_INFINITY; LANES],
            nearest: [f64::INFINITY; LANES],
            farthest: [0.0; LANES],
            nans: [0; LANES],
        };
        let (fours, rest) = values.as_chunks();
        fours.iter().for_each(|four| lanes.take(four));
        let counted: u64 = lanes.nans.iter().sum();
        if let Some(&last) = rest.last() {
            // A value that is looked at twice changes no extreme.
            let mut four = [last; LANES];
            four[..rest.len()].copy_from_slice(rest);
            lanes.take(&four);
        }
        let rest_nans = rest.iter().filter(|value| value.is_nan()).count();
        Self {
            values,
            least: lanes.least.into_iter().fold(f64::INFINITY, f64::min),
            greatest: lanes.greatest.into_iter().fold(f64::NEG_INFINITY, f64::max),
            nearest: lanes.nearest.into_iter().fold(f64::INFINITY, f64::min),
            farthest: lanes.farthest.into_iter().fold(0.0, f64::max),
            nans: counted as usize + rest_nans,
        }
    }

    /// The values.
    pub(crate) fn values(&self) -> &'a [f64] {
        self.values
    }

    /// How many are NaN.
    pub(crate) fn nans(&self) -> usize {
        self.nans
    }

    /// The least and the greatest by the total order, where −0.0 is before 0.0; none over nothing but NaN.
    pub(crate) fn extremes(&self) -> Option<(f64, f64)> {
        if self.nans == self.values.len() {
            return None;
        }
        // Comparisons hold both zeros for the same.
        let has = |zero: f64| self.values.iter().any(|value| value.to_bits() == zero.to_bits());
        let least = match self.least == 0.0 {
            true if has(-0.0) => -0.0,
            true => 0.0,
            false => self.least,
        };
        let greatest = match self.greatest == 0.0 {
            true if has(0.0) => 0.0,
            true => -0.0,
            false => self.greatest,
        };
        Some((least, greatest))
    }

    /// The exact sum; none if a value is not finite, or magnitudes lie too far apart to be added at once.
    pub(crate) fn sum(&self) -> Option<BlockSum> {
        let exponent = |magnitude: f64| ((magnitude.to_bits() >> FRACTION_BITS) & SPECIAL_EXPONENT) as usize;
        // What is nearly zero has the least exponent, whose unit is that of the next.
        let greatest = exponent(self.farthest).max(1);
        if self.nans > 0 || greatest == SPECIAL_EXPONENT as usize {
            return None;
        }
        // All of them zero: any will do.
        let least = exponent(self.nearest).max(1).min(greatest);
        if greatest - least >= SPREAD {
            return None;
        }
        let mut sums = [[0i64; SPREAD]; 2];
        let add = |sums: &mut [i64; SPREAD], value: f64| {
            let bits = value.to_bits();
            let own = ((bits >> FRACTION_BITS) & SPECIAL_EXPONENT) as usize;
            let mantissa = (bits & ((1 << FRACTION_BITS) - 1)) | (u64::from(own != 0) << FRACTION_BITS);
            // All ones where it is negative.
            let sign = (bits as i64) >> (i64::BITS - 1);
            // Zeros add nothing, wherever that is.
            sums[own.max(1).wrapping_sub(least) % SPREAD] += (mantissa as i64 ^ sign) - sign;
        };
        // In turn into two of them: values alike would wait for each other.
        let (pairs, rest) = self.values.as_chunks();
        let [even, odd] = &mut sums;
        for &[one, other] in pairs {
            add(even, one);
            add(odd, other);
        }
        rest.iter().for_each(|value| add(even, *value));
        let units = (0..=greatest - least).map(|place| (i128::from(even[place]) + i128::from(odd[place])) << place);
        Some(BlockSum {
            units: units.sum(),
            shift: least - 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::exact_sum::parts;
    use proptest::prelude::*;

    fn any_value() -> impl Strategy<Value = f64> {
        prop_oneof![
            8 => -1e6..1e6f64,
            4 => (-1000i64..1000).prop_map(|cents| cents as f64 / 100.0),
            1 => any::<u64>().prop_map(f64::from_bits),
            2 => prop::sample::select(vec![0.0, -0.0]),
            1 => prop::sample::select(vec![
                f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, -5e-324,
            ]),
        ]
    }

    /// Values of one kind, so that most blocks have a sum, and of all kinds.
    fn any_block() -> impl Strategy<Value = Vec<f64>> {
        let sizes = || prop_oneof![0..9usize, 1_000..=BLOCK];
        let of = |values: BoxedStrategy<f64>| sizes().prop_flat_map(move |size| vec![values.clone(); size]);
        prop_oneof![
            of((-1000i64..1000).prop_map(|cents| cents as f64 / 100.0).boxed()),
            of((1u64..1 << 54).prop_map(f64::from_bits).boxed()),
            of(prop::sample::select(vec![0.0, -0.0]).boxed()),
            of((1.0..2.0f64).boxed()),
            of(any_value().boxed()),
        ]
    }

    proptest! {
        #[test]
        fn a_block_is_what_its_values_are(values in any_block()) {
            let block = FloatBlock::of(&values);
            prop_assert_eq!(block.nans(), values.iter().filter(|value| value.is_nan()).count());
            let mut numbers: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
            numbers.sort_by(f64::total_cmp);
            let bits = |(least, greatest): (f64, f64)| (least.to_bits(), greatest.to_bits());
            let extremes = numbers.first().copied().zip(numbers.last().copied());
            prop_assert_eq!(block.extremes().map(bits), extremes.map(bits));
            let Some(sum) = block.sum() else {
                let exponents = values.iter().filter(|value| **value != 0.0).map(|value| value.to_bits() << 1 >> 53);
                let (least, greatest) = (exponents.clone().min(), exponents.max());
                let is_wide = least.zip(greatest).is_some_and(|(least, greatest)| greatest - least.max(1) >= SPREAD as u64);
                prop_assert!(is_wide || values.iter().any(|value| !value.is_finite()), "{:?}", values);
                return Ok(());
            };
            let exact = values.iter().map(|value| {
                let (mantissa, shift) = parts(*value).unwrap();
                let magnitude = i128::from(mantissa) << shift.saturating_sub(sum.shift);
                if value.is_sign_negative() { -magnitude } else { magnitude }
            });
            prop_assert_eq!(sum.units, exact.sum::<i128>());
        }
    }

    #[test]
    fn a_full_block_of_the_greatest_mantissas_does_not_overflow() {
        let most = f64::from_bits(0x3fff_ffff_ffff_ffff);
        for value in [most, -most] {
            let values = [value; BLOCK];
            let sum = FloatBlock::of(&values).sum().unwrap();
            let (mantissa, shift) = parts(most).unwrap();
            let exact = i128::from(mantissa) * BLOCK as i128;
            assert_eq!((sum.units.abs(), sum.shift), (exact, shift));
        }
    }
}
