//! The graph: operations as nodes of a petgraph DAG, uses as its edges.

use super::Tensor;
use super::infer::{InferError, infer};
use super::op::{Constant, Op};
use super::types::Type;
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

/// An operation of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(NodeIndex);

impl OpId {
    /// A small number, unique in its graph; numbers of removed operations may come back.
    pub fn index(self) -> usize {
        self.0.index()
    }
}

/// A value of a graph: one result of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId {
    /// The operation that makes it.
    pub op: OpId,
    /// Which of its results.
    pub port: usize,
}

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

#[derive(Clone, Debug)]
struct Node {
    op: Op,
    source: String,
    results: Vec<Value>,
}

/// A use: result `port` of the edge's source is operand `slot` of its target.
#[derive(Clone, Copy, Debug)]
struct Use {
    port: usize,
    slot: usize,
}

/// A graph of SSA values and operations.
///
/// Built by [`Graph::input`], [`Graph::constant`] and [`Graph::add`], which infer types, so that a graph made through this
/// interface is well typed; [`super::verify()`] checks what other code relies on. Weights are shared between graphs.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    name: String,
    dag: StableDiGraph<Node, Use>,
    inputs: Vec<OpId>,
    outputs: Vec<Output>,
    /// The names of all values, from the first time on that one is made unique: a graph that is only parsed needs none.
    taken: Option<HashSet<String>>,
    suffix: HashMap<String, usize>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
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
    pub fn op(&self, id: OpId) -> &Op {
        &self.dag[id.0].op
    }

    /// The name of the node that it was imported from; empty if it has none.
    pub fn source(&self, id: OpId) -> &str {
        &self.dag[id.0].source
    }

    /// Name and type of a value.
    pub fn value(&self, v: ValueId) -> &Value {
        &self.dag[v.op.0].results[v.port]
    }

    /// Type of a value.
    pub fn ty(&self, v: ValueId) -> &Type {
        &self.value(v).ty
    }

    /// Results of an operation, in order.
    pub fn results(&self, id: OpId) -> Vec<ValueId> {
        (0..self.dag[id.0].results.len()).map(|port| ValueId { op: id, port }).collect()
    }

    /// The first result of an operation.
    pub fn result(&self, id: OpId) -> ValueId {
        ValueId { op: id, port: 0 }
    }

    /// Operands of an operation, in order.
    pub fn operands(&self, id: OpId) -> Vec<ValueId> {
        self.slots(id).into_iter().map(|(_, v)| v).collect()
    }

    /// Every use of a value as (operation, operand slot), ordered; outputs of the graph are not among them.
    pub fn uses(&self, v: ValueId) -> Vec<(OpId, usize)> {
        let mut uses: Vec<(OpId, usize)> = self
            .dag
            .edges_directed(v.op.0, Direction::Outgoing)
            .filter(|e| e.weight().port == v.port)
            .map(|e| (OpId(e.target()), e.weight().slot))
            .collect();
        uses.sort_unstable();
        uses
    }

    /// Whether the value is an output of the graph.
    pub fn is_output(&self, v: ValueId) -> bool {
        self.outputs.iter().any(|o| o.value == v)
    }

    /// The constant behind a value, if it is one.
    pub fn as_constant(&self, v: ValueId) -> Option<&Constant> {
        match self.op(v.op) {
            Op::Constant(c) => Some(c),
            _ => None,
        }
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
            order.push(OpId(n));
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

    /// Adds an input.
    pub fn input(&mut self, name: &str, ty: Type) -> ValueId {
        let id = self.push(Op::Input(ty.clone()), "", vec![ty], name);
        self.inputs.push(id);
        self.result(id)
    }

    /// Adds a constant with its data.
    pub fn constant(&mut self, name: &str, data: Tensor) -> ValueId {
        self.weight(name, Constant::new(data))
    }

    /// Adds a constant that may be shared or lack its data.
    pub fn weight(&mut self, name: &str, constant: Constant) -> ValueId {
        let ty = constant.ty.clone();
        let id = self.push(Op::Constant(constant), "", vec![ty], name);
        self.result(id)
    }

    /// Adds an operation; its types are inferred. `name` names the first result (a suffix makes it unique; further results
    /// are `name.1`, …); `source` is the node of the imported model that it stands for, or empty.
    ///
    /// # Errors
    /// If the operation does not take these operands.
    pub fn add(
        &mut self,
        op: Op,
        operands: &[ValueId],
        name: &str,
        source: &str,
    ) -> Result<OpId, InferError> {
        let types: Vec<&Type> = operands.iter().map(|&v| self.ty(v)).collect();
        let results = infer(&op, &types)?;
        let id = self.push(op, source, results, name);
        for (slot, v) in operands.iter().enumerate() {
            self.dag.add_edge(v.op.0, id.0, Use { port: v.port, slot });
        }
        Ok(id)
    }

    /// [`Graph::add`] for an operation of which the first result is wanted.
    ///
    /// # Errors
    /// As [`Graph::add`].
    pub fn add1(
        &mut self,
        op: Op,
        operands: &[ValueId],
        name: &str,
        source: &str,
    ) -> Result<ValueId, InferError> {
        self.add(op, operands, name, source).map(|id| self.result(id))
    }

    /// Makes a value an output.
    pub fn output(&mut self, name: &str, value: ValueId) {
        self.outputs.push(Output { name: name.to_owned(), value });
    }

    /// Gives a value another name; a suffix makes it unique.
    pub fn rename(&mut self, v: ValueId, name: &str) {
        let old = std::mem::take(&mut self.dag[v.op.0].results[v.port].name);
        self.free(&old);
        let name = self.unique(name);
        self.dag[v.op.0].results[v.port].name = name;
    }

    /// Lets every use of `old`, outputs included, read `new` instead. Types must agree; the new value takes over the old
    /// one's name, and the old one gets a suffix. The operation that makes `new` may go on reading `old`; if it reads `old`
    /// through others, these become part of a cycle, which [`super::verify`](mod@super::verify) reports.
    ///
    /// # Panics
    /// If the types differ: a pass that replaces a value by one of another type is a bug.
    pub fn replace(&mut self, old: ValueId, new: ValueId) {
        assert_eq!(self.ty(old), self.ty(new), "replacement of {} changes its type", self.value(old).name);
        if old == new {
            return;
        }
        let uses: Vec<_> = self
            .dag
            .edges_directed(old.op.0, Direction::Outgoing)
            .filter(|e| e.weight().port == old.port && e.target() != new.op.0)
            .map(|e| (e.id(), e.target(), e.weight().slot))
            .collect();
        for (edge, user, slot) in uses {
            self.dag.remove_edge(edge);
            self.dag.add_edge(new.op.0, user, Use { port: new.port, slot });
        }
        for o in &mut self.outputs {
            if o.value == old {
                o.value = new;
            }
        }
        let name = self.value(old).name.clone();
        let freed = self.value(new).name.clone();
        let aside = self.unique(&format!("{name}.old"));
        self.dag[old.op.0].results[old.port].name = aside;
        self.dag[new.op.0].results[new.port].name = name;
        self.free(&freed);
    }

    /// Removes every operation that no output needs. Inputs stay.
    pub fn remove_dead(&mut self) {
        let mut live: HashSet<NodeIndex> = HashSet::new();
        let mut stack: Vec<NodeIndex> = self.outputs.iter().map(|o| o.value.op.0).collect();
        stack.extend(self.inputs.iter().map(|op| op.0));
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

    /// Operations that are not in `order`, by number: those on a cycle and those behind one.
    pub(crate) fn left_out(&self, order: &[OpId]) -> Vec<OpId> {
        let listed: HashSet<OpId> = order.iter().copied().collect();
        self.dag.node_indices().map(OpId).filter(|id| !listed.contains(id)).collect()
    }

    /// Whether the value exists.
    pub(crate) fn contains(&self, v: ValueId) -> bool {
        self.dag.node_weight(v.op.0).is_some_and(|n| v.port < n.results.len())
    }

    /// Operands of an operation with their slots, in the order of the slots: what [`Graph::operands`] takes to be dense.
    pub(crate) fn slots(&self, id: OpId) -> Vec<(usize, ValueId)> {
        let mut uses: Vec<(usize, ValueId)> = self
            .dag
            .edges_directed(id.0, Direction::Incoming)
            .map(|e| (e.weight().slot, ValueId { op: OpId(e.source()), port: e.weight().port }))
            .collect();
        uses.sort_unstable();
        uses
    }

    /// Adds an operation as stated: nothing is inferred, checked or renamed. For the parser, which checks before it adds.
    pub(crate) fn insert(&mut self, op: Op, operands: &[ValueId], results: Vec<Value>, source: &str) -> OpId {
        if let Some(taken) = &mut self.taken {
            taken.extend(results.iter().map(|v| v.name.clone()));
        }
        let is_input = matches!(op, Op::Input(_));
        let id = OpId(self.dag.add_node(Node { op, source: source.to_owned(), results }));
        if is_input {
            self.inputs.push(id);
        }
        for (slot, v) in operands.iter().enumerate() {
            self.dag.add_edge(v.op.0, id.0, Use { port: v.port, slot });
        }
        id
    }

    fn push(&mut self, op: Op, source: &str, types: Vec<Type>, name: &str) -> OpId {
        // A value without a name could not be printed.
        let name = if name.is_empty() { op.name() } else { name };
        let results = types
            .into_iter()
            .enumerate()
            .map(|(port, ty)| {
                let hint = if port == 0 { name.to_owned() } else { format!("{name}.{port}") };
                Value { name: self.unique(&hint), ty }
            })
            .collect();
        OpId(self.dag.add_node(Node { op, source: source.to_owned(), results }))
    }

    /// The name itself if it is free, else with the first suffix `.1`, `.2`, … that is.
    fn unique(&mut self, name: &str) -> String {
        let Graph { dag, taken, suffix, .. } = self;
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

/// Equal name, inputs, outputs and operations in [`Graph::ops`] order, with equal names, types and constants' contents.
impl PartialEq for Graph {
    fn eq(&self, other: &Graph) -> bool {
        let (a, b) = (self.ops(), other.ops());
        if self.name != other.name || a.len() != b.len() || self.outputs.len() != other.outputs.len() {
            return false;
        }
        let place = |g: &Graph, order: &[OpId]| -> HashMap<OpId, usize> {
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
                let (nx, ny) = (&self.dag[x.0], &other.dag[y.0]);
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

    impl Graph {
        pub(crate) fn faulty_use(&mut self, user: OpId, slot: usize, v: ValueId) {
            self.dag.add_edge(v.op.0, user.0, Use { port: v.port, slot });
        }

        pub(crate) fn faulty_operands(&mut self, user: OpId, operands: &[ValueId]) {
            self.dag.retain_edges(|dag, e| dag.edge_endpoints(e).is_none_or(|(_, to)| to != user.0));
            for (slot, &v) in operands.iter().enumerate() {
                self.faulty_use(user, slot, v);
            }
        }

        pub(crate) fn faulty_inputs(&mut self, inputs: Vec<OpId>) {
            self.inputs = inputs;
        }

        pub(crate) fn faulty_value(&mut self, v: ValueId) -> &mut Value {
            &mut self.dag[v.op.0].results[v.port]
        }

        pub(crate) fn faulty_op(&mut self, id: OpId) -> &mut Op {
            &mut self.dag[id.0].op
        }

        pub(crate) fn faulty_remove(&mut self, id: OpId) {
            self.dag.remove_node(id.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Unary, verify};

    fn neg(g: &mut Graph, x: ValueId, name: &str) -> ValueId {
        g.add1(Op::Unary(Unary::Neg), &[x], name, "").unwrap()
    }

    fn one() -> (Graph, ValueId) {
        let mut g = Graph::new("g");
        let x = g.input("x", Type::new(DType::F32, [2]));
        (g, x)
    }

    #[test]
    fn a_value_without_a_name_is_named_by_its_operation() {
        let (mut g, x) = one();
        let values: Vec<ValueId> = (0..3).map(|_| neg(&mut g, x, "")).collect();
        let names: Vec<&str> = values.iter().map(|&v| g.value(v).name.as_str()).collect();
        assert_eq!(names, ["neg", "neg.1", "neg.2"]);
    }

    #[test]
    fn a_value_replaced_by_itself_stays_as_it_was() {
        let (mut g, x) = one();
        let y = neg(&mut g, x, "y");
        g.output("y", y);
        let before = g.clone();
        g.replace(y, y);
        assert_eq!(g, before);
        // Its name is still taken.
        let other = neg(&mut g, x, "y");
        assert_eq!(g.value(other).name, "y.1");
        assert_eq!(verify(&g), Ok(()));
    }

    #[test]
    fn the_maker_of_a_replacement_may_read_what_it_replaces() {
        let (mut g, x) = one();
        let y = neg(&mut g, x, "y");
        g.output("out", y);
        let z = neg(&mut g, y, "z");
        g.replace(y, z);
        assert_eq!(g.outputs()[0].value, z);
        assert_eq!((g.value(z).name.as_str(), g.value(y).name.as_str()), ("y", "y.old"));
        assert_eq!(g.operands(z.op), [y]);
        assert_eq!(verify(&g), Ok(()));
    }

    #[test]
    fn inputs_stay_when_nothing_reads_them_and_the_rest_goes() {
        let (mut g, x) = one();
        let y = neg(&mut g, x, "y");
        neg(&mut g, y, "dead");
        g.output("y", y);
        g.input("unread", Type::new(DType::F32, [2]));
        g.remove_dead();
        assert_eq!((g.len(), g.inputs().len()), (3, 2));
        let again = neg(&mut g, x, "dead");
        assert_eq!(g.value(again).name, "dead");
        assert_eq!(verify(&g), Ok(()));
    }
}
