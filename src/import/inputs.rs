//! The graph of a model and its inputs: their names, and their types with symbolic dimensions bound.

use super::data;
use super::declared::dimensions;
use super::error::{ImportError, malformed, refused};
use super::node::MAX_RANK;
use super::options::ImportOptions;
use super::proto::{DimensionProto, GraphProto, ModelProto, ValueInfoProto};
use crate::ir::Type;
use std::collections::{BTreeMap, HashSet};

/// The model's graph.
pub(super) fn graph_of(model: &ModelProto) -> Result<&GraphProto, ImportError> {
    let Some(graph) = &model.graph else { return malformed("the model has no graph") };
    if !graph.sparse_initializer.is_empty() {
        return refused("the model has sparse initializers, which are not supported");
    }
    Ok(graph)
}

/// The inputs that must be given: those that are no initializer.
pub(super) fn inputs_of(graph: &GraphProto) -> Vec<&ValueInfoProto> {
    let constant: HashSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    graph.input.iter().filter(|i| !constant.contains(i.name.as_str())).collect()
}

/// Name and type of every input, its symbolic dimensions bound.
pub(super) fn input_types<'a>(
    graph: &'a GraphProto,
    options: &ImportOptions,
) -> Result<Vec<(&'a str, Type)>, ImportError> {
    let inputs = inputs_of(graph);
    let mut dims: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    // Stored shapes bind names first, so that one input may tell another's extent.
    for input in &inputs {
        let Some(stored) = options.input_shapes.get(&input.name) else { continue };
        let Some(shape) = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()?.shape.as_ref()) else {
            continue;
        };
        if shape.dim.len() != stored.len() {
            return malformed(format!(
                "input {} is declared with {} axes and given as {stored:?}",
                input.name,
                shape.dim.len()
            ));
        }
        for (dim, &extent) in shape.dim.iter().zip(stored) {
            let Some(name) = dim.dim_param.as_deref().filter(|p| !p.is_empty()) else { continue };
            match dims.get(name) {
                Some((old, from)) if *old != extent && !options.dims.contains_key(name) => {
                    return malformed(format!(
                        "dimension {name} is {old} in input {from} and {extent} in input {}",
                        input.name
                    ));
                }
                _ => {
                    dims.insert(name, (extent, &input.name));
                }
            }
        }
    }
    let typed = |input: &&'a ValueInfoProto| Ok((input.name.as_str(), input_type(input, options, &dims)?));
    let types: Result<Vec<_>, ImportError> = inputs.iter().map(typed).collect();
    let symbols = match &types {
        Err(e) if !matches!(e, ImportError::Symbolic { .. }) => return types,
        _ => symbols(&inputs),
    };
    let declared: HashSet<String> =
        if options.dims.is_empty() { HashSet::new() } else { dimensions(graph).collect() };
    let other = |name: &String| types.is_ok() && declared.contains(name);
    let known = |name: &String| symbols.iter().any(|(s, _)| s == name) || other(name);
    if let Some(name) = options.dims.keys().find(|&name| !known(name)) {
        return Err(no_dimension(graph, name));
    }
    types.map_err(|e| match e {
        ImportError::Symbolic { input, dim, .. } => {
            let open = |(name, input): &(String, &str)| {
                let bound = options.dims.contains_key(name) || dims.contains_key(name.as_str());
                !bound && *name != dim && !options.input_shapes.contains_key(*input)
            };
            let others = symbols.iter().filter(|s| open(s)).map(|(name, _)| name.clone()).collect();
            ImportError::Symbolic { input, dim, others }
        }
        e => e,
    })
}

/// The error of a size that is given for a dimension which no input has.
pub(super) fn no_dimension(graph: &GraphProto, name: &str) -> ImportError {
    let known = symbols(&inputs_of(graph)).into_iter().map(|(name, _)| name).collect();
    ImportError::UnknownDimension { dim: name.to_owned(), known }
}

/// Whether an input has a symbolic dimension of that name.
pub(super) fn is_dimension(graph: &GraphProto, name: &str) -> bool {
    symbols(&inputs_of(graph)).iter().any(|(s, _)| s == name)
}

/// The name of every symbolic dimension, each once, with the first input that has it.
fn symbols<'a>(inputs: &[&'a ValueInfoProto]) -> Vec<(String, &'a str)> {
    let mut seen: HashSet<String> = HashSet::new();
    let mut out = vec![];
    for input in inputs {
        let shape = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()?.shape.as_ref());
        for (i, dim) in shape.iter().flat_map(|s| s.dim.iter().enumerate()) {
            let name = dimension(input, i, dim);
            if dim.dim_value.is_none() && seen.insert(name.clone()) {
                out.push((name, input.name.as_str()));
            }
        }
    }
    out
}

/// The name of axis `i` of an input, made up if it has none.
fn dimension(input: &ValueInfoProto, i: usize, dim: &DimensionProto) -> String {
    match dim.dim_param.as_deref().filter(|p| !p.is_empty()) {
        Some(name) => name.to_owned(),
        None => format!("{}.{i}", input.name),
    }
}

fn input_type(
    input: &ValueInfoProto,
    options: &ImportOptions,
    dims: &BTreeMap<&str, (usize, &str)>,
) -> Result<Type, ImportError> {
    let name = &input.name;
    let Some(ty) = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()) else {
        return malformed(format!("input {name} is no dense tensor"));
    };
    let Some(dtype) = data::dtype(ty.elem_type) else {
        return refused(format!(
            "input {name} has elements of type {}, which are not supported",
            data::type_name(ty.elem_type)
        ));
    };
    let stored = options.input_shapes.get(name);
    let Some(shape) = &ty.shape else {
        let Some(stored) = stored else {
            return malformed(format!("input {name} has no declared shape and no value"));
        };
        return bounded(name, Type::new(dtype, stored.clone()));
    };
    let mut extents = Vec::with_capacity(shape.dim.len().min(MAX_RANK));
    for (i, dim) in shape.dim.iter().enumerate() {
        let given = stored.and_then(|s| s.get(i)).copied();
        let extent = match dim.dim_value {
            Some(v) => usize::try_from(v)
                .map_err(|_| ImportError::Malformed(format!("input {name} has an axis of extent {v}")))?,
            None => {
                let dim = dimension(input, i, dim);
                let bound = options.dims.get(&dim).copied();
                let bound = bound.or_else(|| dims.get(dim.as_str()).map(|(extent, _)| *extent)).or(given);
                bound.ok_or_else(|| ImportError::Symbolic { input: name.clone(), dim, others: vec![] })?
            }
        };
        if let Some(given) = given
            && given != extent
        {
            return malformed(format!(
                "axis {i} of input {name} is {extent}, and {given} in its value: give inputs of that size, or the model's file \
                 instead of its folder, which has none"
            ));
        }
        extents.push(extent);
    }
    bounded(name, Type::new(dtype, extents))
}

fn bounded(name: &str, ty: Type) -> Result<Type, ImportError> {
    if ty.checked_elements().is_none() || ty.rank() > MAX_RANK {
        return malformed(format!("input {name} is too large: {ty}"));
    }
    Ok(ty)
}
