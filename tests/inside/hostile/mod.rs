//! Models that nobody meant well, through every room: sizes past 2^40, depth that would end a recursion, a million nodes,
//! names made to fool a terminal. Everything runs on the stack that a thread of Rust has.

mod deep;
mod many;
mod names;
mod sizes;

use super::import::build;
use super::support::clock;

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
