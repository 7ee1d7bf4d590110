//! Bytes to a value, as the program says. Texts are borrowed from the message, names of fields from what is wanted.
//!
//! A message may stand in pieces: of a field that is no list the last occurrence counts, but messages are merged, which
//! is the same as reading their bytes one after the other.

use super::program::{Program, Scalar, Shape, Step};
use super::wire::{MAX_DEPTH, Raw, Trouble, Width, Wire, zigzag};
use crate::decode::value::Value;
use crate::decode::wanted::Wanted;
use std::borrow::Cow;

/// What was met of a field.
#[derive(Clone, Debug, Default)]
enum Met<'a> {
    #[default]
    Nothing,
    Value(Value<'a>),
    /// Of a message.
    Pieces(Vec<&'a [u8]>),
    List(Vec<Value<'a>>),
    Map(Vec<(Cow<'a, str>, Value<'a>)>),
}

/// The message that stands in `pieces`.
pub(super) fn message<'a>(
    program: &Program,
    pieces: &[&'a [u8]],
    wanted: &'a Wanted,
    depth: usize,
) -> Result<Value<'a>, Trouble> {
    if depth >= MAX_DEPTH {
        return Err(Trouble::Depth);
    }
    let mut met = vec![Met::Nothing; program.fields.len()];
    for piece in pieces {
        let mut wire = Wire::new(piece);
        // Writers write fields in the order of their numbers: the one after the last is tried first.
        let mut expected = 0;
        while !wire.is_empty() {
            let (number, raw) = wire.field()?;
            let is_it = |place: &usize| program.fields.get(*place).is_some_and(|step| step.number == number);
            let place = Some(expected)
                .filter(is_it)
                .or_else(|| program.fields.iter().position(|step| step.number == number));
            if let Some(place) = place {
                take(program, place, raw, &mut met, wanted, depth)?;
                expected = place + 1;
            }
        }
    }
    let mut fields = Vec::with_capacity(program.fields.len());
    for (step, met) in program.fields.iter().zip(met) {
        if let Some((name, below)) = step.wanted.and_then(|index| wanted.entry(index)) {
            fields.push((Cow::Borrowed(name), finish(step, met, below, depth)?));
        }
    }
    Ok(Value::Object(fields))
}

fn take<'a>(
    program: &Program,
    place: usize,
    raw: Raw<'a>,
    met: &mut [Met<'a>],
    wanted: &'a Wanted,
    depth: usize,
) -> Result<(), Trouble> {
    let Some(step) = program.fields.get(place) else {
        return Ok(());
    };
    let below = step
        .wanted
        .and_then(|index| wanted.entry(index))
        .map(|(_, below)| below);
    let mut slot = met.get_mut(place).map(std::mem::take).unwrap_or_default();
    let known = match (&step.shape, below) {
        (Shape::One(scalar), _) => one(scalar, step.number, raw, &mut slot)?,
        (Shape::List { items, keep }, Some(below)) => list(items, *keep, step.number, raw, &mut slot, below, depth)?,
        (Shape::Map { key, values }, Some(below)) => entry(key, values, step.number, raw, &mut slot, below, depth)?,
        // Lists and maps are no members of a `oneof`.
        (Shape::List { .. } | Shape::Map { .. }, None) => false,
    };
    if known && step.choice.is_some() {
        for (other, met) in program.fields.iter().zip(met.iter_mut()) {
            if other.choice == step.choice {
                *met = Met::Nothing;
            }
        }
    }
    if let Some(met) = met.get_mut(place) {
        *met = slot;
    }
    Ok(())
}

/// Whether `raw` is of the field's type; what is not is an unknown field.
fn one<'a>(scalar: &Scalar, number: u32, raw: Raw<'a>, slot: &mut Met<'a>) -> Result<bool, Trouble> {
    if is_message(scalar) {
        let (Raw::Bytes(piece) | Raw::Group(piece)) = raw else {
            return Ok(false);
        };
        match slot {
            Met::Pieces(pieces) => pieces.push(piece),
            _ => *slot = Met::Pieces(vec![piece]),
        }
        return Ok(true);
    }
    let value = plain(scalar, number, raw)?;
    let known = value.is_some();
    if let Some(value) = value {
        *slot = Met::Value(value);
    }
    Ok(known)
}

fn list<'a>(
    items: &Scalar,
    keep: bool,
    number: u32,
    raw: Raw<'a>,
    slot: &mut Met<'a>,
    wanted: &'a Wanted,
    depth: usize,
) -> Result<bool, Trouble> {
    if !matches!(slot, Met::List(_)) {
        *slot = Met::List(Vec::new());
    }
    let Met::List(elements) = slot else {
        return Ok(false);
    };
    if !keep {
        return Ok(true);
    }
    match (raw, packed(items)) {
        (Raw::Bytes(bytes), Some(width)) => {
            let mut wire = Wire::new(bytes);
            while !wire.is_empty() {
                elements.extend(plain(items, number, wire.element(width)?)?);
            }
        }
        (Raw::Bytes(piece) | Raw::Group(piece), None) if is_message(items) => {
            elements.push(whole(items, &[piece], wanted, depth)?);
        }
        (raw, _) => elements.extend(plain(items, number, raw)?),
    }
    Ok(true)
}

/// An entry of a map: a message of a key and a value.
fn entry<'a>(
    key: &Scalar,
    values: &[Scalar],
    number: u32,
    raw: Raw<'a>,
    slot: &mut Met<'a>,
    wanted: &'a Wanted,
    depth: usize,
) -> Result<bool, Trouble> {
    let Raw::Bytes(bytes) = raw else {
        return Ok(false);
    };
    let (mut wire, mut key_raw, mut value_raw) = (Wire::new(bytes), None, None);
    while !wire.is_empty() {
        match wire.field()? {
            (1, raw) => key_raw = Some(raw),
            (2, raw) => value_raw = Some(raw),
            _ => {}
        }
    }
    let given = match key_raw {
        Some(raw) => plain(key, number, raw)?,
        None => None,
    };
    let name = match given.unwrap_or_else(|| zero(key)) {
        Value::Text(text) => text,
        other => Cow::Owned(other.shown()),
    };
    if !matches!(slot, Met::Map(_)) {
        *slot = Met::Map(Vec::new());
    }
    let found = wanted
        .position(&name)
        .and_then(|index| Some((values.get(index)?, wanted.entry(index)?)));
    if let (Some((scalar, (_, below))), Met::Map(fields)) = (found, slot) {
        let value = match (is_message(scalar), value_raw) {
            (true, Some(Raw::Bytes(piece) | Raw::Group(piece))) => whole(scalar, &[piece], below, depth)?,
            (true, _) => whole(scalar, &[], below, depth)?,
            (false, Some(raw)) => plain(scalar, number, raw)?.unwrap_or_else(|| zero(scalar)),
            (false, None) => zero(scalar),
        };
        fields.push((name, value));
    }
    Ok(true)
}

/// The value of a scalar that is no message; none when it is of another wire type.
fn plain<'a>(scalar: &Scalar, number: u32, raw: Raw<'a>) -> Result<Option<Value<'a>>, Trouble> {
    Ok(Some(match (scalar, raw) {
        (Scalar::Double, Raw::Fixed64(bytes)) => Value::F64(f64::from_le_bytes(bytes)),
        (Scalar::Float, Raw::Fixed32(bytes)) => Value::F64(f32::from_le_bytes(bytes).into()),
        (Scalar::Fixed32, Raw::Fixed32(bytes)) => Value::I64(u32::from_le_bytes(bytes).into()),
        (Scalar::Sfixed32, Raw::Fixed32(bytes)) => Value::I64(i32::from_le_bytes(bytes).into()),
        (Scalar::Fixed64, Raw::Fixed64(bytes)) => unsigned(u64::from_le_bytes(bytes)),
        (Scalar::Sfixed64, Raw::Fixed64(bytes)) => Value::I64(i64::from_le_bytes(bytes)),
        // What is longer than its type is cut to it, so that a field may change between them.
        (Scalar::Int { bits: 32 }, Raw::Varint(raw)) => Value::I64((raw as i32).into()),
        (Scalar::Int { .. }, Raw::Varint(raw)) => Value::I64(raw as i64),
        (Scalar::Uint { bits: 32 }, Raw::Varint(raw)) => Value::I64((raw as u32).into()),
        (Scalar::Uint { .. }, Raw::Varint(raw)) => unsigned(raw),
        (Scalar::Zigzag { bits: 32 }, Raw::Varint(raw)) => Value::I64(zigzag((raw as u32).into())),
        (Scalar::Zigzag { .. }, Raw::Varint(raw)) => Value::I64(zigzag(raw)),
        (Scalar::Bool, Raw::Varint(raw)) => Value::Bool(raw != 0),
        (Scalar::Enum(names), Raw::Varint(raw)) => symbol(names, raw as i32),
        (Scalar::Text, Raw::Bytes(bytes)) => Value::Text(Cow::Borrowed(
            std::str::from_utf8(bytes).map_err(|_| Trouble::Utf8(number))?,
        )),
        (Scalar::Bytes, Raw::Bytes(_)) => Value::Bytes,
        _ => return Ok(None),
    }))
}

/// A message that is a value of its own, or one of Protobuf's own that stands for a simple one.
fn whole<'a>(scalar: &Scalar, pieces: &[&'a [u8]], wanted: &'a Wanted, depth: usize) -> Result<Value<'a>, Trouble> {
    let moment = |unit: i64| -> Result<(i64, i64), Trouble> {
        let (mut seconds, mut nanos) = (0, 0);
        each(pieces, |number, raw| {
            match (number, raw) {
                (1, Raw::Varint(raw)) => seconds = raw as i64,
                (2, Raw::Varint(raw)) => nanos = i64::from(raw as i32),
                _ => {}
            }
            Ok(())
        })?;
        Ok((seconds, nanos.div_euclid(unit)))
    };
    match scalar {
        Scalar::Message(program) => message(program, pieces, wanted, depth + 1),
        Scalar::Timestamp => {
            let (seconds, micros) = moment(1_000)?;
            // Beyond the calendar it saturates, and a column refuses it.
            Ok(Value::Micros(seconds.saturating_mul(1_000_000).saturating_add(micros)))
        }
        Scalar::Duration => {
            let (seconds, nanos) = moment(1)?;
            Ok(Value::F64(seconds as f64 + nanos as f64 / 1e9))
        }
        Scalar::Wrapper(inner) => {
            let mut value = zero(inner);
            each(pieces, |number, raw| {
                if number == 1
                    && let Some(given) = plain(inner, number, raw)?
                {
                    value = given;
                }
                Ok(())
            })?;
            Ok(value)
        }
        other => Ok(zero(other)),
    }
}

fn each<'a>(pieces: &[&'a [u8]], mut field: impl FnMut(u32, Raw<'a>) -> Result<(), Trouble>) -> Result<(), Trouble> {
    for piece in pieces {
        let mut wire = Wire::new(piece);
        while !wire.is_empty() {
            let (number, raw) = wire.field()?;
            field(number, raw)?;
        }
    }
    Ok(())
}

fn finish<'a>(step: &Step, met: Met<'a>, wanted: &'a Wanted, depth: usize) -> Result<Value<'a>, Trouble> {
    Ok(match (met, &step.shape) {
        (Met::Value(value), _) => value,
        (Met::Pieces(pieces), Shape::One(scalar)) => whole(scalar, &pieces, wanted, depth)?,
        (Met::List(elements), _) => Value::Array(elements),
        (Met::Map(fields), _) => Value::Object(fields),
        (Met::Nothing | Met::Pieces(_), _) => step.absent.clone(),
    })
}

const fn is_message(scalar: &Scalar) -> bool {
    matches!(
        scalar,
        Scalar::Message(_) | Scalar::Timestamp | Scalar::Duration | Scalar::Wrapper(_)
    )
}

/// How the elements of a packed list stand; none for those that can't be packed.
const fn packed(scalar: &Scalar) -> Option<Width> {
    match scalar {
        Scalar::Double | Scalar::Fixed64 | Scalar::Sfixed64 => Some(Width::Eight),
        Scalar::Float | Scalar::Fixed32 | Scalar::Sfixed32 => Some(Width::Four),
        Scalar::Int { .. } | Scalar::Uint { .. } | Scalar::Zigzag { .. } | Scalar::Bool | Scalar::Enum(_) => {
            Some(Width::Varint)
        }
        Scalar::Text
        | Scalar::Bytes
        | Scalar::Message(_)
        | Scalar::Timestamp
        | Scalar::Duration
        | Scalar::Wrapper(_) => None,
    }
}

/// The default of a value that is always there, as in a map or a wrapper.
fn zero<'a>(scalar: &Scalar) -> Value<'a> {
    match scalar {
        Scalar::Double | Scalar::Float => Value::F64(0.0),
        Scalar::Bool => Value::Bool(false),
        Scalar::Text => Value::Text(Cow::Borrowed("")),
        Scalar::Bytes => Value::Bytes,
        Scalar::Enum(names) => names
            .first()
            .map_or(Value::I64(0), |(_, name)| Value::Text(Cow::Owned(name.clone()))),
        Scalar::Message(_) | Scalar::Timestamp | Scalar::Duration | Scalar::Wrapper(_) => Value::Null,
        _ => Value::I64(0),
    }
}

fn symbol<'a>(names: &[(i32, String)], number: i32) -> Value<'a> {
    match names.iter().find(|(known, _)| *known == number) {
        Some((_, name)) => Value::Text(Cow::Owned(name.clone())),
        None => Value::I64(number.into()),
    }
}

fn unsigned<'a>(number: u64) -> Value<'a> {
    i64::try_from(number).map_or(Value::U64(number), Value::I64)
}
