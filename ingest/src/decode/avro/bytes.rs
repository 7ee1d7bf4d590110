//! Avro's binary encoding: numbers, lengths, and how to pass over a value of any type (Avro specification 1.12,
//! "Binary Encoding"). Lengths and counts are the writer's claims: nothing is allocated for them, and what takes no
//! bytes (an array of a billion nulls) has a budget.

use super::schema::{Kind, Schema, Type};

/// Deepest nesting of a value.
const MAX_DEPTH: usize = 200;
/// Elements of arrays and maps that a message may have beyond one a byte.
const FREE_ITEMS: usize = 1024;

/// Bytes being read.
#[derive(Debug)]
pub(super) struct Bytes<'a> {
    rest: &'a [u8],
    items: usize,
    depth: usize,
}

/// Why bytes are no value of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// They end within a value.
    End,
    /// A number is longer than its type.
    Number,
    /// A length or count is negative or more than there is.
    Length(i64),
    /// A text is not UTF-8.
    Utf8,
    /// A truth value is neither 0 nor 1.
    Truth(u8),
    /// A union has no such branch.
    Branch(i64),
    /// An enum has no such symbol.
    Symbol(i64),
    /// The value is nested too deeply, or has too many elements that take no bytes.
    Bound,
    /// The reader's schema has no place for the value: why.
    Misfit(String),
}

impl<'a> Bytes<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            items: bytes.len().saturating_add(FREE_ITEMS),
            depth: 0,
        }
    }

    /// Bytes not read yet.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn byte(&mut self) -> Result<u8, Trouble> {
        let (first, rest) = self.rest.split_first().ok_or(Trouble::End)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(super) fn boolean(&mut self) -> Result<bool, Trouble> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Trouble::Truth(other)),
        }
    }

    /// A number of variable length, zigzag.
    pub(super) fn long(&mut self) -> Result<i64, Trouble> {
        let mut raw: u64 = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // Of the tenth byte there is room for one bit.
            if shift == 63 && byte > 1 {
                return Err(Trouble::Number);
            }
            raw |= bits << shift;
            if byte < 0x80 {
                return Ok((raw >> 1) as i64 ^ -((raw & 1) as i64));
            }
        }
        Err(Trouble::Number)
    }

    pub(super) fn int(&mut self) -> Result<i64, Trouble> {
        let number = self.long()?;
        i32::try_from(number).map(i64::from).map_err(|_| Trouble::Number)
    }

    pub(super) fn float(&mut self) -> Result<f64, Trouble> {
        let bytes = self.array::<4>()?;
        Ok(f64::from(f32::from_le_bytes(bytes)))
    }

    pub(super) fn double(&mut self) -> Result<f64, Trouble> {
        Ok(f64::from_le_bytes(self.array::<8>()?))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Trouble> {
        let (first, rest) = self.rest.split_first_chunk::<N>().ok_or(Trouble::End)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(super) fn take(&mut self, size: usize) -> Result<&'a [u8], Trouble> {
        let (taken, rest) = self.rest.split_at_checked(size).ok_or(Trouble::End)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Bytes behind their length.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Trouble> {
        let length = self.long()?;
        let size = usize::try_from(length).ok().filter(|size| *size <= self.rest.len());
        self.take(size.ok_or(Trouble::Length(length))?)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Trouble> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Trouble::Utf8)
    }

    /// A place among `count`, of a branch or a symbol.
    pub(super) fn choice(&mut self, count: usize, trouble: fn(i64) -> Trouble) -> Result<usize, Trouble> {
        let number = self.long()?;
        usize::try_from(number)
            .ok()
            .filter(|place| *place < count)
            .ok_or_else(|| trouble(number))
    }

    /// Calls `item` for every element of an array or entry of a map.
    pub(super) fn blocks(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), Trouble>) -> Result<(), Trouble> {
        self.deeper(|bytes| {
            loop {
                let count = bytes.long()?;
                if count == 0 {
                    return Ok(());
                }
                if count < 0 {
                    // The block's size follows, for those who pass over it.
                    let size = bytes.long()?;
                    usize::try_from(size).map_err(|_| Trouble::Length(size))?;
                }
                for _ in 0..count.unsigned_abs() {
                    bytes.items = bytes.items.checked_sub(1).ok_or(Trouble::Bound)?;
                    item(bytes)?;
                }
            }
        })
    }

    /// One level of nesting.
    pub(super) fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Trouble>) -> Result<T, Trouble> {
        if self.depth >= MAX_DEPTH {
            return Err(Trouble::Bound);
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    /// Passes over a value of `data_type`.
    pub(super) fn skip(&mut self, schema: &Schema, data_type: &Type) -> Result<(), Trouble> {
        match data_type {
            Type::Null => {}
            Type::Boolean => drop(self.boolean()?),
            Type::Int(_) | Type::Long(_) => drop(self.long()?),
            Type::Float => drop(self.take(4)?),
            Type::Double => drop(self.take(8)?),
            Type::Bytes(_) | Type::String => drop(self.bytes()?),
            Type::Array(items) => self.blocks(|bytes| bytes.skip(schema, items))?,
            Type::Map(values) => self.blocks(|bytes| {
                bytes.bytes()?;
                bytes.skip(schema, values)
            })?,
            Type::Union(branches) => {
                let branch = self.choice(branches.len(), Trouble::Branch)?;
                if let Some(branch) = branches.get(branch) {
                    self.skip(schema, branch)?;
                }
            }
            Type::Named(place) => match schema.named(*place).map(|named| &named.kind) {
                Some(Kind::Record(fields)) => {
                    self.deeper(|bytes| fields.iter().try_for_each(|field| bytes.skip(schema, &field.data_type)))?;
                }
                Some(Kind::Enum { .. }) => drop(self.long()?),
                Some(Kind::Fixed { size, .. }) => drop(self.take(*size)?),
                Some(Kind::Unfinished) | None => return Err(Trouble::Bound),
            },
        }
        Ok(())
    }
}

impl Trouble {
    /// In words, for a rejection.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::End => "it ends too soon".to_owned(),
            Self::Number => "a number is too long".to_owned(),
            Self::Length(length) => format!("a length is {length}"),
            Self::Utf8 => "a string is not UTF-8".to_owned(),
            Self::Truth(byte) => format!("a boolean is {byte}"),
            Self::Branch(branch) => format!("a union has no branch {branch}"),
            Self::Symbol(symbol) => format!("an enum has no symbol {symbol}"),
            Self::Bound => "it is nested too deeply".to_owned(),
            Self::Misfit(why) => why.clone(),
        }
    }
}
