//! A compiled graph on one GPU: its islands there, the rest on the CPU.

use super::compiled::Compiled;
use super::error::Error;
use super::path::ready;
use crate::exec::cpu::{Progress, Run};
use crate::exec::cuda::Gpu;
use crate::exec::cuda::ranks::{OnGpu, RunOptions};
use crate::ir::Tensor;

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

/// Runs a compiled graph on whole inputs: its islands where they were made ready, the rest on the CPU. `watch` is told again and again
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
    ready(compiled, inputs)?;
    Ok(on.run(&compiled.program, &compiled.schedules(), inputs, watch)?)
}
