//! The terms of single operations between QKᵀ and PV: layout, functions of one and two elements, choices, and folds of rows.

use super::builder::Builder;
use super::types::{Fail, label, miss};
use crate::find::algebra::term::{Expr, Unknown};
use crate::find::axes::factors::{Axes, Dim};
use crate::find::axes::trace::{layout, splat};
use crate::ir::{Binary, DType, OpId, Reduction, Unary, ValueId};
use egg::Id;

impl Builder<'_> {
    /// What only lays the scores out anew has no term; its axes are followed.
    pub(super) fn laid_out(&mut self, id: OpId, v: ValueId, x: &[ValueId]) -> Result<(Id, Axes), Fail> {
        let graph = self.graph;
        let (term, axes) = self.inside[&x[0]].clone();
        match layout(graph, self.constants, &mut self.space, v, &axes) {
            Some((axes, new)) if new.is_empty() => Ok((term, axes)),
            // Of what is one number a row: whatever reads it repeats it anyway.
            Some(_) if axes.iter().any(|a| self.space.product(a) == 1) && self.only_rows(&axes, id) => {
                Ok((term, axes))
            }
            Some(_) => miss(format!(
                "{} repeats the scores along a new axis, where each score may stand only once",
                label(graph, id)
            )),
            None => miss(format!(
                "{} mixes the axes of the scores, so that rows and keys cannot be told apart",
                label(graph, id)
            )),
        }
    }

    /// A function of one element.
    pub(super) fn unary(&mut self, u: Unary, v: ValueId, x: &[ValueId]) -> (Id, Axes) {
        let graph = self.graph;
        let (a, axes) = self.inside[&x[0]].clone();
        if u == Unary::Exp {
            // Of half types f16 alone has a small range.
            let wide = |t: &DType| *t != DType::F16;
            self.exponentials = self.exponentials.into_iter().chain([graph.ty(v).dtype]).min_by_key(wide);
        }
        let node = match u {
            Unary::Neg => Expr::Neg([a]),
            Unary::Tanh => Expr::Tanh([a]),
            Unary::Exp => Expr::Exp([a]),
            Unary::Reciprocal => Expr::Reciprocal([a]),
            Unary::Log => Expr::Log([a]),
            Unary::IsNan => Expr::IsNan([a]),
            Unary::IsInf => Expr::IsInf([a]),
            Unary::Not => Expr::Not([a]),
            other => Expr::Unknown(Unknown(other.name().into()), vec![a]),
        };
        let truth = matches!(node, Expr::IsNan(_) | Expr::IsInf(_) | Expr::Not(_));
        let id = self.term.add(node);
        if truth {
            self.truths.insert(id);
        }
        (id, axes)
    }

    /// A function of two elements, of which one may be a leaf.
    pub(super) fn binary(
        &mut self,
        id: OpId,
        b: Binary,
        v: ValueId,
        x: &[ValueId],
    ) -> Result<(Id, Axes), Fail> {
        let graph = self.graph;
        let axes = self.broadcast(id, x)?;
        // What is added to a sum is none of the biases.
        let is_sum = |i: &(Id, Axes)| matches!(self.term[i.0], Expr::RowSum(_));
        let row = x.iter().any(|o| self.inside.get(o).is_some_and(is_sum));
        let fold = row || !matches!(b, Binary::Add | Binary::Sub);
        if row && b == Binary::Add {
            let bits = |t: &DType| t.bytes();
            self.sums = self.sums.into_iter().chain([graph.ty(v).dtype]).max_by_key(bits);
        }
        let terms: Vec<Id> = x.iter().map(|&o| self.operand(v, o, &axes, fold)).collect::<Result<_, _>>()?;
        let swap = !self.inside.contains_key(&x[0]);
        let (a, c) = if swap { (terms[1], terms[0]) } else { (terms[0], terms[1]) };
        let node = match b {
            Binary::Add => Expr::Add([a, c]),
            Binary::Mul => Expr::Mul([a, c]),
            Binary::Sub => Expr::Sub([terms[0], terms[1]]),
            Binary::Div => Expr::Div([terms[0], terms[1]]),
            Binary::Eq => Expr::Eq([a, c]),
            Binary::Max => Expr::Max([a, c]),
            Binary::Pow => Expr::Pow([terms[0], terms[1]]),
            other => Expr::Unknown(Unknown(other.name().into()), terms),
        };
        self.note_narrow(v, !fold);
        let id = self.term.add(node);
        if b == Binary::Eq {
            self.truths.insert(id);
        }
        Ok((id, axes))
    }

    /// An elementwise choice.
    pub(super) fn chosen(&mut self, id: OpId, v: ValueId, x: &[ValueId]) -> Result<(Id, Axes), Fail> {
        let graph = self.graph;
        let axes = self.broadcast(id, x)?;
        // A condition that is the same everywhere chooses nothing.
        let always = splat(graph, self.constants, x[0]).filter(|_| !self.inside.contains_key(&x[0]));
        if let Some(c) = always
            && let arm = x[if c == 0.0 { 2 } else { 1 }]
            && let Some((term, own)) = self.inside.get(&arm)
            && self.space.resolve_all(own) == self.space.resolve_all(&axes)
        {
            return Ok((*term, axes));
        }
        let mut terms: Vec<Id> = vec![];
        for &o in x {
            let row = if terms.is_empty() { self.empty_row(v, o, &axes) } else { None };
            terms.push(match row {
                Some(row) => row,
                None => self.operand(v, o, &axes, true)?,
            });
        }
        self.note_narrow(v, !self.after_softmax());
        Ok((self.term.add(Expr::Where([terms[0], terms[1], terms[2]])), axes))
    }

    /// A fold over the keys: the maximum, minimum, mean or sum of each row.
    pub(super) fn reduced(
        &mut self,
        id: OpId,
        (kind, reduced, keep): (Reduction, &[usize], bool),
        x: &[ValueId],
    ) -> Result<(Id, Axes), Fail> {
        let (term, axes) = self.inside[&x[0]].clone();
        let over: Vec<Dim> = reduced.iter().flat_map(|&a| axes[a].clone()).collect();
        self.over_keys(&over, id)?;
        let left = (0..axes.len())
            .filter(|a| keep || !reduced.contains(a))
            .map(|a| if reduced.contains(&a) { vec![] } else { axes[a].clone() })
            .collect();
        let node = match kind {
            Reduction::Max => Expr::RowMax([term]),
            Reduction::Min => Expr::RowMin([term]),
            Reduction::Mean => Expr::RowMean([term]),
            Reduction::Sum => Expr::RowSum([term]),
            other => Expr::Unknown(Unknown(format!("reduce {}", other.name())), vec![term]),
        };
        let truth = matches!(node, Expr::RowMax(_) | Expr::RowMin(_)) && self.truths.contains(&term);
        let id = self.term.add(node);
        if truth {
            self.truths.insert(id);
        }
        Ok((id, left))
    }
}
