//! Operators that annulus carries without computing them, and that are attention by their name or hold some in a graph of theirs: a
//! near miss for each, so that nobody takes a model for split whose attention is not.
//!
//! In: a graph. Out: the near misses. They rest on names, which prove nothing; a reader can tell.

use super::region::types::label;
use super::types::Miss;
use crate::ir::{Attribute, Graph, MessageKind, Op, OpId, Opaque, Topology};

/// What is part of an attention operator's name, in lower case.
const NAMES: [&str; 3] = ["attention", "attn", "sdpa"];
/// What the graphs of a node hold, as their bytes have it, where there may be attention in them.
const INNER: [&[u8]; 2] = [b"Softmax", b"Attention"];

/// Near misses in the graph's order, each with its place.
pub(super) fn opaque(graph: &Graph, order: &Topology) -> Vec<(OpId, Miss)> {
    let live = order.order().iter().copied().filter(|&id| order.is_live(id));
    let nodes = live.filter_map(|id| match graph.op(id) {
        Op::Opaque(o) => Some((id, reason(o)?)),
        _ => None,
    });
    nodes.map(|(id, reason)| (id, Miss { at: label(graph, id), reason })).collect()
}

/// What is said of an operator, if it may be attention.
fn reason(o: &Opaque) -> Option<String> {
    let operator = o.operator();
    if is_attention(o) {
        let why = match o.why.as_str() {
            "" => "annulus does not know it".to_owned(),
            why => format!("annulus does not know it in this form ({why})"),
        };
        return Some(format!(
            "operator {operator} is carried as opaque: its attention is not split, and whoever computes it needs all rows; {why}: \
             export the attention written out, or as the Attention operator of opset 23"
        ));
    }
    let inner = o.attributes.iter().any(|(_, value)| match value {
        Attribute::Encoded(MessageKind::Graph | MessageKind::Graphs, graphs) => {
            let bytes = graphs.iter().filter_map(|g| g.bytes.as_deref());
            bytes.into_iter().any(|bytes| INNER.iter().any(|word| holds(bytes, word)))
        }
        _ => false,
    });
    inner.then(|| {
        format!(
            "operator {operator} is carried as opaque: its graphs hold a softmax or an attention, which is not split; write the \
             branch or the body that is taken into the model itself"
        )
    })
}

/// Whether an operator is attention by its name.
pub(super) fn is_attention(o: &Opaque) -> bool {
    let name = o.name.to_lowercase();
    NAMES.iter().any(|n| name.contains(n))
}

/// Whether bytes hold a word.
fn holds(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|w| w == word)
}
