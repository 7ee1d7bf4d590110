//! Exact sums of floats: the same bits whatever the order and the split of the values.
//!
//! Every finite `f64` is a whole multiple of 2⁻¹⁰⁷⁴, so a wide enough integer holds any sum of them without rounding
//! (U. Kulisch, *Computer Arithmetic and Validity*, 2008: the long accumulator; R. M. Neal, *Fast exact summation
//! using small and large superaccumulators*, arXiv:1505.05571, 2015). Integer addition is associative and
//! commutative, so partial sums merge in any order; rounding happens once, when the value is read.
//!
//! Neal splits into 32-bit chunks to postpone carries; here sums are short and stored, so carries are propagated at once
//! and the integer ([`Wide`]) stays small.

use super::float_block::{BLOCK, BlockSum, FloatBlock};
use super::rounding::nearest;
use super::wide::{LIMB, Wide, WideTotal};
use smallvec::SmallVec;

/// Stored bits of a double's fraction; the leading one is implied.
pub(crate) const FRACTION_BITS: u32 = 52;
/// The exponent field of infinities and NaN.
pub(crate) const SPECIAL_EXPONENT: u64 = 0x7ff;
/// First byte position past the widest sum: 2⁶⁴ times the largest double needs 2,163 bits with its sign.
pub(crate) const MAX_BYTES: usize = 272;
/// The power of two that a unit is.
const UNIT: i64 = -1074;

/// The exact sum of a multiset of floats.
#[derive(Clone, Debug, Default)]
pub struct ExactSum {
    /// In units of 2⁻¹⁰⁷⁴.
    finite: Wide,
    /// What is no finite number, if anything was not.
    special: Option<Box<Special>>,
}

/// The sum of many sums.
#[derive(Debug, Default)]
pub(crate) struct Total {
    finite: WideTotal,
    /// Sums that hold what is no finite number, and single values.
    rest: ExactSum,
}

/// Counts of the values that no integer can hold. Counts rather than flags, so that they can be taken out again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Special {
    pub(crate) nan: u64,
    pub(crate) infinite: u64,
    pub(crate) negative_infinite: u64,
}

/// The magnitude of a finite double: `mantissa · 2^(shift − 1074)`.
#[inline]
pub(crate) fn parts(value: f64) -> Option<(u64, usize)> {
    let bits = value.to_bits();
    let exponent = (bits >> FRACTION_BITS) & SPECIAL_EXPONENT;
    let fraction = bits & ((1 << FRACTION_BITS) - 1);
    match exponent {
        SPECIAL_EXPONENT => None,
        0 => Some((fraction, 0)),
        _ => Some((fraction | (1 << FRACTION_BITS), exponent as usize - 1)),
    }
}

impl ExactSum {
    /// Adds one value.
    #[inline]
    pub fn add(&mut self, value: f64) {
        let Some((mantissa, shift)) = parts(value) else {
            self.add_special(&Special::of(value));
            return;
        };
        if mantissa == 0 {
            return;
        }
        let wide = u128::from(mantissa) << (shift % LIMB);
        let wide = if value.is_sign_negative() {
            wide.wrapping_neg()
        } else {
            wide
        };
        self.finite
            .add_limbs(shift / LIMB, &[wide as u64, (wide >> LIMB) as u64]);
    }

    /// Adds every one of `values`: as [`Self::add`], several times as fast where magnitudes lie close together.
    pub fn add_all(&mut self, values: &[f64]) {
        for values in values.chunks(BLOCK) {
            self.add_block(&FloatBlock::of(values));
        }
    }

    /// As [`Self::add_all`], of what has been looked at already.
    pub(crate) fn add_block(&mut self, block: &FloatBlock<'_>) {
        match block.sum() {
            Some(BlockSum { units, shift }) => self.finite.add_shifted(units.unsigned_abs(), shift, units < 0),
            None => block.values().iter().for_each(|value| self.add(*value)),
        }
    }

    /// Takes one value out that was added before.
    pub fn subtract(&mut self, value: f64) {
        if value.is_finite() {
            self.add(-value);
        } else {
            self.add_special(&Special::of(value).negated());
        }
    }

    /// Adds every value of `other`.
    pub fn merge(&mut self, other: &Self) {
        if let Some(special) = &other.special {
            self.add_special(special);
        }
        self.finite.merge(&other.finite);
    }

    /// Takes every value of `other` out; they were added before.
    pub fn remove(&mut self, other: &Self) {
        if let Some(special) = &other.special {
            self.add_special(&special.negated());
        }
        self.finite.remove(&other.finite);
    }

    /// The sum, rounded once to the nearest double, ties to even. A sum of zero is `+0.0`, one beyond the largest
    /// double is infinite; a NaN, or infinities of both signs, make it NaN.
    pub fn value(&self) -> f64 {
        match self.special.as_deref() {
            Some(
                Special { nan: 1.., .. }
                | Special {
                    infinite: 1..,
                    negative_infinite: 1..,
                    ..
                },
            ) => return f64::NAN,
            Some(Special { infinite: 1.., .. }) => return f64::INFINITY,
            Some(Special {
                negative_infinite: 1.., ..
            }) => return f64::NEG_INFINITY,
            Some(_) | None => {}
        }
        let negative = self.finite.is_negative();
        self.finite
            .read_magnitude(|place, limbs| signed(negative, place, limbs))
    }

    /// The sum in units of 2⁻¹⁰⁷⁴; none if a value was no finite number.
    pub(crate) fn finite(&self) -> Option<&Wide> {
        match self.special {
            Some(_) => None,
            None => Some(&self.finite),
        }
    }

    /// The sum's two's complement bytes and their place: see [`Wide::bytes`].
    pub(crate) fn bytes(&self) -> (usize, SmallVec<[u8; 32]>) {
        self.finite.bytes()
    }

    /// The sum whose [`Self::bytes`] are `(place, bytes)`; `None` if no sum's are.
    #[inline]
    pub(crate) fn from_bytes(place: usize, bytes: &[u8], special: Special) -> Option<Self> {
        Some(Self {
            finite: Wide::from_bytes(place, bytes, MAX_BYTES)?,
            special: (special != Special::default()).then(|| Box::new(special)),
        })
    }

    pub(crate) fn special(&self) -> Special {
        self.special.as_deref().copied().unwrap_or_default()
    }

    fn add_special(&mut self, special: &Special) {
        let sum = self.special().plus(special);
        self.special = (sum != Special::default()).then(|| Box::new(sum));
    }
}

impl Total {
    /// Adds every value of `part`.
    #[inline]
    pub(crate) fn merge(&mut self, part: &ExactSum) {
        if part.special.is_some() {
            self.rest.merge(part);
        } else {
            self.finite.merge(&part.finite);
        }
    }

    /// Adds one value.
    pub(crate) fn add(&mut self, value: f64) {
        self.rest.add(value);
    }

    /// As [`ExactSum::value`] of all that was added.
    #[inline]
    pub(crate) fn value(self) -> f64 {
        if self.rest.special.is_none() && self.rest.finite.is_untouched() {
            let near = self.finite.read_near(signed);
            if let Some(value) = near {
                return value;
            }
        }
        self.into_sum().value()
    }

    /// The sum of all that was added.
    #[inline]
    pub(crate) fn into_sum(self) -> ExactSum {
        let mut sum = self.rest;
        let finite = self.finite.into_wide();
        if sum.finite.is_untouched() {
            sum.finite = finite;
        } else {
            sum.finite.merge(&finite);
        }
        sum
    }
}

/// The double nearest to a magnitude of 2⁻¹⁰⁷⁴ units. A negative integer is never zero, so no sum is −0.0.
fn signed(negative: bool, place: usize, limbs: &[u64]) -> f64 {
    let magnitude = nearest(limbs, (LIMB * place) as i64 + UNIT, false);
    if negative { -magnitude } else { magnitude }
}

/// Equal when the exact sums are, however they are laid out.
impl PartialEq for ExactSum {
    fn eq(&self, other: &Self) -> bool {
        self.finite == other.finite && self.special() == other.special()
    }
}

impl Eq for ExactSum {}

impl FromIterator<f64> for ExactSum {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut sum = Self::default();
        values.into_iter().for_each(|value| sum.add(value));
        sum
    }
}

impl Special {
    fn of(value: f64) -> Self {
        Self {
            nan: u64::from(value.is_nan()),
            infinite: u64::from(value == f64::INFINITY),
            negative_infinite: u64::from(value == f64::NEG_INFINITY),
        }
    }

    /// Wrapping, so that taking out undoes adding in any order.
    fn plus(&self, other: &Self) -> Self {
        Self {
            nan: self.nan.wrapping_add(other.nan),
            infinite: self.infinite.wrapping_add(other.infinite),
            negative_infinite: self.negative_infinite.wrapping_add(other.negative_infinite),
        }
    }

    fn negated(&self) -> Self {
        Self {
            nan: self.nan.wrapping_neg(),
            infinite: self.infinite.wrapping_neg(),
            negative_infinite: self.negative_infinite.wrapping_neg(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use num_bigint::{BigInt, Sign};
    use proptest::prelude::*;

    /// A finite double as a whole number of 2⁻¹⁰⁷⁴, built from powers of two rather than from bit runs.
    fn units(value: f64) -> BigInt {
        let bits = value.to_bits();
        let exponent = (bits >> 52) & 0x7ff;
        let fraction = BigInt::from(bits & ((1 << 52) - 1));
        let magnitude = match exponent {
            0 => fraction,
            _ => (fraction + (BigInt::from(1) << 52)) << (exponent - 1),
        };
        if value < 0.0 { -magnitude } else { magnitude }
    }

    /// The double nearest to `units`, by comparing distances with exact neighbours.
    fn nearest(units_sum: &BigInt) -> f64 {
        let magnitude = units_sum.magnitude().clone();
        let magnitude = BigInt::from_biguint(Sign::Plus, magnitude);
        let (mut low, mut high) = (0u64, f64::INFINITY.to_bits());
        // The greatest double not above the magnitude; the bits of positive doubles are ordered as they are.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if units(f64::from_bits(middle)) <= magnitude {
                low = middle;
            } else {
                high = middle;
            }
        }
        let above = if f64::from_bits(high).is_infinite() {
            BigInt::from(1) << 2098
        } else {
            units(f64::from_bits(high))
        };
        let below_distance = &magnitude - units(f64::from_bits(low));
        let above_distance = above - &magnitude;
        let bits = if below_distance < above_distance || (below_distance == above_distance && low % 2 == 0) {
            low
        } else {
            high
        };
        let value = f64::from_bits(bits);
        if units_sum.sign() == Sign::Minus { -value } else { value }
    }

    fn any_finite() -> impl Strategy<Value = f64> {
        prop_oneof![
            4 => any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |value| value.is_finite()),
            4 => -1e6..1e6f64,
            2 => (-1000i64..1000).prop_map(|cents| cents as f64 / 100.0),
            1 => prop::sample::select(vec![
                0.0, -0.0, f64::MAX, f64::MIN, f64::MIN_POSITIVE, -f64::MIN_POSITIVE, 5e-324, -5e-324, 1.0, -1.0,
                9007199254740992.0, 9007199254740993.0, 0.1, -0.1,
            ]),
            1 => (0u64..(1 << 53)).prop_map(f64::from_bits),
        ]
    }

    fn check(values: &[f64]) {
        let sum: ExactSum = values.iter().copied().collect();
        let exact: BigInt = values.iter().copied().map(units).sum();
        assert_eq!(sum.value().to_bits(), (nearest(&exact) + 0.0).to_bits(), "{values:?}");
        let (place, bytes) = sum.bytes();
        assert_eq!(BigInt::from_signed_bytes_le(&bytes) << (8 * place), exact, "{values:?}");
    }

    #[test]
    fn sums_round_once_to_nearest_even() {
        check(&[]);
        check(&[0.1; 10]);
        check(&[9007199254740992.0, 1.0]);
        check(&[9007199254740992.0, 1.0, 5e-324]);
        check(&[9007199254740994.0, 1.0]);
        check(&[-9007199254740992.0, -1.0, -5e-324]);
        check(&[1e300, 1.0, -1e300]);
    }

    #[test]
    fn sums_reach_subnormals_and_overflow_to_infinity() {
        check(&[5e-324, 5e-324]);
        check(&[f64::MIN_POSITIVE, -5e-324]);
        check(&[f64::MAX, f64::MAX]);
        check(&[f64::MIN, f64::MIN]);
        check(&[f64::MAX, 9.9e291]);
        check(&[f64::MAX, f64::MAX, f64::MIN]);
        assert_eq!(
            [f64::MAX, f64::MAX].into_iter().collect::<ExactSum>().value(),
            f64::INFINITY
        );
    }

    #[test]
    fn nan_and_infinities_decide_the_sum() {
        let value = |values: &[f64]| values.iter().copied().collect::<ExactSum>().value();
        assert!(value(&[1.0, f64::NAN]).is_nan());
        assert!(value(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
        assert_eq!(value(&[f64::INFINITY, f64::MIN]), f64::INFINITY);
        assert_eq!(value(&[f64::NEG_INFINITY, 1.0]), f64::NEG_INFINITY);
    }

    #[test]
    fn what_is_taken_out_leaves_no_trace() {
        let mut sum: ExactSum = [1.5, f64::NAN, 1e300].into_iter().collect();
        sum.subtract(f64::NAN);
        sum.subtract(1e300);
        assert_eq!(sum, [1.5].into_iter().collect());
        assert_eq!(sum.value(), 1.5);
    }

    #[test]
    fn typical_sums_do_not_allocate() {
        let sum: ExactSum = (0..10_000).map(|cents| f64::from(cents) / 100.0).collect();
        assert!(!sum.finite.is_spilled());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(512), ..ProptestConfig::default() })]

        #[test]
        fn many_values_at_once_are_the_sum_of_each(
            values in prop::collection::vec(
                prop_oneof![
                    30 => any_finite(),
                    60 => -2.0..2.0f64,
                    1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY]),
                ],
                0..40,
            ),
            repeated in 1..80usize,
        ) {
            let values = values.repeat(repeated);
            let mut at_once = ExactSum::default();
            at_once.add_all(&values);
            let each: ExactSum = values.iter().copied().collect();
            prop_assert_eq!((at_once.bytes(), at_once.special()), (each.bytes(), each.special()));
        }

        #[test]
        fn sums_equal_big_integer_sums(values in prop::collection::vec(any_finite(), 0..40)) {
            check(&values);
        }

        #[test]
        fn order_and_splits_never_matter(
            values in prop::collection::vec(prop_oneof![20 => any_finite(), 1 => prop::num::f64::ANY], 0..40),
            split in 0usize..40,
            rotation in 0usize..40,
        ) {
            let whole: ExactSum = values.iter().copied().collect();
            let mut turned = values.clone();
            turned.rotate_left(rotation.min(values.len()));
            let (left, right) = turned.split_at(split.min(turned.len()));
            let mut merged: ExactSum = left.iter().copied().collect();
            let right: ExactSum = right.iter().copied().collect();
            merged.merge(&right);
            prop_assert_eq!(merged.value().to_bits(), whole.value().to_bits());
            prop_assert_eq!(merged.bytes(), whole.bytes());
            prop_assert_eq!(&merged, &whole);
            merged.remove(&right);
            prop_assert_eq!(merged, left.iter().copied().collect::<ExactSum>());
        }

        #[test]
        fn a_total_is_the_sum_of_its_parts(
            parts in prop::collection::vec(
                prop::collection::vec(prop_oneof![20 => any_finite(), 1 => prop::num::f64::ANY], 0..4),
                0..20,
            ),
        ) {
            let whole: ExactSum = parts.iter().flatten().copied().collect();
            let mut total = Total::default();
            parts.into_iter().for_each(|part| total.merge(&part.into_iter().collect()));
            prop_assert_eq!(total.value().to_bits(), whole.value().to_bits());
        }

        #[test]
        fn bytes_round_trip(values in prop::collection::vec(any_finite(), 0..10)) {
            let sum: ExactSum = values.into_iter().collect();
            let (place, bytes) = sum.bytes();
            prop_assert_eq!(ExactSum::from_bytes(place, &bytes, sum.special()), Some(sum));
        }

        #[test]
        fn bytes_that_are_read_are_the_bytes_written(place in 0usize..300, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(sum) = ExactSum::from_bytes(place, &bytes, Special::default()) {
                let (place_again, bytes_again) = sum.bytes();
                prop_assert_eq!((place_again, bytes_again.as_slice()), (place, bytes.as_slice()));
            }
        }
    }
}
