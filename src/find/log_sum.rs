//! The logarithm of a row's sum of exponentials, which something reads beside the softmax: the attention's second result.
//!
//! In: an attention that took the place of a region, and what stands where its logarithm is read. Out: its second
//! result in that place, or why that would be another number.

use super::axes::relayout::emit;
use super::masks::types::Context;
use super::recast::operands::cast;
use super::recast::types::Log;
use super::region::types::Region;
use super::roles::roles;
use crate::ir::{Binary, Graph, Op, OpId, Unary, ValueId};

/// Most operations between a softmax and the product before it.
const DEEPEST: usize = 64;

/// Puts the second result of an attention where it is read.
///
/// # Errors
/// Why the attention's logarithm is not that of the graph's scores.
pub(crate) fn attach(cx: &mut Context<'_>, op: OpId, region: &Region, log: &Log) -> Result<(), String> {
    let Op::Attention(a) = cx.graph.op(op) else { return Err("there is no attention".into()) };
    let scores = cx.graph.operands(log.anchor)[0];
    if a.sinks.is_some() {
        return Err(
            "the logarithm of its sum of exponentials is read, which would have the sinks in it".into()
        );
    }
    if let Some(v) = shifted(cx.graph, scores) {
        return Err(format!(
            "the logarithm of its sum of exponentials is read, which {} shifts, whereas a softmax is the same with it and without",
            cx.graph.value(v).name
        ));
    }
    let roles = roles(region);
    let [_, result] = cx.graph.results(op)[..] else {
        return Err("the logarithm of its sum of exponentials is read, which it does not give".into());
    };
    let own = vec![roles.batch, roles.heads, roles.rows];
    let keys = &region.keys;
    let rows = region.softmax_axes.iter().map(|a| a.iter().filter(|d| !keys.contains(d)).copied().collect());
    let name = cx.graph.value(log.stand_in).name.clone();
    let new = emit(cx.graph, &region.space, result, &own, &rows.collect(), &name)?;
    let new = cast(cx.graph, new, cx.graph.ty(log.stand_in).dtype, &name)?;
    cx.graph.replace(log.stand_in, new).map_err(|e| e.to_string())?;
    Ok(())
}

/// What is added to scores and is the same for all keys of a row, or may be: an attention need not keep it.
fn shifted(g: &Graph, scores: ValueId) -> Option<ValueId> {
    let mut stack = vec![scores];
    let mut seen = vec![];
    while let Some(v) = stack.pop() {
        if seen.contains(&v) {
            continue;
        }
        if seen.len() > DEEPEST {
            return Some(v);
        }
        seen.push(v);
        let x = g.operands(v.op);
        match g.op(v.op) {
            Op::Contract(_) => {}
            Op::Unary(Unary::Neg | Unary::Tanh)
            | Op::Cast(_)
            | Op::Reshape(_)
            | Op::Permute(_)
            | Op::Select
            | Op::Binary(Binary::Mul | Binary::Div | Binary::Max) => {
                stack.extend(x.into_iter().filter(|o| of_product(g, *o)));
            }
            Op::Binary(Binary::Add | Binary::Sub) => {
                for o in x {
                    if of_product(g, o) {
                        stack.push(o);
                    } else if g.ty(o).shape.last() != g.ty(v).shape.last() {
                        return Some(o);
                    }
                }
            }
            _ => return Some(v),
        }
    }
    None
}

/// Whether a value has as many axes as scores and comes of a product.
fn of_product(g: &Graph, v: ValueId) -> bool {
    let mut stack = vec![v];
    let mut seen: Vec<OpId> = vec![];
    while let Some(v) = stack.pop() {
        match g.op(v.op) {
            Op::Contract(_) => return true,
            op if super::region::types::passes(op) && seen.len() < DEEPEST && !seen.contains(&v.op) => {
                seen.push(v.op);
                stack.extend(g.operands(v.op));
            }
            _ => {}
        }
    }
    false
}
