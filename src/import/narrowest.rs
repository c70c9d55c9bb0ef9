//! The narrowest floating type in which an output is computed.
//!
//! A model may be f16 inside and f32 at its outputs, as exporters write it by casts at both ends. What it gives is then as near to what
//! is exact as f16 is, and judged so.

use crate::ir::{DType, Graph, Op, Topology, ValueId};
use std::collections::HashSet;

/// The narrowest floating type that rounds something on a path of floating values from an input to `output`; the output's own if none
/// is narrower. What only moves elements rounds nothing, nor does a conversion to a wider type.
pub(super) fn narrowest(graph: &Graph, topology: &Topology, output: ValueId) -> DType {
    let own = graph.ty(output).dtype;
    if !own.is_float() {
        return own;
    }
    let mut least = own;
    let mut stack = vec![output];
    let mut seen: HashSet<ValueId> = HashSet::from([output]);
    while let Some(v) = stack.pop() {
        let ty = graph.ty(v);
        let operands = graph.operands(v.op);
        if digits(ty.dtype) < digits(least) && rounds(graph, v, &operands) {
            least = ty.dtype;
        }
        let follows = |v: &ValueId| graph.ty(*v).dtype.is_float() && topology.depends_on_input(v.op);
        for x in operands.into_iter().filter(follows) {
            if seen.insert(x) {
                stack.push(x);
            }
        }
    }
    least
}

/// Binary digits of a number.
fn digits(dtype: DType) -> u32 {
    match dtype {
        DType::F64 => 53,
        DType::F32 => 24,
        DType::F16 => 11,
        DType::BF16 => 8,
        DType::I64 | DType::I32 | DType::Bool => u32::MAX,
    }
}

/// Whether an operation rounds its result to its type.
fn rounds(graph: &Graph, v: ValueId, operands: &[ValueId]) -> bool {
    match graph.op(v.op) {
        Op::Cast(to) => operands.first().is_some_and(|&x| !graph.ty(x).dtype.is_exact_in(*to)),
        Op::Input(_)
        | Op::Constant(_)
        | Op::Reshape(_)
        | Op::Permute(_)
        | Op::Broadcast(_)
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Pad { .. }
        | Op::Gather { .. }
        | Op::GatherNd { .. }
        | Op::ScatterNd { how: None }
        | Op::Select => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::parse;

    fn of(body: &str) -> DType {
        let text = format!(
            "graph \"g\" {{\n  input %x: f32[4]\n  input %h: f16[4]\n  const %w: f16[4] = [1, 2, 3, 4]\n  {}\n}}",
            body.replace("; ", "\n  ")
        );
        let graph = parse(&text).unwrap();
        narrowest(&graph, &Topology::new(&graph), graph.outputs()[0].value)
    }

    #[test]
    fn what_rounds_on_the_way_decides() {
        for (body, want) in [
            ("%y: f32[4] = neg %x; output \"y\" = %y", DType::F32),
            // Half inside, wide at both ends.
            (
                "%a: f16[4] = cast %x; %b: f16[4] = neg %a; %y: f32[4] = cast %b; output \"y\" = %y",
                DType::F16,
            ),
            ("%a: bf16[4] = cast %x; %y: f32[4] = cast %a; output \"y\" = %y", DType::BF16),
            // Halves that are widened before anything is computed: an input, and a weight.
            ("%a: f32[4] = cast %h; %y: f32[4] = neg %a; output \"y\" = %y", DType::F32),
            ("%a: f32[4] = cast %w; %y: f32[4] = mul %x, %a; output \"y\" = %y", DType::F32),
            // A weight that is computed in halves is the same whoever computes it.
            (
                "%a: f16[4] = neg %w; %b: f32[4] = cast %a; %y: f32[4] = mul %x, %b; output \"y\" = %y",
                DType::F32,
            ),
            // Only moved.
            ("%a: f16[2,2] = reshape %h; %b: f32[2,2] = cast %a; output \"y\" = %b", DType::F32),
            // Beside the path: of truth values and of another output.
            (
                "%a: f16[4] = neg %h; %c: bool[4] = gt %a, %w; %y: f32[4] = select %c, %x, %x; output \"y\" = %y",
                DType::F32,
            ),
            ("%a: f16[4] = neg %h; %y: f32[4] = neg %x; output \"y\" = %y; output \"a\" = %a", DType::F32),
            ("%y: f16[4] = neg %h; output \"y\" = %y", DType::F16),
            ("%c: bool[4] = gt %h, %w; output \"y\" = %c", DType::Bool),
        ] {
            assert_eq!(of(body), want, "{body}");
        }
    }
}
