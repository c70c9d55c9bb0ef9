//! The whole pass on the text of a graph: found, split, scheduled, proved, handed back to a rank, and run where it is small.
//!
//! The first line of an input may ask for ranks, layout and strategy as a case file's header does, the second for inputs by rows:
//! `// by rows past_k:2 x:1`.

use super::driver::{Target, fuzz, kind};
use super::text::{mutate, texts};
use crate::inside::decode;
use crate::inside::support::alone::alone;
use annulus::dump::report::report;
use annulus::dump::stages::{Pass, Request, text_after};
use annulus::eval::{Precision, eval};
use annulus::ir::{DType, Form, Graph, Tensor, parse, print};
use annulus::shard::Handed;
use annulus::{compile, run};

/// Most elements of all values together of a graph that is run.
const SMALL: usize = 1 << 14;

/// Most ranks that a graph is compiled for.
const RANKS: usize = 9;

/// Inputs that look like nothing in particular, if they are small.
fn inputs(graph: &Graph) -> Option<Vec<Tensor>> {
    let types = graph.ops().into_iter().flat_map(|op| graph.results(op)).map(|v| graph.ty(v));
    let all = { types }.try_fold(0usize, |sum, t| sum.checked_add(t.checked_elements()?))?;
    if all > SMALL {
        return None;
    }
    let one = |(i, v): (usize, annulus::ir::ValueId)| {
        let ty = graph.ty(v);
        let number = |e: usize| ((e * 7919 + i * 104_729) % 2003) as f64 / 1001.0 - 1.0;
        let number = |e| if ty.dtype.is_float() { number(e) } else { (number(e).abs() * 2.0).floor() };
        Tensor::from_f64(ty.dtype, ty.shape.clone(), &(0..ty.elements()).map(number).collect::<Vec<_>>())
    };
    graph.inputs().into_iter().enumerate().map(one).collect()
}

/// The first number of a run that is far from what the graph says. Of a graph that nobody made for it numbers may grow, and what is
/// large is not compared.
fn wrong(got: &[Tensor], want: &[Tensor]) -> Option<String> {
    for (got, want) in got.iter().zip(want) {
        let near = match got.dtype() {
            DType::F64 | DType::F32 => 1e-2,
            DType::F16 | DType::BF16 => 0.3,
            _ => continue,
        };
        for (g, w) in got.to_f64().into_iter().zip(want.to_f64()) {
            let same = g.is_nan() == w.is_nan() && (g.is_nan() || (g - w).abs() <= near * (1.0 + w.abs()));
            if !same && w.abs() <= 1e3 {
                return Some(format!("{g}, and not {w}"));
            }
        }
    }
    None
}

fn pass(input: &[u8]) -> String {
    let text = String::from_utf8_lossy(input);
    let graph = match parse(&text) {
        Ok(graph) => graph,
        Err(e) => return kind(&e.rendered),
    };
    let mut request = match Request::from_header(&text) {
        Ok(request) => request,
        Err(e) => return kind(&e),
    };
    let options = &mut request.options;
    if options.ranks > RANKS {
        // More take longer, and find nothing else.
        options.ranks = 1 + options.ranks % RANKS;
    }
    request.rank = request.rank.min(options.ranks.saturating_sub(1));
    let by_rows = text.lines().nth(1).and_then(|line| line.strip_prefix("// by rows ")).unwrap_or("");
    options.inputs.extend(by_rows.split(' ').filter_map(|word| {
        let (name, axis) = word.rsplit_once(':')?;
        Some(Handed::new(name, axis.parse().ok()?))
    }));
    through(&graph, &request)
}

/// Puts a graph through the whole pass, and runs it if it is small. Panics if annulus is at fault.
pub(crate) fn through(graph: &Graph, request: &Request) -> String {
    let compiled = match compile(graph, &request.options) {
        Ok(compiled) => compiled,
        Err(e) => {
            let words = e.to_string();
            assert!(
                !words.contains("internal fault") && !words.contains("not well formed after find"),
                "{words}"
            );
            return kind(&words);
        }
    };
    compiled.hand_back(request.rank).unwrap_or_else(|e| panic!("{e}"));
    compiled.rank_graph(request.rank).unwrap_or_else(|e| panic!("{e}"));
    let told = report(&compiled);
    assert!(told.ok && told.checks.failed.is_empty(), "{:?}", told.checks.failed);
    for stage in [Pass::Find, Pass::Shard] {
        text_after(graph, request, stage, Form::People).unwrap_or_else(|e| panic!("{e}"));
    }
    let (found, split) = (compiled.attentions.len(), compiled.program.islands.len());
    let outcome = format!("{found} attentions, {split} split, {} segments", compiled.program.segments.len());
    let Some(inputs) = inputs(graph) else { return outcome };
    match (eval(graph, &inputs, Precision::Declared), run(&compiled, &inputs, 5)) {
        (Ok(want), Ok(run)) => {
            if let Some(wrong) = wrong(&run.outputs, &want) {
                panic!("{wrong}");
            }
            format!("{outcome}, run")
        }
        // An index may name nothing, and a constant may have no data.
        (Err(e), Err(_)) => format!("{outcome}, {}", kind(&e.to_string())),
        // What no output needs may fail in one of them alone.
        (Ok(_), Err(e)) => format!("{outcome}, run alone: {}", kind(&e.to_string())),
        (Err(e), Ok(_)) => format!("{outcome}, eval alone: {}", kind(&e.to_string())),
    }
}

/// Case files, and decode graphs with what is asked of them.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = texts("../cases");
    seeds.extend(texts("find"));
    for seed in 0..60 {
        let case = decode::decode(seed);
        let mut head = format!("// opt ranks={} rank={}", case.ranks, seed as usize % case.ranks);
        head += &case.layout.map_or(String::new(), |l| format!(" layout={l}"));
        head += &case.strategy.map_or(String::new(), |s| format!(" strategy={}", s.name()));
        let by_rows: Vec<String> = case.handed.iter().map(|h| format!("{}:{}", h.name, h.axis)).collect();
        let text = format!("{head}\n// by rows {}\n{}", by_rows.join(" "), print(&case.graph, Form::Full));
        seeds.push(text.into_bytes());
    }
    seeds
}

/// Left out while working: `--skip ::long::`.
mod long {
    use super::*;

    #[test]
    fn fuzz_whole_pass() {
        if !alone!(fuzz_whole_pass) {
            return;
        }
        fuzz(&Target { name: "fuzz_whole_pass", seeds: seeds(), inputs: 1500, mutate, run: pass });
    }
}
