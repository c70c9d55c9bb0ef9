//! One rank's program under way, with a limit to how long nothing may move.
//!
//! In: a [`Program`], then an engine, a transport and the time, again and again. Out: done, or why not. Invariants: it never blocks and asks
//! no clock: time is what whoever asks says, so that a test waits ten minutes in none; a rank that fails leaves its record and tells the
//! transport, once.

use super::engine::Engine;
use super::error::WalkError;
use super::transport::Transport;
use super::walker::{Stopped, Walk};
use crate::exec::flight::{self, Cause};
use crate::lower::program::Program;
use std::time::Duration;

/// A rank's program under way.
#[derive(Debug)]
pub struct Patient<'p> {
    walk: Walk<'p>,
    patience: Duration,
    to_its_end: bool,
    /// When something moved last.
    since: Option<Duration>,
    failed: Option<WalkError>,
}

impl<'p> Patient<'p> {
    /// Nothing is issued yet. It ends when everything is done or, unless `to_its_end`, issued.
    pub fn new(program: &'p Program, patience: Duration, to_its_end: bool) -> Patient<'p> {
        Patient { walk: Walk::new(program), patience, to_its_end, since: None, failed: None }
    }

    /// How far it is.
    pub fn walk(&self) -> &Walk<'p> {
        &self.walk
    }

    /// Issues what can be issued at this time, counted from any fixed one: whether it has come to its end.
    ///
    /// # Errors
    /// The engine's, the transport's, or nothing moved for as long as its patience. It says the same ever after.
    pub fn poll<E: Engine, T: Transport<E>>(
        &mut self,
        engine: &mut E,
        transport: &mut T,
        now: Duration,
    ) -> Result<bool, WalkError> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        let done = self.go_on(engine, transport, now);
        if let Err(e) = &done {
            self.failed = Some(e.clone());
            // What it did last is kept before the others are told: a launcher may end this process then.
            flight::keep(&self.walk.record(e));
            transport.abort(&e.to_string());
        }
        done
    }

    fn go_on<E: Engine, T: Transport<E>>(
        &mut self,
        engine: &mut E,
        transport: &mut T,
        now: Duration,
    ) -> Result<bool, WalkError> {
        // A clock that goes back begins the wait anew.
        let mut since = self.since.map_or(now, |since| since.min(now));
        while self.walk.advance(engine, transport)? {
            since = now;
        }
        if self.walk.is_issued() && (!self.to_its_end || self.walk.is_done(engine)?) {
            return Ok(true);
        }
        if engine.worked() {
            since = now;
        }
        self.since = Some(since);
        if let Err(e) = transport.well() {
            let Stopped(why, cause) = e.into();
            let end = || self.walk.fault_at_end(why.clone(), cause);
            return Err(self.walk.waits().map_or_else(end, |at| WalkError { why: why.clone(), cause, ..at }));
        }
        let patience = self.patience;
        if now.saturating_sub(since) < patience {
            return Ok(false);
        }
        let late = |e: WalkError| WalkError { why: format!("{}, for {patience:?}", e.why), ..e };
        let running = || {
            self.walk.fault_at_end(format!("what was issued is not done after {patience:?}"), Cause::Waited)
        };
        Err(self.walk.waits().map_or_else(running, late))
    }
}
