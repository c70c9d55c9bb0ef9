//! How much arithmetic an operation is, by one counting rule for everything that reports or estimates.
//!
//! In: an operation and the types of its operands and results. Out: a number of floating-point operations; it saturates
//! at 2^64 − 1 and never wraps. It depends on shapes alone, never on values, masks or the device.
//!
//! The rule:
//!
//! * **Contraction**: 2 for each element of the product of all axes, summed or not: 2·M·N·K of a matrix product.
//! * **Attention**, whole or one pair of chunks: 2·(Dk + Dv) for each batch entry, query head, query row and key row, as
//!   if no pair were masked: 4·B·Hq·Sq·Sk·D where Dk = Dv = D. Softmax is not counted, as in the literature.
//! * **Elementwise** (functions of one or two elements, choice, conversion): 1 for each element of the result.
//! * **Folds** (reduction, running sum, the k largest): 1 for each element of the operand. **Softmax** is five such passes:
//!   maximum, difference, exponential, sum, quotient.
//! * **Merge**: 3 for each element of the result o, two factors and a sum. **Finish**: 1 for each element of out.
//! * **Movement** (shapes, slices, indices, transfers, constants): 0.
//! * **Region**: what its graph is.

use super::{Graph, Op, Type};

/// Floating-point operations of one operation on operands and results of these types.
pub fn flops(op: &Op, operands: &[&Type], results: &[&Type]) -> u64 {
    let elements = |t: Option<&&Type>| t.map_or(0, |t| product(&t.shape));
    let result = || elements(results.first());
    let operand = || elements(operands.first());
    match op {
        Op::Contract(c) => {
            let (Some(a), Some(b)) = (operands.first(), operands.get(1)) else { return 0 };
            let own = c.rhs.chars().zip(&b.shape).filter(|(l, _)| !c.lhs.contains(*l)).map(|(_, &d)| d);
            let all: Vec<usize> = a.shape.iter().copied().chain(own).collect();
            product(&all).saturating_mul(2)
        }
        // o (…, Sq, Dv) and q (…, Sq, Dk), each row against every key.
        Op::Attention(_) | Op::Partial(_) => {
            let keys = operands.get(1).and_then(|k| k.shape.get(2)).map_or(0, |&n| n as u64);
            operand().saturating_add(result()).saturating_mul(keys).saturating_mul(2)
        }
        Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast(_) | Op::Finish { .. } => result(),
        Op::Reduce { .. } | Op::CumSum { .. } | Op::TopK { .. } => operand(),
        Op::Softmax { .. } => operand().saturating_mul(5),
        Op::Merge { .. } => result().saturating_mul(3),
        Op::Region(_, graph) => total(graph, |_| true),
        Op::Input(_)
        | Op::Constant(_)
        | Op::Iota { .. }
        | Op::Reshape(_)
        | Op::Permute(_)
        | Op::Broadcast(_)
        | Op::Slice { .. }
        | Op::Rows { .. }
        | Op::Concat { .. }
        | Op::Pad { .. }
        | Op::Gather { .. }
        | Op::GatherNd { .. }
        | Op::ScatterNd
        | Op::Chunk { .. }
        | Op::Start(..)
        | Op::Wait
        | Op::Unshard { .. } => 0,
    }
}

/// Floating-point operations of a graph beside attention: attention nodes, islands and their parts are left out, at any
/// depth.
pub fn graph_flops(graph: &Graph) -> u64 {
    use super::RegionKind::Island;
    total(graph, |op| {
        !matches!(
            op,
            Op::Attention(_)
                | Op::Partial(_)
                | Op::Merge { .. }
                | Op::Finish { .. }
                | Op::Region(Island { .. }, _)
        )
    })
}

/// The sum over the operations that count, regions opened on a stack of their own.
fn total(graph: &Graph, counts: impl Fn(&Op) -> bool) -> u64 {
    let mut sum = 0u64;
    let mut open = vec![graph];
    while let Some(graph) = open.pop() {
        for id in graph.ops() {
            let op = graph.op(id);
            match op {
                _ if !counts(op) => {}
                Op::Region(_, inner) => open.push(inner),
                _ => {
                    let (operands, results) = (graph.operands(id), graph.results(id));
                    let operands: Vec<&Type> = operands.into_iter().map(|v| graph.ty(v)).collect();
                    let results: Vec<&Type> = results.into_iter().map(|v| graph.ty(v)).collect();
                    sum = sum.saturating_add(flops(op, &operands, &results));
                }
            }
        }
    }
    sum
}

fn product(shape: &[usize]) -> u64 {
    if shape.contains(&0) { 0 } else { shape.iter().fold(1, |n, &d| n.saturating_mul(d as u64)) }
}
