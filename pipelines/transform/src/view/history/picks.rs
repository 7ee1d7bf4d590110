//! Features that are one event's value: found as a place, taken from the column at the end.

use super::super::column::Column;
use super::super::projection::{Projection, failure};
use super::reach::Reach;
use super::reading::Take;
use crate::expression::ExpressionError;
use crate::row::state::Kind;
use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::take as take_values;
use arrow::datatypes::{DataType as ArrowType, Float32Type, Float64Type};
use std::collections::VecDeque;
use std::sync::Arc;

/// The values of the latest rows.
pub(super) fn latest(projection: &Projection, input: usize, reach: &Reach) -> Result<ArrayRef, ExpressionError> {
    let ends = reach.heads.iter().zip(&reach.starts);
    let places = ends.map(|(head, start)| (head > start).then(|| head - 1)).collect();
    values_at(projection, input, &places)
}

/// The values that `kind` prefers of what `take` takes, over `window`.
pub(super) fn pick(
    projection: &Projection,
    take: &Take,
    taken: Option<&BooleanBuffer>,
    kind: Kind,
    window: usize,
    reach: &Reach,
) -> Result<ArrayRef, ExpressionError> {
    let input = take.input.unwrap_or_default();
    let column = projection
        .column(input)
        .ok_or_else(|| failure("an argument", &"it was not evaluated"))?;
    let places = match kind {
        Kind::First => first(taken, reach, window),
        Kind::Last => last(taken, reach, window),
        Kind::Min => extremes(column, taken, reach, window, false),
        _ => extremes(column, taken, reach, window, true),
    };
    values_at(projection, input, &places)
}

/// `array` with every NaN the same one.
pub(super) fn canonical(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        ArrowType::Float64 => {
            let floats = array.as_primitive::<Float64Type>();
            if floats.values().iter().any(|value| value.is_nan()) {
                return Arc::new(floats.unary::<_, Float64Type>(|value| if value.is_nan() { f64::NAN } else { value }));
            }
        }
        ArrowType::Float32 => {
            let floats = array.as_primitive::<Float32Type>();
            if floats.values().iter().any(|value| value.is_nan()) {
                return Arc::new(floats.unary::<_, Float32Type>(|value| if value.is_nan() { f32::NAN } else { value }));
            }
        }
        _ => {}
    }
    Arc::clone(array)
}

fn values_at(projection: &Projection, input: usize, places: &UInt32Array) -> Result<ArrayRef, ExpressionError> {
    let column = projection
        .column(input)
        .ok_or_else(|| failure("an argument", &"it was not evaluated"))?;
    take_values(&canonical(&column.array()), places, None).map_err(|error| failure("an argument", &error))
}

fn first(taken: Option<&BooleanBuffer>, reach: &Reach, window: usize) -> UInt32Array {
    let ends = reach.tails(window).iter().zip(&reach.heads);
    match taken {
        None => ends.map(|(tail, head)| (tail < head).then_some(*tail)).collect(),
        Some(taken) => {
            // For each event, the first taken from it on.
            let mut next = vec![u32::MAX; taken.len() + 1];
            for event in (0..taken.len()).rev() {
                next[event] = if taken.value(event) {
                    event as u32
                } else {
                    next[event + 1]
                };
            }
            ends.map(|(tail, head)| Some(next[*tail as usize]).filter(|event| event < head))
                .collect()
        }
    }
}

fn last(taken: Option<&BooleanBuffer>, reach: &Reach, window: usize) -> UInt32Array {
    let ends = reach.tails(window).iter().zip(&reach.heads);
    match taken {
        None => ends.map(|(tail, head)| (tail < head).then(|| head - 1)).collect(),
        Some(taken) => {
            // For each event, one past the last taken before it.
            let mut past = Vec::with_capacity(taken.len() + 1);
            past.push(0u32);
            for (event, taken) in (1..).zip(taken.iter()) {
                past.push(if taken {
                    event
                } else {
                    past.last().copied().unwrap_or(0)
                });
            }
            ends.map(|(tail, head)| {
                Some(past[*head as usize])
                    .filter(|past| past > tail)
                    .map(|past| past - 1)
            })
            .collect()
        }
    }
}

fn extremes(
    column: &Column,
    taken: Option<&BooleanBuffer>,
    reach: &Reach,
    window: usize,
    greatest: bool,
) -> UInt32Array {
    /// The order of doubles (−0.0 before 0.0, NaN last) as one of integers.
    fn order(value: f64) -> i64 {
        let value = if value.is_nan() { f64::NAN } else { value };
        let bits = value.to_bits() as i64;
        bits ^ (((bits >> 63) as u64) >> 1) as i64
    }
    let keyed = |keys: &[i64]| match greatest {
        true => slide(taken, reach, window, |new, held| {
            keys[new as usize] >= keys[held as usize]
        }),
        false => slide(taken, reach, window, |new, held| {
            keys[new as usize] <= keys[held as usize]
        }),
    };
    match column {
        Column::Bool(array) => keyed(&array.values().iter().map(i64::from).collect::<Vec<_>>()),
        Column::I32(array) => keyed(&array.values().iter().map(|value| i64::from(*value)).collect::<Vec<_>>()),
        Column::I64(array) => keyed(array.values()),
        Column::Timestamp(array) => keyed(array.values()),
        Column::F32(array) => keyed(
            &array
                .values()
                .iter()
                .map(|value| order(f64::from(*value)))
                .collect::<Vec<_>>(),
        ),
        Column::F64(array) => keyed(&array.values().iter().map(|value| order(*value)).collect::<Vec<_>>()),
        Column::String(array) => slide(taken, reach, window, |new, held| {
            let (new, held) = (array.value(new as usize), array.value(held as usize));
            if greatest { new >= held } else { new <= held }
        }),
    }
}

/// For each moment the place of the preferred event of a window: a queue of those that may yet be, the preferred in
/// front, each preferred to all behind it.
fn slide(
    taken: Option<&BooleanBuffer>,
    reach: &Reach,
    window: usize,
    replaces: impl Fn(u32, u32) -> bool,
) -> UInt32Array {
    let mut queue: VecDeque<u32> = VecDeque::new();
    let mut seen = 0;
    let slots = reach.tails(window).iter().zip(&reach.heads);
    slots
        .map(|(tail, head)| {
            if tail == head {
                return None;
            }
            // Past the queue's end, in the next lane or far on in this one, begins a new one.
            seen = if seen < *tail {
                queue.clear();
                *tail
            } else {
                seen
            };
            while queue.front().is_some_and(|front| front < tail) {
                queue.pop_front();
            }
            for event in seen..*head {
                if taken.is_some_and(|taken| !taken.value(event as usize)) {
                    continue;
                }
                while queue.back().is_some_and(|held| replaces(event, *held)) {
                    queue.pop_back();
                }
                queue.push_back(event);
            }
            seen = seen.max(*head);
            queue.front().copied()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Float64Array;

    #[test]
    fn every_nan_is_the_same() {
        let odd = f64::from_bits(0xfff8_0000_0000_0001);
        let array: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), None, Some(odd)]));
        let same = canonical(&array);
        let same = same.as_primitive::<Float64Type>();
        assert!(same.is_null(1));
        assert_eq!(same.value(2).to_bits(), f64::NAN.to_bits());
    }
}
