//! Variances from exact sums, rounded once.
//!
//! With n values, their sum S₁ and the sum S₂ of their squares, the variance is (n·S₂ − S₁²) / (n·(n − 1)), or over n² of
//! a whole population. In floating point this formula cancels catastrophically (T. F. Chan, G. H. Golub, R. J. LeVeque,
//! *Algorithms for computing the sample variance*, The American Statistician 37(3), 1983); over exact sums it is a
//! quotient of two integers, and the only error is the last rounding. So it is the same in any order and any split,
//! and no window needs a correction when a tile leaves it.

use super::exact_sum::parts;
use super::rounding::nearest;
use super::wide::{LIMB, Wide};
use smallvec::SmallVec;

/// First byte position past the widest sum of squares: 2⁶⁴ times the square of the largest double, in units of 2⁻²¹⁴⁸,
/// needs 4,261 bits with its sign.
pub(crate) const MAX_BYTES: usize = 536;

type Limbs = SmallVec<[u64; 16]>;

/// What is asked of the spread of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spread {
    /// Of a sample (over n − 1), rather than of the whole population (over n).
    pub(crate) is_sample: bool,
    /// The standard deviation, rather than the variance.
    pub(crate) is_root: bool,
}

/// The power of two that a unit of S₁ is: S₂ is in units of its square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Integers.
    One,
    /// Doubles: 2⁻¹⁰⁷⁴.
    Least,
}

impl Wide {
    /// Adds the square of an integer, in units of 1.
    pub(crate) fn add_square_of_integer(&mut self, value: i64) {
        let magnitude = u128::from(value.unsigned_abs());
        self.add_shifted(magnitude * magnitude, 0, false);
    }

    /// Adds the square of a double, in units of 2⁻²¹⁴⁸. What is not finite has none: the sum of the values tells.
    pub(crate) fn add_square_of_float(&mut self, value: f64) {
        if let Some((mantissa, shift)) = parts(value) {
            self.add_shifted(u128::from(mantissa) * u128::from(mantissa), 2 * shift, false);
        }
    }
}

impl Spread {
    /// Of `count` values with these sums; none of too few.
    pub(crate) fn of(self, count: u64, sum: &Wide, squares: &Wide, unit: Unit) -> Option<f64> {
        if !self.is_defined(count) {
            return None;
        }
        let variance = variance(count, sum, squares, unit, self.is_sample);
        Some(if self.is_root { variance.sqrt() } else { variance })
    }

    /// Whether `count` values have one.
    pub(crate) fn is_defined(self, count: u64) -> bool {
        count > u64::from(self.is_sample)
    }
}

/// NaN if the sums are of no values at all: rows that were tampered with.
fn variance(count: u64, sum: &Wide, squares: &Wide, unit: Unit, is_sample: bool) -> f64 {
    if squares.is_negative() {
        return f64::NAN;
    }
    let numerator = sum.read_magnitude(|sum_place, sum| {
        squares.read_magnitude(|squares_place, squares| {
            let place = (2 * sum_place).min(squares_place);
            let mut numerator = Limbs::from_elem(0, squares_place - place);
            times(squares, count, &mut numerator);
            subtract_square(&mut numerator, sum, 2 * sum_place - place)?;
            Some((place, numerator))
        })
    });
    let Some((place, mut numerator)) = numerator else {
        return f64::NAN;
    };
    let zeros = numerator.iter().rev().take_while(|limb| **limb == 0).count();
    numerator.truncate(numerator.len() - zeros);
    if numerator.is_empty() {
        return 0.0;
    }
    // With three limbs below, the quotient by 128 bits has more bits than a double.
    const BELOW: usize = 3;
    let below = if numerator.len() > BELOW { 0 } else { BELOW };
    numerator.insert_many(0, std::iter::repeat_n(0, below));
    let other = if is_sample { count - 1 } else { count };
    let remains = match count.checked_mul(other) {
        Some(both) => divide(&mut numerator, both),
        None => divide(&mut numerator, count) | divide(&mut numerator, other),
    };
    let unit = match unit {
        Unit::One => 0,
        Unit::Least => -2148,
    };
    let exponent = unit + (LIMB * place) as i64 - (LIMB * below) as i64;
    nearest(&numerator, exponent, remains)
}

/// Appends `limbs · factor` to `product`.
fn times(limbs: &[u64], factor: u64, product: &mut Limbs) {
    let mut carry = 0;
    for limb in limbs {
        let wide = u128::from(*limb) * u128::from(factor) + u128::from(carry);
        product.push(wide as u64);
        carry = (wide >> LIMB) as u64;
    }
    product.push(carry);
}

/// Takes the square of `limbs`, which stands at limb `place`, from `number`; `None` if it is greater.
fn subtract_square(number: &mut Limbs, limbs: &[u64], place: usize) -> Option<()> {
    let mut square = Limbs::from_elem(0, 2 * limbs.len());
    for (at, left) in limbs.iter().enumerate() {
        let mut carry = 0;
        for (to, right) in square[at..].iter_mut().zip(limbs.iter().chain([&0])) {
            let wide = u128::from(*left) * u128::from(*right) + u128::from(*to) + u128::from(carry);
            *to = wide as u64;
            carry = (wide >> LIMB) as u64;
        }
    }
    let length = number.len().max(place + square.len());
    number.resize(length, 0);
    let mut borrow = false;
    for (at, limb) in number[place..].iter_mut().enumerate() {
        let (difference, first) = limb.overflowing_sub(square.get(at).copied().unwrap_or(0));
        let (difference, second) = difference.overflowing_sub(u64::from(borrow));
        *limb = difference;
        borrow = first || second;
    }
    (!borrow).then_some(())
}

/// Divides `number` in place; whether something remains.
fn divide(number: &mut [u64], divisor: u64) -> bool {
    let mut remainder = 0;
    for limb in number.iter_mut().rev() {
        let wide = (u128::from(remainder) << LIMB) | u128::from(*limb);
        *limb = (wide / u128::from(divisor)) as u64;
        remainder = (wide % u128::from(divisor)) as u64;
    }
    remainder != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use num_bigint::{BigInt, BigUint};
    use proptest::prelude::*;

    const VARIANCE: Spread = Spread {
        is_sample: true,
        is_root: false,
    };
    const POPULATION: Spread = Spread {
        is_sample: false,
        is_root: false,
    };

    fn sums_of_floats(values: &[f64]) -> (Wide, Wide) {
        let sum: super::super::ExactSum = values.iter().copied().collect();
        let mut squares = Wide::default();
        values.iter().for_each(|value| squares.add_square_of_float(*value));
        (sum.finite().unwrap().clone(), squares)
    }

    fn of_floats(spread: Spread, values: &[f64]) -> Option<f64> {
        let (sum, squares) = sums_of_floats(values);
        spread.of(values.len() as u64, &sum, &squares, Unit::Least)
    }

    fn of_integers(spread: Spread, values: &[i64]) -> Option<f64> {
        let (mut sum, mut squares) = (Wide::default(), Wide::default());
        for value in values {
            sum.add_shifted(u128::from(value.unsigned_abs()), 0, *value < 0);
            squares.add_square_of_integer(*value);
        }
        spread.of(values.len() as u64, &sum, &squares, Unit::One)
    }

    /// A finite double as a whole number of 2⁻¹⁰⁷⁴.
    fn units(value: f64) -> BigInt {
        let (mantissa, shift) = parts(value).unwrap();
        let magnitude = BigInt::from(mantissa) << shift;
        if value < 0.0 { -magnitude } else { magnitude }
    }

    /// The double nearest to `numerator / denominator · 2^(2 · exponent)`, by comparing distances with neighbours.
    fn nearest_quotient(numerator: &BigInt, denominator: u64, unit: u32) -> f64 {
        // Everything in units of 2⁻²¹⁴⁸ / denominator.
        let scaled = numerator.magnitude().clone() << (2148 - unit);
        let of = |bits: u64| {
            let value = f64::from_bits(bits);
            let magnitude = if value.is_infinite() {
                BigUint::from(1u8) << 2098
            } else {
                units(value).magnitude().clone()
            };
            (magnitude << 1074) * denominator
        };
        let (mut low, mut high) = (0u64, f64::INFINITY.to_bits());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if of(middle) <= scaled {
                low = middle;
            } else {
                high = middle;
            }
        }
        if of(high) <= scaled {
            return f64::INFINITY;
        }
        let (below, above) = (&scaled - of(low), of(high) - &scaled);
        f64::from_bits(if below < above || (below == above && low % 2 == 0) {
            low
        } else {
            high
        })
    }

    fn expected(values: &[BigInt], unit: u32, is_sample: bool) -> f64 {
        let n = values.len() as u64;
        let sum: BigInt = values.iter().sum();
        let squares: BigInt = values.iter().map(|value| value * value).sum();
        let numerator = BigInt::from(n) * squares - &sum * &sum;
        nearest_quotient(&numerator, n * if is_sample { n - 1 } else { n }, unit)
    }

    #[test]
    fn known_variances() {
        assert_eq!(of_integers(VARIANCE, &[5, 7, 3]), Some(4.0));
        assert_eq!(of_floats(VARIANCE, &[5.0, 7.0, 3.0]), Some(4.0));
        let root = Spread {
            is_root: true,
            ..VARIANCE
        };
        assert_eq!(of_floats(root, &[5.0, 7.0, 3.0]), Some(2.0));
        assert_eq!(of_floats(POPULATION, &[1.0, 3.0]), Some(1.0));
        // The same spread far from zero, where squares in floating point have lost it.
        assert_eq!(
            of_floats(VARIANCE, &[1e9 + 4.0, 1e9 + 7.0, 1e9 + 13.0, 1e9 + 16.0]),
            Some(30.0)
        );
    }

    #[test]
    fn too_few_values_have_none() {
        assert_eq!(of_floats(VARIANCE, &[1.0]), None);
        assert_eq!(of_floats(POPULATION, &[1.0]), Some(0.0));
        assert_eq!(of_floats(POPULATION, &[]), None);
    }

    #[test]
    fn the_range_is_that_of_doubles() {
        assert_eq!(of_floats(VARIANCE, &[f64::MAX, f64::MIN]), Some(f64::INFINITY));
        assert_eq!(of_floats(VARIANCE, &[5e-324, 0.0]), Some(0.0));
        assert_eq!(of_floats(VARIANCE, &[f64::MAX, f64::MAX]), Some(0.0));
        assert_eq!(
            of_integers(POPULATION, &[i64::MAX, i64::MIN]),
            Some(8.507059173023462e37)
        );
    }

    #[test]
    fn sums_of_no_values_are_no_number() {
        let (sum, _) = sums_of_floats(&[5.0, 7.0]);
        assert!(VARIANCE.of(2, &sum, &Wide::default(), Unit::Least).unwrap().is_nan());
    }

    fn any_finite() -> impl Strategy<Value = f64> {
        prop_oneof![
            3 => any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |value| value.is_finite()),
            4 => -1e6..1e6f64,
            2 => (-1000i64..1000).prop_map(|cents| cents as f64 / 100.0),
            2 => (0u64..(1 << 40)).prop_map(|bits| f64::from_bits((489 << 52) + bits)),
            1 => prop::sample::select(vec![0.0, -0.0, f64::MAX, f64::MIN, 5e-324, 1e-162, 2e-162, 1e154, 2e154]),
        ]
    }

    fn any_integer() -> impl Strategy<Value = i64> {
        prop_oneof![any::<i64>(), -100i64..100, Just(i64::MIN), Just(i64::MAX)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(512), ..ProptestConfig::default() })]

        #[test]
        fn variances_of_floats_are_the_nearest_double(values in prop::collection::vec(any_finite(), 2..12)) {
            let exact: Vec<BigInt> = values.iter().copied().map(units).collect();
            prop_assert_eq!(of_floats(VARIANCE, &values), Some(expected(&exact, 2148, true)));
            prop_assert_eq!(of_floats(POPULATION, &values), Some(expected(&exact, 2148, false)));
        }

        #[test]
        fn variances_of_integers_are_the_nearest_double(values in prop::collection::vec(any_integer(), 2..12)) {
            let exact: Vec<BigInt> = values.iter().copied().map(BigInt::from).collect();
            prop_assert_eq!(of_integers(VARIANCE, &values), Some(expected(&exact, 0, true)));
            prop_assert_eq!(of_integers(POPULATION, &values), Some(expected(&exact, 0, false)));
        }
    }
}
