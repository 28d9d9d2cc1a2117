//! Runs one target of `headroom::fuzz` with libFuzzer. `FUZZ_TARGET` names it.

#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let target = headroom::fuzz::TARGETS
        .iter()
        .find(|(other, _)| *other == name);
    target
        .unwrap_or_else(|| panic!("FUZZ_TARGET names no target: {name:?}"))
        .1
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
