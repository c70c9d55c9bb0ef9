//! What ranks that are processes compare before the first message: each compiled for itself, and all must have compiled the same.

use super::compiled::Compiled;
use crate::ir::Tensor;
use crate::schedule::Schedule;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// What all ranks should have alike.
#[derive(Clone, Debug)]
pub(super) struct Fact {
    /// What it is.
    pub(super) name: &'static str,
    /// In a few words.
    pub(super) shown: String,
    /// All of it: what is compared.
    pub(super) whole: String,
}

/// The version, which is compared before the rest: what else is compared may be another list in another version.
pub(super) fn version() -> Fact {
    same("version of annulus", env!("CARGO_PKG_VERSION").to_owned())
}

/// What is about to run. Device programs follow from schedules and version, and from what they are made for.
pub(super) fn facts(compiled: &Compiled, inputs: &[Tensor]) -> Vec<Fact> {
    let fact = |name, shown: String, whole: String| {
        let hash = Sha256::digest(whole.as_bytes());
        let hash: String = hash.iter().take(4).map(|b| format!("{b:02x}")).collect();
        Fact { name, shown: format!("{shown} ({hash})"), whole }
    };
    let program = &compiled.program;
    let schedule = |s: &Arc<Schedule>| format!("{}, {}", s.strategy, s.q_layout.kind.name());
    let schedules = compiled.schedules();
    let mut ways: Vec<String> = schedules.values().map(schedule).collect();
    ways.dedup();
    let types: Vec<String> = inputs.iter().map(|x| x.ty().to_string()).collect();
    let texts: Vec<String> = schedules.values().map(|s| s.to_string()).collect();
    let hash = |x: &Tensor| format!("{:x}", Sha256::digest(x.data().to_le_bytes()));
    let values = inputs.iter().map(hash).collect::<String>();
    vec![
        same("number of ranks", program.ranks.to_string()),
        fact("graph", format!("one of {} operations", program.graph.ops().len()), program.graph.to_string()),
        fact("schedule", ways.join("; "), texts.concat()),
        same("list of inputs", types.join(", ")),
        fact("values of the inputs", types.join(", "), values),
    ]
}

/// What is shown whole.
pub(super) fn same(name: &'static str, shown: String) -> Fact {
    Fact { name, shown: shown.clone(), whole: shown }
}
