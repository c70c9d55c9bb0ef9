//! matching: sends and receives of all ranks pair up, and groups have one order.

use super::bytes::message_bytes;
use super::log::Log;
use crate::schedule::{ExchangeKind, Schedule, StepOp, Transfer};
use std::collections::{BTreeMap, HashMap};

/// For every transfer its other end.
pub(super) struct Links {
    /// For each rank and step, where its transfers begin in `other`: sends first, then receives.
    first: Vec<Vec<usize>>,
    /// For each rank: step of the peer.
    other: Vec<Vec<usize>>,
    /// For each rank: index among the transfers of that step of the peer, sends first.
    index: Vec<Vec<usize>>,
}

impl Links {
    /// The step of the peer, and the index among its transfers, that transfer `i` of a step pairs with.
    pub(super) fn other(&self, rank: usize, step: usize, i: usize) -> (usize, usize) {
        let at = self.first[rank][step] + i;
        (self.other[rank][at], self.index[rank][at])
    }
}

/// One end of a message.
#[derive(Clone, Copy)]
struct End {
    /// The rank that sends and the one that receives.
    pair: (usize, usize),
    step: usize,
    /// Among the transfers of the step, sends first.
    index: usize,
    group: usize,
    kind: ExchangeKind,
    sms: Option<usize>,
    bytes: usize,
}

impl End {
    fn name(&self) -> String {
        let sms = self.sms.map_or(String::new(), |sms| format!(" on {sms} multiprocessors"));
        format!("step {} ({} g{}{sms}, {} bytes)", self.step, self.kind.name(), self.group, self.bytes)
    }
}

/// The pairs, if every transfer has one.
pub(super) fn matching(schedule: &Schedule, log: &mut Log<'_>) -> Option<Links> {
    let (mut sends, mut recvs): (Vec<End>, Vec<End>) = (Vec::new(), Vec::new());
    let mut links = Links { first: Vec::new(), other: Vec::new(), index: Vec::new() };
    for (r, program) in schedule.ranks.iter().enumerate() {
        let mut first = Vec::with_capacity(program.steps.len());
        let mut count = 0;
        for (step, s) in program.steps.iter().enumerate() {
            first.push(count);
            let StepOp::Exchange { group, kind, sms, sends: out, recvs: back } = &s.op else { continue };
            let end = |pair, index, t: &Transfer| End {
                pair,
                step,
                index,
                group: *group,
                kind: *kind,
                sms: *sms,
                bytes: message_bytes(&schedule.attention, t).unwrap_or(usize::MAX),
            };
            sends.extend(out.iter().enumerate().map(|(i, t)| end((r, t.peer), i, t)));
            recvs.extend(back.iter().enumerate().map(|(i, t)| end((t.peer, r), out.len() + i, t)));
            count += out.len() + back.len();
        }
        links.first.push(first);
        links.other.push(vec![0; count]);
        links.index.push(vec![0; count]);
    }
    // Stable: the messages of a pair of ranks stay in the order of issue.
    rayon::join(|| sends.sort_by_key(|e| e.pair), || recvs.sort_by_key(|e| e.pair));
    let paired = pair_up(&sends, &recvs, &mut links, log);
    order(schedule, log);
    paired.then_some(links)
}

/// Walks both lists pair of ranks by pair of ranks. Of each pair, the first fault is told.
fn pair_up(sends: &[End], recvs: &[End], links: &mut Links, log: &mut Log<'_>) -> bool {
    let (mut s, mut r) = (sends, recvs);
    let mut fine = true;
    loop {
        let pair = match (s.first(), r.first()) {
            (None, None) => return fine,
            (Some(a), Some(b)) => a.pair.min(b.pair),
            (Some(a), None) => a.pair,
            (None, Some(b)) => b.pair,
        };
        let (mine, rest) = s.split_at(s.partition_point(|e| e.pair == pair));
        s = rest;
        let (theirs, rest) = r.split_at(r.partition_point(|e| e.pair == pair));
        r = rest;
        let (from, to) = pair;
        // Who lets them hold another number uses another communicator.
        let same = |a: &End, b: &End| (a.group, a.kind, a.sms, a.bytes) == (b.group, b.kind, b.sms, b.bytes);
        for (k, (a, b)) in mine.iter().zip(theirs).enumerate() {
            if !same(a, b) {
                fine = false;
                log.fail(from, a.step, || {
                    format!(
                        "send {k} from rank {from} to rank {to} is {}, but receive {k} there is {}",
                        a.name(),
                        b.name()
                    )
                });
                break;
            }
            log.fact();
            for (rank, end, other) in [(from, a, b), (to, b, a)] {
                let at = links.first[rank][end.step] + end.index;
                links.other[rank][at] = other.step;
                links.index[rank][at] = other.index;
            }
        }
        let (sent, received) = (mine.len(), theirs.len());
        if sent != received {
            fine = false;
            let (rank, extra) = if sent > received { (from, &mine[received]) } else { (to, &theirs[sent]) };
            log.fail(rank, extra.step, || {
                format!("rank {from} has {sent} sends to rank {to}, which has {received} receives from it")
            });
        }
    }
}

/// Ranks that share groups have them in the same order, and no rank has one twice.
fn order(schedule: &Schedule, log: &mut Log<'_>) {
    let groups: Vec<Vec<(usize, usize)>> = schedule
        .ranks
        .iter()
        .map(|program| {
            let group = |(i, s): (usize, &crate::schedule::Step)| match s.op {
                StepOp::Exchange { group, .. } => Some((group, i)),
                _ => None,
            };
            program.steps.iter().enumerate().filter_map(group).collect()
        })
        .collect();
    if groups.iter().all(|list| list.windows(2).all(|w| w[0].0 < w[1].0)) {
        // Their numbers rise on every rank.
        groups.iter().flatten().for_each(|_| log.fact());
        return;
    }
    let mut twice = false;
    for (r, list) in groups.iter().enumerate() {
        let mut seen = HashMap::new();
        for &(group, step) in list {
            match seen.insert(group, step) {
                None => log.fact(),
                Some(before) => {
                    twice = true;
                    log.fail(r, step, || {
                        format!("group {group} was already begun by step {before}: one group is one step")
                    });
                }
            }
        }
    }
    if !twice && !ordered(&groups) {
        disorder(&groups, log);
    }
}

/// Whether all groups can be numbered so that the numbers rise on every rank. It is enough that ranks agree, and quick.
fn ordered(groups: &[Vec<(usize, usize)>]) -> bool {
    // How many ranks wait for a group to be the first on all of its ranks.
    let mut missing: BTreeMap<usize, usize> = BTreeMap::new();
    let mut members: HashMap<usize, Vec<usize>> = HashMap::new();
    for (r, list) in groups.iter().enumerate() {
        for &(group, _) in list {
            *missing.entry(group).or_default() += 1;
            members.entry(group).or_default().push(r);
        }
    }
    let mut heads = vec![0; groups.len()];
    let mut ready: Vec<usize> = Vec::new();
    let mut reach = |r: usize, at: usize, ready: &mut Vec<usize>| {
        if let Some(&(group, _)) = groups[r].get(at)
            && let Some(n) = missing.get_mut(&group)
        {
            *n -= 1;
            if *n == 0 {
                ready.push(group);
            }
        }
    };
    for r in 0..groups.len() {
        reach(r, 0, &mut ready);
    }
    let mut done = 0;
    while let Some(group) = ready.pop() {
        done += 1;
        for &r in members.get(&group).map_or(&[][..], Vec::as_slice) {
            heads[r] += 1;
            reach(r, heads[r], &mut ready);
        }
    }
    done == members.len()
}

/// Finds ranks that disagree. Groups may also wait for each other in a circle of ranks no two of which disagree: that is
/// for `deadlock` to find.
fn disorder(groups: &[Vec<(usize, usize)>], log: &mut Log<'_>) {
    const MOST_WORK: usize = 1 << 26;
    let mut work = 0usize;
    for (r, list) in groups.iter().enumerate() {
        let at: HashMap<usize, usize> = list.iter().copied().collect();
        'others: for (other, theirs) in groups.iter().enumerate().take(r) {
            work = work.saturating_add(theirs.len());
            if work > MOST_WORK {
                log.fail(r, 0, || {
                    "there are too many groups to prove that ranks agree on their order".to_owned()
                });
                return;
            }
            // The last of the groups so far, in this rank's order.
            let mut last: Option<(usize, usize)> = None;
            for &(group, _) in theirs {
                let Some(&step) = at.get(&group) else { continue };
                match last {
                    Some((before, earlier)) if step < earlier => {
                        log.fail(r, step, || {
                            format!(
                                "group {group} comes before group {before} here, and after it on rank {other}"
                            )
                        });
                        break 'others;
                    }
                    _ => last = Some((group, step)),
                }
            }
        }
    }
}
