//! Dropout that is asked for: exporters leave that of attention out without a word, so that whoever trains says it.
//!
//! In: a graph whose attentions were found, a part and a seed. Out: the same graph in which every one of them drops weights that had no
//! dropout of its own. Invariants: the n-th attention has the n-th seed, so that no two drop alike; nothing else changes.

use super::types::{Applied, AskedDropout, Found, Numerics};
use crate::ir::{Attention, Data, Dropout, Op, Tensor};

/// The name of the note on each attention that got it.
const RULE: &str = "asked-dropout";

/// Gives it to every attention that was found and has none.
pub(super) fn drop_weights(found: &mut Found, asked: AskedDropout) {
    let graph = &mut found.graph;
    for (n, attention) in found.attentions.iter_mut().enumerate() {
        let Op::Attention(a) = graph.op(attention.op) else { continue };
        if a.dropout.is_some() {
            continue;
        }
        let a = a.clone();
        let seed = asked.seed.wrapping_add(i64::try_from(n).unwrap_or(i64::MAX));
        let Some(seed) = Tensor::new([], Data::I64(vec![seed].into())) else { continue };
        let seed = graph.constant("dropout_seed", seed);
        let mut operands = graph.operands(attention.op);
        let at = a.sinks.unwrap_or(operands.len());
        operands.insert(at, seed);
        let dropout = Some(Dropout::new(asked.ratio, at));
        let new = Attention { dropout, sinks: a.sinks.map(|sinks| sinks + 1), ..*a };
        let old = graph.results(attention.op);
        let name = graph.value(old[0]).name.clone();
        let source = graph.source(attention.op).to_owned();
        let Ok(op) = graph.add(Op::Attention(Box::new(new)), &operands, &name, &source) else { continue };
        let replaced =
            old.into_iter().zip(graph.results(op)).all(|(old, new)| graph.replace(old, new).is_ok());
        debug_assert!(replaced, "an attention with dropout gives what it gave");
        attention.op = op;
        let what = format!("{} of its weights are dropped, as was asked for", asked.ratio);
        // It is what was asked for: against that nothing is changed.
        attention.applied.push(Applied::new(RULE, what, Numerics::Exact));
    }
    graph.remove_dead();
}
