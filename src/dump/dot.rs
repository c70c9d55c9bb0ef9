//! A graph as DOT: a box an operation, an arrow a use. Regions of a rank's program are clusters.

use super::escape::is_unsafe;
use crate::ir::narrow::{bf16_from_f64, f16_from_f64};
use crate::ir::{Collective, Constant, Data, Graph, Op, OpId, ValueId};
use crate::layout::Progression;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// Constants of at most so many elements are shown, larger ones named by their content hash.
const SHOWN: usize = 4;
/// Names of so many characters are shown in full.
const NAME: usize = 36;

/// The graph as DOT. Inputs, constants and outputs have shapes of their own, transfers a colour.
pub fn dot(graph: &Graph) -> String {
    let mut out = String::new();
    out.push_str("digraph {\n");
    line(&mut out, 1, &format!("label={}; labelloc=t; fontname=\"Helvetica\";", quoted(graph.name())));
    line(
        &mut out,
        1,
        "node [fontname=\"Helvetica\", fontsize=11, style=filled, fillcolor=white, shape=box];",
    );
    line(&mut out, 1, "edge [fontname=\"Helvetica\", fontsize=9, color=\"#555555\"];");
    let mut regions: BTreeMap<OpId, Arc<Graph>> = BTreeMap::new();
    for id in graph.ops() {
        match graph.op(id) {
            Op::Region(_, inner) => {
                regions.insert(id, inner.clone());
                region(&mut out, graph, id, inner);
            }
            _ => node(&mut out, 1, &format!("n{}", id.index()), graph, id),
        }
    }
    // Where a value comes from: through a region, from the operation inside that makes it.
    let source = |v: ValueId| match regions.get(&v.op).and_then(|g| Some((g, g.outputs().get(v.port)?))) {
        Some((inner, o)) => Port::of(inside(v.op, o.value.op), inner, o.value),
        None => Port::of(format!("n{}", v.op.index()), graph, v),
    };
    for id in graph.ops() {
        let inner = regions.get(&id).map(|g| g.inputs());
        let to = |slot: usize| match inner.as_ref().and_then(|inputs| inputs.get(slot)) {
            Some(input) => inside(id, input.op),
            None => format!("n{}", id.index()),
        };
        let uses = graph.operands(id).into_iter().enumerate();
        edges(&mut out, 1, uses.map(|(slot, v)| (source(v), to(slot))));
    }
    for (i, o) in graph.outputs().iter().enumerate() {
        let label = elided(&o.name);
        let (label, tooltip) = (quoted(&label), tooltip(&label, &o.name));
        line(
            &mut out,
            1,
            &format!("out{i} [label={label}{tooltip}, shape=invhouse, fillcolor=\"#dcefdc\"];"),
        );
        edges(&mut out, 1, [(source(o.value), format!("out{i}"))].into_iter());
    }
    out.push_str("}\n");
    out
}

/// A region as a cluster. A region within a region stays a box.
fn region(out: &mut String, graph: &Graph, id: OpId, inner: &Graph) {
    line(out, 1, &format!("subgraph cluster{} {{", id.index()));
    let label = format!("{} {}", headline(graph.op(id)), elided(inner.name()));
    if elided(inner.name()) != inner.name() {
        line(out, 2, &format!("tooltip={};", quoted(inner.name())));
    }
    line(out, 2, &format!("label={}; style=rounded; color=\"#888888\";", quoted(&label)));
    for op in inner.ops() {
        node(out, 2, &inside(id, op), inner, op);
    }
    for op in inner.ops() {
        let uses = inner.operands(op).into_iter();
        edges(out, 2, uses.map(|v| (Port::of(inside(id, v.op), inner, v), inside(id, op))));
    }
    line(out, 1, "}");
}

fn inside(region: OpId, op: OpId) -> String {
    format!("n{}_{}", region.index(), op.index())
}

/// One end of an edge: a node, and which of its results.
struct Port {
    node: String,
    port: usize,
    /// How many results the node has.
    of: usize,
}

impl Port {
    fn of(node: String, graph: &Graph, v: ValueId) -> Port {
        Port { node, port: v.port, of: graph.results(v.op).len() }
    }
}

/// One arrow for all results that go from one node to another; which ones is said unless it is all of them.
fn edges(out: &mut String, depth: usize, uses: impl Iterator<Item = (Port, String)>) {
    let mut arrows: Vec<(String, String, Vec<usize>, usize)> = Vec::new();
    for (from, to) in uses {
        match arrows.iter_mut().find(|a| a.0 == from.node && a.1 == to) {
            Some(arrow) => arrow.2.push(from.port),
            None => arrows.push((from.node, to, vec![from.port], from.of)),
        }
    }
    for (from, to, mut ports, of) in arrows {
        ports.dedup();
        let names: Vec<String> = ports.iter().map(ToString::to_string).collect();
        let label = match ports.len() < of {
            true => format!(" [taillabel=\"{}\"]", names.join(",")),
            false => String::new(),
        };
        line(out, depth, &format!("{from} -> {to}{label};"));
    }
}

fn node(out: &mut String, depth: usize, name: &str, graph: &Graph, id: OpId) {
    let op = graph.op(id);
    let (mut label, mut full) = (vec![headline(op)], Vec::new());
    let more = details(op);
    if !more.is_empty() {
        label.push(more);
    }
    for v in graph.results(id) {
        let value = graph.value(v);
        label.push(format!("{}: {}", elided(&value.name), value.ty));
        full.push(format!("{}: {}", value.name, value.ty));
    }
    if !graph.source(id).is_empty() {
        label.push(format!("from {}", elided(graph.source(id))));
        full.push(format!("from {}", graph.source(id)));
    }
    let tooltip = tooltip(&label[label.len() - full.len()..].join("\n"), &full.join("\n"));
    let style = match op {
        Op::Input(_) => ", shape=house, fillcolor=\"#dcefdc\"",
        Op::Constant(_) => ", shape=note, fillcolor=\"#eeeeee\"",
        Op::Start(..) | Op::Wait | Op::Unshard { .. } | Op::AllReduce { .. } | Op::Call { .. } => {
            ", fillcolor=\"#f9d9a8\""
        }
        Op::Opaque(_) => ", fillcolor=\"#f4cccc\"",
        Op::Attention(_) | Op::AttentionBackward(_) | Op::Partial(_) => ", fillcolor=\"#cfe2f7\"",
        Op::Merge { .. } | Op::Finish { .. } => ", fillcolor=\"#e6dcf5\"",
        _ => "",
    };
    line(out, depth, &format!("{name} [label={}{tooltip}{style}];", quoted(&label.join("\n"))));
}

/// The attribute that says in full what a label leaves out.
fn tooltip(label: &str, full: &str) -> String {
    if label == full { String::new() } else { format!(", tooltip={}", quoted(full)) }
}

/// The operation in a word, with what makes it this one.
fn headline(op: &Op) -> String {
    match op {
        Op::Constant(c) => constant(c),
        Op::Contract(c) => format!("contract {},{} → {}", c.lhs, c.rhs, c.out),
        Op::Opaque(o) => format!("opaque {}", elided(&o.operator())),
        Op::Permute(p) => format!("permute {p:?}"),
        Op::Cast(t) => format!("cast to {t}"),
        Op::Reduce { kind, axes, .. } => format!("{} over {axes:?}", kind.name()),
        Op::Softmax { axis } => format!("softmax over {axis}"),
        Op::Concat { axis } => format!("concat along {axis}"),
        Op::Gather { axis } => format!("gather along {axis}"),
        Op::Slice { axis, start, len, step } => format!("slice axis {axis}: {len} from {start} by {step}"),
        Op::Rows { axis, rows, .. } => format!("rows {} of axis {axis}", show(rows)),
        Op::Chunk { rows, .. } => format!("chunk, rows {}", show(rows)),
        _ => op.name().to_owned(),
    }
}

/// A second line, where one is needed.
fn details(op: &Op) -> String {
    match op {
        Op::Attention(a) => {
            let sinks = if a.sinks.is_some() { ", sinks" } else { "" };
            format!("scores {}{sinks}", a.scores)
        }
        Op::AttentionBackward(b) => format!("scores {}", b.attention.scores),
        Op::Partial(p) => {
            format!("{} tile: q {} × k {}", p.tile.name(), show(&p.q_rows), show(&p.k_rows))
        }
        Op::Start(c, _) => match &**c {
            Collective::SendRecv { group, to, from, .. } => {
                let to = to.map_or(String::new(), |r| format!(", to rank {r}"));
                let from = from.map_or(String::new(), |r| format!(", from rank {r}"));
                format!("hop {group}{to}{from}")
            }
            Collective::AllGather { group, rows } => format!("stage {group}, {} ranks", rows.len()),
            Collective::AllToAll { group, to, .. } => format!("group {group} to {} ranks", to.len()),
        },
        Op::Unshard { rows, .. } => format!("from {} ranks", rows.len()),
        Op::AllReduce { kind, ranks, .. } => format!("{} over {ranks} ranks", kind.name()),
        _ => String::new(),
    }
}

fn constant(c: &Constant) -> String {
    match c.data.as_deref().filter(|d| d.len() <= SHOWN) {
        Some(data) => {
            format!("const {}", elements(data.data()).join(", "))
        }
        None => format!("const #{:016x}", c.hash),
    }
}

/// The elements, each as the shortest decimal that means it.
fn elements(data: &Data) -> Vec<String> {
    match data {
        Data::F32(d) => d.iter().map(number).collect(),
        Data::F16(d) => d.iter().map(|&x| narrow(x.to_f64(), |y| f16_from_f64(y) == x)).collect(),
        Data::BF16(d) => d.iter().map(|&x| narrow(x.to_f64(), |y| bf16_from_f64(y) == x)).collect(),
        _ => data.to_f64().iter().map(number).collect(),
    }
}

/// An f32 or f64 in the shortest form, with an exponent where it is far from one.
fn number<T: std::fmt::Debug>(x: &T) -> String {
    let text = format!("{x:?}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

/// The shortest decimal that a narrower type reads as the same number.
fn narrow(x: f64, same: impl Fn(f64) -> bool) -> String {
    let shorter = (0..8).filter_map(|digits| format!("{x:.digits$e}").parse::<f64>().ok());
    number(&shorter.into_iter().find(|&y| same(y)).unwrap_or(x))
}

/// A name with its middle left out if it is long: the ends tell the layer and the operation.
fn elided(name: &str) -> String {
    let count = name.chars().count();
    if count <= NAME {
        return name.to_owned();
    }
    let head = name.chars().take(NAME / 2 - 3);
    head.chain(['…']).chain(name.chars().skip(count - (NAME / 2 + 2))).collect()
}

fn show(rows: &[Progression]) -> String {
    if rows.is_empty() {
        return "none".into();
    }
    let parts: Vec<String> = rows.iter().map(ToString::to_string).collect();
    parts.join(" + ")
}

fn line(out: &mut String, depth: usize, text: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "{:1$}{text}", "", depth * 2);
}

/// A DOT string. Control characters are shown, not passed on; a newline separates lines of a label.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            // Shown as \u{…}, with the backslash itself escaped.
            c if is_unsafe(c) => out.extend(c.escape_unicode().flat_map(|e| {
                let twice = if e == '\\' { 2 } else { 1 };
                std::iter::repeat_n(e, twice)
            })),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
