//! The check: walks a graph and those of its regions, and collects what is broken.

use super::broken::Broken;
use crate::ir::infer::infer;
use crate::ir::quote::quoted_name;
use crate::ir::types::{MAX_NESTING, MAX_RANK};
use crate::ir::{Attribute, Blob, Collective, Constant, Graph, Op, OpId, Partial, Stage, Type};
use crate::mask::Tile;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Largest data whose hash is compared in every build.
const HASHED_BYTES: usize = 64 << 10;

/// Most pairs of row progressions that are looked at to prove one tile full.
const MAX_TILES: usize = 1 << 24;

/// One broken invariant, with its place.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{at}: {why}")]
#[non_exhaustive]
pub struct VerifyError {
    /// The operation or value, with its source node.
    pub at: String,
    /// The invariant that is broken.
    pub why: Broken,
}

/// What an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ir) enum Place {
    Op(OpId),
    Output(usize),
    Graph,
}

/// Checks every invariant and returns all that are broken.
///
/// # Errors
/// Every broken invariant, in order of the operations.
pub fn verify(graph: &Graph) -> Result<(), Vec<VerifyError>> {
    walk(graph, None)
}

/// [`verify`], and that no operation belongs to another stage than the graph, nor in a region to another than the region.
///
/// # Errors
/// Every broken invariant, in order of the operations.
pub fn verify_at(graph: &Graph, stage: Stage) -> Result<(), Vec<VerifyError>> {
    walk(graph, Some(stage))
}

fn walk(graph: &Graph, stage: Option<Stage>) -> Result<(), Vec<VerifyError>> {
    let mut errors = Vec::new();
    // A region that stands in a graph twice, shared, is looked at once per depth.
    let mut seen: HashSet<(*const Graph, usize)> = HashSet::new();
    let mut open: Vec<(String, &Graph, Option<Stage>, usize)> = vec![(String::new(), graph, stage, 0)];
    while let Some((prefix, graph, stage, depth)) = open.pop() {
        for (place, why) in faults(graph) {
            errors.push(VerifyError { at: format!("{prefix}{}", show(graph, place)), why });
        }
        let mut inner = Vec::new();
        for id in graph.ops() {
            if let Some(stage) = stage.filter(|s| !s.allows(graph.op(id))) {
                let why = Broken::Stage(stage.refusal(graph.op(id)));
                errors.push(VerifyError { at: format!("{prefix}{}", show(graph, Place::Op(id))), why });
            }
            let Op::Region(kind, region) = graph.op(id) else { continue };
            let at = format!("{prefix}{}", show(graph, Place::Op(id)));
            if depth == MAX_NESTING {
                errors.push(VerifyError { at, why: Broken::TooDeep });
            } else if seen.insert((Arc::as_ptr(region), depth + 1)) {
                let inside = stage.map(|_| Stage::of_region(kind));
                inner.push((format!("{at} in "), region.as_ref(), inside, depth + 1));
            }
        }
        open.extend(inner.into_iter().rev());
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// A place in words: `%x (add, @"node")`.
fn show(graph: &Graph, place: Place) -> String {
    match place {
        Place::Graph => format!("graph {:?}", graph.name()),
        Place::Output(i) => format!("output {:?}", graph.outputs()[i].name),
        Place::Op(id) => {
            let names: Vec<String> =
                graph.results(id).into_iter().map(|v| quoted_name(&graph.value(v).name)).collect();
            let source = graph.source(id);
            let source = if source.is_empty() { String::new() } else { format!(", @{source:?}") };
            format!("{} ({}{source})", names.join(", "), graph.op(id).name())
        }
    }
}

/// Every broken invariant of this graph, regions' own graphs left out.
pub(in crate::ir) fn faults(graph: &Graph) -> Vec<(Place, Broken)> {
    let mut out = Vec::new();
    let order = graph.ops();
    let mut names: HashSet<&str> = HashSet::new();
    // By group, whether it is one in which several values go.
    let mut groups: BTreeMap<usize, bool> = BTreeMap::new();
    let is_output: HashSet<_> = graph.outputs().iter().map(|o| o.value).collect();
    let mut inputs: BTreeMap<OpId, usize> = BTreeMap::new();
    for v in graph.inputs() {
        *inputs.entry(v.op).or_insert(0) += 1;
    }
    let cyclic = if order.len() < graph.len() { graph.left_out(&order) } else { vec![] };
    for (&id, on_cycle) in order.iter().map(|id| (id, false)).chain(cyclic.iter().map(|id| (id, true))) {
        let mut fault = |why: Broken| out.push((Place::Op(id), why));
        if on_cycle {
            fault(Broken::Cycle);
        }
        for v in graph.results(id) {
            let value = graph.value(v);
            if value.name.is_empty() {
                fault(Broken::Unnamed);
            } else if !names.insert(&value.name) {
                fault(Broken::NameTaken(value.name.clone()));
            }
            let counted = match graph.op(id) {
                Op::Constant(_) => value.ty.data_elements(),
                _ => value.ty.checked_elements(),
            };
            if value.ty.rank() > MAX_RANK || counted.is_none() {
                fault(Broken::TooLarge);
            }
        }
        types(graph, id, &mut fault);
        match graph.op(id) {
            Op::Input(_) if inputs.remove(&id) != Some(1) => {
                fault(Broken::Unlisted);
            }
            Op::Constant(c) => constant(c, &mut fault),
            Op::Opaque(o) => o.attributes.iter().for_each(|(_, value)| attribute(value, &mut fault)),
            Op::Start(c, _) => {
                if c.group() == 0 {
                    fault(Broken::GroupZero);
                } else {
                    let several = matches!(**c, Collective::AllToAll { .. });
                    let before = groups.insert(c.group(), several);
                    if before.is_some_and(|before| !(before && several)) {
                        fault(Broken::GroupTwice(c.group()));
                    }
                }
                transfer(graph, id, &mut fault);
                if is_output.contains(&graph.result(id)) {
                    fault(Broken::StartedOutput);
                }
            }
            Op::Wait if graph.operands(id).iter().any(|&v| !is_start(graph, v.op)) => {
                fault(Broken::NotStarted);
            }
            Op::Partial(p) if p.tile == Tile::Full => {
                if let Some(why) = not_full(p) {
                    fault(why);
                }
            }
            _ => {}
        }
    }
    if !inputs.is_empty() {
        out.push((Place::Graph, Broken::NoInput));
    }
    let mut outputs: HashSet<&str> = HashSet::new();
    for (i, o) in graph.outputs().iter().enumerate() {
        if !graph.contains(o.value) {
            out.push((Place::Output(i), Broken::NoValue));
        }
        if !outputs.insert(&o.name) {
            out.push((Place::Output(i), Broken::OutputTwice));
        }
    }
    out
}

/// Operand slots, and result types against inference.
fn types(graph: &Graph, id: OpId, fault: &mut impl FnMut(Broken)) {
    let operands = graph.slots(id);
    if operands.iter().enumerate().any(|(i, &(slot, _))| slot != i) {
        return fault(Broken::Slots(operands.iter().map(|&(slot, _)| slot).collect()));
    }
    if operands.iter().any(|&(_, v)| !graph.contains(v)) {
        return fault(Broken::NoOperand);
    }
    let types: Vec<&Type> = operands.iter().map(|&(_, v)| graph.ty(v)).collect();
    let declared: Vec<&Type> = graph.results(id).into_iter().map(|v| graph.ty(v)).collect();
    match infer(graph.op(id), &types) {
        Err(e) => fault(Broken::Operands(e.why)),
        Ok(inferred) if declared.iter().copied().ne(&inferred) => {
            fault(Broken::Types { declared: declared.into_iter().cloned().collect(), inferred });
        }
        Ok(_) => {}
    }
}

fn constant(c: &Constant, fault: &mut impl FnMut(Broken)) {
    let Some(data) = &c.data else { return };
    if data.ty() != c.ty {
        fault(Broken::DataType { data: data.ty(), ty: c.ty.clone() });
    } else if (cfg!(debug_assertions) || c.ty.bytes() <= HASHED_BYTES) && data.content_hash() != c.hash {
        fault(Broken::DataHash(c.hash));
    }
}

/// Data and bytes within an attribute, as those of constants.
fn attribute(value: &Attribute, fault: &mut impl FnMut(Broken)) {
    match value {
        Attribute::Tensor(c) => constant(c, fault),
        Attribute::Tensors(all) => all.iter().for_each(|c| constant(c, fault)),
        Attribute::Encoded(_, messages) => {
            let known = messages.iter().filter_map(|m| m.bytes.as_ref().map(|bytes| (m.hash, bytes)));
            for (hash, bytes) in known {
                let looked_at = cfg!(debug_assertions) || bytes.len() <= HASHED_BYTES;
                if looked_at && Blob::new(bytes.clone()).hash != hash {
                    fault(Broken::DataHash(hash));
                }
            }
        }
        _ => {}
    }
}

fn is_start(graph: &Graph, id: OpId) -> bool {
    matches!(graph.op(id), Op::Start(..))
}

fn transfer(graph: &Graph, id: OpId, fault: &mut impl FnMut(Broken)) {
    let arriving = graph.result(id);
    let uses = graph.uses(arriving);
    if uses.len() != 1 || !matches!(graph.op(uses[0].0), Op::Wait) {
        fault(Broken::NotAwaited(uses.iter().map(|&(user, _)| graph.op(user).name()).collect()));
    }
}

/// Why it is not proved that the mask keeps every pair of rows of the two sides.
fn not_full(p: &Partial) -> Option<Broken> {
    let scores = &p.attention.scores;
    if p.q_rows.len().saturating_mul(p.k_rows.len()) > MAX_TILES {
        return Some(Broken::NotProvedFull);
    }
    let masked = p
        .q_rows
        .iter()
        .find_map(|q| p.k_rows.iter().find(|k| scores.tile(q, k) != Tile::Full).map(|k| (q, k)));
    masked.map(|(q, k)| Broken::NotFull { mask: Box::new(scores.mask()), q: *q, k: *k })
}
