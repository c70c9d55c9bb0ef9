//! `annulus run --backend cuda`: attentions on one GPU, or on one for each rank, the rest on the CPU.

use super::args::Run;
use super::processes::Processes;
use super::stop::Stop;
use annulus::Compiled;
use annulus::exec::cpu::{self, Progress};
use annulus::ir::Tensor;

#[cfg(all(feature = "cuda", target_os = "linux"))]
pub(super) fn run(
    args: &Run,
    processes: &mut Processes,
    compiled: &Compiled,
    inputs: &[Tensor],
    watch: &mut dyn FnMut(Progress),
) -> Result<(cpu::Run, Option<String>), Stop> {
    use annulus::exec::cache::{Cache, standard_folder};
    use annulus::exec::cuda::ranks::RunOptions;
    use annulus::exec::cuda::{Gpu, devices, nccl};
    use annulus::exec::group::{Abort, launched, variables};
    use annulus::shard::Segment;
    use std::time::Duration;

    let failed = |e: annulus::exec::cuda::CudaError| Stop::Failed(format!("--backend cuda: {e}"));
    let met = processes.met();
    let open = || {
        // Ranks of one host have its GPUs in turn; where each sees one alone, that one.
        let own =
            if met.is_some() { launched(&variables()).ok().flatten().map_or(0, |l| l.local_rank) } else { 0 };
        let count = if own > 0 { devices()?.len() } else { 1 };
        Gpu::open(own % count.max(1))
    };
    let gpu = open().map_err(|e| {
        // The others hear of it by name.
        met.iter().for_each(|group| group.abort(Abort::because(format!("--backend cuda: {e}"))));
        failed(e)
    })?;
    // A cache that cannot be had is no reason to stop: kernels are compiled anew.
    let folder = standard_folder().filter(|_| !args.no_cache);
    let cache = folder.and_then(|folder| Cache::open(&folder).ok());
    let options = RunOptions {
        cache: cache.as_ref(),
        graph: !args.no_graph,
        patience: Duration::from_secs(args.patience),
    };
    let joined = met.map(|group| annulus::join_on_gpu(compiled, &gpu, group, inputs, options.patience));
    let joined = joined.transpose()?;
    let mut on = match &joined {
        Some(all) => annulus::prepare_process_on_gpu(compiled, &gpu, all, options)?,
        None => annulus::prepare_on_gpu(compiled, &gpu, options)?,
    };
    let run = annulus::run_on_gpu(compiled, &mut on, inputs, watch)?;
    let count = compiled.schedules().len();
    let plural = |n: usize, what: &str| match (n, what) {
        (1, _) => format!("{n} {what}"),
        (_, "process") => format!("{n} processes"),
        _ => format!("{n} {what}s"),
    };
    let kernels = on.kernels();
    let local = |s: &Segment| matches!(s, Segment::Local(ops) if !ops.is_empty());
    let rest = match compiled.program.segments.iter().any(local) {
        true => "the rest on the CPU",
        false => "nothing else to compute",
    };
    let ranks = args.split.ranks as usize;
    let ways = match &joined {
        Some(_) => format!(
            "{}, a rank and a GPU each, over NCCL {}",
            plural(ranks, "process"),
            nccl::version().map_err(failed)?
        ),
        None => format!("{} on one GPU", plural(ranks, "rank")),
    };
    let line = format!(
        "{} · {ways} · {} on the GPU, {rest} · kernels {} compiled, {} from cache",
        gpu.name().map_err(failed)?,
        plural(count, "attention"),
        kernels.compiled(),
        kernels.cached(),
    );
    drop(on);
    if let Some(all) = joined {
        all.leave().map_err(|e| Stop::Failed(format!("--transport nccl: {e}")))?;
    }
    Ok((run, Some(line)))
}

#[cfg(not(all(feature = "cuda", target_os = "linux")))]
pub(super) fn run(
    _: &Run,
    _: &mut Processes,
    _: &Compiled,
    _: &[Tensor],
    _: &mut dyn FnMut(Progress),
) -> Result<(cpu::Run, Option<String>), Stop> {
    Err(Stop::Failed("--backend cuda: annulus was built without the feature cuda, or not for Linux".into()))
}
