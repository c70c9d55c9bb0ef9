//! deadlock, filled, and whose keys each message has for `labels`: one run of all ranks on symbols.
//!
//! A transfer needs both of its ends begun, for nothing is buffered; a step is done when all of its transfers are. No
//! receive takes from just anyone, so that which step runs first decides neither whether all run nor, where `race` holds,
//! what any byte holds: one run stands for all.

use super::bytes::{leaf_heads, place_bytes};
use super::labels::Travel;
use super::log::{Log, block_name, op_name, rows_name, step_name};
use super::matching::Links;
use super::memory::{Found, Memory, Stretch, What};
use super::results::{Given, Results};
use crate::layout::Progression;
use crate::schedule::{
    Block, Heads, KvPiece, Merged, Mesh, Packed, Place, Port, QPiece, RankProgram, Schedule, StepOp, Stream,
    Transfer, View,
};

/// The partial results, if every step ran.
pub(super) fn replay<'a>(
    schedule: &Schedule,
    links: &Links,
    deadlock: &mut Log<'_>,
    filled: &mut Log<'a>,
    labels: &mut Log<'a>,
) -> Option<Results> {
    let ranks = schedule.ranks.iter().map(|r| Rank::new(&schedule.mesh, r)).collect();
    let travel = Travel::new(schedule);
    let results = Results::new(schedule.ranks.len());
    let mut replay =
        Replay { schedule, links, ranks, filled, labels, travel, results, stretches: Vec::new() };
    let mut ready: Vec<usize> = (0..schedule.ranks.len()).rev().collect();
    while let Some(r) = ready.pop() {
        replay.advance(r, &mut ready);
    }
    let mut all = true;
    for r in 0..schedule.ranks.len() {
        for _ in replay.ranks[r].done.iter().filter(|&&d| d) {
            deadlock.fact();
        }
        for stream in schedule.mesh.streams() {
            if let Some(step) = replay.head(r, stream) {
                all = false;
                deadlock.fail(r, step, || replay.why(r, step));
            }
        }
    }
    all.then_some(replay.results)
}

/// How far a rank is.
struct Rank {
    /// The steps of each stream, in order.
    queues: Vec<Vec<usize>>,
    /// How many of them are done.
    heads: Vec<usize>,
    done: Vec<bool>,
    /// The step that records each event, by number: `form` has shown that numbers are small.
    recorded_by: Vec<usize>,
    /// Of each stream the exchange that has begun, and how many of its transfers are not made.
    begun: Vec<Option<(usize, usize)>>,
    memory: Memory,
}

impl Rank {
    fn new(mesh: &Mesh, program: &RankProgram) -> Rank {
        let queue =
            |stream| (0..program.steps.len()).filter(|&i| program.steps[i].stream == stream).collect();
        let mut recorded_by = vec![usize::MAX; program.steps.len()];
        for (i, step) in program.steps.iter().enumerate() {
            if let Some(by) = step.records.and_then(|e| recorded_by.get_mut(e)) {
                *by = i;
            }
        }
        let queues: Vec<Vec<usize>> = mesh.streams().map(queue).collect();
        Rank {
            heads: vec![0; queues.len()],
            begun: vec![None; queues.len()],
            queues,
            done: vec![false; program.steps.len()],
            recorded_by,
            memory: Memory::default(),
        }
    }

    /// The exchange that is this step, if it has begun: its stream, and how many of its transfers are not made.
    fn in_exchange(&self, step: usize) -> Option<(usize, usize)> {
        let on = |b: &Option<(usize, usize)>| b.filter(|b| b.0 == step);
        self.begun.iter().enumerate().find_map(|(lane, b)| Some((lane, on(b)?.1)))
    }
}

struct Replay<'a, 'l, 's> {
    schedule: &'a Schedule,
    links: &'a Links,
    ranks: Vec<Rank>,
    filled: &'l mut Log<'s>,
    labels: &'l mut Log<'s>,
    travel: Travel<'a>,
    results: Results,
    /// Room that is used again for every message.
    stretches: Vec<Stretch>,
}

impl Replay<'_, '_, '_> {
    /// The next step of a stream.
    fn head(&self, r: usize, stream: Stream) -> Option<usize> {
        let rank = &self.ranks[r];
        let lane = stream.lane();
        rank.queues[lane].get(rank.heads[lane]).copied()
    }

    /// The first event that a step waits for and that has not happened.
    fn waits_for(&self, r: usize, step: usize) -> Option<usize> {
        let rank = &self.ranks[r];
        let missing = |&e: &usize| rank.recorded_by.get(e).and_then(|&by| rank.done.get(by)) != Some(&true);
        self.schedule.ranks[r].steps[step].waits.iter().copied().find(missing)
    }

    /// Runs what can run on a rank. Ranks that can go on because of it become ready.
    fn advance(&mut self, r: usize, ready: &mut Vec<usize>) {
        let schedule = self.schedule;
        loop {
            let mut moved = false;
            for stream in schedule.mesh.streams() {
                let lane = stream.lane();
                while let Some(step) = self.head(r, stream) {
                    if self.waits_for(r, step).is_some() {
                        break;
                    }
                    match &schedule.ranks[r].steps[step].op {
                        StepOp::Pack { pieces } => self.pack(r, pieces),
                        StepOp::Unpack { pieces } => self.unpack(r, step, pieces),
                        StepOp::AttnPartial { q, kv, carry_in, cast_out, sinks_here, .. } => {
                            self.partial(r, step, q, kv, (*carry_in, *sinks_here, *cast_out));
                        }
                        StepOp::Merge { q, carry_in, cast_out, sinks_here } => {
                            self.merge(r, step, q, (*carry_in, *sinks_here, *cast_out));
                        }
                        StepOp::Exchange { sends, recvs, .. } => {
                            if self.ranks[r].begun[lane].is_none() {
                                self.begin((r, step, lane), sends, recvs, ready);
                            }
                            if self.ranks[r].begun[lane] != Some((step, 0)) {
                                break;
                            }
                            self.ranks[r].begun[lane] = None;
                        }
                    }
                    self.ranks[r].done[step] = true;
                    self.ranks[r].heads[lane] += 1;
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Begins an exchange, and makes those of its transfers whose other end has begun.
    fn begin(
        &mut self,
        (r, step, lane): (usize, usize, usize),
        sends: &[Transfer],
        recvs: &[Transfer],
        ready: &mut Vec<usize>,
    ) {
        let mut pending = 0;
        for (i, t) in sends.iter().chain(recvs).enumerate() {
            let (other, index) = self.links.other(r, step, i);
            let Some((there, left)) = self.ranks[t.peer].in_exchange(other) else {
                pending += 1;
                continue;
            };
            // Indices count the sends of a step first.
            let theirs = &self.schedule.ranks[t.peer].steps[other].op;
            if let (Some(recv), true) = (transfer(theirs, index), i < sends.len()) {
                self.copy((r, step, t), (t.peer, other, recv));
            } else if let Some(send) = transfer(theirs, index) {
                self.copy((t.peer, other, send), (r, step, t));
            }
            self.ranks[t.peer].begun[there] = Some((other, left - 1));
            if left == 1 {
                ready.push(t.peer);
            }
        }
        self.ranks[r].begun[lane] = Some((step, pending));
    }

    /// Moves a message from the places of its sender to those of its receiver.
    fn copy(
        &mut self,
        (from, step, send): (usize, usize, &Transfer),
        (to, there, recv): (usize, usize, &Transfer),
    ) {
        let schedule = self.schedule;
        let mut stretches = std::mem::take(&mut self.stretches);
        stretches.clear();
        for part in &send.parts {
            let view = match part {
                Place::Arena(view) => view,
                Place::Own(block) => {
                    let bytes = place_bytes(&schedule.attention, part).unwrap_or(0);
                    let what = What::Block { block: self.one_form(*block), owner: from };
                    stretches.extend((bytes > 0).then_some((bytes, Some((what, 0)))));
                    continue;
                }
            };
            let start = self.at(from, view);
            let already = stretches.len();
            self.ranks[from].memory.read(start, view.bytes, &mut stretches);
            let mut at = start;
            for stretch in &mut stretches[already..] {
                match stretch.1 {
                    Some(_) => self.filled.fact(),
                    None => {
                        let found = Found { at, holds: None };
                        self.wrong(from, step, view, found, &format!("sends to rank {}", send.peer));
                        stretch.1 = Some((What::Nothing, 0));
                    }
                }
                at += stretch.0;
            }
        }
        let holds = stretches.iter().filter_map(|s| s.1.map(|(what, _)| what));
        self.travel.message((from, step, to), holds, self.labels);
        let mut rest = stretches.iter().map(|&(len, holds)| (len, holds.unwrap_or((What::Nothing, 0))));
        let mut now = rest.next();
        for part in &recv.parts {
            let mut room = place_bytes(&schedule.attention, part).unwrap_or(0);
            if let Place::Own(block) = part {
                // All of it, in one stretch: what it holds is taken apart nowhere.
                let whole = now.filter(|&(len, (_, from))| (len, from) == (room, 0));
                self.give((to, there), block, whole.map(|(_, (what, _))| what));
            }
            let mut at = part.view().map(|view| self.at(to, view));
            while let Some((len, (what, inner))) = now.filter(|_| room > 0) {
                let moved = len.min(room);
                if let Some(at) = &mut at {
                    self.ranks[to].memory.write(*at, moved, what, inner);
                    *at += moved;
                }
                room -= moved;
                now = if moved == len { rest.next() } else { Some((len - moved, (what, inner + moved))) };
            }
        }
        self.stretches = stretches;
    }

    /// Equal blocks in one form: a leaf that is one for all heads has no heads of its own.
    fn one_form(&self, b: Block) -> Block {
        let heads = leaf_heads(&self.schedule.attention, b.port, b.heads);
        Block { rows: one_row_form(b.rows), heads, ..b }
    }

    /// A result comes to lie where the rank gives it.
    fn give(&mut self, (r, step): (usize, usize), block: &Block, what: Option<What>) {
        let bytes = place_bytes(&self.schedule.attention, &Place::Own(*block));
        let block = self.one_form(*block);
        match what {
            Some(What::Result { block: found, .. }) if found == block => self.filled.fact(),
            _ if bytes == Some(0) => self.filled.fact(),
            _ => self.filled.fail(r, step, || {
                let holds =
                    what.map_or("bytes of several things".to_owned(), |w| w.name(&self.schedule.attention));
                format!("writes {holds} where {} belongs", block_name(&self.schedule.attention, &block))
            }),
        }
        self.results.given[r].push(Given { step, block });
    }

    fn pack(&mut self, r: usize, pieces: &[Packed]) {
        for p in pieces {
            let at = self.at(r, &p.at);
            let what = What::Block { block: self.one_form(p.block), owner: r };
            self.ranks[r].memory.write(at, p.at.bytes, what, 0);
        }
    }

    fn unpack(&mut self, r: usize, step: usize, pieces: &[Packed]) {
        for p in pieces {
            let mut stretches = Vec::new();
            self.ranks[r].memory.read(self.at(r, &p.at), p.at.bytes, &mut stretches);
            let what = match stretches.as_slice() {
                [(_, Some((what, 0)))] => Some(*what),
                [(_, None)] => Some(What::Nothing),
                _ => None,
            };
            self.give((r, step), &p.block, what);
        }
    }

    fn partial(
        &mut self,
        r: usize,
        step: usize,
        q: &[QPiece],
        kv: &[KvPiece],
        (carry_in, sinks, cast_out): (bool, bool, bool),
    ) {
        for p in kv {
            if let Some(at) = &p.at {
                self.takes(r, step, at, Block { port: Port::Kv, rows: p.rows, heads: p.heads });
            }
        }
        let by_rows = self.schedule.attention.leaves.iter().enumerate().filter(|(_, l)| l.by_query_rows);
        let ports: Vec<Port> = [Port::Q].into_iter().chain(by_rows.map(|(n, _)| Port::Leaf(n + 3))).collect();
        for p in q {
            for (at, &port) in p.at.iter().zip(&ports) {
                let heads = leaf_heads(&self.schedule.attention, port, p.heads);
                self.takes(r, step, at, Block { port, rows: p.rows, heads });
            }
            let carry = p.carry.filter(|_| carry_in).map(|c| ("goes on from a carry", c));
            let sources = self.sources(r, step, (&p.rows, p.heads), carry.into_iter());
            self.leaves((r, step), (&p.rows, p.heads), &sources, (&p.carry, &p.out), (sinks, cast_out));
        }
    }

    fn merge(
        &mut self,
        r: usize,
        step: usize,
        q: &[Merged],
        (carry_in, sinks, cast_out): (bool, bool, bool),
    ) {
        for p in q {
            let carry = p.carry.filter(|_| carry_in).map(|c| ("goes on from a carry", c));
            let partials = p.partials.iter().map(|&at| ("merges a partial result", at));
            let sources = self.sources(r, step, (&p.rows, p.heads), carry.into_iter().chain(partials));
            self.leaves((r, step), (&p.rows, p.heads), &sources, (&p.carry, &p.out), (sinks, cast_out));
        }
    }

    /// The numbers of the partial results whose carries lie there, all of them of these rows and heads.
    fn sources(
        &mut self,
        r: usize,
        step: usize,
        (rows, heads): (&Progression, Heads),
        at: impl Iterator<Item = (&'static str, View)>,
    ) -> Vec<usize> {
        let rows = one_row_form(*rows);
        let mut sources = vec![];
        for (does, view) in at {
            let start = self.at(r, &view);
            let mut stretches = Vec::new();
            self.ranks[r].memory.read(start, view.bytes, &mut stretches);
            match stretches.as_slice() {
                [(_, Some((What::Carry { result, rows: of, heads: on, .. }, 0)))]
                    if (*of, *on) == (rows, heads) =>
                {
                    self.filled.fact();
                    sources.push(*result);
                }
                [] => {}
                [first, ..] => {
                    let whole = matches!(first.1, Some((What::Carry { rows: of, heads: on, .. }, 0)) if (of, on) == (rows, heads));
                    let odd = stretches.get(usize::from(whole)).unwrap_or(first);
                    let before: usize = if whole { first.0 } else { 0 };
                    let found = Found { at: start + before, holds: odd.1 };
                    self.wrong(r, step, &view, found, &format!("{does} of query {}", rows_name(&rows)));
                }
            }
        }
        sources
    }

    /// A step leaves a carry, or gives a result.
    fn leaves(
        &mut self,
        (r, step): (usize, usize),
        (rows, heads): (&Progression, Heads),
        sources: &[usize],
        (carry, out): (&Option<View>, &[View]),
        (sinks, cast_out): (bool, bool),
    ) {
        let rows = one_row_form(*rows);
        let result = self.results.add((r, step), (rows, heads), sources, (sinks, cast_out));
        let block = |port| Block { port, rows, heads };
        if cast_out {
            let ports = [Port::Out, Port::Lse];
            for (at, port) in out.iter().zip(ports) {
                let start = self.at(r, at);
                let what = What::Result { result, block: block(port) };
                self.ranks[r].memory.write(start, at.bytes, what, 0);
            }
            if out.is_empty() {
                let lse = self.schedule.attention.lse;
                let given = ports.into_iter().filter(|&port| port == Port::Out || lse);
                self.results.given[r].extend(given.map(|port| Given { step, block: block(port) }));
            }
        } else if let Some(at) = carry {
            let start = self.at(r, at);
            let what = What::Carry { result, rows, heads, by: (r, step) };
            self.ranks[r].memory.write(start, at.bytes, what, 0);
        }
    }

    /// First byte of a view in the arena.
    fn at(&self, r: usize, view: &View) -> usize {
        self.schedule.ranks[r].slots[view.slot].offset + view.start
    }

    /// A step reads a block.
    fn takes(&mut self, r: usize, step: usize, view: &View, block: Block) {
        let what = What::block(self.one_form(block));
        match self.ranks[r].memory.holds(self.at(r, view), view.bytes, what) {
            Ok(()) => self.filled.fact(),
            Err(found) => {
                self.wrong(r, step, view, found, &format!("takes {}", what.name(&self.schedule.attention)))
            }
        }
    }

    fn wrong(&mut self, r: usize, step: usize, view: &View, found: Found, does: &str) {
        let slot = &self.schedule.ranks[r].slots[view.slot];
        let at = found.at - slot.offset;
        let name = slot.name.escape_debug();
        self.filled.fail(r, step, || {
            let place = format!("{name}[{}..{}]", view.start, view.start + view.bytes);
            match found.holds {
                None => format!("{does} in {place}, but byte {at} of the slot was never written"),
                Some((What::Nothing, _)) => {
                    format!("{does} in {place}, but byte {at} of the slot came from bytes never written")
                }
                Some((what, 0)) => {
                    format!(
                        "{does} in {place}, but byte {at} of the slot begins {}",
                        what.name(&self.schedule.attention)
                    )
                }
                Some((what, from)) => {
                    format!(
                        "{does} in {place}, but byte {at} of the slot is byte {from} of {}",
                        what.name(&self.schedule.attention)
                    )
                }
            }
        });
    }

    /// Why the next step of a stream does not run.
    fn why(&self, r: usize, step: usize) -> String {
        let s = &self.schedule.ranks[r].steps[step];
        if let Some(event) = self.waits_for(r, step) {
            let by = self.ranks[r].recorded_by.get(event).copied().unwrap_or(step);
            return format!("waits for event e{event} of {}", step_name(self.schedule, r, by));
        }
        let StepOp::Exchange { sends, recvs, .. } = &s.op else {
            return format!("{} does not run", op_name(&s.op));
        };
        for (i, t) in sends.iter().chain(recvs).enumerate() {
            let (other, _) = self.links.other(r, step, i);
            if self.ranks[t.peer].done[other] || self.ranks[t.peer].in_exchange(other).is_some() {
                continue;
            }
            let verb = if i < sends.len() { "take from it" } else { "send to it" };
            let stands = match self.head(t.peer, s.stream) {
                Some(head) if head != other => {
                    format!("stands before {}", step_name(self.schedule, t.peer, head))
                }
                _ => "waits itself".to_owned(),
            };
            let name = step_name(self.schedule, t.peer, other);
            return format!("waits for rank {} to {verb} in {name}, and that rank {stands}", t.peer);
        }
        format!("{} does not end", op_name(&s.op))
    }
}

/// Transfer `index` of an exchange, its sends first.
fn transfer(op: &StepOp, index: usize) -> Option<&Transfer> {
    match op {
        StepOp::Exchange { sends, recvs, .. } => sends.iter().chain(recvs).nth(index),
        _ => None,
    }
}

/// Equal rows in one form: of a single row, the step says nothing.
fn one_row_form(p: Progression) -> Progression {
    if p.len == 1 { Progression { step: 1, ..p } } else { p }
}
