//! Protobuf's encoding: tags, numbers, lengths, and how to pass over a field ("Encoding" in Protobuf's documentation).

/// Deepest nesting of groups that are passed over, and of messages.
pub(super) const MAX_DEPTH: usize = 100;
/// Longest path to a nested message type.
const MAX_INDEXES: i64 = 32;

/// Bytes being read.
#[derive(Clone, Debug)]
pub(super) struct Wire<'a> {
    rest: &'a [u8],
}

/// A field as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Raw<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
    /// The content of a group.
    Group(&'a [u8]),
    Fixed32([u8; 4]),
}

/// How long an element of a packed list is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Varint,
    Four,
    Eight,
}

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// They end within a field.
    End,
    /// A number has more than ten bytes.
    Number,
    /// A tag that no field has.
    Tag(u64),
    /// A group ends that did not begin, or the wrong one.
    Group,
    /// The string of this field is not UTF-8.
    Utf8(u32),
    /// Nested too deeply.
    Depth,
    /// The frame's path to the message type is none.
    Indexes,
}

impl<'a> Wire<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn varint(&mut self) -> Result<u64, Trouble> {
        let mut number = 0;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(Trouble::End)?;
            self.rest = rest;
            // Bits beyond the 64th are dropped, as Protobuf's own readers do.
            number |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or_default();
            if *byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Trouble::Number)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Trouble> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Trouble::End)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Trouble> {
        let length = usize::try_from(self.varint()?).map_err(|_| Trouble::End)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Trouble::End)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next field: its number and what it holds.
    pub(super) fn field(&mut self) -> Result<(u32, Raw<'a>), Trouble> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or(Trouble::Tag(tag))?;
        let raw = match tag & 7 {
            0 => Raw::Varint(self.varint()?),
            1 => Raw::Fixed64(self.take()?),
            2 => Raw::Bytes(self.bytes()?),
            3 => Raw::Group(self.group(number, 0)?),
            5 => Raw::Fixed32(self.take()?),
            4 => return Err(Trouble::Group),
            _ => return Err(Trouble::Tag(tag)),
        };
        Ok((number, raw))
    }

    /// An element of a packed list.
    pub(super) fn element(&mut self, width: Width) -> Result<Raw<'a>, Trouble> {
        Ok(match width {
            Width::Varint => Raw::Varint(self.varint()?),
            Width::Four => Raw::Fixed32(self.take()?),
            Width::Eight => Raw::Fixed64(self.take()?),
        })
    }

    /// What stands before the end of the group `number`.
    fn group(&mut self, number: u32, depth: usize) -> Result<&'a [u8], Trouble> {
        if depth >= MAX_DEPTH {
            return Err(Trouble::Depth);
        }
        let start = self.rest;
        loop {
            let before = self.rest.len();
            let tag = self.varint()?;
            let inner = u32::try_from(tag >> 3).map_err(|_| Trouble::Tag(tag))?;
            match tag & 7 {
                0 => drop(self.varint()?),
                1 => drop(self.take::<8>()?),
                2 => drop(self.bytes()?),
                3 => drop(self.group(inner, depth + 1)?),
                5 => drop(self.take::<4>()?),
                4 if inner == number => return Ok(start.get(..start.len() - before).unwrap_or_default()),
                4 => return Err(Trouble::Group),
                _ => return Err(Trouble::Tag(tag)),
            }
        }
    }

    /// The path to the message type, as Confluent's serializers write it behind the schema's id: a count and as many
    /// indexes, zigzag; a lone 0 stands for the first message of the file.
    pub(super) fn message_indexes(&mut self) -> Result<Vec<usize>, Trouble> {
        let count = zigzag(self.varint()?);
        if !(0..=MAX_INDEXES).contains(&count) {
            return Err(Trouble::Indexes);
        }
        let index = |_| usize::try_from(zigzag(self.varint()?)).map_err(|_| Trouble::Indexes);
        let indexes: Vec<usize> = (0..count).map(index).collect::<Result<_, _>>()?;
        // One way to say "the first": so that it is compiled once.
        Ok(if indexes == [0] { Vec::new() } else { indexes })
    }
}

pub(super) const fn zigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

impl Trouble {
    /// In words, for a rejection.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::End => "it ends within a field".to_owned(),
            Self::Number => "a number has more than ten bytes".to_owned(),
            Self::Tag(tag) => format!("{tag} is the tag of no field"),
            Self::Group => "a group ends where none began".to_owned(),
            Self::Utf8(number) => format!("the string of field {number} is not UTF-8"),
            Self::Depth => "it is nested too deeply".to_owned(),
            Self::Indexes => "its frame names no message type".to_owned(),
        }
    }
}
