//! The front: starts the guard, waits for it, and ends as it ended.

use super::super::args::Launch;
use super::super::stop::Stop;
use rustix::process::{Pid, Signal, kill_process_group};
use std::env;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::thread;

pub(super) fn run(args: &Launch) -> Result<(), Stop> {
    let failed = |what: &str, e: std::io::Error| Stop::Failed(format!("{what}: {e}"));
    let program = env::current_exe().map_err(|e| failed("annulus does not find itself", e))?;
    let (ours, theirs) = UnixStream::pair().map_err(|e| failed("a socket", e))?;
    let mut guard = Command::new(program);
    guard.args(["launch", "--guarded", "-n", &args.ranks.to_string(), "--grace", &args.grace.to_string()]);
    guard.arg("--").args(&args.command);
    guard.stdin(Stdio::from(OwnedFd::from(theirs))).process_group(0);
    let mut child = guard.spawn().map_err(|e| failed("annulus cannot start itself", e))?;
    // It holds the other end of the socket.
    drop(guard);
    let told = ours.try_clone().map_err(|e| failed("a socket", e))?;
    let listener = thread::spawn(move || groups(BufReader::new(told)));
    let status = child.wait().map_err(|e| failed("waiting for the ranks", e))?;
    let Some(code) = status.code() else {
        // Nobody ends the ranks if this does not.
        for group in listener.join().unwrap_or_default() {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let signal = status.signal().unwrap_or(0);
        return Err(Stop::Ended(u8::try_from(128 + signal).unwrap_or(1)));
    };
    // Until here the guard can see that somebody waits.
    drop(ours);
    if code == 0 { Ok(()) } else { Err(Stop::Ended(u8::try_from(code).unwrap_or(1))) }
}

/// The process groups that the guard says it started.
fn groups(told: impl BufRead) -> Vec<Pid> {
    let numbers = told.lines().map_while(Result::ok).filter_map(|line| line.parse().ok());
    // 1 is whoever started all else, and no group of a rank.
    numbers.filter(|n: &i32| *n > 1).filter_map(Pid::from_raw).collect()
}
