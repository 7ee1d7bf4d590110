//! Rounding, once: from an exact magnitude to the nearest double, ties to even (IEEE 754-2019, 4.3.1).

use super::wide::LIMB;

/// Stored bits of a double's fraction; the leading one is implied.
const FRACTION_BITS: i64 = 52;
/// The exponent of the last bit of the smallest doubles.
const LEAST_EXPONENT: i64 = -1074;
/// The exponent of the leading bit of the largest doubles.
const GREATEST_EXPONENT: i64 = 1023;

/// The double nearest to the magnitude `limbs` (least significant first), whose bit 0 weighs 2^`exponent`, and, if
/// `more`, a little more: less than that bit. Infinite beyond the largest double.
pub(crate) fn nearest(limbs: &[u64], exponent: i64, more: bool) -> f64 {
    let Some(top) = limbs.iter().rposition(|limb| *limb != 0) else {
        return 0.0;
    };
    let leading = exponent + (top * LIMB) as i64 + i64::from(limbs[top].ilog2());
    if leading > GREATEST_EXPONENT {
        return f64::INFINITY;
    }
    // The exponent of the last bit that a double of this size has.
    let last = (leading - FRACTION_BITS).max(LEAST_EXPONENT);
    let (mantissa, up) = match usize::try_from(last - exponent) {
        Ok(0) => (bits_at(limbs, 0), false),
        Ok(cut) => {
            let mantissa = bits_at(limbs, cut);
            let half = bits_at(limbs, cut - 1) & 1 == 1;
            (
                mantissa,
                half && (mantissa & 1 == 1 || more || any_below(limbs, cut - 1)),
            )
        }
        // There are fewer bits than a double has, so what is `more` is below half of its last one, unless that is far
        // below: callers that have `more` bring bits enough.
        Err(_) => (bits_at(limbs, 0) << (exponent - last), false),
    };
    // The implied leading one carries into the exponent field, as does rounding up to the next power of two (and from
    // the largest double to infinity).
    f64::from_bits((((last - LEAST_EXPONENT) as u64) << FRACTION_BITS) + mantissa + u64::from(up))
}

/// The 64 bits of `limbs` from bit `from` upwards.
fn bits_at(limbs: &[u64], from: usize) -> u64 {
    let limb = |at: usize| limbs.get(at).copied().unwrap_or(0);
    let (at, offset) = (from / LIMB, from % LIMB);
    let wide = u128::from(limb(at)) | (u128::from(limb(at + 1)) << LIMB);
    (wide >> offset) as u64
}

/// Whether any bit of `limbs` below bit `end` is set.
fn any_below(limbs: &[u64], end: usize) -> bool {
    let whole = (end / LIMB).min(limbs.len());
    let rest = limbs.get(end / LIMB).map_or(0, |limb| limb & ((1 << (end % LIMB)) - 1));
    rest != 0 || limbs[..whole].iter().any(|limb| *limb != 0)
}
