//! Where the ranks of a failed run first went different ways.
//!
//! A group of messages has an end on every rank that it names. Ranks that wait for it wait for those that have not come to it; those wait
//! for others, or failed of something of their own: at the end of that chain is the cause.

use super::record::{Cause, Group, Record, State};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What the records say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// How many ranks the run had.
    pub ranks: usize,
    /// Those that left no record.
    pub without: Vec<usize>,
    /// What records do not agree on, in words: versions, islands, numbers of ranks, messages whose ends differ.
    pub differences: Vec<String>,
    /// The first group that some ranks wait for and others have not come to: its number, who waits, who is missing.
    pub diverged: Option<(usize, Vec<usize>, Vec<usize>)>,
    /// The ranks at the end of the chain, and what each says of itself; nothing where it left no record.
    pub cause: Vec<(usize, Option<String>)>,
}

/// A rank's record, with its groups by number.
struct Known<'r> {
    record: &'r Record,
    groups: BTreeMap<usize, &'r Group>,
}

type ByRank<'r> = BTreeMap<usize, Known<'r>>;

/// Puts the records of ranks together, each rank's once.
pub fn judge(records: &[Record]) -> Judged {
    let mut out = Judged::default();
    let Some(first) = records.first() else { return out };
    out.ranks = records.iter().map(|r| r.ranks).max().unwrap_or(0);
    let known = |record| Known { record, groups: record.groups.iter().map(|g| (g.number, g)).collect() };
    let by_rank: ByRank<'_> = records.iter().map(|r| (r.rank, known(r))).collect();
    // As many as there are at most in a run; a record may say any number.
    out.without = (0..out.ranks).filter(|r| !by_rank.contains_key(r)).take(1024).collect();
    for record in records {
        let rank = record.rank;
        for (what, theirs, ours) in [
            ("version", &record.version, &first.version),
            ("island", &record.island, &first.island),
            ("number of ranks", &record.ranks.to_string(), &first.ranks.to_string()),
        ] {
            if theirs != ours {
                let other = first.rank;
                out.differences.push(format!("rank {rank} has the {what} {theirs}, and rank {other} {ours}"));
            }
        }
    }
    out.differences.extend(ends_that_differ(&by_rank));
    // By group who waits for it; the least one that somebody has not come to.
    let mut waiting: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for record in records {
        for group in waits(record) {
            waiting.entry(group.number).or_default().push(record.rank);
        }
    }
    out.diverged = waiting.into_iter().find_map(|(number, ranks)| {
        let groups = ranks.iter().filter_map(|rank| by_rank.get(rank)?.groups.get(&number));
        let missing: BTreeSet<usize> = groups.flat_map(|group| missing(group, &by_rank)).collect();
        (!missing.is_empty()).then(|| (number, ranks, missing.into_iter().collect()))
    });
    out.cause = causes(records, &by_rank, out.diverged.as_ref().map(|d| d.2.as_slice()));
    out
}

/// The groups for which a rank waits.
fn waits(record: &Record) -> impl Iterator<Item = &Group> {
    record.groups.iter().filter(|g| g.state == State::Waits)
}

/// The ranks of a group that have not come to it, as far as is known.
fn missing(group: &Group, by_rank: &ByRank<'_>) -> BTreeSet<usize> {
    let peers: BTreeSet<usize> = group.sends.iter().chain(&group.recvs).map(|p| p.0).collect();
    let came = |peer: &usize| match by_rank.get(peer) {
        None => false,
        Some(known) => match known.groups.get(&group.number) {
            Some(theirs) => theirs.state != State::Before,
            // It may be one of those that its record leaves out, which are behind it.
            None => known.record.left_out > 0,
        },
    };
    peers.into_iter().filter(|peer| !came(peer)).collect()
}

/// Follows who waits for whom, from these ranks on or from all.
fn causes(records: &[Record], by_rank: &ByRank<'_>, from: Option<&[usize]>) -> Vec<(usize, Option<String>)> {
    let mut left: Vec<usize> = match from {
        Some(ranks) => ranks.to_vec(),
        None => records.iter().map(|r| r.rank).collect(),
    };
    let (mut seen, mut ends) = (BTreeSet::new(), BTreeSet::new());
    while let Some(rank) = left.pop() {
        if !seen.insert(rank) {
            continue;
        }
        let waiting = by_rank.get(&rank).into_iter().flat_map(|known| waits(known.record));
        let next: BTreeSet<usize> = waiting.flat_map(|g| missing(g, by_rank)).collect();
        if next.is_empty() {
            ends.insert(rank);
        }
        left.extend(next.difference(&seen));
    }
    // Who failed of something of its own, and who left nothing; else whoever the chain ends with, or all of a circle.
    let own = records.iter().filter(|r| r.cause == Cause::Own).map(|r| r.rank);
    let silent = ends.iter().copied().filter(|rank| !by_rank.contains_key(rank));
    let first: BTreeSet<usize> = own.chain(silent).collect();
    let found = [first, ends, seen].into_iter().find(|ranks| !ranks.is_empty()).unwrap_or_default();
    found.into_iter().map(|rank| (rank, by_rank.get(&rank).map(|known| known.record.error.clone()))).collect()
}

/// How many bytes go to, or come from, each rank.
fn by_peer(list: &[(usize, usize)]) -> BTreeMap<usize, usize> {
    let mut out = BTreeMap::new();
    for &(peer, bytes) in list {
        let sum: &mut usize = out.entry(peer).or_default();
        *sum = sum.saturating_add(bytes);
    }
    out
}

/// Messages whose two ends have other numbers of bytes, or one end only.
fn ends_that_differ(by_rank: &ByRank<'_>) -> Vec<String> {
    /// No more are told.
    const MOST: usize = 64;
    let mut out = vec![];
    // What the receivers of a group expect, by receiver and sender; counted once.
    let mut received: BTreeMap<(usize, usize), BTreeMap<usize, usize>> = BTreeMap::new();
    let mut sent = received.clone();
    for (&rank, known) in by_rank {
        for (&number, group) in &known.groups {
            received.insert((number, rank), by_peer(&group.recvs));
            sent.insert((number, rank), by_peer(&group.sends));
        }
    }
    let told = |all: &BTreeMap<(usize, usize), BTreeMap<usize, usize>>, number, rank, peer| {
        // What a record leaves out is not known.
        let known = by_rank.get(&rank).is_some_and(|known: &Known<'_>| {
            known.record.left_out == 0 || known.groups.contains_key(&number)
        });
        let bytes = all.get(&(number, rank)).and_then(|of: &BTreeMap<usize, usize>| of.get(&peer));
        known.then(|| bytes.copied().unwrap_or(0))
    };
    for (&(number, rank), to) in &sent {
        for (&peer, &bytes) in to.iter().filter(|(_, bytes)| **bytes > 0) {
            if let Some(got) = told(&received, number, peer, rank).filter(|got| *got != bytes) {
                out.push(format!(
                    "group {number}: rank {rank} sends {bytes} bytes, and rank {peer} receives {got}"
                ));
            }
        }
    }
    for (&(number, rank), from) in &received {
        for (&peer, &bytes) in from.iter().filter(|(_, bytes)| **bytes > 0) {
            // Of what is sent, it is told above.
            if told(&sent, number, peer, rank) == Some(0) {
                out.push(format!(
                    "group {number}: rank {rank} receives {bytes} bytes, and rank {peer} sends 0"
                ));
            }
        }
    }
    out.truncate(MOST);
    out
}

/// Of how many ranks and differences each is told.
const SHOWN: usize = 16;

fn named(ranks: &[usize]) -> String {
    let all: Vec<String> = ranks.iter().take(SHOWN).map(usize::to_string).collect();
    let more = if ranks.len() > SHOWN { format!(" and {} more", ranks.len() - SHOWN) } else { String::new() };
    format!("{} {}{more}", if ranks.len() == 1 { "rank" } else { "ranks" }, all.join(", "))
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ranks == 0 {
            return writeln!(f, "no rank left a record");
        }
        for difference in self.differences.iter().take(SHOWN) {
            writeln!(f, "{difference}")?;
        }
        if !self.without.is_empty() {
            writeln!(f, "of {} ranks, no record: {}", self.ranks, named(&self.without))?;
        }
        if let Some((group, waiting, missing)) = &self.diverged {
            let (wait, have) = (
                if waiting.len() == 1 { "waits" } else { "wait" },
                if missing.len() == 1 { "has" } else { "have" },
            );
            writeln!(
                f,
                "group {group}: {} {wait}, and {} {have} not come to it",
                named(waiting),
                named(missing)
            )?;
        }
        for (rank, said) in self.cause.iter().take(SHOWN) {
            match said {
                Some(said) => writeln!(f, "rank {rank} says: {said}")?,
                None => writeln!(
                    f,
                    "rank {rank} left no record: it came to its end, was ended before it could, or never began"
                )?,
            }
        }
        match self.cause.len().saturating_sub(SHOWN) {
            0 => {}
            more => writeln!(f, "and {more} more ranks")?,
        }
        Ok(())
    }
}
