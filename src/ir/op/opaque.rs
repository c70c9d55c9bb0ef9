//! Operators that annulus does not compute, carried as a model has them.

use super::Constant;
use crate::ir::types::Type;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// An operator that annulus does not compute: a node of a model with all that tells what it computes, and the types of its
/// results, which nothing but the model states.
///
/// Its operands are those that the node is given, in order, and behind them the values that its graphs read from around them.
/// Nothing is known of its numbers: the passes work around it, `eval` and `run` refuse a graph whose outputs need it, and the
/// host computes it. On every rank that computes it whole it must give the same bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Opaque {
    /// The domain of the operator; empty is ONNX's own.
    pub domain: String,
    /// The operator.
    pub name: String,
    /// Which of several functions of that name; mostly empty.
    pub overload: String,
    /// The version of the domain's operator set.
    pub version: i64,
    /// The versions of the other operator sets that its graphs are of, by domain, ascending.
    pub imports: Vec<(String, i64)>,
    /// Attributes by name, in the model's order; no name stands twice.
    pub attributes: Vec<(String, Attribute)>,
    /// Places in the node's list of operands that are left out, ascending. Behind the last that is given nothing is left out.
    pub left_out: Vec<usize>,
    /// Places in the node's list of results that nobody wants, ascending. Behind the last that is wanted there is none.
    pub unwanted: Vec<usize>,
    /// The names by which its graphs read values from around them: one for each of the last operands.
    pub captured: Vec<String>,
    /// The types of the results that are wanted, at least one.
    pub results: Vec<Type>,
    /// Where it treats rows apart from one another, if somebody promised that it does.
    pub rowwise: Option<RowAxes>,
    /// Why annulus does not compute it, for messages.
    pub why: String,
}

/// A promise: entry i along an axis of the results is made of the entries i along axes of the operands, and of what is needed
/// whole. Nothing can prove it; the extents are compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RowAxes {
    /// For each operand the axis that counts the rows; `None`, and that of operands beyond the list, for one that is needed
    /// whole. At least one counts them.
    pub operands: Vec<Option<usize>>,
    /// The axis of every result that counts the rows.
    pub result: usize,
}

/// The value of an attribute. Floating numbers are compared by their bits.
#[derive(Clone, Debug)]
pub enum Attribute {
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f32),
    /// A string, which need not be text.
    String(Vec<u8>),
    /// A tensor.
    Tensor(Constant),
    /// Whole numbers.
    Ints(Vec<i64>),
    /// Numbers.
    Floats(Vec<f32>),
    /// Strings.
    Strings(Vec<Vec<u8>>),
    /// Tensors.
    Tensors(Vec<Constant>),
    /// Messages of another kind, as the model's file encodes them.
    Encoded(MessageKind, Vec<Blob>),
}

impl PartialEq for Attribute {
    fn eq(&self, other: &Attribute) -> bool {
        let bits = |x: &[f32], y: &[f32]| x.iter().map(|x| x.to_bits()).eq(y.iter().map(|y| y.to_bits()));
        match (self, other) {
            (Attribute::Int(x), Attribute::Int(y)) => x == y,
            (Attribute::Float(x), Attribute::Float(y)) => x.to_bits() == y.to_bits(),
            (Attribute::String(x), Attribute::String(y)) => x == y,
            (Attribute::Tensor(x), Attribute::Tensor(y)) => x == y,
            (Attribute::Ints(x), Attribute::Ints(y)) => x == y,
            (Attribute::Floats(x), Attribute::Floats(y)) => bits(x, y),
            (Attribute::Strings(x), Attribute::Strings(y)) => x == y,
            (Attribute::Tensors(x), Attribute::Tensors(y)) => x == y,
            (Attribute::Encoded(k, x), Attribute::Encoded(l, y)) => k == l && x == y,
            _ => false,
        }
    }
}

/// What encoded messages are. A list and a single one are kinds of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// A `GraphProto`.
    Graph,
    /// Several.
    Graphs,
    /// A `TensorProto` of an element type that annulus lacks.
    Tensor,
    /// Several, not all of them of types that annulus has.
    Tensors,
    /// A `SparseTensorProto`.
    SparseTensor,
    /// Several.
    SparseTensors,
    /// A `TypeProto`.
    Type,
    /// Several.
    Types,
}

impl MessageKind {
    /// Every kind.
    pub const ALL: [MessageKind; 8] = [
        MessageKind::Graph,
        MessageKind::Graphs,
        MessageKind::Tensor,
        MessageKind::Tensors,
        MessageKind::SparseTensor,
        MessageKind::SparseTensors,
        MessageKind::Type,
        MessageKind::Types,
    ];

    /// The name in text.
    pub fn name(self) -> &'static str {
        match self {
            MessageKind::Graph => "graph",
            MessageKind::Graphs => "graphs",
            MessageKind::Tensor => "raw_tensor",
            MessageKind::Tensors => "raw_tensors",
            MessageKind::SparseTensor => "sparse_tensor",
            MessageKind::SparseTensors => "sparse_tensors",
            MessageKind::Type => "type",
            MessageKind::Types => "types",
        }
    }

    /// Whether an attribute of this kind holds any number of messages, not one.
    pub fn is_list(self) -> bool {
        matches!(
            self,
            MessageKind::Graphs | MessageKind::Tensors | MessageKind::SparseTensors | MessageKind::Types
        )
    }
}

/// Bytes that nobody looks into: their content hash and, unless they came from a text for people, the bytes themselves.
#[derive(Clone, Debug)]
pub struct Blob {
    /// SHA-256 over the bytes, the first 64 bits.
    pub hash: u64,
    /// The bytes, shared.
    pub bytes: Option<Arc<[u8]>>,
}

impl Blob {
    /// These bytes.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Blob {
        let bytes = bytes.into();
        let mut first = [0u8; 8];
        first.copy_from_slice(&Sha256::digest(&bytes)[..8]);
        Blob { hash: u64::from_be_bytes(first), bytes: Some(bytes) }
    }
}

/// Equal content.
impl PartialEq for Blob {
    fn eq(&self, other: &Blob) -> bool {
        self.hash == other.hash
    }
}

impl Opaque {
    /// An operator of a domain (empty for ONNX's own) at version 1, without attributes, whose operands are all given.
    ///
    /// ```
    /// use annulus::ir::{Attribute, DType, Graph, Op, Opaque, Type};
    ///
    /// let mut graph = Graph::new("g");
    /// let x = graph.input("x", Type::new(DType::F32, [2, 3]));
    /// let mut flip = Opaque::new("com.example", "Flip", [Type::new(DType::F32, [2, 3])]);
    /// flip.attributes.push(("axis".into(), Attribute::Int(-1)));
    /// let y = graph.add1(Op::Opaque(flip.into()), &[x], "y", "")?;
    /// graph.output("y", y);
    /// assert!(graph.to_string().contains(
    ///     r#"%y: f32[2,3] = opaque %x {domain="com.example", op="Flip", version=1, attributes=["axis"=int -1]}"#
    /// ));
    /// # Ok::<(), annulus::ir::InferError>(())
    /// ```
    pub fn new(
        domain: impl Into<String>,
        name: impl Into<String>,
        results: impl IntoIterator<Item = Type>,
    ) -> Opaque {
        Opaque {
            domain: domain.into(),
            name: name.into(),
            overload: String::new(),
            version: 1,
            imports: vec![],
            attributes: vec![],
            left_out: vec![],
            unwanted: vec![],
            captured: vec![],
            results: results.into_iter().collect(),
            rowwise: None,
            why: String::new(),
        }
    }

    /// The operator for people: `domain::Name`, without the domain if it is ONNX's own.
    pub fn operator(&self) -> String {
        match self.domain.as_str() {
            "" => self.name.clone(),
            domain => format!("{domain}::{}", self.name),
        }
    }
}
