//! Import and eval take time in proportion to the depth of a model: what a layer costs does not grow with their number.
//! `cargo bench` shows the times; here processor time is compared, which other work on the machine leaves alone.

#[allow(dead_code)] // shared with the benches
mod llama;

use super::import::{build, proto};
use super::support::alone::alone;

use annulus::eval::{Precision, eval};
use annulus::import::{ImportOptions, onnx};
use annulus::ir::Tensor;
use llama::Llama;
use std::time::{Duration, Instant};

/// Layers of the two models.
const DEPTHS: [usize; 2] = [4, 64];

/// How much more a layer of the deeper one may cost. If each layer looked at all others it would be 16 times as much.
const MOST: f64 = 3.0;

/// Processor time of this process, all threads together, where the system tells, else the time of day.
fn processor_time() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The fields behind the name in parentheses; user and system time are the 12th and 13th, in hundredths of a second.
    let ticks = stat.rsplit_once(')').and_then(|(_, rest)| {
        let mut fields = rest.split_whitespace().skip(11).map(|f| f.parse::<u64>().ok());
        Some(fields.next()?? + fields.next()??)
    });
    ticks.map_or_else(|| START.elapsed(), |t| Duration::from_millis(10 * t))
}

/// Seconds of one run, from as many as take half a second.
fn seconds(mut work: impl FnMut()) -> f64 {
    work();
    let start = processor_time();
    for runs in 1.. {
        work();
        let spent = (processor_time() - start).as_secs_f64();
        if spent > 0.5 {
            return spent / f64::from(runs);
        }
    }
    unreachable!()
}

fn grows_evenly(what: &str, mut time: impl FnMut(usize) -> f64) {
    let [few, many] = DEPTHS.map(|depth| time(depth) / depth as f64);
    let ratio = many / few;
    assert!(ratio < MOST, "{what}: a layer of {} costs {ratio:.2} times one of {}", DEPTHS[1], DEPTHS[0]);
}

#[test]
fn a_layer_costs_the_same_however_many_there_are() {
    if !alone!(a_layer_costs_the_same_however_many_there_are) {
        return;
    }
    let import = |bytes: &[u8]| onnx(bytes, &ImportOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    grows_evenly("import", |depth| {
        let bytes = Llama::small(depth).model();
        seconds(|| drop(import(&bytes)))
    });
    grows_evenly("eval", |depth| {
        let graph = import(&Llama::small(depth).model());
        let of = |v| {
            let ty: &annulus::ir::Type = graph.ty(v);
            let values: Vec<f64> = (0..ty.elements()).map(|i| (i * 37 % 101) as f64 / 50.0 - 1.0).collect();
            Tensor::from_f64(ty.dtype, ty.shape.clone(), &values).unwrap()
        };
        let inputs: Vec<Tensor> = graph.inputs().into_iter().map(of).collect();
        seconds(|| drop(eval(&graph, &inputs, Precision::Declared).unwrap()))
    });
}
