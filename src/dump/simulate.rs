//! When each step would run, by a model that is simple enough to be stated in the picture.
//!
//! In: a schedule, and nothing else. Out: begin and end of every step and message. It is no estimate of a device.
//!
//! The unit of time is the computation of an average share of queries against an average share of keys. A step over q
//! query rows and k key rows takes q·k of those pairs, the masked ones of a partial tile included. A message of an average
//! share of keys and values takes [`SHARE_TRANSFER`] units; a rank's messages of one exchange share its link. A message
//! begins when both ends are in their exchange. Packing runs at [`PACK_SPEED`] times the speed of the link.

use crate::schedule::{ExchangeKind, Schedule, StepOp, Stream, Transfer};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// Time of sending an average share of keys and values.
pub(super) const SHARE_TRANSFER: f64 = 0.5;
const PACK_SPEED: f64 = 20.0;

/// When a step runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    /// When its stream was free.
    pub(super) free: f64,
    /// When it began: its stream was free and its events had happened.
    pub(super) begin: f64,
    /// When it was done.
    pub(super) end: f64,
    /// Of an exchange: when the first byte moved; else `begin`.
    pub(super) moving: f64,
}

/// One message under way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Flight {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) begin: f64,
    pub(super) end: f64,
}

/// The simulated run.
pub(super) struct Timeline {
    /// Per rank and step; `None` for a step that never ends.
    pub(super) spans: Vec<Vec<Option<Span>>>,
    /// Messages of hops that a rank below the simulation's `drawn` sends or receives.
    pub(super) flights: Vec<Flight>,
    /// End of the last step.
    pub(super) makespan: f64,
}

impl Timeline {
    /// How many steps never end.
    pub(super) fn stuck(&self) -> usize {
        self.spans.iter().flatten().filter(|s| s.is_none()).count()
    }
}

/// Runs the model. Nothing is assumed of the schedule: what can never run is left without a span. Messages are kept for
/// the first `drawn` ranks.
pub(super) fn simulate(schedule: &Schedule, drawn: usize) -> Timeline {
    let mut run = Simulation::new(schedule, drawn);
    while run.advance() | run.exchange() {}
    let makespan = run.spans.iter().flatten().flatten().map(|s| s.end).fold(0.0, f64::max);
    Timeline { spans: run.spans, flights: run.flights, makespan }
}

/// An exchange whose stream was free and whose events had happened.
#[derive(Clone, Copy)]
struct Posted {
    step: usize,
    free: f64,
    begin: f64,
    /// Bytes that the rank sends, and receives, in it.
    sent: f64,
    received: f64,
}

struct Simulation<'a> {
    schedule: &'a Schedule,
    /// Pairs of rows in one unit of time.
    pairs: f64,
    /// Bytes of an average share of keys and values.
    share: f64,
    /// Steps of each rank and stream, and which is next.
    queues: Vec<[Vec<usize>; 2]>,
    next: Vec<[usize; 2]>,
    /// When each stream is free.
    free: Vec<[f64; 2]>,
    events: Vec<BTreeMap<usize, f64>>,
    /// By group and rank.
    posted: BTreeMap<(usize, usize), Posted>,
    /// Those of them that may be ready.
    open: BTreeSet<(usize, usize)>,
    /// Who looks again when one is posted.
    watchers: BTreeMap<(usize, usize), Vec<usize>>,
    /// Ranks that may go on.
    stirred: BTreeSet<usize>,
    drawn: usize,
    spans: Vec<Vec<Option<Span>>>,
    flights: Vec<Flight>,
}

impl<'a> Simulation<'a> {
    fn new(schedule: &'a Schedule, drawn: usize) -> Simulation<'a> {
        let (a, s) = (&schedule.attention, &schedule.attention.sizes);
        let ranks = schedule.ranks.len();
        let among = ranks.max(1) as f64;
        let width = s.head_dim as f64 + s.v_head_dim as f64;
        let kv = s.batch as f64 * s.kv_heads as f64 * s.kv_len as f64 * width * a.dtype.bytes() as f64;
        let steps = |r: usize| &schedule.ranks[r].steps;
        let queue = |r: usize, s: Stream| (0..steps(r).len()).filter(|&i| steps(r)[i].stream == s).collect();
        Simulation {
            schedule,
            pairs: (s.q_len as f64 * s.kv_len as f64 / (among * among)).max(f64::MIN_POSITIVE),
            share: (kv / among).max(f64::MIN_POSITIVE),
            queues: (0..ranks).map(|r| Stream::ALL.map(|s| queue(r, s))).collect(),
            next: vec![[0; 2]; ranks],
            free: vec![[0.0; 2]; ranks],
            events: vec![BTreeMap::new(); ranks],
            posted: BTreeMap::new(),
            open: BTreeSet::new(),
            watchers: BTreeMap::new(),
            stirred: (0..ranks).collect(),
            drawn,
            spans: (0..ranks).map(|r| vec![None; steps(r).len()]).collect(),
            flights: vec![],
        }
    }

    /// Runs what needs no other rank, and posts exchanges. Whether anything happened.
    fn advance(&mut self) -> bool {
        let mut moved = false;
        for rank in std::mem::take(&mut self.stirred) {
            for lane in 0..2 {
                while let Some(&i) = self.queues[rank][lane].get(self.next[rank][lane]) {
                    let step = &self.schedule.ranks[rank].steps[i];
                    let free = self.free[rank][lane];
                    let happened = |t: f64, e| self.events[rank].get(e).map(|&e: &f64| t.max(e));
                    let Some(begin) = step.waits.iter().try_fold(free, happened) else { break };
                    match &step.op {
                        StepOp::Exchange { group, sends, recvs, .. }
                            if !(sends.is_empty() && recvs.is_empty()) =>
                        {
                            let key = (*group, rank);
                            if let Entry::Vacant(place) = self.posted.entry(key) {
                                let (sent, received) = (bytes(sends), bytes(recvs));
                                place.insert(Posted { step: i, free, begin, sent, received });
                                self.open.insert(key);
                                let watchers = self.watchers.remove(&key).unwrap_or_default();
                                self.open.extend(watchers.into_iter().map(|w| (*group, w)));
                                moved = true;
                            }
                            break;
                        }
                        op => {
                            let end = begin + self.duration(op);
                            self.done(rank, i, Span { free, begin, end, moving: begin });
                            moved = true;
                        }
                    }
                }
            }
        }
        moved
    }

    /// Completes the exchanges whose peers are all in theirs. Whether there was one.
    fn exchange(&mut self) -> bool {
        let mut ready: Vec<((usize, usize), Posted)> = Vec::new();
        for key in std::mem::take(&mut self.open) {
            let (group, rank) = key;
            let Some(&p) = self.posted.get(&key) else { continue };
            let absent = |t: &Transfer| !self.posted.contains_key(&(group, t.peer));
            match self.messages(rank, p.step).find(|m| absent(m.0)) {
                Some((t, _)) => self.watchers.entry((group, t.peer)).or_default().push(rank),
                None => ready.push((key, p)),
            }
        }
        let any = !ready.is_empty();
        for ((group, rank), p) in ready {
            let (mut moving, mut end) = (f64::INFINITY, p.begin);
            let hop = matches!(
                self.schedule.ranks[rank].steps[p.step].op,
                StepOp::Exchange { kind: ExchangeKind::SendRecv, .. }
            );
            for (t, is_send) in self.messages(rank, p.step) {
                let (from, to) = if is_send { (rank, t.peer) } else { (t.peer, rank) };
                let theirs = self.posted.get(&(group, t.peer)).copied().unwrap_or(p);
                let begin = p.begin.max(theirs.begin);
                // The busier end's link carries all of that end's messages of the group.
                let busier = if is_send { p.sent.max(theirs.received) } else { theirs.sent.max(p.received) };
                let through = begin + self.link(busier);
                moving = moving.min(begin);
                end = end.max(through);
                if is_send && hop && from.min(to) < self.drawn {
                    self.flights.push(Flight { from, to, begin, end: through });
                }
            }
            self.done(rank, p.step, Span { free: p.free, begin: p.begin, end, moving });
        }
        any
    }

    fn done(&mut self, rank: usize, step: usize, span: Span) {
        let at = &self.schedule.ranks[rank].steps[step];
        let lane = usize::from(at.stream == Stream::Comm);
        self.spans[rank][step] = Some(span);
        self.stirred.insert(rank);
        self.free[rank][lane] = span.end;
        self.next[rank][lane] += 1;
        self.events[rank].extend(at.records.map(|e| (e, span.end)));
    }

    /// Messages of an exchange, and whether each is sent.
    fn messages(&self, rank: usize, step: usize) -> impl Iterator<Item = (&'a Transfer, bool)> + use<'a> {
        let (sends, recvs) = match &self.schedule.ranks[rank].steps[step].op {
            StepOp::Exchange { sends, recvs, .. } => (sends.as_slice(), recvs.as_slice()),
            _ => (&[][..], &[][..]),
        };
        sends.iter().map(|t| (t, true)).chain(recvs.iter().map(|t| (t, false)))
    }

    fn link(&self, bytes: f64) -> f64 {
        bytes / self.share * SHARE_TRANSFER
    }

    fn duration(&self, op: &StepOp) -> f64 {
        match op {
            StepOp::AttnPartial { q, kv, .. } => {
                let rows: f64 = q.iter().map(|p| p.rows.len as f64).sum();
                let keys: f64 = kv.iter().map(|p| p.rows.len as f64).sum();
                rows * keys / self.pairs
            }
            StepOp::Pack { pieces } => self.link(pieces.iter().map(|p| p.at.bytes as f64).sum()) / PACK_SPEED,
            StepOp::Exchange { .. } => 0.0,
        }
    }
}

fn bytes(transfers: &[Transfer]) -> f64 {
    transfers.iter().flat_map(|t| &t.views).map(|v| v.bytes as f64).sum()
}
