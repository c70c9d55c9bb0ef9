//! Models that nobody meant well, through every room: sizes past 2^40, depth that would end a recursion, a million nodes,
//! names made to fool a terminal. Everything runs on the stack that a thread of Rust has.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // helpers of tests, which no lint knows as such

#[path = "import/build.rs"]
#[allow(dead_code, unreachable_pub)] // shared with the tests of the importer
mod build;
#[path = "support/clock.rs"]
mod clock;
#[path = "hostile/deep.rs"]
mod deep;
#[path = "hostile/many.rs"]
mod many;
#[path = "hostile/names.rs"]
mod names;
#[path = "hostile/sizes.rs"]
mod sizes;

use std::time::Duration;

/// Runs on 2 MiB of stack, whatever the environment asks for; gives the result and the processor time.
fn on_a_plain_stack<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> (T, Duration) {
    let timed = || {
        let result = f();
        (result, clock::processor_time())
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(timed).unwrap();
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
