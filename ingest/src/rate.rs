//! How many of something happened over the last seconds, in constant memory.

use tokio::time::Instant;

/// Seconds that are looked back on at most.
const SECONDS: usize = 60;

/// Counts by the second over the last minute.
#[derive(Clone, Debug)]
pub(crate) struct Rate {
    started: Instant,
    /// A count for each of the last seconds, and which second it is of.
    buckets: [(u64, u64); SECONDS + 1],
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            buckets: [(u64::MAX, 0); SECONDS + 1],
        }
    }
}

impl Rate {
    /// `count` of them happened now.
    pub(crate) fn add(&mut self, count: u64) {
        self.add_at(self.started.elapsed().as_secs(), count);
    }

    /// How many happened within the last `seconds` whole seconds, at most 60.
    pub(crate) fn within(&self, seconds: u64) -> u64 {
        self.within_at(self.started.elapsed().as_secs(), seconds)
    }

    fn add_at(&mut self, second: u64, count: u64) {
        let index = (second % self.buckets.len() as u64) as usize;
        if let Some(bucket) = self.buckets.get_mut(index) {
            if bucket.0 != second {
                *bucket = (second, 0);
            }
            bucket.1 += count;
        }
    }

    /// The second under way counts too, in place of the oldest.
    fn within_at(&self, now: u64, seconds: u64) -> u64 {
        let first = now.saturating_add(1).saturating_sub(seconds);
        let recent = self.buckets.iter().filter(|(second, _)| (first..=now).contains(second));
        recent.map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_last_seconds_count() {
        let mut rate = Rate::default();
        for second in 0..100 {
            rate.add_at(second, 2);
        }
        assert_eq!(rate.within_at(99, 10), 20);
        assert_eq!(rate.within_at(99, 60), 120);
        assert_eq!(rate.within_at(104, 10), 10, "five of them were silent");
        assert_eq!(rate.within_at(500, 60), 0);
    }
}
