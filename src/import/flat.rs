//! A model's nodes in one list: calls of its own functions and the graphs inside FlexAttention written out.
//!
//! In: the model as decoded. Out: [`Flat`]. Values inside get names of their own, `call/value`, and nodes `call/node`, so
//! that reports say where they come from.
//!
//! Nodes that no output of the model needs are left out, whatever they are.
//!
//! Invariants: nesting is at most [`MAX_DEPTH`] deep, and what is written out is bounded by the size of the file, however
//! functions call each other.

use super::captures::{Inside, inside};
use super::error::{ImportError, malformed};
use super::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, attribute_type,
};
use prost::Message;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

/// How deep functions and graphs may be nested.
pub(super) const MAX_DEPTH: usize = 32;

/// How many bytes all copies may take beside a multiple of the file.
const SPARE_BYTES: usize = 1 << 26;

/// The domain of operators that no model names: parts of others.
pub(super) const PART: &str = "annulus.part";

/// Versions of operator sets by domain; the default domain is empty.
pub(super) type Opsets = BTreeMap<String, i64>;

/// A node, the name that reports know it by, and the operator sets that it is from.
pub(super) struct FlatNode<'a> {
    pub(super) node: Cow<'a, NodeProto>,
    pub(super) source: String,
    pub(super) opsets: usize,
    /// What its graphs hold.
    pub(super) inside: Inside,
    /// The flat model's names of what they capture.
    pub(super) captured: Vec<String>,
}

impl<'a> FlatNode<'a> {
    /// A node without graphs.
    fn plain(node: NodeProto, source: &str, opsets: usize) -> FlatNode<'a> {
        let source = source.to_owned();
        FlatNode { node: Cow::Owned(node), source, opsets, inside: Inside::default(), captured: vec![] }
    }

    /// Every name that it reads; empty for an operand that is left out.
    pub(super) fn reads(&self) -> impl Iterator<Item = &str> {
        self.node.input.iter().chain(&self.captured).map(String::as_str)
    }
}

/// A model without functions and inner graphs.
pub(super) struct Flat<'a> {
    pub(super) graph: &'a GraphProto,
    pub(super) nodes: Vec<FlatNode<'a>>,
    /// Constants of inner graphs, beside those of the model's.
    pub(super) weights: Vec<TensorProto>,
    pub(super) opsets: Vec<Opsets>,
}

/// `ai.onnx` is the default domain.
pub(super) fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// What the graphs of a node hold.
fn inside_of(node: &NodeProto, source: &str) -> Result<Inside, ImportError> {
    inside(node).map_err(|why| ImportError::Malformed(format!("node {source} ({}): {why}", node.op_type)))
}

/// Which nodes of a graph its outputs need. The others are not looked at any further.
fn live(graph: &GraphProto, sources: &[String]) -> Result<Vec<bool>, ImportError> {
    let given = graph.initializer.iter().map(|t| &t.name).chain(graph.input.iter().map(|i| &i.name));
    let given: HashSet<&str> = given.map(String::as_str).collect();
    let mut made_by: HashMap<&str, usize> = HashMap::new();
    for (i, n) in graph.node.iter().enumerate() {
        for output in n.output.iter().filter(|o| !o.is_empty()) {
            if given.contains(output.as_str()) || made_by.insert(output, i).is_some() {
                return malformed(format!("two values are named {output:?}"));
            }
        }
    }
    let mut live = vec![false; graph.node.len()];
    let mut open: Vec<usize> =
        graph.output.iter().filter_map(|o| made_by.get(o.name.as_str()).copied()).collect();
    while let Some(i) = open.pop() {
        if std::mem::replace(&mut live[i], true) {
            continue;
        }
        let node = &graph.node[i];
        let captured = inside_of(node, &sources[i])?.captured;
        let reads = node.input.iter().chain(&captured);
        open.extend(reads.filter_map(|name| made_by.get(name.as_str()).copied()));
    }
    Ok(live)
}

/// Writes out what those nodes of a model stand for that its outputs need. `sources` names the nodes, `opsets` are the model's.
pub(super) fn flatten<'a>(
    model: &'a ModelProto,
    graph: &'a GraphProto,
    sources: Vec<String>,
    opsets: Opsets,
) -> Result<Flat<'a>, ImportError> {
    let mut functions = HashMap::new();
    for f in &model.functions {
        if functions.insert((domain(&f.domain), f.name.as_str(), f.overload.as_str()), f).is_some() {
            return malformed(format!("two functions are named {}::{}", f.domain, f.name));
        }
    }
    let mut writer = Writer {
        functions,
        taken: HashSet::new(),
        out: Flat {
            graph,
            nodes: Vec::with_capacity(graph.node.len()),
            weights: vec![],
            opsets: vec![opsets],
        },
        budget: None,
        model,
    };
    let live = live(graph, &sources)?;
    for ((node, source), _) in graph.node.iter().zip(sources).zip(live).filter(|(_, live)| *live) {
        if domain(&node.domain) == PART {
            return malformed(format!("node {source} is of domain {PART:?}, which is no model's"));
        }
        if !writer.is_nested(node) {
            let inside = inside_of(node, &source)?;
            let captured = inside.captured.clone();
            let node = Cow::Borrowed(node);
            writer.out.nodes.push(FlatNode { node, source, opsets: 0, inside, captured });
            continue;
        }
        if writer.taken.is_empty() {
            let names =
                graph.node.iter().flat_map(|n| &n.output).chain(graph.initializer.iter().map(|t| &t.name));
            writer.taken = names.chain(graph.input.iter().map(|i| &i.name)).cloned().collect();
        }
        let place = Place { source: &source, opsets: 0, depth: 0, scopes: &[], model: true };
        writer.write(node.clone(), &place)?;
    }
    Ok(writer.out)
}

/// Names of one body, as the flat model has them.
type Names = HashMap<String, String>;

/// Where something is written out.
struct Place<'s> {
    /// The node that it stands for.
    source: &'s str,
    /// Whose operator sets it is from.
    opsets: usize,
    depth: usize,
    /// Names of the bodies around it that it may use, innermost last.
    scopes: &'s [&'s Names],
    /// Whether it may use values of the model by their own names.
    model: bool,
}

struct Writer<'a> {
    functions: HashMap<(&'a str, &'a str, &'a str), &'a FunctionProto>,
    /// Value names that are in use.
    taken: HashSet<String>,
    out: Flat<'a>,
    /// Bytes that may still be copied; known once something is.
    budget: Option<usize>,
    model: &'a ModelProto,
}

impl<'a> Writer<'a> {
    fn is_nested(&self, node: &NodeProto) -> bool {
        self.function(node).is_some() || is_flex(node) && node.attribute.iter().any(|a| a.g.is_some())
    }

    fn function(&self, node: &NodeProto) -> Option<&'a FunctionProto> {
        if self.functions.is_empty() {
            return None;
        }
        self.functions.get(&(domain(&node.domain), node.op_type.as_str(), node.overload.as_str())).copied()
    }

    fn spend(&mut self, bytes: usize, source: &str) -> Result<(), ImportError> {
        let budget = match self.budget {
            Some(b) => b,
            None => self.model.encoded_len().saturating_mul(4).saturating_add(SPARE_BYTES),
        };
        // What a copy takes is more than its bytes on the wire.
        match budget.checked_sub(bytes.saturating_add(256)) {
            Some(left) => {
                self.budget = Some(left);
                Ok(())
            }
            None => malformed(format!("node {source}: functions make more of the model than it may become")),
        }
    }

    /// A value name that nothing else has.
    fn fresh(&mut self, source: &str, name: &str) -> String {
        let mut name = format!("{source}/{name}");
        while !self.taken.insert(name.clone()) {
            name.push('_');
        }
        name
    }

    /// Adds a node whose names are the flat model's, written out if it stands for others.
    fn write(&mut self, node: NodeProto, at: &Place<'_>) -> Result<(), ImportError> {
        if at.depth > MAX_DEPTH {
            return malformed(format!("node {}: functions are nested more than {MAX_DEPTH} deep", at.source));
        }
        if let Some(f) = self.function(&node) {
            return self.call(f, &node, at);
        }
        if self.is_nested(&node) {
            return self.flex(node, at);
        }
        let inside = inside_of(&node, at.source)?;
        let flat = |name: &String| match at.scopes.iter().rev().find_map(|s| s.get(name)) {
            Some(flat) if !flat.is_empty() => Ok(flat.clone()),
            None if at.model => Ok(name.clone()),
            _ => malformed(format!("node {} reads {name:?} in a graph, which nothing makes", at.source)),
        };
        let captured = inside.captured.iter().map(flat).collect::<Result<_, _>>()?;
        self.out.nodes.push(FlatNode { inside, captured, ..FlatNode::plain(node, at.source, at.opsets) });
        Ok(())
    }

    /// The nodes of a function, for one call of it.
    fn call(&mut self, f: &FunctionProto, node: &NodeProto, at: &Place<'_>) -> Result<(), ImportError> {
        let source = at.source;
        if node.input.len() > f.input.len() || node.output.len() > f.output.len() {
            return malformed(format!(
                "node {source} calls {} with {} operands and {} results; it has {} and {}",
                f.name,
                node.input.len(),
                node.output.len(),
                f.input.len(),
                f.output.len()
            ));
        }
        let mut names = Names::new();
        for (i, formal) in f.input.iter().enumerate() {
            let given = node.input.get(i).cloned().unwrap_or_default();
            if names.insert(formal.clone(), given).is_some() {
                return malformed(format!("function {} has two inputs named {formal:?}", f.name));
            }
        }
        // Results that are made under the name which the caller gives them; others are handed on by name.
        let made: HashSet<&str> = f.node.iter().flat_map(|n| &n.output).map(String::as_str).collect();
        if let Some(both) = f.input.iter().find(|i| made.contains(i.as_str())) {
            return malformed(format!("function {}: two values are named {both:?}", f.name));
        }
        let mut handed = vec![];
        for (formal, wanted) in f.output.iter().zip(&node.output).filter(|(_, w)| !w.is_empty()) {
            if !made.contains(formal.as_str()) || names.contains_key(formal) {
                handed.push((formal, wanted));
            } else {
                names.insert(formal.clone(), wanted.clone());
            }
        }
        let opsets = match f.opset_import.as_slice() {
            [] => 0,
            given => {
                let mut own = self.out.opsets[0].clone();
                own.extend(given.iter().map(|o| (domain(&o.domain).to_owned(), o.version)));
                match self.out.opsets.iter().position(|o| *o == own) {
                    Some(i) => i,
                    None => {
                        self.out.opsets.push(own);
                        self.out.opsets.len() - 1
                    }
                }
            }
        };
        let given = |name: &str| {
            let at = |list: &[AttributeProto]| list.iter().find(|a| a.name == name).cloned();
            at(&node.attribute).or_else(|| at(&f.attribute_proto))
        };
        let known = |name: &str| {
            f.attribute.iter().any(|a| a == name) || f.attribute_proto.iter().any(|a| a.name == name)
        };
        if let Some(a) = node.attribute.iter().find(|a| !known(&a.name)) {
            return malformed(format!("node {source}: function {} has no attribute {}", f.name, a.name));
        }
        let inside = Place { source, opsets, depth: at.depth, scopes: &[], model: false };
        let names = self.body(&f.node, names, &inside, &given)?;
        for (formal, wanted) in handed {
            let Some(from) = names.get(formal).filter(|n| !n.is_empty()) else {
                return malformed(format!("node {source}: function {} makes no {formal:?}", f.name));
            };
            let hand = plain("", "Identity", vec![from.clone()], wanted.clone(), vec![]);
            self.out.nodes.push(FlatNode::plain(hand, source, opsets));
        }
        Ok(())
    }

    /// The nodes of a body, whose inputs and results `names` names. Returns all its names.
    fn body(
        &mut self,
        nodes: &[NodeProto],
        mut names: Names,
        at: &Place<'_>,
        attribute: &dyn Fn(&str) -> Option<AttributeProto>,
    ) -> Result<Names, ImportError> {
        let source = at.source;
        let mut made: HashSet<&str> = HashSet::new();
        for output in nodes.iter().flat_map(|n| &n.output).filter(|o| !o.is_empty()) {
            if !made.insert(output) {
                return malformed(format!("node {source}: inside it two values are named {output:?}"));
            }
            if !names.contains_key(output) {
                let name = self.fresh(source, output);
                names.insert(output.clone(), name);
            }
        }
        for (i, inner) in nodes.iter().enumerate() {
            self.spend(inner.encoded_len(), source)?;
            let mut node = inner.clone();
            let own = if node.name.is_empty() { format!("{}_{i}", node.op_type) } else { node.name.clone() };
            if domain(&node.domain) == PART {
                return malformed(format!("node {source}/{own} is of domain {PART:?}, which is no model's"));
            }
            for name in node.input.iter_mut().filter(|n| !n.is_empty()) {
                let mut scopes = std::iter::once(&names).chain(at.scopes.iter().rev().copied());
                match scopes.find_map(|s| s.get(name.as_str())) {
                    Some(flat) => *name = flat.clone(),
                    None if at.model => {}
                    None => {
                        return malformed(format!("node {source}/{own} reads {name:?}, which nothing makes"));
                    }
                }
            }
            for name in node.output.iter_mut().filter(|n| !n.is_empty()) {
                if let Some(flat) = names.get(name.as_str()) {
                    *name = flat.clone();
                }
            }
            let mut attributes = Vec::with_capacity(node.attribute.len());
            for a in std::mem::take(&mut node.attribute) {
                if a.ref_attr_name.is_empty() {
                    attributes.push(a);
                } else if let Some(mut value) = attribute(&a.ref_attr_name) {
                    self.spend(value.encoded_len(), source)?;
                    if (value.g.is_some() || !value.graphs.is_empty()) && !is_flex(&node) {
                        let why = format!(
                            "node {source}/{own} ({}) is given a graph by the caller of its function, which is not supported; \
                             inline the functions before (onnx.inliner.inline_local_functions)",
                            node.op_type
                        );
                        return Err(ImportError::Refused(why));
                    }
                    value.name = a.name;
                    attributes.push(value);
                }
            }
            node.attribute = attributes;
            let scopes: Vec<&Names> = at.scopes.iter().copied().chain([&names]).collect();
            let source = format!("{source}/{own}");
            self.write(node, &Place { source: &source, depth: at.depth + 1, scopes: &scopes, ..*at })?;
        }
        Ok(names)
    }

    /// FlexAttention with graphs that change its scores or probabilities: three parts, the graphs between them.
    fn flex(&mut self, mut node: NodeProto, at: &Place<'_>) -> Result<(), ImportError> {
        let (source, opsets) = (at.source, at.opsets);
        let (Some([q, k, v]), [y]) = (node.input.first_chunk::<3>().cloned(), node.output.as_slice()) else {
            return malformed(format!("node {source} has not three operands and one result"));
        };
        if node.input.len() != 3 || [&q, &k, &v].iter().any(|n| n.is_empty()) {
            return malformed(format!("node {source} has not three operands and one result"));
        }
        let y = y.clone();
        let graphs = ["score_mod", "prob_mod"].map(|name| {
            let at = node.attribute.iter().position(|a| a.name == name)?;
            Some(node.attribute.swap_remove(at))
        });
        let [score_mod, prob_mod] = graphs;
        let part = |this: &mut Self, op: &str, input: Vec<String>, output: String, attributes| {
            let node = plain(PART, op, input, output, attributes);
            this.out.nodes.push(FlatNode::plain(node, source, opsets));
        };
        let scores = self.fresh(source, "scores");
        part(self, "FlexScores", vec![q.clone(), k], scores.clone(), std::mem::take(&mut node.attribute));
        let changed = self.inner(score_mod, &scores, at)?;
        let weights = self.fresh(source, "weights");
        part(self, "FlexWeights", vec![changed, scores.clone()], weights.clone(), vec![]);
        let changed = self.inner(prob_mod, &weights, at)?;
        part(self, "FlexResult", vec![changed, v, weights], y, vec![]);
        Ok(())
    }

    /// A graph of one input and one output, applied to a value; the name of its result.
    fn inner(
        &mut self,
        attribute: Option<AttributeProto>,
        x: &str,
        at: &Place<'_>,
    ) -> Result<String, ImportError> {
        let Some(a) = attribute else { return Ok(x.to_owned()) };
        let place = format!("{}/{}", at.source, a.name);
        let (attribute_type::GRAPH, Some(bytes)) = (a.r#type, &a.g) else {
            return malformed(format!("{place} is no graph"));
        };
        self.spend(bytes.len(), at.source)?;
        let graph = GraphProto::decode(bytes.as_slice())
            .map_err(|e| ImportError::Malformed(format!("{place} is no graph: {e}")))?;
        let ([input], [output]) = (graph.input.as_slice(), graph.output.as_slice()) else {
            return malformed(format!("{place} has not one input and one output"));
        };
        if !graph.sparse_initializer.is_empty() {
            let why = format!("{place} has sparse initializers, which are not supported");
            return Err(ImportError::Refused(why));
        }
        let mut names = Names::from([(input.name.clone(), x.to_owned())]);
        for mut t in graph.initializer {
            let name = self.fresh(&place, &t.name);
            if names.insert(t.name.clone(), name.clone()).is_some() {
                return malformed(format!("{place}: two values are named {:?}", t.name));
            }
            t.name = name;
            self.out.weights.push(t);
        }
        if let Some(o) = graph.node.iter().flat_map(|n| &n.output).find(|o| names.contains_key(o.as_str())) {
            return malformed(format!("{place}: two values are named {o:?}"));
        }
        if graph.node.iter().flat_map(|n| &n.attribute).any(|a| !a.ref_attr_name.is_empty()) {
            return malformed(format!("{place} refers to a function's attribute"));
        }
        let names = self.body(&graph.node, names, &Place { source: &place, ..*at }, &|_| None)?;
        match names.get(&output.name) {
            Some(name) => Ok(name.clone()),
            None => malformed(format!("{place} makes no {:?}", output.name)),
        }
    }
}

fn is_flex(node: &NodeProto) -> bool {
    node.op_type == "FlexAttention" && node.domain == "ai.onnx.preview"
}

fn plain(
    domain: &str,
    op: &str,
    input: Vec<String>,
    output: String,
    attribute: Vec<AttributeProto>,
) -> NodeProto {
    NodeProto {
        domain: domain.to_owned(),
        op_type: op.to_owned(),
        input,
        output: vec![output],
        attribute,
        ..NodeProto::default()
    }
}
