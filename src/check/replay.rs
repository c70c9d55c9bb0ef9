//! deadlock, filled, and whose keys each message has for `labels`: one run of all ranks on symbols.
//!
//! A transfer needs both of its ends begun, for nothing is buffered; a step is done when all of its transfers are. No
//! receive takes from just anyone, so that which step runs first decides neither whether all run nor, where `race` holds,
//! what any byte holds: one run stands for all.

use super::labels::Travel;
use super::log::{Log, op_name, rows_name, step_name};
use super::matching::Links;
use super::memory::{Found, Memory, Stretch, What};
use crate::layout::Progression;
use crate::schedule::{KvPiece, QPiece, RankProgram, Schedule, StepOp, Stream, Transfer, View};

/// Whether every step ran.
pub(super) fn replay<'a>(
    schedule: &Schedule,
    links: &Links,
    deadlock: &mut Log<'_>,
    filled: &mut Log<'a>,
    labels: &mut Log<'a>,
) -> bool {
    let ranks = schedule.ranks.iter().map(Rank::new).collect();
    let travel = Travel::new(schedule);
    let mut replay = Replay { schedule, links, ranks, filled, labels, travel, stretches: Vec::new() };
    let mut ready: Vec<usize> = (0..schedule.ranks.len()).rev().collect();
    while let Some(r) = ready.pop() {
        replay.advance(r, &mut ready);
    }
    let mut all = true;
    for r in 0..schedule.ranks.len() {
        for _ in replay.ranks[r].done.iter().filter(|&&d| d) {
            deadlock.fact();
        }
        for stream in Stream::ALL {
            if let Some(step) = replay.head(r, stream) {
                all = false;
                deadlock.fail(r, step, || replay.why(r, step));
            }
        }
    }
    all
}

/// How far a rank is.
struct Rank {
    /// The steps of each stream, in order.
    queues: [Vec<usize>; 2],
    /// How many of them are done.
    heads: [usize; 2],
    done: Vec<bool>,
    /// The step that records each event, by number: `form` has shown that numbers are small.
    recorded_by: Vec<usize>,
    /// The exchange that has begun, and how many of its transfers are not made. Exchanges are all on one stream.
    begun: Option<(usize, usize)>,
    memory: Memory,
    /// The last partial result of query rows, in order of the rows: few, and looked up at every step.
    latest: Vec<(Progression, usize)>,
}

impl Rank {
    fn new(program: &RankProgram) -> Rank {
        let queue =
            |stream| (0..program.steps.len()).filter(|&i| program.steps[i].stream == stream).collect();
        let mut recorded_by = vec![usize::MAX; program.steps.len()];
        for (i, step) in program.steps.iter().enumerate() {
            if let Some(by) = step.records.and_then(|e| recorded_by.get_mut(e)) {
                *by = i;
            }
        }
        Rank {
            queues: Stream::ALL.map(queue),
            heads: [0; 2],
            done: vec![false; program.steps.len()],
            recorded_by,
            begun: None,
            memory: Memory::default(),
            latest: Vec::new(),
        }
    }
}

struct Replay<'a, 'l, 's> {
    schedule: &'a Schedule,
    links: &'a Links,
    ranks: Vec<Rank>,
    filled: &'l mut Log<'s>,
    labels: &'l mut Log<'s>,
    travel: Travel,
    /// Room that is used again for every message.
    stretches: Vec<Stretch>,
}

impl Replay<'_, '_, '_> {
    /// The next step of a stream.
    fn head(&self, r: usize, stream: Stream) -> Option<usize> {
        let rank = &self.ranks[r];
        rank.queues[stream as usize].get(rank.heads[stream as usize]).copied()
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
            for stream in Stream::ALL {
                while let Some(step) = self.head(r, stream) {
                    if self.waits_for(r, step).is_some() {
                        break;
                    }
                    match &schedule.ranks[r].steps[step].op {
                        StepOp::Pack { pieces } => self.pack(r, pieces),
                        StepOp::AttnPartial { q, kv, carry_in, cast_out, .. } => {
                            self.partial(r, step, q, kv, *carry_in, *cast_out);
                        }
                        StepOp::Exchange { sends, recvs, .. } => {
                            if self.ranks[r].begun.is_none() {
                                self.begin(r, step, sends, recvs, ready);
                            }
                            if self.ranks[r].begun != Some((step, 0)) {
                                break;
                            }
                            self.ranks[r].begun = None;
                        }
                    }
                    self.ranks[r].done[step] = true;
                    self.ranks[r].heads[stream as usize] += 1;
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
        r: usize,
        step: usize,
        sends: &[Transfer],
        recvs: &[Transfer],
        ready: &mut Vec<usize>,
    ) {
        let mut pending = 0;
        for (i, t) in sends.iter().chain(recvs).enumerate() {
            let (other, index) = self.links.other(r, step, i);
            let Some((begun, left)) = self.ranks[t.peer].begun.filter(|b| b.0 == other) else {
                pending += 1;
                continue;
            };
            // Indices count the sends of a step first.
            let theirs = &self.schedule.ranks[t.peer].steps[begun].op;
            if let (Some(recv), true) = (transfer(theirs, index), i < sends.len()) {
                self.copy((r, step, t), (t.peer, recv));
            } else if let Some(send) = transfer(theirs, index) {
                self.copy((t.peer, begun, send), (r, t));
            }
            self.ranks[t.peer].begun = Some((begun, left - 1));
            if left == 1 {
                ready.push(t.peer);
            }
        }
        self.ranks[r].begun = Some((step, pending));
    }

    /// Moves a message from the views of its sender to those of its receiver.
    fn copy(&mut self, (from, step, send): (usize, usize, &Transfer), (to, recv): (usize, &Transfer)) {
        let mut stretches = std::mem::take(&mut self.stretches);
        stretches.clear();
        for view in &send.views {
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
        let schedule = self.schedule;
        let slots = &schedule.ranks[to].slots;
        let places = recv.views.iter().map(|v| (slots[v.slot].offset + v.start, v.bytes));
        let mut places = places.filter(|p| p.1 > 0);
        let mut place = places.next();
        for &(mut len, holds) in &stretches {
            let (what, mut inner) = holds.unwrap_or((What::Nothing, 0));
            while let Some((at, room)) = place.filter(|_| len > 0) {
                let now = len.min(room);
                self.ranks[to].memory.write(at, now, what, inner);
                len -= now;
                inner += now;
                place = if now == room { places.next() } else { Some((at + now, room - now)) };
            }
        }
        self.stretches = stretches;
    }

    fn pack(&mut self, r: usize, pieces: &[KvPiece]) {
        for p in pieces {
            let at = self.at(r, &p.at);
            self.ranks[r].memory.write(at, p.at.bytes, What::Keys { rows: one_form(p.rows), owner: r }, 0);
        }
    }

    fn partial(
        &mut self,
        r: usize,
        step: usize,
        q: &[QPiece],
        kv: &[KvPiece],
        carry_in: bool,
        cast_out: bool,
    ) {
        for p in kv {
            let what = What::keys(one_form(p.rows));
            self.expect(r, step, &p.at, what, || format!("takes {}", what.name()));
        }
        for p in q {
            let rows = one_form(p.rows);
            let latest = &mut self.ranks[r].latest;
            let before = match latest.binary_search_by_key(&rows, |l| l.0) {
                Ok(at) => Some(std::mem::replace(&mut latest[at].1, step)),
                Err(at) => {
                    latest.insert(at, (rows, step));
                    None
                }
            };
            let Some(view) = &p.carry else { continue };
            if carry_in {
                // Without a step before, `merge once` tells that there is nothing to go on from.
                if let Some(before) = before {
                    let what = What::Carry { rank: r, rows, step: before };
                    self.expect(r, step, view, what, || format!("goes on from {}", what.name()));
                } else {
                    self.expect_any(r, step, view, &rows);
                }
            }
            let at = self.at(r, view);
            if !cast_out {
                self.ranks[r].memory.write(at, view.bytes, What::Carry { rank: r, rows, step }, 0);
            }
        }
    }

    /// First byte of a view in the arena.
    fn at(&self, r: usize, view: &View) -> usize {
        self.schedule.ranks[r].slots[view.slot].offset + view.start
    }

    fn expect(&mut self, r: usize, step: usize, view: &View, what: What, does: impl FnOnce() -> String) {
        match self.ranks[r].memory.holds(self.at(r, view), view.bytes, what) {
            Ok(()) => self.filled.fact(),
            Err(found) => self.wrong(r, step, view, found, &does()),
        }
    }

    /// A carry of rows that no step has computed is nowhere.
    fn expect_any(&mut self, r: usize, step: usize, view: &View, rows: &Progression) {
        let mut stretches = Vec::new();
        self.ranks[r].memory.read(self.at(r, view), view.bytes, &mut stretches);
        if let Some(&(_, holds)) = stretches.first() {
            let found = Found { at: self.at(r, view), holds };
            self.wrong(r, step, view, found, &format!("goes on from a carry of query {}", rows_name(rows)));
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
                    format!("{does} in {place}, but byte {at} of the slot begins {}", what.name())
                }
                Some((what, from)) => {
                    format!("{does} in {place}, but byte {at} of the slot is byte {from} of {}", what.name())
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
            if self.ranks[t.peer].done[other] || self.ranks[t.peer].begun.is_some_and(|b| b.0 == other) {
                continue;
            }
            let verb = if i < sends.len() { "take from it" } else { "send to it" };
            let stands = match self.head(t.peer, Stream::Comm) {
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
fn one_form(p: Progression) -> Progression {
    if p.len == 1 { Progression { step: 1, ..p } } else { p }
}
