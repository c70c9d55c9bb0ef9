//! The bytes of one arena as symbols: what each of them holds, and its place in that.

use super::log::{block_name, heads_name, rows_name};
use crate::layout::Progression;
use crate::schedule::{AttentionFacts, Block, Heads};
use std::collections::BTreeMap;

/// What a stretch of bytes is a part of.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// A block of what ranks are handed, and the rank that had it: `form` shows that it owns the rows.
    Block { block: Block, owner: usize },
    /// The carry that a partial result left, by its number, what it is of, and the rank and the step that left it.
    Carry { result: usize, rows: Progression, heads: Heads, by: (usize, usize) },
    /// A block of a result, and the number of the partial result that it was made from.
    Result { result: usize, block: Block },
    /// Bytes that hold nothing, sent on: told where they were sent.
    Nothing,
}

/// Rows have one owner, so that equal blocks hold the same.
impl PartialEq for What {
    fn eq(&self, other: &What) -> bool {
        match (self, other) {
            (What::Block { block, .. }, What::Block { block: other, .. }) => block == other,
            (What::Carry { result, .. }, What::Carry { result: other, .. }) => result == other,
            (What::Result { result, block }, What::Result { result: of, block: other }) => {
                (result, block) == (of, other)
            }
            (What::Nothing, What::Nothing) => true,
            _ => false,
        }
    }
}

impl Eq for What {}

impl What {
    /// A block, whoever had it.
    pub(super) fn block(block: Block) -> What {
        What::Block { block, owner: usize::MAX }
    }

    pub(super) fn name(&self, a: &AttentionFacts) -> String {
        match self {
            What::Block { block, .. } | What::Result { block, .. } => block_name(a, block),
            What::Carry { rows, heads, by: (rank, step), .. } => {
                let heads = heads_name(*heads, a.sizes.q_heads);
                format!("the carry of query {}{heads} that step {step} of rank {rank} left", rows_name(rows))
            }
            What::Nothing => "bytes that were never written".to_owned(),
        }
    }
}

/// Bytes that hold a stretch of one thing, from its byte `from` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    end: usize,
    what: What,
    from: usize,
}

/// A stretch of bytes as it is copied: how long, and what it holds, from which byte on. `None`: it was never written.
pub(super) type Stretch = (usize, Option<(What, usize)>);

/// What is wrong with bytes that were to hold something: the first such byte, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) at: usize,
    pub(super) holds: Option<(What, usize)>,
}

/// The written bytes of an arena: disjoint spans by first byte, none of which continues the one before it.
#[derive(Default)]
pub(super) struct Memory {
    spans: BTreeMap<usize, Span>,
}

impl Memory {
    /// The bytes from `start` on now hold `what` from its byte `from` on.
    pub(super) fn write(&mut self, mut start: usize, bytes: usize, what: What, mut from: usize) {
        let mut end = start + bytes;
        if bytes == 0 {
            return;
        }
        self.clear(start, end);
        if let Some((&s, before)) = self.spans.range(..start).next_back()
            && before.end == start
            && before.what == what
            && before.from + (start - s) == from
        {
            (start, from) = (s, before.from);
        }
        if let Some(&after) = self.spans.get(&end)
            && after.what == what
            && after.from == from + (end - start)
        {
            self.spans.remove(&end);
            end = after.end;
        }
        self.spans.insert(start, Span { end, what, from });
    }

    /// The bytes hold nothing.
    pub(super) fn clear(&mut self, start: usize, end: usize) {
        if let Some((&s, &span)) = self.spans.range(..start).next_back()
            && span.end > start
        {
            self.spans.insert(s, Span { end: start, ..span });
            self.spans.insert(start, Span { from: span.from + (start - s), ..span });
        }
        while let Some((&s, &span)) = self.spans.range(start..end).next() {
            self.spans.remove(&s);
            if span.end > end {
                self.spans.insert(end, Span { from: span.from + (end - s), ..span });
            }
        }
    }

    /// What the bytes hold, stretch by stretch.
    pub(super) fn read(&self, start: usize, bytes: usize, out: &mut Vec<Stretch>) {
        // Never stops early.
        let _ = self.stretches(start, bytes, |stretch| {
            out.push(stretch);
            Ok::<(), ()>(())
        });
    }

    /// Tells what the bytes hold, stretch by stretch, until one is not wanted.
    fn stretches<E>(
        &self,
        start: usize,
        bytes: usize,
        mut tell: impl FnMut(Stretch) -> Result<(), E>,
    ) -> Result<(), E> {
        let end = start + bytes;
        let mut at = start;
        let before = self.spans.range(..=start).next_back().filter(|(_, span)| span.end > start);
        let inside = before.is_none_or(|(_, span)| span.end < end);
        let behind = inside.then(|| self.spans.range(start + 1..end.max(start + 1)));
        for (&s, span) in before.into_iter().chain(behind.into_iter().flatten()) {
            if s > at {
                tell((s - at, None))?;
                at = s;
            }
            let to = span.end.min(end);
            if to > at {
                tell((to - at, Some((span.what, span.from + (at - s)))))?;
                at = to;
            }
        }
        if at < end { tell((end - at, None)) } else { Ok(()) }
    }

    /// Whether the bytes hold all of `what`, from its first byte on.
    pub(super) fn holds(&self, start: usize, bytes: usize, what: What) -> Result<(), Found> {
        let mut done = 0;
        self.stretches(start, bytes, |(len, holds)| {
            if holds != Some((what, done)) {
                return Err(Found { at: start + done, holds });
            }
            done += len;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Port;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn memory_is_what_an_array_says(
            writes in proptest::collection::vec((0usize..30, 0usize..12, 0usize..3, 0usize..9), 0..12),
            start in 0usize..40,
            bytes in 0usize..20,
        ) {
            let rows = |i| Progression::range(i, 1);
            let what = |i: usize| What::block(Block { port: Port::Kv, rows: rows(i), heads: Heads::all(1) });
            let mut memory = Memory::default();
            let mut bytewise: Vec<Option<(What, usize)>> = vec![None; 64];
            for (at, len, i, from) in writes {
                if i == 2 {
                    memory.clear(at, at + len);
                    bytewise[at..at + len].fill(None);
                    continue;
                }
                memory.write(at, len, what(i), from);
                for j in 0..len {
                    bytewise[at + j] = Some((what(i), from + j));
                }
            }
            let mut stretches = Vec::new();
            memory.read(start, bytes, &mut stretches);
            let mut read = Vec::new();
            for (len, holds) in stretches {
                prop_assert!(len > 0);
                read.extend((0..len).map(|j| holds.map(|(w, from)| (w, from + j))));
            }
            prop_assert_eq!(&read[..], &bytewise[start..start + bytes]);
            let right = read.iter().enumerate().all(|(j, b)| *b == Some((what(0), j)));
            prop_assert_eq!(memory.holds(start, bytes, what(0)).is_ok(), right);
        }
    }
}
