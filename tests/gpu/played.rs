//! One rank of eight, played alone: what the others send comes from its own memory, at the pace of a link.
//!
//! Prints an object of JSON for each strategy, link, number of rows, and number of multiprocessors that messages hold: how long the rank takes, how long its kernels take without any
//! message, what the schedule's cost model says of the same link, and how long one GPU takes for all rows.

use super::schedules::{Island, Size, device, on_device, timed};
use annulus::exec::cache::{Cache, standard_folder};
use annulus::exec::cuda::ranks::{Alone, Kernels, RunOptions, Wire};
use annulus::exec::cuda::{Buffer, CudaError, Gpu};
use annulus::ring::Strategy;
use annulus::schedule::cost::estimate;
use annulus::schedule::{Schedule, StepOp};
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;

const RANKS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(60);
/// Blocks that a paced copy takes: as many as a library of collectives takes for one peer.
const BLOCKS: usize = 16;
/// Multiprocessors that messages hold; with `None` they take their blocks where they find room, and kernels leave them none.
const HELD: [Option<usize>; 4] = [None, Some(2), Some(8), Some(16)];

/// The schedule with messages that hold so many multiprocessors.
fn holding(mut schedule: Schedule, held: Option<usize>) -> Schedule {
    for step in schedule.ranks.iter_mut().flat_map(|r| &mut r.steps) {
        if let StepOp::Exchange { sms, .. } = &mut step.op {
            *sms = held;
        }
    }
    schedule
}

pub(crate) fn run(gpu: &Gpu, size: Size) -> ExitCode {
    let (lengths, numbers): (&[usize], usize) = match size {
        Size::Tiny => (&[4], 4099),
        Size::Quick => (&[4096, 16384], (1 << 24) - 8 * 1009),
        Size::Whole => (&[4096, 8192, 16384, 32768], (1 << 24) - 8 * 1009),
    };
    let done = on_device(gpu, numbers).map_err(|e| e.to_string()).and_then(|pool| {
        let cache = standard_folder().and_then(|folder| Cache::open(&folder).ok());
        let options = RunOptions { cache: cache.as_ref(), graph: true, patience: PATIENCE };
        let mut all = Played { gpu, kernels: Kernels::new(), options, pool, times: size.times() };
        lengths.iter().try_for_each(|&rows| all.length(rows, size))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("refused {why}");
            ExitCode::FAILURE
        }
    }
}

struct Played<'a> {
    gpu: &'a Gpu,
    kernels: Kernels,
    options: RunOptions<'a>,
    pool: Buffer,
    times: usize,
}

impl Played<'_> {
    /// All that is played with so many rows a rank.
    fn length(&mut self, rows: usize, size: Size) -> Result<(), String> {
        let whole =
            Island { heads: size.heads(), rows: rows * RANKS, ranks: 1, strategy: Strategy::Ring, nodes: 1 };
        let one_gpu = self.time(&whole.schedule()?, &whole, None)?;
        let links: &[bool] = if size == Size::Tiny { &[true] } else { &[true, false] };
        for strategy in [Strategy::Ring, Strategy::AllGather, Strategy::AllGatherStaged] {
            let island = Island { ranks: RANKS, strategy, ..whole };
            let steps = self.time(&island.schedule()?, &island, None)?;
            for (&fast, sms) in links.iter().flat_map(|fast| HELD.map(|sms| (fast, sms))) {
                let device = device(fast);
                // The others tell how a link counts, the ring what kernels beside its messages lose.
                if sms.is_some_and(|sms| sms > device.node.sms || strategy != Strategy::Ring) {
                    continue;
                }
                let schedule = holding(island.schedule()?, sms);
                let predicted = estimate(&schedule, &device);
                let ms = self.time(&schedule, &island, Some(Wire { link: device.node, blocks: BLOCKS }))?;
                println!(
                    "{}",
                    json!({
                        "rows": rows, "ranks": RANKS, "strategy": island.way(), "gb_s": device.node.gb_s, "sms": sms, "ms": ms, "steps_ms": steps,
                        "predicted_ms": predicted.makespan_us / 1e3, "predicted_exposed_ms": predicted.exposed_us / 1e3,
                        "one_gpu_ms": one_gpu,
                    })
                );
            }
        }
        Ok(())
    }

    /// Milliseconds of rank 0.
    fn time(&mut self, schedule: &Schedule, island: &Island, wire: Option<Wire>) -> Result<f64, String> {
        let alone = Alone::new(self.gpu, &mut self.kernels, schedule, (0, wire), &self.pool, self.options);
        let mut alone = alone.map_err(|e| format!("{} by {}: {e}", island.name(), island.way()))?;
        let mut again = || alone.run().map_err(|e| CudaError::Launch(e.to_string()));
        // The first one is told eagerly, and the second one captured.
        let warm = (0..2).try_for_each(|_| again());
        warm.and_then(|()| timed(self.gpu, self.times, again)).map(|t| t.0).map_err(|e| e.to_string())
    }
}
