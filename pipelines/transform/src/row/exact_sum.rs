//! Exact sums of floats: the same bits whatever the order and the split of the values.
//!
//! Every finite `f64` is a whole multiple of 2⁻¹⁰⁷⁴, so a wide enough integer holds any sum of them without rounding
//! (U. Kulisch, *Computer Arithmetic and Validity*, 2008: the long accumulator; R. M. Neal, *Fast exact summation
//! using small and large superaccumulators*, arXiv:1505.05571, 2015). Integer addition is associative and
//! commutative, so partial sums merge in any order; rounding happens once, when the value is read.
//!
//! Cost model: the integer is kept as the run of 64-bit limbs that its values touch (Neal splits into 32-bit chunks to
//! postpone carries; here sums are short and stored, so carries are propagated at once and the run stays small).
//! Adding a value touches two limbs plus the carry; runs of up to four limbs, which hold values within a factor of
//! about 2¹⁹⁰ of one another, live inline without allocation.

use smallvec::SmallVec;

/// Bits of a limb.
const LIMB: usize = u64::BITS as usize;
/// Bytes of a limb.
const LIMB_BYTES: usize = 8;
/// Stored bits of a double's fraction; the leading one is implied.
const FRACTION_BITS: u32 = 52;
/// The exponent field of infinities and NaN.
const SPECIAL_EXPONENT: u64 = 0x7ff;
/// First byte position past the widest sum: 2⁶⁴ times the largest double needs 2,163 bits with its sign.
pub(crate) const MAX_BYTES: usize = 272;

/// Limbs of a run that live inline.
const INLINE: usize = 4;

type Limbs = SmallVec<[u64; INLINE]>;

/// The exact sum of a multiset of floats.
#[derive(Clone, Debug, Default)]
pub struct ExactSum {
    /// Two's complement limbs in units of 2⁻¹⁰⁷⁴, least significant first; none is zero. Not necessarily minimal.
    limbs: Limbs,
    /// Place of the first limb: it weighs 2^(64 · low) units.
    low: usize,
    /// What is no finite number, if anything was not.
    special: Option<Box<Special>>,
}

/// The sum of many sums, most of them near the first: those are added into a run of fixed width and place, which costs
/// neither a search for their place nor a carry of unknown length.
#[derive(Debug, Default)]
pub(crate) struct Total {
    /// The place of the run, from the first sum on.
    place: Option<usize>,
    near: [u64; INLINE],
    /// Sums that do not fit the run.
    far: ExactSum,
}

/// Counts of the values that no integer can hold. Counts rather than flags, so that they can be taken out again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Special {
    pub(crate) nan: u64,
    pub(crate) infinite: u64,
    pub(crate) negative_infinite: u64,
}

impl ExactSum {
    /// Adds one value.
    pub fn add(&mut self, value: f64) {
        let bits = value.to_bits();
        let exponent = (bits >> FRACTION_BITS) & SPECIAL_EXPONENT;
        let fraction = bits & ((1 << FRACTION_BITS) - 1);
        if exponent == SPECIAL_EXPONENT {
            self.add_special(&Special::of(value));
            return;
        }
        let (mantissa, shift) = if exponent == 0 {
            (fraction, 0)
        } else {
            (fraction | (1 << FRACTION_BITS), exponent as usize - 1)
        };
        if mantissa == 0 {
            return;
        }
        let negative = value.is_sign_negative();
        let wide = u128::from(mantissa) << (shift % LIMB);
        let wide = if negative { wide.wrapping_neg() } else { wide };
        self.add_limbs(shift / LIMB, &[wide as u64, (wide >> LIMB) as u64]);
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
        self.add_limbs(other.low, &other.limbs);
    }

    /// Takes every value of `other` out; they were added before.
    pub fn remove(&mut self, other: &Self) {
        if let Some(special) = &other.special {
            self.add_special(&special.negated());
        }
        self.add_limbs(other.low, &negated(&other.limbs));
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
        if self.is_negative() {
            -self.round(&negated(&self.limbs))
        } else {
            self.round(&self.limbs)
        }
    }

    /// The sum's two's complement bytes, least significant first and as few as possible, with the place of the first
    /// (it weighs 256^place units); none is zero.
    pub(crate) fn bytes(&self) -> (usize, SmallVec<[u8; 32]>) {
        let mut bytes: SmallVec<[u8; 32]> = self.limbs.iter().flat_map(|limb| limb.to_le_bytes()).collect();
        while let [.., before, last] = bytes.as_slice() {
            if *last != sign_byte(*before) {
                break;
            }
            bytes.pop();
        }
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        if zeros == bytes.len() {
            return (0, SmallVec::new());
        }
        bytes.drain(..zeros);
        (self.low * LIMB_BYTES + zeros, bytes)
    }

    /// The sum whose [`Self::bytes`] are `(place, bytes)`; `None` if no sum's are.
    pub(crate) fn from_bytes(place: usize, bytes: &[u8], special: Special) -> Option<Self> {
        let special = (special != Special::default()).then(|| Box::new(special));
        let [first, .., last] = bytes else {
            // At most one byte: zero has none, and a place of its own means nothing.
            return match bytes {
                [] if place == 0 => Some(Self {
                    special,
                    ..Self::default()
                }),
                [byte] if *byte != 0 && place < MAX_BYTES => Some(Self::from_run(place, bytes, special)),
                _ => None,
            };
        };
        let before_last = bytes[bytes.len() - 2];
        let minimal = *first != 0 && *last != sign_byte(before_last);
        let fits = place.checked_add(bytes.len()).is_some_and(|end| end <= MAX_BYTES);
        (minimal && fits).then(|| Self::from_run(place, bytes, special))
    }

    pub(crate) fn special(&self) -> Special {
        self.special.as_deref().copied().unwrap_or_default()
    }

    fn from_run(place: usize, bytes: &[u8], special: Option<Box<Special>>) -> Self {
        let low = place / LIMB_BYTES;
        let skip = place % LIMB_BYTES;
        let fill = bytes.last().copied().map_or(0, sign_byte);
        if skip + bytes.len() <= INLINE * LIMB_BYTES {
            // What lives inline is laid out in one piece; nearly every stored sum does.
            let mut run = [[0; LIMB_BYTES]; INLINE];
            let flat = run.as_flattened_mut();
            flat[skip..].fill(fill);
            flat[skip..skip + bytes.len()].copy_from_slice(bytes);
            let used = (skip + bytes.len()).div_ceil(LIMB_BYTES);
            let limbs = Limbs::from_buf_and_len(run.map(u64::from_le_bytes), used);
            return Self { limbs, low, special };
        }
        let byte_at = |at: usize| {
            if at < skip {
                0
            } else {
                bytes.get(at - skip).copied().unwrap_or(fill)
            }
        };
        let limbs = (0..(skip + bytes.len()).div_ceil(LIMB_BYTES))
            .map(|limb| u64::from_le_bytes(std::array::from_fn(|byte| byte_at(limb * LIMB_BYTES + byte))))
            .collect();
        Self { limbs, low, special }
    }

    fn is_negative(&self) -> bool {
        self.limbs.last().is_some_and(|limb| is_negative(*limb))
    }

    fn add_special(&mut self, special: &Special) {
        let sum = self.special().plus(special);
        self.special = (sum != Special::default()).then(|| Box::new(sum));
    }

    /// Adds a two's complement run whose first limb stands at `place`.
    fn add_limbs(&mut self, place: usize, run: &[u64]) {
        let Some(top) = run.last() else { return };
        let run_negative = is_negative(*top);
        self.cover(place, place + run.len());
        let was_negative = self.is_negative();
        let extension = sign_limb(run_negative);
        let mut carry = false;
        for (at, limb) in self.limbs[place - self.low..].iter_mut().enumerate() {
            // Past the run only its sign goes on; a positive one without a carry changes nothing.
            let addend = match run.get(at) {
                Some(addend) => *addend,
                None if !carry && !run_negative => break,
                None if carry && run_negative => break,
                None => extension,
            };
            let (sum, first) = limb.overflowing_add(addend);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = first || second;
        }
        if was_negative == run_negative && self.is_negative() != was_negative {
            self.limbs.push(sign_limb(was_negative));
        }
    }

    /// Widens the run to include the places `[from, to)`.
    fn cover(&mut self, from: usize, to: usize) {
        if self.limbs.is_empty() {
            self.low = from;
        }
        if from < self.low {
            self.limbs.insert_many(0, std::iter::repeat_n(0, self.low - from));
            self.low = from;
        }
        let length = to - self.low;
        if length > self.limbs.len() {
            let fill = sign_limb(self.is_negative());
            self.limbs.resize(length, fill);
        }
    }

    /// The double nearest to the magnitude `limbs`, which stand where this sum's do.
    fn round(&self, limbs: &[u64]) -> f64 {
        let Some(top) = limbs.iter().rposition(|limb| *limb != 0) else {
            return 0.0;
        };
        let top_bit = (self.low + top) * LIMB + limbs[top].ilog2() as usize;
        let Some(shift) = top_bit.checked_sub(FRACTION_BITS as usize).filter(|shift| *shift > 0) else {
            // Below 2⁵³ units the units themselves are the bits, subnormal or not.
            return f64::from_bits(self.bits_at(limbs, 0));
        };
        if shift + 1 >= SPECIAL_EXPONENT as usize {
            return f64::INFINITY;
        }
        let mantissa = self.bits_at(limbs, shift);
        let half = self.bits_at(limbs, shift - 1) & 1 == 1;
        let above_half = half && self.any_below(limbs, shift - 1);
        let up = half && (above_half || mantissa & 1 == 1);
        // The implied leading one carries into the exponent field, as does rounding up to the next power of two (and
        // from the largest double to infinity).
        f64::from_bits(((shift as u64) << FRACTION_BITS) + mantissa + u64::from(up))
    }

    /// The 64 bits of `limbs` from bit `from` (of the whole integer, not of the run) upwards.
    fn bits_at(&self, limbs: &[u64], from: usize) -> u64 {
        let limb = |place: usize| {
            place
                .checked_sub(self.low)
                .and_then(|at| limbs.get(at))
                .copied()
                .unwrap_or(0)
        };
        let (place, offset) = (from / LIMB, from % LIMB);
        let wide = u128::from(limb(place)) | (u128::from(limb(place + 1)) << LIMB);
        (wide >> offset) as u64
    }

    /// Whether any bit of `limbs` below bit `end` is set.
    fn any_below(&self, limbs: &[u64], end: usize) -> bool {
        let whole = (end / LIMB).saturating_sub(self.low).min(limbs.len());
        let rest = match (end / LIMB).checked_sub(self.low).and_then(|at| limbs.get(at)) {
            Some(limb) => limb & ((1 << (end % LIMB)) - 1),
            None => 0,
        };
        rest != 0 || limbs[..whole].iter().any(|limb| *limb != 0)
    }
}

impl Total {
    /// Adds every value of `part`.
    pub(crate) fn merge(&mut self, part: &ExactSum) {
        let run = part.limbs.as_slice();
        if run.is_empty() || part.special.is_some() {
            self.far.merge(part);
            return;
        }
        // A limb below the first sum leaves room for smaller ones.
        let place = *self.place.get_or_insert(part.low.saturating_sub(1));
        let fits = |skip: &usize| skip + run.len() < INLINE;
        let Some(skip) = part.low.checked_sub(place).filter(fits) else {
            self.far.merge(part);
            return;
        };
        // The run's last limb holds signs and carries only: 2⁶³ sums fit.
        let extension = sign_limb(part.is_negative());
        let mut carry = false;
        for (at, limb) in self.near.iter_mut().enumerate() {
            let addend = match at.checked_sub(skip) {
                Some(at) => run.get(at).copied().unwrap_or(extension),
                None => 0,
            };
            let (sum, first) = limb.overflowing_add(addend);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = first || second;
        }
    }

    /// Adds one value.
    pub(crate) fn add(&mut self, value: f64) {
        self.far.add(value);
    }

    /// The sum of all that was added, as [`ExactSum::value`].
    pub(crate) fn value(mut self) -> f64 {
        if let Some(place) = self.place {
            self.far.add_limbs(place, &self.near);
        }
        self.far.value()
    }
}

/// Equal when the exact sums are, however they are laid out.
impl PartialEq for ExactSum {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes() && self.special() == other.special()
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

/// The two's complement negation of a run, a limb longer where the least number has no opposite of its length.
fn negated(limbs: &[u64]) -> Limbs {
    let mut carry = true;
    let mut negated: Limbs = limbs
        .iter()
        .map(|limb| {
            let (sum, overflow) = (!limb).overflowing_add(u64::from(carry));
            carry = overflow;
            sum
        })
        .collect();
    if let (Some(before), Some(after)) = (limbs.last(), negated.last())
        && is_negative(*before)
        && is_negative(*after)
    {
        negated.push(0);
    }
    negated
}

const fn is_negative(limb: u64) -> bool {
    limb >> (LIMB - 1) == 1
}

const fn sign_limb(negative: bool) -> u64 {
    if negative { u64::MAX } else { 0 }
}

const fn sign_byte(byte: u8) -> u8 {
    if byte & 0x80 == 0 { 0 } else { 0xff }
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
        assert!(!sum.limbs.spilled());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(512), ..ProptestConfig::default() })]

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
