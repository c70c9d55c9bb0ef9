//! What a kernel is handed, as `kernels/contract.cuh` lays it out, and the assertions that hold both to it.
//!
//! Addresses are those of the device, as numbers: this room makes them into nothing.

use super::layout::{ParamLayout, assertions, layout};
use super::steps::{MAX_LEAVES, MAX_STEPS};
use std::fmt::Write;

/// Pieces of query or key rows in one launch, at most.
pub(crate) const MAX_PIECES: usize = 8;
/// Row numbers stay below this, and a bound that far away binds nothing.
pub(crate) const FAR: i32 = 1 << 30;

/// Global rows start, start + step, …; `len` of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// First global row.
    pub start: i32,
    /// At least 1.
    pub step: i32,
    /// How many.
    pub len: i32,
    /// The first row's place in the tensor that holds it.
    pub local: i32,
}

/// Query rows and where they, their carry and their results lie; meanings in `kernels/contract.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub(crate) struct QPiece {
    /// Which rows.
    pub rows: Rows,
    /// f32: o (B, Hq, len, Dv), then m (B, Hq, len), then l (B, Hq, len); 0 if no step reads or writes it.
    pub carry: u64,
    pub q: u64,
    pub out: u64,
    pub lse: u64,
    pub q_rows: i32,
    pub q_heads: i32,
    pub out_rows: i32,
    pub out_heads: i32,
}

/// Key rows and where they lie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KvPiece {
    /// Which rows.
    pub rows: Rows,
    /// Rows of Dk.
    pub k: u64,
    /// Rows of Dv.
    pub v: u64,
    /// From one head to the next.
    pub head_rows: i32,
    /// From one batch entry to the next.
    pub batch_heads: i32,
}

/// A tensor that broadcasts to (B, Hq, query row, key row): strides in elements, 0 along what is broadcast.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// Address.
    pub at: u64,
    /// Stride of the batch.
    pub batch: i64,
    /// Stride of the query head.
    pub head: i64,
    /// Stride of the query row.
    pub row: i64,
    /// Stride of the key row.
    pub key: i64,
    /// Whether its rows are counted as q's are (1), else globally.
    pub local_rows: i32,
}

/// The argument of `attn_partial`; the meaning of the fields is told in `kernels/contract.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub(crate) struct Params {
    pub counter: u64,
    pub odd: u64,
    pub q_piece: [QPiece; MAX_PIECES],
    pub kv_piece: [KvPiece; MAX_PIECES],
    pub q_pieces: i32,
    pub kv_pieces: i32,
    pub batch: i32,
    pub q_heads: i32,
    pub kv_heads: i32,
    pub group: i32,
    pub head_shift: i32,
    pub dk: i32,
    pub dv: i32,
    pub tiles: i32,
    pub head_group: i32,
    pub scale: f32,
    pub softcap: f32,
    pub fill: f32,
    pub empty_row: f32,
    pub low: i32,
    pub high: i32,
    pub entry_rows: i32,
    pub shift: u64,
    pub first_key: u64,
    pub end_key: u64,
    pub bias: Leaf,
    pub mask: Leaf,
    pub sinks: Leaf,
}

/// The keys that a fill by position keeps: query row r keeps r + low ≤ k < r + high, and of those the ones of its document.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Band {
    /// ±2^30 where nothing binds.
    pub low: i32,
    /// The same.
    pub high: i32,
    /// Per global query row the first key of its document; 0 for none.
    pub first_key: u64,
    /// And one past the last.
    pub end_key: u64,
    /// From one batch entry to the next; 0 where all see the same.
    pub entry_rows: i64,
}

/// Everything.
impl Default for Band {
    fn default() -> Band {
        Band { low: -FAR, high: FAR, first_key: 0, end_key: 0, entry_rows: 0 }
    }
}

/// The argument of `attn_partial` where it runs steps, as `kernels/step_params.cuh` lays it out.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct StepParams {
    /// What all kernels are handed.
    pub usual: Params,
    /// The factor, the cap or the fill of each step.
    pub number: [f32; MAX_STEPS],
    /// What each fill by position keeps.
    pub band: [Band; MAX_STEPS],
    /// The tensors of all steps, in the order in which they read them.
    pub leaf: [Leaf; MAX_LEAVES],
}

const LAYOUTS: &[ParamLayout] = layout! {
    Rows { start, step, len, local }
    QPiece { rows, carry, q, out, lse, q_rows, q_heads, out_rows, out_heads }
    KvPiece { rows, k, v, head_rows, batch_heads }
    Leaf { at, batch, head, row, key, local_rows }
    Params {
        counter, odd, q_piece, kv_piece, q_pieces, kv_pieces, batch, q_heads, kv_heads, group, head_shift, dk, dv, tiles,
        head_group, scale, softcap, fill, empty_row, low, high, entry_rows, shift, first_key, end_key, bias, mask, sinks,
    }
};

const STEP_LAYOUTS: &[ParamLayout] = layout! {
    Band { low, high, first_key, end_key, entry_rows }
    StepParams { number, band, leaf }
};

/// Assertions that the compiler of the kernel lays the arguments out as Rust does.
pub(super) fn layout_checks(with_steps: bool) -> String {
    let mut out = format!("static_assert(MAX_PIECES == {MAX_PIECES}, \"pieces\");\n");
    if !with_steps {
        return out + &assertions(LAYOUTS);
    }
    let _ =
        writeln!(out, "static_assert(MAX_STEPS == {MAX_STEPS} && MAX_LEAVES == {MAX_LEAVES}, \"steps\");");
    // What is `Params` here goes on behind the fields that all kernels have.
    let usual = |&(name, size, align, fields): &ParamLayout| {
        (if name == "Params" { "UsualParams" } else { name }, size, align, fields)
    };
    let usual: Vec<ParamLayout> = LAYOUTS.iter().map(usual).collect();
    out + &assertions(&usual) + &assertions(STEP_LAYOUTS)
}
