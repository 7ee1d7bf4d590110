//! Reading and writing the small pieces of a stored row. Reading trusts nothing: every length is checked against what
//! is there, and each number has one form.

use super::RowError;

pub(crate) fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

pub(crate) fn push_signed(bytes: &mut Vec<u8>, number: i64) {
    push_varint(bytes, ((number << 1) ^ (number >> 63)) as u64);
}

pub(crate) fn push_signed_wide(bytes: &mut Vec<u8>, number: i128) {
    let mut number = ((number << 1) ^ (number >> 127)) as u128;
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Bits, least significant first, padded with zeros to whole bytes.
pub(crate) fn push_bits(bytes: &mut Vec<u8>, bits: impl IntoIterator<Item = bool>) {
    let mut pending = 0u8;
    let mut filled = 0;
    for bit in bits {
        pending |= u8::from(bit) << filled;
        filled += 1;
        if filled == 8 {
            bytes.push(pending);
            (pending, filled) = (0, 0);
        }
    }
    if filled > 0 {
        bytes.push(pending);
    }
}

/// What is left to read.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

pub(crate) fn malformed(what: &str) -> RowError {
    RowError(what.to_owned())
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    #[inline]
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], RowError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or_else(|| malformed("it ends early"))?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], RowError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or_else(|| malformed("it ends early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8, RowError> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, RowError> {
        // Most numbers of a row take one byte or two.
        match self.rest {
            [byte @ ..0x80, rest @ ..] => {
                self.rest = rest;
                return Ok(u64::from(*byte));
            }
            [low @ 0x80..=0xff, high @ 1..0x80, rest @ ..] => {
                self.rest = rest;
                return Ok(u64::from(low & 0x7f) | u64::from(*high) << 7);
            }
            _ => {}
        }
        let number = self.leb128(u64::BITS)?;
        u64::try_from(number).map_err(|_| malformed("a number is too large"))
    }

    #[inline]
    pub(crate) fn signed(&mut self) -> Result<i64, RowError> {
        let number = self.varint()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    #[inline]
    pub(crate) fn signed_wide(&mut self) -> Result<i128, RowError> {
        let number = self.leb128(u128::BITS)?;
        Ok((number >> 1) as i128 ^ -((number & 1) as i128))
    }

    /// A number of at most `bits` bits (64 or more), in its shortest form.
    fn leb128(&mut self, bits: u32) -> Result<u128, RowError> {
        // Nine bytes fill 63 bits: no number that short is too large, and half the width does.
        let mut narrow = 0u64;
        let mut shift = 0;
        while shift < 63 {
            let byte = self.byte()?;
            narrow |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(malformed("a number is longer than it needs to be"));
                }
                return Ok(u128::from(narrow));
            }
            shift += 7;
        }
        let mut number = u128::from(narrow);
        loop {
            let byte = self.byte()?;
            let part = u128::from(byte & 0x7f);
            if shift >= bits || (part << shift) >> shift != part {
                return Err(malformed("a number is too large"));
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                if byte == 0 {
                    return Err(malformed("a number is longer than it needs to be"));
                }
                return Ok(number);
            }
            shift += 7;
        }
    }

    /// A number of things that take at least one byte each.
    #[inline]
    pub(crate) fn length(&mut self) -> Result<usize, RowError> {
        let length = self.varint()?;
        usize::try_from(length)
            .ok()
            .filter(|length| *length <= self.rest.len())
            .ok_or_else(|| malformed("a length exceeds the row"))
    }

    /// How many bytes are left.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    pub(crate) fn bits(&mut self, count: usize) -> Result<Bits<'a>, RowError> {
        let bytes = self.take(count.div_ceil(8))?;
        let padding = bytes
            .last()
            .map_or(0, |last| u32::from(*last) >> (((count + 7) % 8) + 1));
        if padding != 0 {
            return Err(malformed("bits are set beyond the last"));
        }
        Ok(Bits { bytes })
    }

    pub(crate) fn finish(self) -> Result<(), RowError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(malformed("bytes follow its end"))
        }
    }
}

/// A run of bits read.
#[derive(Clone, Copy)]
pub(crate) struct Bits<'a> {
    bytes: &'a [u8],
}

impl Bits<'_> {
    #[inline]
    pub(crate) fn get(self, at: usize) -> bool {
        self.bytes.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1)
    }
}
