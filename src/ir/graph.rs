//! The graph of operations: what every room reads and builds.

use super::Tensor;
use super::dag::{Dag, Value};
use super::ids::{OpId, ValueId};
use super::infer::{InferError, infer, rowwise};
use super::op::{Constant, Op, Opaque, RowAxes};
use super::types::Type;
use std::sync::Arc;

/// A graph of SSA values and operations.
///
/// Built by [`Graph::input`], [`Graph::constant`] and [`Graph::add`], which infer types, so that a graph made through this
/// interface is well typed; [`super::verify()`] checks what other code relies on. Weights are shared between graphs.
///
/// ```
/// use annulus::ir::{Binary, DType, Graph, Op, Tensor, Type, verify};
///
/// let mut graph = Graph::new("half");
/// let x = graph.input("x", Type::new(DType::F32, [2, 3]));
/// let half = graph.constant("half", Tensor::scalar(DType::F32, 0.5));
/// let y = graph.add1(Op::Binary(Binary::Mul), &[x, half], "y", "")?;
/// graph.output("y", y);
/// assert!(verify(&graph).is_ok());
/// assert!(graph.to_string().contains("%y: f32[2,3] = mul %x, %half"));
/// // Types are inferred, and what does not fit is refused.
/// assert!(graph.add1(Op::Softmax { axis: 2 }, &[y], "p", "").is_err());
/// # Ok::<(), annulus::ir::InferError>(())
/// ```
pub type Graph = Dag<Op>;

impl Graph {
    /// The constant behind a value, if it is one.
    pub fn as_constant(&self, v: ValueId) -> Option<&Constant> {
        match self.get_op(v.op) {
            Some(Op::Constant(c)) => Some(c),
            _ => None,
        }
    }

    /// Adds an input.
    pub fn input(&mut self, name: &str, ty: Type) -> ValueId {
        let id = self.make(Op::Input(ty.clone()), "", vec![ty], name);
        self.list_input(id);
        self.result(id)
    }

    /// Adds a constant with its data.
    pub fn constant(&mut self, name: &str, data: Tensor) -> ValueId {
        self.weight(name, Constant::new(data))
    }

    /// Adds a constant that may be shared or lack its data.
    pub fn weight(&mut self, name: &str, constant: Constant) -> ValueId {
        let ty = constant.ty.clone();
        let id = self.make(Op::Constant(constant), "", vec![ty], name);
        self.result(id)
    }

    /// Adds an operation; its types are inferred. `name` names the first result (a suffix makes it unique; further results
    /// are `name.1`, …); `source` is the node of the imported model that it stands for, or empty.
    ///
    /// # Errors
    /// If the operation does not take these operands, or one of them is a value of another graph.
    pub fn add(
        &mut self,
        op: Op,
        operands: &[ValueId],
        name: &str,
        source: &str,
    ) -> Result<OpId, InferError> {
        let foreign =
            |i: usize| InferError { op: op.name(), why: format!("operand {i} is no value of this graph") };
        let known = operands.iter().enumerate().map(|(i, &v)| Ok(&self.get(v).ok_or_else(|| foreign(i))?.ty));
        let types: Vec<&Type> = known.collect::<Result<_, InferError>>()?;
        let results = infer(&op, &types)?;
        let id = self.make(op, source, results, name);
        self.connect(id, operands);
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

    /// Promises that an opaque operator treats rows apart along these axes.
    ///
    /// # Errors
    /// If it is none, or has no such axes of one extent.
    pub(crate) fn promise(&mut self, id: OpId, rows: RowAxes) -> Result<(), String> {
        let operands = self.operands(id);
        let types: Vec<&Type> = operands.iter().map(|&v| self.ty(v)).collect();
        let Some(Op::Opaque(o)) = self.get_op(id) else { return Err("it is no opaque operator".into()) };
        rowwise(&rows, &types, &o.results)?;
        let promised = Op::Opaque(Arc::new(Opaque { rowwise: Some(rows), ..(**o).clone() }));
        if let Some(op) = self.op_mut(id) {
            *op = promised;
        }
        Ok(())
    }

    /// Adds an operation as stated: nothing is inferred, checked or renamed. For the parser, which checks before it adds.
    pub(crate) fn insert(&mut self, op: Op, operands: &[ValueId], results: Vec<Value>, source: &str) -> OpId {
        let is_input = matches!(op, Op::Input(_));
        let id = self.push_named(op, source, results);
        if is_input {
            self.list_input(id);
        }
        self.connect(id, operands);
        id
    }

    /// Adds an operation without operands; one without a name, which could not be printed, is named by its mnemonic.
    fn make(&mut self, op: Op, source: &str, types: Vec<Type>, name: &str) -> OpId {
        let name = if name.is_empty() { op.name() } else { name };
        self.push(op, source, types, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, ReplaceError, Unary, verify};

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
        g.replace(y, y).unwrap();
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
        g.replace(y, z).unwrap();
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

    /// What another graph's ids give, whether or not this graph has such numbers.
    #[test]
    fn ids_of_another_graph_are_foreign() {
        let (mut g, x) = one();
        let y = neg(&mut g, x, "y");
        g.output("y", y);
        let before = g.clone();
        let (mut other, near) = one();
        let far = (0..20).fold(near, |v, _| neg(&mut other, v, ""));
        let weight = other.constant("w", Tensor::scalar(DType::F32, 1.0));
        for v in [near, far, weight, ValueId { port: 1, ..x }] {
            assert_eq!((g.get(v), g.as_constant(v), g.uses(v)), (None, None, vec![]));
            assert!(!g.output("o", v) && !g.rename(v, "o") && !g.is_output(v));
            assert_eq!(
                (g.replace(y, v), g.replace(v, y)),
                (Err(ReplaceError::Foreign), Err(ReplaceError::Foreign))
            );
            let error = g.add(Op::Unary(Unary::Neg), &[v], "z", "").unwrap_err();
            assert_eq!(error.to_string(), "neg: operand 0 is no value of this graph");
        }
        for op in [near.op, far.op] {
            assert_eq!((g.get_op(op), g.source(op)), (None, ""));
            assert_eq!((g.results(op), g.operands(op)), (vec![], vec![]));
        }
        assert_eq!(g, before);
        // A clone knows the ids, and what was removed is gone.
        assert_eq!(before.get(y), g.get(y));
        let gone = neg(&mut g, x, "gone");
        g.remove_dead();
        assert_eq!(g.get(gone), None);
    }

    #[test]
    fn a_value_of_another_type_replaces_none() {
        let (mut g, x) = one();
        let wide = g.add1(Op::Cast(DType::F64), &[x], "wide", "").unwrap();
        let error = g.replace(x, wide).unwrap_err();
        assert_eq!(error.to_string(), "x is f32[2], and would be f64[2]");
    }
}
