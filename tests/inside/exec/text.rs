//! A case as text: its graph with the tensors as constants, and in the first line how it is split. What a random test finds
//! is printed so, and stands as a file in `tests/inside/exec/found/` from then on.

use super::case::Case;
use super::node;
use annulus::ir::text::{self, Form};
use annulus::ir::{AttentionSizes, Graph, Op, Tensor};
use annulus::layout::LayoutKind;
use annulus::ring::Strategy;
use annulus::schedule::{AttentionFacts, Leaf};
use std::fmt::Write;

/// Prints a case that [`read`] reads back.
pub(crate) fn print(case: &Case, strategy: Strategy) -> String {
    let mut graph = Graph::new("case");
    let constant = |(i, x): (usize, &Tensor)| graph.constant(&format!("x{i}"), x.clone());
    let operands: Vec<_> = case.args.iter().enumerate().map(constant).collect();
    let op = graph.add(Op::Attention(Box::new(node(&case.facts))), &operands, "att", "").unwrap();
    for v in graph.results(op) {
        graph.output(&format!("y{}", v.port), v);
    }
    let mut header = format!("// case ranks={} layout={} ", case.ranks, case.layout);
    let _ = write!(header, "strategy={} seed={}", strategy.name(), case.seed);
    for (i, _) in case.facts.leaves.iter().enumerate().filter(|(_, leaf)| leaf.by_query_rows) {
        let _ = write!(header, " rows=x{}", i + 3);
    }
    format!("{header}\n{}", text::print(&graph, Form::Full))
}

/// Reads what [`print()`] prints; says what does not fit.
pub(crate) fn read(source: &str) -> Result<(Case, Strategy), String> {
    let graph = text::parse(source).map_err(|e| e.rendered)?;
    let header = source.lines().next().and_then(|l| l.strip_prefix("// case ")).ok_or("no header")?;
    let fields: Vec<(&str, &str)> =
        header.split(' ').map(|f| f.split_once('=').ok_or(f)).collect::<Result<_, _>>()?;
    let field = |name| fields.iter().find(|f| f.0 == name).map(|f| f.1).ok_or(format!("no {name}"));
    let op = graph.ops().into_iter().find(|&op| matches!(graph.op(op), Op::Attention(_)));
    let op = op.ok_or("no attention")?;
    let Op::Attention(attention) = graph.op(op) else { unreachable!() };
    let constant = |v| graph.as_constant(v).and_then(|c| c.data.as_deref().cloned());
    let args: Vec<Tensor> =
        graph.operands(op).into_iter().map(constant).collect::<Option<_>>().ok_or("no data")?;
    let shape = |i: usize| <[usize; 4]>::try_from(args[i].shape()).map_err(|e| e.to_string());
    let ([batch, q_heads, q_len, head_dim], [_, kv_heads, kv_len, _], [.., v_head_dim]) =
        (shape(0)?, shape(1)?, shape(2)?);
    let by_rows = |i: usize| fields.contains(&("rows", &format!("x{i}")));
    let leaf = |i: usize| Ok(Leaf { dtype: args[i].dtype(), shape: shape(i)?, by_query_rows: by_rows(i) });
    let facts = AttentionFacts {
        sizes: AttentionSizes { batch, q_heads, kv_heads, q_len, kv_len, head_dim, v_head_dim },
        dtype: args[0].dtype(),
        acc: attention.acc,
        scores: attention.scores.clone(),
        sinks: attention.sinks,
        dropout: attention.dropout,
        empty_row: attention.empty_row,
        lse: attention.lse,
        leaves: (3..args.len()).map(leaf).collect::<Result<_, String>>()?,
    };
    let layout = LayoutKind::from_name(field("layout")?).ok_or("no such layout")?;
    let strategy = Strategy::from_name(field("strategy")?).ok_or("no such strategy")?;
    let ranks = field("ranks")?.parse().map_err(|_| "no number of ranks")?;
    let seed = field("seed")?.parse().map_err(|_| "no seed")?;
    Ok((Case { facts, args, layout, ranks, seed }, strategy))
}
