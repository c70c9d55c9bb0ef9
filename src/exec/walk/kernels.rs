//! Launches on the CPU: each is a kernel of the CPU executor, on the bytes that the argument says.
//!
//! In: a launch and the memory of its rank. Out: the memory, changed. Invariants: nothing but the argument says where bytes lie; an
//! argument that leads outside of what the rank has is an error, and nothing panics.

use crate::exec::cpu::acc::{Acc, decode};
use crate::exec::cpu::kernel::{Carry, Keys, Part, Queries, attn_partial, finish, join_sinks, merge};
use crate::exec::cpu::leaves::{LeafOf, LeafView, Leaves};
use crate::ir::{AttentionSizes, DType};
use crate::layout::Progression;
use crate::lower::program::{
    Address, Argument, AttentionArg, Base, FinishArg, Launch, LeafArg, MergeArg, Program, QArg, Region, Runs,
    Scoring, Strided,
};
use crate::schedule::{AttentionFacts, Heads};
use std::ops::Range;

/// What nobody wrote is NaN in every floating type.
const POISON: u8 = 0xff;

/// What a rank has.
#[derive(Debug)]
pub(super) struct Memory {
    arena: Vec<u8>,
    arguments: Vec<Vec<u8>>,
    pub(super) out: Vec<u8>,
    pub(super) lse: Vec<u8>,
    scratch: Vec<Region>,
    zeroed: Vec<Region>,
}

impl Memory {
    pub(super) fn new(program: &Program, arguments: Vec<Vec<u8>>) -> Memory {
        let mut arena = vec![POISON; program.arena_bytes];
        program.zeroed.iter().for_each(|r| arena[r.offset..r.offset + r.bytes].fill(0));
        Memory {
            arena,
            arguments,
            out: vec![POISON; program.attention.out_bytes],
            lse: vec![POISON; program.attention.lse_bytes],
            scratch: program.scratch.clone(),
            zeroed: program.zeroed.clone(),
        }
    }

    /// Where so many bytes lie in what.
    fn locate(&self, at: Address, bytes: usize) -> Result<(Base, Range<usize>), String> {
        let region = |regions: &[Region], n: usize| regions.get(n).copied().unwrap_or_default();
        let (base, start, limit) = match at.base {
            Base::Scratch(n) => {
                (Base::Arena, region(&self.scratch, n).offset, region(&self.scratch, n).bytes)
            }
            Base::Zeroed(n) => (Base::Arena, region(&self.zeroed, n).offset, region(&self.zeroed, n).bytes),
            base => (base, 0, usize::MAX),
        };
        let size = match base {
            Base::Argument(n) => self.arguments.get(n).map_or(0, Vec::len),
            Base::Out => self.out.len(),
            Base::Lse => self.lse.len(),
            _ => self.arena.len(),
        };
        let end = at.offset.checked_add(bytes).filter(|&end| end <= limit);
        let end = end.and_then(|end| end.checked_add(start)).filter(|&end| end <= size);
        let end = end.ok_or_else(|| format!("{bytes} bytes at {at} are not there"))?;
        Ok((base, start + at.offset..end))
    }

    fn read(&self, at: Address, bytes: usize) -> Result<&[u8], String> {
        let (base, range) = self.locate(at, bytes)?;
        Ok(match base {
            Base::Argument(n) => &self.arguments[n][range],
            Base::Out => &self.out[range],
            Base::Lse => &self.lse[range],
            _ => &self.arena[range],
        })
    }

    fn write(&mut self, at: Address, bytes: usize) -> Result<&mut [u8], String> {
        let (base, range) = self.locate(at, bytes)?;
        Ok(match base {
            Base::Argument(_) => return Err(format!("an argument is written at {at}")),
            Base::Out => &mut self.out[range],
            Base::Lse => &mut self.lse[range],
            _ => &mut self.arena[range],
        })
    }

    /// Appends runs of bytes.
    pub(super) fn gather(&self, runs: &Runs, out: &mut Vec<u8>) -> Result<(), String> {
        for i in 0..runs.count {
            out.extend_from_slice(self.read(runs.at.plus(i.saturating_mul(runs.stride)), runs.bytes)?);
        }
        Ok(())
    }

    /// Writes as many bytes as the runs have.
    pub(super) fn scatter(&mut self, runs: &Runs, mut bytes: &[u8]) -> Result<(), String> {
        for i in 0..runs.count {
            let (now, later) = bytes.split_at_checked(runs.bytes).ok_or("too few bytes for runs")?;
            self.write(runs.at.plus(i.saturating_mul(runs.stride)), runs.bytes)?.copy_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Rows × heads of a tensor, side by side.
    fn block(&self, tensor: &Strided, [batch, heads, rows, width]: [usize; 4]) -> Result<Vec<u8>, String> {
        let mut out = Vec::with_capacity(batch.saturating_mul(heads).saturating_mul(rows * width));
        for entry in 0..batch {
            let runs = entry_runs(tensor, entry, [heads, rows, width]);
            self.gather(&runs, &mut out)?;
        }
        Ok(out)
    }

    fn put_block(
        &mut self,
        tensor: &Strided,
        [batch, heads, rows, width]: [usize; 4],
        bytes: &[u8],
    ) -> Result<(), String> {
        let size = heads * rows * width;
        for entry in 0..batch {
            let part = bytes.get(entry * size..(entry + 1) * size).ok_or("too few bytes for a block")?;
            self.scatter(&entry_runs(tensor, entry, [heads, rows, width]), part)?;
        }
        Ok(())
    }
}

/// The rows of a batch entry: a run for each head.
fn entry_runs(tensor: &Strided, entry: usize, [heads, rows, width]: [usize; 3]) -> Runs {
    let stride = tensor.head_rows.saturating_mul(width);
    let at = tensor.at.plus(entry.saturating_mul(tensor.batch_heads).saturating_mul(stride));
    Runs { at, count: heads, stride, bytes: rows * width }
}

/// Runs a launch.
pub(super) fn launch(program: &Program, launch: &Launch, memory: &mut Memory) -> Result<(), String> {
    match program.attention.acc {
        DType::F64 => typed::<f64>(program, launch, memory),
        _ => typed::<f32>(program, launch, memory),
    }
}

fn typed<A: Acc>(program: &Program, launch: &Launch, memory: &mut Memory) -> Result<(), String> {
    match &launch.argument {
        Argument::Attention(arg) => attention::<A>(program, arg, memory),
        Argument::Merge(arg) => merged::<A>(program, arg, memory),
        Argument::Finish(arg) => ended::<A>(program, arg, memory),
        Argument::Pack(arg) => {
            for [from, to] in &arg.copies {
                let mut bytes = Vec::with_capacity(from.total());
                memory.gather(from, &mut bytes)?;
                memory.scatter(to, &bytes)?;
            }
            Ok(())
        }
    }
}

/// The facts as the kernels want them: those of the launch, in which heads and rows are counted from its own.
fn facts(program: &Program, [batch, heads, kv_heads, dk, dv]: [usize; 5]) -> AttentionFacts {
    let shared = &program.attention;
    AttentionFacts {
        sizes: AttentionSizes {
            batch,
            q_heads: heads,
            kv_heads,
            q_len: 0,
            kv_len: 0,
            head_dim: dk,
            v_head_dim: dv,
        },
        dtype: shared.dtype,
        acc: shared.acc,
        scores: shared.scores.clone(),
        sinks: None,
        // A program of one with dropout is refused where it is lowered.
        dropout: None,
        empty_row: shared.empty_row,
        lse: shared.lse_bytes > 0,
        leaves: vec![],
    }
}

fn attention<A: Acc>(program: &Program, arg: &AttentionArg, memory: &mut Memory) -> Result<(), String> {
    let kv_heads = arg.kv_heads.max(1);
    let last = (arg.heads + arg.head_shift).saturating_sub(1).checked_div(arg.group);
    if last.is_none_or(|last| last >= kv_heads) {
        return Err(format!(
            "{} query heads from {} of {} read other key heads",
            arg.heads, arg.head_shift, arg.group
        ));
    }
    let facts = facts(program, [arg.batch, arg.group * kv_heads, kv_heads, arg.dk, arg.dv]);
    let (dtype, size) = (facts.dtype, facts.dtype.bytes());
    let Scoring::Reference { tile, leaves } = &arg.scoring else {
        return Err("the launch is one for a GPU".into());
    };
    let mut keys: Vec<Keys<A>> = Vec::with_capacity(arg.kv.len());
    let mut last_key = 0;
    for kv in arg.kv.iter() {
        let extents = |width: usize| [arg.batch, arg.kv_heads, kv.rows.len, width * size];
        let v = Strided { at: kv.v, ..kv.k };
        keys.push(Keys {
            rows: kv.rows,
            heads: Heads::all(arg.kv_heads),
            k: decode(dtype, &memory.block(&kv.k, extents(arg.dk))?),
            v: decode(dtype, &memory.block(&v, extents(arg.dv))?),
        });
        last_key = last_key.max(kv.rows.last() + 1);
    }
    let heads = Heads { start: arg.head_shift, len: arg.heads };
    for piece in arg.q.iter() {
        let reach = [arg.batch, arg.heads, piece.rows.last() + 1, last_key];
        let read =
            |leaf: &LeafArg, keys: usize| bytes_of(memory, leaf, piece, [reach[0], reach[1], reach[2], keys]);
        let mut named = Vec::with_capacity(leaves.len());
        for leaf in leaves.iter() {
            let bytes = read(leaf, last_key)?;
            let view = match leaf.dtype {
                DType::Bool => {
                    let truths = bytes.iter().map(|&b| b != 0).collect();
                    LeafOf::Truth(LeafView::strided(truths, leaf.strides, heads.start, leaf.local_rows))
                }
                dtype => {
                    let numbers = decode(dtype, &bytes);
                    LeafOf::Number(LeafView::strided(numbers, leaf.strides, heads.start, leaf.local_rows))
                }
            };
            named.push((leaf.argument, view));
        }
        let sinks = sinks(memory, arg.sinks.as_ref(), piece, [arg.batch, arg.heads], heads.start)?;
        let q = memory.block(&piece.q, [arg.batch, arg.heads, piece.rows.len, arg.dk * size])?;
        let queries =
            Queries { q: decode(dtype, &q), heads, rows: piece.rows.len, leaves: Leaves::of(named, sinks) };
        let mut carry = match piece.carry.filter(|_| arg.carry_in) {
            Some(at) => carried(memory, at, arg.batch * arg.heads * piece.rows.len, arg.dv)?,
            None => Carry::empty(&facts, piece.rows.len, arg.heads),
        };
        let part = Part { rows: &piece.rows, heads, local: 0 };
        attn_partial(&facts, &queries, part, &keys, *tile, &mut carry);
        join_sinks(&facts, &queries.leaves, part, &mut carry);
        if arg.cast_out {
            put(memory, &facts, piece, arg.heads, carry)?;
        } else {
            put_carry(memory, piece.carry, &carry)?;
        }
    }
    Ok(())
}

/// The elements of a leaf that a piece may read, from its first row on; as many as the strides lead to.
fn bytes_of(memory: &Memory, leaf: &LeafArg, piece: &QArg, extents: [usize; 4]) -> Result<Vec<u8>, String> {
    let [b, h, r, k] = leaf.strides;
    let size = leaf.dtype.bytes();
    let (local, rows) = if leaf.local_rows { (piece.local, piece.rows.len) } else { (0, extents[2]) };
    let reach = [(b, extents[0]), (h, extents[1]), (r, rows), (k, extents[3])];
    if reach.iter().any(|&(_, extent)| extent == 0) {
        return Ok(vec![]);
    }
    let last =
        reach.iter().fold(0usize, |n, &(stride, extent)| n.saturating_add(stride.saturating_mul(extent - 1)));
    let at = leaf.at.plus(local.saturating_mul(r).saturating_mul(size));
    Ok(memory.read(at, last.saturating_add(1).saturating_mul(size))?.to_vec())
}

fn sinks<A: Acc>(
    memory: &Memory,
    leaf: Option<&LeafArg>,
    piece: &QArg,
    [batch, heads]: [usize; 2],
    head: usize,
) -> Result<Option<LeafView<A>>, String> {
    let Some(leaf) = leaf else { return Ok(None) };
    let bytes = bytes_of(memory, leaf, piece, [batch, heads, piece.rows.last() + 1, 1])?;
    Ok(Some(LeafView::strided(decode(leaf.dtype, &bytes), leaf.strides, head, leaf.local_rows)))
}

/// A carry of so many rows of all heads.
fn carried<A: Acc>(memory: &Memory, at: Address, rows: usize, dv: usize) -> Result<Carry<A>, String> {
    let mut o = A::read(memory.read(at, rows.saturating_mul(dv + 2).saturating_mul(A::BYTES))?);
    let mut m = o.split_off(rows * dv);
    let l = m.split_off(rows);
    Ok(Carry { o, m, l })
}

fn put_carry<A: Acc>(memory: &mut Memory, at: Option<Address>, carry: &Carry<A>) -> Result<(), String> {
    let at = at.ok_or("a carry is written, and has no place")?;
    let parts = [&carry.o, &carry.m, &carry.l];
    let bytes = memory.write(at, parts.iter().map(|p| p.len()).sum::<usize>() * A::BYTES)?;
    let (o, rest) = bytes.split_at_mut(carry.o.len() * A::BYTES);
    let (m, l) = rest.split_at_mut(carry.m.len() * A::BYTES);
    A::write(&carry.o, o);
    A::write(&carry.m, m);
    A::write(&carry.l, l);
    Ok(())
}

/// Divides, casts and writes.
fn put<A: Acc>(
    memory: &mut Memory,
    facts: &AttentionFacts,
    piece: &QArg,
    heads: usize,
    carry: Carry<A>,
) -> Result<(), String> {
    let to = piece.out.ok_or("a result is written, and has no place")?;
    let s = &facts.sizes;
    let (o, lse) = finish(facts, carry);
    let extents = |width| [s.batch, heads, piece.rows.len, width];
    let o = A::cast(o, facts.dtype).to_le_bytes();
    memory.put_block(&to, extents(s.v_head_dim * facts.dtype.bytes()), &o)?;
    let Some(at) = piece.lse else { return Ok(()) };
    let mut bytes = vec![0; lse.len() * A::BYTES];
    A::write(&lse, &mut bytes);
    memory.put_block(&Strided { at, ..to }, extents(A::BYTES), &bytes)
}

fn merged<A: Acc>(program: &Program, arg: &MergeArg, memory: &mut Memory) -> Result<(), String> {
    let facts = facts(program, [1, 1, 1, 0, arg.dv]);
    let read = |at: Address| carried::<A>(memory, at, arg.rows, arg.dv);
    let mut carry = match arg.a {
        Some(at) => read(at)?,
        None => Carry::empty(&facts, arg.rows, 1),
    };
    if let Some(at) = arg.b {
        merge(&facts, &mut carry, &read(at)?);
    }
    put_carry(memory, Some(arg.to), &carry)
}

fn ended<A: Acc>(program: &Program, arg: &FinishArg, memory: &mut Memory) -> Result<(), String> {
    let facts = facts(program, [arg.batch, arg.heads, 1, 0, arg.dv]);
    let at = arg.rows.carry.ok_or("there is no carry")?;
    let mut carry = carried::<A>(memory, at, arg.batch * arg.heads * arg.rows.rows.len, arg.dv)?;
    let sinks = sinks(memory, arg.sinks.as_ref(), &arg.rows, [arg.batch, arg.heads], 0)?;
    let rows: &Progression = &arg.rows.rows;
    let part = Part { rows, heads: Heads::all(arg.heads), local: 0 };
    join_sinks(&facts, &Leaves::of(vec![], sinks), part, &mut carry);
    match arg.keep {
        true => put_carry(memory, Some(at), &carry),
        false => put(memory, &facts, &arg.rows, arg.heads, carry),
    }
}
