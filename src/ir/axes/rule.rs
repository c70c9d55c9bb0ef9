//! The map of each operation.

use super::map::{Along, Map};
use crate::ir::graph::Graph;
use crate::ir::ids::OpId;
use crate::ir::op::{Op, Windows};
use crate::ir::types::Type;

/// The map of each operand of an operation of a graph.
pub(crate) fn maps_of(graph: &Graph, id: OpId) -> Vec<Map> {
    let operands = graph.operands(id);
    let types: Vec<&Type> = operands.iter().map(|&v| graph.ty(v)).collect();
    maps(graph.op(id), &types, graph.ty(graph.result(id)))
}

/// The map of each operand of `op`, whose operands have the types `x`; `out` is the type of its first result. What is said of
/// the first result holds for the others, as far as they have such axes.
pub(crate) fn maps(op: &Op, x: &[&Type], out: &Type) -> Vec<Map> {
    match op {
        Op::Input(_) | Op::Constant(_) | Op::Iota { .. } => vec![],
        Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast(_) | Op::Broadcast(_) => {
            x.iter().map(|t| Map::Axes(aligned(t, &out.shape).collect())).collect()
        }
        Op::Contract(c) => vec![letters(&c.lhs, &c.out), letters(&c.rhs, &c.out)],
        Op::Conv { windows, groups } => conv(windows, *groups, x),
        Op::Pool { kernel, windows, .. } => vec![Map::Axes(windowed(windows, kernel, x[0], kept(1)))],
        Op::Reduce { axes, keep, .. } => vec![reduced(axes, *keep, x[0])],
        Op::Softmax { axis } | Op::CumSum { axis, .. } => {
            vec![in_place(x[0], |a| if a == *axis { Along::Mixed { to: a } } else { kept(a) })]
        }
        Op::TopK { axis, .. } => {
            vec![in_place(x[0], |a| if a == *axis { Along::Ranked { to: a } } else { kept(a) })]
        }
        Op::Reshape(_) => vec![Map::Flat],
        Op::Permute(perm) => {
            let mut axes = vec![kept(0); perm.len()];
            perm.iter().enumerate().for_each(|(to, &a)| axes[a] = kept(to));
            vec![Map::Axes(axes)]
        }
        Op::Slice { axis, start, len, step } => {
            let whole = (*start, *step, *len) == (0, 1, x[0].shape[*axis]);
            vec![in_place(x[0], |a| match a == *axis && !whole {
                true => Along::Sliced { to: a, start: *start, step: *step },
                false => kept(a),
            })]
        }
        Op::Concat { axis } => joined(*axis, x),
        Op::Pad { low, high } => {
            let padded = in_place(x[0], |a| match (low[a], high[a]) {
                (0, 0) => kept(a),
                (offset, _) => Along::Joined { to: a, offset },
            });
            vec![padded, Map::Axes(vec![])]
        }
        Op::Gather { axis } => gather(*axis, x),
        Op::GatherNd { batch } => gather_nd(*batch, x),
        Op::ScatterNd { .. } => scatter_nd(x),
        Op::Attention(_) => x.iter().enumerate().map(|(slot, t)| attention(slot, t, out)).collect(),
        // Nothing is known of it.
        Op::Opaque(_) => vec![Map::Opaque; x.len()],
        // Its rows are summed over, of the batch entries apart from one another; nobody splits it yet.
        Op::AttentionBackward(_) => vec![Map::Opaque; x.len()],
        // Of islands and of a rank's program: they name rows by number, or hold graphs of their own.
        Op::Rows { .. }
        | Op::Chunk { .. }
        | Op::Start(..)
        | Op::Wait
        | Op::Partial(_)
        | Op::Merge { .. }
        | Op::Finish { .. }
        | Op::Region(..)
        | Op::Unshard { .. }
        | Op::AllReduce { .. }
        | Op::Call { .. } => vec![Map::Opaque; x.len()],
    }
}

fn kept(to: usize) -> Along {
    Along::Kept { to }
}

/// All of an axis goes into every element, and nothing stands in its place.
const GONE: Along = Along::Folded { to: None };

/// Each axis by its number.
fn in_place(t: &Type, along: impl FnMut(usize) -> Along) -> Map {
    Map::Axes((0..t.rank()).map(along).collect())
}

/// Broadcasting: aligned at the last axis, and an extent of 1 stands for any.
fn aligned<'a>(t: &'a Type, out: &'a [usize]) -> impl Iterator<Item = Along> + use<'a> {
    let axes = t.shape.iter().zip(out.len() - t.rank()..);
    axes.map(|(&n, to)| if n == out[to] { kept(to) } else { Along::Repeated { to } })
}

fn letters(own: &str, out: &str) -> Map {
    Map::Axes(own.chars().map(|l| out.chars().position(|o| o == l).map_or(GONE, kept)).collect())
}

fn reduced(axes: &[usize], keep: bool, t: &Type) -> Map {
    let mut left = 0;
    in_place(t, |a| {
        let folded = axes.contains(&a);
        let to = left;
        left += usize::from(keep || !folded);
        match folded {
            true => Along::Folded { to: keep.then_some(to) },
            false => kept(to),
        }
    })
}

fn joined(axis: usize, x: &[&Type]) -> Vec<Map> {
    let mut before = 0;
    let part = |t: &&Type| {
        let offset = before;
        before += t.shape[axis];
        let alone = x.len() == 1;
        in_place(t, |a| if a == axis && !alone { Along::Joined { to: a, offset } } else { kept(a) })
    };
    x.iter().map(part).collect()
}

/// Batch, channels as given, and windows.
fn windowed(windows: &Windows, kernel: &[usize], t: &Type, channels: Along) -> Vec<Along> {
    // Each window is the element at its own place.
    let pointwise =
        |i: usize| (kernel[i], windows.strides[i], windows.low[i], windows.high[i]) == (1, 1, 0, 0);
    let rest = (2..t.rank()).map(|to| if pointwise(to - 2) { kept(to) } else { Along::Windowed { to } });
    [kept(0), channels].into_iter().chain(rest).collect()
}

/// A kernel belongs to one channel of the result; in groups, which channels of x it reads depends on that one.
fn conv(windows: &Windows, groups: usize, x: &[&Type]) -> Vec<Map> {
    let channels = if groups == 1 { GONE } else { Along::Grouped { to: 1 } };
    let kernel = in_place(x[1], |a| if a == 0 { kept(1) } else { GONE });
    vec![Map::Axes(windowed(windows, &x[1].shape[2..], x[0], channels)), kernel]
}

fn gather(axis: usize, x: &[&Type]) -> Vec<Map> {
    let picked = x[1].rank();
    let data = in_place(x[0], |a| match a.cmp(&axis) {
        std::cmp::Ordering::Less => kept(a),
        std::cmp::Ordering::Equal => Along::LookedUp,
        std::cmp::Ordering::Greater => kept(a + picked - 1),
    });
    vec![data, in_place(x[1], |a| kept(axis + a))]
}

/// Extents before the tuples' own, and how long a tuple is.
fn tuples(indices: &Type) -> (usize, usize) {
    (indices.rank() - 1, indices.shape[indices.rank() - 1])
}

fn gather_nd(batch: usize, x: &[&Type]) -> Vec<Map> {
    let (tuples, depth) = tuples(x[1]);
    let data = in_place(x[0], |a| match a {
        _ if a < batch => kept(a),
        _ if a < batch + depth => Along::LookedUp,
        _ => kept(a - depth - batch + tuples),
    });
    vec![data, in_place(x[1], |a| if a < tuples { kept(a) } else { GONE })]
}

fn scatter_nd(x: &[&Type]) -> Vec<Map> {
    let (tuples, depth) = tuples(x[1]);
    let data = in_place(x[0], |a| if a < depth { Along::Written { to: a } } else { kept(a) });
    let indices = in_place(x[1], |a| if a < tuples { Along::Scattered } else { GONE });
    let updates = in_place(x[2], |a| if a < tuples { Along::Scattered } else { kept(a - tuples + depth) });
    vec![data, indices, updates]
}

/// Operand `slot`: q, k, v, then leaves and sinks, which broadcast to the scores.
fn attention(slot: usize, t: &Type, out: &Type) -> Map {
    let heads = if t.shape.get(1) == out.shape.get(1) { kept(1) } else { Along::Grouped { to: 1 } };
    Map::Axes(match slot {
        0 => vec![kept(0), kept(1), kept(2), GONE],
        1 => vec![kept(0), heads, GONE, GONE],
        2 => vec![kept(0), heads, GONE, kept(3)],
        _ => aligned(t, &out.shape).map(|along| if along.to() == Some(3) { GONE } else { along }).collect(),
    })
}
