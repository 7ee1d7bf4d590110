//! The threads of a process.
//!
//! A pool of blocking threads never shrinks under a steady load: whatever a burst started is kept busy by turns. Each
//! thread's heap keeps what it once had, rows are let go of by other threads than wrote them, and so a burst of seconds
//! would be paid for in memory for ever. Calls that block are short here (a lookup, a file, a page), so that few threads
//! suffice, and the rest wait their turn.

use std::thread::available_parallelism;
use tokio::runtime::{Builder, Runtime};

/// Threads for calls that block, beside so many for each core.
const BLOCKING: usize = 16;
const BLOCKING_PER_CORE: usize = 8;
/// What tokio would allow.
const MOST_BLOCKING: usize = 512;

/// A runtime with a worker per core and as many blocking threads as make sense for that. A call that blocks must not wait
/// for another one that has not begun, unless few of its kind run at a time.
pub fn runtime() -> std::io::Result<Runtime> {
    let cores = available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(blocking(cores))
        .build()
}

fn blocking(cores: usize) -> usize {
    cores
        .saturating_mul(BLOCKING_PER_CORE)
        .saturating_add(BLOCKING)
        .min(MOST_BLOCKING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_machine_has_few_threads_and_a_large_one_no_more_than_tokio_allows() {
        assert_eq!(blocking(2), 32);
        assert_eq!(blocking(128), 512);
    }

    #[test]
    fn more_calls_than_threads_wait_their_turn() {
        let runtime = runtime().unwrap();
        let done = runtime.block_on(async {
            let calls: Vec<_> = (0..2_000)
                .map(|number| tokio::task::spawn_blocking(move || number))
                .collect();
            let mut sum = 0;
            for call in calls {
                sum += call.await.unwrap();
            }
            sum
        });
        assert_eq!(done, (0..2_000).sum::<i32>());
    }
}
