//! Printing.

use super::braces::push_attributes;
use super::form::Form;
use super::literal::push_constant;
use crate::ir::quote::{push_name, push_string};
use crate::ir::{Graph, Op, OpId, ValueId};
use std::fmt::{self, Write};

/// A graph whose lines are being printed; regions nest.
struct Open<'g> {
    graph: &'g Graph,
    ops: std::vec::IntoIter<OpId>,
}

/// Prints a graph.
pub fn print(graph: &Graph, form: Form) -> String {
    let mut out = String::new();
    // Regions are kept on a stack of their own, so that nesting costs no call stack.
    let mut open = vec![begin(&mut out, graph)];
    while let Some(top) = open.last_mut() {
        let graph = top.graph;
        match top.ops.next() {
            Some(id) => {
                indent(&mut out, open.len());
                if let Some(region) = line(&mut out, graph, id, form) {
                    let inner = begin(&mut out, region);
                    open.push(inner);
                }
            }
            None => {
                end(&mut out, graph, open.len());
                open.pop();
                indent(&mut out, open.len());
                out.push_str("}\n");
            }
        }
    }
    out
}

fn begin<'g>(out: &mut String, graph: &'g Graph) -> Open<'g> {
    out.push_str("graph ");
    push_string(out, graph.name());
    out.push_str(" {\n");
    Open { graph, ops: graph.ops().into_iter() }
}

fn end(out: &mut String, graph: &Graph, depth: usize) {
    for o in graph.outputs() {
        indent(out, depth);
        out.push_str("output ");
        push_string(out, &o.name);
        out.push_str(" = ");
        push_values(out, graph, &[o.value]);
        out.push('\n');
    }
}

/// Prints the line of an operation; of a region all but its graph, which is given back.
fn line<'g>(out: &mut String, graph: &'g Graph, id: OpId, form: Form) -> Option<&'g Graph> {
    let op = graph.op(id);
    let leaf = matches!(op, Op::Input(_) | Op::Constant(_));
    if leaf {
        out.push_str(op.name());
        out.push(' ');
    }
    let results = graph.results(id);
    push_values(out, graph, &results);
    for (i, &v) in results.iter().enumerate() {
        out.push_str(if i == 0 { ": " } else { ", " });
        let _ = write!(out, "{}", graph.ty(v));
    }
    match op {
        Op::Input(_) => {}
        Op::Constant(c) => {
            out.push_str(" = ");
            push_constant(out, c, form);
        }
        _ => {
            if !results.is_empty() {
                out.push_str(" = ");
            }
            out.push_str(op.name());
            let operands = graph.operands(id);
            if !operands.is_empty() {
                out.push(' ');
                push_values(out, graph, &operands);
            }
            push_attributes(out, op, form);
        }
    }
    let source = graph.source(id);
    if !source.is_empty() {
        out.push_str("  @");
        push_string(out, source);
    }
    if let Op::Region(_, inner) = op {
        out.push(' ');
        return Some(inner);
    }
    out.push('\n');
    None
}

fn push_values(out: &mut String, graph: &Graph, values: &[ValueId]) {
    for (i, &v) in values.iter().enumerate() {
        if i > 0 {
            out.push_str(", ");
        }
        out.push('%');
        push_name(out, &graph.value(v).name);
    }
}

fn indent(out: &mut String, depth: usize) {
    for _ in 0..depth {
        out.push_str("  ");
    }
}

/// The form for people.
impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self, Form::People))
    }
}
