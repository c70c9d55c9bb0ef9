//! How many bytes the proof takes things to have: its own count, with checked arithmetic.

use crate::schedule::AttentionFacts;

/// Bytes of packed keys and values: K and V, all key heads.
pub(super) fn kv_bytes(a: &AttentionFacts, rows: usize) -> Option<usize> {
    let s = &a.sizes;
    let per_row = s.head_dim.checked_add(s.v_head_dim)?.checked_mul(a.dtype.bytes())?;
    s.batch.checked_mul(s.kv_heads)?.checked_mul(rows)?.checked_mul(per_row)
}

/// Bytes of a carry: o, m and l, all query heads.
pub(super) fn carry_bytes(a: &AttentionFacts, rows: usize) -> Option<usize> {
    let s = &a.sizes;
    let per_row = s.v_head_dim.checked_add(2)?.checked_mul(a.acc.bytes())?;
    s.batch.checked_mul(s.q_heads)?.checked_mul(rows)?.checked_mul(per_row)
}
