//! `annulus run --backend cuda`: attentions on one GPU, the rest on the CPU.

use super::args::Run;
use super::stop::Stop;
use annulus::Compiled;
use annulus::exec::cpu::{self, Progress};
use annulus::ir::Tensor;

#[cfg(all(feature = "cuda", target_os = "linux"))]
pub(super) fn run(
    args: &Run,
    compiled: &Compiled,
    inputs: &[Tensor],
    watch: &mut dyn FnMut(Progress),
) -> Result<(cpu::Run, Option<String>), Stop> {
    use annulus::exec::cache::{Cache, standard_folder};
    use annulus::exec::cuda::Gpu;
    use annulus::exec::cuda::ranks::RunOptions;
    use annulus::shard::Segment;
    use std::time::Duration;

    let failed = |e: annulus::exec::cuda::CudaError| Stop::Failed(format!("--backend cuda: {e}"));
    let gpu = Gpu::open(0).map_err(failed)?;
    // A cache that cannot be had is no reason to stop: kernels are compiled anew.
    let folder = standard_folder().filter(|_| !args.no_cache);
    let cache = folder.and_then(|folder| Cache::open(&folder).ok());
    let options = RunOptions {
        cache: cache.as_ref(),
        graph: !args.no_graph,
        patience: Duration::from_secs(args.patience),
    };
    let mut on = annulus::prepare_on_gpu(compiled, &gpu, options)?;
    let run = annulus::run_on_gpu(compiled, &mut on, inputs, watch)?;
    let count = compiled.schedules().len();
    let plural = |n: usize, what: &str| if n == 1 { format!("{n} {what}") } else { format!("{n} {what}s") };
    let kernels = on.kernels();
    let local = |s: &Segment| matches!(s, Segment::Local(ops) if !ops.is_empty());
    let rest = match compiled.program.segments.iter().any(local) {
        true => "the rest on the CPU",
        false => "nothing else to compute",
    };
    let line = format!(
        "{} · {} on one GPU · {} on the GPU, {rest} · kernels {} compiled, {} from cache",
        gpu.name().map_err(failed)?,
        plural(args.split.ranks as usize, "rank"),
        plural(count, "attention"),
        kernels.compiled(),
        kernels.cached(),
    );
    Ok((run, Some(line)))
}

#[cfg(not(all(feature = "cuda", target_os = "linux")))]
pub(super) fn run(
    _: &Run,
    _: &Compiled,
    _: &[Tensor],
    _: &mut dyn FnMut(Progress),
) -> Result<(cpu::Run, Option<String>), Stop> {
    Err(Stop::Failed("--backend cuda: annulus was built without the feature cuda, or not for Linux".into()))
}
