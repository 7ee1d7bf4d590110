//! The process's heap: when it gives back what was freed.
//!
//! mimalloc keeps freed memory for a second, in case it is asked for again, and lends memory that blocks of one size have
//! left to blocks of that size first. Work that goes in stages, as a training set's does, asks for other sizes in each:
//! after every stage the process would hold for a second what the last one has let go of, beside what the next one takes.
//! A tenth of a second still covers what is freed and asked for again within a batch.

use std::ffi::{c_int, c_long};

/// `mi_option_purge_delay` of mimalloc's `mi_option_t`.
const PURGE_DELAY: c_int = 15;
/// Milliseconds.
const DELAY: c_long = 100;
/// What sets mimalloc's option from outside.
const VARIABLE: &str = "MIMALLOC_PURGE_DELAY";

#[allow(unsafe_code, reason = "the allocator's own function, which no safe crate has")]
unsafe extern "C" {
    fn mi_option_set(option: c_int, value: c_long);
    #[cfg(test)]
    fn mi_option_get(option: c_int) -> c_long;
}

/// Has freed memory given back sooner, unless the environment says when. To be called first: no other thread may run yet.
#[allow(unsafe_code, reason = "the allocator's own function, which no safe crate has")]
pub(crate) fn give_back_soon() {
    if std::env::var_os(VARIABLE).is_some() {
        return;
    }
    // SAFETY: it stores a number in a table of the allocator that this process is linked with. It is not to be called while
    // others read that, and nobody else runs.
    unsafe {
        mi_option_set(PURGE_DELAY, DELAY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code, reason = "the allocator's own function, which no safe crate has")]
    fn the_option_is_the_one_whose_default_is_a_second() {
        let set = std::env::var(VARIABLE).ok().and_then(|delay| delay.parse().ok());
        // SAFETY: it reads a number from a table that nobody writes here.
        let delay = unsafe { mi_option_get(PURGE_DELAY) };
        assert_eq!(delay, set.unwrap_or(1_000), "mimalloc's options stand elsewhere now");
    }
}
