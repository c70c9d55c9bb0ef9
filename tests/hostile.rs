//! Models that nobody meant well, through every room: sizes past 2^40, depth that would end a recursion, a million nodes,
//! names made to fool a terminal. Everything runs on the stack that a thread of Rust has.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // helpers of tests, which no lint knows as such

#[path = "import/build.rs"]
#[allow(dead_code, unreachable_pub)] // shared with the tests of the importer
mod build;
#[path = "hostile/deep.rs"]
mod deep;
#[path = "hostile/many.rs"]
mod many;
#[path = "hostile/names.rs"]
mod names;
#[path = "hostile/sizes.rs"]
mod sizes;

use std::time::{Duration, Instant};

/// Runs on 2 MiB of stack, whatever the environment asks for; gives the result and the time.
fn on_a_plain_stack<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> (T, Duration) {
    let start = Instant::now();
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(f).unwrap();
    let result = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    (result, start.elapsed())
}
