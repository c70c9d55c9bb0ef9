//! The figures of a found attention, as the command line prints them.

use crate::find::types::{FoundAttention, Numerics};
use crate::ir::infer::attention_sizes;
use crate::ir::{Attention, DType, Factor, Graph, Op, ScoreStep, ValueId};
use crate::mask::{Fill, Mask, Term};
use serde::Serialize;

/// One entry of `find --json`; the names are the contract's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttentionRecord {
    /// The source node that computes its result.
    pub name: String,
    /// `self` or `cross`.
    pub kind: &'static str,
    /// `explicit` or `decomposed`.
    pub form: &'static str,
    /// Query heads.
    pub q_heads: usize,
    /// Key heads, not repeated.
    pub kv_heads: usize,
    /// Size of a query and key head.
    pub head_dim: usize,
    /// Size of a value head.
    pub v_head_dim: usize,
    /// Query rows.
    pub q_len: usize,
    /// Key rows, past ones included.
    pub kv_len: usize,
    /// Whether the steps are a scale, a softcap, a bias and a mask, in this order, each at most once.
    #[serde(skip)]
    pub usual: bool,
    /// The product of all constant factors on q·k; none where one is an operand.
    pub scale: Option<f64>,
    /// The steps between q·k and the softmax as text, in the model's order, leaves by their names.
    pub scores: Vec<String>,
    /// Whether no row sees a key beyond its own; the only row of a step of decoding never does.
    pub causal: bool,
    /// Position of query row 0 among the keys.
    pub query_offset: Offset,
    /// Keys before and after the row's own, −1 for unbounded.
    pub window: Option<[i64; 2]>,
    /// Softcap, 0 for none.
    pub softcap: f64,
    /// Kind of bias: `alibi`, `relative` or `tensor`.
    pub bias: Option<&'static str>,
    /// The whole mask as text.
    pub mask: String,
    /// Whether a learned logit joins the softmax.
    pub sinks: bool,
    /// Source nodes.
    pub nodes: Vec<String>,
    /// Rules that led here.
    pub rules: Vec<&'static str>,
    /// The highest class among them.
    pub numerics: &'static str,
    /// `yes`, or the reason why the ring does not split it; `not asked` of what [`find`](super::find) itself gave.
    pub ring: String,
}

/// Position of query row 0 among the keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Offset {
    /// In every batch entry.
    All(i64),
    /// In each batch entry.
    Each(Vec<i64>),
}

/// The window of a batch entry, and the position of query row 0 among its keys.
fn placed<'a>(terms: impl Iterator<Item = &'a Term>) -> (Option<[i64; 2]>, i64) {
    let (mut window, mut offset) = (None, 0);
    for t in terms {
        match *t {
            Term::Causal { offset: o } | Term::Prefix { offset: o, .. } => offset = o,
            Term::Window { left, right, offset: o } => {
                let bound = |b: Option<u64>| b.map_or(-1, |b| i64::try_from(b).unwrap_or(i64::MAX));
                window = Some([bound(left), bound(right)]);
                offset = o;
            }
            _ => {}
        }
    }
    (window, offset)
}

/// The same of a step of decoding: its row stands at the last key that it keeps.
fn stepped(mask: &Mask, entry: usize, keys: usize) -> (Option<[i64; 2]>, i64) {
    let (low, high) = mask.keys_of(entry, 0);
    let end = keys as i128 - 1;
    let (first, last) = (low.max(0), high.min(end));
    if first > last {
        return (None, end as i64);
    }
    ((first > 0).then_some([(last - first) as i64, 0]), last as i64)
}

/// The figures of an attention in the graph that `find` gave.
pub fn record(graph: &Graph, found: &FoundAttention) -> AttentionRecord {
    let plain = Attention::plain(1.0, DType::F32);
    let attention = if let Some(Op::Attention(a)) = graph.get_op(found.op) { a } else { &plain };
    let x = graph.operands(found.op);
    let sizes = match x.as_slice() {
        [q, k, v, ..] => attention_sizes(graph.ty(*q), graph.ty(*k), graph.ty(*v)).ok(),
        _ => None,
    };
    let size = |f: fn(crate::ir::AttentionSizes) -> usize| sizes.map_or(0, f);
    let added = found.added.iter().chain(&found.in_bias).flat_map(|(_, terms)| terms);
    let all = attention.scores.mask();
    let terms = all.terms.iter().chain(added).cloned().collect();
    let mask = &Mask { terms, fill: all.fill };
    let (windows, offsets): (Vec<_>, Vec<_>) = if found.is_step {
        (0..mask.entries()).map(|entry| stepped(mask, entry, size(|s| s.kv_len))).unzip()
    } else {
        mask.each_entry().map(placed).unzip()
    };
    let same = |all: &[i64]| all.iter().all(|o| *o == all[0]);
    let query_offset = if same(&offsets) { Offset::All(offsets[0]) } else { Offset::Each(offsets) };
    let window = windows[0].filter(|w| windows.iter().all(|o| o == &Some(*w)));
    let is_mask = |n: &usize| found.added.iter().any(|(mask, _)| mask == n);
    let bias = attention.scores.added().find(|n| !is_mask(n)).and_then(|b| x.get(b)).copied();
    let numerics = found.applied.iter().map(|a| a.numerics).max().unwrap_or(Numerics::Exact);
    AttentionRecord {
        name: found.name.clone(),
        kind: if found.is_self { "self" } else { "cross" },
        form: if found.explicit { "explicit" } else { "decomposed" },
        q_heads: size(|s| s.q_heads),
        kv_heads: size(|s| s.kv_heads),
        head_dim: size(|s| s.head_dim),
        v_head_dim: size(|s| s.v_head_dim),
        q_len: size(|s| s.q_len),
        kv_len: size(|s| s.kv_len),
        usual: attention.scores.is_usual(),
        scale: attention.scores.scale(),
        scores: attention.scores.steps().iter().map(|s| step_text(graph, &x, s)).collect(),
        causal: found.is_step || mask.is_causal(),
        query_offset,
        window,
        softcap: attention.scores.softcap(),
        bias: bias.map(|b| crate::find::masks::bias_kind::kind(graph, b)),
        mask: mask_text(graph, found, mask),
        sinks: attention.sinks.is_some(),
        nodes: found.nodes.clone(),
        rules: found.applied.iter().map(|a| a.rule).collect(),
        numerics: numerics.name(),
        ring: found.ring.to_string(),
    }
}

/// A term with its leaf by name.
fn term_text(graph: &Graph, x: &[ValueId], term: &Term) -> String {
    match term {
        Term::Tensor { operand } => format!("tensor({})", leaf_name(graph, x, *operand)),
        other => other.to_string(),
    }
}

fn leaf_name<'g>(graph: &'g Graph, x: &[ValueId], operand: usize) -> &'g str {
    x.get(operand).map_or("?", |&v| graph.value(v).name.as_str())
}

/// A step with its leaves by name.
fn step_text(graph: &Graph, x: &[ValueId], step: &ScoreStep) -> String {
    match step {
        ScoreStep::Factor(Factor::Leaf(n)) => format!("factor {}", leaf_name(graph, x, *n)),
        ScoreStep::Add(n) => format!("add {}", leaf_name(graph, x, *n)),
        ScoreStep::Fill(m) => {
            let terms: Vec<String> = m.terms.iter().map(|t| term_text(graph, x, t)).collect();
            format!("fill {} unless {}", m.fill, terms.join(" & "))
        }
        other => other.to_string(),
    }
}

/// The mask with its leaves by name.
fn mask_text(graph: &Graph, found: &FoundAttention, mask: &Mask) -> String {
    let x = graph.operands(found.op);
    let mut parts: Vec<String> = mask.terms.iter().map(|t| term_text(graph, &x, t)).collect();
    parts.extend(found.added.iter().map(|(n, _)| format!("added({})", leaf_name(graph, &x, *n))));
    let mut seen: Vec<String> = vec![];
    parts.retain(|p| {
        !seen.contains(p) && {
            seen.push(p.clone());
            true
        }
    });
    if parts.is_empty() {
        parts.push("none".into());
    }
    let mut text = parts.join(" & ");
    if mask.fill != Fill::NegInf {
        text.push_str(&format!(" fill {}", mask.fill));
    }
    text
}
