//! How an operation of a program reads its operands, given how its results are placed.
//!
//! In: a program, an operation outside of islands, and how its operands are held where it stands. Out: for each operand how it is
//! read: all of it, or the rank's rows. It is the same on every rank. Whoever makes a rank's graph and whoever verifies the program
//! ask here.

use super::axes;
use super::error::ShardError;
use super::factor::Factor;
use super::types::{Placement, Program, Sharding};
use crate::ir::{Op, OpId, Reduction, Type, ValueId};

/// How each operand of an operation is read.
///
/// # Errors
/// [`ShardError::Fault`] if the rows of its results cannot be computed from rows of its operands.
pub(super) fn reads(
    program: &Program,
    id: OpId,
    held: impl Fn(ValueId) -> Placement,
) -> Result<Vec<Placement>, ShardError> {
    let graph = &program.graph;
    let (op, operands, first) = (graph.op(id), graph.operands(id), graph.result(id));
    let s = match program.placements.get(&first) {
        Some(Placement::Sharded(s)) => s,
        // A fold over the rows that its operand carries.
        Some(Placement::Parts(kind)) => return folded(program, id, *kind),
        _ => return Ok(vec![Placement::Whole; operands.len()]),
    };
    let fault = |why: String| ShardError::fault(&graph.value(first).name, why);
    let f = factor(program, s).map_err(fault)?;
    let types: Vec<&Type> = operands.iter().map(|&v| graph.ty(v)).collect();
    if matches!(op, Op::Concat { axis } if *axis == f.axis && operands.len() > 1) {
        let parts = joined(program, s, f, &types).map_err(fault)?;
        let read =
            |(&v, part): (&ValueId, Option<Sharding>)| part.map_or_else(|| held(v), Placement::Sharded);
        return Ok(operands.iter().zip(parts).map(read).collect());
    }
    let carried = |v: &ValueId| match held(*v) {
        Placement::Whole | Placement::Parts(_) => Ok(None),
        Placement::Sharded(s) => factor(program, &s).map(Some),
    };
    let carried = operands.iter().map(carried).collect::<Result<Vec<_>, _>>().map_err(fault)?;
    let maps = axes::operands(op, f, &types, graph.ty(first), &carried);
    let maps = maps.ok_or_else(|| fault(format!("{} is split, and its operands cannot be", op.name())))?;
    let read =
        |map: Option<Factor>| map.map_or(Placement::Whole, |m| Placement::Sharded(m.sharding(s.layout)));
    Ok(maps.into_iter().map(read).collect())
}

/// The rows that a fold over them reads, of which each rank makes its part.
fn folded(program: &Program, id: OpId, kind: Reduction) -> Result<Vec<Placement>, ShardError> {
    let graph = &program.graph;
    let fault = |why: String| Err(ShardError::fault(&graph.value(graph.result(id)).name, why));
    let Op::Reduce { kind: of, axes, .. } = graph.op(id) else {
        return fault(format!("it is held in parts, and {} is no fold", graph.op(id).name()));
    };
    let by = if *of == Reduction::Mean { Reduction::Sum } else { *of };
    if by != kind {
        return fault(format!("its parts are folded by {}, and it is a {}", kind.name(), of.name()));
    }
    let operand = graph.operands(id)[0];
    match program.placements.get(&operand) {
        Some(Placement::Sharded(s)) if axes.contains(&s.axis) => Ok(vec![Placement::Sharded(s.clone())]),
        _ => fault(format!(
            "it is held in parts, and {} is not split along what is folded",
            graph.value(operand).name
        )),
    }
}

/// Where the rows lie that a sharding states.
pub(super) fn factor(program: &Program, s: &Sharding) -> Result<Factor, String> {
    let layout = program.layouts.get(s.layout).ok_or_else(|| format!("there is no layout {}", s.layout))?;
    Ok(Factor::of(s, layout.length))
}

/// The rows that a concatenation along the rows takes of each operand; `None` of one without rows, which is taken as it is held.
fn joined(
    program: &Program,
    s: &Sharding,
    f: Factor,
    types: &[&Type],
) -> Result<Vec<Option<Sharding>>, String> {
    let lengths: Vec<usize> = types.iter().map(|t| t.shape[f.axis]).collect();
    let filled = lengths.iter().filter(|&&n| n > 0).count();
    // The rows of the only operand that has some are those of the result.
    let parts = match program.joined.get(&s.layout) {
        _ if filled < 2 => vec![s.layout; filled],
        Some(parts) if parts.len() == filled => parts.clone(),
        Some(parts) => return Err(format!("its {filled} parts are joined of {} layouts", parts.len())),
        None => return Err(format!("layout {} is not joined of those of its parts", s.layout)),
    };
    let mut parts = parts.into_iter();
    let part = |rows: usize| {
        let Some(layout) = (if rows > 0 { parts.next() } else { None }) else { return Ok(None) };
        let length = program.layouts.get(layout).map(|l| l.length);
        if length != Some(rows) || (f.outer, f.inner) != (1, 1) {
            return Err(format!("{rows} rows are read of a part by layout {layout}, which has others"));
        }
        Ok(Some(f.sharding(layout)))
    };
    lengths.into_iter().map(part).collect()
}
