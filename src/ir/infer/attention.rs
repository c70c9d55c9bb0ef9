//! Types of attention, whole and of one pair of chunks.

use super::rows::{counted, show};
use crate::ir::op::{Attention, AttentionBackward, AttentionSizes, Partial};
use crate::ir::types::{DType, Type};
use crate::layout::Progression;
use crate::mask::Tile;

/// The sizes of an attention on operands of these types.
///
/// # Errors
/// If q, k and v do not fit each other.
pub(crate) fn attention_sizes(q: &Type, k: &Type, v: &Type) -> Result<AttentionSizes, String> {
    let (&[b, hq, sq, dk], &[bk, hkv, sk, dk2], &[bv, hv, sv, dv]) =
        (q.shape.as_slice(), k.shape.as_slice(), v.shape.as_slice())
    else {
        return Err(format!("want (batch, heads, rows, size), have q {q}, k {k}, v {v}"));
    };
    if (b, dk, hkv, sk) != (bk, dk2, hv, sv) || bk != bv {
        return Err(format!("batch, heads, rows or sizes differ: q {q}, k {k}, v {v}"));
    }
    if q.dtype != k.dtype || q.dtype != v.dtype || !q.dtype.is_float() {
        return Err(format!("want one floating type, have q {q}, k {k}, v {v}"));
    }
    if hkv == 0 || hq % hkv != 0 {
        return Err(format!("{hkv} key heads do not divide {hq} query heads"));
    }
    Ok(AttentionSizes {
        batch: b,
        q_heads: hq,
        kv_heads: hkv,
        q_len: sq,
        kv_len: sk,
        head_dim: dk,
        v_head_dim: dv,
    })
}

pub(super) fn attention(a: &Attention, x: &[&Type]) -> Result<Vec<Type>, String> {
    if x.len() < 3 {
        return Err(format!("wants q, k and v, has {} operands", x.len()));
    }
    let s = attention_sizes(x[0], x[1], x[2])?;
    attributes(a, s.batch)?;
    let others = match a.sinks {
        Some(operand) if operand < 3 || operand + 1 != x.len() => {
            return Err(format!("the sinks are operand {operand}, which is not the last after q, k and v"));
        }
        Some(operand) => {
            sinks(x[operand], operand, &[s.batch, s.q_heads, s.q_len, 1])?;
            &x[..operand]
        }
        None => x,
    };
    leaves(a, others, 3, [s.batch, s.q_heads, s.q_len, s.kv_len])?;
    let mut out = vec![Type::new(x[0].dtype, vec![s.batch, s.q_heads, s.q_len, s.v_head_dim])];
    let rows = usize::from(a.lse) + 2 * usize::from(a.stats);
    out.resize(1 + rows, Type::new(a.acc, vec![s.batch, s.q_heads, s.q_len]));
    Ok(out)
}

/// Of the gradients of an attention.
pub(super) fn backward(b: &AttentionBackward, x: &[&Type]) -> Result<Vec<Type>, String> {
    let more = 4 + usize::from(b.attention.lse);
    let Some((forward, rest)) = x.len().checked_sub(more).map(|at| x.split_at(at)) else {
        return Err(format!(
            "wants the operands of the attention, and {more} behind them: has {} operands",
            x.len()
        ));
    };
    let results = attention(&Attention { stats: true, ..b.attention.clone() }, forward)?;
    let [out, stats @ ..] = results.as_slice() else { return Err("an attention has no result".into()) };
    // out, m, ln l, dout, and the cotangent of the log-sum-exp.
    let wanted = [Some(out), stats.last(), stats.last(), Some(out), stats.last()];
    for (slot, (have, want)) in rest.iter().zip(wanted.into_iter().flatten()).enumerate() {
        if **have != *want {
            return Err(format!("operand {} is {have}; want {want}", forward.len() + slot));
        }
    }
    let ascending = b.wrt.is_sorted_by(|a, b| a < b);
    let number = |&n: &usize| n >= 3 && forward.get(n).is_some_and(|t| t.dtype.is_float());
    if let Some(n) = b.wrt.iter().find(|n| !number(n)) {
        return Err(format!("operand {n} gets no gradient: it is no leaf of numbers, and no sink"));
    }
    if !ascending {
        return Err("operands that get a gradient are named in ascending order, each once".into());
    }
    let own = (0..3).chain(b.wrt.iter().copied()).map(|n| forward[n].clone());
    Ok(own.collect())
}

/// Checks what no operand has a part in, of an attention over so many batch entries.
pub(super) fn attributes(a: &Attention, batch: usize) -> Result<(), String> {
    if let Some(fault) = a.scores.fault(batch) {
        return Err(fault);
    }
    if let Some(fault) = a.dropout.and_then(|d| d.fault()) {
        return Err(fault);
    }
    if a.acc != DType::F32 && a.acc != DType::F64 {
        return Err(format!("cannot accumulate in {}", a.acc));
    }
    Ok(())
}

pub(super) fn partial(p: &Partial, x: &[&Type]) -> Result<Vec<Type>, String> {
    if x.len() < 2 {
        return Err(format!("wants q and packed k‖v, has {} operands", x.len()));
    }
    let (&[b, hq, sq, dk], &[bk, hkv, sk, d]) = (x[0].shape.as_slice(), x[1].shape.as_slice()) else {
        return Err(format!("want four axes, have {} and {}", x[0], x[1]));
    };
    let fits = b == bk
        && hkv > 0
        && hq % hkv == 0
        && Some(d) == dk.checked_add(p.v_head_dim)
        && sq == counted(&p.q_rows)?
        && sk == counted(&p.k_rows)?;
    if !fits {
        return Err(format!(
            "{} and {} do not fit rows {} and {}, Dv {}",
            x[0],
            x[1],
            show(&p.q_rows),
            show(&p.k_rows),
            p.v_head_dim
        ));
    }
    if x[0].dtype != x[1].dtype || !x[0].dtype.is_float() {
        return Err(format!("wants one floating type, has {} and {}", x[0], x[1]));
    }
    if p.tile == Tile::Skip {
        return Err("a tile that is skipped is not computed: want full or partial".into());
    }
    attributes(&p.attention, b)?;
    if let Some(operand) = p.attention.sinks
        && operand.checked_sub(1) != Some(x.len())
    {
        return Err(format!("the sinks are operand {operand} of the attention, which is not the last"));
    }
    leaves(&p.attention, x, 2, [b, hq, sq, usize::MAX])?;
    let acc = p.attention.acc;
    let row = Type::new(acc, vec![b, hq, sq]);
    Ok(vec![Type::new(acc, vec![b, hq, sq, p.v_head_dim]), row.clone(), row])
}

/// Checks that the leaves of the scores are operands from `first` on and broadcast to `full`
/// (an extent of `usize::MAX` is not compared). Attention counts its leaves from 3.
pub(super) fn leaves(a: &Attention, x: &[&Type], first: usize, full: [usize; 4]) -> Result<(), String> {
    let mut used = vec![false; x.len()];
    for (operand, truth) in a.scores.leaves() {
        if operand < 3 {
            return Err(format!("a step of the scores names operand {operand}, which is q, k or v"));
        }
        let slot = operand - (3 - first);
        let Some(t) = x.get(slot) else {
            return Err(format!("a step of the scores names operand {operand}, which there is not"));
        };
        used[slot] = true;
        let fits = if truth { t.dtype == DType::Bool } else { t.dtype.is_float() };
        if !fits || t.rank() > 4 {
            let want = if truth { "a mask is bool" } else { "a bias or a factor is a floating type" };
            return Err(format!("operand {operand} is {t}; {want}, of at most four axes"));
        }
        let extents = t.shape.iter().zip(&full[4 - t.rank()..]);
        if extents.into_iter().any(|(&e, &f)| e != 1 && e != f && f != usize::MAX) {
            return Err(format!("operand {operand}, {t}, does not broadcast to the scores"));
        }
    }
    if let Some(operand) = a.dropout.map(|d| d.seed) {
        let slot = operand.checked_sub(3 - first).filter(|&slot| slot >= first && slot + 1 == x.len());
        let Some((slot, t)) = slot.map(|slot| (slot, x[slot])) else {
            return Err(format!("the seed is operand {operand}, which is not the last before the sinks"));
        };
        if t.dtype != DType::I64 || t.rank() > 4 || t.elements() != 1 {
            return Err(format!("operand {operand} is {t}; a seed is one i64"));
        }
        used[slot] = true;
    }
    match used.iter().skip(first).position(|u| !u) {
        Some(i) => Err(format!("no step of the scores names operand {}", 3 + i)),
        None => Ok(()),
    }
}

/// Checks that sinks broadcast to `full`: (B, Hq, rows, 1).
pub(super) fn sinks(t: &Type, operand: usize, full: &[usize]) -> Result<(), String> {
    let fits = t.dtype.is_float()
        && t.rank() <= full.len()
        && t.shape
            .iter()
            .zip(&full[full.len() - t.rank().min(full.len())..])
            .all(|(&e, &f)| e == 1 || e == f);
    if fits { Ok(()) } else { Err(format!("operand {operand} is {t}; sinks broadcast to float{full:?}")) }
}

pub(super) fn partial_rows(x: &[&Type], rows: &[Progression]) -> Result<(), String> {
    let n = counted(rows)?;
    let ok = x[0].rank() == 4
        && x[0].shape[2] == n
        && x[1].shape == x[0].shape[..3]
        && x[1] == x[2]
        && x[0].dtype == x[1].dtype;
    if ok {
        Ok(())
    } else {
        Err(format!("{}, {}, {} hold no partial result of rows {}", x[0], x[1], x[2], show(rows)))
    }
}
