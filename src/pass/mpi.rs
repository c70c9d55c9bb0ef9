//! A compiled graph with one rank in this process, and the others in those that were started with it.

use super::compiled::Compiled;
use super::error::Error;
use super::facts::facts;
use super::path::ready;
use crate::exec::cpu::{self, Progress, Run};
use crate::exec::mpi::{OverMpi, World};
use crate::ir::Tensor;
use std::time::Duration;

/// Runs a compiled graph on whole inputs, each rank in a process of its own, over MPI: this process is the rank that `world` says. All of
/// them compile and call this alike; before the first message they compare what they are about to run. Every process gets whole outputs, and
/// what each rank sent. `order` is the seed of an order of streams, and how long a rank waits for the others.
///
/// # Errors
/// As [`run`](crate::run); there are more processes than ranks, or fewer; ranks run something else, fail, or do not come: every rank is
/// told, and the job ends when the world is dropped.
pub fn run_over_mpi(
    compiled: &Compiled,
    world: &mut World,
    inputs: &[Tensor],
    order: (u64, Duration),
    watch: &mut dyn FnMut(Progress),
) -> Result<Run, Error> {
    let done = run(compiled, world, inputs, order, watch);
    if let Err(e) = &done {
        world.fail(&e.to_string());
    }
    done
}

fn run(
    compiled: &Compiled,
    world: &mut World,
    inputs: &[Tensor],
    (seed, patience): (u64, Duration),
    watch: &mut dyn FnMut(Progress),
) -> Result<Run, Error> {
    let (program, schedules) = (&compiled.program, compiled.schedules());
    world.agree(&facts(compiled, inputs), patience)?;
    ready(compiled, inputs)?;
    let mut ranks = OverMpi::new(world, program.ranks, (seed, patience))?;
    let mut run = cpu::run_with(program, &schedules, inputs, watch, &mut ranks)?;
    // Each counted its own.
    let own = world.rank();
    let counted = [run.traffic.bytes_sent[own], run.traffic.messages[own]].map(|n| (n as u64).to_le_bytes());
    let all = world.exchange(&counted.concat(), &vec![16; program.ranks], patience)?;
    for (rank, counted) in all.iter().enumerate() {
        let (words, _) = counted.as_chunks::<8>();
        let number = |i: usize| words.get(i).map_or(0, |word| u64::from_le_bytes(*word) as usize);
        (run.traffic.bytes_sent[rank], run.traffic.messages[rank]) = (number(0), number(1));
    }
    Ok(run)
}
