//! The arguments of launches as GPU kernels read them, once it is known where memory lies.
//!
//! In: a launch, and the address of each byte. Out: the bytes of the kernel's argument. Nothing is asked of a device.

use super::args::{
    AttentionArg, FinishArg, KernelScoring, LeafArg, MergeArg, PackArg, QArg, Scoring, SeenKeys,
};
use super::bytes::Address;
use super::types::{Argument, Launch, Program};
use crate::ir::EmptyRow;
use crate::lower::helper::{Copy, Finish, MAX_COPIES, Merge, Pack};
use crate::lower::params::{Band, FAR, KvPiece, Leaf, Params, QPiece, Rows, StepParams};

/// Keys and values that are worked on side by side stay below this: most of the L2 cache of an H100.
pub(crate) const CACHED_BYTES: usize = 32 << 20;

/// What a kernel is handed.
#[derive(Clone, Debug)]
pub(crate) enum KernelParams {
    /// Of `attn_partial` of the usual order.
    Usual(Box<Params>),
    /// Of `attn_partial` with steps.
    Steps(Box<StepParams>),
    /// Of `merge`.
    Merge(Merge),
    /// Of `finish`.
    Finish(Box<Finish>),
    /// Of `pack`.
    Pack(Box<Pack>),
}

/// Where things lie.
pub(crate) struct Addresses<'a> {
    /// Of a byte of the rank.
    pub(crate) of: &'a dyn Fn(Address) -> u64,
    /// Of [`Program::tables`].
    pub(crate) tables: u64,
}

/// The argument of a launch; of one for a GPU.
pub(crate) fn kernel_params(program: &Program, launch: &Launch, at: &Addresses<'_>) -> KernelParams {
    let empty_row = match program.attention.empty_row {
        EmptyRow::Zero => 0.0,
        EmptyRow::Nan => f32::NAN,
    };
    match &launch.argument {
        Argument::Attention(arg) => {
            let element = program.attention.dtype.bytes();
            let usual = Params { empty_row, ..attention(arg, launch.grid.blocks, element, at) };
            match &arg.scoring {
                Scoring::Kernel(scoring) if !scoring.steps.is_empty() => {
                    KernelParams::Steps(Box::new(steps(usual, scoring, at)))
                }
                _ => KernelParams::Usual(Box::new(usual)),
            }
        }
        Argument::Merge(arg) => KernelParams::Merge(merge(arg, at)),
        Argument::Finish(arg) => KernelParams::Finish(Box::new(Finish { empty_row, ..finish(arg, at) })),
        Argument::Pack(arg) => KernelParams::Pack(Box::new(pack(arg, at))),
    }
}

/// A number that the lowering has held to what kernels count with.
fn number(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn optional(at: &Addresses<'_>, address: Option<Address>) -> u64 {
    address.map_or(0, at.of)
}

fn rows(rows: &crate::layout::Progression, local: usize) -> Rows {
    Rows {
        start: number(rows.start),
        step: number(rows.step.max(1)),
        len: number(rows.len),
        local: number(local),
    }
}

fn queries(q: &QArg, at: &Addresses<'_>) -> QPiece {
    let out = q.out.map_or((0, 0, 0), |o| ((at.of)(o.at), number(o.head_rows), number(o.batch_heads)));
    QPiece {
        rows: rows(&q.rows, q.local),
        carry: optional(at, q.carry),
        q: (at.of)(q.q.at),
        out: out.0,
        lse: optional(at, q.lse),
        q_rows: number(q.q.head_rows),
        q_heads: number(q.q.batch_heads),
        out_rows: out.1,
        out_heads: out.2,
    }
}

fn leaf(leaf: Option<&LeafArg>, at: &Addresses<'_>) -> Leaf {
    leaf.map_or(Leaf::default(), |l| {
        let [batch, head, row, key] = l.strides.map(|s| s as i64);
        Leaf { at: (at.of)(l.at), batch, head, row, key, local_rows: i32::from(l.local_rows) }
    })
}

/// First keys, ends, and rows of an entry.
fn table(seen: &SeenKeys, at: &Addresses<'_>) -> (u64, u64, usize) {
    seen.table.map_or((0, 0, 0), |t| {
        let of = |index: usize| at.tables + 4 * index as u64;
        (of(t.first), of(t.first + t.len), t.entry_rows)
    })
}

fn window(seen: &SeenKeys) -> (i32, i32) {
    let end = |x: Option<i32>, far: i32| x.unwrap_or(far).clamp(-FAR, FAR);
    (end(seen.window[0], -FAR), end(seen.window[1], FAR))
}

fn attention(arg: &AttentionArg, tiles: usize, element: usize, at: &Addresses<'_>) -> Params {
    let mut p = Params {
        counter: optional(at, arg.marks.map(|m| m.counter)),
        odd: optional(at, arg.marks.and_then(|m| m.odd)),
        q_pieces: number(arg.q.len()),
        kv_pieces: number(arg.kv.len()),
        batch: number(arg.batch),
        q_heads: number(arg.heads),
        kv_heads: number(arg.kv_heads),
        group: number(arg.group),
        head_shift: number(arg.head_shift),
        dk: number(arg.dk),
        dv: number(arg.dv),
        tiles: number(tiles),
        scale: 1.0,
        low: -FAR,
        high: FAR,
        sinks: leaf(arg.sinks.as_ref(), at),
        ..Params::default()
    };
    for (to, q) in p.q_piece.iter_mut().zip(arg.q.iter()) {
        *to = queries(q, at);
    }
    let mut keys = 0usize;
    for (to, kv) in p.kv_piece.iter_mut().zip(arg.kv.iter()) {
        keys = keys.saturating_add(kv.rows.len);
        *to = KvPiece {
            rows: rows(&kv.rows, 0),
            k: (at.of)(kv.k.at),
            v: (at.of)(kv.v),
            head_rows: number(kv.k.head_rows),
            batch_heads: number(kv.k.batch_heads),
        };
    }
    // Heads are worked on side by side as long as their keys and values fit the cache.
    let per_kv_head = keys.saturating_mul((arg.dk + arg.dv) * element).max(1);
    let kv_heads = (CACHED_BYTES / per_kv_head).clamp(1, (arg.batch * arg.kv_heads).max(1));
    p.head_group = number(kv_heads.saturating_mul(arg.group).min((arg.batch * arg.heads).max(1)));
    if let Scoring::Kernel(s) = &arg.scoring {
        (p.scale, p.softcap, p.fill) = (s.scale, s.softcap, s.fill);
        (p.low, p.high) = window(&s.seen);
        let entry_rows;
        (p.first_key, p.end_key, entry_rows) = table(&s.seen, at);
        p.entry_rows = number(entry_rows);
        (p.bias, p.mask) = (leaf(s.bias.as_ref(), at), leaf(s.mask.as_ref(), at));
    }
    p
}

fn steps(usual: Params, scoring: &KernelScoring, at: &Addresses<'_>) -> StepParams {
    let mut p = StepParams { usual, ..StepParams::default() };
    let mut leaves = p.leaf.iter_mut();
    for ((number, band), step) in p.number.iter_mut().zip(&mut p.band).zip(&scoring.steps) {
        *number = step.number;
        let ((low, high), (first_key, end_key, entry_rows)) = (window(&step.seen), table(&step.seen, at));
        *band = Band { low, high, first_key, end_key, entry_rows: entry_rows as i64 };
        step.leaves.iter().zip(&mut leaves).for_each(|(l, to)| *to = leaf(Some(l), at));
    }
    p
}

fn merge(arg: &MergeArg, at: &Addresses<'_>) -> Merge {
    Merge {
        a: optional(at, arg.a),
        b: optional(at, arg.b),
        to: (at.of)(arg.to),
        rows: arg.rows as i64,
        dv: number(arg.dv),
    }
}

fn finish(arg: &FinishArg, at: &Addresses<'_>) -> Finish {
    Finish {
        piece: queries(&arg.rows, at),
        batch: number(arg.batch),
        q_heads: number(arg.heads),
        dv: number(arg.dv),
        empty_row: 0.0,
        sinks: leaf(arg.sinks.as_ref(), at),
    }
}

fn pack(arg: &PackArg, at: &Addresses<'_>) -> Pack {
    let mut p = Pack {
        copy: [Copy::default(); MAX_COPIES],
        copies: number(arg.copies.len()),
        heads: number(arg.runs),
    };
    for (to, [from, target]) in p.copy.iter_mut().zip(&arg.copies) {
        *to = Copy {
            from: (at.of)(from.at),
            to: (at.of)(target.at),
            from_head: from.stride as i64,
            to_head: target.stride as i64,
            bytes: from.bytes as i64,
        };
    }
    p
}
