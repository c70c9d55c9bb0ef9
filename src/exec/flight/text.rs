//! A record as text, and back. Whatever a text holds, reading it ends.

use super::record::{Cause, Group, Happened, Note, Record, State};
use std::fmt::{self, Write as _};

/// The most bytes of a record.
pub const MOST_BYTES: usize = 1 << 20;
/// The most groups and notes that are written, the last ones.
const MOST_LINES: usize = 4096;
/// The most bytes of a text within.
const MOST_TEXT: usize = 2048;
/// No number is greater: ranks, steps, bytes.
const MOST_NUMBER: usize = 1 << 48;
/// The most ranks that a group names.
const MOST_PEERS: usize = 4096;

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It is none, or of another version of annulus that writes it otherwise.
    #[error("is no flight record of this version")]
    NoRecord,
    /// A line says nothing that a record says.
    #[error("line {0} is damaged")]
    Line(usize),
    /// It ends too early.
    #[error("is cut off after line {0}")]
    CutOff(usize),
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unread(String),
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |text: &str| {
            let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let mut end = clean.len().min(MOST_TEXT);
            while !clean.is_char_boundary(end) {
                end -= 1;
            }
            clean[..end].to_owned()
        };
        writeln!(f, "annulus flight 1")?;
        writeln!(f, "version {}", quoted(&self.version))?;
        writeln!(f, "island {}", quoted(&self.island))?;
        writeln!(f, "rank {} of {}", self.rank, self.ranks)?;
        writeln!(f, "error {}", quoted(&self.error))?;
        writeln!(f, "cause {}", self.cause.name())?;
        writeln!(f, "issued {}", if self.issued { "all" } else { "some" })?;
        let last = |n: usize| n.saturating_sub(MOST_LINES);
        writeln!(f, "left out {}", self.left_out + last(self.groups.len()))?;
        for group in &self.groups[last(self.groups.len())..] {
            let peers = |list: &[(usize, usize)]| {
                list.iter().fold(String::new(), |mut out, (peer, bytes)| {
                    let _ = write!(out, " {peer}:{bytes}");
                    out
                })
            };
            let (sends, recvs) = (peers(&group.sends), peers(&group.recvs));
            let state = group.state.name();
            writeln!(f, "group {} step {} {state} to{sends} from{recvs}", group.number, group.step)?;
        }
        for note in &self.notes[last(self.notes.len())..] {
            let (micros, happened) = (note.micros, note.happened.name());
            writeln!(
                f,
                "op {} step {} {} {happened} at {micros} us",
                note.op,
                note.step,
                quoted(&note.action)
            )?;
        }
        writeln!(f, "end")
    }
}

/// The record that a text holds.
///
/// # Errors
/// It is damaged.
pub fn parse(text: &str) -> Result<Record, Damage> {
    let mut lines = text.split_inclusive('\n').enumerate().map(|(n, line)| (n + 1, line));
    // A line that has no end was cut off.
    let mut next = |after: usize| match lines.next() {
        Some((n, line)) => line.strip_suffix('\n').map(|line| (n, line)).ok_or(Damage::CutOff(n - 1)),
        None => Err(Damage::CutOff(after)),
    };
    if next(0).map_err(|_| Damage::NoRecord)?.1 != "annulus flight 1" {
        return Err(Damage::NoRecord);
    }
    let mut headed = |n: usize, word: &str| {
        let (n, line) = next(n)?;
        let rest = line.strip_prefix(word).and_then(|rest| rest.strip_prefix(' '));
        rest.filter(|rest| rest.len() <= MOST_TEXT).map(str::to_owned).ok_or(Damage::Line(n))
    };
    let version = headed(1, "version")?;
    let island = headed(2, "island")?;
    let place = headed(3, "rank")?;
    let error = headed(4, "error")?;
    let cause = headed(5, "cause")?;
    let issued = headed(6, "issued")?;
    let left_out = headed(7, "left out")?;
    let (rank, ranks) = place.split_once(" of ").ok_or(Damage::Line(4))?;
    let (rank, ranks) = (number(rank).ok_or(Damage::Line(4))?, number(ranks).ok_or(Damage::Line(4))?);
    if rank >= ranks || !["all", "some"].contains(&issued.as_str()) {
        return Err(Damage::Line(if rank >= ranks { 4 } else { 7 }));
    }
    let issued = issued == "all";
    let left_out = number(&left_out).ok_or(Damage::Line(8))?;
    let cause = Cause::ALL.into_iter().find(|c| c.name() == cause).ok_or(Damage::Line(6))?;
    let (groups, notes) = (vec![], vec![]);
    let mut out = Record { version, island, rank, ranks, error, cause, issued, left_out, groups, notes };
    let mut at = 8;
    loop {
        let (n, line) = next(at)?;
        at = n;
        if line == "end" {
            return next(n).map_or(Ok(out), |(n, _)| Err(Damage::Line(n)));
        }
        if out.groups.len() + out.notes.len() > 2 * MOST_LINES {
            return Err(Damage::Line(n));
        }
        match line.split_once(' ') {
            Some(("group", rest)) => out.groups.push(group(rest, ranks).ok_or(Damage::Line(n))?),
            Some(("op", rest)) => out.notes.push(note(rest).ok_or(Damage::Line(n))?),
            _ => return Err(Damage::Line(n)),
        }
    }
}

fn number(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|n| digits && *n <= MOST_NUMBER)
}

fn group(rest: &str, ranks: usize) -> Option<Group> {
    let mut words = rest.split(' ');
    let of = number(words.next()?)?;
    let step = words.next().filter(|w| *w == "step").and(words.next()).and_then(number)?;
    let state = words.next().and_then(|w| State::ALL.into_iter().find(|s| s.name() == w))?;
    words.next().filter(|w| *w == "to")?;
    let mut out = Group { number: of, step, state, sends: vec![], recvs: vec![] };
    let mut from = false;
    for word in words {
        if word == "from" && !from {
            from = true;
            continue;
        }
        let (peer, bytes) = word.split_once(':')?;
        let list = if from { &mut out.recvs } else { &mut out.sends };
        list.push((number(peer).filter(|p| *p < ranks)?, number(bytes)?));
        if list.len() > MOST_PEERS {
            return None;
        }
    }
    Some(out).filter(|_| from)
}

fn note(rest: &str) -> Option<Note> {
    let (rest, micros) = rest.strip_suffix(" us")?.rsplit_once(" at ")?;
    let (rest, happened) = rest.rsplit_once(' ')?;
    let mut words = rest.splitn(4, ' ');
    let op = number(words.next()?)?;
    let step = words.next().filter(|w| *w == "step").and(words.next()).and_then(number)?;
    Some(Note {
        micros: number(micros)? as u64,
        op,
        step,
        action: words.next()?.to_owned(),
        happened: Happened::ALL.into_iter().find(|h| h.name() == happened)?,
    })
}
