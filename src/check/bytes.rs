//! How many bytes the proof takes things to have: its own count, with checked arithmetic.

use crate::schedule::{AttentionFacts, Block, Heads, Place, Port, Transfer};

fn product(factors: &[usize]) -> Option<usize> {
    factors.iter().try_fold(1usize, |n, &f| n.checked_mul(f))
}

/// Bytes of a block.
pub(super) fn block_bytes(a: &AttentionFacts, port: Port, rows: usize, heads: usize) -> Option<usize> {
    let s = &a.sizes;
    let (width, element) = match port {
        Port::Q => (s.head_dim, a.dtype),
        Port::Kv => (s.head_dim.checked_add(s.v_head_dim)?, a.dtype),
        Port::Out => (s.v_head_dim, a.dtype),
        Port::Lse => (1, a.acc),
        Port::Leaf(n) => {
            let leaf = a.leaves.get(n.checked_sub(3)?)?;
            let [outer, of, _, width] = leaf.shape;
            return product(&[outer, of.min(heads), rows, width, leaf.dtype.bytes()]);
        }
    };
    product(&[s.batch, heads, rows, width, element.bytes()])
}

/// Bytes of packed keys and values: K and V, all key heads.
pub(super) fn kv_bytes(a: &AttentionFacts, rows: usize) -> Option<usize> {
    block_bytes(a, Port::Kv, rows, a.sizes.kv_heads)
}

/// Bytes of a carry: o, m and l.
pub(super) fn carry_bytes(a: &AttentionFacts, rows: usize, heads: usize) -> Option<usize> {
    product(&[a.sizes.batch, heads, rows, a.sizes.v_head_dim.checked_add(2)?, a.acc.bytes()])
}

/// Bytes of a message; `None` if they are too many to be counted.
pub(super) fn message_bytes(a: &AttentionFacts, t: &Transfer) -> Option<usize> {
    t.parts.iter().try_fold(0usize, |sum, p| sum.checked_add(place_bytes(a, p)?))
}

/// Bytes of a part of a message.
pub(super) fn place_bytes(a: &AttentionFacts, place: &Place) -> Option<usize> {
    match place {
        Place::Arena(view) => Some(view.bytes),
        Place::Own(Block { port, rows, heads }) => block_bytes(a, *port, rows.len, heads.len),
    }
}

/// The key heads that query heads read: query heads share key heads in order, as many each.
pub(super) fn keys_of(a: &AttentionFacts, q: Heads) -> Heads {
    let group = a.sizes.q_heads / a.sizes.kv_heads.max(1);
    if group == 0 || q.len == 0 {
        return Heads { start: 0, len: 0 };
    }
    let (first, last) = (q.start / group, (q.start + (q.len - 1)) / group);
    Heads { start: first, len: last - first + 1 }
}

/// The heads of a block that goes with some heads of queries: a leaf that is one for all heads is one block for all of them.
pub(super) fn leaf_heads(a: &AttentionFacts, port: Port, q: Heads) -> Heads {
    let Port::Leaf(n) = port else { return q };
    let one = n.checked_sub(3).and_then(|n| a.leaves.get(n)).is_some_and(|l| l.shape[1] == 1);
    if one { Heads { start: 0, len: a.sizes.q_heads } } else { q }
}
