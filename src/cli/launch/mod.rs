//! `annulus launch`: starts ranks of a command on this host.
//!
//! Two processes stand between whoever calls and the ranks. The front is what was called; it does nothing but wait for the guard, which starts
//! the ranks, passes on what they print, and ends them. The front holds one end of a socket whose other end the guard reads: however the front
//! ends, by Ctrl-C, `kill` or `kill -9`, the guard sees it and ends the ranks. The guard and each rank lead process groups of their own, so that what
//! a rank started ends with it, and Ctrl-C reaches the front alone.

#[cfg(target_os = "linux")]
mod front;
#[cfg(target_os = "linux")]
mod guard;
#[cfg(target_os = "linux")]
mod lines;
#[cfg(target_os = "linux")]
mod rank;

use super::args::Launch;
use super::stop::Stop;

#[cfg(target_os = "linux")]
pub(super) fn run(args: &Launch) -> Result<(), Stop> {
    if args.guarded { guard::run(args) } else { front::run(args) }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn run(_: &Launch) -> Result<(), Stop> {
    Err(Stop::Failed("annulus launch needs Linux".into()))
}
