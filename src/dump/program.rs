//! A program as a listing: layouts, the placement of every value, and the segments in order.
//!
//! In: a [`Program`]. Out: text for people; what parses back is a rank's graph.

use crate::ir::{Op, ValueId};
use crate::shard::{Placement, Program, Segment};
use std::fmt::Write;

/// Lists a program.
pub fn listing(program: &Program) -> String {
    let graph = &program.graph;
    let mut out = format!("program \"{}\" of {} ranks\n", graph.name().escape_debug(), program.ranks);
    for (i, layout) in program.layouts.iter().enumerate() {
        let ranks: Vec<String> = layout
            .rows
            .iter()
            .map(|rows| rows.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
            .collect();
        let _ =
            writeln!(out, "  layout {i}: {} of {} rows: {}", layout.kind, layout.length, ranks.join(" | "));
    }
    let named = |v: ValueId| format!("%{}: {}", graph.value(v).name.escape_debug(), graph.ty(v));
    let held = |v: ValueId| match program.placements.get(&v) {
        Some(Placement::Sharded(s)) if s.outer * s.inner == 1 => {
            format!("axis {} by layout {}", s.axis, s.layout)
        }
        Some(Placement::Sharded(s)) => {
            format!("axis {} ({} × rows × {}) by layout {}", s.axis, s.outer, s.inner, s.layout)
        }
        Some(Placement::Parts(kind)) => format!("in parts, to be folded by {}", kind.name()),
        _ => "whole".to_owned(),
    };
    for v in graph.inputs() {
        let _ = writeln!(out, "  input {}  {}", named(v), held(v));
    }
    for segment in &program.segments {
        match segment {
            Segment::Local(ops) => {
                out += "  local\n";
                for &op in ops {
                    for v in graph.results(op) {
                        let _ = writeln!(out, "    {} = {}  {}", named(v), graph.op(op).name(), held(v));
                    }
                }
            }
            Segment::Gather { value, reason } => {
                let _ = writeln!(out, "  gather {}: {}", named(*value), reason.escape_debug());
            }
            Segment::Reduce { value, kind } => {
                let _ = writeln!(out, "  reduce {}: {} of the ranks' parts", named(*value), kind.name());
            }
            Segment::Island(op) => {
                let Op::Attention(attention) = graph.op(*op) else { continue };
                let operands: Vec<String> = graph
                    .operands(*op)
                    .into_iter()
                    .map(|v| format!("%{}", graph.value(v).name.escape_debug()))
                    .collect();
                let v = graph.result(*op);
                let (operands, mask) = (operands.join(", "), attention.scores.mask());
                let _ = writeln!(out, "  island {} = attention {operands} {mask}  {}", named(v), held(v));
            }
        }
    }
    for (op, reason) in &program.refused {
        let _ = writeln!(out, "  not split: {}: {}", super::report::place(graph, *op), reason.escape_debug());
    }
    for o in graph.outputs() {
        let _ = writeln!(out, "  output \"{}\"  {}", o.name.escape_debug(), held(o.value));
    }
    out
}
