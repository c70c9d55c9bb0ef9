//! Partial results that travelled: merges, and the end of a carry.

use super::args::{FinishArg, LeafArg, MergeArg, QArg, Strided};
use super::attn::Ends;
use super::build::Builder;
use super::bytes::Address;
use super::copy::power_of_two;
use super::error::Why;
use super::scores::Site;
use super::types::{Argument, Grid, Target, Work};
use crate::ir::DType;
use crate::lower::helper::THREADS;
use crate::lower::{Element, Helper, Operand, Refusal};
use crate::schedule::{Merged, Port};

/// Rows of a block of threads: a warp has one.
const ROWS: usize = THREADS / 32;
/// Blocks a multiprocessor.
const MOST: usize = 16;

impl Builder<'_, '_> {
    pub(super) fn merge(
        &mut self,
        q: &[Merged],
        [carry_in, sinks_here, cast_out]: [bool; 3],
    ) -> Result<(), Why> {
        let ends = Ends { carry_in, sinks_here, cast_out };
        self.check_sinks(ends)?;
        q.iter().try_for_each(|piece| self.merge_piece(piece, ends))
    }

    fn merge_piece(&mut self, piece: &Merged, ends: Ends) -> Result<(), Why> {
        let (f, rows, heads) = (self.facts, piece.rows, piece.heads);
        self.places.rows(Port::Q, &rows)?;
        self.places.heads(Port::Q, heads)?;
        let element = match self.target {
            Target::Cpu => Element::F32,
            Target::Cuda(_) => Element::of(f.dtype).ok_or(Refusal::Element(f.dtype.name()))?,
        };
        let (carry, out, lse) = self.ends(&rows, heads, piece.carry.as_ref(), &piece.out, ends)?;
        let bytes = f.carry_bytes(rows.len, heads.len);
        let mut partials = Vec::with_capacity(piece.partials.len());
        for view in &piece.partials {
            partials.push(self.places.view(view, bytes, "a partial result")?);
        }
        let count = f.sizes.batch * heads.len * rows.len;
        if count == 0 {
            return Ok(());
        }
        let early = ends.sinks_here && !ends.cast_out;
        // What the schedule's step only reads is left as it is.
        let to = match carry.filter(|_| !ends.cast_out) {
            Some(carry) => carry,
            None => self.scratch(0, bytes),
        };
        let mut a = carry.filter(|_| ends.carry_in);
        for b in &partials {
            self.merge_launch(a, Some(*b), to, count)?;
            a = Some(to);
        }
        let ended = match a {
            Some(ended) if ends.cast_out || ended == to => ended,
            // Of no key.
            begun => {
                if begun != Some(to) {
                    self.merge_launch(begun, None, to, count)?;
                }
                to
            }
        };
        if !ends.cast_out && !early {
            return Ok(());
        }
        let sinks = f.sinks.filter(|_| ends.sinks_here);
        let by_rows = |n: &usize| f.leaves.get(n.wrapping_sub(3)).is_some_and(|l| l.by_query_rows);
        // Sinks of single rows are those of own rows.
        let local = if sinks.as_ref().is_some_and(by_rows) { self.places.local(Port::Q, &rows)? } else { 0 };
        let sinks = sinks.map(|n| self.scorings.leaf(&self.places, n, heads.start, Site::Own)).transpose()?;
        let q = Strided { at: ended, head_rows: 0, batch_heads: 0 };
        let arg = FinishArg {
            batch: f.sizes.batch,
            heads: heads.len,
            dv: f.sizes.v_head_dim,
            rows: QArg { rows, local, q, carry: Some(ended), out, lse },
            sinks,
            keep: early,
        };
        self.finish_launch(arg, element, count)
    }

    fn merge_launch(
        &mut self,
        a: Option<Address>,
        b: Option<Address>,
        to: Address,
        rows: usize,
    ) -> Result<(), Why> {
        let places = [a, b, Some(to)];
        if self.target != Target::Cpu && places.iter().flatten().any(|p| power_of_two(p.offset) < 4) {
            return Err(Why::Alignment { what: "a partial result", unit: 4 });
        }
        let grid =
            Grid { blocks: rows.div_ceil(ROWS), most: Some(MOST), leaves: 0, multiple: 1, threads: THREADS };
        let arg = MergeArg { a, b, to, rows, dv: self.facts.sizes.v_head_dim };
        let kernel = self.helper(Work::Merge, Helper::Merge);
        self.launch(kernel, grid, Argument::Merge(arg));
        Ok(())
    }

    fn finish_launch(&mut self, arg: FinishArg, element: Element, rows: usize) -> Result<(), Why> {
        let operand = |leaf: &LeafArg| match leaf.dtype {
            DType::F32 => Ok(Operand::F32),
            t if t == self.facts.dtype => Ok(Operand::Element),
            t => Err(Refusal::Operand { what: "sinks", found: t.name() }),
        };
        let sinks = match (&arg.sinks, self.target) {
            (Some(leaf), Target::Cuda(_)) => operand(leaf)?,
            _ => Operand::None,
        };
        if self.target != Target::Cpu {
            let mut numbers = [arg.rows.carry, arg.rows.lse].into_iter().flatten();
            if numbers.any(|a| power_of_two(a.offset) < 4) {
                return Err(Why::Alignment { what: "a carry or a log-sum-exp", unit: 4 });
            }
            if arg.rows.out.is_some_and(|o| power_of_two(o.at.offset) < element.bytes()) {
                return Err(Why::Alignment { what: "the result", unit: element.bytes() });
            }
        }
        let grid =
            Grid { blocks: rows.div_ceil(ROWS), most: Some(MOST), leaves: 0, multiple: 1, threads: THREADS };
        let kernel = self.helper(Work::Finish, Helper::Cast { element, sinks });
        self.launch(kernel, grid, Argument::Finish(Box::new(arg)));
        Ok(())
    }
}
