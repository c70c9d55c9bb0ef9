//! Heads of K and V that stand there several times, one copy beside the other, although the graph did more to them than repeat them:
//! rotary positions, norms or casts after the repetition.
//!
//! In: K and V as (batch, heads, rows, size). Out: the same with each head once, or nothing. What is done to each head alike is done to the
//! heads before they are repeated. Invariant: only operations that act on elements, or on other axes than the heads, are passed.

use super::masks::types::Context;
use crate::find::axes::trace::sources;
use crate::ir::{Graph, Op, ValueId};
use std::collections::HashMap;

/// Deepest chain of operations between the repetition and the attention.
const DEEPEST: usize = 48;
/// The axis of the heads.
const HEADS: usize = 1;

/// K and V with each head once, if both have copies of every head side by side.
pub(crate) fn once(cx: &mut Context<'_>, k: ValueId, v: ValueId) -> Option<[ValueId; 2]> {
    let heads = *cx.graph.ty(k).shape.get(HEADS)?;
    let mut memo = HashMap::new();
    let each = [k, v].map(|x| copies(cx, x, HEADS, heads, 0, &mut memo));
    let n = gcd(each[0], each[1]);
    if heads < 2 || n < 2 {
        return None;
    }
    let mut made = HashMap::new();
    let k = without(cx, k, HEADS, n, &mut made)?;
    let v = without(cx, v, HEADS, n, &mut made)?;
    Some([k, v])
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Whether an operation acts on each element by itself.
fn is_elementwise(op: &Op) -> bool {
    matches!(op, Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast(_))
}

/// The axis of an operand that is an axis of the result, where extents of 1 are repeated; none if the operand lacks it.
fn own_axis(graph: &Graph, x: ValueId, rank: usize, axis: usize) -> Option<usize> {
    let own = (axis + graph.ty(x).rank()).checked_sub(rank)?;
    (graph.ty(x).shape[own] != 1).then_some(own)
}

/// The two axes that a reshape merges into one, the second repeated by a broadcast or a concatenation: what is repeated, the axis before,
/// and how often.
fn repetition(cx: &mut Context<'_>, v: ValueId, axis: usize) -> Option<(ValueId, usize, usize)> {
    let graph = &*cx.graph;
    let Op::Reshape(_) = graph.op(v.op) else { return None };
    let inner = graph.operands(v.op)[0];
    let x = match graph.op(inner.op) {
        Op::Broadcast(_) => graph.operands(inner.op)[0],
        Op::Concat { .. } => sources(graph, cx.constants, inner, axis + 1).last()?.0,
        _ => return None,
    };
    let (from, wide, to) = (graph.ty(x).shape.clone(), &graph.ty(inner).shape, &graph.ty(v).shape);
    let merges = wide.len() == to.len() + 1
        && wide[..axis] == to[..axis]
        && wide[axis + 2..] == to[axis + 1..]
        && wide[axis] * wide[axis + 1] == to[axis];
    // Only then it has these axes.
    let repeats = merges
        && from.len() == wide.len()
        && from[axis + 1] == 1
        && from.iter().zip(wide).enumerate().all(|(i, (a, b))| i == axis + 1 || a == b);
    repeats.then(|| (x, axis, wide[axis + 1]))
}

/// The greatest number of which every run of so many elements along an axis is one element repeated.
fn copies(
    cx: &mut Context<'_>,
    v: ValueId,
    axis: usize,
    extent: usize,
    depth: usize,
    memo: &mut HashMap<(ValueId, usize), usize>,
) -> usize {
    if let Some(&known) = memo.get(&(v, axis)) {
        return known;
    }
    if depth > DEEPEST || extent < 2 {
        return 1;
    }
    let op = cx.graph.op(v.op).clone();
    let x = cx.graph.operands(v.op);
    let rank = cx.graph.ty(v).rank();
    let found = if let Some((_, _, n)) = repetition(cx, v, axis) {
        n
    } else {
        match op {
            _ if is_elementwise(&op) => {
                let mut all = extent;
                for &o in &x {
                    if let Some(own) = own_axis(cx.graph, o, rank, axis) {
                        all = gcd(all, copies(cx, o, own, extent, depth + 1, memo));
                    }
                }
                all
            }
            Op::Permute(perm) => copies(cx, x[0], perm[axis], extent, depth + 1, memo),
            Op::Concat { axis: along } if along != axis => {
                x.iter().fold(extent, |all, &o| gcd(all, copies(cx, o, axis, extent, depth + 1, memo)))
            }
            Op::Slice { axis: along, .. } if along != axis => copies(cx, x[0], axis, extent, depth + 1, memo),
            Op::Gather { axis: along } | Op::Concat { axis: along } if along == axis => {
                sources(cx.graph, cx.constants, v, axis).last().map_or(1, |(_, places)| run(places))
            }
            _ => 1,
        }
    };
    memo.insert((v, axis), found);
    found
}

/// The greatest number of which every run of so many numbers is one number repeated.
fn run(numbers: &[usize]) -> usize {
    let mut all = numbers.len();
    let mut since = 0;
    for i in 1..numbers.len() {
        if numbers[i] != numbers[i - 1] {
            all = gcd(all, i - since);
            since = i;
        }
    }
    gcd(all, numbers.len() - since)
}

/// A value with one of every `n` elements along an axis, each of which is `n` times there.
fn without(
    cx: &mut Context<'_>,
    v: ValueId,
    axis: usize,
    n: usize,
    made: &mut HashMap<(ValueId, usize), ValueId>,
) -> Option<ValueId> {
    if let Some(&known) = made.get(&(v, axis)) {
        return Some(known);
    }
    let op = cx.graph.op(v.op).clone();
    let mut x = cx.graph.operands(v.op);
    let shape = cx.graph.ty(v).shape.clone();
    let name = format!("{}.once", cx.graph.value(v).name);
    let mut less = shape.clone();
    less[axis] /= n;
    let repeated = repetition(cx, v, axis).filter(|&(_, _, times)| times == n);
    let new = if let Some((of, ..)) = repeated {
        cx.graph.add1(Op::Reshape(less), &[of], &name, "").ok()?
    } else {
        match op {
            _ if is_elementwise(&op) => {
                for o in &mut x {
                    if let Some(own) = own_axis(cx.graph, *o, shape.len(), axis) {
                        *o = without(cx, *o, own, n, made)?;
                    }
                }
                cx.graph.add1(op, &x, &name, "").ok()?
            }
            Op::Permute(ref perm) => {
                let of = without(cx, x[0], perm[axis], n, made)?;
                cx.graph.add1(op, &[of], &name, "").ok()?
            }
            Op::Concat { axis: along } if along != axis => {
                for o in &mut x {
                    *o = without(cx, *o, axis, n, made)?;
                }
                cx.graph.add1(op, &x, &name, "").ok()?
            }
            Op::Slice { axis: along, .. } if along != axis => {
                let of = without(cx, x[0], axis, n, made)?;
                cx.graph.add1(op, &[of], &name, "").ok()?
            }
            _ => {
                let slice = Op::Slice { axis, start: 0, len: less[axis], step: i64::try_from(n).ok()? };
                cx.graph.add1(slice, &[v], &name, "").ok()?
            }
        }
    };
    made.insert((v, axis), new);
    Some(new)
}
