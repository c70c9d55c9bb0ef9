//! One rank's process.

use super::lines;
use annulus::exec::group::{TOKEN, Token, names};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;
use std::thread;

/// What the guard hears of.
pub(super) enum Event {
    /// The rank's process ended, with this status as a shell says it.
    Ended(u32, u8),
    /// One of its outputs did.
    Silent,
    /// The front is gone.
    Alone,
}

/// What all ranks are told.
pub(super) struct Job {
    pub(super) program: OsString,
    pub(super) args: Vec<OsString>,
    pub(super) size: u32,
    pub(super) meet: String,
    /// The token, unless the environment has one.
    pub(super) token: Option<Token>,
}

/// A rank that was started. Its process stays a child that nobody has waited for, so that the number of its group belongs to nobody else.
pub(super) struct Rank {
    child: Child,
    group: Pid,
    pub(super) ended: bool,
}

impl Rank {
    /// Starts a rank: a process that leads a group.
    pub(super) fn start(job: &Job, rank: u32, events: &Sender<Event>) -> io::Result<Rank> {
        let mut command = Command::new(&job.program);
        command.args(&job.args).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for (name, value) in [
            (names::RANK, rank),
            (names::SIZE, job.size),
            (names::LOCAL_RANK, rank),
            (names::LOCAL_SIZE, job.size),
        ] {
            command.env(name, value.to_string());
        }
        command.env(names::MEET, &job.meet);
        if let Some(token) = job.token.as_ref().and_then(Token::text) {
            command.env(TOKEN, token);
        }
        let mut child = command.spawn()?;
        let group = Pid::from_child(&child);
        let outputs = (child.stdout.take(), child.stderr.take());
        let rank_started = Rank { child, group, ended: false };
        let spawn = |what: Box<dyn FnOnce() + Send>| thread::Builder::new().spawn(what).map(drop);
        let begun = (|| {
            if let (Some(out), Some(err)) = outputs {
                let tell = events.clone();
                spawn(Box::new(move || {
                    lines::pass(out, io::stdout(), rank);
                    let _ = tell.send(Event::Silent);
                }))?;
                let tell = events.clone();
                spawn(Box::new(move || {
                    lines::pass(err, io::stderr(), rank);
                    let _ = tell.send(Event::Silent);
                }))?;
            }
            let tell = events.clone();
            spawn(Box::new(move || {
                let _ = tell.send(Event::Ended(rank, status(group)));
            }))
        })();
        match begun {
            Ok(()) => Ok(rank_started),
            Err(e) => {
                rank_started.sweep();
                Err(e)
            }
        }
    }

    /// Its number, which is that of its group.
    pub(super) fn group(&self) -> i32 {
        self.group.as_raw_pid()
    }

    /// Asks the rank and what it started to end; one that is stopped goes on, so that it can.
    pub(super) fn ask(&self) {
        let _ = kill_process_group(self.group, Signal::TERM);
        let _ = kill_process_group(self.group, Signal::CONT);
    }

    /// Ends the rank and what it started.
    pub(super) fn kill(&self) {
        let _ = kill_process_group(self.group, Signal::KILL);
    }

    /// Ends whatever is left of it, and lets its number go.
    pub(super) fn sweep(mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// Waits for the end of a process and leaves it there; its status, a signal as 128 and its number.
fn status(pid: Pid) -> u8 {
    loop {
        match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(Some(status)) => {
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                let code = status.exit_status().or(signal).unwrap_or(1);
                return u8::try_from(code).unwrap_or(1);
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            // It is there until this process has waited for it.
            Err(_) => return 1,
        }
    }
}
