//! Whether two values are the same although they are written twice: exporters write a mask anew wherever it is read.
//!
//! In: a graph and two values. Out: whether the same operations make both of the same values; nothing is computed.

use crate::ir::{DType, Graph, Op, Unary, ValueId};

/// Most operations that are compared of two values, one behind the other.
pub(crate) const DEEPEST: usize = 6;

/// Whether the same operations make both, as far as `limit` of them one behind the other.
pub(crate) fn same(g: &Graph, a: ValueId, b: ValueId, limit: usize) -> bool {
    if a == b {
        return true;
    }
    if let (Some(a), Some(b)) = (g.as_constant(a), g.as_constant(b)) {
        return a.data.is_some() && a.data == b.data;
    }
    let (x, y) = (g.operands(a.op), g.operands(b.op));
    limit > 0
        && a.port == b.port
        && !matches!(g.op(a.op), Op::Input(_) | Op::Opaque(_))
        && g.op(a.op) == g.op(b.op)
        && x.len() == y.len()
        && x.iter().zip(&y).all(|(a, b)| same(g, *a, *b, limit - 1))
}

/// What is kept by a mask: where the value is true, or not 0; or, if `not`, where it is false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    of: ValueId,
    not: bool,
}

impl Kept {
    /// Where a value is true, or where it is false.
    pub(crate) fn by(g: &Graph, v: ValueId, not: bool) -> Kept {
        let mut at = Kept { of: v, not };
        for _ in 0..DEEPEST {
            let x = g.operands(at.of.op);
            match g.op(at.of.op) {
                Op::Unary(Unary::Not) => at = Kept { of: x[0], not: !at.not },
                // Truth values stay what they are as numbers.
                Op::Cast(_) if g.ty(x[0]).dtype == DType::Bool => at.of = x[0],
                _ => break,
            }
        }
        at
    }

    /// Whether both are the same.
    pub(crate) fn same(self, g: &Graph, o: Kept) -> bool {
        self.not == o.not && same(g, self.of, o.of, DEEPEST)
    }
}
