//! Lays a value out under other axes: the reshape, permute and broadcast that lead from its factors to the wanted ones.

use super::factors::{Axes, Dim, Space};
use super::trace::Trace;
use crate::ir::{Graph, Op, ValueId};

/// Emits `value`, whose axes are `axes`, under the axes `target`. Factors that `value` lacks are repeated.
///
/// # Errors
/// If a factor of the value is not wanted, or stands twice.
pub(crate) fn emit(
    graph: &mut Graph,
    space: &Space,
    value: ValueId,
    axes: &Axes,
    target: &Axes,
    name: &str,
) -> Result<ValueId, String> {
    let (have, want) = (space.resolve_all(axes).concat(), space.resolve_all(target).concat());
    let once = |list: &[Dim]| list.iter().enumerate().all(|(i, d)| !list[..i].contains(d));
    if !once(&have) || !once(&want) || !have.iter().all(|d| want.contains(d)) {
        return Err(format!(
            "the axes of {} cannot be laid out as those of an attention",
            graph.value(value).name
        ));
    }
    let extents = |list: &[Dim]| -> Vec<usize> { list.iter().map(|&d| space.extent(d)).collect() };
    let shape: Vec<usize> = target.iter().map(|a| space.product(&space.resolve(a))).collect();
    let present: Vec<Dim> = want.iter().copied().filter(|d| have.contains(d)).collect();
    let mut at = value;
    if present != have {
        at = reshape(graph, at, extents(&have), name)?;
        let perm: Vec<usize> = present.iter().filter_map(|d| have.iter().position(|h| h == d)).collect();
        at = graph.add1(Op::Permute(perm), &[at], name, "").map_err(|e| e.to_string())?;
    }
    if present != want {
        let ones: Vec<usize> =
            want.iter().map(|&d| if have.contains(&d) { space.extent(d) } else { 1 }).collect();
        at = reshape(graph, at, ones, name)?;
        at = graph.add1(Op::Broadcast(extents(&want)), &[at], name, "").map_err(|e| e.to_string())?;
    }
    reshape(graph, at, shape, name)
}

fn reshape(graph: &mut Graph, v: ValueId, shape: Vec<usize>, name: &str) -> Result<ValueId, String> {
    if graph.ty(v).shape == shape {
        return Ok(v);
    }
    graph.add1(Op::Reshape(shape), &[v], name, "").map_err(|e| e.to_string())
}

/// Emits a traced operand under the axes `target`: a value on its way that already has them, or its base laid out anew.
///
/// # Errors
/// As [`emit`].
pub(crate) fn emit_trace(
    graph: &mut Graph,
    space: &Space,
    t: &Trace,
    target: &Axes,
    name: &str,
) -> Result<ValueId, String> {
    let want = space.resolve_all(target);
    if let Some((v, _)) = t.points.iter().find(|(_, axes)| space.resolve_all(axes) == want) {
        return Ok(*v);
    }
    emit(graph, space, t.base, &t.base_axes, target, name)
}
