//! Where each operation of a graph stands in its order, and what is alive of it.
//!
//! In: a graph. Out: its operations, operands first, and of each its place among them, whether an output needs it, and
//! whether it depends on an input.
//!
//! Invariants: what is said is said of the graph as it was: an operation that is added later is not known, and has no place.
//! An operation on a cycle, or behind one, is not known either.

use super::graph::Graph;
use super::ids::{OpId, ValueId};
use super::op::Op;

/// What is known of one operation.
#[derive(Clone, Copy, Debug)]
struct Known {
    place: usize,
    live: bool,
    dynamic: bool,
}

/// The order of a graph's operations, with place and liveness of each.
#[derive(Clone, Debug)]
pub(crate) struct Topology {
    order: Vec<OpId>,
    /// By [`OpId::index`].
    known: Vec<Option<Known>>,
}

impl Topology {
    /// Of every operation.
    ///
    /// Complexity: O((V + E) log V), that of [`Graph::ops`].
    pub(crate) fn new(graph: &Graph) -> Topology {
        let order = graph.ops();
        let mut known = vec![None; order.iter().map(|id| id.index() + 1).max().unwrap_or(0)];
        for (place, &id) in order.iter().enumerate() {
            let depends = |v: &ValueId| known[v.op.index()].is_some_and(|k: Known| k.dynamic);
            // What an opaque operator gives may be anything, even without operands.
            let source = matches!(graph.op(id), Op::Input(_) | Op::Opaque(_));
            let dynamic = source || graph.operands(id).iter().any(depends);
            known[id.index()] = Some(Known { place, live: false, dynamic });
        }
        let mut topology = Topology { order, known };
        graph.outputs().iter().for_each(|o| topology.revive(o.value.op));
        for i in (0..topology.order.len()).rev() {
            let id = topology.order[i];
            if topology.is_live(id) {
                graph.operands(id).iter().for_each(|v| topology.revive(v.op));
            }
        }
        topology
    }

    /// Of those operations alone that stay when the dead ones are removed: inputs, and what an output needs.
    pub(crate) fn without_dead(graph: &Graph) -> Topology {
        let Topology { order, mut known } = Topology::new(graph);
        let mut stay = Vec::with_capacity(order.len());
        for id in order {
            let slot = &mut known[id.index()];
            *slot = slot.filter(|k| k.live || matches!(graph.op(id), Op::Input(_)));
            if let Some(k) = slot {
                k.place = stay.len();
                stay.push(id);
            }
        }
        Topology { order: stay, known }
    }

    fn revive(&mut self, id: OpId) {
        if let Some(Some(k)) = self.known.get_mut(id.index()) {
            k.live = true;
        }
    }

    fn get(&self, id: OpId) -> Option<Known> {
        self.known.get(id.index()).copied().flatten()
    }

    /// The operations, operands first, as [`Graph::ops`] lists them.
    pub(crate) fn order(&self) -> &[OpId] {
        &self.order
    }

    /// Where the operation stands in the order, if it is known.
    pub(crate) fn place(&self, id: OpId) -> Option<usize> {
        self.get(id).map(|k| k.place)
    }

    /// Whether both operations are known, and `a` comes first.
    pub(crate) fn before(&self, a: OpId, b: OpId) -> bool {
        matches!((self.place(a), self.place(b)), (Some(a), Some(b)) if a < b)
    }

    /// Whether an output needs the operation.
    pub(crate) fn is_live(&self, id: OpId) -> bool {
        self.get(id).is_some_and(|k| k.live)
    }

    /// Whether the operation is an input, or depends on one.
    pub(crate) fn depends_on_input(&self, id: OpId) -> bool {
        self.get(id).is_some_and(|k| k.dynamic)
    }

    /// Whether the operation may depend on an input: one that is not known is taken to.
    pub(crate) fn may_depend_on_input(&self, id: OpId) -> bool {
        self.get(id).is_none_or(|k| k.dynamic)
    }
}

#[cfg(test)]
mod tests {
    use super::Topology;
    use crate::ir::{Binary, DType, Graph, Op, Tensor, Type, Unary, ValueId};

    /// y = −x + −2 is an output; −(−2) and the input z are read by nothing.
    struct Sample {
        graph: Graph,
        x: ValueId,
        two: ValueId,
        dead: ValueId,
        sum: ValueId,
        unread: ValueId,
    }

    fn sample() -> Sample {
        let mut graph = Graph::new("g");
        let x = graph.input("x", Type::new(DType::F32, [2]));
        let two = graph.constant("two", Tensor::scalar(DType::F32, -2.0));
        let dead = graph.add1(Op::Unary(Unary::Neg), &[two], "dead", "").unwrap();
        let neg = graph.add1(Op::Unary(Unary::Neg), &[x], "neg", "").unwrap();
        let sum = graph.add1(Op::Binary(Binary::Add), &[neg, two], "sum", "").unwrap();
        graph.output("y", sum);
        let unread = graph.input("z", Type::new(DType::F32, [2]));
        Sample { graph, x, two, dead, sum, unread }
    }

    #[test]
    fn every_operation_has_its_place_in_the_order() {
        let s = sample();
        let t = Topology::new(&s.graph);
        assert_eq!(t.order(), s.graph.ops());
        for (i, &id) in t.order().iter().enumerate() {
            assert_eq!(t.place(id), Some(i));
        }
        assert!(t.before(s.x.op, s.sum.op) && !t.before(s.sum.op, s.x.op) && !t.before(s.x.op, s.x.op));
    }

    #[test]
    fn what_an_output_needs_is_live_and_what_reads_an_input_depends_on_one() {
        let s = sample();
        let t = Topology::new(&s.graph);
        let live = [s.x, s.two, s.dead, s.sum, s.unread].map(|v| t.is_live(v.op));
        assert_eq!(live, [true, true, false, true, false]);
        let dynamic = [s.x, s.two, s.dead, s.sum, s.unread].map(|v| t.depends_on_input(v.op));
        assert_eq!(dynamic, [true, false, false, true, true]);
    }

    #[test]
    fn without_the_dead_the_order_is_that_of_a_graph_from_which_they_are_removed() {
        let Sample { mut graph, dead, unread, .. } = sample();
        let t = Topology::without_dead(&graph);
        assert_eq!(t.place(dead.op), None);
        assert!(t.place(unread.op).is_some() && !t.is_live(unread.op));
        graph.remove_dead();
        assert_eq!(t.order(), graph.ops());
        for (i, &id) in t.order().iter().enumerate() {
            assert_eq!(t.place(id), Some(i));
        }
    }

    #[test]
    fn what_is_added_later_is_not_known() {
        let mut s = sample();
        let t = Topology::new(&s.graph);
        let later = s.graph.add1(Op::Unary(Unary::Exp), &[s.sum], "later", "").unwrap();
        assert_eq!(t.place(later.op), None);
        assert!(!t.is_live(later.op) && !t.depends_on_input(later.op) && !t.before(s.x.op, later.op));
    }

    #[test]
    fn operations_on_a_cycle_and_behind_it_are_not_known() {
        let mut s = sample();
        s.graph.faulty_operands(s.dead.op, &[s.dead]);
        let t = Topology::new(&s.graph);
        assert_eq!((t.order().len(), t.place(s.dead.op)), (s.graph.len() - 1, None));
        s.graph.output("cyclic", s.dead);
        assert!(!Topology::new(&s.graph).is_live(s.dead.op));
    }
}
