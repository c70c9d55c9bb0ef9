//! What a rank is handed and what it gives: its own rows of every tensor.
//!
//! In: the arguments of a rank. Out: blocks of them, as they lie side by side in an arena or a message; and the results, which are
//! written block by block.

use super::acc::{Acc, decode};
use super::rows::run_of;
use crate::ir::{Data, Tensor};
use crate::layout::{Layout, Progression, row_count};
use crate::schedule::{AttentionFacts, Block, Heads, Port, RankProgram, Schedule, StepOp};

/// The own rows of one rank.
pub(super) struct Own<'a, A> {
    facts: &'a AttentionFacts,
    q_rows: &'a [Progression],
    kv_rows: &'a [Progression],
    /// Bytes of k and v; of q and each leaf where some step copies or sends it.
    kv: [Vec<u8>; 2],
    q: Vec<u8>,
    leaves: Vec<Vec<u8>>,
    /// (B, Hq, own rows, Dv), and without the last axis.
    out: Vec<A>,
    lse: Vec<A>,
    /// By query head and own row, whether the result, and the log-sum-exp, is written.
    written: [Vec<bool>; 2],
}

/// How a tensor's own rows lie: (outer, heads, own rows, bytes of a row).
#[derive(Clone, Copy)]
struct Form {
    outer: usize,
    heads: usize,
    rows: usize,
    width: usize,
}

impl<'a, A: Acc> Own<'a, A> {
    /// Those of `rank`; `validate` has looked at the arguments.
    pub(super) fn new(schedule: &'a Schedule, rank: usize, args: &[Tensor]) -> Own<'a, A> {
        let facts = &schedule.attention;
        let rows = |layout: &'a Layout| layout.rows[rank].as_slice();
        let (q_rows, kv_rows) = (rows(&schedule.q_layout), rows(&schedule.kv_layout));
        let bytes = |i: usize, used: bool| if used { args[i].data().to_le_bytes() } else { vec![] };
        let s = &facts.sizes;
        let results = s.batch * s.q_heads * row_count(q_rows);
        let written = || vec![false; s.q_heads * row_count(q_rows)];
        let copied = copied(&schedule.ranks[rank]);
        Own {
            facts,
            q_rows,
            kv_rows,
            kv: [bytes(1, true), bytes(2, true)],
            q: bytes(0, copied.contains(&Port::Q)),
            leaves: (3..args.len()).map(|i| bytes(i, copied.contains(&Port::Leaf(i)))).collect(),
            out: vec![A::NAN; results * s.v_head_dim],
            lse: vec![A::NAN; results],
            written: [written(), written()],
        }
    }

    /// The number of own query rows.
    pub(super) fn q_count(&self) -> usize {
        row_count(self.q_rows)
    }

    /// Where a run of query rows begins among the own ones.
    pub(super) fn q_local(&self, rows: &Progression) -> Result<usize, String> {
        run_of(self.q_rows, rows).ok_or_else(|| "the rows are not the rank's own".into())
    }

    /// A block, side by side.
    pub(super) fn read(&self, block: &Block) -> Result<Vec<u8>, String> {
        let (s, f) = (&self.facts.sizes, self.facts);
        let size = f.dtype.bytes();
        let form = |heads, rows: &[Progression], width| Form {
            outer: s.batch,
            heads,
            rows: row_count(rows),
            width: width * size,
        };
        let mut out = Vec::with_capacity(f.block_bytes(block.port, block.rows.len, block.heads.len));
        match block.port {
            Port::Q => {
                let local = self.q_local(&block.rows)?;
                gather(&mut out, &self.q, form(s.q_heads, self.q_rows, s.head_dim), block, local);
            }
            Port::Kv => {
                let local = run_of(self.kv_rows, &block.rows).ok_or("the rows are not the rank's own")?;
                for (bytes, width) in self.kv.iter().zip([s.head_dim, s.v_head_dim]) {
                    gather(&mut out, bytes, form(s.kv_heads, self.kv_rows, width), block, local);
                }
            }
            Port::Leaf(n) => {
                let local = self.q_local(&block.rows)?;
                let (leaf, bytes) = n
                    .checked_sub(3)
                    .and_then(|i| Some((f.leaves.get(i)?, self.leaves.get(i)?)))
                    .ok_or_else(|| format!("there is no leaf {n}"))?;
                let [outer, heads, _, width] = leaf.shape;
                let form = Form { outer, heads, rows: self.q_count(), width: width * leaf.dtype.bytes() };
                let heads = if heads == 1 { Heads::all(1) } else { block.heads };
                gather(&mut out, bytes, form, &Block { heads, ..*block }, local);
            }
            Port::Out | Port::Lse => return Err("results are only written".into()),
        }
        Ok(out)
    }

    /// Writes a block of a result, given as its bytes side by side.
    pub(super) fn write(&mut self, block: &Block, bytes: &[u8]) -> Result<(), String> {
        match block.port {
            Port::Out => self.put(block, &decode(self.facts.dtype, bytes)),
            Port::Lse => self.put(block, &A::read(bytes)),
            _ => Err("arguments are only read".into()),
        }
    }

    /// Writes a block of a result, given as numbers side by side.
    pub(super) fn put(&mut self, block: &Block, values: &[A]) -> Result<(), String> {
        let local = self.q_local(&block.rows)?;
        let (s, count) = (&self.facts.sizes, self.q_count());
        let (target, written, width) = match block.port {
            Port::Out => (&mut self.out, &mut self.written[0], s.v_head_dim),
            _ => (&mut self.lse, &mut self.written[1], 1),
        };
        let run = block.rows.len * width;
        for (i, head) in heads(s.batch, block.heads).enumerate() {
            let to = ((head / block.heads.len * s.q_heads + block.heads.start + head % block.heads.len)
                * count
                + local)
                * width;
            target[to..to + run].copy_from_slice(&values[i * run..(i + 1) * run]);
        }
        for head in block.heads.start..block.heads.end() {
            written[head * count + local..][..block.rows.len].fill(true);
        }
        Ok(())
    }

    /// The results, if every row of every head was written.
    pub(super) fn results(self) -> Result<Vec<Tensor>, String> {
        let (s, rows) = (self.facts.sizes, self.q_count());
        for (written, what) in self.written.iter().zip(["output", "log-sum-exp"]) {
            let missing = written.iter().position(|w| !w).filter(|_| what == "output" || self.facts.lse);
            if let Some(at) = missing {
                let (row, head) = (at % rows, at / rows);
                return Err(format!(
                    "row {row} of the {rows} local rows of the {what} is never written for head {head}"
                ));
            }
        }
        let odd = || "the results have another size than their shape".to_owned();
        let tensor = |shape: &[usize], data: Data| Tensor::new(shape, data).ok_or_else(odd);
        let data = A::cast(self.out, self.facts.dtype);
        let mut out = vec![tensor(&[s.batch, s.q_heads, rows, s.v_head_dim], data)?];
        if self.facts.lse {
            out.push(tensor(&[s.batch, s.q_heads, rows], A::cast(self.lse, self.facts.acc))?);
        }
        Ok(out)
    }
}

/// Numbers of a block's heads, batch entry after batch entry.
fn heads(batch: usize, heads: Heads) -> impl Iterator<Item = usize> {
    0..batch * heads.len
}

/// Appends a block of a tensor whose own rows lie in that form; it begins at own row `local`.
fn gather(out: &mut Vec<u8>, bytes: &[u8], form: Form, block: &Block, local: usize) {
    for head in heads(form.outer, block.heads) {
        let head = head / block.heads.len * form.heads + block.heads.start + head % block.heads.len;
        let from = (head * form.rows + local) * form.width;
        out.extend_from_slice(&bytes[from..from + block.rows.len * form.width]);
    }
}

/// The tensors of which a rank copies or sends own rows.
fn copied(program: &RankProgram) -> Vec<Port> {
    let mut all: Vec<Port> = vec![];
    for step in &program.steps {
        match &step.op {
            StepOp::Pack { pieces } => all.extend(pieces.iter().map(|p| p.block.port)),
            StepOp::Exchange { sends, .. } => {
                let own = sends.iter().flat_map(|t| &t.parts).filter_map(|p| p.own());
                all.extend(own.map(|b| b.port));
            }
            _ => {}
        }
        all.sort_unstable();
        all.dedup();
    }
    all
}
