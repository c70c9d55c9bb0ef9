//! All ranks of an island on one GPU, beside one rank: the same result, the same bits whenever it is run, eagerly and by a graph, and
//! what that costs.
//!
//! Prints an object of JSON for each strategy and number of ranks; `refused` and `WRONG` begin lines about what did not come so far.

use super::schedules::{D, Island, Size, pool, timed};
use annulus::exec::cache::{Cache, standard_folder};
use annulus::exec::cuda::ranks::{Island as OnGpu, Kernels, RunOptions};
use annulus::exec::cuda::{CudaError, Gpu};
use annulus::layout::Progression;
use annulus::ring::Strategy;
use annulus::schedule::Schedule;
use half::bf16;
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// A rank's result and its log-sum-exp.
type Given = Vec<[Vec<u8>; 2]>;

pub(crate) fn run(gpu: &Gpu, size: Size) -> ExitCode {
    let cache = standard_folder().and_then(|folder| Cache::open(&folder).ok());
    let mut kernels = Kernels::new();
    let (rows, most): (&[usize], usize) = match size {
        Size::Tiny => (&[29], 2),
        Size::Quick => (&[1024], 8),
        Size::Whole => (&[1023, 16384], 8),
    };
    let mut failed = 0;
    for &rows in rows {
        let heads = size.heads();
        let one = Island { heads, rows, ranks: 1, strategy: Strategy::Ring, nodes: 1 };
        let one = measured(gpu, &mut kernels, (cache.as_ref(), size.times()), &one, None);
        let one = match one {
            Ok(one) => one,
            Err(why) => {
                println!("refused one rank, {rows} rows: {why}");
                return ExitCode::FAILURE;
            }
        };
        let least = if size == Size::Tiny { 2 } else { 1 };
        let counts = [1, 2, 4, 8].into_iter().filter(|n| (least..=most).contains(n));
        let ways = counts.flat_map(|n| Strategy::ALL.into_iter().map(move |s| (n, s, 1)));
        let levels =
            [Strategy::Queries, Strategy::Heads].map(|s| (8, s, 2)).into_iter().filter(|w| w.0 <= most);
        for (ranks, strategy, nodes) in ways.chain(levels) {
            let island = Island { heads, rows, ranks, strategy, nodes };
            if let Err(why) = measured(gpu, &mut kernels, (cache.as_ref(), size.times()), &island, Some(&one))
            {
                println!("refused {} by {}: {why}", island.name(), island.way());
                failed += 1;
            }
        }
    }
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What one rank gave, whole and by row, and how long it took.
struct One {
    rows: Vec<u8>,
    ms: f64,
}

fn measured(
    gpu: &Gpu,
    kernels: &mut Kernels,
    (cache, times): (Option<&Cache>, usize),
    island: &Island,
    one: Option<&One>,
) -> Result<One, String> {
    let schedule = island.schedule()?;
    let arguments = arguments(&schedule, island);
    let said = |e: CudaError| e.to_string();
    let mut given: Vec<Given> = vec![];
    let (mut device, mut host, mut operations) = (vec![], vec![], 0);
    for graph in [false, true] {
        let options = RunOptions { cache, graph, patience: PATIENCE };
        let on = OnGpu::new(gpu, kernels, &schedule, options);
        let mut on = on.map_err(|e| e.to_string())?;
        // Of a graph the second run is the first that is replayed.
        for _ in 0..3 {
            given.push(on.run(&arguments).map_err(|e| e.to_string())?);
        }
        if on.replayed() != graph {
            return Err(format!("replayed: {}, and graph: {graph}", on.replayed()));
        }
        let again = || on.again().map_err(|e| CudaError::Launch(e.to_string()));
        let (ms, us) = timed(gpu, times, again).map_err(said)?;
        device.push(ms);
        host.push(us);
        operations = on.programs().iter().map(|p| p.ops.len()).sum();
    }
    let rows = whole(&schedule, &given[0], island);
    let equal = given.iter().all(|g| *g == given[0]);
    if let Some(one) = one {
        let (difference, largest) = differ(&rows, &one.rows);
        let steps: usize = schedule.ranks.iter().map(|r| r.steps.len()).sum();
        // Sums in another order, and then one rounding to bf16.
        let within = largest / 64.0;
        if !equal || difference > within || difference.is_nan() {
            println!("WRONG {} by {}: differs by {difference}, equal {equal}", island.name(), island.way());
        }
        println!(
            "{}",
            json!({
                "island": island.name(), "strategy": island.way(), "ranks": island.ranks, "difference": difference,
                "within": within, "equal": equal, "one_ms": one.ms, "eager_ms": device[0], "graph_ms": device[1],
                "host_eager_us": host[0], "host_graph_us": host[1], "operations": operations, "steps": steps,
            })
        );
    }
    Ok(One { rows, ms: device[1] })
}

/// Every rank's arguments, cut from numbers that are the same for any number of ranks.
fn arguments(schedule: &Schedule, island: &Island) -> Vec<Vec<Vec<u8>>> {
    let (rows, heads) = (island.rows, island.heads);
    let row = 2 * D;
    let whole = heads.map(|heads| pool(heads * rows * D));
    let values = pool(heads[1] * rows * D + 1)[2..].to_vec();
    let cut = |all: &[u8], heads: usize, own: &[Progression]| -> Vec<u8> {
        let rows_of = || own.iter().flat_map(|p| (0..p.len).map(|i| p.start + i * p.step));
        (0..heads)
            .flat_map(|h| rows_of().flat_map(move |r| &all[(h * rows + r) * row..][..row]))
            .copied()
            .collect()
    };
    let of = |rank: usize| {
        let [q, kv] = [&schedule.q_layout, &schedule.kv_layout].map(|layout| layout.rows[rank].as_slice());
        vec![cut(&whole[0], heads[0], q), cut(&whole[1], heads[1], kv), cut(&values, heads[1], kv)]
    };
    (0..schedule.ranks.len()).map(of).collect()
}

/// The result in the order of the sequence.
fn whole(schedule: &Schedule, given: &Given, island: &Island) -> Vec<u8> {
    let (rows, heads) = (island.rows, island.heads);
    let row = 2 * D;
    let mut all = vec![0; heads[0] * rows * row];
    for ([out, _], own) in given.iter().zip(&schedule.q_layout.rows) {
        let count: usize = own.iter().map(|p| p.len).sum();
        let numbers = own.iter().flat_map(|p| (0..p.len).map(|i| p.start + i * p.step));
        for (local, r) in numbers.enumerate() {
            for h in 0..heads[0] {
                all[(h * rows + r) * row..][..row].copy_from_slice(&out[(h * count + local) * row..][..row]);
            }
        }
    }
    all
}

/// The largest difference, and the largest number of the second.
fn differ(a: &[u8], b: &[u8]) -> (f64, f64) {
    let number = |x: &[u8; 2]| f64::from(bf16::from_le_bytes(*x).to_f32());
    let pairs = a.as_chunks::<2>().0.iter().zip(b.as_chunks::<2>().0);
    pairs.fold((0.0, 0.0), |(difference, largest): (f64, f64), (a, b)| {
        let (a, b) = (number(a), number(b));
        // NaN is no small difference.
        let apart = if (a - b).is_nan() { f64::INFINITY } else { (a - b).abs() };
        (difference.max(apart), largest.max(b.abs()))
    })
}
