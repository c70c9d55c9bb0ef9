//! What ranks that are processes compare before the first message: each compiled for itself, and all must have compiled the same.

use super::compiled::Compiled;
use crate::exec::group::Facts;
use crate::ir::Tensor;
use crate::schedule::Schedule;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// What is about to run. Device programs follow from schedules and version, and from what they are made for.
pub(super) fn facts(compiled: &Compiled, inputs: &[Tensor]) -> Facts {
    // In a few words, and 64 bits of the hash of all of it.
    let hashed = |shown: String, whole: String| {
        let hash = Sha256::digest(whole.as_bytes());
        let hash: String = hash.iter().take(8).map(|b| format!("{b:02x}")).collect();
        format!("{shown} ({hash})")
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
    let operations = format!("one of {} operations", program.graph.ops().len());
    Facts::new()
        .with("number of ranks", program.ranks.to_string())
        .with("graph", hashed(operations, program.graph.to_string()))
        .with("schedule", hashed(ways.join("; "), texts.concat()))
        .with("list of inputs", types.join(", "))
        .with("values of the inputs", hashed(types.join(", "), values))
}
