//! The program that libFuzzer drives. `ONDOL_FUZZ_TARGET` names the target.

#![no_main]
#![allow(
    unsafe_code,
    clippy::expect_used,
    clippy::panic,
    reason = "libFuzzer calls by a C symbol and takes an abort for a finding"
)]

use ondol_fuzz::Target;
use std::sync::LazyLock;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("ONDOL_FUZZ_TARGET").expect("ONDOL_FUZZ_TARGET names the target: see scripts/fuzz");
    ondol_fuzz::target(&name).unwrap_or_else(|| panic!("there is no target `{name}`"))
});

/// Called by libFuzzer with each input.
#[unsafe(no_mangle)]
pub extern "C" fn LLVMFuzzerTestOneInput(data: *const u8, size: usize) -> i32 {
    // SAFETY: libFuzzer owns `size` bytes at `data` for the length of the call; for none it may be null.
    let input = if size == 0 {
        &[]
    } else {
        unsafe { std::slice::from_raw_parts(data, size) }
    };
    // A panic can't unwind into libFuzzer.
    if std::panic::catch_unwind(|| TARGET(input)).is_err() {
        std::process::abort();
    }
    0
}
