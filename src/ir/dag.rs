//! The structure of a graph: operations as nodes of a petgraph DAG, uses as its edges, names and types of values.
//!
//! It knows nothing of what its operations, which are of type `O`, do: [`Graph`](super::Graph) is the DAG of
//! [`Op`](super::Op)s, whose types are inferred where they are added.

use super::ids::{OpId, Origin, ValueId};
use super::types::Type;
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// Name and type of a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Unique in the graph.
    pub name: String,
    /// Element type and shape.
    pub ty: Type,
}

/// One output of a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Its name outside, unique among the outputs.
    pub name: String,
    /// The value.
    pub value: ValueId,
}

/// Why one value does not take another's place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// One of them is no value of this graph.
    #[error("a value of another graph neither replaces nor is replaced")]
    Foreign,
    /// They are of different types.
    #[error("{name} is {wants}, and would be {is}")]
    Type {
        /// The value that was to be replaced.
        name: String,
        /// The type of what was to replace it.
        is: Type,
        /// Its own type.
        wants: Type,
    },
}

#[derive(Clone, Debug)]
struct Node<O> {
    op: O,
    source: String,
    results: Vec<Value>,
}

/// A use: result `port` of the edge's source is operand `slot` of its target.
#[derive(Clone, Copy, Debug)]
struct Use {
    port: usize,
    slot: usize,
}

/// A graph of SSA values and operations of type `O`; see [`Graph`](super::Graph).
#[derive(Clone, Debug)]
pub struct Dag<O> {
    name: String,
    origin: Origin,
    dag: StableDiGraph<Node<O>, Use>,
    inputs: Vec<OpId>,
    outputs: Vec<Output>,
    /// The names of all values, from the first time on that one is made unique: a graph that is only parsed needs none.
    taken: Option<HashSet<String>>,
    suffix: HashMap<String, usize>,
}

/// An empty graph without a name.
impl<O> Default for Dag<O> {
    fn default() -> Dag<O> {
        Dag::new("")
    }
}

impl<O> Dag<O> {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Dag<O> {
        Dag {
            name: name.into(),
            origin: Origin::fresh(),
            dag: StableDiGraph::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            taken: None,
            suffix: HashMap::new(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Inputs in order.
    pub fn inputs(&self) -> Vec<ValueId> {
        self.inputs.iter().map(|&op| ValueId { op, port: 0 }).collect()
    }

    /// Outputs in order.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// Number of operations, inputs and constants included.
    pub fn len(&self) -> usize {
        self.dag.node_count()
    }

    /// Number of operands of all operations.
    #[cfg(feature = "onnx")]
    pub(crate) fn uses_in_all(&self) -> usize {
        self.dag.edge_count()
    }

    /// Whether there is no operation.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The operation.
    ///
    /// # Panics
    /// If it is none of this graph, as an index panics: [`Dag::get_op`] is for an id that came from elsewhere.
    pub fn op(&self, id: OpId) -> &O {
        match self.node(id) {
            Some(node) => &node.op,
            None => panic!("{id:?} is no operation of this graph"),
        }
    }

    /// The operation; `None` if it is none of this graph.
    pub fn get_op(&self, id: OpId) -> Option<&O> {
        self.node(id).map(|n| &n.op)
    }

    /// The name of the node that it was imported from; empty if it has none, or is none of this graph.
    pub fn source(&self, id: OpId) -> &str {
        self.node(id).map_or("", |n| &n.source)
    }

    /// An operation of this graph, to be changed into one of the same operands and results.
    pub(super) fn op_mut(&mut self, id: OpId) -> Option<&mut O> {
        self.dag.node_weight_mut(id.node).filter(|_| id.origin == self.origin).map(|n| &mut n.op)
    }

    /// Name and type of a value.
    ///
    /// # Panics
    /// If it is none of this graph, as an index panics: [`Dag::get`] is for an id that came from elsewhere.
    pub fn value(&self, v: ValueId) -> &Value {
        match self.get(v) {
            Some(value) => value,
            None => panic!("{v:?} is no value of this graph"),
        }
    }

    /// Name and type of a value; `None` if it is none of this graph.
    pub fn get(&self, v: ValueId) -> Option<&Value> {
        self.node(v.op)?.results.get(v.port)
    }

    /// Type of a value.
    ///
    /// # Panics
    /// As [`Dag::value`].
    pub fn ty(&self, v: ValueId) -> &Type {
        &self.value(v).ty
    }

    /// Results of an operation, in order; none of one that is none of this graph.
    pub fn results(&self, id: OpId) -> Vec<ValueId> {
        let count = self.node(id).map_or(0, |n| n.results.len());
        (0..count).map(|port| ValueId { op: id, port }).collect()
    }

    fn node(&self, id: OpId) -> Option<&Node<O>> {
        if id.origin == self.origin { self.dag.node_weight(id.node) } else { None }
    }

    /// A value of this graph, to be changed.
    fn value_mut(&mut self, v: ValueId) -> Option<&mut Value> {
        let node = self.dag.node_weight_mut(v.op.node).filter(|_| v.op.origin == self.origin)?;
        node.results.get_mut(v.port)
    }

    fn id(&self, node: NodeIndex) -> OpId {
        OpId { origin: self.origin, node }
    }

    /// The first result of an operation.
    pub fn result(&self, id: OpId) -> ValueId {
        ValueId { op: id, port: 0 }
    }

    /// Operands of an operation, in order; none of one that is none of this graph.
    pub fn operands(&self, id: OpId) -> Vec<ValueId> {
        self.slots(id).into_iter().map(|(_, v)| v).collect()
    }

    /// Every use of a value as (operation, operand slot), ordered; outputs of the graph are not among them. A value of another
    /// graph has none.
    pub fn uses(&self, v: ValueId) -> Vec<(OpId, usize)> {
        if v.op.origin != self.origin {
            return vec![];
        }
        let mut uses: Vec<(OpId, usize)> = self
            .dag
            .edges_directed(v.op.node, Direction::Outgoing)
            .filter(|e| e.weight().port == v.port)
            .map(|e| (self.id(e.target()), e.weight().slot))
            .collect();
        uses.sort_unstable();
        uses
    }

    /// Whether the value is an output of the graph.
    pub fn is_output(&self, v: ValueId) -> bool {
        self.outputs.iter().any(|o| o.value == v)
    }

    /// Every operation, operands first: the inputs in their order, then, among those that may come next, the one added
    /// first. A cycle, which only a faulty change can make, leaves its operations out.
    ///
    /// Complexity: O((V + E) log V).
    pub fn ops(&self) -> Vec<OpId> {
        let bound = self.dag.node_indices().map(|n| n.index() + 1).max().unwrap_or(0);
        let mut missing = vec![0usize; bound];
        let mut ready = BinaryHeap::new();
        // An input comes by its place, anything else by its number after all inputs.
        let mut place = vec![usize::MAX; bound];
        for (i, id) in self.inputs.iter().enumerate().filter(|(_, id)| id.index() < bound) {
            place[id.index()] = i;
        }
        let key = |n: usize| (place[n], n);
        for n in self.dag.node_indices() {
            missing[n.index()] = self.dag.edges_directed(n, Direction::Incoming).count();
            if missing[n.index()] == 0 {
                ready.push(Reverse(key(n.index())));
            }
        }
        let mut order = Vec::with_capacity(self.dag.node_count());
        while let Some(Reverse((_, i))) = ready.pop() {
            let n = NodeIndex::new(i);
            order.push(self.id(n));
            for e in self.dag.edges_directed(n, Direction::Outgoing) {
                let t = e.target().index();
                missing[t] -= 1;
                if missing[t] == 0 {
                    ready.push(Reverse(key(t)));
                }
            }
        }
        order
    }

    /// Makes a value an output. Says whether it did: a value of another graph is not made one.
    pub fn output(&mut self, name: &str, value: ValueId) -> bool {
        let known = self.get(value).is_some();
        if known {
            self.outputs.push(Output { name: name.to_owned(), value });
        }
        known
    }

    /// Gives a value another name; a suffix makes it unique. Says whether it did: a value of another graph keeps its own.
    pub fn rename(&mut self, v: ValueId, name: &str) -> bool {
        let Some(value) = self.value_mut(v) else { return false };
        let old = std::mem::take(&mut value.name);
        self.free(&old);
        let name = self.unique(name);
        if let Some(value) = self.value_mut(v) {
            value.name = name;
        }
        true
    }

    /// Lets every use of `old`, outputs included, read `new` instead; the new value takes over the old one's name, and the old
    /// one gets a suffix. The operation that makes `new` may go on reading `old`; if it reads `old` through others, these become
    /// part of a cycle, which [`super::verify`](mod@super::verify) reports.
    ///
    /// # Errors
    /// If one of them is a value of another graph, or their types differ. Nothing is changed then.
    pub fn replace(&mut self, old: ValueId, new: ValueId) -> Result<(), ReplaceError> {
        let (Some(before), Some(after)) = (self.get(old), self.get(new)) else {
            return Err(ReplaceError::Foreign);
        };
        if before.ty != after.ty {
            let (name, is, wants) = (before.name.clone(), after.ty.clone(), before.ty.clone());
            return Err(ReplaceError::Type { name, is, wants });
        }
        if old == new {
            return Ok(());
        }
        let (name, freed) = (before.name.clone(), after.name.clone());
        let uses: Vec<_> = self
            .dag
            .edges_directed(old.op.node, Direction::Outgoing)
            .filter(|e| e.weight().port == old.port && e.target() != new.op.node)
            .map(|e| (e.id(), e.target(), e.weight().slot))
            .collect();
        for (edge, user, slot) in uses {
            self.dag.remove_edge(edge);
            self.dag.add_edge(new.op.node, user, Use { port: new.port, slot });
        }
        for o in &mut self.outputs {
            if o.value == old {
                o.value = new;
            }
        }
        let aside = self.unique(&format!("{name}.old"));
        for (v, name) in [(old, aside), (new, name)] {
            if let Some(value) = self.value_mut(v) {
                value.name = name;
            }
        }
        self.free(&freed);
        Ok(())
    }

    /// Removes every operation that no output needs. Inputs stay.
    pub fn remove_dead(&mut self) {
        let mut live: HashSet<NodeIndex> = HashSet::new();
        let mut stack: Vec<NodeIndex> = self.outputs.iter().map(|o| o.value.op.node).collect();
        stack.extend(self.inputs.iter().map(|op| op.node));
        while let Some(n) = stack.pop() {
            if live.insert(n) {
                stack.extend(self.dag.neighbors_directed(n, Direction::Incoming));
            }
        }
        let taken = &mut self.taken;
        self.dag.retain_nodes(|dag, n| {
            let keep = live.contains(&n);
            if let Some(taken) = taken.as_mut().filter(|_| !keep) {
                for v in &dag[n].results {
                    taken.remove(&v.name);
                }
            }
            keep
        });
    }

    /// Removes every operation that was added after there were `len`, with its uses; they are given back. For a graph from which
    /// none was removed otherwise, and of which none of these is an input or an output.
    #[cfg(feature = "onnx")]
    pub(crate) fn forget_after(&mut self, len: usize) -> Vec<OpId> {
        // The last one first: numbers that are free again are taken in the order of their going, last in, first out.
        let gone: Vec<OpId> = (len..self.len()).rev().map(|i| self.id(NodeIndex::new(i))).collect();
        for id in &gone {
            let node = self.dag.remove_node(id.node);
            for v in node.into_iter().flat_map(|n| n.results) {
                self.free(&v.name);
            }
        }
        gone
    }

    /// Operations that are not in `order`, by number: those on a cycle and those behind one.
    pub(crate) fn left_out(&self, order: &[OpId]) -> Vec<OpId> {
        let listed: HashSet<OpId> = order.iter().copied().collect();
        self.dag.node_indices().map(|n| self.id(n)).filter(|id| !listed.contains(id)).collect()
    }

    /// Whether the value exists.
    pub(crate) fn contains(&self, v: ValueId) -> bool {
        self.get(v).is_some()
    }

    /// Operands of an operation with their slots, in the order of the slots: what [`Dag::operands`] takes to be dense.
    pub(crate) fn slots(&self, id: OpId) -> Vec<(usize, ValueId)> {
        if id.origin != self.origin {
            return vec![];
        }
        let mut uses: Vec<(usize, ValueId)> = self
            .dag
            .edges_directed(id.node, Direction::Incoming)
            .map(|e| (e.weight().slot, ValueId { op: self.id(e.source()), port: e.weight().port }))
            .collect();
        uses.sort_unstable();
        uses
    }

    /// Adds an operation with these results, without operands. The first result gets `name`, those after it `name.1`, …; a
    /// suffix makes each unique.
    pub(super) fn push(&mut self, op: O, source: &str, types: Vec<Type>, name: &str) -> OpId {
        let results = types
            .into_iter()
            .enumerate()
            .map(|(port, ty)| {
                let hint = if port == 0 { name.to_owned() } else { format!("{name}.{port}") };
                Value { name: self.unique(&hint), ty }
            })
            .collect();
        let node = self.dag.add_node(Node { op, source: source.to_owned(), results });
        self.id(node)
    }

    /// Adds an operation with results of these names, which are not made unique, and without operands.
    pub(super) fn push_named(&mut self, op: O, source: &str, results: Vec<Value>) -> OpId {
        if let Some(taken) = &mut self.taken {
            taken.extend(results.iter().map(|v| v.name.clone()));
        }
        let node = self.dag.add_node(Node { op, source: source.to_owned(), results });
        self.id(node)
    }

    /// Lets an operation without operands read these.
    pub(super) fn connect(&mut self, id: OpId, operands: &[ValueId]) {
        for (slot, v) in operands.iter().enumerate() {
            self.dag.add_edge(v.op.node, id.node, Use { port: v.port, slot });
        }
    }

    /// Makes an operation the last input.
    pub(super) fn list_input(&mut self, id: OpId) {
        self.inputs.push(id);
    }

    /// The name itself if it is free, else with the first suffix `.1`, `.2`, … that is.
    fn unique(&mut self, name: &str) -> String {
        let Dag { dag, taken, suffix, .. } = self;
        let names = || dag.node_weights().flat_map(|n| &n.results).map(|v| v.name.clone()).collect();
        let taken = taken.get_or_insert_with(names);
        if taken.insert(name.to_owned()) {
            return name.to_owned();
        }
        loop {
            let n = suffix.entry(name.to_owned()).or_insert(0);
            *n += 1;
            let candidate = format!("{name}.{n}");
            if taken.insert(candidate.clone()) {
                return candidate;
            }
        }
    }

    /// Lets another value have this name.
    fn free(&mut self, name: &str) {
        if let Some(taken) = &mut self.taken {
            taken.remove(name);
        }
    }
}

/// Equal name, inputs, outputs and operations in [`Dag::ops`] order, with equal names, types and constants' contents.
impl<O: PartialEq> PartialEq for Dag<O> {
    fn eq(&self, other: &Dag<O>) -> bool {
        let (a, b) = (self.ops(), other.ops());
        if self.name != other.name || a.len() != b.len() || self.outputs.len() != other.outputs.len() {
            return false;
        }
        let place = |g: &Dag<O>, order: &[OpId]| -> HashMap<OpId, usize> {
            order.iter().enumerate().map(|(i, &id)| (id, i)).take(g.len()).collect()
        };
        let (pa, pb) = (place(self, &a), place(other, &b));
        let same = |x: ValueId, y: ValueId| pa.get(&x.op) == pb.get(&y.op) && x.port == y.port;
        let all =
            |x: &[ValueId], y: &[ValueId]| x.len() == y.len() && x.iter().zip(y).all(|(&x, &y)| same(x, y));
        all(&self.inputs(), &other.inputs())
            && self
                .outputs
                .iter()
                .zip(&other.outputs)
                .all(|(x, y)| x.name == y.name && same(x.value, y.value))
            && a.iter().zip(&b).all(|(&x, &y)| {
                let (nx, ny) = (&self.dag[x.node], &other.dag[y.node]);
                nx.op == ny.op
                    && nx.source == ny.source
                    && nx.results == ny.results
                    && all(&self.operands(x), &other.operands(y))
            })
    }
}

/// Changes that no code outside the tests may make: they break the invariants that the verifier must see broken.
#[cfg(test)]
mod faulty {
    use super::*;

    impl<O> Dag<O> {
        pub(crate) fn faulty_use(&mut self, user: OpId, slot: usize, v: ValueId) {
            self.dag.add_edge(v.op.node, user.node, Use { port: v.port, slot });
        }

        pub(crate) fn faulty_operands(&mut self, user: OpId, operands: &[ValueId]) {
            self.dag.retain_edges(|dag, e| dag.edge_endpoints(e).is_none_or(|(_, to)| to != user.node));
            for (slot, &v) in operands.iter().enumerate() {
                self.faulty_use(user, slot, v);
            }
        }

        pub(crate) fn faulty_inputs(&mut self, inputs: Vec<OpId>) {
            self.inputs = inputs;
        }

        pub(crate) fn faulty_value(&mut self, v: ValueId) -> &mut Value {
            &mut self.dag[v.op.node].results[v.port]
        }

        pub(crate) fn faulty_output(&mut self, name: &str, value: ValueId) {
            self.outputs.push(Output { name: name.to_owned(), value });
        }

        pub(crate) fn faulty_op(&mut self, id: OpId) -> &mut O {
            &mut self.dag[id.node].op
        }

        pub(crate) fn faulty_remove(&mut self, id: OpId) {
            self.dag.remove_node(id.node);
        }
    }
}
