//! Nodes that annulus does not lower, carried as they are.
//!
//! In: a node whose operator annulus does not know, or not in this form; its operands in the graph, and the types that the file
//! declares of its results. Out: one [`Opaque`] operation, whose results bear the names of the model; or why it cannot be carried.
//!
//! Invariants: nothing of the node is lost: what its graphs read from around them are operands too. What cannot be kept (a function
//! of the model that its graphs call, elements in another file, numbers drawn at random that differ from rank to rank) is
//! refused by name.

use super::data;
use super::declared::Declared;
use super::flat::{FlatNode, Opsets, domain};
use super::outcome::Lowered;
use super::proto::{AttributeProto, NodeProto, TensorProto, attribute_type};
use crate::ir::{Attribute, Blob, Constant, Graph, MessageKind, Op, Opaque, ValueId};
use prost::Message;
use std::collections::HashSet;

/// Operators that draw numbers at random, by domain, unless a seed says which.
const RANDOM: [(&str, &[&str]); 2] = [
    (
        "",
        &[
            "Bernoulli",
            "Dropout",
            "Multinomial",
            "RandomNormal",
            "RandomNormalLike",
            "RandomUniform",
            "RandomUniformLike",
        ],
    ),
    ("com.microsoft", &["BiasDropout", "BitmaskBiasDropout", "BitmaskDropout"]),
];

/// What a node is carried with.
pub(super) struct Carried<'c, 'a> {
    /// The node.
    pub(super) node: &'c FlatNode<'a>,
    /// Versions of the operator sets that it is from.
    pub(super) opsets: &'c Opsets,
    /// Why it is not lowered; empty if its operator is not known.
    pub(super) why: String,
    /// Its operands, and behind them what its graphs capture; `None` for one that is left out.
    pub(super) operands: Vec<Option<Lowered>>,
    /// Whether somebody reads the value of that name.
    pub(super) needed: &'c dyn Fn(&str) -> bool,
    /// Whether the model has a function of its own of that domain, name and overload.
    pub(super) function: &'c dyn Fn(&(String, String, String)) -> bool,
}

/// Why a node is not carried: a sentence about it, and a way out.
pub(super) type Refused = (String, &'static str);

const SHAPES: &str = "infer the shapes of the model before, with onnx.shape_inference.infer_shapes or onnxruntime's \
    symbolic_shape_infer, so that the file declares them";
const DIMENSION: &str =
    "give its size with --dim, or infer the shapes of the model before with its inputs' sizes fixed";
const TYPES: &str = "annulus has the element types f64, f32, f16, bf16, i64, i32 and bool";
const INLINE: &str = "inline the functions of the model before (onnx.inliner.inline_local_functions)";
const ONE_FILE: &str = "save the model with its tensors inside";
const SEED: &str = "give the node a seed, so that every rank draws the same numbers";

/// Carries a node: the results by their place, `None` for those that nobody wants.
pub(super) fn carry(
    graph: &mut Graph,
    declared: &mut Declared<'_>,
    carried: Carried<'_, '_>,
) -> Result<Vec<Option<ValueId>>, Refused> {
    let FlatNode { node, source, inside, .. } = carried.node;
    let node: &NodeProto = node;
    if let Some(name) = &inside.external {
        return Err((
            format!("a graph of it has tensor {name}, whose elements are in another file"),
            ONE_FILE,
        ));
    }
    if let Some(name) = &inside.refers {
        return Err((format!("a graph of it has attribute {name} that is one of a function"), INLINE));
    }
    if let Some((_, name, _)) = inside.operators.iter().find(|o| (carried.function)(o)) {
        return Err((format!("a graph of it calls function {name} of the model"), INLINE));
    }
    let own = domain(&node.domain);
    let seeded = node.attribute.iter().any(|a| a.name == "seed");
    let random = |domain: &str, name: &str| RANDOM.iter().any(|(d, all)| *d == domain && all.contains(&name));
    if random(own, &node.op_type) && !seeded {
        return Err(("it draws numbers at random, other ones on every rank".into(), SEED));
    }
    if let Some((_, name, _)) = inside.operators.iter().find(|(domain, name, _)| random(domain, name)) {
        let why =
            format!("a graph of it holds {name}, which draws numbers at random, other ones on every rank");
        return Err((why, "draw them outside of the model, and give them as an input"));
    }
    let mut o = Opaque::new(own, &node.op_type, []);
    o.overload.clone_from(&node.overload);
    o.why = carried.why;
    o.version = carried.opsets.get(own).copied().unwrap_or(1);
    let others: HashSet<&str> =
        inside.operators.iter().map(|(d, ..)| d.as_str()).filter(|d| *d != own).collect();
    o.imports = carried
        .opsets
        .iter()
        .filter(|(d, _)| others.contains(d.as_str()))
        .map(|(d, v)| (d.clone(), *v))
        .collect();
    o.attributes = node.attribute.iter().map(attribute).collect::<Result<_, _>>()?;
    o.captured.clone_from(&inside.captured);
    // Operands, those left out by their place.
    let given = node.input.len();
    let mut operands = vec![];
    for (i, operand) in carried.operands.iter().enumerate() {
        let name = node.input.get(i).or_else(|| carried.node.captured.get(i - given)).map_or("", |n| n);
        match operand {
            Some(Lowered::Value(v)) => operands.push(*v),
            Some(Lowered::Sequence(_)) => {
                let why = format!("its operand {name} is a sequence, and no graph of annulus holds one");
                return Err((why, "hand over its parts, or join them"));
            }
            None if i < given => o.left_out.push(i),
            None => return Err((format!("nothing makes {name}, which a graph of it reads"), SHAPES)),
        }
    }
    while o
        .left_out
        .last()
        .is_some_and(|&last| last + 1 == o.left_out.len() + operands.len() - o.captured.len())
    {
        o.left_out.pop();
    }
    // Results: one that nobody reads is wanted only if its type is known.
    let mut wanted: Vec<&str> = vec![];
    for (i, name) in node.output.iter().enumerate() {
        let ty = if name.is_empty() { None } else { Some(declared.ty(name)) };
        match ty {
            Some(Ok(ty)) => {
                o.results.push(ty);
                wanted.push(name);
            }
            Some(Err(missing)) if (carried.needed)(name) => {
                use super::declared::Missing;
                let way = match missing {
                    Missing::Type | Missing::Shape => SHAPES,
                    Missing::Extent(..) => DIMENSION,
                    Missing::Element(_) | Missing::NoTensor | Missing::TooLarge(_) => TYPES,
                };
                return Err((missing.of(name), way));
            }
            _ => o.unwanted.push(i),
        }
    }
    while o.unwanted.last().is_some_and(|&last| last + 1 == o.unwanted.len() + o.results.len()) {
        o.unwanted.pop();
    }
    let Some(first) = wanted.first() else {
        return Err(("none of its results has a type that is declared".into(), SHAPES));
    };
    let unwanted: HashSet<usize> = o.unwanted.iter().copied().collect();
    let id = graph
        .add(Op::Opaque(o.into()), &operands, first, source)
        .map_err(|e| (e.to_string(), "onnx.checker.check_model says what is wrong with the node"))?;
    let results = graph.results(id);
    for (&v, name) in results.iter().zip(&wanted) {
        graph.rename(v, name);
    }
    let mut results = results.into_iter();
    let places = 0..node.output.len();
    Ok(places.map(|i| if unwanted.contains(&i) { None } else { results.next() }).collect())
}

/// An attribute with its value.
fn attribute(a: &AttributeProto) -> Result<(String, Attribute), Refused> {
    let broken = |why: String| {
        (format!("attribute {}: {why}", a.name), "onnx.checker.check_model says what is wrong with the node")
    };
    if !a.ref_attr_name.is_empty() {
        return Err(broken("it refers to a function's attribute".into()));
    }
    let blobs =
        |kind, all: &[Vec<u8>]| Attribute::Encoded(kind, all.iter().map(|b| Blob::new(&b[..])).collect());
    let one = |kind, bytes: &Option<Vec<u8>>| match bytes {
        Some(bytes) => Ok(Attribute::Encoded(kind, vec![Blob::new(&bytes[..])])),
        None => Err(broken("it is empty".into())),
    };
    let value = match a.r#type {
        attribute_type::FLOAT => Attribute::Float(a.f),
        attribute_type::INT => Attribute::Int(a.i),
        attribute_type::STRING => Attribute::String(a.s.clone()),
        attribute_type::FLOATS => Attribute::Floats(a.floats.clone()),
        attribute_type::INTS => Attribute::Ints(a.ints.clone()),
        attribute_type::STRINGS => Attribute::Strings(a.strings.clone()),
        attribute_type::TENSOR => {
            let t = a.t.as_ref().ok_or_else(|| broken("it is empty".into()))?;
            match tensor(t).map_err(broken)? {
                Some(t) => Attribute::Tensor(t),
                None => Attribute::Encoded(MessageKind::Tensor, vec![Blob::new(t.encode_to_vec())]),
            }
        }
        attribute_type::TENSORS => {
            let all: Option<Vec<Constant>> =
                a.tensors.iter().map(|t| tensor(t).map_err(broken)).collect::<Result<_, _>>()?;
            match all {
                Some(all) => Attribute::Tensors(all),
                None => Attribute::Encoded(
                    MessageKind::Tensors,
                    a.tensors.iter().map(|t| Blob::new(t.encode_to_vec())).collect(),
                ),
            }
        }
        attribute_type::GRAPH => one(MessageKind::Graph, &a.g)?,
        attribute_type::GRAPHS => blobs(MessageKind::Graphs, &a.graphs),
        attribute_type::SPARSE_TENSOR => one(MessageKind::SparseTensor, &a.sparse_tensor)?,
        attribute_type::SPARSE_TENSORS => blobs(MessageKind::SparseTensors, &a.sparse_tensors),
        attribute_type::TYPE_PROTO => one(MessageKind::Type, &a.tp)?,
        attribute_type::TYPE_PROTOS => blobs(MessageKind::Types, &a.type_protos),
        other => return Err(broken(format!("it is of kind {other}, which is none"))),
    };
    Ok((a.name.clone(), value))
}

/// A tensor of a type that annulus has; `None` if it lacks the type, and then the message is carried as it is.
fn tensor(t: &TensorProto) -> Result<Option<Constant>, String> {
    if t.data_location != 0 || !t.external_data.is_empty() {
        return Err("its elements are in another file".into());
    }
    if data::dtype(t.data_type).is_none() {
        return Ok(None);
    }
    data::tensor(t, "tensor").map(|t| Some(Constant::new(t))).map_err(|e| e.to_string())
}
