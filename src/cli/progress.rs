//! Progress on long work, on standard error: a line after two seconds, then each time twice as much time has passed. Only
//! where somebody watches: on a terminal, or with `-v`.

use super::print;
use std::io::IsTerminal;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_secs(2);

/// What is being done; dropped, it says no more.
pub(crate) struct Progress(Option<Arc<Shared>>);

struct Shared {
    /// What is being done; `None` when it is done.
    now: Mutex<Option<String>>,
    changed: Condvar,
}

impl Shared {
    fn now(&self) -> MutexGuard<'_, Option<String>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    /// Begins to say that this is being done.
    pub(crate) fn begin(verbose: bool, what: &str) -> Progress {
        if !verbose && !std::io::stderr().is_terminal() {
            return Progress(None);
        }
        let shared = Arc::new(Shared { now: Mutex::new(Some(what.to_owned())), changed: Condvar::new() });
        let seen = shared.clone();
        let begun = thread::Builder::new().spawn(move || say(&seen));
        Progress(begun.is_ok().then_some(shared))
    }

    /// Now this is being done.
    pub(crate) fn set(&self, what: impl FnOnce() -> String) {
        if let Some(shared) = &self.0 {
            *shared.now() = Some(what());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            *shared.now() = None;
            shared.changed.notify_all();
        }
    }
}

fn say(shared: &Shared) {
    let start = Instant::now();
    let mut next = FIRST;
    let mut now = shared.now();
    while let Some(what) = now.as_ref() {
        let passed = start.elapsed();
        if passed >= next {
            print::error(&format!("{what} ({:.0} s)", passed.as_secs_f64()));
            next *= 2;
        }
        let wait = next.saturating_sub(start.elapsed());
        now = shared.changed.wait_timeout(now, wait).unwrap_or_else(PoisonError::into_inner).0;
    }
}
