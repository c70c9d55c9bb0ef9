//! The ranges of the figures: what a file, a builder and a changed description are all held to.
//!
//! In: a figure. Out: nothing, or what is wanted instead, in words.

use std::ops::RangeInclusive;

/// The largest of any number in a description: sums of what it leads to stay finite.
const MOST: f64 = 1e9;

/// The smallest rate or bandwidth.
const LEAST: f64 = 1e-6;

/// Counts and sizes.
const COUNTS: RangeInclusive<usize> = 1..=1 << 20;

/// A rate or a bandwidth.
pub(super) fn rate(x: f64) -> Result<(), String> {
    number(x, LEAST, MOST)
}

/// A time in µs.
pub(super) fn time(x: f64) -> Result<(), String> {
    number(x, 0.0, MOST)
}

/// By which part kernels slow down.
pub(super) fn slowdown(x: f64) -> Result<(), String> {
    number(x, 0.0, 10.0)
}

fn number(x: f64, least: f64, most: f64) -> Result<(), String> {
    let fits = (least..=most).contains(&x);
    if fits { Ok(()) } else { Err(format!("want a number from {least:?} to {most:?}, not {x:?}")) }
}

/// A number of nodes or ranks.
pub(super) fn count(n: usize) -> Result<(), String> {
    if COUNTS.contains(&n) { Ok(()) } else { Err(format!("want 1 to 2^20, not {n}")) }
}

/// The multiprocessors of a GPU; 0: nobody says.
pub(super) fn sms(n: usize) -> Result<(), String> {
    /// More than any GPU has.
    const MOST_SMS: usize = 4096;
    if n <= MOST_SMS { Ok(()) } else { Err(format!("want 0 to {MOST_SMS}, not {n}")) }
}

/// The multiprocessors that messages of a link hold, on a GPU that has so many.
pub(super) fn held_sms(n: usize, all: usize) -> Result<(), String> {
    match n {
        0 => Ok(()),
        _ if all == 0 => Err(format!("{n} of how many? sms of the device says nothing")),
        _ if n >= all => Err(format!("want fewer than the {all} that the GPU has, not {n}")),
        // Who asks NCCL for another number gets the next power.
        _ if !n.is_power_of_two() => Err(format!("want a power of two, not {n}")),
        _ => Ok(()),
    }
}

/// The sizes of a tile.
pub(super) fn tile(sizes: [usize; 2]) -> Result<(), String> {
    if sizes.iter().all(|t| COUNTS.contains(t)) {
        Ok(())
    } else {
        Err("want two sizes from 1 to 2^20".into())
    }
}

/// Whether a head may have this size.
pub(super) fn is_head_size(size: usize) -> bool {
    COUNTS.contains(&size)
}

/// What is wanted instead of this head size.
pub(super) fn no_head_size(size: &str) -> String {
    format!("want a head size from 1 to 2^20, not {size}")
}
