//! What the pass asks of each stage before the next one reads its result.

use super::error::Error;
use super::options::Options;
use crate::device::Device;
use crate::find::FindOptions;
use crate::ir::{Graph, Stage, verify_at};
use crate::layout::Layout;
use crate::search::kinds;
use crate::shard::{Program, shard_with, verify_program};
use std::sync::Arc;

/// The device that is asked for, which holds the ranks.
pub(super) fn device(options: &Options) -> Result<Device, Error> {
    let mut device = options.device.clone().unwrap_or_else(|| Device::default_for(options.ranks));
    if device.holds(options.ranks) {
        if let Some(nodes) = options.nodes {
            // Links cost what they do where ranks stand so.
            (device.nodes, device.ranks_per_node) = (nodes, options.ranks / nodes.max(1));
        }
        return Ok(device);
    }
    let (has, device) = (device.ranks().unwrap_or(0), device.name);
    Err(Error::Device { device, has, wanted: options.ranks })
}

/// Every input that is bound is one of the graph, and of the value's type.
pub(super) fn bound(graph: &Graph, options: &FindOptions) -> Result<(), Error> {
    let Some(b) = options.bound.iter().find(|b| b.of(graph).is_none()) else { return Ok(()) };
    let named = graph.inputs().into_iter().find(|&v| graph.value(v).name == b.input);
    let is = named.map(|v| graph.ty(v).clone());
    Err(Error::Bind { input: b.input.clone(), value: b.value.ty(), is })
}

/// A graph that is well formed after a stage.
pub(super) fn verified(graph: &Graph, stage: Stage) -> Result<(), Error> {
    verify_at(graph, stage).map_err(|errors| Error::Verify { stage, errors })
}

/// A graph, split: a program that is well formed, as its graph still is, and the other layouts that its sequences may have.
pub(super) fn split(graph: Graph, options: &Options) -> Result<(Program, Vec<Vec<Layout>>), Error> {
    let kinds = kinds(options.layout, options.ranks);
    let (program, others) = shard_with(Arc::new(graph), &options.shard(), kinds)?;
    verified(&program.graph, Stage::Find)?;
    let faults = verify_program(&program);
    if faults.is_empty() { Ok((program, others)) } else { Err(Error::Program { faults }) }
}
