//! How time grows with the number of layers: import, find and eval of Llama blocks from ONNX, and the whole pass on 80 layers
//! of a 70-billion model known by its shapes alone.
//!
//! `cargo bench` prints one table for each: the median of several runs, and what a layer costs beside what it costs in the
//! smallest model. Linear is a ratio of 1; below it, layers share work; far above it, the bench fails.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a program for people

#[path = "../tests/inside/import/build.rs"]
#[allow(dead_code, unreachable_pub)] // shared with the tests of the importer
mod build;
#[path = "../tests/inside/growth/llama.rs"]
mod llama;
#[path = "../src/import/proto.rs"]
#[allow(dead_code, unreachable_pub)] // the messages of the importer, which keeps them to itself
mod proto;

use annulus::Options;
use annulus::eval::{Precision, eval};
use annulus::find::{FindOptions, find};
use annulus::import::{ImportOptions, onnx};
use annulus::ir::{DType, Graph, Tensor};
use llama::Llama;
use std::hint::black_box;
use std::time::{Duration, Instant};

const DEPTHS: [usize; 4] = [2, 8, 32, 128];

/// The median of at least three runs, and of more as long as they take less than a second together.
fn median<T>(mut work: impl FnMut() -> T) -> Duration {
    black_box(work());
    let begin = Instant::now();
    let mut times = vec![];
    while times.len() < 3 || (begin.elapsed() < Duration::from_secs(1) && times.len() < 101) {
        let start = Instant::now();
        black_box(work());
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}

/// How much more a layer of the deepest model may cost than one of the smallest. If each layer looked at all others it would
/// be 64 times as much.
const MOST: f64 = 2.0;

/// A table of times against depth, which must be linear.
fn table(title: &str, mut time: impl FnMut(usize) -> Duration) {
    println!("{title}\n  layers          ms   us a layer   ratio");
    let mut smallest = None;
    for depth in DEPTHS {
        let ms = time(depth).as_secs_f64() * 1e3;
        let layer = ms * 1e3 / depth as f64;
        let ratio = layer / *smallest.get_or_insert(layer);
        println!("  {depth:>6}  {ms:>10.2}  {layer:>11.1}  {ratio:>6.2}");
        assert!(
            ratio < MOST,
            "{title}: at {depth} layers a layer costs {ratio:.2} times as much as at {}",
            DEPTHS[0]
        );
    }
    println!();
}

fn imported(bytes: &[u8]) -> Graph {
    onnx(bytes, &ImportOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn inputs(graph: &Graph) -> Vec<Tensor> {
    let of = |v| {
        let ty: &annulus::ir::Type = graph.ty(v);
        let values: Vec<f64> = (0..ty.elements()).map(|i| ((i * 37 % 101) as f64 - 50.0) / 50.0).collect();
        Tensor::from_f64(ty.dtype, ty.shape.clone(), &values).unwrap()
    };
    graph.inputs().into_iter().map(of).collect()
}

fn main() {
    table("import: ONNX bytes to a verified graph", |depth| {
        let bytes = Llama::small(depth).model();
        median(|| imported(&bytes))
    });
    let mut work = None;
    table("find: every attention in normal form", |depth| {
        let graph = imported(&Llama::small(depth).model());
        let found = find(&graph, &FindOptions::default());
        assert_eq!(found.attentions.len(), depth);
        assert_eq!(found.work, *work.get_or_insert(found.work), "e-graph work grows with depth");
        let time = median(|| find(&graph, &FindOptions::default()));
        assert!(time < Duration::from_millis(500), "{depth} layers take {time:?}");
        time
    });
    println!("e-graph work at every depth: {work:?}\n");
    table("eval: 64 rows in f32", |depth| {
        let graph = imported(&Llama::small(depth).model());
        let x = inputs(&graph);
        assert_eq!(eval(&graph, &x, Precision::Declared).unwrap()[0].dtype(), DType::F32);
        median(|| eval(&graph, &x, Precision::Declared).unwrap())
    });

    let shown = Llama::large(80);
    println!("the pass: layers of {shown}, shapes alone, to a proved schedule");
    println!(
        "every strategy and layout is scheduled; ratio: ms a layer against the fewest layers on as many ranks"
    );
    println!("  layers  ranks          ms   ratio  of it find  islands    steps");
    for ranks in [8, 64] {
        let mut fewest = None;
        for layers in [20, 40, 80] {
            let graph = Llama::large(layers).shapes();
            let found = median(|| find(&graph, &FindOptions::default())).as_secs_f64() * 1e3;
            let options = Options::new(ranks);
            let compiled = annulus::compile(&graph, &options).unwrap_or_else(|e| panic!("{e}"));
            let split: usize = compiled.islands.iter().map(|i| i.uses.len()).sum();
            assert_eq!((compiled.attentions.len(), split), (layers, layers), "{:?}", compiled.missed.first());
            let ms = median(|| annulus::compile(&graph, &options).unwrap()).as_secs_f64() * 1e3;
            let ratio = ms / layers as f64 / *fewest.get_or_insert(ms / layers as f64);
            let islands = &compiled.islands;
            let steps: usize = islands.iter().flat_map(|i| &i.schedule.ranks).map(|r| r.steps.len()).sum();
            let n = islands.len();
            println!(
                "  {layers:>6}  {ranks:>5}  {ms:>10.1}  {ratio:>6.2}  {found:>10.1}  {n:>7}  {steps:>7}"
            );
        }
    }
}
