//! The verifier of a program: what `ring`, `search` and the executors take for granted of it.
//!
//! In: a [`Program`] whose graph is well formed. Out: nothing, or every broken invariant.
//!
//! Invariants:
//!
//! * **Layouts.** Each has as many ranks as the program, and each of its rows has one owner.
//! * **Placements.** The axis of a sharded value is (outer, length, inner) of its layout.
//! * **Segments.** Every operation that an output needs stands in one segment, behind those that it needs; inputs and constants
//!   stand in none. A value that is gathered is sharded until then, and made before.
//! * **Parts.** A value that is held in parts is a fold over the axis that carries rows, and nothing needs it before it is reduced,
//!   once and in that way.
//! * **Islands.** An island is an attention, stands in one segment, and is handed each of its operands.

use super::types::{Placement, Program, Segment, Sharding};
use crate::ir::{Op, OpId, Reduction, Topology, ValueId};
use crate::layout::{Layout, row_count};
use std::collections::BTreeSet;

/// Layouts of more rows are compared by the number of rows alone; the proof of each schedule looks at every row.
const MARKED: usize = 1 << 26;

/// Every broken invariant of a program, in words.
///
/// Complexity: linear in the graph, and in the rows of each layout.
pub(crate) fn verify_program(program: &Program) -> Vec<String> {
    let mut faults = Vec::new();
    for (i, layout) in program.layouts.iter().enumerate() {
        if let Some(why) = layout_fault(layout, program.ranks) {
            faults.push(format!("layout {i} ({}): {why}", layout.kind));
        }
    }
    for (value, placement) in &program.placements {
        if let Placement::Sharded(s) = placement {
            let extent = program.graph.ty(*value).shape.get(s.axis).copied();
            if let Some(why) = sharding_fault(s, extent, &program.layouts) {
                faults.push(format!("{}: {why}", program.graph.value(*value).name));
            }
        }
        if let Placement::Parts(kind) = placement
            && let Some(why) = parts_fault(program, *value, *kind)
        {
            faults.push(format!("{}: {why}", program.graph.value(*value).name));
        }
    }
    segments(program, &mut faults);
    faults
}

fn layout_fault(layout: &Layout, ranks: usize) -> Option<String> {
    if layout.rows.len() != ranks {
        return Some(format!("it has {} ranks, and the program has {ranks}", layout.rows.len()));
    }
    let rows: usize = layout.rows.iter().map(|r| row_count(r)).sum();
    if rows != layout.length {
        return Some(format!("its ranks own {rows} rows, and there are {}", layout.length));
    }
    if rows > MARKED {
        return None;
    }
    let mut owned = vec![false; rows];
    for row in layout.rows.iter().flatten().flat_map(|p| p.rows()) {
        match owned.get_mut(row) {
            Some(owned) if !*owned => *owned = true,
            Some(_) => return Some(format!("row {row} has two owners")),
            None => return Some(format!("row {row} is none of its {rows}")),
        }
    }
    None
}

fn sharding_fault(s: &Sharding, extent: Option<usize>, layouts: &[Layout]) -> Option<String> {
    let Some(layout) = layouts.get(s.layout) else { return Some(format!("there is no layout {}", s.layout)) };
    let wanted = s.outer.checked_mul(layout.length).and_then(|n| n.checked_mul(s.inner));
    (extent.is_none() || extent != wanted).then(|| {
        format!(
            "axis {} is not {} × {} rows × {}, as its layout says",
            s.axis, s.outer, layout.length, s.inner
        )
    })
}

/// Why a value cannot be held in parts that are folded so.
fn parts_fault(program: &Program, value: ValueId, kind: Reduction) -> Option<String> {
    let graph = &program.graph;
    let Op::Reduce { kind: of, axes, .. } = graph.op(value.op) else {
        return Some(format!("it is held in parts, and {} is no fold", graph.op(value.op).name()));
    };
    let folded = match of {
        Reduction::Mean => Reduction::Sum,
        other => *other,
    };
    if folded != kind {
        return Some(format!("its parts are folded by {}, and it is a {}", kind.name(), of.name()));
    }
    let operand = graph.operands(value.op)[0];
    match program.placements.get(&operand) {
        Some(Placement::Sharded(s)) if axes.contains(&s.axis) => None,
        _ => Some(format!("it is held in parts, and {} is not split along them", graph.value(operand).name)),
    }
}

fn segments(program: &Program, faults: &mut Vec<String>) {
    let graph = &*program.graph;
    let topology = Topology::new(graph);
    let source = |id: OpId| matches!(graph.op(id), Op::Input(_) | Op::Constant(_));
    let name = |id: OpId| graph.value(graph.result(id)).name.as_str();
    let mut done: BTreeSet<OpId> = BTreeSet::new();
    let in_parts = |v: ValueId, at: usize| matches!(program.held(v, at), Placement::Parts(_));
    let mut stand = |id: OpId, at: usize, faults: &mut Vec<String>| {
        let early = graph.operands(id).into_iter().find(|v| !source(v.op) && !done.contains(&v.op));
        if let Some(v) = early {
            faults.push(format!("{} stands before {}, which it needs", name(id), graph.value(v).name));
        }
        if let Some(v) = graph.operands(id).into_iter().find(|&v| in_parts(v, at)) {
            faults.push(format!("{} needs {}, which is held in parts there", name(id), graph.value(v).name));
        }
        if !done.insert(id) {
            faults.push(format!("{} stands in two segments", name(id)));
        }
    };
    for (at, segment) in program.segments.iter().enumerate() {
        match segment {
            Segment::Local(ops) => ops.iter().for_each(|&id| stand(id, at, faults)),
            Segment::Island(id) => {
                let handed = program.islands.get(id).map(|i| i.operands.len());
                if !matches!(graph.op(*id), Op::Attention(_)) || handed != Some(graph.operands(*id).len()) {
                    faults.push(format!("{} is no attention that is handed its operands", name(*id)));
                }
                stand(*id, at, faults);
            }
            Segment::Gather { value, .. } => {
                if !matches!(program.held(*value, at), Placement::Sharded(_)) {
                    faults.push(format!("{} is gathered, and not split there", graph.value(*value).name));
                }
            }
            Segment::Reduce { value, kind } => {
                if *program.held(*value, at) != Placement::Parts(*kind) {
                    let name = &graph.value(*value).name;
                    faults
                        .push(format!("{name} is reduced, and not held in parts of a {} there", kind.name()));
                }
            }
        }
    }
    let end = program.segments.len();
    for o in graph.outputs().iter().filter(|o| in_parts(o.value, end)) {
        faults.push(format!("output {} is never reduced", o.name));
    }
    for &id in topology.order().iter().filter(|&&id| topology.is_live(id) && !source(id)) {
        if !done.contains(&id) {
            faults.push(format!("{} stands in no segment", name(id)));
        }
    }
}
