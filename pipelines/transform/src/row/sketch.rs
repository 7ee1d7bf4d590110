//! A sketch of quantiles: any quantile of the values added, within 1 % of the exact one.
//!
//! This is DDSketch (C. Masson, J. E. Rim, H. K. Lee, *DDSketch: A fast and fully-mergeable quantile sketch with
//! relative-error guarantees*, PVLDB 12(12), 2019): numbers are counted in buckets whose bounds grow by a constant factor,
//! so every number of a bucket is within 1 % of its middle. Counts add up, so sketches merge in any order and any split.
//!
//! The published crates (`sketches-ddsketch`, `sketches-rust`) keep a contiguous run of buckets and collapse the outer
//! ones when it grows too long, which loses the bound and depends on the order of values, or hold the whole run; and they
//! place a number by `ln`, which differs in its last bit between platforms. Here buckets are sparse, over the whole range
//! of doubles, and a number's bucket follows from its bits by integer arithmetic: the same sketch of the same values
//! everywhere.
//!
//! **Buckets.** Within a power of two, at fraction x in [0, 1), the bucket is ⌊38 · x(4 − x)/3⌋: the quadratic
//! interpolation of the logarithm that the paper's authors use in their implementations. The slope of x(4 − x)/3 in ln(1 + x)
//! is least at both ends, 4/3, so a bucket spans at most a factor of e^(0.75/38), and its harmonic middle is within 0.987 %
//! of both its bounds. Below 2¹³ units of the smallest double each number has a bucket of its own, since a middle could
//! not be told from its bounds. There are 87,422 buckets on either side of zero.

use super::scalar::ScalarRef;

/// Buckets of a power of two.
const OCTAVE: u64 = 38;
/// Stored bits of a double's fraction.
const FRACTION_BITS: u32 = 52;
/// Doubles below this one, by their bits, have a bucket each.
const SINGLE: u64 = 1 << SINGLE_BITS;
const SINGLE_BITS: u32 = 13;
/// The bucket of +∞; that of −∞ is its opposite. Numbers lie between.
const INFINITE: i32 = (SINGLE + (2098 - SINGLE_BITS as u64) * OCTAVE) as i32;
/// How many buckets there are.
pub(crate) const BUCKETS: u64 = 2 * INFINITE as u64 + 2;
/// The bucket of NaN, which sorts above everything.
const NAN: i32 = INFINITE + 1;

/// How often values fell into each bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sketch {
    /// Ascending; no count is 0. Buckets ascend as their numbers do.
    counts: Vec<(i32, u64)>,
}

impl Sketch {
    /// Adds a number.
    pub(crate) fn add_scalar(&mut self, value: ScalarRef<'_>) {
        match value {
            ScalarRef::Int(value) => self.add(value as f64),
            ScalarRef::Float(value) => self.add(value),
            ScalarRef::Bool(_) | ScalarRef::Text(_) => debug_assert!(false, "a sketch took {value:?}"),
        }
    }

    pub(crate) fn add(&mut self, value: f64) {
        let bucket = bucket(value);
        match self.counts.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(at) => self.counts[at].1 = self.counts[at].1.wrapping_add(1),
            Err(at) => self.counts.insert(at, (bucket, 1)),
        }
    }

    /// All that `sketches` and `values` hold.
    pub(crate) fn merged<'a>(
        sketches: impl Iterator<Item = &'a Self>,
        values: impl Iterator<Item = ScalarRef<'a>>,
    ) -> Self {
        let mut merged = Self::default();
        for sketch in sketches {
            merged.counts.extend_from_slice(&sketch.counts);
        }
        merged.counts.sort_unstable_by_key(|(bucket, _)| *bucket);
        merged.counts.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 = kept.1.wrapping_add(next.1);
            }
            same
        });
        values.for_each(|value| merged.add_scalar(value));
        merged
    }

    /// The value of rank ⌊q · (n − 1)⌋ (the least has rank 0), for a `quantile` q in millionths; none over nothing.
    pub(crate) fn quantile(&self, quantile: u32) -> Option<f64> {
        let count: u128 = self.counts.iter().map(|(_, count)| u128::from(*count)).sum();
        let rank = u128::from(quantile) * count.checked_sub(1)? / 1_000_000;
        let mut below = 0;
        for (bucket, count) in &self.counts {
            below += u128::from(*count);
            if below > rank {
                return Some(middle(*bucket));
            }
        }
        None
    }

    /// Its buckets, ascending, and how often each was hit.
    pub(crate) fn counts(&self) -> &[(i32, u64)] {
        &self.counts
    }

    /// The number that stands for each bucket, ascending (NaN last), and how often it was hit.
    pub(crate) fn middles(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        self.counts.iter().map(|(bucket, count)| (middle(*bucket), *count))
    }

    /// The sketch with these [`Self::counts`]; `None` if no sketch has them.
    pub(crate) fn from_counts(counts: Vec<(i32, u64)>) -> Option<Self> {
        let are_buckets = counts
            .iter()
            .all(|(bucket, count)| *count > 0 && (-INFINITE..=NAN).contains(bucket));
        (are_buckets && counts.is_sorted_by(|before, after| before.0 < after.0)).then_some(Self { counts })
    }
}

/// The bucket that `value` falls into. Both zeros are one number.
fn bucket(value: f64) -> i32 {
    if value.is_nan() {
        return NAN;
    }
    let magnitude = magnitude_bucket(value.abs());
    if value < 0.0 { -magnitude } else { magnitude }
}

fn magnitude_bucket(value: f64) -> i32 {
    let bits = value.to_bits();
    if value.is_infinite() {
        return INFINITE;
    }
    if bits < SINGLE {
        return bits as i32;
    }
    // The power of two, counted from that of the smallest double; the fraction above it, in units of 2⁻⁵².
    let exponent = bits >> FRACTION_BITS;
    let fraction = bits & ((1 << FRACTION_BITS) - 1);
    let (octave, fraction) = if exponent == 0 {
        let leading = u64::from(fraction.ilog2());
        let above = fraction - (1 << leading);
        (leading, above << (u64::from(FRACTION_BITS) - leading))
    } else {
        (exponent + u64::from(FRACTION_BITS) - 1, fraction)
    };
    let x = u128::from(fraction);
    let within = u128::from(OCTAVE) * x * ((4 << FRACTION_BITS) - x) / (3 << (2 * FRACTION_BITS));
    (SINGLE + (octave - u64::from(SINGLE_BITS)) * OCTAVE + within as u64) as i32
}

/// The number that stands for a bucket: as far, relative to them, from its least as from its greatest.
fn middle(bucket: i32) -> f64 {
    match bucket {
        NAN => f64::NAN,
        INFINITE => f64::INFINITY,
        _ if bucket == -INFINITE => f64::NEG_INFINITY,
        _ if bucket < 0 => -magnitude_middle(bucket.unsigned_abs()),
        _ => magnitude_middle(bucket.unsigned_abs()),
    }
}

fn magnitude_middle(bucket: u32) -> f64 {
    let bucket = u64::from(bucket);
    let Some(above) = bucket.checked_sub(SINGLE) else {
        return f64::from_bits(bucket);
    };
    let octave = above / OCTAVE + u64::from(SINGLE_BITS);
    // Where x(4 − x)/3 reaches `at` of the octave's buckets, as 1 + x. Basic operations and square roots are the same
    // everywhere (IEEE 754-2019, 5.4.1).
    let bound = |at: u64| 3.0 - (4.0 - 3.0 * at as f64 / OCTAVE as f64).sqrt();
    let (low, high) = (bound(above % OCTAVE), bound(above % OCTAVE + 1));
    let significand = 2.0 * low * high / (low + high);
    // In two steps, since 2^octave units may be subnormal; the last one rounds.
    let exponent = octave as i32 - 1074;
    if exponent < -1022 {
        significand * power_of_two(exponent + 1074) * f64::from_bits(1)
    } else {
        significand * power_of_two(exponent)
    }
}

/// 2 to a power that a normal double has.
fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << FRACTION_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[f64]) -> Sketch {
        let mut sketch = Sketch::default();
        values.iter().for_each(|value| sketch.add(*value));
        sketch
    }

    fn check_near(found: f64, exact: f64) {
        let near = found == exact
            || (found.is_nan() && exact.is_nan())
            || ((found - exact).abs() <= exact.abs() * 0.01 && found.is_sign_negative() == exact.is_sign_negative());
        assert!(near, "{found:e} is not within 1 % of {exact:e}");
    }

    #[test]
    fn buckets_cover_the_range_of_doubles_in_their_order() {
        let mut bits: Vec<u64> = (0..2047u64)
            .flat_map(|exponent| (0..400).map(move |step| (exponent << 52) + step * ((1 << 52) / 400)))
            .chain(0..20_000)
            .chain((13..52).flat_map(|shift| (0..400).map(move |step| (1 << shift) + step * (1 << shift) / 400)))
            .chain([f64::MAX.to_bits(), f64::MIN_POSITIVE.to_bits() - 1])
            .collect();
        bits.sort_unstable();
        let mut previous = 0;
        for value in bits.into_iter().map(f64::from_bits) {
            let bucket = bucket(value);
            assert!(
                (previous..=previous + 1).contains(&bucket),
                "{value:e}: {bucket} after {previous}"
            );
            previous = bucket;
            check_near(middle(bucket), value);
            check_near(middle(super::bucket(-value)), -value);
        }
        assert_eq!(previous, INFINITE - 1);
    }

    #[test]
    fn what_is_no_number_stands_at_the_ends() {
        let sketch = of(&[f64::NAN, 1.0, f64::INFINITY, f64::NEG_INFINITY, -0.0]);
        let quantiles = [0, 250_000, 500_000, 750_000, 1_000_000].map(|q| sketch.quantile(q).unwrap());
        assert_eq!(
            (quantiles[0], quantiles[1], quantiles[3]),
            (f64::NEG_INFINITY, 0.0, f64::INFINITY)
        );
        check_near(quantiles[2], 1.0);
        assert!(quantiles[4].is_nan());
        assert_eq!(Sketch::default().quantile(500_000), None);
    }

    #[test]
    fn ranks_are_exact_where_floats_are_not() {
        // 0.29 · 100 is 28.999999999999996 in floats.
        let values: Vec<f64> = (0..101).map(|value| 1.05f64.powi(value)).collect();
        check_near(of(&values).quantile(290_000).unwrap(), values[29]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(512), ..ProptestConfig::default() })]

        #[test]
        fn quantiles_are_within_a_hundredth(
            mut values in prop::collection::vec(prop_oneof![any::<u64>().prop_map(f64::from_bits), -1e6..1e6f64], 1..60),
            quantile in 0u32..=1_000_000,
        ) {
            let found = of(&values).quantile(quantile).unwrap();
            values.iter_mut().filter(|value| value.is_nan()).for_each(|value| *value = f64::NAN);
            values.sort_unstable_by(f64::total_cmp);
            let rank = (values.len() as u64 - 1) * u64::from(quantile) / 1_000_000;
            check_near(found, values[rank as usize]);
        }

        #[test]
        fn order_and_splits_never_matter(
            values in prop::collection::vec(any::<u64>().prop_map(f64::from_bits), 0..40),
            split in 0usize..40,
        ) {
            let whole = of(&values);
            let (left, right) = values.split_at(split.min(values.len()));
            let parts = [of(right), of(left)];
            prop_assert_eq!(&Sketch::merged(parts.iter(), std::iter::empty()), &whole);
            let half = [of(left)];
            let merged = Sketch::merged(half.iter(), right.iter().map(|value| ScalarRef::float(*value)));
            prop_assert_eq!(&merged, &whole);
            prop_assert_eq!(Sketch::from_counts(whole.counts().to_vec()), Some(whole));
        }
    }
}
