//! Runs the device programs of one rank, or of all ranks of a process, with a [`Walk`] for each.
//!
//! In: programs, engines, ends of a transport. Out: everything is issued, and where that is asked for, done. Invariants: whoever waits for
//! other ranks asks again, until a deadline where they run elsewhere, and until nobody can go on where they run here.

use super::engine::Engine;
use super::error::WalkError;
use super::patient::Patient;
use super::transport::Transport;
use super::walker::Walk;
use crate::exec::flight;
use crate::lower::program::Program;
use std::time::{Duration, Instant};

/// Runs one rank's program to its end. Other ranks are run elsewhere: where they do not come, it gives up at the deadline, and tells the
/// transport.
///
/// # Errors
/// The engine's, the transport's, or nothing moved for as long as `patience`.
pub fn walk<E: Engine, T: Transport<E>>(
    program: &Program,
    engine: &mut E,
    transport: &mut T,
    patience: Duration,
) -> Result<(), WalkError> {
    run(program, engine, transport, patience, true)
}

/// Issues one rank's program, as [`walk`] does, and waits for none of it to be done: only for the other ranks to reach the same groups.
///
/// # Errors
/// As [`walk`].
pub fn issue<E: Engine, T: Transport<E>>(
    program: &Program,
    engine: &mut E,
    transport: &mut T,
    patience: Duration,
) -> Result<(), WalkError> {
    run(program, engine, transport, patience, false)
}

fn run<E: Engine, T: Transport<E>>(
    program: &Program,
    engine: &mut E,
    transport: &mut T,
    patience: Duration,
    to_its_end: bool,
) -> Result<(), WalkError> {
    let (mut run, begin) = (Patient::new(program, patience, to_its_end), Instant::now());
    while !run.poll(engine, transport, begin.elapsed())? {
        std::thread::yield_now();
    }
    Ok(())
}

/// Runs the programs of all ranks from one thread, each over its own engine and its own end of the transport. It ends where nobody can go
/// on.
///
/// # Errors
/// The engine's, the transport's, or ranks wait for each other, or for an event, in vain.
pub fn walk_all<E: Engine, T: Transport<E>>(
    programs: &[Program],
    engines: &mut [E],
    transports: &mut [T],
) -> Result<(), WalkError> {
    let walks = issued(programs, &mut engines.iter_mut().zip(transports).collect::<Vec<_>>())?;
    for (walk, engine) in walks.iter().zip(engines) {
        while !walk.is_done(engine)? {}
    }
    Ok(())
}

/// Issues the programs of all ranks from one thread, as [`walk_all`] does, and waits for none of it to be done. Each rank comes with its
/// engine and its end of the transport.
///
/// # Errors
/// As [`walk_all`].
pub fn issue_all<E: Engine, T: Transport<E>>(
    programs: &[Program],
    ranks: &mut [(&mut E, &mut T)],
) -> Result<(), WalkError> {
    issued(programs, ranks).map(|_| ())
}

fn issued<'p, E: Engine, T: Transport<E>>(
    programs: &'p [Program],
    ranks: &mut [(&mut E, &mut T)],
) -> Result<Vec<Walk<'p>>, WalkError> {
    let mut walks: Vec<Walk<'_>> = programs.iter().map(Walk::new).collect();
    loop {
        let mut moved = false;
        for (walk, (engine, transport)) in walks.iter_mut().zip(&mut *ranks) {
            let advanced = walk.advance(*engine, *transport);
            moved |= advanced.inspect_err(|e| flight::keep(&walk.record(e)))?;
        }
        if !moved {
            break;
        }
    }
    for walk in &walks {
        walk.waits().iter().for_each(|e| flight::keep(&walk.record(e)));
    }
    let mut waiting = walks.iter().filter_map(Walk::waits);
    if let Some(first) = waiting.next() {
        let more: Vec<String> = waiting.take(3).map(|e| e.to_string()).collect();
        let more = if more.is_empty() { String::new() } else { format!("; {}", more.join("; ")) };
        return Err(WalkError { why: format!("deadlock: {}{more}", first.why), ..first });
    }
    drop(waiting);
    Ok(walks)
}
