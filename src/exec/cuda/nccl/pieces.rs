//! What a rank's groups are for NCCL, whose messages are one run of bytes on both sides.
//!
//! In: the device programs of all ranks. Out: per group the runs that are sent and received, cut where either side ends a run, so that both
//! ends of a message have the same runs in the same order. Invariants: each run lies within the memory that the program says; groups begin
//! in the order of the program, whatever streams they are on, and the orders of all ranks are parts of one: the order in which all
//! communicators are used.

use super::error::NcclError;
use crate::lower::program::{Action, Address, Base, Group, Message, Program};
use petgraph::algo::toposort;
use petgraph::graph::DiGraph;
use std::collections::BTreeMap;

/// More runs of one message than this are refused: rows that lie so far apart are to be packed.
const MOST: usize = 1 << 16;

/// One run of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) sends: bool,
    pub(crate) peer: usize,
    pub(crate) at: Address,
    pub(crate) bytes: usize,
}

/// The groups of a rank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pieces {
    /// In the order in which they begin.
    groups: Vec<Vec<Piece>>,
    /// By number its place in that order.
    places: BTreeMap<usize, usize>,
}

impl Pieces {
    /// Those of one rank.
    ///
    /// # Errors
    /// The programs do not fit each other, or a message has too many runs.
    pub(crate) fn of(programs: &[Program], rank: usize) -> Result<Pieces, NcclError> {
        let mut out = Pieces::default();
        one_order(programs, rank)?;
        let own = programs.get(rank).into_iter().flat_map(|p| groups(p).map(move |g| (p, g)));
        for (program, group) in own {
            let wrong = |why: String| NcclError::Program { rank, group: group.group, why };
            if group.sms == Some(0) {
                return Err(wrong(
                    "copy engines are to move it, which NCCL's sends do not do: name a device whose links hold multiprocessors".into(),
                ));
            }
            let mut pieces = vec![];
            for (sends, messages) in [(false, &group.recvs), (true, &group.sends)] {
                // The k-th message to a rank is the k-th that it receives from here.
                let mut counts = BTreeMap::new();
                for message in messages {
                    let count = counts.entry(message.peer).or_insert(0);
                    let other =
                        programs.get(message.peer).and_then(|p| partner(p, rank, group, !sends, *count));
                    *count += 1;
                    let other = other
                        .ok_or_else(|| wrong(format!("rank {} has no other end of it", message.peer)))?;
                    cut(program, message, other, |at, bytes| {
                        pieces.push(Piece { sends, peer: message.peer, at, bytes })
                    })
                    .map_err(wrong)?;
                }
            }
            out.places.insert(group.group, out.groups.len());
            out.groups.push(pieces);
        }
        Ok(out)
    }

    /// The place of a group in the order, and its runs.
    pub(crate) fn of_group(&self, group: usize) -> Option<(usize, &[Piece])> {
        let place = *self.places.get(&group)?;
        Some((place, self.groups.get(place)?))
    }
}

/// Whether there is an order of all groups of which that of each rank is a part.
fn one_order(programs: &[Program], rank: usize) -> Result<(), NcclError> {
    let mut order = DiGraph::new();
    let mut nodes = BTreeMap::new();
    for program in programs {
        let mut before = None;
        for group in groups(program) {
            let node = *nodes.entry(group.group).or_insert_with(|| order.add_node(group.group));
            if let Some(before) = before.replace(node) {
                order.update_edge(before, node, ());
            }
        }
    }
    let Err(cycle) = toposort(&order, None) else { return Ok(()) };
    let group = order.node_weight(cycle.node_id()).copied().unwrap_or(0);
    Err(NcclError::Program {
        rank,
        group,
        why: "ranks come to it and to other groups in different orders".into(),
    })
}

fn groups(program: &Program) -> impl Iterator<Item = &Group> {
    program.ops.iter().filter_map(|op| match &op.action {
        Action::Group(group) => Some(group),
        _ => None,
    })
}

/// The other end of a message: the k-th of a group with the rank, if the group is of the same communicator there.
fn partner<'p>(
    program: &'p Program,
    rank: usize,
    group: &Group,
    sends: bool,
    k: usize,
) -> Option<&'p Message> {
    let group = groups(program).find(|g| (g.group, g.sms) == (group.group, group.sms))?;
    let messages = if sends { &group.sends } else { &group.recvs };
    messages.iter().filter(|m| m.peer == rank).nth(k)
}

/// The runs of a message, those side by side as one.
fn runs(message: &Message) -> Result<Vec<(Address, usize)>, String> {
    let mut out: Vec<(Address, usize)> = vec![];
    for part in message.parts.iter().map(|part| part.joined()).filter(|part| part.bytes > 0) {
        for run in 0..part.count {
            let at = part.at.plus(run.saturating_mul(part.stride));
            match out.last_mut() {
                Some((last, bytes)) if last.plus(*bytes) == at => *bytes += part.bytes,
                _ => out.push((at, part.bytes)),
            }
            if out.len() > MOST {
                return Err(format!("a message of more than {MOST} runs: pack its rows"));
            }
        }
    }
    Ok(out)
}

/// Tells the runs of a message, each as long as the shorter of the two that meet there.
fn cut(
    program: &Program,
    message: &Message,
    other: &Message,
    mut tell: impl FnMut(Address, usize),
) -> Result<(), String> {
    if message.bytes() != other.bytes() {
        let (here, there) = (message.bytes(), other.bytes());
        return Err(format!("{here} bytes here, and {there} on rank {}", message.peer));
    }
    let theirs = runs(other)?;
    let mut theirs = theirs.into_iter().map(|(_, bytes)| bytes);
    let mut left = 0;
    for (at, bytes) in runs(message)? {
        let room = room(program, at.base);
        if at.offset.checked_add(bytes).is_none_or(|end| end > room) {
            return Err(format!("{bytes} bytes at {} of {:?}, which has {room}", at.offset, at.base));
        }
        let mut done = 0;
        while done < bytes {
            if left == 0 {
                left = theirs.next().ok_or("its other end has fewer bytes")?;
            }
            let now = left.min(bytes - done);
            tell(at.plus(done), now);
            (done, left) = (done + now, left - now);
        }
    }
    Ok(())
}

/// How many bytes a part of a rank's memory has.
fn room(program: &Program, base: Base) -> usize {
    let facts = &program.attention;
    let region = |regions: &[crate::lower::program::Region], n: usize| regions.get(n).map_or(0, |r| r.bytes);
    match base {
        Base::Arena => program.arena_bytes,
        Base::Argument(n) => facts.arguments.get(n).copied().unwrap_or(0),
        Base::Out => facts.out_bytes,
        Base::Lse => facts.lse_bytes,
        Base::Scratch(stream) => region(&program.scratch, stream),
        Base::Zeroed(stream) => region(&program.zeroed, stream),
    }
}
