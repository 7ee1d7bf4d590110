//! Sums over windows: differences of running sums, exact, each rounded once.
//!
//! Doubles whose magnitudes lie close enough together are whole numbers of one small unit and fit, all of a lane's added
//! up, into 127 bits: then a running sum is an integer, and so is a window's. Other lanes (of NaN, infinities, or of
//! magnitudes too far apart) slide an [`ExactSum`]. Both are the exact sum, rounded to the nearest double, ties to even.

use super::super::projection::Projection;
use super::lanes::Lanes;
use super::reach::Reach;
use super::reading::Take;
use crate::row::ExactSum;
use crate::row::exact_sum::parts;
use crate::view::column::Column;
use arrow::array::{ArrayRef, Int64Array};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use std::ops::Range;
use std::sync::Arc;

/// The bits of a double's significand.
const SIGNIFICAND_BITS: usize = 53;
/// Bits of a running sum beside its sign and one to spare.
const SUM_BITS: usize = 126;
/// The least shift whose unit is a normal double: 2⁻¹⁰²².
const LEAST_SHIFT: usize = 52;

/// The running sums of an argument.
pub(super) enum Total {
    /// Up to and with each event.
    Integers(Vec<i128>),
    Floats {
        values: Vec<f64>,
        taken: Option<BooleanBuffer>,
        /// Up to and with each event of its lane, in the lane's units.
        running: Vec<i128>,
        /// By lane; none where an integer can't hold the sums.
        units: Vec<Option<f64>>,
    },
}

/// The sums of one window, by moment.
pub(super) enum Totals {
    Integers(Vec<i128>),
    Floats(Vec<f64>),
}

impl Total {
    /// Of what `take` takes, `taken` of it; none if that is no number.
    pub(super) fn of(
        projection: &Projection,
        take: &Take,
        taken: Option<&BooleanBuffer>,
        lanes: &Lanes,
    ) -> Option<Self> {
        let is_taken = |event: usize| taken.is_none_or(|taken| taken.value(event));
        match projection.column(take.input?)? {
            Column::I32(array) => Some(Self::integers(
                array.values().iter().map(|value| i128::from(*value)),
                is_taken,
            )),
            Column::I64(array) => Some(Self::integers(
                array.values().iter().map(|value| i128::from(*value)),
                is_taken,
            )),
            Column::F32(array) => {
                let values = array.values().iter().map(|value| f64::from(*value)).collect();
                Some(Self::floats(values, taken, lanes))
            }
            Column::F64(array) => Some(Self::floats(array.values().to_vec(), taken, lanes)),
            Column::Bool(_) | Column::Timestamp(_) | Column::String(_) => None,
        }
    }

    fn integers(values: impl Iterator<Item = i128>, is_taken: impl Fn(usize) -> bool) -> Self {
        let mut sum = 0i128;
        let running = values.enumerate().map(|(event, value)| {
            if is_taken(event) {
                // Of a difference of two, what wrapped around comes back.
                sum = sum.wrapping_add(value);
            }
            sum
        });
        Self::Integers(running.collect())
    }

    fn floats(values: Vec<f64>, taken: Option<&BooleanBuffer>, lanes: &Lanes) -> Self {
        let is_taken = |event: usize| taken.is_none_or(|taken| taken.value(event));
        let mut running = Vec::with_capacity(values.len());
        let mut units = Vec::with_capacity(lanes.len());
        for lane in 0..lanes.len() {
            let events = lanes.range(lane);
            let shift = common_shift(&values, events.clone(), is_taken);
            let Some(least) = shift else {
                running.resize(events.end, 0);
                units.push(None);
                continue;
            };
            let mut sum = 0i128;
            for event in events {
                if is_taken(event)
                    && let Some((significand, shift)) = parts(values[event])
                    && significand > 0
                {
                    let magnitude = i128::from(significand) << (shift - least);
                    sum += if values[event].is_sign_negative() {
                        -magnitude
                    } else {
                        magnitude
                    };
                }
                running.push(sum);
            }
            // 2^(least − 1074), which is normal.
            units.push(Some(f64::from_bits(
                ((least - LEAST_SHIFT + 1) as u64) << (SIGNIFICAND_BITS - 1),
            )));
        }
        Self::Floats {
            values,
            taken: taken.cloned(),
            running,
            units,
        }
    }

    /// The sums over `window` at each moment.
    pub(super) fn of_window(&self, reach: &Reach, window: usize, lanes: &Lanes) -> Totals {
        let tails = reach.tails(window);
        match self {
            Self::Integers(running) => {
                let before = |event: u32| event.checked_sub(1).map_or(0, |last| running[last as usize]);
                let sum = |(tail, head): (&u32, &u32)| before(*head).wrapping_sub(before(*tail));
                Totals::Integers(tails.iter().zip(&reach.heads).map(sum).collect())
            }
            Self::Floats {
                values,
                taken,
                running,
                units,
            } => {
                let mut sums = Vec::with_capacity(tails.len());
                for (lane, unit) in units.iter().enumerate() {
                    let (slots, start) = (reach.slots(lane), lanes.range(lane).start as u32);
                    let ends = tails[slots.clone()].iter().zip(&reach.heads[slots]);
                    match unit {
                        Some(unit) => {
                            let before = |event: u32| if event > start { running[event as usize - 1] } else { 0 };
                            sums.extend(ends.map(|(tail, head)| (before(*head) - before(*tail)) as f64 * unit));
                        }
                        None => slide(values, taken.as_ref(), ends, &mut sums),
                    }
                }
                Totals::Floats(sums)
            }
        }
    }
}

/// The least shift of a lane's values (see [`parts`]), if all their sums fit into an integer of that unit.
fn common_shift(values: &[f64], events: Range<usize>, is_taken: impl Fn(usize) -> bool) -> Option<usize> {
    let carries = usize::BITS as usize - events.len().leading_zeros() as usize;
    let (mut least, mut greatest) = (usize::MAX, 0);
    for event in events {
        if !is_taken(event) {
            continue;
        }
        let (significand, shift) = parts(values[event])?;
        if significand > 0 {
            least = least.min(shift);
            greatest = greatest.max(shift);
        }
    }
    if least == usize::MAX {
        return Some(LEAST_SHIFT);
    }
    let fits = SIGNIFICAND_BITS + (greatest - least) + carries <= SUM_BITS && least >= LEAST_SHIFT;
    fits.then_some(least)
}

/// The sums of one lane, its values added and taken out again as the window moves.
fn slide<'a>(
    values: &[f64],
    taken: Option<&BooleanBuffer>,
    ends: impl Iterator<Item = (&'a u32, &'a u32)>,
    sums: &mut Vec<f64>,
) {
    let is_taken = |event: usize| taken.is_none_or(|taken| taken.value(event));
    let mut sum = ExactSum::default();
    let (mut from, mut to) = (0, 0);
    for (tail, head) in ends.map(|(tail, head)| (*tail as usize, *head as usize)) {
        if tail == head {
            // Perhaps not where the window is, but that nothing is in sight.
            sums.push(0.0);
            continue;
        }
        if tail >= to {
            sum = ExactSum::default();
            (from, to) = (tail, tail);
        }
        (to..head)
            .filter(|event| is_taken(*event))
            .for_each(|event| sum.add(values[event]));
        (from..tail)
            .filter(|event| is_taken(*event))
            .for_each(|event| sum.subtract(values[event]));
        (from, to) = (tail, head);
        sums.push(sum.value());
    }
}

impl Totals {
    /// Sums: null over nothing, and of integers beyond 64 bits.
    pub(super) fn sums(&self, counts: &[i64], reach: &Reach) -> ArrayRef {
        match self {
            Self::Floats(sums) => reach.floats(sums.clone(), counts),
            Self::Integers(sums) => {
                let narrow = |sum: &i128| i64::try_from(*sum);
                let values: Vec<i64> = sums.iter().map(|sum| narrow(sum).unwrap_or_default()).collect();
                let fits = BooleanBuffer::collect_bool(sums.len(), |at| counts[at] > 0 && narrow(&sums[at]).is_ok());
                let nulls = Some(NullBuffer::from(fits)).filter(|nulls| nulls.null_count() > 0);
                Arc::new(Int64Array::new(values.into(), nulls))
            }
        }
    }

    /// Means: each sum rounded once, divided once.
    pub(super) fn means(&self, counts: &[i64], reach: &Reach) -> ArrayRef {
        let means = |sums: &mut dyn Iterator<Item = f64>| {
            let pairs = sums.zip(counts);
            reach.floats(
                pairs.map(|(sum, count)| canonical(sum / *count as f64)).collect(),
                counts,
            )
        };
        match self {
            Self::Floats(sums) => means(&mut sums.iter().copied()),
            Self::Integers(sums) => means(&mut sums.iter().map(|sum| *sum as f64)),
        }
    }
}

/// Every NaN is the same one.
fn canonical(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fixed(values: &[f64]) -> Option<f64> {
        let least = common_shift(values, 0..values.len(), |_| true)?;
        let units: i128 = values
            .iter()
            .map(|value| {
                let (significand, shift) = parts(*value).unwrap();
                let magnitude = if significand == 0 {
                    0
                } else {
                    i128::from(significand) << (shift - least)
                };
                if value.is_sign_negative() {
                    -magnitude
                } else {
                    magnitude
                }
            })
            .sum();
        let unit = f64::from_bits(((least - LEAST_SHIFT + 1) as u64) << (SIGNIFICAND_BITS - 1));
        Some(units as f64 * unit)
    }

    #[test]
    fn what_fits_no_integer_is_refused() {
        for values in [
            &[f64::NAN][..],
            &[f64::INFINITY],
            &[1e300, 1.0],
            &[5e-324],
            &[1e-310, 1e-311],
        ] {
            assert_eq!(fixed(values), None, "{values:?}");
        }
        assert_eq!(fixed(&[0.0, -0.0]).map(f64::to_bits), Some(0));
        assert_eq!(fixed(&[f64::MAX, f64::MAX]), Some(f64::INFINITY));
        assert_eq!(fixed(&[0.1; 10]), Some(1.0));
    }

    proptest! {
        #[test]
        fn sums_of_integers_of_a_unit_are_the_exact_sums(
            exponent in -1000i32..1000,
            values in prop::collection::vec((any::<i64>(), 0i32..40), 1..60),
        ) {
            let value = |(significand, more): &(i64, i32)| *significand as f64 * 2f64.powi(exponent) * 2f64.powi(*more);
            let values: Vec<f64> = values.iter().map(value).collect();
            let exact: ExactSum = values.iter().copied().collect();
            if let Some(sum) = fixed(&values) {
                prop_assert_eq!(sum.to_bits(), exact.value().to_bits());
            }
        }
    }
}
