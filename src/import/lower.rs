//! From the wire format to the graph: names, types, order; then every node in turn through the [`super::ops`] table.

use super::data;
use super::declared::Declared;
use super::departure::Departure;
use super::error::{ImportError, Unsupported, malformed, refused};
use super::flat::{Flat, FlatNode, Opsets, PART, flatten};
use super::inputs::{graph_of, input_types, inputs_of, is_dimension, no_dimension};
use super::node::Cx;
use super::opaque::{Carried, carry};
use super::ops::{Schema, schema};
use super::options::ImportOptions;
use super::outcome::{Lowered, LoweredNode, Refusal, malformed as malformed_node, unsupported};
use super::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, domain};
use crate::eval::Constants;
use crate::ir::{Graph, Refused, Type, WayOut};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::ops::RangeInclusive;

/// Versions of the default operator set that are understood.
const OPSETS: RangeInclusive<i64> = 13..=26;

/// How many operations a node may make on average, and how many operands those may have for each that it names itself, so
/// that a small file makes no large graph.
const GROWTH: usize = 64;

/// `domain::op`, without the domain if it is the default one.
fn operator(node: &NodeProto) -> String {
    match domain(&node.domain) {
        "" => node.op_type.clone(),
        d => format!("{d}::{}", node.op_type),
    }
}

/// Lowers a model. The result holds nothing that no output needs, inputs excepted; with it come the nodes of which ONNX Runtime gives
/// something else than they mean.
pub(super) fn lower(
    model: &ModelProto,
    options: &ImportOptions,
) -> Result<(Graph, Vec<Departure>), ImportError> {
    let proto = graph_of(model)?;
    let flat = flatten(model, proto, node_names(proto), opsets(model)?)?;
    if let Some(opsets) = flat.opsets.iter().find(|o| o.get("").is_some_and(|v| !OPSETS.contains(v))) {
        let version = opsets.get("").copied().unwrap_or(0);
        let why =
            format!("operator set {version} is not supported: want {} to {}", OPSETS.start(), OPSETS.end());
        return refused(why, WayOut::ConvertOpset);
    }
    let names = value_names(&flat)?;
    let order = order(&flat)?;

    let mut graph = Graph::new(&proto.name);
    let mut env: HashMap<&str, Lowered> = HashMap::new();
    let inputs = input_types(proto, options)?;
    let mut declared = Declared::new(proto, &inputs, options)?;
    for (name, ty) in inputs {
        env.insert(name, Lowered::Value(graph.input(name, ty)));
    }
    // A weight joins the graph where it is first used, so that the text names it there; what nobody uses is not read.
    let mut weights: HashMap<&str, &TensorProto> = HashMap::new();
    for t in proto.initializer.iter().chain(&flat.weights) {
        weights.insert(&t.name, t);
    }
    let mut needed: HashSet<&str> = proto.output.iter().map(|o| o.name.as_str()).collect();
    needed.extend(order.iter().flat_map(|&i| flat.nodes[i].reads()));
    let functions: HashSet<(&str, &str, &str)> =
        model.functions.iter().map(|f| (domain(&f.domain), f.name.as_str(), f.overload.as_str())).collect();
    let is_function =
        |(d, name, overload): &(String, String, String)| functions.contains(&(d, name, overload));
    let mut constants = Constants::default();
    let mut departures = vec![];
    let growth = |n: usize| GROWTH.saturating_mul(n).saturating_add(1 << 16);
    let named = flat.nodes.iter().map(|n| 1 + n.reads().count()).sum();
    for &i in &order {
        let flat_node @ FlatNode { node, source, opsets, .. } = &flat.nodes[i];
        for name in flat_node.reads() {
            bring(&mut graph, &mut env, &mut weights, name)
                .map_err(|e| e.read_by(source, &operator(node)))?;
        }
        let mut inputs: Vec<Option<Lowered>> = flat_node.reads().map(|n| env.get(n).cloned()).collect();
        let version = match flat.opsets[*opsets].get(domain(&node.domain)) {
            Some(&v) => v,
            None if node.domain == PART => 1,
            None => {
                return malformed(format!(
                    "node {source} is of domain {:?}, which the model does not import",
                    node.domain
                ));
            }
        };
        let operands = inputs.clone();
        inputs.truncate(node.input.len());
        let read = vec![false; node.attribute.len()];
        let before = graph.len();
        let mut cx = Cx {
            graph: &mut graph,
            constants: &mut constants,
            node: node.as_ref(),
            source,
            version,
            inputs,
            names: &names,
            read,
            departs: vec![],
        };
        let lowered = run(&mut cx);
        let departs = std::mem::take(&mut cx.departs);
        let outcome = match lowered {
            Err(Refusal::Unsupported(refused)) if options.opaque && node.domain != PART => {
                // What was made of the node so far stands for nothing.
                let forgotten = graph.forget_after(before);
                constants.forget(&forgotten);
                let carried = Carried {
                    node: flat_node,
                    opsets: &flat.opsets[*opsets],
                    why: if is_known(node) { refused.why().to_owned() } else { String::new() },
                    operands,
                    needed: &|name| needed.contains(name),
                    function: &is_function,
                };
                carry(&mut graph, &mut declared, carried)
                    .map(|all| all.into_iter().map(|v| v.map(Lowered::Value)).collect())
                    .map_err(|other| {
                        // Of a form that is not known the way out is another form.
                        let way_out = if is_known(node) { refused.way_out() } else { other.way_out() };
                        let (why, other) = (refused.why(), other.why());
                        let why = format!("{why}, and it cannot be carried as it is: {other}");
                        Refusal::Unsupported(Refused::new(why, way_out))
                    })
            }
            outcome => {
                let named = |what| Departure { node: source.clone(), operator: operator(node), what };
                departures.extend(departs.into_iter().map(named));
                outcome.map(|all| all.into_iter().map(Some).collect())
            }
        };
        let results: Vec<Option<Lowered>> = outcome.map_err(|refusal| {
            let operands = describe(&graph, &env, &node.input);
            match refusal {
                Refusal::Unsupported(why) => ImportError::Unsupported(Box::new(Unsupported {
                    op: operator(node),
                    node: source.clone(),
                    operands,
                    why,
                    others: others(&flat, &order, node),
                })),
                Refusal::Malformed(why) => ImportError::Malformed(format!(
                    "node {source} ({}): {why}; its operands are ({operands})",
                    operator(node)
                )),
            }
        })?;
        if graph.len() > growth(flat.nodes.len()) || graph.uses_in_all() > growth(named) {
            return malformed(format!("node {source} makes too many operations, or of too many operands"));
        }
        for (name, value) in node.output.iter().zip(results) {
            let Some(value) = value.filter(|_| !name.is_empty()) else { continue };
            if let Lowered::Value(v) = value {
                declared.learn(name, &graph.ty(v).shape)?;
            }
            env.insert(name, value);
        }
    }
    for output in &proto.output {
        bring(&mut graph, &mut env, &mut weights, &output.name)?;
        let value = match env.get(output.name.as_str()) {
            Some(Lowered::Value(v)) => *v,
            Some(Lowered::Sequence(_)) => {
                return malformed(format!("output {} is a sequence", output.name));
            }
            None => return malformed(format!("output {} is made by no node", output.name)),
        };
        check_output(output, graph.ty(value))?;
        graph.output(&output.name, value);
    }
    let idle = |name: &&String| !declared.rests_on(name) && !is_dimension(proto, name);
    if let Some(name) = options.dims.keys().find(idle) {
        return Err(no_dimension(proto, name));
    }
    graph.remove_dead();
    Ok((graph, departures))
}

/// Adds the weight of that name to the graph if it is one that is not there yet.
fn bring<'a>(
    graph: &mut Graph,
    env: &mut HashMap<&'a str, Lowered>,
    weights: &mut HashMap<&'a str, &'a TensorProto>,
    name: &str,
) -> Result<(), ImportError> {
    if let Some((name, t)) = weights.remove_entry(name) {
        let data = data::tensor(t, "initializer")?;
        env.insert(name, Lowered::Value(graph.constant(name, data)));
    }
    Ok(())
}

/// Whether annulus knows the operator of a node, in some form.
fn is_known(node: &NodeProto) -> bool {
    schema(domain(&node.domain), &node.op_type).is_some()
}

/// The operators beside that of a node which annulus does not know either, in words.
fn others(flat: &Flat<'_>, order: &[usize], node: &NodeProto) -> String {
    let nodes = order.iter().map(|&i| flat.nodes[i].node.as_ref());
    let unknown: BTreeSet<String> = nodes.filter(|n| !is_known(n)).map(operator).collect();
    let own = operator(node);
    let names: Vec<String> = unknown.into_iter().filter(|o| *o != own).collect();
    match names.len() {
        0 => String::new(),
        _ => format!("; annulus does not know {} of the model either", names.join(", ")),
    }
}

/// Lowers one node: finds it in the table, checks its arity, and that no attribute was overlooked.
fn run(cx: &mut Cx<'_>) -> LoweredNode {
    let node = cx.node;
    let Some(Schema { inputs, outputs, lower }) = schema(domain(&node.domain), &node.op_type) else {
        return unsupported("annulus does not know the operator", WayOut::CarryOpaque);
    };
    if !inputs.contains(&node.input.len()) || !outputs.contains(&node.output.len()) {
        return malformed_node(format!(
            "{} operands and {} results, where the operator takes {} and gives {}",
            node.input.len(),
            node.output.len(),
            numbers(&inputs),
            numbers(&outputs)
        ));
    }
    let results = lower(cx)?;
    if let Some(i) = cx.read.iter().position(|r| !r) {
        let why = format!("attribute {} is unknown at version {}", node.attribute[i].name, cx.version);
        return unsupported(why, WayOut::DropAttribute);
    }
    if let Some(name) = node.output.iter().skip(results.len()).find(|o| !o.is_empty()) {
        return unsupported(format!("result {name} is not computed"), WayOut::DropResult);
    }
    Ok(results)
}

/// How many there may be, in words.
fn numbers(range: &RangeInclusive<usize>) -> String {
    match (*range.start(), *range.end()) {
        (least, usize::MAX) => format!("{least} or more"),
        (least, most) if least == most => format!("{least}"),
        (least, most) => format!("{least} to {most}"),
    }
}

/// The operands of a node with their types, for messages.
fn describe(graph: &Graph, env: &HashMap<&str, Lowered>, names: &[String]) -> String {
    const MOST: usize = 8;
    let one = |name: &String| match env.get(name.as_str()) {
        None => "none".to_owned(),
        Some(Lowered::Value(v)) => format!("{name}: {}", graph.ty(*v)),
        Some(Lowered::Sequence(s)) => format!("{name}: sequence of {}", s.len()),
    };
    let mut parts: Vec<String> = names.iter().take(MOST).map(one).collect();
    if names.len() > MOST {
        parts.push(format!("… {} in all", names.len()));
    }
    parts.join(", ")
}

fn opsets(model: &ModelProto) -> Result<Opsets, ImportError> {
    let mut opsets = Opsets::new();
    for o in &model.opset_import {
        let name = domain(&o.domain);
        if let Some(old) = opsets.insert(name.to_owned(), o.version)
            && old != o.version
        {
            return malformed(format!("domain {name:?} is imported as version {old} and {}", o.version));
        }
    }
    Ok(opsets)
}

/// Every value name of the model; one that is made twice is an error.
fn value_names<'a>(flat: &'a Flat<'_>) -> Result<HashSet<&'a str>, ImportError> {
    let graph = flat.graph;
    let mut names: HashSet<&str> = HashSet::new();
    let take = |name: &str, made: bool| match made {
        false => malformed(format!("two values are named {name:?}")),
        true if name.is_empty() => malformed("an input or initializer has no name"),
        true => Ok(()),
    };
    for t in graph.initializer.iter().chain(&flat.weights) {
        take(&t.name, names.insert(&t.name))?;
    }
    for i in inputs_of(graph) {
        take(&i.name, names.insert(&i.name))?;
    }
    for o in flat.nodes.iter().flat_map(|n| &n.node.output).filter(|o| !o.is_empty()) {
        take(o, names.insert(o))?;
    }
    let mut outputs = HashSet::new();
    match graph.output.iter().find(|o| !outputs.insert(o.name.as_str())) {
        Some(o) => malformed(format!("two outputs are named {:?}", o.name)),
        None => Ok(names),
    }
}

/// A name for every node. A node without one is named by its operator and place; of several nodes of one name the first keeps it, and the
/// others are numbered, for reports name nodes.
fn node_names(graph: &GraphProto) -> Vec<String> {
    // What a file says of its nodes is never given to another one.
    let mut taken: HashSet<String> = graph.node.iter().map(|n| n.name.clone()).collect();
    let (mut met, mut moved): (HashMap<&str, usize>, HashMap<&str, usize>) = Default::default();
    let mut free = |base: &str, mut number: usize| {
        while !taken.insert(format!("{base}_{number}")) {
            number += 1;
        }
        (format!("{base}_{number}"), number)
    };
    let mut names = Vec::with_capacity(graph.node.len());
    for (i, n) in graph.node.iter().enumerate() {
        // The number that was given last, so that very many nodes of one name take no longer.
        let (base, from) = if n.name.is_empty() {
            (&n.op_type, moved.get(n.op_type.as_str()).map_or(i, |&last| i.max(last + 1)))
        } else if let Some(&last) = met.get(n.name.as_str()) {
            (&n.name, last + 1)
        } else {
            met.insert(&n.name, 0);
            names.push(n.name.clone());
            continue;
        };
        let (name, number) = free(base, from);
        match n.name.as_str() {
            "" if number != i => drop(moved.insert(base, number)),
            "" => {}
            _ => drop(met.insert(base, number)),
        }
        names.push(name);
    }
    names
}

/// The nodes that the outputs need, operands first; among those that may come next, the one that stands first in the file.
fn order(flat: &Flat<'_>) -> Result<Vec<usize>, ImportError> {
    let mut made_by: HashMap<&str, usize> = HashMap::new();
    for (i, n) in flat.nodes.iter().enumerate() {
        made_by.extend(n.node.output.iter().filter(|o| !o.is_empty()).map(|o| (o.as_str(), i)));
    }
    let mut given: HashSet<&str> = flat.graph.initializer.iter().map(|t| t.name.as_str()).collect();
    given.extend(flat.weights.iter().map(|t| t.name.as_str()));
    given.extend(flat.graph.input.iter().map(|i| i.name.as_str()));
    let mut live = vec![false; flat.nodes.len()];
    let mut open: Vec<usize> =
        flat.graph.output.iter().filter_map(|o| made_by.get(o.name.as_str()).copied()).collect();
    while let Some(i) = open.pop() {
        if !std::mem::replace(&mut live[i], true) {
            open.extend(flat.nodes[i].reads().filter_map(|name| made_by.get(name).copied()));
        }
    }
    let mut users: Vec<Vec<usize>> = vec![vec![]; flat.nodes.len()];
    let mut missing = vec![0usize; flat.nodes.len()];
    for (i, n) in flat.nodes.iter().enumerate().filter(|(i, _)| live[*i]) {
        for name in n.reads().filter(|x| !x.is_empty()) {
            match made_by.get(name) {
                Some(&from) => {
                    users[from].push(i);
                    missing[i] += 1;
                }
                None if given.contains(name) => {}
                None => {
                    return malformed(format!("node {} reads {name:?}, which nothing makes", n.source));
                }
            }
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..missing.len()).filter(|&i| live[i] && missing[i] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(missing.len());
    while let Some(Reverse(i)) = ready.pop() {
        order.push(i);
        for &user in &users[i] {
            missing[user] -= 1;
            if missing[user] == 0 {
                ready.push(Reverse(user));
            }
        }
    }
    match missing.iter().position(|&m| m > 0) {
        Some(i) => malformed(format!("node {} is part of a cycle, or reads one", flat.nodes[i].source)),
        None => Ok(order),
    }
}

/// A declared output type must be what the nodes make; symbolic and missing extents say nothing.
fn check_output(output: &ValueInfoProto, ty: &Type) -> Result<(), ImportError> {
    let Some(declared) = output.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()) else { return Ok(()) };
    let name = &output.name;
    if declared.elem_type != 0 && data::dtype(declared.elem_type) != Some(ty.dtype) {
        return malformed(format!(
            "output {name} is declared as {} and made as {ty}",
            data::type_name(declared.elem_type)
        ));
    }
    Ok(())
}
