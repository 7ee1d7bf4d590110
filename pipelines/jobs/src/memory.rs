//! The memory that running jobs share: each takes its part before it starts, and gives it back when it ends.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of MiB to share. Clones share the same ones.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    total_mib: u32,
    free: Arc<Semaphore>,
}

/// A part of the memory; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Room {
    mib: u32,
    _permit: OwnedSemaphorePermit,
}

impl Memory {
    /// `mib` to share.
    pub(crate) fn new(mib: u64) -> Self {
        let total_mib = u32::try_from(mib).unwrap_or(u32::MAX).max(1);
        Self {
            total_mib,
            // A semaphore holds fewer than a u32 on small machines.
            free: Arc::new(Semaphore::new((total_mib as usize).min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Room for `mib`, or all there is if that is less; none while others have it. There is always room for nothing.
    pub(crate) fn try_take(&self, mib: u64) -> Option<Room> {
        let mib = u32::try_from(mib).unwrap_or(u32::MAX).min(self.total_mib);
        let permit = Arc::clone(&self.free).try_acquire_many_owned(mib).ok()?;
        Some(Room { mib, _permit: permit })
    }

    /// How much is taken.
    pub(crate) fn taken_mib(&self) -> u64 {
        u64::from(self.total_mib).saturating_sub(self.free.available_permits() as u64)
    }
}

impl Room {
    /// How much it is.
    pub(crate) fn mib(&self) -> u64 {
        u64::from(self.mib)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_as_far_as_there_is_some_and_comes_back() {
        let memory = Memory::new(100);
        let first = memory.try_take(60).unwrap();
        assert!(memory.try_take(60).is_none());
        let second = memory.try_take(40).unwrap();
        assert_eq!(memory.taken_mib(), 100);
        drop((first, second));
        let all = memory.try_take(1_000).unwrap();
        assert_eq!((all.mib(), memory.taken_mib()), (100, 100));
    }
}
