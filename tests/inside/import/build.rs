//! Small models built from wire messages.

use super::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, attribute_type, data_type,
};
use annulus::eval::{Precision, eval};
use annulus::import::{ImportError, ImportOptions, onnx};
use annulus::ir::{DType, Graph, Op, Tensor};
use prost::Message;

/// A dimension of an input: a number or a name.
pub(crate) enum Dim {
    N(i64),
    Named(&'static str),
}

pub(crate) fn code(dtype: DType) -> i32 {
    match dtype {
        DType::F64 => data_type::DOUBLE,
        DType::F32 => data_type::FLOAT,
        DType::F16 => data_type::FLOAT16,
        DType::BF16 => data_type::BFLOAT16,
        DType::I64 => data_type::INT64,
        DType::I32 => data_type::INT32,
        DType::Bool => data_type::BOOL,
    }
}

pub(crate) fn value(name: &str, dtype: DType, dims: &[Dim]) -> ValueInfoProto {
    let dim = |d: &Dim| match d {
        Dim::N(n) => DimensionProto { dim_value: Some(*n), dim_param: None },
        Dim::Named(s) => DimensionProto { dim_value: None, dim_param: Some((*s).to_owned()) },
    };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let ty = TypeProto { tensor_type: Some(TensorTypeProto { elem_type: code(dtype), shape: Some(shape) }) };
    ValueInfoProto { name: name.to_owned(), r#type: Some(ty) }
}

pub(crate) fn tensor(name: &str, t: &Tensor) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: t.shape().iter().map(|&d| d as i64).collect(),
        data_type: code(t.dtype()),
        raw_data: Some(t.data().to_le_bytes()),
        ..TensorProto::default()
    }
}

pub(crate) fn ints(values: &[i64]) -> Tensor {
    Tensor::vector_i64(values)
}

pub(crate) fn floats(shape: &[usize], values: &[f64]) -> Tensor {
    Tensor::from_f64(DType::F32, shape, values).unwrap()
}

/// 0, 1, 2, … in a shape.
pub(crate) fn count(shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    floats(shape, &(0..n).map(|i| i as f64).collect::<Vec<_>>())
}

pub(crate) fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), i, r#type: attribute_type::INT, ..AttributeProto::default() }
}

pub(crate) fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.to_owned(), f, r#type: attribute_type::FLOAT, ..AttributeProto::default() }
}

pub(crate) fn int_list(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        ints: ints.to_vec(),
        r#type: attribute_type::INTS,
        ..AttributeProto::default()
    }
}

pub(crate) fn string(name: &str, s: &str) -> AttributeProto {
    AttributeProto {
        name: name.to_owned(),
        s: s.as_bytes().to_vec(),
        r#type: attribute_type::STRING,
        ..AttributeProto::default()
    }
}

pub(crate) fn node(
    op: &str,
    inputs: &[&str],
    outputs: &[&str],
    attributes: Vec<AttributeProto>,
) -> NodeProto {
    let (domain, op) = op.split_once("::").unwrap_or(("", op));
    let owned = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
    NodeProto {
        input: owned(inputs),
        output: owned(outputs),
        op_type: op.to_owned(),
        domain: domain.to_owned(),
        attribute: attributes,
        ..NodeProto::default()
    }
}

/// A model whose graph is filled in.
pub(crate) fn model(opset: i64, g: GraphProto) -> ModelProto {
    let import = |domain: &str, version| OperatorSetIdProto { domain: domain.to_owned(), version };
    ModelProto {
        ir_version: 8,
        graph: Some(g),
        opset_import: vec![import("", opset), import("com.microsoft", 1)],
        functions: vec![],
    }
}

/// One operator between inputs with values and constants.
pub(crate) struct Single {
    pub(crate) opset: i64,
    pub(crate) op: &'static str,
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) constants: Vec<Option<Tensor>>,
    pub(crate) attributes: Vec<AttributeProto>,
    pub(crate) outputs: usize,
}

impl Single {
    /// An operator whose operands are `inputs`, then `constants` (one that is `None` is left out).
    pub(crate) fn new(op: &'static str, inputs: &[Tensor], constants: &[Option<Tensor>]) -> Single {
        Single {
            opset: 23,
            op,
            inputs: inputs.to_vec(),
            constants: constants.to_vec(),
            attributes: vec![],
            outputs: 1,
        }
    }

    pub(crate) fn opset(mut self, opset: i64) -> Single {
        self.opset = opset;
        self
    }

    pub(crate) fn outputs(mut self, outputs: usize) -> Single {
        self.outputs = outputs;
        self
    }

    pub(crate) fn with(mut self, attribute: AttributeProto) -> Single {
        self.attributes.push(attribute);
        self
    }

    pub(crate) fn model(&self) -> ModelProto {
        let mut g = GraphProto { name: "g".to_owned(), ..GraphProto::default() };
        let mut operands = vec![];
        for (i, t) in self.inputs.iter().enumerate() {
            let dims: Vec<Dim> = t.shape().iter().map(|&d| Dim::N(d as i64)).collect();
            g.input.push(value(&format!("x{i}"), t.dtype(), &dims));
            operands.push(format!("x{i}"));
        }
        for (i, c) in self.constants.iter().enumerate() {
            operands.push(c.as_ref().map_or(String::new(), |_| format!("c{i}")));
            g.initializer.extend(c.as_ref().map(|t| tensor(&format!("c{i}"), t)));
        }
        let outputs: Vec<String> = (0..self.outputs).map(|i| format!("y{i}")).collect();
        let refs = |names: &'_ [String]| names.to_vec();
        g.node.push(NodeProto {
            input: refs(&operands),
            output: refs(&outputs),
            attribute: self.attributes.clone(),
            ..node(self.op, &[], &[], vec![])
        });
        g.output = outputs.iter().map(|o| ValueInfoProto { name: o.clone(), r#type: None }).collect();
        model(self.opset, g)
    }

    pub(crate) fn graph(&self) -> Result<Graph, ImportError> {
        onnx(&self.model().encode_to_vec(), &ImportOptions::default())
    }

    /// The results, in the declared types.
    pub(crate) fn run(&self) -> Vec<Tensor> {
        let g = self.graph().unwrap_or_else(|e| panic!("{e}"));
        eval(&g, &self.inputs, Precision::Declared).unwrap_or_else(|e| panic!("{e}"))
    }

    pub(crate) fn first(&self) -> Tensor {
        self.run().swap_remove(0)
    }

    /// The message of the error that importing gives.
    pub(crate) fn refusal(&self) -> String {
        self.graph().expect_err("should be refused").to_string()
    }
}

/// Mnemonics of the operations, inputs and constants left out.
pub(crate) fn mnemonics(g: &Graph) -> Vec<&'static str> {
    g.ops()
        .into_iter()
        .map(|id| g.op(id))
        .filter(|op| !matches!(op, Op::Input(_) | Op::Constant(_)))
        .map(Op::name)
        .collect()
}

/// The axes of the only contraction.
pub(crate) fn letters(g: &Graph) -> String {
    let all: Vec<String> = g
        .ops()
        .into_iter()
        .filter_map(|id| match g.op(id) {
            Op::Contract(c) => Some(format!("{},{}->{}", c.lhs, c.rhs, c.out)),
            _ => None,
        })
        .collect();
    all.join(" ")
}
