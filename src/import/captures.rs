//! What the graphs inside a node read from around it, and what else of the model they hold.
//!
//! In: the bytes of a graph, untrusted. Out: [`Inside`]. Graphs within it are looked at too, at most
//! [`MAX_DEPTH`] deep. Memory is in proportion to the bytes.

use super::flat::{MAX_DEPTH, domain};
use super::proto::{AttributeProto, GraphProto, NodeProto, TensorProto};
use prost::Message;
use std::collections::{BTreeSet, HashSet};

/// What the graphs of one node are about.
#[derive(Debug, Default)]
pub(super) struct Inside {
    /// Names that they read and do not make, in the order in which they are met, each once.
    pub(super) captured: Vec<String>,
    /// The operators of their nodes: domain, name and overload.
    pub(super) operators: BTreeSet<(String, String, String)>,
    /// An attribute in them that stands for one of a function around them.
    pub(super) refers: Option<String>,
    /// A tensor in them whose elements are in another file.
    pub(super) external: Option<String>,
}

impl Inside {
    fn tensor(&mut self, t: &TensorProto) {
        if t.data_location != 0 || !t.external_data.is_empty() {
            self.external.get_or_insert_with(|| t.name.clone());
        }
    }
}

/// The graphs of a node, looked through. A node without graphs has an empty one.
///
/// # Errors
/// If an attribute is no graph, or graphs nest too deep: which, in words.
pub(super) fn inside(node: &NodeProto) -> Result<Inside, String> {
    let mut out = Inside::default();
    let mut seen = HashSet::new();
    for (name, bytes) in graphs(&node.attribute) {
        for read in graph(bytes, 0, &mut out).map_err(|why| format!("attribute {name} {why}"))? {
            if seen.insert(read.clone()) {
                out.captured.push(read);
            }
        }
    }
    Ok(out)
}

/// The graphs among attributes, each with the name of its attribute.
fn graphs(attributes: &[AttributeProto]) -> impl Iterator<Item = (&str, &[u8])> {
    attributes.iter().flat_map(|a| a.g.iter().chain(&a.graphs).map(|g| (a.name.as_str(), g.as_slice())))
}

/// The names that a graph reads and does not make.
fn graph(bytes: &[u8], depth: usize, out: &mut Inside) -> Result<Vec<String>, String> {
    if depth > MAX_DEPTH {
        return Err(format!("holds graphs that nest more than {MAX_DEPTH} deep"));
    }
    let mut g = GraphProto::decode(bytes).map_err(|e| format!("is no graph: {e}"))?;
    let mut made: HashSet<String> = HashSet::new();
    for t in &g.initializer {
        out.tensor(t);
        made.insert(t.name.clone());
    }
    for bytes in &g.sparse_initializer {
        // Its values come first, and carry its name.
        made.extend(Sparse::decode(bytes.as_slice()).ok().and_then(|s| s.values).map(|t| t.name));
    }
    made.extend(g.input.iter().map(|i| i.name.clone()));
    made.extend(g.node.iter().flat_map(|n| &n.output).cloned());
    let mut read: Vec<String> = vec![];
    let mut inner: Vec<Vec<u8>> = vec![];
    for node in &mut g.node {
        read.append(&mut node.input);
        let operator = (domain(&node.domain).to_owned(), node.op_type.clone(), node.overload.clone());
        out.operators.insert(operator);
        for a in &mut node.attribute {
            if !a.ref_attr_name.is_empty() {
                out.refers.get_or_insert_with(|| a.name.clone());
            }
            a.t.iter().chain(&a.tensors).for_each(|t| out.tensor(t));
            inner.extend(a.g.take().into_iter().chain(std::mem::take(&mut a.graphs)));
        }
        // A read of this node stands before those of its graphs.
        for bytes in std::mem::take(&mut inner) {
            read.extend(graph(&bytes, depth + 1, out)?);
        }
    }
    read.extend(g.output.iter().map(|o| o.name.clone()));
    read.retain(|name| !name.is_empty() && !made.contains(name));
    Ok(read)
}

/// The part of a sparse tensor that tells its name.
#[derive(Clone, PartialEq, Message)]
struct Sparse {
    #[prost(message, optional, tag = "1")]
    values: Option<TensorProto>,
}
