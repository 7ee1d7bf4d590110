//! A split over versions, laid out so that only the keys move that must.
//!
//! Every key has one of 10,000 slots, and every slot a version: a hundredth of a percent each. A change of the shares
//! takes slots from the versions that have too many and gives them to those that have too few, and leaves all others
//! where they are; so of the keys exactly as many move as the shares differ, which no rule that looks at the new shares
//! alone can promise for three versions. The layout is therefore stored with the revision, and a rollback brings every
//! key back to where it was.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Slots of a layout.
pub const SLOTS: u16 = 10_000;

/// A slot's number, below [`SLOTS`].
pub type Slot = u16;

/// Which version each slot has, as stored: runs of slots, together [`SLOTS`] of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Layout(Vec<Run>);

/// Slots in a row that have the same version: version, how many.
type Run = (u32, u16);

impl Layout {
    /// All slots to `version`.
    pub fn whole(version: u32) -> Self {
        Self(vec![(version, SLOTS)])
    }

    /// As this one, with the fewest changes by which every version has its share of `wanted`, whose shares add up to
    /// [`SLOTS`]. Slots are taken from a version's highest downwards and given out upwards, lowest version first.
    #[must_use]
    pub fn with_shares(&self, wanted: &BTreeMap<u32, u16>) -> Self {
        let mut versions = self.versions();
        let mut missing: BTreeMap<u32, u16> = wanted.clone();
        let mut free = Vec::new();
        // A version keeps its lowest slots, as many as it is to have.
        for (slot, version) in versions.iter().enumerate() {
            match missing.get_mut(version) {
                Some(left) if *left > 0 => *left -= 1,
                _ => free.push(slot),
            }
        }
        let mut takers = missing
            .iter()
            .flat_map(|(version, count)| std::iter::repeat_n(*version, usize::from(*count)));
        for slot in free {
            if let (Some(place), Some(version)) = (versions.get_mut(slot), takers.next()) {
                *place = version;
            }
        }
        Self::from_versions(&versions)
    }

    /// The version of every slot, in order.
    pub fn versions(&self) -> Vec<u32> {
        self.0
            .iter()
            .flat_map(|(version, count)| std::iter::repeat_n(*version, usize::from(*count)))
            .collect()
    }

    /// How many slots each version has.
    pub fn shares(&self) -> BTreeMap<u32, u16> {
        let mut shares = BTreeMap::new();
        for (version, count) in &self.0 {
            *shares.entry(*version).or_default() += *count;
        }
        shares
    }

    fn from_versions(versions: &[u32]) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        for version in versions {
            match runs.last_mut() {
                Some((last, count)) if last == version => *count += 1,
                _ => runs.push((*version, 1)),
            }
        }
        Self(runs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moved(before: &Layout, after: &Layout) -> usize {
        let (before, after) = (before.versions(), after.versions());
        before.iter().zip(&after).filter(|(a, b)| a != b).count()
    }

    /// Shares of up to five versions that add up.
    fn shares() -> impl Strategy<Value = BTreeMap<u32, u16>> {
        proptest::collection::vec((1_u32..6, 0_u16..=SLOTS), 0..5).prop_map(|cuts| {
            let mut left = SLOTS;
            let mut shares = BTreeMap::new();
            for (version, share) in cuts {
                let share = share.min(left);
                left -= share;
                *shares.entry(version).or_default() += share;
            }
            *shares.entry(1).or_default() += left;
            shares.retain(|_, share| *share > 0);
            shares
        })
    }

    proptest! {
        #[test]
        fn every_version_has_its_share_and_only_the_slots_move_that_must(changes in proptest::collection::vec(shares(), 1..5)) {
            let mut layout = Layout::whole(1);
            for wanted in changes {
                let next = layout.with_shares(&wanted);
                prop_assert_eq!(&next.shares(), &wanted);
                let held = layout.shares();
                let must: usize = held
                    .iter()
                    .map(|(version, count)| count.saturating_sub(wanted.get(version).copied().unwrap_or(0)))
                    .map(usize::from)
                    .sum();
                prop_assert_eq!(moved(&layout, &next), must);
                layout = next;
            }
        }
    }

    #[test]
    fn a_canary_that_grows_keeps_the_keys_it_has() {
        let five = Layout::whole(3).with_shares(&BTreeMap::from([(3, 9_500), (4, 500)]));
        let ten = five.with_shares(&BTreeMap::from([(3, 9_000), (4, 1_000)]));
        let (before, after) = (five.versions(), ten.versions());
        assert!(
            before
                .iter()
                .zip(&after)
                .all(|(before, after)| *before != 4 || *after == 4)
        );
        assert_eq!(moved(&five, &ten), 500);
    }

    #[test]
    fn a_layout_is_stored_as_runs() {
        let layout = Layout::whole(3).with_shares(&BTreeMap::from([(3, 9_999), (4, 1)]));
        let stored = serde_json::to_string(&layout).unwrap();
        assert_eq!(stored, "[[3,9999],[4,1]]");
        assert_eq!(serde_json::from_str::<Layout>(&stored).unwrap(), layout);
    }
}
