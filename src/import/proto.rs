//! The part of the ONNX wire format that the importer reads, as prost messages written by hand.
//!
//! Field numbers are those of `onnx.proto`. Fields that are not named here are skipped when decoding. Nested graphs are
//! kept as bytes, so that decoding never recurses deeper than the messages below.

use prost::Message;

/// A model.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ModelProto {
    /// Version of the format.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// The graph.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// Operator sets that the nodes are from.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// Local functions.
    #[prost(message, repeated, tag = "25")]
    pub functions: Vec<FunctionProto>,
}

/// A function: an operator as a body of nodes.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FunctionProto {
    /// Its name, as nodes call it.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Names of its inputs.
    #[prost(string, repeated, tag = "4")]
    pub input: Vec<String>,
    /// Names of its outputs.
    #[prost(string, repeated, tag = "5")]
    pub output: Vec<String>,
    /// Names of attributes without a default.
    #[prost(string, repeated, tag = "6")]
    pub attribute: Vec<String>,
    /// Its nodes.
    #[prost(message, repeated, tag = "7")]
    pub node: Vec<NodeProto>,
    /// Operator sets that its nodes are from.
    #[prost(message, repeated, tag = "9")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// Its domain.
    #[prost(string, tag = "10")]
    pub domain: String,
    /// Attributes with a default.
    #[prost(message, repeated, tag = "11")]
    pub attribute_proto: Vec<AttributeProto>,
    /// Which of several functions of one name it is.
    #[prost(string, tag = "13")]
    pub overload: String,
}

/// A domain and the version of its operators.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub(crate) struct OperatorSetIdProto {
    /// The domain; empty is `ai.onnx`.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// The version.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// A key and its value.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub(crate) struct StringStringEntryProto {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// A graph.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GraphProto {
    /// Nodes, operands first.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Constants.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    /// Sparse constants, unread: the importer refuses them.
    #[prost(bytes = "vec", repeated, tag = "15")]
    pub sparse_initializer: Vec<Vec<u8>>,
    /// Inputs; up to IR version 3 also the initializers.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// Outputs.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
    /// Types of other values, as far as somebody wrote them down.
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfoProto>,
}

/// A node.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeProto {
    /// Names of the operands; empty for one that is left out.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of the results; empty for one that is not wanted.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// Name of the node.
    #[prost(string, tag = "3")]
    pub name: String,
    /// The operator.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// Attributes.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    /// Domain of the operator; empty is `ai.onnx`.
    #[prost(string, tag = "7")]
    pub domain: String,
    /// Which of several functions of one name it calls.
    #[prost(string, tag = "8")]
    pub overload: String,
}

/// An attribute of a node.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AttributeProto {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// A number.
    #[prost(float, tag = "2")]
    pub f: f32,
    /// An integer.
    #[prost(int64, tag = "3")]
    pub i: i64,
    /// A string.
    #[prost(bytes = "vec", tag = "4")]
    pub s: Vec<u8>,
    /// A tensor.
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    /// A graph, undecoded.
    #[prost(bytes = "vec", optional, tag = "6")]
    pub g: Option<Vec<u8>>,
    /// Numbers.
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub floats: Vec<f32>,
    /// Integers.
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    /// Strings.
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub strings: Vec<Vec<u8>>,
    /// Tensors.
    #[prost(message, repeated, tag = "10")]
    pub tensors: Vec<TensorProto>,
    /// Graphs, undecoded.
    #[prost(bytes = "vec", repeated, tag = "11")]
    pub graphs: Vec<Vec<u8>>,
    /// A type, undecoded.
    #[prost(bytes = "vec", optional, tag = "14")]
    pub tp: Option<Vec<u8>>,
    /// Types, undecoded.
    #[prost(bytes = "vec", repeated, tag = "15")]
    pub type_protos: Vec<Vec<u8>>,
    /// A sparse tensor, undecoded.
    #[prost(bytes = "vec", optional, tag = "22")]
    pub sparse_tensor: Option<Vec<u8>>,
    /// Sparse tensors, undecoded.
    #[prost(bytes = "vec", repeated, tag = "23")]
    pub sparse_tensors: Vec<Vec<u8>>,
    /// Which of the fields holds the value: one of [`attribute_type`].
    #[prost(int32, tag = "20")]
    pub r#type: i32,
    /// The attribute of a function that this one stands for.
    #[prost(string, tag = "21")]
    pub ref_attr_name: String,
}

/// Values of [`AttributeProto::type`](field@AttributeProto::type).
pub(crate) mod attribute_type {
    /// `f`.
    pub(crate) const FLOAT: i32 = 1;
    /// `i`.
    pub(crate) const INT: i32 = 2;
    /// `s`.
    pub(crate) const STRING: i32 = 3;
    /// `t`.
    pub(crate) const TENSOR: i32 = 4;
    /// `g`.
    pub(crate) const GRAPH: i32 = 5;
    /// `floats`.
    pub(crate) const FLOATS: i32 = 6;
    /// `ints`.
    pub(crate) const INTS: i32 = 7;
    /// `strings`.
    pub(crate) const STRINGS: i32 = 8;
    /// `tensors`.
    pub(crate) const TENSORS: i32 = 9;
    /// `graphs`.
    pub(crate) const GRAPHS: i32 = 10;
    /// `sparse_tensor`.
    pub(crate) const SPARSE_TENSOR: i32 = 11;
    /// `sparse_tensors`.
    pub(crate) const SPARSE_TENSORS: i32 = 12;
    /// `tp`.
    pub(crate) const TYPE_PROTO: i32 = 13;
    /// `type_protos`.
    pub(crate) const TYPE_PROTOS: i32 = 14;
}

/// A tensor. Its elements stand in `raw_data`, little endian, or in the field of their type.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorProto {
    /// Extents.
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    /// Element type: one of [`data_type`].
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// f32 elements.
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// i32 and bool elements, and the bits of f16 and bf16 ones.
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    /// Strings.
    #[prost(bytes = "vec", repeated, tag = "6")]
    pub string_data: Vec<Vec<u8>>,
    /// i64 elements.
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    /// Its name.
    #[prost(string, tag = "8")]
    pub name: String,
    /// Elements of any type as bytes.
    #[prost(bytes = "vec", optional, tag = "9")]
    pub raw_data: Option<Vec<u8>>,
    /// f64 elements.
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    /// u64 elements.
    #[prost(uint64, repeated, tag = "11")]
    pub uint64_data: Vec<u64>,
    /// Where the elements are if they are not here.
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<StringStringEntryProto>,
    /// 1 if the elements are in another file.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
}

/// Values of [`TensorProto::data_type`] and of a tensor type's `elem_type`.
pub(crate) mod data_type {
    /// f32.
    pub(crate) const FLOAT: i32 = 1;
    /// i32.
    pub(crate) const INT32: i32 = 6;
    /// i64.
    pub(crate) const INT64: i32 = 7;
    /// Truth values.
    pub(crate) const BOOL: i32 = 9;
    /// f16.
    pub(crate) const FLOAT16: i32 = 10;
    /// f64.
    pub(crate) const DOUBLE: i32 = 11;
    /// bf16.
    pub(crate) const BFLOAT16: i32 = 16;
}

/// Name and type of a value.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ValueInfoProto {
    /// The name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

/// A type. Of the alternatives only tensors are read.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TypeProto {
    /// The type of a dense tensor.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
}

/// The type of a dense tensor.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorTypeProto {
    /// Element type: one of [`data_type`].
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    /// Extents; absent if not even the rank is known.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// A shape.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorShapeProto {
    /// One entry an axis.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

/// An extent: a number, a name, or neither if it is unknown.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub(crate) struct DimensionProto {
    /// The extent.
    #[prost(int64, optional, tag = "1")]
    pub dim_value: Option<i64>,
    /// Its name.
    #[prost(string, optional, tag = "2")]
    pub dim_param: Option<String>,
}
