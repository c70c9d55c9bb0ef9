//! How much arithmetic an operation is, by one counting rule for everything that reports or estimates.
//!
//! In: an operation and the types of its operands and results. Out: a number of floating-point operations; it saturates
//! at 2^64 − 1 and never wraps. It depends on shapes alone, never on values, masks or the device.
//!
//! The rule:
//!
//! * **Contraction**: 2 for each element of the product of all axes, summed or not: 2·M·N·K of a matrix product.
//! * **Convolution**: the same, 2 for each tap of each element of the result, whether or not it lies in the padding.
//! * **Gradients of attention**: 2·(3·Dk + 2·Dv) for each of them: the scores again, and what each of q, k, v, and the weights has as its gradient.
//! * **Attention**, whole or one pair of chunks: 2·(Dk + Dv) for each batch entry, query head, query row and key row, as
//!   if no pair were masked: 4·B·Hq·Sq·Sk·D where Dk = Dv = D. Softmax is not counted, as in the literature.
//! * **Elementwise** (functions of one or two elements, choice, conversion): 1 for each element of the result.
//! * **Folds** (reduction, running sum, the k largest): 1 for each element of the operand; **pooling**: 1 for each tap. **Softmax** is five such passes:
//!   maximum, difference, exponential, sum, quotient.
//! * **Merge**: 3 for each element of the result o, two factors and a sum. **Finish**: 1 for each element of out.
//! * **Scatter** that combines: 1 for each element of the updates.
//! * **Movement** (shapes, slices, indices, transfers, constants): 0.
//! * **Opaque** operators: 0, for nobody knows; a report that has any says so.
//! * **Region**: what its graph is.

use super::{Graph, Op, OpId, Type};

/// Floating-point operations of one operation on operands and results of these types.
pub(crate) fn flops(op: &Op, operands: &[&Type], results: &[&Type]) -> u64 {
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
        // Each element of the result is a sum over one row of kernels.
        Op::Conv { .. } => {
            let taps = operands.get(1).and_then(|w| w.shape.get(1..)).map_or(0, product);
            result().saturating_mul(taps).saturating_mul(2)
        }
        Op::Pool { kernel, .. } => result().saturating_mul(product(kernel)),
        // o (…, Sq, Dv) and q (…, Sq, Dk), each row against every key.
        Op::Attention(_) | Op::Partial(_) => {
            let keys = operands.get(1).and_then(|k| k.shape.get(2)).map_or(0, |&n| n as u64);
            operand().saturating_add(result()).saturating_mul(keys).saturating_mul(2)
        }
        // Scores, dq and dk by Dk, and dout·v and dv by Dv, of each row against every key.
        Op::AttentionBackward(_) => {
            let keys = operands.get(1).and_then(|k| k.shape.get(2)).map_or(0, |&n| n as u64);
            let values = operands.get(2).and_then(|v| v.shape.get(3)).map_or(0, |&n| n as u64);
            let rows = operands
                .first()
                .map_or(0, |q| q.shape.iter().take(3).fold(1u64, |n, &e| n.saturating_mul(e as u64)));
            let products =
                operand().saturating_mul(3).saturating_add(rows.saturating_mul(values).saturating_mul(2));
            products.saturating_mul(keys).saturating_mul(2)
        }
        Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast(_) | Op::Finish { .. } => result(),
        Op::Reduce { .. } | Op::CumSum { .. } | Op::TopK { .. } => operand(),
        Op::ScatterNd { how: Some(_) } => elements(operands.get(2)),
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
        | Op::ScatterNd { how: None }
        | Op::Chunk { .. }
        | Op::Start(..)
        | Op::Wait
        | Op::Unshard { .. }
        | Op::Opaque(_)
        | Op::AllReduce { .. }
        | Op::Call { .. } => 0,
    }
}

/// Floating-point operations of a graph beside attention: attention nodes, islands and their parts are left out, at any
/// depth.
pub(crate) fn graph_flops(graph: &Graph) -> u64 {
    use super::RegionKind::Island;
    total(graph, |op| {
        !matches!(
            op,
            Op::Attention(_)
                | Op::AttentionBackward(_)
                | Op::Partial(_)
                | Op::Merge { .. }
                | Op::Finish { .. }
                | Op::Region(Island { .. }, _)
        )
    })
}

/// Floating-point operations of the attention nodes of a graph itself, not of its regions, for which `counts` holds.
pub(crate) fn attention_flops(graph: &Graph, counts: impl Fn(OpId) -> bool) -> u64 {
    let attentions = graph
        .ops()
        .into_iter()
        .filter(|&id| matches!(graph.op(id), Op::Attention(_) | Op::AttentionBackward(_)));
    attentions.filter(|&id| counts(id)).fold(0, |sum: u64, id| sum.saturating_add(of(graph, id)))
}

/// Floating-point operations of one operation of a graph.
fn of(graph: &Graph, id: OpId) -> u64 {
    let (operands, results) = (graph.operands(id), graph.results(id));
    let operands: Vec<&Type> = operands.into_iter().map(|v| graph.ty(v)).collect();
    let results: Vec<&Type> = results.into_iter().map(|v| graph.ty(v)).collect();
    flops(graph.op(id), &operands, &results)
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
                _ => sum = sum.saturating_add(of(graph, id)),
            }
        }
    }
    sum
}

fn product(shape: &[usize]) -> u64 {
    if shape.contains(&0) { 0 } else { shape.iter().fold(1, |n, &d| n.saturating_mul(d as u64)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::parse;

    /// Operation counts of a graph's operations, in order, those that are 0 left out.
    fn counts(lines: &str) -> Vec<(&'static str, u64)> {
        let g = parse(&format!("graph \"g\" {{\n{lines}\n}}\n")).unwrap_or_else(|e| panic!("{e}"));
        let count = |id| {
            let types = |v: Vec<_>| v.into_iter().map(|v| g.ty(v)).collect::<Vec<_>>();
            (g.op(id).name(), flops(g.op(id), &types(g.operands(id)), &types(g.results(id))))
        };
        g.ops().into_iter().map(count).filter(|(_, n)| *n > 0).collect()
    }

    #[test]
    fn a_product_is_two_for_each_term() {
        let lines = "input %a: f32[2,5,7]\ninput %b: f32[2,7,11]\ninput %c: f32[3]\n\
            %y: f32[2,5,11] = contract %a, %b {bmk,bkn->bmn}\n\
            %transposed: f32[11,2,5] = contract %b, %a {bkn,bmk->nbm}\n\
            %outer: f32[3,2,5,7] = contract %a, %c {bmk,x->xbmk}";
        let all = 2 * 2 * 5 * 7 * 11;
        assert_eq!(counts(lines), [("contract", all), ("contract", all), ("contract", 2 * 2 * 5 * 7 * 3)]);
    }

    #[test]
    fn attention_counts_every_pair_whatever_the_mask() {
        let lines = "input %q: f32[2,6,5,8]\ninput %k: f32[2,3,7,8]\ninput %v: f32[2,3,7,8]\ninput %w: f32[2,3,7,4]\n\
            input %kv: f32[2,3,7,12]\n\
            %a: f32[2,6,5,8] = attention %q, %k, %v {scores=[factor 1.0 | fill -inf unless causal(0)], acc=f32, empty=zero}\n\
            %b: f32[2,6,5,4] = attention %q, %k, %w {scores=[factor 1.0], acc=f32, empty=zero}\n\
            %o, %m, %l: f32[2,6,5,4], f32[2,6,5], f32[2,6,5] = attn_partial %q, %kv {q=[0:5], k=[0:7], tile=partial, \
              dv=4, scores=[factor 1.0 | fill -inf unless causal(0)], acc=f32, empty=zero}\n\
            %o2, %m2, %l2: f32[2,6,5,4], f32[2,6,5], f32[2,6,5] = merge %o, %m, %l, %o, %m, %l {a=[0:5], b=[0:5]}\n\
            %out: f16[2,6,5,4] = finish %o2, %m2, %l2 {of=[0:5], rows=[0:5], empty=zero}";
        let pairs = 2 * 6 * 5 * 7;
        let o = 2 * 6 * 5 * 4;
        assert_eq!(
            counts(lines),
            [
                ("attention", 4 * pairs * 8),
                ("attention", 2 * pairs * (8 + 4)),
                ("attn_partial", 2 * pairs * (8 + 4)),
                ("merge", 3 * o),
                ("finish", o),
            ]
        );
    }

    #[test]
    fn elements_count_once_and_movement_nothing() {
        let lines = "input %x: f32[2,3,4]\ninput %y: f32[4]\n%add: f32[2,3,4] = add %x, %y\n%neg: f32[4] = neg %y\n\
            %cast: f16[4] = cast %y\n%p: bool[4] = isnan %y\n%s: f32[2,3,4] = select %p, %x, %y\n\
            %sum: f32[2] = reduce %x {sum, axes=[1,2]}\n%soft: f32[2,3,4] = softmax %x {axis=2}\n\
            %cum: f32[2,3,4] = cumsum %x {axis=0}\n%v, %i: f32[2,3,1], i64[2,3,1] = topk %x {axis=2, k=1, largest}\n\
            %r: f32[24] = reshape %x\n%c: f32[48] = concat %r, %r {axis=0}\n%t: f32[4,3,2] = permute %x {perm=[2,1,0]}";
        let want = [
            ("add", 24),
            ("neg", 4),
            ("cast", 4),
            ("isnan", 4),
            ("select", 24),
            ("reduce", 24),
            ("softmax", 120),
            ("cumsum", 24),
            ("topk", 24),
        ];
        assert_eq!(counts(lines), want);
    }

    #[test]
    fn a_graph_is_its_operations_beside_attention_at_any_depth() {
        let text = "graph \"g\" {\ninput %x: f32[1,1,2,3]\n\
            %a: f32[1,1,2,3] = attention %x, %x, %x {scores=[factor 1.0], acc=f32, empty=zero}\n\
            %b: f32[1,1,2,3] = segment %a graph \"s\" {\ninput %x: f32[1,1,2,3]\n\
              %y: f32[1,1,2,3] = segment %x graph \"t\" {\ninput %x: f32[1,1,2,3]\n%y: f32[1,1,2,3] = neg %x\noutput \"y\" = %y\n}\n\
              %z: f32[1,1,2,3] = exp %y\noutput \"z\" = %z\n}\n\
            %c: f32[1,1,2,3] = island %b {strategy=ring, layout=zigzag} graph \"i\" {\ninput %x: f32[1,1,2,3]\n\
              %y: f32[1,1,2,3] = neg %x\noutput \"y\" = %y\n}\noutput \"c\" = %c\n}\n";
        let g = parse(text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(graph_flops(&g), 12);
        assert_eq!(graph_flops(&Graph::new("")), 0);
    }

    #[test]
    fn counts_saturate_and_empty_tensors_are_free() {
        let lines = "input %a: f32[1073741824,1,1,512]\ninput %b: f32[1073741824,1,512,1]\ninput %none: f32[0,512]\n\
            input %d: f32[512,9]\n%y: f32[1073741824,1,1,1] = contract %a, %b {bhmk,bhkn->bhmn}\n\
            %z: f32[0,9] = contract %none, %d {mk,kn->mn}";
        assert_eq!(counts(lines), [("contract", 2 << 39)]);
        let huge = Type::new(crate::ir::DType::F32, [1 << 40]);
        let axes = |s: &str| s.to_owned();
        let outer = Op::Contract(crate::ir::Contract { lhs: axes("a"), rhs: axes("b"), out: axes("ab") });
        assert_eq!(flops(&outer, &[&huge, &huge], &[&huge]), u64::MAX);
    }
}
