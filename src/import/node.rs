//! One node on its way into the graph: its operands, its attributes, and the operations that it becomes.

use super::data;
use super::departure::Differs;
use super::error::ImportError;
use super::outcome::{Lowered, Refusal, malformed, unsupported};
use super::proto::{AttributeProto, NodeProto, attribute_type};
use crate::eval::Constants;
use crate::ir::types::broadcast;
use crate::ir::{Binary, DType, Data, Graph, Op, Reduction, Tensor, Type, Unary, ValueId, WayOut};
use std::collections::HashSet;

/// The most elements that a value may have whose contents shape the graph.
pub(super) const SHAPE_LIMIT: usize = 1 << 16;

/// The most axes of a value.
pub(super) const MAX_RANK: usize = 32;

/// The most parts into which a value is split.
pub(super) const MAX_PARTS: usize = 1 << 12;

/// A node being lowered.
pub(super) struct Cx<'a> {
    /// The graph so far.
    pub(super) graph: &'a mut Graph,
    /// Constants evaluated so far.
    pub(super) constants: &'a mut Constants,
    /// The node.
    pub(super) node: &'a NodeProto,
    /// Its name, made up if it has none.
    pub(super) source: &'a str,
    /// The version of its operator set.
    pub(super) version: i64,
    /// Its operands; `None` for one that is left out.
    pub(super) inputs: Vec<Option<Lowered>>,
    /// Every value name of the model, which intermediates must not take.
    pub(super) names: &'a HashSet<&'a str>,
    /// Which attributes have been asked for; one that never is would change the meaning unseen.
    pub(super) read: Vec<bool>,
    /// In what ONNX Runtime gives something else than the node means.
    pub(super) departs: Vec<Differs>,
}

impl Cx<'_> {
    // Operands.

    /// Whether operand `i` is there.
    pub(super) fn has(&self, i: usize) -> bool {
        self.inputs.get(i).is_some_and(Option::is_some)
    }

    /// Operand `i`, if it is there.
    pub(super) fn opt(&self, i: usize) -> Result<Option<ValueId>, Refusal> {
        match self.inputs.get(i) {
            None | Some(None) => Ok(None),
            Some(Some(Lowered::Value(v))) => Ok(Some(*v)),
            Some(Some(Lowered::Sequence(_))) => malformed(format!("operand {i} is a sequence")),
        }
    }

    /// Operand `i`, which must be there.
    pub(super) fn arg(&self, i: usize) -> Result<ValueId, Refusal> {
        match self.opt(i)? {
            Some(v) => Ok(v),
            None => malformed(format!("operand {i} is missing")),
        }
    }

    /// Every operand of a variadic operator.
    pub(super) fn args(&self) -> Result<Vec<ValueId>, Refusal> {
        (0..self.inputs.len()).map(|i| self.arg(i)).collect()
    }

    /// The type of a value.
    pub(super) fn ty(&self, v: ValueId) -> Type {
        self.graph.ty(v).clone()
    }

    /// The shape of a value.
    pub(super) fn shape(&self, v: ValueId) -> Vec<usize> {
        self.graph.ty(v).shape.clone()
    }

    /// The element type of a value.
    pub(super) fn dtype(&self, v: ValueId) -> DType {
        self.graph.ty(v).dtype
    }

    /// The value itself, if it does not depend on the inputs and is small.
    pub(super) fn known(&mut self, v: ValueId) -> Option<Tensor> {
        if let Some(c) = self.graph.as_constant(v)
            && c.ty.checked_elements()? <= SHAPE_LIMIT
        {
            return c.data.as_deref().cloned();
        }
        self.constants.value(self.graph, v, SHAPE_LIMIT)
    }

    /// The integers of operand `i`, which says `what` and must be known, if it is there.
    pub(super) fn opt_ints(&mut self, i: usize, what: &str) -> Result<Option<Vec<i64>>, Refusal> {
        let Some(v) = self.opt(i)? else { return Ok(None) };
        if !matches!(self.dtype(v), DType::I64 | DType::I32) || self.ty(v).rank() > 1 {
            return malformed(format!("its {what} is {}, not a vector of integers", self.ty(v)));
        }
        match self.known(v).as_ref().map(Tensor::data) {
            Some(Data::I64(x)) => Ok(Some(x.to_vec())),
            Some(Data::I32(x)) => Ok(Some(x.iter().map(|&x| i64::from(x)).collect())),
            _ => {
                let name = &self.graph.value(v).name;
                let why = format!(
                    "its {what} ({name}) depends on the values of the inputs, or has more than {SHAPE_LIMIT} elements"
                );
                unsupported(why, WayOut::FixSizes)
            }
        }
    }

    /// The integers of operand `i`, which must be there and known.
    pub(super) fn ints(&mut self, i: usize, what: &str) -> Result<Vec<i64>, Refusal> {
        match self.opt_ints(i, what)? {
            Some(x) => Ok(x),
            None => malformed(format!("its {what} is missing")),
        }
    }

    /// The one integer of operand `i`, if it is there.
    pub(super) fn opt_scalar_int(&mut self, i: usize, what: &str) -> Result<Option<i64>, Refusal> {
        match self.opt_ints(i, what)?.as_deref() {
            None => Ok(None),
            Some([x]) => Ok(Some(*x)),
            Some(x) => malformed(format!("its {what} has {} elements, not one", x.len())),
        }
    }

    // Attributes.

    fn attribute(&mut self, name: &str, kind: i32) -> Result<Option<&AttributeProto>, Refusal> {
        let Some(i) = self.node.attribute.iter().position(|a| a.name == name) else { return Ok(None) };
        self.read[i] = true;
        let a = &self.node.attribute[i];
        if !a.ref_attr_name.is_empty() {
            return malformed(format!("attribute {name} refers to a function's attribute"));
        }
        if a.r#type != kind {
            return malformed(format!("attribute {name} has type {}, not {kind}", a.r#type));
        }
        Ok(Some(a))
    }

    /// An integer attribute.
    pub(super) fn int(&mut self, name: &str) -> Result<Option<i64>, Refusal> {
        Ok(self.attribute(name, attribute_type::INT)?.map(|a| a.i))
    }

    /// An integer attribute that is 0 or 1.
    pub(super) fn flag(&mut self, name: &str, default: bool) -> Result<bool, Refusal> {
        Ok(self.int(name)?.map_or(default, |i| i != 0))
    }

    /// A number attribute. The wire holds an f32.
    pub(super) fn float(&mut self, name: &str) -> Result<Option<f64>, Refusal> {
        Ok(self.attribute(name, attribute_type::FLOAT)?.map(|a| f64::from(a.f)))
    }

    /// An attribute with integers.
    pub(super) fn int_list(&mut self, name: &str) -> Result<Option<Vec<i64>>, Refusal> {
        Ok(self.attribute(name, attribute_type::INTS)?.map(|a| a.ints.clone()))
    }

    /// An attribute with numbers.
    pub(super) fn float_list(&mut self, name: &str) -> Result<Option<Vec<f32>>, Refusal> {
        Ok(self.attribute(name, attribute_type::FLOATS)?.map(|a| a.floats.clone()))
    }

    /// A string attribute, or its default.
    pub(super) fn string(&mut self, name: &str, default: &str) -> Result<String, Refusal> {
        Ok(self
            .attribute(name, attribute_type::STRING)?
            .map_or(default.to_owned(), |a| String::from_utf8_lossy(&a.s).into_owned()))
    }

    /// A tensor attribute.
    pub(super) fn tensor(&mut self, name: &str) -> Result<Option<Tensor>, Refusal> {
        let Some(a) = self.attribute(name, attribute_type::TENSOR)? else { return Ok(None) };
        let Some(t) = &a.t else { return malformed(format!("attribute {name} is empty")) };
        match data::tensor(t, "attribute") {
            Ok(t) => Ok(Some(t)),
            Err(ImportError::Refused(why)) => Err(Refusal::Unsupported(why)),
            Err(e) => malformed(format!("attribute {name}: {e}")),
        }
    }

    /// An element type from an attribute's number.
    pub(super) fn dtype_of(&self, code: i64) -> Result<DType, Refusal> {
        let code = i32::try_from(code).unwrap_or(0);
        match data::dtype(code) {
            Some(t) => Ok(t),
            None => unsupported(
                format!("it names element type {}", data::type_name(code)),
                WayOut::ConvertElements,
            ),
        }
    }

    /// An axis from its number, which may count from the end.
    pub(super) fn axis(&self, axis: i64, rank: usize) -> Result<usize, Refusal> {
        normal_axis(axis, rank)
    }

    /// Axes from their numbers, ascending; one that stands twice is an error.
    pub(super) fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>, Refusal> {
        let mut out = axes.iter().map(|&a| normal_axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
        out.sort_unstable();
        if !out.is_sorted_by(|a, b| a < b) {
            return malformed(format!("axes {axes:?} name one axis twice"));
        }
        Ok(out)
    }

    // Operations.

    /// Adds an operation that makes the node's first output.
    pub(super) fn out(&mut self, op: Op, operands: &[ValueId]) -> Result<ValueId, Refusal> {
        let name = self.output_name(0);
        self.add(op, operands, &name)
    }

    /// Adds an operation that makes the node's output `i`.
    pub(super) fn out_nth(&mut self, i: usize, op: Op, operands: &[ValueId]) -> Result<ValueId, Refusal> {
        let name = self.output_name(i);
        self.add(op, operands, &name)
    }

    /// Adds an operation whose result is an intermediate of the node; `what` says what it is.
    pub(super) fn sub(&mut self, what: &str, op: Op, operands: &[ValueId]) -> Result<ValueId, Refusal> {
        let name = self.name_of(what);
        self.add(op, operands, &name)
    }

    /// Adds an operation and returns all its results.
    pub(super) fn add_all(&mut self, op: Op, operands: &[ValueId]) -> Result<Vec<ValueId>, Refusal> {
        let name = self.output_name(0);
        let id = self.graph.add(op, operands, &name, self.source)?;
        Ok(self.graph.results(id))
    }

    fn add(&mut self, op: Op, operands: &[ValueId], name: &str) -> Result<ValueId, Refusal> {
        let v = self.graph.add1(op, operands, name, self.source)?;
        if self.graph.ty(v).rank() > MAX_RANK {
            let why = format!("{} has more than {MAX_RANK} axes", self.graph.ty(v));
            return unsupported(why, WayOut::FewerAxes);
        }
        Ok(v)
    }

    /// The name of output `i`, or one made from the node's.
    pub(super) fn output_name(&self, i: usize) -> String {
        match self.node.output.get(i).map(String::as_str) {
            Some("") | None => self.name_of(&format!("out{i}")),
            Some(name) => name.to_owned(),
        }
    }

    /// `name.what`, where the name is that of the first output, and no value of the model is called so.
    fn name_of(&self, what: &str) -> String {
        let base = self.node.output.iter().find(|o| !o.is_empty()).map_or(self.source, String::as_str);
        let mut name = format!("{base}.{what}");
        while self.names.contains(name.as_str()) {
            name.push('_');
        }
        name
    }

    /// A constant that the node brings along.
    pub(super) fn constant(&mut self, what: &str, data: Tensor) -> ValueId {
        let name = self.name_of(what);
        self.graph.constant(&name, data)
    }

    /// A scalar constant of the type of `like`.
    pub(super) fn scalar(&mut self, what: &str, dtype: DType, value: f64) -> ValueId {
        self.constant(what, Tensor::scalar(dtype, value))
    }

    /// A function of one element, as an intermediate.
    pub(super) fn unary(&mut self, what: &str, f: Unary, x: ValueId) -> Result<ValueId, Refusal> {
        self.sub(what, Op::Unary(f), &[x])
    }

    /// A function of two elements, as an intermediate.
    pub(super) fn binary(
        &mut self,
        what: &str,
        f: Binary,
        a: ValueId,
        b: ValueId,
    ) -> Result<ValueId, Refusal> {
        self.sub(what, Op::Binary(f), &[a, b])
    }

    /// A function of an element and a number, as an intermediate.
    pub(super) fn with_scalar(
        &mut self,
        what: &str,
        f: Binary,
        x: ValueId,
        number: f64,
    ) -> Result<ValueId, Refusal> {
        let dtype = self.dtype(x);
        let c = self.scalar(&format!("{what}.c"), dtype, number);
        self.binary(what, f, x, c)
    }

    /// A conversion, as an intermediate; nothing if the type is that already.
    pub(super) fn cast(&mut self, what: &str, x: ValueId, dtype: DType) -> Result<ValueId, Refusal> {
        if self.dtype(x) == dtype { Ok(x) } else { self.sub(what, Op::Cast(dtype), &[x]) }
    }

    /// Another shape, as an intermediate; nothing if the shape is that already.
    pub(super) fn reshape(&mut self, what: &str, x: ValueId, shape: &[usize]) -> Result<ValueId, Refusal> {
        if self.graph.ty(x).shape == shape {
            Ok(x)
        } else {
            self.sub(what, Op::Reshape(shape.to_vec()), &[x])
        }
    }

    /// Another order of axes, as an intermediate; nothing if the order stays.
    pub(super) fn permute(&mut self, what: &str, x: ValueId, perm: &[usize]) -> Result<ValueId, Refusal> {
        if perm.is_sorted() { Ok(x) } else { self.sub(what, Op::Permute(perm.to_vec()), &[x]) }
    }

    /// A larger shape, as an intermediate; nothing if the shape is that already.
    pub(super) fn expand(&mut self, what: &str, x: ValueId, shape: &[usize]) -> Result<ValueId, Refusal> {
        if self.graph.ty(x).shape == shape {
            Ok(x)
        } else {
            self.sub(what, Op::Broadcast(shape.to_vec()), &[x])
        }
    }

    /// A contiguous part of an axis, as an intermediate; nothing if it is the whole axis.
    pub(super) fn slice(
        &mut self,
        what: &str,
        x: ValueId,
        axis: usize,
        start: usize,
        len: usize,
    ) -> Result<ValueId, Refusal> {
        if start == 0 && self.graph.ty(x).shape.get(axis) == Some(&len) {
            Ok(x)
        } else {
            self.sub(what, Op::Slice { axis, start, len, step: 1 }, &[x])
        }
    }

    /// A reduction that keeps its axes, as an intermediate.
    pub(super) fn reduce(
        &mut self,
        what: &str,
        kind: Reduction,
        x: ValueId,
        axes: &[usize],
    ) -> Result<ValueId, Refusal> {
        self.sub(what, Op::Reduce { kind, axes: axes.to_vec(), keep: true }, &[x])
    }

    /// Whether a value broadcasts to the shape of another without widening it.
    pub(super) fn fits(&self, small: ValueId, large: &[usize]) -> bool {
        broadcast(&self.graph.ty(small).shape, large).as_deref() == Some(large)
    }

    /// Whether output `i` is wanted.
    pub(super) fn wants(&self, i: usize) -> bool {
        self.node.output.get(i).is_some_and(|o| !o.is_empty())
    }
}

/// An axis from its number, which may count from the end.
pub(super) fn normal_axis(axis: i64, rank: usize) -> Result<usize, Refusal> {
    let r = i64::try_from(rank).unwrap_or(i64::MAX);
    let a = if axis < 0 { axis.saturating_add(r) } else { axis };
    match usize::try_from(a) {
        Ok(a) if a < rank => Ok(a),
        _ => malformed(format!("axis {axis} of {rank} axes")),
    }
}
