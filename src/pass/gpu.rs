//! A compiled graph on one GPU: its islands there, the rest on the CPU.

use super::compiled::Compiled;
use super::error::Error;
use super::facts::facts;
use super::path::ready;
use crate::exec::cpu::{Progress, Run};
use crate::exec::cuda::Gpu;
use crate::exec::cuda::nccl::{NcclError, Processes, Wanted};
use crate::exec::cuda::ranks::{OnGpu, RunOptions};
use crate::exec::flight::{self, Cause};
use crate::exec::group::{Fault, Group};
use crate::exec::walk::record_of_none;
use crate::ir::Tensor;
use crate::lower::program::{Target, lower};
use std::sync::Arc;
use std::time::Duration;

/// Makes the islands of a compiled graph ready on a GPU, with all ranks in this process: what no kernel computes is refused by name.
///
/// # Errors
/// A step has no kernel, memory does not suffice, or the driver's.
pub fn prepare_on_gpu<'g>(
    compiled: &Compiled,
    gpu: &'g Gpu,
    options: RunOptions<'_>,
) -> Result<OnGpu<'g>, Error> {
    Ok(OnGpu::prepare(gpu, &compiled.schedules(), options)?)
}

/// Joins the processes of a run, each of which is a rank with a GPU of its own: `group` has met, and all of them compile and call this
/// alike. Before the first message they compare what they are about to run. No wait is longer than `patience`.
///
/// # Errors
/// There are more processes than ranks, or fewer; ranks run something else, fail, or do not come; NCCL's. Every rank is told.
pub fn join_on_gpu(
    compiled: &Compiled,
    gpu: &Gpu,
    mut group: Group,
    inputs: &[Tensor],
    patience: Duration,
) -> Result<Processes, Error> {
    let over = |e: Fault| NcclError::Over(e.to_string());
    let arch = gpu.arch().map_or("no kernels".into(), |arch| arch.name().to_owned());
    let told = facts(compiled, inputs).with("architecture of the GPU", arch);
    let agreed = group.agree(&told, patience).map_err(over)?.map_err(|e| NcclError::Over(e.to_string()));
    let (size, ranks) = (group.size(), compiled.program.ranks);
    let agreed = agreed.and(if size == ranks { Ok(()) } else { Err(NcclError::Ranks { size, ranks }) });
    if let Err(e) = agreed {
        // All of them say the same, and none is told that another one left before it had heard.
        let _ = group.leave(patience);
        return Err(e.into());
    }
    // For each stream of transfers its own, so that those of several axes are under way at the same time.
    let schedules = compiled.schedules();
    let rank = group.rank();
    let joined = Processes::join(gpu, group, &Wanted::by(schedules.values().map(Arc::as_ref)), patience);
    Ok(joined.inspect_err(|e| {
        let others = matches!(e, NcclError::Over(_) | NcclError::Late { .. });
        not_begun(compiled, rank, &e.to_string(), if others { Cause::Others } else { Cause::Own });
    })?)
}

/// A rank that fails before its first operation leaves a record too: else it would be the one that nobody has heard of.
fn not_begun(compiled: &Compiled, rank: usize, why: &str, cause: Cause) {
    let first = compiled.islands.first().and_then(|island| lower(&island.schedule, Target::Cpu).ok());
    if let Some(program) = first.as_ref().and_then(|programs| programs.get(rank)) {
        flight::keep(&record_of_none(program, (why, cause)));
    }
}

/// Makes the islands of this process's rank ready on its GPU.
///
/// # Errors
/// As [`prepare_on_gpu`]; every rank is told.
pub fn prepare_process_on_gpu<'g>(
    compiled: &Compiled,
    gpu: &'g Gpu,
    processes: &'g Processes,
    options: RunOptions<'_>,
) -> Result<OnGpu<'g>, Error> {
    let made = OnGpu::prepare_process(gpu, &compiled.schedules(), processes, options);
    Ok(made.inspect_err(|e| {
        not_begun(compiled, processes.rank(), &e.to_string(), whose(processes));
        processes.fail(&e.to_string());
    })?)
}

/// Whose fault it is that this rank fails: another's, if one is known to have failed before.
fn whose(processes: &Processes) -> Cause {
    if processes.well().is_err() { Cause::Others } else { Cause::Own }
}

/// Runs a compiled graph on whole inputs: its islands where they were made ready, the rest on the CPU. Where ranks are processes, all of
/// them call it alike, each gets whole outputs, and one that fails tells the others. `watch` is told again and again
/// how far it has come.
///
/// # Errors
/// As [`run`](crate::run), and the GPU's.
pub fn run_on_gpu(
    compiled: &Compiled,
    on: &mut OnGpu<'_>,
    inputs: &[Tensor],
    watch: &mut dyn FnMut(Progress),
) -> Result<Run, Error> {
    let mut run = || {
        ready(compiled, inputs)?;
        Ok(on.run(&compiled.program, &compiled.schedules(), inputs, watch)?)
    };
    let done: Result<Run, Error> = run();
    if let (Err(e), Some(processes)) = (&done, on.processes()) {
        if flight::kept_in().is_none() {
            not_begun(compiled, processes.rank(), &e.to_string(), whose(processes));
        }
        processes.fail(&e.to_string());
    }
    done
}
