//! The driver finds what it is there to find.

use super::driver::{Rng, Target, fuzz};
use crate::inside::support::alone::alone;
use std::panic::catch_unwind;

/// Appends a byte.
fn grow(rng: &mut Rng, input: &[u8], _: &[Vec<u8>]) -> Vec<u8> {
    let mut out = input.to_vec();
    out.push(b"abc"[rng.below(3)]);
    out
}

/// What the driver says of a target that begins with nothing.
fn said(name: &'static str, run: fn(&[u8]) -> String) -> String {
    let target = Target { name, seeds: vec![vec![]], inputs: 10_000, mutate: grow, run };
    let panic = catch_unwind(|| fuzz(&target)).expect_err("a fault is there to be found");
    panic.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn a_panic_behind_two_changes_is_found_and_the_input_kept() {
    if !alone!(a_panic_behind_two_changes_is_found_and_the_input_kept) {
        return;
    }
    let message = said("selftest_panic", |input| {
        assert!(!input.starts_with(b"cab"), "cab is driven");
        String::from_utf8_lossy(input).chars().take(3).collect()
    });
    assert!(message.contains("it panics: cab is driven"), "{message}");
    let path = message.split("ANNULUS_FUZZ_REPLAY=").nth(1).unwrap().split(' ').next().unwrap();
    assert!(std::fs::read(path).unwrap().starts_with(b"cab"));
    std::fs::remove_file(path).unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn memory_that_is_claimed_and_never_touched_is_found() {
    // In a process of its own: what a process has claimed at most stays with it, and would hide what the others claim.
    if !alone!(memory_that_is_claimed_and_never_touched_is_found) {
        return;
    }
    let message = said("selftest_memory", |input| {
        let much = vec![0u8; if input.len() > 2 { 3 << 30 } else { 1 }];
        format!("{}{}", much.len(), input.len())
    });
    assert!(message.contains("MiB of memory"), "{message}");
}
