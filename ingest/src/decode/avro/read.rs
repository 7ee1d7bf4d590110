//! Bytes to a value, as the program says. Texts are borrowed from the message, names of fields from what is wanted.

use super::bytes::{Bytes, Trouble};
use super::program::{Node, Step};
use super::schema::{Logical, Schema};
use crate::decode::value::Value;
use crate::decode::wanted::Wanted;
use ondol_vocabulary::EventTime;
use std::borrow::Cow;

const DAY_MICROS: i64 = 86_400_000_000;

/// The value that `bytes` hold by `node`, which `schema` wrote and of which `wanted` is kept.
pub(super) fn read<'a>(
    bytes: &mut Bytes<'a>,
    node: &Node,
    schema: &Schema,
    wanted: &'a Wanted,
) -> Result<Value<'a>, Trouble> {
    Ok(match node {
        Node::Null => Value::Null,
        Node::Boolean => Value::Bool(bytes.boolean()?),
        Node::Int(logical) => number(bytes.int()?, *logical),
        Node::Long(logical) => number(bytes.long()?, *logical),
        Node::Float => Value::F64(bytes.float()?),
        Node::Double => Value::F64(bytes.double()?),
        Node::Text | Node::BytesAsText => Value::Text(Cow::Borrowed(bytes.text()?)),
        Node::Bytes(logical) => opaque(bytes.bytes()?, *logical),
        Node::Fixed { size, logical } => opaque(bytes.take(*size)?, *logical),
        Node::Enum(symbols) => {
            let place = bytes.choice(symbols.len(), Trouble::Symbol)?;
            match symbols.get(place) {
                Some(Some(symbol)) => Value::Text(Cow::Owned(symbol.clone())),
                _ => {
                    return Err(Trouble::Misfit(
                        "an enum's symbol is unknown to the reader's schema".to_owned(),
                    ));
                }
            }
        }
        Node::Array(items) => {
            let mut elements = Vec::new();
            bytes.blocks(|bytes| {
                elements.push(read(bytes, items, schema, wanted)?);
                Ok(())
            })?;
            Value::Array(elements)
        }
        Node::PassedArray(items) => {
            bytes.blocks(|bytes| bytes.skip(schema, items))?;
            Value::Array(Vec::new())
        }
        Node::Map { keys, values } => {
            let mut fields = Vec::new();
            bytes.blocks(|bytes| {
                let name = bytes.text()?;
                let index = wanted.position(name);
                match index.and_then(|index| Some((keys.get(index)?, wanted.entry(index)?))) {
                    Some((node, (_, wanted))) => fields.push((Cow::Borrowed(name), read(bytes, node, schema, wanted)?)),
                    None => bytes.skip(schema, values)?,
                }
                Ok(())
            })?;
            Value::Object(fields)
        }
        Node::Union(branches) => {
            let branch = bytes.choice(branches.len(), Trouble::Branch)?;
            match branches.get(branch) {
                Some(node) => read(bytes, node, schema, wanted)?,
                None => return Err(Trouble::End),
            }
        }
        Node::Record { steps, defaults, kept } => {
            let mut fields = Vec::with_capacity(*kept);
            bytes.deeper(|bytes| {
                for step in steps {
                    match step {
                        Step::Skip(data_type) => bytes.skip(schema, data_type)?,
                        Step::Keep(index, node) => {
                            let (name, wanted) = wanted.entry(*index).ok_or(Trouble::Bound)?;
                            fields.push((Cow::Borrowed(name), read(bytes, node, schema, wanted)?));
                        }
                    }
                }
                Ok(())
            })?;
            for (index, value) in defaults {
                let (name, _) = wanted.entry(*index).ok_or(Trouble::Bound)?;
                fields.push((Cow::Borrowed(name), value.clone()));
            }
            Value::Object(fields)
        }
        Node::Misfit(why) => return Err(Trouble::Misfit(why.clone())),
    })
}

fn number<'a>(number: i64, logical: Option<Logical>) -> Value<'a> {
    match logical {
        None => Value::I64(number),
        // Beyond the range of microseconds it stays the number it is.
        Some(logical) => moment(number, logical).unwrap_or(Value::I64(number)),
    }
}

/// The moment that `number` counts; none when it is none.
pub(super) fn moment<'a>(number: i64, logical: Logical) -> Option<Value<'a>> {
    match logical {
        Logical::Date => number.checked_mul(DAY_MICROS).map(Value::Micros),
        Logical::Timestamp { per_second } => micros(number, per_second).map(Value::Micros),
        Logical::LocalTimestamp { per_second } => {
            let shown = EventTime::from_micros(micros(number, per_second)?).to_string();
            // Without a zone, as it is: a timestamp column refuses it and says why.
            Some(Value::Text(Cow::Owned(shown.trim_end_matches('Z').to_owned())))
        }
        Logical::Decimal { .. } | Logical::Uuid => None,
    }
}

fn micros(number: i64, per_second: i64) -> Option<i64> {
    if per_second > 1_000_000 {
        // Towards the past, also before 1970.
        Some(number.div_euclid(per_second / 1_000_000))
    } else {
        number.checked_mul(1_000_000 / per_second)
    }
}

fn opaque<'a>(bytes: &[u8], logical: Option<Logical>) -> Value<'a> {
    match logical {
        Some(Logical::Decimal { scale }) => {
            unscaled(bytes).map_or(Value::Bytes, |unscaled| Value::Decimal(digits(unscaled, scale)))
        }
        Some(Logical::Uuid) => {
            <[u8; 16]>::try_from(bytes).map_or(Value::Bytes, |bytes| Value::Text(uuid(bytes).into()))
        }
        _ => Value::Bytes,
    }
}

/// All the digits of `unscaled` divided by 10 to the power of `scale`.
pub(super) fn digits(unscaled: i128, scale: u32) -> String {
    let all = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale as usize + 1);
    let (whole, fraction) = all.split_at(all.len().saturating_sub(scale as usize));
    let sign = if unscaled < 0 { "-" } else { "" };
    match fraction {
        "" => format!("{sign}{whole}"),
        fraction => format!("{sign}{whole}.{fraction}"),
    }
}

/// Two's complement, big endian, of any length that 128 bits can hold.
fn unscaled(bytes: &[u8]) -> Option<i128> {
    let fill = if bytes.first().is_some_and(|first| *first >= 0x80) {
        0xff
    } else {
        0
    };
    let excess = bytes.len().saturating_sub(16);
    let (surplus, digits) = bytes.split_at_checked(excess)?;
    if surplus.iter().any(|byte| *byte != fill) {
        return None;
    }
    let mut whole = [fill; 16];
    whole.get_mut(16 - digits.len()..)?.copy_from_slice(digits);
    let number = i128::from_be_bytes(whole);
    // With a surplus the sign must be the surplus's.
    (surplus.is_empty() || (number < 0) == (fill == 0xff)).then_some(number)
}

fn uuid(bytes: [u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-{}-{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32)
    )
}
