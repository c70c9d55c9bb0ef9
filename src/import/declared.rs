//! The types that a file declares of values which no operation of annulus makes.
//!
//! In: what the file says of its values and outputs, and the extents of dimensions as they become known: from the inputs, from
//! what the user binds, and from every value that annulus computes and of which the file declares a type with named dimensions.
//! Out: the [`Type`] of a value, or what is missing.
//!
//! Invariant: a dimension by name has one extent. Where two values disagree, it is an error if a type rests on it, and no type
//! rests on it from then on.

use super::data;
use super::error::{ImportError, malformed};
use super::node::MAX_RANK;
use super::options::ImportOptions;
use super::proto::{GraphProto, TypeProto};
use crate::ir::Type;
use std::collections::{HashMap, HashSet};

/// What the file declares.
pub(super) struct Declared<'a> {
    types: HashMap<&'a str, &'a TypeProto>,
    dims: HashMap<&'a str, Dimension<'a>>,
    options: &'a ImportOptions,
    /// Dimensions that the user bound and a type rests on.
    bound: HashSet<String>,
}

/// What is known of a dimension.
struct Dimension<'a> {
    extent: usize,
    /// The value that told it.
    of: &'a str,
    /// Another value that has another extent.
    contradicted: Option<(usize, &'a str)>,
    /// Whether a type rests on it.
    used: bool,
}

/// What a declaration lacks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// There is none, or it says no element type.
    Type,
    /// The value is no dense tensor.
    NoTensor,
    /// Elements of a type that annulus lacks.
    Element(String),
    /// It says not even how many axes there are.
    Shape,
    /// The extent of an axis: the name by which it may be bound.
    Extent(usize, String),
    /// The value is too large.
    TooLarge(String),
}

impl Missing {
    /// In words, of a value.
    pub(super) fn of(&self, value: &str) -> String {
        match self {
            Missing::Type => format!("the file declares no type of its result {value}"),
            Missing::NoTensor => format!("its result {value} is declared as no dense tensor"),
            Missing::Element(name) => {
                format!("its result {value} is declared with elements of type {name}, which annulus lacks")
            }
            Missing::Shape => format!("the file declares no shape of its result {value}"),
            Missing::Extent(axis, dim) => {
                format!("the extent {dim} of axis {axis} of its result {value} is not known")
            }
            Missing::TooLarge(ty) => format!("its result {value} is declared as {ty}, which is too large"),
        }
    }
}

impl<'a> Declared<'a> {
    /// What a graph declares, whose inputs have these types.
    pub(super) fn new(
        graph: &'a GraphProto,
        inputs: &[(&'a str, Type)],
        options: &'a ImportOptions,
    ) -> Result<Declared<'a>, ImportError> {
        let mut types = HashMap::new();
        for v in graph.value_info.iter().chain(&graph.output).chain(&graph.input) {
            if let Some(ty) = &v.r#type {
                types.insert(v.name.as_str(), ty);
            }
        }
        let mut out = Declared { types, dims: HashMap::new(), options, bound: HashSet::new() };
        for (name, ty) in inputs {
            out.learn(name, &ty.shape)?;
        }
        Ok(out)
    }

    /// A value of that name has this shape.
    pub(super) fn learn(&mut self, name: &'a str, shape: &[usize]) -> Result<(), ImportError> {
        let Some(dims) = self.types.get(name).and_then(|t| t.tensor_type.as_ref()?.shape.as_ref()) else {
            return Ok(());
        };
        if dims.dim.len() != shape.len() {
            return Ok(());
        }
        for (dim, &extent) in dims.dim.iter().zip(shape) {
            let Some(dim) = dim.dim_param.as_deref().filter(|p| !p.is_empty()) else { continue };
            let fresh = Dimension { extent, of: name, contradicted: None, used: false };
            let known = self.dims.entry(dim).or_insert(fresh);
            if known.extent != extent {
                if known.used {
                    return malformed(format!(
                        "dimension {dim} is {} in {} and {extent} in {name}",
                        known.extent, known.of
                    ));
                }
                known.contradicted = Some((extent, name));
            }
        }
        Ok(())
    }

    /// The type of the value of that name. Its extents rest on what is known of its dimensions from now on.
    pub(super) fn ty(&mut self, name: &str) -> Result<Type, Missing> {
        let ty = self.types.get(name).ok_or(Missing::Type)?;
        let ty = ty.tensor_type.as_ref().ok_or(Missing::NoTensor)?;
        if ty.elem_type == 0 {
            return Err(Missing::Type);
        }
        let dtype =
            data::dtype(ty.elem_type).ok_or_else(|| Missing::Element(data::type_name(ty.elem_type)))?;
        let stored = self.options.output_shapes.get(name);
        let dims = match (&ty.shape, stored) {
            (Some(shape), _) => &shape.dim,
            (None, Some(stored)) => return bounded(Type::new(dtype, stored.clone())),
            (None, None) => return Err(Missing::Shape),
        };
        if dims.len() > MAX_RANK {
            return Err(Missing::TooLarge(format!("a tensor of {} axes", dims.len())));
        }
        let stored = stored.filter(|s| s.len() == dims.len());
        let mut extents = Vec::with_capacity(dims.len());
        let mut rests = vec![];
        for (axis, dim) in dims.iter().enumerate() {
            let named = dim.dim_param.as_deref().filter(|p| !p.is_empty());
            let label = named.map_or_else(|| format!("{name}.{axis}"), str::to_owned);
            let written = dim.dim_value.and_then(|v| usize::try_from(v).ok());
            let told = named.and_then(|d| self.dims.get(d)).filter(|d| d.contradicted.is_none());
            let by_user = self.options.dims.get(&label).copied().filter(|_| written.is_none());
            if by_user.is_some() {
                self.bound.insert(label.clone());
            }
            let extent = written
                .or(by_user)
                .or(told.map(|d| d.extent))
                .or_else(|| stored.map(|s| s[axis]))
                .ok_or(Missing::Extent(axis, label))?;
            rests.extend(named);
            extents.push(extent);
        }
        for dim in rests {
            if let Some(d) = self.dims.get_mut(dim) {
                d.used = true;
            }
        }
        bounded(Type::new(dtype, extents))
    }
}

impl Declared<'_> {
    /// Whether a type rests on a dimension that the user bound.
    pub(super) fn rests_on(&self, dim: &str) -> bool {
        self.bound.contains(dim)
    }
}

/// A type that a value may have.
fn bounded(ty: Type) -> Result<Type, Missing> {
    match ty.checked_elements() {
        Some(_) if ty.rank() <= MAX_RANK => Ok(ty),
        _ => Err(Missing::TooLarge(ty.to_string())),
    }
}

/// The names of the dimensions that a file declares of values beside its inputs: those that may be bound.
pub(super) fn dimensions(graph: &GraphProto) -> impl Iterator<Item = String> {
    let all = graph.value_info.iter().chain(&graph.output);
    all.flat_map(|v| {
        let shape = v.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()?.shape.as_ref());
        shape.into_iter().flat_map(move |s| s.dim.iter().enumerate()).filter_map(move |(axis, dim)| {
            let named = dim.dim_param.as_deref().filter(|p| !p.is_empty());
            let open = dim.dim_value.is_none_or(|v| v < 0);
            open.then(|| named.map_or_else(|| format!("{}.{axis}", v.name), str::to_owned))
        })
    })
}
