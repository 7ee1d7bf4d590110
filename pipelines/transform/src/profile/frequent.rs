//! Which texts of a column are frequent, and how often they occur.
//!
//! While values are added every text is counted, up to [`MOST`] different ones; beyond, nothing is known of any. *Sealing*
//! keeps the [`KEPT`] most frequent and how often any other may occur at most. Sealed parts add up: a text's count is at
//! least the sum over the parts that kept it, and at most that plus the bounds of the parts that did not. So which parts
//! there are decides what is known, and their order does not. Statistics are sealed by source and date.

use crate::row::RowError;
use crate::row::bytes::{Reader, malformed, push_varint};
use hashbrown::HashMap;

/// Different texts that are counted before sealing.
pub const MOST: usize = 20_000;
/// Texts that a sealed part keeps.
pub const KEPT: usize = 64;
/// Bytes of a text that is counted; of longer ones, their beginning is.
const LONGEST: usize = 128;

/// A frequent text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrequentText {
    /// The text; its beginning if it is long.
    pub text: String,
    /// It occurs at least so often.
    pub at_least: u64,
    /// And at most so often.
    pub at_most: u64,
}

/// The frequent texts of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frequent {
    /// Every text and its count.
    All(HashMap<Box<str>, u64>),
    /// What sealed parts know.
    Sealed(Sealed),
    /// There are too many.
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sealed {
    texts: HashMap<Box<str>, Counted>,
    /// The sum over all parts of how often a text may occur that the part did not keep.
    others: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    count: u64,
    /// The part of `others` that is of parts which kept this text.
    covered: u64,
}

impl Default for Frequent {
    fn default() -> Self {
        Self::All(HashMap::new())
    }
}

impl Frequent {
    /// Counts a text; true if it is known to have been counted before.
    pub(super) fn add(&mut self, text: &str) -> bool {
        let Self::All(texts) = self else { return false };
        let cut = beginning(text);
        if let Some(count) = texts.get_mut(cut) {
            *count += 1;
            // Another text may have the same beginning.
            return cut.len() == text.len();
        }
        texts.insert(cut.into(), 1);
        if texts.len() > MOST {
            *self = Self::Unknown;
        }
        false
    }

    pub(super) fn merge(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::Unknown, _) => {}
            (_, Self::Unknown) => *self = Self::Unknown,
            (Self::All(texts), Self::All(others)) => {
                for (text, count) in others {
                    *texts.entry(text.clone()).or_insert(0) += count;
                }
                if texts.len() > MOST {
                    *self = Self::Unknown;
                }
            }
            (Self::Sealed(sealed), Self::Sealed(other)) => sealed.merge(other),
            // Nothing but the beginning of a merge: what is empty is sealed as it is.
            (Self::All(_), Self::Sealed(_)) => {
                self.seal();
                self.merge(other);
            }
            (Self::Sealed(_), Self::All(_)) => {
                let mut other = other.clone();
                other.seal();
                self.merge(&other);
            }
        }
    }

    pub(super) fn seal(&mut self) {
        let Self::All(texts) = self else { return };
        let mut texts: Vec<(Box<str>, u64)> = std::mem::take(texts).into_iter().collect();
        texts.sort_unstable_by(|one, other| (other.1, &one.0).cmp(&(one.1, &other.0)));
        let others = texts.get(KEPT).map_or(0, |(_, count)| *count);
        texts.truncate(KEPT);
        let texts = texts.into_iter().map(|(text, count)| {
            let covered = others;
            (text, Counted { count, covered })
        });
        *self = Self::Sealed(Sealed {
            texts: texts.collect(),
            others,
        });
    }

    /// The most frequent, by what they occur at least, then by their bytes.
    pub(super) fn most(&self, most: usize) -> Option<Vec<FrequentText>> {
        let mut texts: Vec<FrequentText> = match self {
            Self::Unknown => return None,
            Self::All(texts) => {
                let exact = texts.iter().map(|(text, count)| FrequentText {
                    text: text.to_string(),
                    at_least: *count,
                    at_most: *count,
                });
                exact.collect()
            }
            Self::Sealed(sealed) => {
                let bounded = sealed.texts.iter().map(|(text, counted)| FrequentText {
                    text: text.to_string(),
                    at_least: counted.count,
                    at_most: counted.count + (sealed.others - counted.covered),
                });
                bounded.collect()
            }
        };
        texts.sort_unstable_by(|one, other| (other.at_least, &one.text).cmp(&(one.at_least, &other.text)));
        texts.truncate(most);
        Some(texts)
    }

    /// 0 for too many; else 1 + the number of texts, varint, the sum of the bounds, varint, and for each text ascending
    /// its length, varint, its bytes, its count, varint, and what is covered, varint. Only of what is sealed.
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        let mut sealed = self.clone();
        sealed.seal();
        let Self::Sealed(sealed) = sealed else {
            push_varint(bytes, 0);
            return;
        };
        push_varint(bytes, sealed.texts.len() as u64 + 1);
        push_varint(bytes, sealed.others);
        let mut texts: Vec<(&Box<str>, &Counted)> = sealed.texts.iter().collect();
        texts.sort_unstable_by_key(|(text, _)| *text);
        for (text, counted) in texts {
            push_varint(bytes, text.len() as u64);
            bytes.extend_from_slice(text.as_bytes());
            push_varint(bytes, counted.count);
            push_varint(bytes, counted.covered);
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, RowError> {
        let Some(count) = reader.varint()?.checked_sub(1) else {
            return Ok(Self::Unknown);
        };
        let others = reader.varint()?;
        let mut sealed = Sealed {
            texts: HashMap::new(),
            others,
        };
        let mut previous: Option<&str> = None;
        for _ in 0..count {
            let length = reader.length()?;
            let text = std::str::from_utf8(reader.take(length)?).map_err(|_| malformed("a text is not UTF-8"))?;
            if previous.is_some_and(|previous| previous >= text) {
                return Err(malformed("frequent texts are out of order"));
            }
            previous = Some(text);
            let counted = Counted {
                count: reader.varint()?,
                covered: reader.varint()?,
            };
            if counted.covered > others {
                return Err(malformed("a frequent text is known better than all"));
            }
            sealed.texts.insert(text.into(), counted);
        }
        Ok(Self::Sealed(sealed))
    }
}

impl Sealed {
    fn merge(&mut self, other: &Self) {
        for (text, counted) in &other.texts {
            let held = self.texts.entry(text.clone()).or_default();
            held.count += counted.count;
            held.covered += counted.covered;
        }
        self.others += other.others;
    }
}

/// As much of a text as is counted.
fn beginning(text: &str) -> &str {
    if text.len() <= LONGEST {
        return text;
    }
    let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}
