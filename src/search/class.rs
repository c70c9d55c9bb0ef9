//! Classes: attentions that are one island, whatever is chosen.

use super::error::SearchError;
use crate::ir::{Attention, Op, OpId, Type};
use crate::ring::RingError;
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
///
/// # Errors
/// If an island is no attention that the program splits.
pub(super) fn classes(program: &Program) -> Result<Vec<Class>, SearchError> {
    let graph = &program.graph;
    let mut classes: Vec<Class> = Vec::new();
    for segment in &program.segments {
        let &Segment::Island(op) = segment else { continue };
        let (Op::Attention(attention), Some(held)) = (graph.op(op), program.islands.get(&op)) else {
            let reason =
                "internal fault: it is an island, and no attention that the program splits".to_owned();
            return Err(RingError { at: graph.value(graph.result(op)).name.clone(), reason }.into());
        };
        let new = Class {
            attention: (**attention).clone(),
            operands: graph.operands(op).into_iter().map(|v| graph.ty(v).clone()).collect(),
            held: held.clone(),
            uses: vec![op],
        };
        let same =
            |c: &&mut Class| c.attention == new.attention && c.operands == new.operands && c.held == new.held;
        match classes.iter_mut().find(same) {
            Some(class) => class.uses.push(op),
            None => classes.push(new),
        }
    }
    Ok(classes)
}
