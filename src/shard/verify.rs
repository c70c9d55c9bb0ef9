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
//! * **Reads.** Every operand, of an operation or of an island, is held whole where it is read, or by the rows that are read.
//! * **Parts.** A value that is held in parts is a fold over the axis that carries rows, and nothing needs it before it is reduced,
//!   once and in that way.
//! * **Islands.** An island is an attention, stands in one segment, and is handed each of its operands.

use super::error::ShardError;
use super::rank_ops::{otherwise, read_whole};
use super::reads::reads;
use super::types::{Placement, Program, Segment, Sharding};
use crate::ir::{Op, OpId, Topology, ValueId};
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
        if matches!(placement, Placement::Parts(_))
            && !matches!(program.graph.op(value.op), Op::Reduce { .. })
        {
            let name = program.graph.op(value.op).name();
            faults.push(format!(
                "{}: it is held in parts, and {name} is no fold",
                program.graph.value(*value).name
            ));
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

/// How a value is held once these were gathered: what [`Program::held`] says of a segment.
fn held(program: &Program, gathered: &BTreeSet<ValueId>, v: ValueId) -> Placement {
    let placed = program.placements.get(&v).filter(|_| !gathered.contains(&v));
    placed.cloned().unwrap_or(Placement::Whole)
}

fn words(e: ShardError) -> String {
    match e {
        ShardError::Fault { at, why } => format!("{at}: {why}"),
        other => other.to_string(),
    }
}

/// Whether each operand is held as it is read.
fn fits(
    program: &Program,
    id: OpId,
    read: &[Placement],
    held: impl Fn(ValueId) -> Placement,
) -> Result<(), ShardError> {
    for (v, read) in program.graph.operands(id).into_iter().zip(read) {
        match (held(v), read) {
            (Placement::Sharded(held), Placement::Sharded(read)) if held != *read => {
                return Err(otherwise(program, v, &held, read));
            }
            (Placement::Sharded(_), Placement::Whole) => return Err(read_whole(program, v)),
            (Placement::Parts(_), _) => {
                let name = &program.graph.value(v).name;
                return Err(ShardError::fault(
                    name,
                    "it is held in parts where it is read, before its reduce",
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn segments(program: &Program, faults: &mut Vec<String>) {
    let graph = &*program.graph;
    let topology = Topology::new(graph);
    let source = |id: OpId| matches!(graph.op(id), Op::Input(_) | Op::Constant(_));
    let name = |id: OpId| graph.value(graph.result(id)).name.as_str();
    let mut done: BTreeSet<OpId> = BTreeSet::new();
    let mut gathered: BTreeSet<ValueId> = BTreeSet::new();
    let stand = |done: &mut BTreeSet<OpId>, id: OpId, faults: &mut Vec<String>| {
        let early = graph.operands(id).into_iter().find(|v| !source(v.op) && !done.contains(&v.op));
        if let Some(v) = early {
            faults.push(format!("{} stands before {}, which it needs", name(id), graph.value(v).name));
        }
        if !done.insert(id) {
            faults.push(format!("{} stands in two segments", name(id)));
        }
    };
    for segment in &program.segments {
        match segment {
            Segment::Local(ops) => {
                for &id in ops {
                    stand(&mut done, id, faults);
                    let held = |v| held(program, &gathered, v);
                    let read = reads(program, id, held);
                    let fits = read.and_then(|read| fits(program, id, &read, held));
                    faults.extend(fits.err().map(words));
                }
            }
            Segment::Island(id) => {
                let handed = program.islands.get(id).map(|i| i.operands.len());
                if !matches!(graph.op(*id), Op::Attention(_)) || handed != Some(graph.operands(*id).len()) {
                    faults.push(format!("{} is no attention that is handed its operands", name(*id)));
                }
                stand(&mut done, *id, faults);
                let read = program.islands.get(id).map_or(&[][..], |i| &i.operands);
                let fits = fits(program, *id, read, |v| held(program, &gathered, v));
                faults.extend(fits.err().map(words));
            }
            Segment::Gather { value, .. } => {
                if !source(value.op) && !done.contains(&value.op) {
                    faults.push(format!("{} is gathered before it is made", graph.value(*value).name));
                }
                if !matches!(held(program, &gathered, *value), Placement::Sharded(_)) {
                    faults.push(format!("{} is gathered, and not split there", graph.value(*value).name));
                }
                gathered.insert(*value);
            }
            Segment::Reduce { value, kind } => {
                if !done.contains(&value.op) {
                    faults.push(format!("{} is reduced before it is made", graph.value(*value).name));
                }
                if held(program, &gathered, *value) != Placement::Parts(*kind) {
                    let name = &graph.value(*value).name;
                    faults
                        .push(format!("{name} is reduced, and not held in parts of a {} there", kind.name()));
                }
                gathered.insert(*value);
            }
        }
    }
    let in_parts = |v| matches!(held(program, &gathered, v), Placement::Parts(_));
    for o in graph.outputs().iter().filter(|o| in_parts(o.value)) {
        faults.push(format!("output {} is never reduced", o.name));
    }
    for &id in topology.order().iter().filter(|&&id| topology.is_live(id) && !source(id)) {
        if !done.contains(&id) {
            faults.push(format!("{} stands in no segment", name(id)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Reduction, parse};
    use crate::shard::{ShardOptions, shard};
    use std::sync::Arc;

    /// input → tanh → attention → neg, on two ranks.
    fn program() -> Program {
        let text = r#"graph "tiny" {
  input %x: f32[1,2,8,4]
  %t: f32[1,2,8,4] = tanh %x
  %o: f32[1,2,8,4] = attention %t, %t, %t {scores=[factor 0.5 | fill -inf unless causal(0)], acc=f32, empty=zero}
  %n: f32[1,2,8,4] = neg %o
  output "n" = %n
}"#;
        shard(Arc::new(parse(text).unwrap()), &ShardOptions::new(2)).unwrap()
    }

    /// What is told of the program after a change.
    fn told(change: impl FnOnce(&mut Program)) -> Vec<String> {
        let mut program = program();
        change(&mut program);
        verify_program(&program)
    }

    #[test]
    fn a_program_of_the_split_is_right() {
        assert_eq!(verify_program(&program()), Vec::<String>::new());
    }

    #[test]
    fn faults_of_layouts_are_told() {
        let rows = |change: fn(&mut Vec<Vec<crate::layout::Progression>>)| {
            told(|p| change(&mut p.layouts[0].rows)).join("; ")
        };
        assert_eq!(rows(|r| r.truncate(1)), "layout 0 (zigzag): it has 1 ranks, and the program has 2");
        assert_eq!(rows(|r| r[0].clear()), "layout 0 (zigzag): its ranks own 4 rows, and there are 8");
        assert_eq!(rows(|r| r[1] = r[0].clone()), "layout 0 (zigzag): row 0 has two owners");
        assert_eq!(rows(|r| r[1][1].start += 4), "layout 0 (zigzag): row 8 is none of its 8");
    }

    #[test]
    fn faults_of_placements_are_told() {
        let faults = told(|p| {
            for placement in p.placements.values_mut() {
                if let Placement::Sharded(s) = placement {
                    s.outer += 1;
                }
            }
        });
        for v in ["t", "o", "n"] {
            let says = format!("{v}: axis 2 is not 2 × 8 rows × 1, as its layout says");
            assert!(faults.contains(&says), "{faults:?}");
        }
        let faults = told(|p| p.layouts.clear());
        assert!(
            !faults.is_empty() && faults.iter().all(|f| f.ends_with("there is no layout 0")),
            "{faults:?}"
        );
    }

    #[test]
    fn faults_of_segments_are_told() {
        let has = |faults: &[String], says: &str| assert!(faults.iter().any(|f| f == says), "{faults:?}");
        let faults = told(|p| p.segments.reverse());
        has(&faults, "n stands before o, which it needs");
        has(&faults, "o stands before t, which it needs");
        has(&told(|p| p.segments.push(p.segments[0].clone())), "t stands in two segments");
        let faults = told(|p| p.segments.clear());
        assert_eq!(faults, ["t", "o", "n"].map(|name| format!("{name} stands in no segment")));
        let gather = |p: &mut Program| {
            let value = p.graph.inputs()[0];
            p.segments.insert(0, Segment::Gather { value, reason: String::new() });
        };
        has(&told(gather), "x is gathered, and not split there");
    }

    /// input → attention → maximum over the rows → subtracted, on three ranks.
    fn folded(change: impl FnOnce(&mut Program)) -> Vec<String> {
        let text = r#"graph "folded" {
  input %x: f32[1,2,8,4]
  %o: f32[1,2,8,4] = attention %x, %x, %x {scores=[factor 0.5], acc=f32, empty=zero}
  %m: f32[1,2,1,4] = reduce %o {max, axes=[2], keep}
  %d: f32[1,2,8,4] = sub %o, %m
  output "m" = %m
  output "d" = %d
}"#;
        let mut program = shard(Arc::new(parse(text).unwrap()), &ShardOptions::new(3)).unwrap();
        change(&mut program);
        verify_program(&program)
    }

    fn reduce(p: &mut Program) -> (usize, ValueId) {
        let at = p.segments.iter().position(|s| matches!(s, Segment::Reduce { .. })).unwrap();
        (at, p.segments[at].makes_whole().unwrap())
    }

    #[test]
    fn faults_of_parts_are_told() {
        assert_eq!(folded(|_| {}), Vec::<String>::new());
        let has = |faults: &[String], says: &str| assert!(faults.iter().any(|f| f == says), "{faults:?}");
        let lost = folded(|p| {
            let (at, _) = reduce(p);
            p.segments.remove(at);
        });
        has(&lost, "m: it is held in parts where it is read, before its reduce");
        has(&lost, "output m is never reduced");
        let late = folded(|p| {
            let (at, _) = reduce(p);
            let segment = p.segments.remove(at);
            p.segments.push(segment);
        });
        has(&late, "m: it is held in parts where it is read, before its reduce");
        let twice = folded(|p| {
            let (at, _) = reduce(p);
            p.segments.insert(at, p.segments[at].clone());
        });
        has(&twice, "m is reduced, and not held in parts of a max there");
        let otherwise = folded(|p| {
            let (at, value) = reduce(p);
            p.segments[at] = Segment::Reduce { value, kind: Reduction::Sum };
        });
        has(&otherwise, "m is reduced, and not held in parts of a sum there");
        let otherwise = folded(|p| {
            let (_, value) = reduce(p);
            p.placements.insert(value, Placement::Parts(Reduction::Min));
        });
        has(&otherwise, "m: its parts are folded by min, and it is a max");
        let gathered = folded(|p| {
            let (at, value) = reduce(p);
            p.segments[at] = Segment::Gather { value, reason: String::new() };
        });
        has(&gathered, "m is gathered, and not split there");
        let whole = folded(|p| {
            let (_, value) = reduce(p);
            let o = p.graph.operands(value.op)[0];
            p.placements.insert(o, Placement::Whole);
        });
        has(&whole, "m: it is held in parts, and o is not split along what is folded");
        let no_fold = folded(|p| {
            let (_, value) = reduce(p);
            let o = p.graph.operands(value.op)[0];
            p.placements.insert(o, Placement::Parts(Reduction::Sum));
        });
        has(&no_fold, "o: it is held in parts, and attention is no fold");
        let early = folded(|p| {
            let (at, _) = reduce(p);
            let segment = p.segments.remove(at);
            p.segments.insert(0, segment);
        });
        has(&early, "m is reduced before it is made");
    }

    #[test]
    fn faults_of_islands_are_told() {
        let says = "o is no attention that is handed its operands";
        assert_eq!(told(|p| p.islands.clear()), [says]);
        let lost = |p: &mut Program| p.islands.values_mut().for_each(|i| i.operands.truncate(2));
        assert_eq!(told(lost), [says]);
    }
}
