//! Exact arithmetic: whole numbers of any size, rounded once. Rounding is that of the decimal parser.

use num_bigint::{BigInt, Sign};

/// The power of two that [`units`] count.
pub(crate) const UNIT: i64 = -1074;

/// How many times 2⁻¹⁰⁷⁴ a finite number is. Scaling by powers of two until it is a small whole number is exact.
pub(crate) fn units(mut number: f64) -> BigInt {
    let (mut doublings, mut halvings) = (0u32, 0u32);
    while number.fract() != 0.0 {
        number *= 2.0;
        doublings += 1;
    }
    while number.abs() >= 9_007_199_254_740_992.0 {
        number /= 2.0;
        halvings += 1;
    }
    BigInt::from(number as i64) << (1074 + halvings - doublings)
}

/// `numerator / denominator · 2^exponent`, rounded to the nearest double; zero is positive.
pub(crate) fn ratio(numerator: &BigInt, denominator: &BigInt, exponent: i64) -> f64 {
    if numerator.sign() == Sign::NoSign {
        return 0.0;
    }
    // A quotient of more bits than any double has, whose last one stands for all that is below.
    let shift = (denominator.bits() + 80).saturating_sub(numerator.bits());
    let shifted = numerator.magnitude() << shift;
    let quotient = &shifted / denominator.magnitude();
    let is_exact = &quotient * denominator.magnitude() == shifted;
    let digits = (quotient << 1u8) + u8::from(!is_exact);
    let exponent = exponent - shift as i64 - 1;
    let magnitude: f64 = if exponent < 0 {
        // 2⁻ᵉ = 5ᵉ · 10⁻ᵉ: a decimal, exactly.
        let fives = num_bigint::BigUint::from(5u8).pow(u32::try_from(-exponent).unwrap());
        format!("{}e{exponent}", digits * fives)
    } else {
        (digits << u64::try_from(exponent).unwrap()).to_string()
    }
    .parse()
    .unwrap();
    if numerator.sign() == Sign::Minus {
        -magnitude
    } else {
        magnitude
    }
}

#[test]
fn ratios_are_rounded_once_to_nearest_even() {
    let of = |numerator: i64, denominator: i64, exponent| {
        ratio(&BigInt::from(numerator), &BigInt::from(denominator), exponent)
    };
    assert_eq!(of(1, 3, 0), 1.0 / 3.0);
    assert_eq!(of(-2, 3, 10), -2048.0 / 3.0);
    assert_eq!(of(0, 7, 5).to_bits(), 0);
    assert_eq!(of(1, 1, -1074), 5e-324);
    assert_eq!(of(1, 2, -1074), 0.0, "half of the least is a tie, and zero is even");
    assert_eq!(of(3, 2, -1074), 1e-323);
    assert_eq!(of(1, 1, 1024), f64::INFINITY);
    // Just above a tie.
    assert_eq!(of((1 << 53) + 1, 1, 0), 9_007_199_254_740_992.0);
    let above = (BigInt::from((1i64 << 53) + 1) << 200u8) + 1;
    assert_eq!(ratio(&above, &(BigInt::from(1) << 200u8), 0), 9_007_199_254_740_994.0);
    assert_eq!(units(0.1 + 0.2), units(0.300_000_000_000_000_04));
}
