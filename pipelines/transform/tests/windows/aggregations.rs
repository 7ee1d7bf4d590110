//! What each aggregation gives, from the list of its values in the order of their events. Sketches: what they should be
//! near to, and how near.

use crate::exact::{UNIT, ratio, units};
use crate::oracle::Value;
use num_bigint::BigInt;
use ondol_vocabulary::Aggregation;
use std::collections::HashSet;

/// The value over no events.
pub(crate) fn over_nothing(function: Aggregation) -> Value {
    match function {
        Aggregation::Count | Aggregation::CountDistinct => Value::Integer(0),
        _ => Value::Null,
    }
}

/// The value over `values`, none of which is null, oldest first.
pub(crate) fn aggregate(function: Aggregation, parameters: &[u32], values: Vec<Value>) -> Value {
    if values.is_empty() {
        return over_nothing(function);
    }
    let most = parameters.first().map_or(0, |n| *n as usize);
    match function {
        Aggregation::Count => Value::Integer(values.len() as i64),
        Aggregation::Sum | Aggregation::Mean => sum_or_mean(function, &values),
        Aggregation::Variance => Value::f64(variance(&values, 1)),
        Aggregation::VarPop => Value::f64(variance(&values, 0)),
        Aggregation::Stddev => Value::f64(variance(&values, 1).map(f64::sqrt)),
        Aggregation::StddevPop => Value::f64(variance(&values, 0).map(f64::sqrt)),
        Aggregation::Min => values.into_iter().min_by(Value::compare).unwrap(),
        Aggregation::Max => values.into_iter().max_by(Value::compare).unwrap(),
        Aggregation::First => values.into_iter().next().unwrap(),
        Aggregation::Last => values.into_iter().last().unwrap(),
        Aggregation::LastN => Value::List(values.into_iter().rev().take(most).collect()),
        Aggregation::LastDistinct => {
            let mut known = HashSet::new();
            let new = values.into_iter().rev().filter(|value| known.insert(value.clone()));
            Value::List(new.take(most).collect())
        }
        Aggregation::TopK => {
            let mut values = values;
            values.sort_by(|one, other| other.compare(one));
            values.truncate(most);
            Value::List(values)
        }
        Aggregation::CountDistinct => Value::Integer(values.iter().collect::<HashSet<_>>().len() as i64),
        Aggregation::Quantile => quantiles(parameters, values).remove(0),
        Aggregation::Quantiles => Value::List(quantiles(parameters, values)),
        Aggregation::Any => Value::Bool(values.contains(&Value::Bool(true))),
        Aggregation::All => Value::Bool(!values.contains(&Value::Bool(false))),
    }
}

/// Whether the engine may answer `found` where the value is `expected`: nothing else, or what is near it for a sketch.
pub(crate) fn agrees(function: Aggregation, found: &Value, expected: &Value) -> bool {
    match (function, found, expected) {
        (Aggregation::CountDistinct, Value::Integer(found), Value::Integer(expected)) => {
            is_near_count(*found, *expected)
        }
        (Aggregation::Quantile, Value::F64(_), Value::F64(_)) => is_near(found.number(), expected.number()),
        (Aggregation::Quantiles, Value::List(found), Value::List(expected)) => {
            found.len() == expected.len()
                && std::iter::zip(found, expected).all(|(found, expected)| is_near(found.number(), expected.number()))
        }
        _ => found == expected,
    }
}

/// Within five standard errors of a sketch of 2¹² registers; fewer than 128 values are counted exactly.
fn is_near_count(found: i64, expected: i64) -> bool {
    if expected < 128 {
        return found == expected;
    }
    let error = 5.0 * 1.04 / 64.0 * expected as f64;
    (found - expected).abs() as f64 <= error
}

/// Within a hundredth of the value; what is not finite is itself.
fn is_near(found: f64, expected: f64) -> bool {
    if !expected.is_finite() || expected == 0.0 {
        return found == expected || (found.is_nan() && expected.is_nan());
    }
    (found - expected).abs() <= expected.abs() * 0.01
}

fn sum_or_mean(function: Aggregation, values: &[Value]) -> Value {
    let count = values.len() as f64;
    if let Value::Integer(_) = values[0] {
        let sum: BigInt = values.iter().map(integer).sum();
        return match function {
            Aggregation::Sum => Value::integer(i64::try_from(&sum).ok()),
            _ => Value::f64(Some(sum.to_string().parse::<f64>().unwrap() / count)),
        };
    }
    let numbers: Vec<f64> = values.iter().map(Value::number).collect();
    let sum = float_sum(&numbers);
    Value::f64(Some(if function == Aggregation::Sum { sum } else { sum / count }))
}

fn integer(value: &Value) -> BigInt {
    match value {
        Value::Integer(value) => BigInt::from(*value),
        other => panic!("{other:?} is no integer"),
    }
}

fn float_sum(numbers: &[f64]) -> f64 {
    // Among values that are not finite, IEEE addition is exact whatever the order.
    if numbers.iter().any(|number| !number.is_finite()) {
        return numbers.iter().filter(|number| !number.is_finite()).sum();
    }
    ratio(
        &numbers.iter().map(|number| units(*number)).sum(),
        &BigInt::from(1),
        UNIT,
    )
}

/// (n·Σx² − (Σx)²) / (n·(n − `taken`)), rounded once.
fn variance(values: &[Value], taken: usize) -> Option<f64> {
    if values.len() <= taken {
        return None;
    }
    let (numbers, unit): (Vec<BigInt>, i64) = if let Value::Integer(_) = values[0] {
        (values.iter().map(integer).collect(), 0)
    } else {
        if values.iter().any(|value| !value.number().is_finite()) {
            return Some(f64::NAN);
        }
        (values.iter().map(|value| units(value.number())).collect(), UNIT)
    };
    let n = BigInt::from(numbers.len());
    let sum: BigInt = numbers.iter().sum();
    let squares: BigInt = numbers.iter().map(|number| number * number).sum();
    let denominator = &n * (&n - taken);
    Some(ratio(&(n * squares - &sum * &sum), &denominator, 2 * unit))
}

/// The values at rank ⌊q·(n − 1)⌋, for each q in millionths.
fn quantiles(millionths: &[u32], mut values: Vec<Value>) -> Vec<Value> {
    values.sort_by(Value::compare);
    let last = values.len() as u64 - 1;
    let at = |q: &u32| {
        let value = &values[(u64::from(*q) * last / 1_000_000) as usize];
        Value::f64(Some(match value {
            Value::Integer(value) => *value as f64,
            other => other.number(),
        }))
    };
    millionths.iter().map(at).collect()
}
