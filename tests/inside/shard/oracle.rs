//! An independent way to run a program: every rank's local graphs by `eval`, in lockstep; an island as the whole attention on
//! gathered rows; rows picked and put together element by element from the layout alone.

use annulus::eval::{Precision, apply, eval};
use annulus::ir::verify::verify;
use annulus::ir::{Binary, Data, Op, Reduction, Tensor, ValueId};
use annulus::layout::Progression;
use annulus::shard::{Placement, Program, Segment, Sharding, local_graph};
use std::collections::{BTreeMap, BTreeSet};

/// For each element of rank `rank`'s part, in order, its place in the whole.
fn places(whole: &[usize], s: &Sharding, rows: &[Progression]) -> Vec<usize> {
    let extent = whole[s.axis];
    let length = extent / (s.outer * s.inner);
    let before: usize = whole[..s.axis].iter().product();
    let after: usize = whole[s.axis + 1..].iter().product();
    let mut out = Vec::new();
    for b in 0..before * s.outer {
        for row in rows.iter().flat_map(|p| p.rows()) {
            for i in 0..s.inner * after {
                out.push((b * length + row) * s.inner * after + i);
            }
        }
    }
    out
}

fn from_bytes(like: &Tensor, shape: Vec<usize>, bytes: &[u8]) -> Tensor {
    Tensor::new(shape, Data::from_le_bytes(like.dtype(), bytes).unwrap()).unwrap()
}

/// A rank's rows of a whole tensor.
pub(crate) fn cut(program: &Program, x: &Tensor, s: &Sharding, rank: usize) -> Tensor {
    let rows = &program.layouts[s.layout].rows[rank];
    let size = x.dtype().bytes();
    let bytes = x.data().to_le_bytes();
    let picked: Vec<u8> = places(x.shape(), s, rows)
        .into_iter()
        .flat_map(|p| bytes[p * size..(p + 1) * size].to_vec())
        .collect();
    let mut shape = x.shape().to_vec();
    shape[s.axis] = s.outer * s.inner * rows.iter().map(|p| p.len).sum::<usize>();
    from_bytes(x, shape, &picked)
}

/// All ranks' rows, put together.
pub(crate) fn join(program: &Program, parts: &[Tensor], s: &Sharding) -> Tensor {
    let layout = &program.layouts[s.layout];
    let mut shape = parts[0].shape().to_vec();
    shape[s.axis] = s.outer * s.inner * layout.length;
    let size = parts[0].dtype().bytes();
    let mut bytes = vec![0u8; shape.iter().product::<usize>() * size];
    for (part, rows) in parts.iter().zip(&layout.rows) {
        let from = part.data().to_le_bytes();
        let to = places(&shape, s, rows);
        assert_eq!(to.len() * size, from.len(), "a part has not the rows of its rank");
        for (i, p) in to.into_iter().enumerate() {
            bytes[p * size..(p + 1) * size].copy_from_slice(&from[i * size..(i + 1) * size]);
        }
    }
    from_bytes(&parts[0], shape, &bytes)
}

/// Whole outputs of the program on whole inputs.
pub(crate) fn run(program: &Program, inputs: &[Tensor]) -> Vec<Tensor> {
    covered_once(program);
    let graph = &program.graph;
    let ranks = program.ranks;
    let mut held: BTreeMap<ValueId, Vec<Tensor>> = BTreeMap::new();
    for v in graph.ops().iter().flat_map(|&op| graph.results(op)) {
        if let Some(c) = graph.as_constant(v) {
            held.insert(v, vec![c.data.as_deref().unwrap().clone(); ranks]);
        }
    }
    for (v, x) in graph.inputs().into_iter().zip(inputs) {
        // By rows where the host hands rows.
        let own = |rank| match program.placements.get(&v) {
            Some(Placement::Sharded(s)) => cut(program, x, s, rank),
            _ => x.clone(),
        };
        held.insert(v, (0..ranks).map(own).collect());
    }
    for (at, segment) in program.segments.iter().enumerate() {
        match segment {
            Segment::Local(_) => {
                let mut made: BTreeMap<ValueId, Vec<Tensor>> = BTreeMap::new();
                #[allow(clippy::needless_range_loop)] // the rank is not only an index
                for rank in 0..ranks {
                    let local = local_graph(program, at, rank).unwrap();
                    verify(&local.graph).unwrap();
                    let own: Vec<Tensor> = local.inputs.iter().map(|v| held[v][rank].clone()).collect();
                    let out = eval(&local.graph, &own, Precision::Declared)
                        .unwrap_or_else(|e| panic!("segment {at}, rank {rank}: {e}"));
                    for (v, x) in local.outputs.into_iter().zip(out) {
                        made.entry(v).or_default().push(x);
                    }
                }
                held.extend(made);
            }
            Segment::Gather { value, .. } => {
                let Placement::Sharded(s) = program.held(*value, at) else { panic!("gathers a whole value") };
                let all = join(program, &held[value], s);
                held.insert(*value, vec![all; ranks]);
            }
            Segment::Reduce { value, kind } => {
                assert_eq!(
                    *program.held(*value, at),
                    Placement::Parts(*kind),
                    "reduces what is held in parts"
                );
                let dtype = graph.ty(*value).dtype;
                let two = match kind {
                    Reduction::Sum => Binary::Add,
                    Reduction::Max => Binary::Max,
                    Reduction::Min => Binary::Min,
                    other => panic!("parts are not folded by {}", other.name()),
                };
                let of = |op, x: &[Tensor]| apply(&op, x, Precision::Declared).unwrap().remove(0);
                let mut parts = held[value].iter().cloned();
                let first = parts.next().unwrap();
                let whole = parts.fold(first, |a, b| of(Op::Binary(two), &[a, b]));
                held.insert(*value, vec![of(Op::Cast(dtype), &[whole]); ranks]);
            }
            Segment::Island(op) => {
                let island = &program.islands[op];
                let operands: Vec<Tensor> = graph
                    .operands(*op)
                    .into_iter()
                    .zip(&island.operands)
                    .map(|(v, handed)| match (handed, program.held(v, at)) {
                        (Placement::Sharded(s), Placement::Whole) => {
                            let parts: Vec<Tensor> =
                                (0..ranks).map(|r| cut(program, &held[&v][r], s, r)).collect();
                            join(program, &parts, s)
                        }
                        (Placement::Sharded(s), have) => {
                            assert_eq!(have, handed, "rows are held otherwise than the island wants them");
                            join(program, &held[&v], s)
                        }
                        (Placement::Parts(_), _) => panic!("an island is handed parts"),
                        (Placement::Whole, have) => {
                            assert_eq!(*have, Placement::Whole);
                            agreed(&held[&v])
                        }
                    })
                    .collect();
                let out = apply(graph.op(*op), &operands, Precision::Declared).unwrap();
                for (v, x) in graph.results(*op).into_iter().zip(out) {
                    let Placement::Sharded(s) = &program.placements[&v] else {
                        panic!("an island gives rows")
                    };
                    held.insert(v, (0..ranks).map(|r| cut(program, &x, s, r)).collect());
                }
            }
        }
    }
    let end = program.segments.len();
    let whole = |v: ValueId| match program.held(v, end) {
        Placement::Parts(_) => panic!("an output is held in parts"),
        Placement::Whole => agreed(&held[&v]),
        Placement::Sharded(s) => join(program, &held[&v], s),
    };
    graph.outputs().iter().map(|o| whole(o.value)).collect()
}

/// A whole value must be the same on every rank.
fn agreed(copies: &[Tensor]) -> Tensor {
    assert!(copies.iter().all(|x| x == &copies[0]), "ranks differ in a whole value");
    copies[0].clone()
}

/// Every live operation that computes stands in one segment.
fn covered_once(program: &Program) {
    let graph = &program.graph;
    let mut live: BTreeSet<_> = BTreeSet::new();
    let mut stack: Vec<_> = graph.outputs().iter().map(|o| o.value.op).collect();
    while let Some(op) = stack.pop() {
        if live.insert(op) {
            stack.extend(graph.operands(op).into_iter().map(|v| v.op));
        }
    }
    let given = |op: &_| matches!(graph.op(*op), Op::Input(_) | Op::Constant(_));
    let mut want: Vec<_> = live.into_iter().filter(|op| !given(op)).collect();
    let mut have: Vec<_> = program
        .segments
        .iter()
        .flat_map(|s| match s {
            Segment::Local(ops) => ops.clone(),
            Segment::Island(op) => vec![*op],
            Segment::Gather { .. } | Segment::Reduce { .. } => vec![],
        })
        .collect();
    want.sort();
    have.sort();
    assert_eq!(want, have, "each live operation stands in one segment");
    let alternate = program.segments.windows(2).all(|w| {
        !matches!(w, [Segment::Local(_), Segment::Local(_)])
            && !matches!(w, [Segment::Local(ops), _] if ops.is_empty())
    });
    assert!(alternate, "local segments are joined and not empty");
}

/// Largest |a − b| / (1 + |b|); equal infinities and NaN in the same place agree.
pub(crate) fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.ty(), b.ty());
    let off = |(x, y): (f64, f64)| {
        if x == y || (x.is_nan() && y.is_nan()) { 0.0 } else { (x - y).abs() / (1.0 + y.abs()) }
    };
    let worst = a.to_f64().into_iter().zip(b.to_f64()).map(off);
    worst.fold(0.0, |m, d| if d.is_nan() { f64::INFINITY } else { m.max(d) })
}
