//! Cutting and joining tensors by rows of a sequence axis, taken as (outer, length, inner).

use crate::ir::{Data, Tensor, Type};
use crate::layout::{Layout, Progression, row_count};
use crate::shard::Sharding;
use std::sync::Arc;

/// Where the rows of `p` begin among a rank's rows, stored in the order of `own`; `None` if `p` is no run of one of its
/// progressions. Free of overflow whatever the numbers are.
pub(super) fn run_of(own: &[Progression], p: &Progression) -> Option<usize> {
    if p.len == 0 {
        return Some(0);
    }
    let last = last_row(p)?;
    let mut before = 0usize;
    for o in own {
        let fits = p.start >= o.start
            && last <= last_row(o)?
            && o.step > 0
            && (p.start - o.start).is_multiple_of(o.step)
            && (p.len == 1 || p.step == o.step);
        if fits {
            return Some(before + (p.start - o.start) / o.step);
        }
        before = before.checked_add(o.len)?;
    }
    None
}

/// The last row of a progression of at least one row; `None` on overflow or if its rows coincide.
pub(super) fn last_row(p: &Progression) -> Option<usize> {
    if p.len > 1 && p.step == 0 {
        return None;
    }
    p.start.checked_add(p.len.checked_sub(1)?.checked_mul(p.step)?)
}

/// Extent of the axis, outside, and around a row, as (blocks, rows, elements of a row).
fn factored(shape: &[usize], s: &Sharding) -> Result<(usize, usize, usize), String> {
    let extent = shape.get(s.axis).ok_or_else(|| format!("{shape:?} has no axis {}", s.axis))?;
    let around = s.outer.checked_mul(s.inner).filter(|&n| n > 0 && extent.is_multiple_of(n));
    let around = around
        .ok_or_else(|| format!("axis {} of {shape:?} is not {} × rows × {}", s.axis, s.outer, s.inner))?;
    let before: usize = shape[..s.axis].iter().product();
    let after: usize = shape[s.axis + 1..].iter().product();
    Ok((before * s.outer, extent / around, s.inner * after))
}

fn with_extent(shape: &[usize], s: &Sharding, rows: usize) -> Vec<usize> {
    let mut shape = shape.to_vec();
    shape[s.axis] = s.outer * rows * s.inner;
    shape
}

/// The type of these rows of a whole tensor.
pub(super) fn part(whole: &Type, s: &Sharding, rows: &[Progression]) -> Result<Type, String> {
    factored(&whole.shape, s)?;
    Ok(Type::new(whole.dtype, with_extent(&whole.shape, s, row_count(rows))))
}

/// The rows `rows` of a whole tensor, in their order.
pub(crate) fn cut(x: &Tensor, s: &Sharding, rows: &[Progression]) -> Result<Tensor, String> {
    let (blocks, length, unit) = factored(x.shape(), s)?;
    if rows.iter().any(|p| last_row(p).is_none_or(|l| l >= length)) {
        return Err(format!("its rows leave the {length} rows of {}", x.ty()));
    }
    let shape = with_extent(x.shape(), s, row_count(rows));
    if rows == [Progression::range(0, length)] {
        return Ok(x.clone());
    }
    macro_rules! pick {
        ($variant:ident, $v:ident) => {{
            let mut out = Vec::with_capacity(blocks * row_count(rows) * unit);
            for b in 0..blocks {
                let base = b * length;
                for p in rows {
                    if p.step == 1 {
                        out.extend_from_slice(&$v[(base + p.start) * unit..(base + p.start + p.len) * unit]);
                    } else {
                        for r in p.rows() {
                            out.extend_from_slice(&$v[(base + r) * unit..(base + r + 1) * unit]);
                        }
                    }
                }
            }
            Data::$variant(Arc::new(out))
        }};
    }
    let data = match x.data() {
        Data::F64(v) => pick!(F64, v),
        Data::F32(v) => pick!(F32, v),
        Data::F16(v) => pick!(F16, v),
        Data::BF16(v) => pick!(BF16, v),
        Data::I64(v) => pick!(I64, v),
        Data::I32(v) => pick!(I32, v),
        Data::Bool(v) => pick!(Bool, v),
    };
    Tensor::new(shape, data).ok_or_else(|| "rows do not fit".into())
}

/// The whole tensor from every rank's rows.
pub(crate) fn join(parts: &[Tensor], s: &Sharding, layout: &Layout) -> Result<Tensor, String> {
    let first = parts.first().ok_or("there is no rank")?;
    let mut blocks_of = Vec::with_capacity(parts.len());
    for (part, own) in parts.iter().zip(&layout.rows) {
        let (blocks, rows, unit) = factored(part.shape(), s)?;
        if rows != row_count(own) || part.dtype() != first.dtype() {
            return Err(format!("{} does not hold {} rows", part.ty(), row_count(own)));
        }
        blocks_of.push((blocks, unit));
    }
    let (blocks, unit) = blocks_of[0];
    if blocks_of.iter().any(|&b| b != (blocks, unit)) || parts.len() != layout.ranks() {
        return Err("the ranks' rows differ in shape".into());
    }
    let owned: usize = layout.rows.iter().map(|r| row_count(r)).sum();
    let inside = layout.rows.iter().flatten().all(|p| last_row(p).is_some_and(|l| l < layout.length));
    if owned != layout.length || !inside {
        return Err(format!("the layout does not cover {} rows", layout.length));
    }
    // Where each global row lies: (rank, local row).
    let mut place = vec![(usize::MAX, 0); layout.length];
    for (rank, own) in layout.rows.iter().enumerate() {
        for (local, row) in own.iter().flat_map(Progression::rows).enumerate() {
            place[row] = (rank, local);
        }
    }
    if place.iter().any(|p| p.0 == usize::MAX) {
        return Err(format!("the layout does not cover {} rows", layout.length));
    }
    let shares: Vec<usize> = (0..layout.ranks()).map(|rank| layout.share(rank)).collect();
    let shape = with_extent(first.shape(), s, layout.length);
    macro_rules! lay {
        ($variant:ident) => {{
            let data: Vec<_> = parts
                .iter()
                .filter_map(|p| match p.data() {
                    Data::$variant(v) => Some(v),
                    _ => None,
                })
                .collect();
            let mut out = Vec::with_capacity(blocks * layout.length * unit);
            for b in 0..blocks {
                for &(rank, local) in &place {
                    let at = (b * shares[rank] + local) * unit;
                    out.extend_from_slice(&data[rank][at..at + unit]);
                }
            }
            Data::$variant(Arc::new(out))
        }};
    }
    let data = match first.data() {
        Data::F64(_) => lay!(F64),
        Data::F32(_) => lay!(F32),
        Data::F16(_) => lay!(F16),
        Data::BF16(_) => lay!(BF16),
        Data::I64(_) => lay!(I64),
        Data::I32(_) => lay!(I32),
        Data::Bool(_) => lay!(Bool),
    };
    Tensor::new(shape, data).ok_or_else(|| "rows do not fit".into())
}

/// Bytes of a tensor's elements.
pub(super) fn bytes(x: &Tensor) -> usize {
    x.len() * x.dtype().bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::DType;
    use crate::layout::LayoutKind;

    #[test]
    fn joining_what_was_cut_gives_it_back() {
        for kind in LayoutKind::ALL {
            for length in 0..12 {
                for ranks in 1..6 {
                    let s = Sharding { axis: 1, outer: 2, inner: 3, layout: 0 };
                    let n = 2 * 2 * length * 3 * 2;
                    let x: Vec<f64> = (0..n).map(|i| i as f64).collect();
                    let x = Tensor::from_f64(DType::F32, [2, 2 * length * 3, 2], &x).unwrap();
                    let layout = Layout::new(kind, length, ranks);
                    let parts: Vec<Tensor> =
                        layout.rows.iter().map(|own| cut(&x, &s, own).unwrap()).collect();
                    assert_eq!(join(&parts, &s, &layout).unwrap(), x);
                }
            }
        }
    }

    #[test]
    fn a_run_is_found_or_refused_without_overflow() {
        let own = [Progression::range(4, 4), Progression { start: 20, len: 3, step: 5 }];
        assert_eq!(run_of(&own, &Progression::range(5, 2)), Some(1));
        assert_eq!(run_of(&own, &Progression { start: 25, len: 2, step: 5 }), Some(5));
        assert_eq!(run_of(&own, &Progression { start: 25, len: 1, step: 1 }), Some(5));
        for p in [
            Progression::range(6, 4),
            Progression::range(20, 2),
            Progression { start: usize::MAX, len: 2, step: 1 },
            Progression { start: 4, len: usize::MAX, step: usize::MAX },
            Progression { start: 4, len: 2, step: 0 },
        ] {
            assert_eq!(run_of(&own, &p), None, "{}", p.start);
        }
    }
}
