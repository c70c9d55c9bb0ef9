//! Traces an operand back through what only moves, repeats, scales or widens its elements.
//!
//! In: a value. Out: the value at the other end, both ends' axes as factors of one [`Space`], and the scalars met on the way.

use super::factors::{Axes, Dim, Space};
use crate::eval::Constants;
use crate::ir::{Binary, DType, Graph, Op, ValueId};

/// Longest chain that is followed.
const TRACE_LIMIT: usize = 64;
/// Constants larger than this are not evaluated.
pub(crate) const CONSTANT_LIMIT: usize = 1 << 24;

/// What happened to the elements on the way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scalar {
    /// Multiplied by a number.
    Mul(f64),
    /// Divided by a number.
    Div(f64),
    /// Converted to a wider floating type.
    Widen(DType),
}

/// An operand, traced back.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    /// The value at the other end.
    pub(crate) base: ValueId,
    /// Its axes.
    pub(crate) base_axes: Axes,
    /// Axes of the operand. A factor that is not in the base repeats its elements.
    pub(crate) axes: Axes,
    /// Scalars, from the base outwards.
    pub(crate) scalars: Vec<Scalar>,
    /// Values from the base outwards, up to the first scalar, with their axes.
    pub(crate) points: Vec<(ValueId, Axes)>,
    /// Factors that repeat.
    pub(crate) repeats: Vec<Dim>,
}

/// The number that a value holds, if it is constant and every element is the same.
pub(crate) fn splat(graph: &Graph, constants: &mut Constants, v: ValueId) -> Option<f64> {
    let t = constants.value(graph, v, CONSTANT_LIMIT)?;
    let values = t.to_f64();
    let first = *values.first()?;
    values.iter().all(|x| x.to_bits() == first.to_bits()).then_some(first)
}

/// One step back, with the scalar that it passes.
pub(crate) fn step(
    graph: &Graph,
    constants: &mut Constants,
    v: ValueId,
) -> Option<(ValueId, Option<Scalar>)> {
    let x = graph.operands(v.op);
    match graph.op(v.op) {
        Op::Reshape(_) | Op::Permute(_) | Op::Broadcast(_) => Some((x[0], None)),
        Op::Gather { .. } | Op::Concat { .. } => repetition(graph, constants, v).map(|r| (r.0, None)),
        Op::Cast(to) => graph.ty(x[0]).dtype.widens_to(*to).then_some((x[0], Some(Scalar::Widen(*to)))),
        Op::Binary(b @ (Binary::Mul | Binary::Div)) => {
            let keeps = |i: usize| graph.ty(x[i]).shape == graph.ty(v).shape;
            if keeps(0)
                && let Some(c) = splat(graph, constants, x[1]).filter(|c| c.is_finite())
            {
                let s = if *b == Binary::Mul { Scalar::Mul(c) } else { Scalar::Div(c) };
                return Some((x[0], Some(s)));
            }
            if *b == Binary::Mul && keeps(1) {
                let c = splat(graph, constants, x[0]).filter(|c| c.is_finite())?;
                return Some((x[1], Some(Scalar::Mul(c))));
            }
            None
        }
        _ => None,
    }
}

/// Traces `v` back as far as it goes; through scalars only if `scalars`.
pub(crate) fn trace(
    graph: &Graph,
    constants: &mut Constants,
    space: &mut Space,
    v: ValueId,
    scalars: bool,
) -> Trace {
    let mut chain = vec![(v, None)];
    let mut at = v;
    while chain.len() < TRACE_LIMIT {
        let Some((next, scalar)) = step(graph, constants, at) else { break };
        if scalar.is_some() && !scalars {
            break;
        }
        chain.push((next, scalar));
        at = next;
    }
    // chain[i].1 is what leads from chain[i].0 to chain[i − 1].0.
    let mut start = chain.len() - 1;
    'base: loop {
        let base = chain[start].0;
        let base_axes = space.axes(&graph.ty(base).shape);
        let mut t = Trace {
            base,
            base_axes: base_axes.clone(),
            axes: base_axes.clone(),
            scalars: vec![],
            points: vec![(base, base_axes)],
            repeats: vec![],
        };
        for i in (0..start).rev() {
            let (value, scalar) = (chain[i].0, chain[i + 1].1);
            if let Some(s) = scalar {
                t.scalars.push(s);
                continue;
            }
            let Some((axes, new)) = layout(graph, constants, space, value, &t.axes) else {
                // This reshape cuts a factor: what it makes is a value of its own.
                start = i;
                continue 'base;
            };
            t.axes = axes;
            t.repeats.extend(new);
            if t.scalars.is_empty() {
                t.points.push((value, t.axes.clone()));
            }
        }
        return t;
    }
}

/// Most elements of an axis that are told apart.
const MOST_ELEMENTS: usize = 1 << 16;
/// Longest chain of look-ups, slices and repetitions along one axis, and deepest expression that is compared with another.
const DEEPEST: usize = 6;

/// What a look-up or a concatenation repeats, along which axis, and whether each element is repeated by itself, not all of them one after
/// the other.
fn repetition(graph: &Graph, constants: &mut Constants, v: ValueId) -> Option<(ValueId, usize, bool)> {
    let (Op::Concat { axis } | Op::Gather { axis }) = *graph.op(v.op) else { return None };
    sources(graph, constants, v, axis).into_iter().find_map(|(of, places)| {
        let n = *graph.ty(of).shape.get(axis)?;
        if n == 0 || places.len() <= n || !places.len().is_multiple_of(n) {
            return None;
        }
        let each = places.len() / n;
        let is = |f: &dyn Fn(usize) -> usize| places.iter().enumerate().all(|(i, &p)| p == f(i));
        if is(&|i| i / each) { Some((of, axis, true)) } else { is(&|i| i % n).then_some((of, axis, false)) }
    })
}

/// A value, and with which of its elements along an axis each element of another begins.
type Source = (ValueId, Vec<usize>);

/// Values of which all elements along an axis are copies, from the value itself on.
pub(crate) fn sources(graph: &Graph, constants: &mut Constants, v: ValueId, axis: usize) -> Vec<Source> {
    let whole = chain(graph, constants, v, axis);
    let (Op::Concat { axis: along }, 1) = (graph.op(v.op), whole.len()) else { return whole };
    if *along != axis {
        return whole;
    }
    // What all parts are picked from.
    let parts: Vec<_> = graph.operands(v.op).iter().map(|&o| chain(graph, constants, o, axis)).collect();
    let of_part = |part: &Vec<Source>, of| part.iter().find(|s| s.0 == of).map(|s| s.1.clone());
    let joined = |(of, _): &Source| {
        let places: Option<Vec<_>> = parts.iter().map(|part| of_part(part, *of)).collect();
        Some((*of, places?.concat()))
    };
    whole.into_iter().chain(parts.iter().take(1).flatten().filter_map(joined)).collect()
}

/// A value, what it is picked from, and so on, each with the place in it of every element.
fn chain(graph: &Graph, constants: &mut Constants, v: ValueId, axis: usize) -> Vec<Source> {
    let extent = graph.ty(v).shape.get(axis).filter(|&&extent| extent <= MOST_ELEMENTS);
    let mut all: Vec<Source> = extent.map(|&extent| (v, (0..extent).collect())).into_iter().collect();
    while let Some((last, places)) = all.last()
        && all.len() < DEEPEST
        && let Some((of, inner)) = picked(graph, constants, *last, axis)
        && let Some(places) = places.iter().map(|&p| inner.get(p).copied()).collect()
    {
        all.push((of, places));
    }
    all
}

/// What every element along an axis is copied from, and from which place.
fn picked(graph: &Graph, constants: &mut Constants, v: ValueId, axis: usize) -> Option<Source> {
    let x = graph.operands(v.op);
    let extent = graph.ty(v).shape[axis];
    match *graph.op(v.op) {
        Op::Gather { axis: along } if along == axis => {
            let indices = constants.value(graph, x[1], CONSTANT_LIMIT).filter(|t| t.shape().len() == 1)?;
            let n = graph.ty(x[0]).shape[axis];
            let place = |i: f64| (0.0..n as f64).contains(&i).then_some(i as usize);
            Some((x[0], indices.to_f64().into_iter().map(place).collect::<Option<_>>()?))
        }
        // One element, repeated.
        Op::Broadcast(ref shape) => {
            let mut before = graph.ty(x[0]).shape.clone();
            let one = before.get_mut(axis).filter(|e| **e == 1)?;
            *one = extent;
            (before == *shape).then(|| (x[0], vec![0; extent]))
        }
        Op::Slice { axis: along, start, len, step } if along == axis => {
            let place = |i: usize| usize::try_from(start as i64 + i as i64 * step).ok();
            Some((x[0], (0..len).map(place).collect::<Option<_>>()?))
        }
        Op::Concat { axis: along } if along == axis => {
            let (first, others) = x.split_first()?;
            let every: Vec<usize> = (0..graph.ty(*first).shape[axis]).collect();
            others.iter().all(|o| alike(graph, *first, *o, 0)).then(|| (*first, every.repeat(x.len())))
        }
        _ => None,
    }
}

/// Whether two values are one, or the same operations made them: exporters write an operation anew for each part.
fn alike(graph: &Graph, a: ValueId, b: ValueId, depth: usize) -> bool {
    let (x, y) = (graph.operands(a.op), graph.operands(b.op));
    let same = |(a, b): (&ValueId, &ValueId)| alike(graph, *a, *b, depth + 1);
    a == b
        || (depth < DEEPEST
            && a.port == b.port
            && matches!(
                graph.op(a.op),
                Op::Reshape(_) | Op::Permute(_) | Op::Broadcast(_) | Op::Slice { .. }
            )
            && graph.op(a.op) == graph.op(b.op)
            && x.iter().zip(&y).all(same))
}

/// Axes of the result of a layout operation, and the factors that it adds.
pub(crate) fn layout(
    graph: &Graph,
    constants: &mut Constants,
    space: &mut Space,
    v: ValueId,
    axes: &Axes,
) -> Option<(Axes, Vec<Dim>)> {
    match graph.op(v.op) {
        Op::Gather { .. } | Op::Concat { .. } => {
            let (_, axis, interleaved) = repetition(graph, constants, v)?;
            let of = space.product(&axes[axis]);
            let times = space.fresh(graph.ty(v).shape[axis].checked_div(of)?);
            let mut out = axes.clone();
            if interleaved {
                out[axis].push(times);
            } else {
                out[axis].insert(0, times);
            }
            Some((out, vec![times]))
        }
        Op::Permute(perm) => Some((perm.iter().map(|&a| axes[a].clone()).collect(), vec![])),
        Op::Reshape(shape) => space.reshape(axes, shape).map(|a| (a, vec![])),
        Op::Broadcast(shape) => {
            let lead = shape.len() - axes.len();
            let mut new = vec![];
            let out = shape
                .iter()
                .enumerate()
                .map(|(i, &e)| {
                    let old = if i < lead { vec![] } else { space.resolve(&axes[i - lead]) };
                    if old.is_empty() && e != 1 {
                        let d = space.fresh(e);
                        new.push(d);
                        vec![d]
                    } else {
                        old
                    }
                })
                .collect();
            Some((out, new))
        }
        _ => None,
    }
}
