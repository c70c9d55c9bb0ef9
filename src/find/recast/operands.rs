//! Operands side by side: several values under the same axes, next to each other along an axis of their own.
//!
//! In: values with their axes as factors. Out: one value. An axis that none of them has is left out; one that only some have
//! repeats the others.

use crate::find::axes::factors::{Axes, Dim, Space};
use crate::find::axes::relayout::emit;
use crate::find::axes::trace::Trace;
use crate::ir::{DType, Graph, Op, ValueId};

/// One of the operands.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) value: ValueId,
    pub(crate) axes: Axes,
    /// The factors along which it stands beside the others.
    pub(crate) own: Vec<Dim>,
}

impl Part {
    /// What a traced operand was made of, if it has the factors `own` itself.
    pub(crate) fn of(space: &Space, trace: &Trace, own: &[Dim]) -> Option<Part> {
        let (axes, own) = (space.resolve_all(&trace.base_axes), space.resolve(own));
        let has = |d: &Dim| axes.iter().any(|a| a.contains(d));
        own.iter().all(has).then_some(Part { value: trace.base, axes, own })
    }

    /// The factors that it may share with others.
    pub(crate) fn shared(&self) -> Vec<Dim> {
        self.axes.iter().flatten().filter(|d| !self.own.contains(d)).copied().collect()
    }
}

/// Factors of one axis that the same of two operands have.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) dims: Vec<Dim>,
    /// Which operand has it.
    pub(crate) of: [bool; 2],
}

/// Axes in runs of factors, so that each of two sets has all of a run or nothing of it. An axis of extent 1 is a run of its own, and
/// `alone` says which set has it.
pub(crate) fn runs(
    space: &Space,
    axes: &Axes,
    sets: [&[Dim]; 2],
    alone: impl Fn(usize) -> [bool; 2],
) -> Vec<Run> {
    let mut out: Vec<Run> = vec![];
    for (i, axis) in space.resolve_all(axes).into_iter().enumerate() {
        let begin = out.len();
        if axis.is_empty() {
            out.push(Run { dims: vec![], of: alone(i) });
        }
        for d in axis {
            let of = sets.map(|s| s.contains(&d));
            match out.get_mut(begin..).and_then(<[_]>::last_mut) {
                Some(run) if run.of == of => run.dims.push(d),
                _ => out.push(Run { dims: vec![d], of }),
            }
        }
    }
    out
}

/// The runs of one of the two.
pub(crate) fn of_operand(runs: &[Run], which: usize) -> Axes {
    runs.iter().filter(|run| run.of[which]).map(|run| run.dims.clone()).collect()
}

/// The letters of the runs for which this holds; `None` if there are too many.
pub(crate) fn letters(runs: &[Run], which: impl Fn(&Run) -> bool) -> Option<String> {
    let letter = |n: usize| u8::try_from(n).ok().filter(|&n| n < b'z' - b'a').map(|n| char::from(b'a' + n));
    runs.iter().enumerate().filter(|(_, run)| which(run)).map(|(n, _)| letter(n)).collect()
}

/// The letter of the axis along which parts stand beside each other.
pub(crate) const OWN: char = 'z';

/// A part under these axes and its own.
pub(crate) fn laid_out(
    g: &mut Graph,
    space: &Space,
    part: &Part,
    axes: &Axes,
    name: &str,
) -> Result<ValueId, String> {
    let target = [axes.clone(), vec![part.own.clone()]].concat();
    emit(g, space, part.value, &part.axes, &target, name)
}

/// A value in a type.
pub(crate) fn cast(g: &mut Graph, v: ValueId, to: DType, name: &str) -> Result<ValueId, String> {
    if g.ty(v).dtype == to {
        return Ok(v);
    }
    g.add1(Op::Cast(to), &[v], name, "").map_err(|e| e.to_string())
}

/// Values beside each other along an axis. Neighbouring slices of one value are a slice of it.
pub(crate) fn concat(g: &mut Graph, pieces: &[ValueId], axis: usize, name: &str) -> Result<ValueId, String> {
    let slice = |g: &Graph, v: ValueId| match *g.op(v.op) {
        Op::Slice { axis: along, start, len, step: 1 } if along == axis => {
            Some((*g.operands(v.op).first()?, start, len))
        }
        _ => None,
    };
    let mut merged: Vec<ValueId> = vec![];
    for &piece in pieces {
        let last = merged.last().and_then(|&v| slice(g, v));
        let neighbours = last.zip(slice(g, piece)).filter(|(a, b)| a.0 == b.0 && a.1 + a.2 == b.1);
        let Some((a, b)) = neighbours else {
            merged.push(piece);
            continue;
        };
        merged.pop();
        let len = a.2 + b.2;
        merged.push(if len == g.ty(a.0).shape[axis] {
            a.0
        } else {
            let both = Op::Slice { axis, start: a.1, len, step: 1 };
            g.add1(both, &[a.0], name, "").map_err(|e| e.to_string())?
        });
    }
    match merged[..] {
        [one] => Ok(one),
        _ => g.add1(Op::Concat { axis }, &merged, name, "").map_err(|e| e.to_string()),
    }
}
