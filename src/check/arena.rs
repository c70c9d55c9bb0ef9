//! What the steps of a rank do with its arena: which bytes packing, receiving and carries fill.
//!
//! In: a rank's program. Out: a [`Filled`], by slots. Views that go on where those before them ended cost nothing to keep,
//! which are nearly all.

use super::touch::{Touch, touches};
use crate::schedule::{Place, RankProgram, StepOp, View};

/// What fills bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum By {
    /// The rank's own keys and values.
    Pack,
    /// What it receives.
    Receive,
    /// Carries.
    Carry,
    /// Results that are sent on or copied to where the rank gives them.
    Result,
}

impl By {
    pub(super) const ALL: [By; 4] = [By::Pack, By::Receive, By::Carry, By::Result];
}

/// A range of bytes: the first, and the one behind the last.
type Bytes = (usize, usize);

/// The bytes that are filled.
pub(super) struct Filled {
    /// Of each slot and each kind of step how many bytes are filled from its begin on.
    begins: Vec<[usize; 4]>,
    /// What is not part of that: slot, kind, bytes.
    rest: Vec<(usize, By, Bytes)>,
    /// Slots that some step names at all.
    pub(super) named: Vec<bool>,
    /// Slots that receives name, and packs.
    received: Vec<bool>,
    packed: Vec<bool>,
    /// How many bytes of the arena each message brings.
    pub(super) messages: Vec<usize>,
}

impl Filled {
    pub(super) fn of(program: &RankProgram) -> Filled {
        let none = || vec![false; program.slots.len()];
        let begins = vec![[0; 4]; program.slots.len()];
        let (named, received, packed) = (none(), none(), none());
        let mut filled = Filled { begins, rest: vec![], named, received, packed, messages: vec![] };
        for step in &program.steps {
            if let StepOp::Exchange { recvs, .. } = &step.op {
                let bytes = |p: &Place| p.view().map_or(0, |v| v.bytes);
                filled.messages.extend(recvs.iter().map(|t| t.parts.iter().map(bytes).sum::<usize>()));
            }
            touches(&step.op, |view, touch| {
                filled.named[view.slot] = true;
                let by = match touch {
                    Touch::Reads => return,
                    Touch::Packs => By::Pack,
                    Touch::Receives => By::Receive,
                    Touch::Carries => By::Carry,
                    Touch::Gives => By::Result,
                };
                filled.received[view.slot] |= by == By::Receive;
                filled.packed[view.slot] |= by == By::Pack;
                filled.fill(by, view);
            });
        }
        filled.settle();
        filled
    }

    fn fill(&mut self, by: By, view: &View) {
        let begin = &mut self.begins[view.slot][by as usize];
        let end = view.start + view.bytes;
        if view.start <= *begin {
            *begin = end.max(*begin);
        } else {
            self.rest.push((view.slot, by, (view.start, end)));
        }
    }

    /// Joins what touches.
    fn settle(&mut self) {
        self.rest.sort_unstable();
        let mut rest: Vec<(usize, By, Bytes)> = Vec::new();
        for (slot, by, (start, end)) in std::mem::take(&mut self.rest) {
            let begin = &mut self.begins[slot][by as usize];
            if start <= *begin {
                *begin = end.max(*begin);
                continue;
            }
            match rest.last_mut().filter(|l| (l.0, l.1) == (slot, by) && start <= l.2.1) {
                Some(last) => last.2.1 = last.2.1.max(end),
                None => rest.push((slot, by, (start, end))),
            }
        }
        self.rest = rest;
    }

    /// Slots that receives fill and no pack.
    pub(super) fn receive_slots(&self) -> usize {
        self.received.iter().zip(&self.packed).filter(|&(&received, &packed)| received && !packed).count()
    }

    /// How many bytes of the arena steps of that kind fill.
    pub(super) fn bytes(&self, program: &RankProgram, by: By) -> usize {
        let mut parts: Vec<Bytes> = self
            .begins
            .iter()
            .zip(&program.slots)
            .map(|(begin, slot)| (slot.offset, slot.offset + begin[by as usize]))
            .collect();
        for (slot, _, (start, end)) in self.rest.iter().filter(|r| r.1 == by) {
            let offset = program.slots[*slot].offset;
            parts.push((offset + start, offset + end));
        }
        let mut sum = 0;
        joined(&mut parts, |_, from, to| sum += to - from);
        sum
    }

    /// The first bytes of a slot that no step fills, counted from its begin.
    pub(super) fn unfilled(&self, slot: usize, bytes: usize) -> Option<Bytes> {
        if self.begins[slot].contains(&bytes) {
            return None;
        }
        let mut parts: Vec<Bytes> = self.begins[slot].iter().map(|&end| (0, end)).collect();
        let from = self.rest.partition_point(|r| r.0 < slot);
        parts.extend(self.rest[from..].iter().take_while(|r| r.0 == slot).map(|r| r.2));
        let mut gap = None;
        let mut end = 0;
        joined(&mut parts, |before, from, to| {
            if from > before && gap.is_none() {
                gap = Some((before, from));
            }
            end = to;
        });
        gap.or((end < bytes).then_some((end, bytes)))
    }
}

/// Tells of ranges, in order and without what is met twice: where those before end, begin and end.
fn joined(parts: &mut [Bytes], mut tell: impl FnMut(usize, usize, usize)) {
    parts.sort_unstable();
    let mut seen = 0;
    for &(from, to) in parts.iter().filter(|p| p.0 < p.1) {
        if to > seen {
            tell(seen, from.max(seen), to);
            seen = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Progression;
    use crate::mask::Tile;
    use crate::schedule::{Block, ExchangeKind, Heads, Packed, Port, QPiece, Slot, Step, Stream, Transfer};
    use proptest::prelude::*;

    fn step(by: By, at: View) -> Step {
        let (rows, heads) = (Progression::range(0, 1), Heads::all(1));
        let partial = |carry, out, cast_out| {
            let q = vec![QPiece { rows, heads, at: vec![], carry, out }];
            let (carry_in, sinks_here) = (false, false);
            StepOp::AttnPartial { q, kv: vec![], tile: Tile::Full, carry_in, sinks_here, cast_out }
        };
        let op = match by {
            By::Pack => {
                StepOp::Pack { pieces: vec![Packed { block: Block { port: Port::Kv, rows, heads }, at }] }
            }
            By::Receive => {
                let own = Place::Own(Block { port: Port::Out, rows, heads });
                let recvs = vec![Transfer { peer: 1, parts: vec![own, Place::Arena(at)] }];
                StepOp::Exchange { group: 1, kind: ExchangeKind::SendRecv, sms: None, sends: vec![], recvs }
            }
            By::Carry => partial(Some(at), vec![], false),
            By::Result => partial(None, vec![at], true),
        };
        Step { stream: Stream::Compute, waits: vec![], records: None, op, reason: String::new() }
    }

    proptest! {
        /// Two slots that share bytes.
        #[test]
        fn what_is_filled_is_what_an_array_says(
            views in proptest::collection::vec((0usize..4, 0usize..2, 0usize..9, 0usize..9), 0..8),
        ) {
            let slots = vec![
                Slot { name: "a".into(), offset: 0, bytes: 18 },
                Slot { name: "b".into(), offset: 9, bytes: 18 },
            ];
            let mut bytes = [[false; 27]; 4];
            let mut inside = [[false; 18]; 2];
            let mut steps = vec![];
            for (by, slot, start, len) in views {
                steps.push(step(By::ALL[by], View { slot, start, bytes: len }));
                for at in start..start + len {
                    bytes[by][slots[slot].offset + at] = true;
                    inside[slot][at] = true;
                }
            }
            let program = RankProgram { arena_bytes: 27, slots, steps };
            let filled = Filled::of(&program);
            for by in By::ALL {
                prop_assert_eq!(filled.bytes(&program, by), bytes[by as usize].iter().filter(|b| **b).count());
            }
            for (slot, inside) in inside.iter().enumerate() {
                let first = inside.iter().position(|b| !b);
                let gap = first.map(|from| {
                    (from, (from..18).find(|&at| inside[at]).unwrap_or(18))
                });
                prop_assert_eq!(filled.unfilled(slot, 18), gap);
            }
        }
    }
}
