//! Folding: a merge becomes a field of the partial result that it takes in.
//!
//! In: the partials, merges and the finish of an island graph in order. Out: for each query piece of each partial whether it
//! goes on from the carry, and whether it ends there. A graph whose merges are not of this form is refused, not mended.

use crate::ir::OpId;
use crate::layout::Progression;
use std::collections::HashMap;

/// Query pieces of a partial, and their place in the chain of partial results of their rows.
#[derive(Debug)]
struct Link {
    piece: Progression,
    carry_in: bool,
    cast_out: bool,
}

/// The chain of partials that one operation's (o, m, l) holds for a piece: numbers of the first and the last.
#[derive(Clone, Copy, Debug)]
struct Chain {
    piece: Progression,
    first: usize,
    last: usize,
}

/// Follows partial results from operation to operation.
#[derive(Debug, Default)]
pub(super) struct Fold {
    partials: Vec<Vec<Link>>,
    /// What each operation's result holds, until it is used; looked up, never walked.
    held: HashMap<OpId, Vec<Chain>>,
}

impl Fold {
    /// A partial result over query pieces; returns its number.
    pub(super) fn partial(&mut self, op: OpId, pieces: &[Progression]) -> usize {
        let number = self.partials.len();
        let link = |&piece: &Progression| Link { piece, carry_in: false, cast_out: false };
        self.partials.push(pieces.iter().map(link).collect());
        let chain = |&piece: &Progression| Chain { piece, first: number, last: number };
        self.held.insert(op, pieces.iter().map(chain).collect());
        number
    }

    /// A merge of two results: rows of both go on in b from where a ends.
    pub(super) fn merge(&mut self, op: OpId, a: OpId, b: OpId) -> Result<(), String> {
        let mut out = self.take(a)?;
        for chain in self.take(b)? {
            let Some(at) = out.iter().position(|c| overlap(&c.piece, &chain.piece)) else {
                out.push(chain);
                continue;
            };
            let before = out[at];
            if before.piece != chain.piece {
                return Err(format!("rows {} are merged with a part of them", chain.piece));
            }
            if before.last >= chain.first {
                return Err(format!("partial results of rows {} are merged out of order", chain.piece));
            }
            self.link(chain.first, &chain.piece)?.carry_in = true;
            out[at].last = chain.last;
        }
        self.held.insert(op, out);
        Ok(())
    }

    /// The finish of a result: these pieces, and no others.
    pub(super) fn finish(&mut self, of: OpId, pieces: &[Progression]) -> Result<(), String> {
        let chains = self.take(of)?;
        if chains.len() != pieces.len() || chains.iter().any(|c| !pieces.contains(&c.piece)) {
            return Err("the finish is not over the rank's pieces of query rows".into());
        }
        for chain in chains {
            self.link(chain.last, &chain.piece)?.cast_out = true;
        }
        Ok(())
    }

    /// For each partial by number `carry_in` and `cast_out`, the same for all of its pieces.
    pub(super) fn done(self) -> Result<Vec<(bool, bool)>, String> {
        if !self.held.is_empty() {
            return Err("a partial result is not used".into());
        }
        self.partials
            .iter()
            .map(|links| {
                let (carry_in, cast_out) =
                    links.first().map_or((false, true), |link| (link.carry_in, link.cast_out));
                match links.iter().find(|l| (l.carry_in, l.cast_out) != (carry_in, cast_out)) {
                    None => Ok((carry_in, cast_out)),
                    Some(l) => Err(format!("rows {} stand otherwise than those beside them", l.piece)),
                }
            })
            .collect()
    }

    fn take(&mut self, op: OpId) -> Result<Vec<Chain>, String> {
        self.held.remove(&op).ok_or_else(|| "a partial result is used twice, or is none".to_owned())
    }

    fn link(&mut self, partial: usize, piece: &Progression) -> Result<&mut Link, String> {
        let links = self.partials.get_mut(partial).map(Vec::as_mut_slice).unwrap_or_default();
        links.iter_mut().find(|l| l.piece == *piece).ok_or_else(|| format!("rows {piece} have no partial"))
    }
}

/// Whether two progressions may share a row: a claim of "no" is sure.
fn overlap(a: &Progression, b: &Progression) -> bool {
    let meet = a.len > 0 && b.len > 0 && a.start <= b.last() && b.start <= a.last();
    meet && (a.step != b.step || a.start % a.step.max(1) == b.start % b.step.max(1))
}
