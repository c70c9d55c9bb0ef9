//! Parsing: lines into graphs. Regions are kept on a stack of their own, so that nesting costs no call stack.

use super::attributes::Attributes;
use super::cursor::Cursor;
use super::fault::Fault;
use super::literal;
use crate::ir::infer::infer;
use crate::ir::quote::quoted_name;
use crate::ir::types::MAX_NESTING;
use crate::ir::verify::{Place, faults};
use crate::ir::{Graph, Op, Type, Value, ValueId};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

/// Why a text is no graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rendered}")]
#[non_exhaustive]
pub struct ParseError {
    /// The message with the line and a caret.
    pub rendered: String,
}

/// Parses what [`print()`](super::print()) prints, in either form. The result is verified.
///
/// # Errors
/// With the line and a caret.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    graph(text).map_err(|fault| ParseError { rendered: fault.render(text) })
}

/// A graph whose lines are being read.
struct Open<'a> {
    graph: Graph,
    values: HashMap<Cow<'a, str>, ValueId>,
    /// Where each operation stands, by its number: no operation of a graph under construction is ever removed.
    ops: Vec<Range<usize>>,
    /// Where each output stands.
    outputs: Vec<Range<usize>>,
    /// The region operation of the graph around it that this graph belongs to.
    region: Option<Line<'a>>,
}

/// A new name and where it stands.
struct Name<'a> {
    text: Cow<'a, str>,
    at: Range<usize>,
}

/// A line of an operation, all but a region's graph.
struct Line<'a> {
    names: Vec<Name<'a>>,
    types: Vec<Type>,
    types_at: Range<usize>,
    operands: Vec<ValueId>,
    attributes: Attributes<'a>,
    source: Cow<'a, str>,
}

/// Parses a text.
fn graph(text: &str) -> Result<Graph, Fault> {
    let mut c = Cursor::new(text);
    c.blank();
    let mut open = vec![begin(&mut c, None)?];
    loop {
        c.blank();
        let depth = open.len();
        let Some(top) = open.last_mut() else {
            return Err(c.expected("`graph`"));
        };
        let start = c.pos;
        if c.eat(b'}') {
            let Some(done) = open.pop() else { continue };
            let (graph, region) = done.end(start..c.pos)?;
            match (region, open.last_mut()) {
                (Some(line), Some(around)) => {
                    around.add(line, Some(Arc::new(graph)))?;
                    c.end_of_line("the end of the line")?;
                }
                _ => {
                    c.blank();
                    return if c.at_end() { Ok(graph) } else { Err(c.expected("the end of the text")) };
                }
            }
        } else if let Some(line) = top.statement(&mut c)? {
            if depth > MAX_NESTING {
                let title = format!("expected graphs nested at most {MAX_NESTING} deep");
                return Err(Fault::new(start..c.pos, title, "is deeper"));
            }
            open.push(begin(&mut c, Some(line))?);
        }
    }
}

/// Passes `graph "name" {`.
fn begin<'a>(c: &mut Cursor<'a>, region: Option<Line<'a>>) -> Result<Open<'a>, Fault> {
    c.spaces();
    if !c.eat_word("graph") {
        return Err(c.expected("`graph \"name\" {`"));
    }
    let name = c.string("the graph's name")?;
    c.expect(b'{', "`{`")?;
    c.end_of_line("the end of the line")?;
    Ok(Open { graph: Graph::new(name), values: HashMap::new(), ops: Vec::new(), outputs: Vec::new(), region })
}

impl<'a> Open<'a> {
    /// Reads one line. A region's line is given back: its graph follows.
    fn statement(&mut self, c: &mut Cursor<'a>) -> Result<Option<Line<'a>>, Fault> {
        let start = c.pos;
        match c.word() {
            "input" => {
                let (name, ty) = self.declaration(c)?;
                let source = source(c)?;
                self.insert(Op::Input(ty.clone()), &[], start..c.pos, vec![name], vec![ty], &source);
            }
            "const" => {
                let (name, ty) = self.declaration(c)?;
                c.expect(b'=', "`=` and the constant's elements or hash")?;
                c.spaces();
                let constant = literal::constant(c, &ty)?;
                let source = source(c)?;
                self.insert(Op::Constant(constant), &[], start..c.pos, vec![name], vec![ty], &source);
            }
            "output" => {
                let name = c.string("the output's name")?;
                c.expect(b'=', "`=` and a value")?;
                let (value, at) = self.operand(c)?;
                self.graph.output(&name, value);
                self.outputs.push(start..at.end);
            }
            word => {
                c.pos = start;
                // Only a region may give no result, and so begin with its mnemonic.
                if !matches!(word, "segment" | "island") && c.peek() != Some(b'%') {
                    return Err(c.expected(
                        "a line: `input`, `const`, `output`, or an operation such as `%y: f32[2] = neg %x`; or `}`",
                    ));
                }
                return self.operation(c);
            }
        }
        c.end_of_line("the end of the line")?;
        Ok(None)
    }

    /// Passes `results: types = operation operands {attributes} @"source"`.
    fn operation(&mut self, c: &mut Cursor<'a>) -> Result<Option<Line<'a>>, Fault> {
        let (mut names, mut types) = (Vec::new(), Vec::new());
        let mut types_at = c.pos..c.pos;
        if c.peek() == Some(b'%') {
            names.push(self.new_name(c)?);
            let mut seen = HashSet::new();
            c.spaces();
            while c.eat(b',') {
                seen.extend(names.last().map(|n| n.text.clone()));
                let name = self.new_name(c)?;
                if seen.contains(&name.text) {
                    return Err(taken(name));
                }
                names.push(name);
                c.spaces();
            }
            c.expect(b':', "`,` or `:` and a type for each result")?;
            c.spaces();
            types_at.start = c.pos;
            loop {
                types.push(c.ty()?);
                types_at.end = c.pos;
                c.spaces();
                if !c.eat(b',') {
                    break;
                }
            }
            if types.len() != names.len() {
                let title = format!("expected {}", count(names.len(), "type"));
                return Err(Fault::new(types_at, title, format!("found {}", types.len())));
            }
            c.expect(b'=', "`,`, or `=` and an operation")?;
        }
        c.spaces();
        let start = c.pos;
        let op = c.word();
        if op.is_empty() {
            return Err(c.expected("an operation, such as `add` or `reshape`"));
        }
        let op_at = start..c.pos;
        let mut operands = Vec::new();
        c.spaces();
        if c.peek() == Some(b'%') {
            loop {
                operands.push(self.operand(c)?.0);
                c.spaces();
                if !c.eat(b',') {
                    break;
                }
            }
        }
        let attributes = Attributes::read(c, op, op_at)?;
        let line = Line { names, types, types_at, operands, attributes, source: source(c)? };
        c.spaces();
        if matches!(op, "segment" | "island") {
            return Ok(Some(line));
        }
        c.end_of_line("operands, `{attributes}`, `@\"source\"` in this order, or the end of the line")?;
        self.add(line, None)?;
        Ok(None)
    }

    /// Adds the operation of a line, its types checked against inference.
    fn add(&mut self, line: Line<'a>, region: Option<Arc<Graph>>) -> Result<(), Fault> {
        let Line { names, types, types_at, operands, attributes, source } = line;
        let at = attributes.at.clone();
        let op = attributes.op(&types, region)?;
        let operand_types: Vec<&Type> = operands.iter().map(|&v| self.graph.ty(v)).collect();
        let inferred = infer(&op, &operand_types).map_err(|e| Fault::new(at.clone(), e.to_string(), ""))?;
        if inferred != types {
            let list: Vec<String> = inferred.iter().map(ToString::to_string).collect();
            let list = if list.is_empty() { "no result".to_owned() } else { list.join(", ") };
            let at = if types.is_empty() { at } else { types_at };
            return Err(Fault::new(at, format!("expected {list}"), format!("{} gives that", op.name())));
        }
        self.insert(op, &operands, at, names, types, &source);
        Ok(())
    }

    /// Adds an operation of checked types. `at` is where a line without results stands.
    fn insert(
        &mut self,
        op: Op,
        operands: &[ValueId],
        at: Range<usize>,
        names: Vec<Name<'a>>,
        types: Vec<Type>,
        source: &str,
    ) {
        self.ops.push(names.first().map_or(at, |n| n.at.clone()));
        let value = |(n, ty): (&Name<'a>, Type)| Value { name: n.text.as_ref().to_owned(), ty };
        let values = names.iter().zip(types).map(value).collect();
        let id = self.graph.insert(op, operands, values, source);
        let ids = self.graph.results(id);
        self.values.extend(names.into_iter().map(|n| n.text).zip(ids));
    }

    /// Passes `%name: type`.
    fn declaration(&mut self, c: &mut Cursor<'a>) -> Result<(Name<'a>, Type), Fault> {
        let name = self.new_name(c)?;
        c.expect(b':', "`:` and a type")?;
        Ok((name, c.ty()?))
    }

    /// Passes `%name`, which no line above has.
    fn new_name(&mut self, c: &mut Cursor<'a>) -> Result<Name<'a>, Fault> {
        c.spaces();
        let start = c.pos;
        let text = c.name("a name such as `%x`")?;
        let name = Name { text, at: start..c.pos };
        if name.text.is_empty() {
            return Err(Fault::new(name.at, "expected a name", "is empty"));
        }
        if self.values.contains_key(&name.text) { Err(taken(name)) } else { Ok(name) }
    }

    /// Passes the name of a value above.
    fn operand(&mut self, c: &mut Cursor<'a>) -> Result<(ValueId, Range<usize>), Fault> {
        c.spaces();
        let start = c.pos;
        let name = c.name("a value such as `%x`")?;
        let at = start..c.pos;
        match self.values.get(&name) {
            Some(&v) => Ok((v, at)),
            None => {
                let title = "expected a value that a line above in this graph defines";
                Err(Fault::new(at, title, format!("there is no {}", quoted_name(&name))))
            }
        }
    }

    /// The graph, verified, and the region operation that it belongs to. `at` is its closing brace.
    fn end(self, at: Range<usize>) -> Result<(Graph, Option<Line<'a>>), Fault> {
        let Open { graph, ops, outputs, region, .. } = self;
        match faults(&graph).into_iter().next() {
            None => Ok((graph, region)),
            Some((place, why)) => {
                let (what, found) = match place {
                    Place::Op(id) => (graph.op(id).name(), ops.get(id.index())),
                    Place::Output(i) => ("output", outputs.get(i)),
                    Place::Graph => ("graph", None),
                };
                Err(Fault::new(found.cloned().unwrap_or(at), format!("{what}: {why}"), ""))
            }
        }
    }
}

fn taken(name: Name<'_>) -> Fault {
    let label = format!("{} stands above already", quoted_name(&name.text));
    Fault::new(name.at, "expected a new name", label)
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("{n} {what}") } else { format!("{n} {what}s") }
}

/// Passes `@"source"` if it stands here.
fn source<'a>(c: &mut Cursor<'a>) -> Result<Cow<'a, str>, Fault> {
    c.spaces();
    if c.eat(b'@') { c.string("the source node's name") } else { Ok(Cow::Borrowed("")) }
}
