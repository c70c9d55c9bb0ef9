//! The verifier: what every other room takes for granted of a graph.
//!
//! In: any [`Graph`]. Out: nothing, or every broken invariant with its place. It runs after every pass and on every text
//! that is parsed; an error after a pass is a bug of that pass.
//!
//! Invariants:
//!
//! * **Acyclic.** No operation needs its own result; [`Graph::ops`] therefore lists every operation.
//! * **Operands.** The operands of an operation with n operands fill the slots 0 to n − 1, each once, and each is a result
//!   that exists.
//! * **Types.** The results of an operation have the types that [`infer`](super::infer) gives for its operands: every rule
//!   about what an operation takes, the attributes of attention and of its parts included, holds. A value has at most 2^40
//!   elements and 64 axes.
//! * **Names.** A value has a name that is not empty and that no other value of the graph has.
//! * **Inputs.** The list of inputs holds every input operation of the graph once, and nothing else.
//! * **Outputs.** An output is a value that exists; no two outputs have one name.
//! * **Constants.** Data, where it is there, has the type and the content hash that the constant claims. (The hash of data
//!   above 64 KiB is compared in debug builds only, and whenever a text is parsed: hashing all weights after every pass
//!   would cost more than the pass.)
//! * **Transfers.** The result of a started transfer is read by exactly one `wait` and by nothing else, is no output, and a
//!   `wait` reads nothing but such a result. Groups count from 1, and a group is started once.
//! * **Tiles.** An `attn_partial` that claims `full` has no pair of rows that its mask takes out.
//! * **Regions.** The graph of a region keeps all of this; graphs nest at most [`MAX_NESTING`] deep.

use super::infer::infer;
use super::text::quoted_name;
use super::types::MAX_RANK;
use super::{Constant, Graph, Op, OpId, Partial, Type};
use crate::mask::{Fill, Mask, Tile};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// How deep graphs may nest: a graph with a region nests one deep.
pub const MAX_NESTING: usize = 32;

/// Largest data whose hash is compared in every build.
const HASHED_BYTES: usize = 64 << 10;

/// Most pairs of row progressions that are looked at to prove one tile full.
const MAX_TILES: usize = 1 << 24;

/// One broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {why}")]
pub struct VerifyError {
    /// The operation or value, with its source node.
    pub at: String,
    /// The invariant that is broken.
    pub why: String,
}

/// What an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Op(OpId),
    Output(usize),
    Graph,
}

/// Checks every invariant and returns all that are broken.
///
/// # Errors
/// Every broken invariant, in order of the operations.
pub fn verify(graph: &Graph) -> Result<(), Vec<VerifyError>> {
    let mut errors = Vec::new();
    // A region that stands in a graph twice, shared, is looked at once per depth.
    let mut seen: HashSet<(*const Graph, usize)> = HashSet::new();
    let mut open: Vec<(String, &Graph, usize)> = vec![(String::new(), graph, 0)];
    while let Some((prefix, graph, depth)) = open.pop() {
        for (place, why) in faults(graph) {
            errors.push(VerifyError { at: format!("{prefix}{}", show(graph, place)), why });
        }
        let mut inner = Vec::new();
        for id in graph.ops() {
            let Op::Region(_, region) = graph.op(id) else { continue };
            let at = format!("{prefix}{}", show(graph, Place::Op(id)));
            if depth == MAX_NESTING {
                errors.push(VerifyError { at, why: format!("graphs nest deeper than {MAX_NESTING}") });
            } else if seen.insert((Arc::as_ptr(region), depth + 1)) {
                inner.push((format!("{at} in "), region.as_ref(), depth + 1));
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
pub(super) fn faults(graph: &Graph) -> Vec<(Place, String)> {
    let mut out = Vec::new();
    let order = graph.ops();
    let mut names: HashSet<&str> = HashSet::new();
    let mut groups = BTreeSet::new();
    let is_output: HashSet<_> = graph.outputs().iter().map(|o| o.value).collect();
    let mut inputs: BTreeMap<OpId, usize> = BTreeMap::new();
    for v in graph.inputs() {
        *inputs.entry(v.op).or_insert(0) += 1;
    }
    let cyclic = if order.len() < graph.len() { graph.left_out(&order) } else { vec![] };
    for (&id, on_cycle) in order.iter().map(|id| (id, false)).chain(cyclic.iter().map(|id| (id, true))) {
        let mut fault = |why: String| out.push((Place::Op(id), why));
        if on_cycle {
            fault("needs its own result, or that of an operation that does".into());
        }
        for v in graph.results(id) {
            let value = graph.value(v);
            if value.name.is_empty() {
                fault("a result has no name".into());
            } else if !names.insert(&value.name) {
                fault(format!("the name {} is that of another value too", quoted_name(&value.name)));
            }
            if value.ty.rank() > MAX_RANK || value.ty.checked_elements().is_none() {
                fault(format!("a result has more than 2^40 elements or {MAX_RANK} axes"));
            }
        }
        types(graph, id, &mut fault);
        match graph.op(id) {
            Op::Input(_) if inputs.remove(&id) != Some(1) => {
                fault("the list of inputs does not hold this input once".into());
            }
            Op::Constant(c) => constant(c, &mut fault),
            Op::Start(c, _) => {
                if c.group() == 0 {
                    fault("groups count from 1".into());
                } else if !groups.insert(c.group()) {
                    fault(format!("group {} is started twice", c.group()));
                }
                transfer(graph, id, &mut fault);
                if is_output.contains(&graph.result(id)) {
                    fault("a started transfer is an output".into());
                }
            }
            Op::Wait if graph.operands(id).iter().any(|&v| !is_start(graph, v.op)) => {
                fault("waits for what is no started transfer".into());
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
        out.push((Place::Graph, "the list of inputs holds what is no input".into()));
    }
    let mut outputs: HashSet<&str> = HashSet::new();
    for (i, o) in graph.outputs().iter().enumerate() {
        if !graph.contains(o.value) {
            out.push((Place::Output(i), "is a value that does not exist".into()));
        }
        if !outputs.insert(&o.name) {
            out.push((Place::Output(i), "another output has this name".into()));
        }
    }
    out
}

/// Operand slots, and result types against inference.
fn types(graph: &Graph, id: OpId, fault: &mut impl FnMut(String)) {
    let operands = graph.slots(id);
    if operands.iter().enumerate().any(|(i, &(slot, _))| slot != i) {
        let slots: Vec<usize> = operands.iter().map(|&(slot, _)| slot).collect();
        return fault(format!("operands fill the slots {slots:?}"));
    }
    if operands.iter().any(|&(_, v)| !graph.contains(v)) {
        return fault("an operand is a result that its operation does not have".into());
    }
    let types: Vec<&Type> = operands.iter().map(|&(_, v)| graph.ty(v)).collect();
    let declared: Vec<&Type> = graph.results(id).into_iter().map(|v| graph.ty(v)).collect();
    match infer(graph.op(id), &types) {
        Err(e) => fault(e.why),
        Ok(inferred) if declared.iter().copied().ne(&inferred) => {
            let list = |t: &mut dyn Iterator<Item = &Type>| {
                t.map(ToString::to_string).collect::<Vec<_>>().join(", ")
            };
            let (declared, inferred) = (list(&mut declared.into_iter()), list(&mut inferred.iter()));
            fault(format!("is declared as {declared}, but gives {inferred}"));
        }
        Ok(_) => {}
    }
}

fn constant(c: &Constant, fault: &mut impl FnMut(String)) {
    let Some(data) = &c.data else { return };
    if data.ty() != c.ty {
        fault(format!("the data is {}, not {}", data.ty(), c.ty));
    } else if (cfg!(debug_assertions) || c.ty.bytes() <= HASHED_BYTES) && data.content_hash() != c.hash {
        fault(format!("the data does not hash to #{:016x}", c.hash));
    }
}

fn is_start(graph: &Graph, id: OpId) -> bool {
    matches!(graph.op(id), Op::Start(..))
}

fn transfer(graph: &Graph, id: OpId, fault: &mut impl FnMut(String)) {
    let arriving = graph.result(id);
    let uses = graph.uses(arriving);
    if uses.len() != 1 || !matches!(graph.op(uses[0].0), Op::Wait) {
        let users: Vec<&str> = uses.iter().map(|&(user, _)| graph.op(user).name()).collect();
        let users = if users.is_empty() { "nothing".to_owned() } else { users.join(", ") };
        fault(format!("is read by {users}; want one wait, and nothing else"));
    }
}

/// Why it is not proved that the mask keeps every pair of rows of the two sides.
fn not_full(p: &Partial) -> Option<String> {
    // A bias or a finite fill changes no pair's part in the softmax; a term does.
    let mask = Mask { fill: Fill::NegInf, ..p.attention.mask.clone() };
    if p.q_rows.len().saturating_mul(p.k_rows.len()) > MAX_TILES {
        return Some("has too many rows to prove that its tile is full".into());
    }
    let masked =
        p.q_rows.iter().find_map(|q| p.k_rows.iter().find(|k| mask.tile(q, k) != Tile::Full).map(|k| (q, k)));
    masked.map(|(q, k)| format!("claims that no pair is masked, but {mask} does in rows {q} and keys {k}"))
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
