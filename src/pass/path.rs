//! The whole pass, a line a stage, and its first stage alone; and the run of what it gives.

use super::compiled::{Compiled, Island};
use super::error::Error;
use super::options::Options;
use super::verified::{bound, device, split, verified};
use crate::eval::{self, EvalError};
use crate::exec::cpu::{self, Run};
use crate::find::{FindOptions, Found, FoundAttention, Ring, find};
use crate::ir::{Dropout, Graph, OpId, Stage, Tensor};
use crate::search::search;
use crate::shard::refusals;
use std::collections::BTreeMap;

/// The whole pass: finds the attentions, splits the sequence, rewrites, schedules and proves.
///
/// ```
/// let graph = annulus::ir::parse(
///     r#"graph "tiny" {
///   input %q: f32[1,2,8,4]
///   %o: f32[1,2,8,4] = attention %q, %q, %q {scores=[factor 0.5 | fill -inf unless causal(0)], acc=f32, empty=zero}
///   output "o" = %o
/// }"#,
/// )?;
/// let compiled = annulus::compile(&graph, &annulus::Options::new(4))?;
/// assert_eq!((compiled.attentions.len(), compiled.islands.len()), (1, 1));
/// // More ranks than the device has are refused with a reason.
/// let error = annulus::compile(&graph, &annulus::Options::new(65)).unwrap_err();
/// assert!(error.to_string().starts_with("65 ranks, and h200x8x8 has 64"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// See [`Error`]. The graph is left as it was.
pub fn compile(graph: &Graph, options: &Options) -> Result<Compiled, Error> {
    options.check()?;
    // find: every attention is one node. Verified: the graph before and after.
    let Found { graph, mut attentions, missed, guards, .. } = searched(graph, &options.find)?;
    let device = device(options)?;
    // shard: who owns which rows of which value. Verified: the graph, the layouts and the order of segments.
    let (program, others) = split(graph, options)?;
    answer(&mut attentions, &program.refused);
    // search: ring → schedule → estimate, for each strategy and layout. Verified by what follows.
    let (program, chosen) = search(program, others, &options.search(), &device)?;
    // check: the proof of every distinct schedule.
    let islands = Island::proved(chosen)?;
    Ok(Compiled { attentions, missed, guards, program, islands, device })
}

/// The first stage alone: every attention in normal form, in a graph that is verified, and for each whether the ring splits it
/// where every input is handed over whole.
///
/// # Errors
/// [`Error::Verify`] if the graph is not well formed, before or after; [`Error::Bind`] if a bound input does not fit.
pub fn find_attentions(graph: &Graph, options: &FindOptions) -> Result<Found, Error> {
    let mut found = searched(graph, options)?;
    answer(&mut found.attentions, &refusals(&found.graph));
    Ok(found)
}

/// What is found in a graph, which is verified before and after.
fn searched(graph: &Graph, options: &FindOptions) -> Result<Found, Error> {
    verified(graph, Stage::Import)?;
    bound(graph, options)?;
    if let Some(fault) = options.dropout.and_then(|asked| Dropout::new(asked.ratio, 0).fault()) {
        return Err(Error::Dropout(fault));
    }
    let found = find(graph, options);
    verified(&found.graph, Stage::Find)?;
    Ok(found)
}

/// Says of each attention whether the ring splits it: it does, but for those that the split refuses.
fn answer(attentions: &mut [FoundAttention], refused: &[(OpId, String)]) {
    let refused: BTreeMap<OpId, &String> = refused.iter().map(|(op, reason)| (*op, reason)).collect();
    for attention in attentions {
        attention.ring = refused.get(&attention.op).map_or(Ring::Splits, |r| Ring::Refused((*r).clone()));
    }
}

/// Runs a compiled graph on the CPU, every rank in this process, on whole inputs; `seed` picks another legal order.
///
/// # Errors
/// If operators are needed that annulus does not compute, an operation fails on a rank, or an input has another value than the
/// one it is bound to.
pub fn run(compiled: &Compiled, inputs: &[Tensor], seed: u64) -> Result<Run, Error> {
    run_watched(compiled, inputs, seed, &mut |_| {})
}

/// [`run`]; `watch` is told again and again how far it has come.
///
/// # Errors
/// As [`run`].
pub fn run_watched(
    compiled: &Compiled,
    inputs: &[Tensor],
    seed: u64,
    watch: &mut dyn FnMut(cpu::Progress),
) -> Result<Run, Error> {
    ready(compiled, inputs)?;
    Ok(cpu::run_watched(&compiled.program, &compiled.schedules(), inputs, seed, watch)?)
}

/// Whether all of the graph can be computed, and inputs have the values that they are bound to.
pub(super) fn ready(compiled: &Compiled, inputs: &[Tensor]) -> Result<(), Error> {
    let graph = &compiled.program.graph;
    let lacking = eval::lacking(graph);
    if !lacking.is_empty() {
        return Err(EvalError::Lacks(lacking).into());
    }
    for guard in &compiled.guards {
        let at = graph.inputs().into_iter().position(|v| graph.value(v).name == guard.input);
        if at.and_then(|i| inputs.get(i)).is_some_and(|x| *x != guard.value) {
            return Err(Error::Guard { input: guard.input.clone() });
        }
    }
    Ok(())
}
