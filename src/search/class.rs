//! Classes: attentions that are one island, whatever is chosen.

use crate::ir::{Attention, Op, OpId, Type};
use crate::shard::{self, Program, Segment};

/// Attentions that are one island, whatever is chosen: equal in shapes, types and mask, and of the same sequences. Masks and
/// biases that are tensors are arguments of the schedule, so that their content does not stand here.
#[derive(PartialEq)]
pub(super) struct Class {
    pub(super) attention: Attention,
    pub(super) operands: Vec<Type>,
    pub(super) held: shard::IslandSharding,
    pub(super) uses: Vec<OpId>,
}

/// The classes of a program, in order of first use.
pub(super) fn classes(program: &Program) -> Vec<Class> {
    let graph = &program.graph;
    let mut classes: Vec<Class> = Vec::new();
    for segment in &program.segments {
        let &Segment::Island(op) = segment else { continue };
        let Op::Attention(attention) = graph.op(op) else { unreachable!("an island is an attention") };
        let new = Class {
            attention: (**attention).clone(),
            operands: graph.operands(op).into_iter().map(|v| graph.ty(v).clone()).collect(),
            held: program.islands[&op].clone(),
            uses: vec![op],
        };
        let same =
            |c: &&mut Class| c.attention == new.attention && c.operands == new.operands && c.held == new.held;
        match classes.iter_mut().find(same) {
            Some(class) => class.uses.push(op),
            None => classes.push(new),
        }
    }
    classes
}
