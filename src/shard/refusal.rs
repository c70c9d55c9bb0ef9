//! What no ring splits, whatever the graph around it: the one place that says so, asked by the split and by the ring.
//!
//! In: the sizes of an attention. Out: the reason, if there is one, a whole sentence with the way out where there is one. It
//! depends neither on the number of ranks nor on the device.

use crate::ir::infer::attention_sizes;
use crate::ir::{AttentionSizes, MAX_DATA, Type};

/// The most bytes that the packed keys and values, or the carries, of all rows may have: beyond it, sums of byte offsets
/// would need care that no real attention asks for.
const MAX_BYTES: usize = 1 << 50;

/// Why no ring splits an attention on operands of these types, whatever the graph around it.
pub(super) fn by_types(q: &Type, k: &Type, v: &Type) -> Option<String> {
    let sizes = match attention_sizes(q, k, v) {
        Ok(sizes) => sizes,
        Err(why) => return Some(why),
    };
    let extents = [
        (sizes.q_len, "number of query rows"),
        (sizes.kv_len, "number of key rows"),
        (sizes.head_dim, "size of a query and key head"),
        (sizes.v_head_dim, "size of a value head"),
    ];
    empty(&extents).or_else(|| by_sizes(&sizes))
}

/// Why a ring cannot hold what an attention of these sizes sends and keeps: a size is 0, so that byte counts mean nothing, or
/// they would be too large. It has no objection to a sequence without rows, nor to keys or values of size 0 beside the other.
pub(crate) fn by_sizes(s: &AttentionSizes) -> Option<String> {
    let factors = [
        (s.batch, "batch"),
        (s.q_heads, "number of query heads"),
        (s.kv_heads, "number of key heads"),
        (s.head_dim.max(s.v_head_dim), "size of a head"),
    ];
    if let Some(reason) = empty(&factors) {
        return Some(reason);
    }
    let within = |most: usize, factors: &[usize]| {
        factors.iter().try_fold(1usize, |n, &f| n.checked_mul(f).filter(|&n| n <= most)).is_some()
    };
    let too_many = |what: &str, most: &str| {
        format!(
            "{what} have more than {most}, the most that a ring holds: divide the batch or the heads before the sequence is split"
        )
    };
    // They travel as one value.
    let size = s.head_dim.saturating_add(s.v_head_dim);
    if !within(MAX_DATA, &[s.batch, s.kv_heads, size, s.kv_len.max(1)]) {
        return Some(too_many("its keys and values side by side", "2^40 elements"));
    }
    let carry = [8, s.batch, s.q_heads, s.v_head_dim.saturating_add(2), s.q_len.max(1)];
    (!within(MAX_BYTES, &carry)).then(|| too_many("its partial results", "2^50 bytes"))
}

/// The reason of the first of these sizes that is 0.
fn empty(sizes: &[(usize, &str)]) -> Option<String> {
    let (_, what) = sizes.iter().find(|(size, _)| *size == 0)?;
    Some(format!("the {what} is 0, so that there is nothing to split: every rank computes it whole"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::DType;

    const PLAIN: AttentionSizes =
        AttentionSizes { batch: 2, q_heads: 4, kv_heads: 2, q_len: 6, kv_len: 9, head_dim: 8, v_head_dim: 4 };

    fn types(s: &AttentionSizes) -> Option<String> {
        let ty = |shape: [usize; 4]| Type::new(DType::F32, shape);
        let q = ty([s.batch, s.q_heads, s.q_len, s.head_dim]);
        let k = ty([s.batch, s.kv_heads, s.kv_len, s.head_dim]);
        by_types(&q, &k, &ty([s.batch, s.kv_heads, s.kv_len, s.v_head_dim]))
    }

    #[test]
    fn each_size_of_0_is_named() {
        assert_eq!((types(&PLAIN), by_sizes(&PLAIN)), (None, None));
        let zero = |s: AttentionSizes| types(&s).expect("it is refused");
        for (sizes, what) in [
            (AttentionSizes { batch: 0, ..PLAIN }, "the batch is 0"),
            (AttentionSizes { q_heads: 0, ..PLAIN }, "the number of query heads is 0"),
            (AttentionSizes { q_len: 0, ..PLAIN }, "the number of query rows is 0"),
            (AttentionSizes { kv_len: 0, ..PLAIN }, "the number of key rows is 0"),
            (AttentionSizes { head_dim: 0, ..PLAIN }, "the size of a query and key head is 0"),
            (AttentionSizes { v_head_dim: 0, ..PLAIN }, "the size of a value head is 0"),
        ] {
            assert!(zero(sizes).starts_with(what), "{}", zero(sizes));
        }
        // A ring can turn without rows; what it sends must have a size.
        assert_eq!(by_sizes(&AttentionSizes { q_len: 0, kv_len: 0, ..PLAIN }), None);
    }

    #[test]
    fn the_limits_are_where_they_are_said_to_be() {
        let one = AttentionSizes {
            batch: 1,
            q_heads: 1,
            kv_heads: 1,
            q_len: 1,
            kv_len: 1 << 37,
            head_dim: 4,
            v_head_dim: 4,
        };
        assert_eq!(by_sizes(&one), None);
        let more = by_sizes(&AttentionSizes { kv_len: (1 << 37) + 1, ..one }).expect("too many elements");
        assert!(more.starts_with("its keys and values side by side have more than 2^40 elements"), "{more}");
        let most = AttentionSizes { kv_len: 1, q_len: 1 << 44, v_head_dim: 6, ..one };
        assert_eq!(by_sizes(&most), None);
        let more = by_sizes(&AttentionSizes { q_len: (1 << 44) + 1, ..most }).expect("too many bytes");
        assert!(more.starts_with("its partial results have more than 2^50 bytes"), "{more}");
        let huge = AttentionSizes { q_len: usize::MAX, v_head_dim: usize::MAX, ..one };
        assert!(by_sizes(&huge).is_some());
    }
}
