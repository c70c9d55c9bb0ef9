//! Where the ranks of a failed run first went different ways.
//!
//! A group of messages has an end on every rank that it names. Ranks that wait for it wait for those that have not come to it; those wait
//! for others, or failed of something of their own: at the end of that chain is the cause.

use super::record::{Group, Record, State};
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

/// Puts the records of ranks together, each rank's once.
pub fn judge(records: &[Record]) -> Judged {
    let mut out = Judged::default();
    let Some(first) = records.first() else { return out };
    out.ranks = records.iter().map(|r| r.ranks).max().unwrap_or(0);
    let by_rank: BTreeMap<usize, &Record> = records.iter().map(|r| (r.rank, r)).collect();
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
    let waits = |r: &&Record| r.groups.iter().any(|g| g.state == State::Waits);
    let mut found: Option<(usize, Vec<usize>, Vec<usize>)> = None;
    for record in records.iter().filter(waits) {
        for group in record.groups.iter().filter(|g| g.state == State::Waits) {
            let missing = missing(group, &by_rank);
            if missing.is_empty() || found.as_ref().is_some_and(|f| f.0 <= group.number) {
                continue;
            }
            let at =
                |r: &&Record| r.groups.iter().any(|g| g.number == group.number && g.state == State::Waits);
            found = Some((group.number, records.iter().filter(at).map(|r| r.rank).collect(), missing));
        }
    }
    out.cause = causes(records, &by_rank, found.as_ref().map(|f| f.2.as_slice()));
    out.diverged = found;
    out
}

/// The ranks of a group that have not come to it, as far as is known.
fn missing(group: &Group, by_rank: &BTreeMap<usize, &Record>) -> Vec<usize> {
    let peers: BTreeSet<usize> = group.sends.iter().chain(&group.recvs).map(|p| p.0).collect();
    let there = |peer: &usize| {
        let groups = by_rank.get(peer).map(|r| &r.groups);
        groups.and_then(|g| g.iter().find(|g| g.number == group.number)).map(|g| g.state)
    };
    peers.into_iter().filter(|peer| !matches!(there(peer), Some(State::Waits | State::Through))).collect()
}

/// Follows who waits for whom, from these ranks on or from all.
fn causes(
    records: &[Record],
    by_rank: &BTreeMap<usize, &Record>,
    from: Option<&[usize]>,
) -> Vec<(usize, Option<String>)> {
    let mut left: Vec<usize> = match from {
        Some(ranks) => ranks.to_vec(),
        None => records.iter().map(|r| r.rank).collect(),
    };
    let (mut seen, mut ends) = (BTreeSet::new(), BTreeSet::new());
    while let Some(rank) = left.pop() {
        if !seen.insert(rank) {
            continue;
        }
        let waiting =
            by_rank.get(&rank).into_iter().flat_map(|r| &r.groups).filter(|g| g.state == State::Waits);
        let next: Vec<usize> = waiting.flat_map(|g| missing(g, by_rank)).collect();
        if next.is_empty() {
            ends.insert(rank);
        }
        left.extend(next);
    }
    // Where ranks wait for each other in a circle, all of it is the cause.
    let ends = if ends.is_empty() { seen } else { ends };
    ends.into_iter().map(|rank| (rank, by_rank.get(&rank).map(|r| r.error.clone()))).collect()
}

/// Messages whose two ends have other numbers of bytes, or one end only.
fn ends_that_differ(by_rank: &BTreeMap<usize, &Record>) -> Vec<String> {
    let mut out = vec![];
    for (&rank, record) in by_rank {
        for group in &record.groups {
            for (sends, list) in [(true, &group.sends), (false, &group.recvs)] {
                for &(peer, bytes) in list {
                    let Some(other) = by_rank.get(&peer) else { continue };
                    let theirs = other.groups.iter().find(|g| g.number == group.number);
                    let of = |g: &Group| {
                        let list = if sends { &g.recvs } else { &g.sends };
                        list.iter().filter(|p| p.0 == rank).map(|p| p.1).sum::<usize>()
                    };
                    let whole: usize = list.iter().filter(|p| p.0 == peer).map(|p| p.1).sum();
                    let got = theirs.map_or(0, of);
                    // Told once, by its sender, or by the receiver of what nobody sends.
                    if got != whole && (sends || got == 0) && bytes > 0 {
                        let (does, would) = if sends { ("sends", "receives") } else { ("receives", "sends") };
                        let number = group.number;
                        out.push(format!(
                            "group {number}: rank {rank} {does} {whole} bytes, and rank {peer} {would} {got}"
                        ));
                    }
                }
            }
            if out.len() >= 64 {
                return out;
            }
        }
    }
    out.dedup();
    out
}

fn named(ranks: &[usize]) -> String {
    let all: Vec<String> = ranks.iter().take(16).map(usize::to_string).collect();
    let more = if ranks.len() > 16 { format!(" and {} more", ranks.len() - 16) } else { String::new() };
    format!("{} {}{more}", if ranks.len() == 1 { "rank" } else { "ranks" }, all.join(", "))
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ranks == 0 {
            return writeln!(f, "no rank left a record");
        }
        for difference in self.differences.iter().take(16) {
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
        for (rank, said) in &self.cause {
            match said {
                Some(said) => writeln!(f, "rank {rank} says: {said}")?,
                None => {
                    writeln!(f, "rank {rank} left no record: it was ended before it could, or never began")?
                }
            }
        }
        Ok(())
    }
}
