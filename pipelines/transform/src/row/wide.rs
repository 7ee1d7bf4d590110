//! Integers as wide as they need to be: what exact sums are held in.
//!
//! A sum of doubles, of their squares, or of squared integers is a whole multiple of some power of two, the *unit*, which
//! the owner of the integer knows. The integer is kept as the run of 64-bit limbs that its values touch: adding a value
//! touches two or three limbs plus the carry, and runs of up to four limbs, which hold values within a factor of about
//! 2¹⁹⁰ of one another, live inline without allocation.

use smallvec::SmallVec;

/// Bits of a limb.
pub(crate) const LIMB: usize = u64::BITS as usize;
/// Bytes of a limb.
const LIMB_BYTES: usize = 8;
/// Limbs of a run that live inline.
const INLINE: usize = 4;

type Limbs = SmallVec<[u64; INLINE]>;

/// A wide integer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wide {
    /// Two's complement limbs, least significant first; none is zero. Not necessarily minimal.
    limbs: Limbs,
    /// Place of the first limb: it weighs 2^(64 · low) units.
    low: usize,
}

/// The sum of many integers, most of them near the first: those are added into a run of fixed width and place, which
/// costs neither a search for their place nor a carry of unknown length.
#[derive(Debug, Default)]
pub(crate) struct WideTotal {
    /// The place of the run, from the first integer on.
    place: Option<usize>,
    near: [u64; INLINE],
    /// What does not fit the run.
    far: Wide,
}

impl Wide {
    /// Adds `magnitude · 2^shift` units, or takes it away.
    #[inline]
    pub(crate) fn add_shifted(&mut self, magnitude: u128, shift: usize, negative: bool) {
        if magnitude == 0 {
            return;
        }
        let (place, offset) = (shift / LIMB, shift % LIMB);
        let low = magnitude << offset;
        // Shifting by 128 is no shift: the part beyond is what a shift back by the rest leaves.
        let high = magnitude.checked_shr(u128::BITS - offset as u32).unwrap_or(0) as u64;
        let run = [low as u64, (low >> LIMB) as u64, high, 0];
        // As few limbs as hold the number and its sign.
        let used = run
            .iter()
            .rposition(|limb| *limb != 0)
            .map_or(1, |top| top + if is_negative(run[top]) { 2 } else { 1 });
        if negative {
            let mut carry = true;
            let run = run.map(|limb| {
                let (sum, overflow) = (!limb).overflowing_add(u64::from(carry));
                carry = overflow;
                sum
            });
            self.add_limbs(place, &run[..used]);
        } else {
            self.add_limbs(place, &run[..used]);
        }
    }

    /// Adds `other`.
    #[inline]
    pub(crate) fn merge(&mut self, other: &Self) {
        self.add_limbs(other.low, &other.limbs);
    }

    /// Takes `other` away.
    pub(crate) fn remove(&mut self, other: &Self) {
        self.add_limbs(other.low, &negated(&other.limbs));
    }

    #[inline]
    pub(crate) fn is_negative(&self) -> bool {
        self.limbs.last().is_some_and(|limb| is_negative(*limb))
    }

    /// Whether nothing was added, as opposed to things that cancel.
    #[inline]
    pub(crate) fn is_untouched(&self) -> bool {
        self.limbs.is_empty()
    }

    /// Reads its absolute value: the place of the first limb, and the limbs, least significant first.
    #[inline]
    pub(crate) fn read_magnitude<T>(&self, read: impl FnOnce(usize, &[u64]) -> T) -> T {
        if self.is_negative() {
            read(self.low, &negated(&self.limbs))
        } else {
            read(self.low, &self.limbs)
        }
    }

    /// Its two's complement bytes, least significant first and as few as possible, with the place of the first (it
    /// weighs 256^place units); none is zero.
    pub(crate) fn bytes(&self) -> (usize, SmallVec<[u8; 32]>) {
        let mut bytes: SmallVec<[u8; 32]> = self.limbs.iter().flat_map(|limb| limb.to_le_bytes()).collect();
        while let [.., before, last] = bytes.as_slice() {
            if *last != sign_byte(*before) {
                break;
            }
            bytes.pop();
        }
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        if zeros == bytes.len() {
            return (0, SmallVec::new());
        }
        bytes.drain(..zeros);
        (self.low * LIMB_BYTES + zeros, bytes)
    }

    /// The integer whose [`Self::bytes`] are `(place, bytes)`; `None` if none has them, or if they reach beyond
    /// `max_bytes`.
    #[inline]
    pub(crate) fn from_bytes(place: usize, bytes: &[u8], max_bytes: usize) -> Option<Self> {
        let [first, .., last] = bytes else {
            // At most one byte: zero has none, and a place of its own means nothing.
            return match bytes {
                [] if place == 0 => Some(Self::default()),
                [byte] if *byte != 0 && place < max_bytes => Some(Self::from_run(place, bytes)),
                _ => None,
            };
        };
        let before_last = bytes[bytes.len() - 2];
        let minimal = *first != 0 && *last != sign_byte(before_last);
        let fits = place.checked_add(bytes.len()).is_some_and(|end| end <= max_bytes);
        (minimal && fits).then(|| Self::from_run(place, bytes))
    }

    #[inline]
    fn from_run(place: usize, bytes: &[u8]) -> Self {
        let low = place / LIMB_BYTES;
        let skip = place % LIMB_BYTES;
        let fill = bytes.last().copied().map_or(0, sign_byte);
        if skip + bytes.len() <= INLINE * LIMB_BYTES {
            // What lives inline is laid out in one piece; nearly every stored sum does.
            let mut run = [[0; LIMB_BYTES]; INLINE];
            let flat = run.as_flattened_mut();
            flat[skip..].fill(fill);
            flat[skip..skip + bytes.len()].copy_from_slice(bytes);
            let used = (skip + bytes.len()).div_ceil(LIMB_BYTES);
            let limbs = Limbs::from_buf_and_len(run.map(u64::from_le_bytes), used);
            return Self { limbs, low };
        }
        let byte_at = |at: usize| {
            if at < skip {
                0
            } else {
                bytes.get(at - skip).copied().unwrap_or(fill)
            }
        };
        let limbs = (0..(skip + bytes.len()).div_ceil(LIMB_BYTES))
            .map(|limb| u64::from_le_bytes(std::array::from_fn(|byte| byte_at(limb * LIMB_BYTES + byte))))
            .collect();
        Self { limbs, low }
    }

    #[cfg(test)]
    pub(crate) fn is_spilled(&self) -> bool {
        self.limbs.spilled()
    }

    /// Adds a two's complement run whose first limb stands at `place`.
    #[inline]
    pub(crate) fn add_limbs(&mut self, place: usize, run: &[u64]) {
        let Some(top) = run.last() else { return };
        let run_negative = is_negative(*top);
        self.cover(place, place + run.len());
        let was_negative = self.is_negative();
        let extension = sign_limb(run_negative);
        let mut carry = false;
        for (at, limb) in self.limbs[place - self.low..].iter_mut().enumerate() {
            // Past the run only its sign goes on; a positive one without a carry changes nothing.
            let addend = match run.get(at) {
                Some(addend) => *addend,
                None if !carry && !run_negative => break,
                None if carry && run_negative => break,
                None => extension,
            };
            let (sum, first) = limb.overflowing_add(addend);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = first || second;
        }
        if was_negative == run_negative && self.is_negative() != was_negative {
            self.limbs.push(sign_limb(was_negative));
        }
    }

    /// Widens the run to include the places `[from, to)`.
    fn cover(&mut self, from: usize, to: usize) {
        if self.limbs.is_empty() {
            self.low = from;
        }
        if from < self.low {
            self.limbs.insert_many(0, std::iter::repeat_n(0, self.low - from));
            self.low = from;
        }
        let length = to - self.low;
        if length > self.limbs.len() {
            let fill = sign_limb(self.is_negative());
            self.limbs.resize(length, fill);
        }
    }
}

impl WideTotal {
    /// Adds `part`.
    #[inline]
    pub(crate) fn merge(&mut self, part: &Wide) {
        let run = part.limbs.as_slice();
        if run.is_empty() {
            return;
        }
        // A limb below the first integer leaves room for smaller ones.
        let place = *self.place.get_or_insert(part.low.saturating_sub(1));
        let fits = |skip: &usize| skip + run.len() < INLINE;
        let Some(skip) = part.low.checked_sub(place).filter(fits) else {
            self.far.merge(part);
            return;
        };
        // The run's last limb holds signs and carries only: 2⁶³ integers fit.
        let extension = sign_limb(part.is_negative());
        let mut carry = false;
        for (at, limb) in self.near.iter_mut().enumerate() {
            let addend = match at.checked_sub(skip) {
                Some(at) => run.get(at).copied().unwrap_or(extension),
                None => 0,
            };
            let (sum, first) = limb.overflowing_add(addend);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = first || second;
        }
    }

    /// Reads the sum's sign and absolute value, as [`Wide::read_magnitude`]; not if some of it does not fit the run.
    #[inline]
    pub(crate) fn read_near<T>(&self, read: impl FnOnce(bool, usize, &[u64]) -> T) -> Option<T> {
        if !self.far.is_untouched() {
            return None;
        }
        let mut limbs = self.near;
        let negative = is_negative(limbs[INLINE - 1]);
        if negative {
            let mut carry = true;
            for limb in &mut limbs {
                (*limb, carry) = (!*limb).overflowing_add(u64::from(carry));
            }
        }
        Some(read(negative, self.place.unwrap_or_default(), &limbs))
    }

    /// The sum of all that was added, to which more can be.
    #[inline]
    pub(crate) fn into_wide(mut self) -> Wide {
        if let Some(place) = self.place {
            self.far.add_limbs(place, &self.near);
        }
        self.far
    }
}

/// Equal when the integers are, however they are laid out.
impl PartialEq for Wide {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Wide {}

/// The two's complement negation of a run, a limb longer where the least number has no opposite of its length.
fn negated(limbs: &[u64]) -> Limbs {
    let mut carry = true;
    let mut negated: Limbs = limbs
        .iter()
        .map(|limb| {
            let (sum, overflow) = (!limb).overflowing_add(u64::from(carry));
            carry = overflow;
            sum
        })
        .collect();
    if let (Some(before), Some(after)) = (limbs.last(), negated.last())
        && is_negative(*before)
        && is_negative(*after)
    {
        negated.push(0);
    }
    negated
}

const fn is_negative(limb: u64) -> bool {
    limb >> (LIMB - 1) == 1
}

const fn sign_limb(negative: bool) -> u64 {
    if negative { u64::MAX } else { 0 }
}

const fn sign_byte(byte: u8) -> u8 {
    if byte & 0x80 == 0 { 0 } else { 0xff }
}
