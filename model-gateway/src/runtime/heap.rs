//! The C library's heap, which ONNX Runtime allocates from (our own allocations come from another allocator).
//!
//! glibc keeps what was freed: once it has seen large blocks freed, blocks of up to 32 MiB come from the heap rather than
//! from the system, and what lies between two blocks in use, or at the end of the heap, stays with the process. So loads
//! and unloads of a model left megabytes each time, up to a level that depends on what ran between; told to, glibc gives all
//! of it back, in at most milliseconds. See `M_MMAP_THRESHOLD` in mallopt(3), and malloc_trim(3).

/// Gives back what is free when it is dropped: the last field of what frees much.
#[derive(Debug)]
pub(super) struct GivenBack;

impl Drop for GivenBack {
    fn drop(&mut self) {
        give_back();
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(
    unsafe_code,
    reason = "the one call that makes glibc give memory back; no safe crate has it"
)]
fn give_back() {
    // SAFETY: it takes no pointer, is safe to call from any thread (MT-Safe), and moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other C libraries decide for themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}
