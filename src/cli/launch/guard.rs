//! The guard: starts the ranks, and sees to it that they end.

use super::super::args::{Cli, Launch};
use super::super::print;
use super::super::stop::Stop;
use super::rank::{Event, Job, Rank};
use annulus::exec::group::{Place, Token, free_port, variables};
use clap::CommandFactory;
use std::env;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How long ranks have to end by themselves when another one has failed.
const OWN_WORDS: Duration = Duration::from_secs(3);
/// So long it waits for the last words of ranks that have ended, which others may hold back.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub(super) fn run(args: &Launch) -> Result<(), Stop> {
    let failed = |e: io::Error| Stop::Failed(format!("annulus launch: {e}"));
    let job = job(args)?;
    let front = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    let (tell, events) = mpsc::channel();
    let mut watched = front.try_clone().map_err(failed)?;
    let alone = tell.clone();
    thread::Builder::new()
        .spawn(move || {
            // Nothing is ever said there: it comes back when nobody holds the other end.
            let _ = watched.read(&mut [0]);
            let _ = alone.send(Event::Alone);
        })
        .map_err(failed)?;
    let mut ranks: Vec<Rank> = vec![];
    let mut stopped = None;
    for rank in 0..job.size {
        match Rank::start(&job, rank, &tell) {
            Ok(started) => {
                let _ = writeln!(&front, "{}", started.group());
                ranks.push(started);
            }
            Err(e) => {
                let program = job.program.to_string_lossy().into_owned();
                stopped = Some(Stop::Usage(format!("rank {rank} cannot be started: {program}: {e}")));
                break;
            }
        }
    }
    let grace = Duration::from_secs(u64::from(args.grace));
    let first = attend(&mut ranks, &events, grace, stopped.is_some());
    let left = 2 * ranks.len();
    let heard = first.outputs_ended;
    ranks.into_iter().for_each(Rank::sweep);
    last_words(&events, left.saturating_sub(heard));
    match (stopped, first.failed) {
        (Some(stop), _) => Err(stop),
        (None, Some(status)) => Err(Stop::Ended(status)),
        (None, None) => Ok(()),
    }
}

/// What ranks are told, or why there is none to tell.
fn job(args: &Launch) -> Result<Job, Stop> {
    let failed = |e: io::Error| Stop::Failed(format!("annulus launch: {e}"));
    let Some((first, rest)) = args.command.split_first() else {
        return Err(Stop::Usage("there is no command".into()));
    };
    let own = Cli::command().get_subcommands().any(|c| first.to_str() == Some(c.get_name()));
    let (program, args_of) = if own {
        (env::current_exe().map_err(failed)?.into_os_string(), args.command.clone())
    } else {
        (first.clone(), rest.to_vec())
    };
    let given = Token::from_environment(&variables()).map_err(|e| Stop::Usage(e.to_string()))?;
    let token = if given.is_some() { None } else { Some(Token::random().map_err(failed)?) };
    let port = free_port().map_err(failed)?;
    let meet = Place { host: "127.0.0.1".into(), port, last: port.saturating_add(7) };
    Ok(Job { program, args: args_of, size: args.ranks, meet: meet.to_string(), token })
}

/// What came of the ranks.
#[derive(Default)]
struct Attended {
    /// The status of the first that failed.
    failed: Option<u8>,
    outputs_ended: usize,
}

/// Comes back when every rank has ended. The first failure ends the others, which may say first what they know of it, and so does the end of
/// the front: they are asked, and killed when they have had their time.
fn attend(ranks: &mut [Rank], events: &Receiver<Event>, grace: Duration, end: bool) -> Attended {
    let mut out = Attended::default();
    let (mut ask_at, mut kill_at) = (None, None);
    let ask = |ranks: &[Rank], kill_at: &mut Option<Instant>| {
        if kill_at.is_none() {
            *kill_at = Some(Instant::now() + grace);
            ranks.iter().filter(|r| !r.ended).for_each(Rank::ask);
        }
    };
    if end {
        ask(ranks, &mut kill_at);
    }
    let mut killed = false;
    while ranks.iter().any(|r| !r.ended) {
        let at = if kill_at.is_some() { kill_at.filter(|_| !killed) } else { ask_at };
        let left = at.map(|at| at.saturating_duration_since(Instant::now()));
        let event = match left {
            Some(left) => events.recv_timeout(left),
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match event {
            Ok(Event::Silent) => out.outputs_ended += 1,
            Ok(Event::Alone) => ask(ranks, &mut kill_at),
            Ok(Event::Ended(rank, status)) => {
                let others =
                    ranks.iter().enumerate().filter(|(i, r)| *i != rank as usize && !r.ended).count();
                if let Some(rank) = ranks.get_mut(rank as usize) {
                    rank.ended = true;
                }
                if status != 0 && out.failed.is_none() && kill_at.is_none() {
                    ask_at = Some(Instant::now() + OWN_WORDS);
                    out.failed = Some(status);
                    let rest = if others == 0 { "" } else { "; the others are ended" };
                    print::error(&format!("rank {rank} ended with status {}{rest}", shown(status)));
                }
            }
            Err(RecvTimeoutError::Timeout) if kill_at.is_none() => ask(ranks, &mut kill_at),
            Err(RecvTimeoutError::Timeout) => {
                killed = true;
                ranks.iter().filter(|r| !r.ended).for_each(Rank::kill);
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    out
}

/// `3`, `137 (signal 9)`.
fn shown(status: u8) -> String {
    match status.checked_sub(128).filter(|signal| (1..=64).contains(signal)) {
        Some(signal) => format!("{status} (signal {signal})"),
        None => status.to_string(),
    }
}

/// Waits until what the ranks printed is passed on.
fn last_words(events: &Receiver<Event>, mut left: usize) {
    let until = Instant::now() + LAST_WORDS;
    while left > 0 {
        match events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Event::Silent) => left -= 1,
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
