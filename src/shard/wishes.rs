//! What the results of each operation are to carry, and which sequences are tied.
//!
//! In: wishes and ties, as the way through the graph brings them. Out: [`Wishes`].
//!
//! Invariants: sequences are told apart by what they are tied with, never by their length. Tied sequences that are both put
//! together of parts of the same lengths have tied parts; what was put together otherwise before keeps its first way.

use super::axes;
use super::factor::Factor;
use super::joins::{Join, Sequence};
use super::live::Live;
use crate::ir::{Op, ValueId};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// What the results of an operation are to carry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) factor: Factor,
    pub(super) sequence: Sequence,
}

/// An attention that is split, and the sequences of its query and key rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Split {
    pub(super) at: usize,
    pub(super) q: Sequence,
    pub(super) kv: Sequence,
    pub(super) causal: bool,
}

/// The outcome.
pub(super) struct Wishes {
    /// By place in [`Live::order`].
    pub(super) wish: Vec<Option<Wish>>,
    /// Whether the value is an activation: an attention or a sum of products went into it.
    pub(super) activation: Vec<bool>,
    pub(super) splits: Vec<Split>,
    /// What attentions over windows carry along their batch.
    pub(super) windows: Vec<Wish>,
    /// Attentions that are not split along their rows, by place, with the reason.
    pub(super) refused: BTreeMap<usize, String>,
    /// Inputs that the host hands to a rank by rows, by place, and whether the user named them.
    pub(super) handed: BTreeMap<usize, bool>,
    /// Where an attention behind wants the row of a sequence of one row, by place: with one row, a shape alone does not say which
    /// axis carries it.
    pub(super) one_row: Vec<Option<Factor>>,
    /// Concatenations along the rows, in the order in which they were met.
    joins: Vec<Join>,
    /// Which of them an operation is, by place.
    join_at: BTreeMap<usize, usize>,
    /// The first of them that gives the rows of a sequence, if they are of several parts: by the sequence that stands for all
    /// that it is tied with.
    join_of: BTreeMap<Sequence, usize>,
    parent: Vec<Sequence>,
}

impl Wishes {
    /// Nothing is wished yet.
    pub(super) fn new(
        activation: Vec<bool>,
        handed: BTreeMap<usize, bool>,
        one_row: Vec<Option<Factor>>,
    ) -> Wishes {
        Wishes {
            wish: vec![None; activation.len()],
            activation,
            splits: vec![],
            windows: vec![],
            refused: BTreeMap::new(),
            handed,
            one_row,
            joins: vec![],
            join_at: BTreeMap::new(),
            join_of: BTreeMap::new(),
            parent: vec![],
        }
    }

    /// The representative of the sequences that a sequence is tied with.
    pub(super) fn sequence(&self, mut s: Sequence) -> Sequence {
        while self.parent[s] != s {
            s = self.parent[s];
        }
        s
    }

    /// Ties two sequences of the same rows; where both are put together of parts of the same lengths, the parts too.
    pub(super) fn tie(&mut self, a: Sequence, b: Sequence) {
        let mut pairs = vec![(a, b)];
        while let Some((a, b)) = pairs.pop() {
            let (a, b) = (self.root(a), self.root(b));
            if a == b {
                continue;
            }
            let (stays, goes) = (a.min(b), a.max(b));
            self.parent[goes] = stays;
            let Some(gone) = self.join_of.remove(&goes) else { continue };
            match self.join_of.entry(stays) {
                Entry::Vacant(free) => {
                    free.insert(gone);
                }
                Entry::Occupied(mut held) => {
                    let first = gone.min(*held.get());
                    pairs.extend(self.joins[gone].parts_with(&self.joins[*held.get()]));
                    held.insert(first);
                }
            }
        }
    }

    /// The same as [`sequence`](Wishes::sequence), and makes the way shorter for the next one who asks.
    fn root(&mut self, s: Sequence) -> Sequence {
        let root = self.sequence(s);
        let mut at = s;
        while self.parent[at] != root {
            at = std::mem::replace(&mut self.parent[at], root);
        }
        root
    }

    /// A sequence that is tied with no other.
    pub(super) fn fresh(&mut self) -> Sequence {
        self.parent.push(self.parent.len());
        self.parent.len() - 1
    }

    /// Which factors operation `i` reads for its wish; `None` if it has no wish or cannot follow it.
    pub(super) fn maps(&self, live: &Live, i: usize) -> Option<Vec<Option<Factor>>> {
        let factor = self.wish[i]?.factor;
        self.maps_for(live, i, factor)
    }

    /// The rows that operation `i` reads of each operand for its wish; `None` if it has no wish or cannot follow it.
    pub(super) fn reads(&self, live: &Live, i: usize) -> Option<Vec<Option<Wish>>> {
        let wish = self.wish[i]?;
        if let Some(join) = self.join_at(i) {
            return self.joined_reads(join, wish);
        }
        let maps = self.maps_for(live, i, wish.factor)?;
        Some(maps.into_iter().map(|m| m.map(|factor| Wish { factor, sequence: wish.sequence })).collect())
    }

    /// The concatenations along the rows, in the order in which they were met.
    pub(super) fn joins(&self) -> &[Join] {
        &self.joins
    }

    /// Concatenation `i`, if it joins rows.
    fn join_at(&self, i: usize) -> Option<&Join> {
        self.join_at.get(&i).map(|&j| &self.joins[j])
    }

    /// The first concatenation that gives the rows of a sequence of several parts.
    pub(super) fn join_of(&self, s: Sequence) -> Option<&Join> {
        self.join_of.get(&self.sequence(s)).map(|&j| &self.joins[j])
    }

    /// The sequences whose rows are those of several parts, by the one that stands for all, each with its first concatenation.
    pub(super) fn wholes(&self) -> impl Iterator<Item = (Sequence, &Join)> {
        self.join_of.iter().map(|(&s, &j)| (s, &self.joins[j]))
    }

    /// Takes note of a concatenation that gives the rows of a sequence. Where another one does so too, its parts are tied with
    /// those of this one.
    fn remember(&mut self, join: Join, of: Sequence) {
        let pairs = self.join_of(of).map_or_else(Vec::new, |first| first.parts_with(&join));
        self.join_at.insert(join.at, self.joins.len());
        if join.of_parts() {
            let root = self.sequence(of);
            self.join_of.entry(root).or_insert(self.joins.len());
        }
        self.joins.push(join);
        pairs.into_iter().for_each(|(a, b)| self.tie(a, b));
    }

    /// Which factors operation `i` reads where its results carry `f`; `None` if it cannot follow it.
    pub(super) fn maps_for(&self, live: &Live, i: usize, f: Factor) -> Option<Vec<Option<Factor>>> {
        let carried = |v: &ValueId| self.wish[live.at(*v)].map(|w| w.factor);
        let held: Vec<Option<Factor>> = live.operands[i].iter().map(carried).collect();
        axes::operands(live.op(i), f, &live.types(i), live.out(i), &held)
    }

    /// Takes note that concatenation `i` joins rows, if it does; `wish` is what its result is to carry. Returns what each
    /// operand is to carry.
    pub(super) fn join(&mut self, live: &Live, i: usize, wish: Wish) -> Option<Vec<Wish>> {
        let Op::Concat { axis } = *live.op(i) else { return None };
        let f = wish.factor;
        let types = live.types(i);
        if axis != f.axis || (f.outer, f.inner) != (1, 1) || types.len() < 2 {
            return None;
        }
        let operands = types.iter().map(|t| t.shape[axis]).map(|rows| {
            // Those of the only operand that has rows are the result's.
            (rows, if rows == f.length && rows > 0 { wish.sequence } else { self.fresh() })
        });
        let join = Join { at: i, operands: operands.collect() };
        let known = self.join_of(wish.sequence).filter(|_| join.of_parts());
        // The rows of a sequence lie in one way only: that in which they were met first.
        if known.is_some_and(|first| !first.alike(&join)) {
            return None;
        }
        let part =
            |&(rows, sequence): &(usize, Sequence)| Wish { factor: Factor::axis(axis, rows), sequence };
        let wanted = join.operands.iter().map(part).collect();
        self.remember(join, wish.sequence);
        Some(wanted)
    }

    /// The rows that a concatenation reads of each operand for its wish, if it joins rows as those of its result are joined.
    fn joined_reads(&self, join: &Join, wish: Wish) -> Option<Vec<Option<Wish>>> {
        let same = |first: &Join| {
            let pairs = first.parts_with(join);
            !pairs.is_empty() && pairs.into_iter().all(|(a, b)| self.sequence(a) == self.sequence(b))
        };
        // Else the rows of the result were joined otherwise where they were first met.
        if join.of_parts() && !self.join_of(wish.sequence).is_some_and(same) {
            return None;
        }
        let axis = wish.factor.axis;
        let part =
            |&(rows, sequence): &(usize, Sequence)| Wish { factor: Factor::axis(axis, rows), sequence };
        Some(join.operands.iter().map(part).map(Some).collect())
    }
}
