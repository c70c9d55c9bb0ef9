//! Masks with a finite fill, a part of which is constant and another comes from an input: rows may be without a key, and then they are
//! the mean of V; blocks of keys are skipped all the same, as under −∞.

use crate::inside::exec::case::Numbers;
use annulus::eval::{Precision, compare, eval};
use annulus::find::{FindOptions, Numerics};
use annulus::ir::{DType, Graph, Op, Tensor, parse};
use annulus::layout::LayoutKind;
use annulus::mask::{Fill, Term};
use annulus::ring::Strategy;
use annulus::{Compiled, Options, compile, find_attentions};
use std::fmt::Write;

/// The constant part of a mask.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Band {
    All,
    Causal,
    Window(usize),
    Chunks(usize),
}

/// How a masked score is spelled.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Added,
    Chosen,
}

/// An attention written out, of activations or of inputs, with a mask of two parts.
#[derive(Clone, Debug)]
struct Form {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    rows: usize,
    keys: usize,
    size: usize,
    v_size: usize,
    dtype: &'static str,
    band: Band,
    fill: &'static str,
    how: How,
    /// A bias of each query and key, which is constant.
    bias: bool,
    /// Whether Q, K and V are products of x with weights; else they are inputs.
    activations: bool,
}

impl Form {
    fn text(&self) -> String {
        let Form { batch: b, heads: h, kv_heads: g, rows: s, keys: t, size: d, v_size: e, dtype: f, .. } =
            *self;
        let mut out = "graph \"padded\" {\n".to_owned();
        let each = [("q", h, s, d), ("k", g, t, d), ("v", g, t, e)];
        if self.activations {
            let _ = writeln!(out, "input %x: {f}[{b},{s},{d}]\ninput %y: {f}[{b},{t},{d}]");
        }
        for (n, heads, rows, size) in each {
            let x = if n == "q" { "x" } else { "y" };
            let _ = if self.activations {
                write!(
                    out,
                    "input %w{n}: {f}[{d},{w}]
                    %{n}.flat: {f}[{b},{rows},{w}] = contract %{x}, %w{n} {{bsd,dw->bsw}}
                    %{n}.split: {f}[{b},{rows},{heads},{size}] = reshape %{n}.flat
                    %{n}: {f}[{b},{heads},{rows},{size}] = permute %{n}.split {{perm=[0,2,1,3]}}\n",
                    w = heads * size,
                )
            } else {
                writeln!(out, "input %{n}: {f}[{b},{heads},{rows},{size}]")
            };
        }
        for (n, size) in [("k", d), ("v", e)] {
            let _ = write!(
                out,
                "%{n}.one: {f}[{b},{g},1,{t},{size}] = reshape %{n}
                %{n}.each: {f}[{b},{g},{r},{t},{size}] = broadcast %{n}.one
                %{n}.all: {f}[{b},{h},{t},{size}] = reshape %{n}.each\n",
                r = h / g,
            );
        }
        let _ = write!(
            out,
            "input %padding: i64[{b},{t}]
            %live.flat: bool[{b},{t}] = cast %padding
            %live: bool[{b},1,1,{t}] = reshape %live.flat
            %row.at: i64[{s},1] = iota {{axis=0}}
            const %past: i64[] = {}
            %row: i64[{s},1] = add %row.at, %past
            %key: i64[1,{t}] = iota {{axis=1}}
            %causal: bool[{s},{t}] = le %key, %row\n",
            t as i64 - s as i64,
        );
        let band = match self.band {
            Band::All => "live".to_owned(),
            Band::Causal => "causal".to_owned(),
            Band::Window(w) => {
                let _ = write!(
                    out,
                    "const %w: i64[] = {w}
                    %from: i64[{s},1] = sub %row, %w
                    %near: bool[{s},{t}] = gt %key, %from
                    %band: bool[{s},{t}] = and %causal, %near\n"
                );
                "band".to_owned()
            }
            Band::Chunks(c) => {
                let _ = write!(
                    out,
                    "const %c: i64[] = {c}
                    %row.chunk: i64[{s},1] = div %row, %c
                    %key.chunk: i64[1,{t}] = div %key, %c
                    %same: bool[{s},{t}] = eq %key.chunk, %row.chunk
                    %band: bool[{s},{t}] = and %causal, %same\n"
                );
                "band".to_owned()
            }
        };
        let (kept, shape) = if self.band == Band::All {
            ("live".to_owned(), format!("{b},1,1,{t}"))
        } else {
            let _ = writeln!(out, "%keep: bool[{b},1,{s},{t}] = and %{band}, %live");
            ("keep".to_owned(), format!("{b},1,{s},{t}"))
        };
        let _ = write!(
            out,
            "%raw: {f}[{b},{h},{s},{t}] = contract %q, %k.all {{bhid,bhjd->bhij}}
            const %scale: {f}[] = 0.5
            %scaled: {f}[{b},{h},{s},{t}] = mul %raw, %scale
            const %fill: {f}[] = {fill}
            const %zero: {f}[] = 0.0\n",
            fill = self.fill,
        );
        let mut scores = "scaled";
        if self.bias {
            let _ = write!(
                out,
                "%far: i64[{s},{t}] = sub %row, %key
                %slope: {f}[{s},{t}] = cast %far
                %alibi: {f}[{s},{t}] = mul %slope, %scale
                %biased: {f}[{b},{h},{s},{t}] = sub %scaled, %alibi\n"
            );
            scores = "biased";
        }
        let _ = match self.how {
            How::Added => write!(
                out,
                "%mask: {f}[{shape}] = select %{kept}, %zero, %fill
                %masked: {f}[{b},{h},{s},{t}] = add %{scores}, %mask\n"
            ),
            How::Chosen => writeln!(out, "%masked: {f}[{b},{h},{s},{t}] = select %{kept}, %{scores}, %fill"),
        };
        let _ = write!(
            out,
            "%p: {f}[{b},{h},{s},{t}] = softmax %masked {{axis=3}}
            %o: {f}[{b},{h},{s},{e}] = contract %p, %v.all {{bhij,bhje->bhie}}
            output \"o\" = %o\n}}\n"
        );
        out
    }

    fn graph(&self) -> Graph {
        let text = self.text();
        parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    /// Inputs; of the first batch entry nothing is live but a run of keys in the middle, of the second nothing at all.
    fn inputs(&self, graph: &Graph, size: f64, seed: u64) -> Vec<Tensor> {
        let mut numbers = Numbers(seed);
        let one = |v| {
            let ty = graph.ty(v);
            if ty.dtype != DType::I64 {
                return numbers.tensor(ty.dtype, &ty.shape, size);
            }
            let (from, to) = (self.keys / 3, self.keys - self.keys / 4);
            let live =
                |i: usize| i / self.keys != 1 && (i / self.keys > 1 || (from..to).contains(&(i % self.keys)));
            let live: Vec<f64> = (0..ty.elements()).map(|i| f64::from(u8::from(live(i)))).collect();
            Tensor::from_f64(DType::I64, ty.shape.clone(), &live).unwrap()
        };
        graph.inputs().into_iter().map(one).collect()
    }
}

/// Whether every attention of a graph skips what its positions mask, and how many select a mean for rows without a key.
fn skips(graph: &Graph) -> (bool, usize) {
    let attentions = graph.ops().into_iter().filter_map(|op| match graph.op(op) {
        Op::Attention(a) => Some(a),
        _ => None,
    });
    let all: Vec<_> = attentions.collect();
    let skips = all.iter().all(|a| {
        let mut masks = a.scores.masks();
        masks.all(|m| m.fill == Fill::NegInf)
            && a.scores.live().terms.iter().any(|t| !matches!(t, Term::Tensor { .. }))
    });
    (skips, all.iter().filter(|a| a.lse).count())
}

/// The largest difference of the outputs, where it is more than a tolerance.
fn differs(got: &[Tensor], want: &[Tensor], atol: f64) -> Option<f64> {
    let worst = got.iter().zip(want).map(|(g, w)| compare(g, w, atol, atol, false).unwrap());
    worst.filter(|c| !c.within).map(|c| c.max_abs_error).reduce(f64::max)
}

const LEAST: &str = "-3.4028235e38";

fn forms() -> Vec<Form> {
    let base = Form {
        batch: 3,
        heads: 4,
        kv_heads: 2,
        rows: 13,
        keys: 13,
        size: 4,
        v_size: 3,
        dtype: "f32",
        band: Band::Causal,
        fill: LEAST,
        how: How::Added,
        bias: false,
        activations: true,
    };
    let mut all = vec![];
    for band in [Band::Causal, Band::Window(4), Band::Chunks(5), Band::All] {
        for how in [How::Added, How::Chosen] {
            for (rows, keys) in [(13, 13), (1, 9), (4, 9), (1, 1), (2, 2)] {
                for (dtype, fill) in
                    [("f32", LEAST), ("f32", "-1e30"), ("f64", "-1e300"), ("bf16", "-3.3895314e38")]
                {
                    // In bf16 a bias that may be large is not found: what it rounds, f32 would not.
                    for bias in [false, true].into_iter().filter(|b| !b || dtype != "bf16") {
                        let activations = (rows + keys) % 2 == 0;
                        let form =
                            Form { band, how, rows, keys, dtype, fill, bias, activations, ..base.clone() };
                        all.push(form);
                    }
                }
            }
        }
    }
    // One head and one entry; many heads to a key head.
    all.push(Form { batch: 1, heads: 1, kv_heads: 1, ..base.clone() });
    all.push(Form { heads: 6, kv_heads: 1, v_size: 7, ..base.clone() });
    all.push(Form { dtype: "f16", how: How::Chosen, fill: "-65504.0", ..base });
    all
}

/// What is found computes what the graph does, in f64 and as it stands, rows without a key among them, with small logits and with
/// logits of 10⁴.
#[test]
fn rows_without_a_key_are_the_mean_of_v() {
    let (mut means, mut skipped) = (0, 0);
    for (i, form) in forms().iter().enumerate() {
        let graph = form.graph();
        let found = find_attentions(&graph, &FindOptions::default()).unwrap();
        assert_eq!(found.attentions.len(), 1, "{form:?}: {:?}", found.missed);
        let (skips, mean) = skips(&found.graph);
        means += mean;
        skipped += usize::from(skips);
        // Scores of 10⁸, but in f16, which has no such numbers.
        for size in [1.0, if form.dtype == "f16" { 2.0 } else { 60.0 }] {
            let inputs = form.inputs(&graph, size, i as u64);
            let want = eval(&graph, &inputs, Precision::F64).unwrap();
            let got = eval(&found.graph, &inputs, Precision::F64).unwrap();
            // The mean is rounded to the type of V, as the products are.
            let atol = if matches!(form.dtype, "f16" | "bf16") { 1e-2 } else { 1e-9 } * size;
            assert_eq!(differs(&got, &want, atol), None, "{form:?}, {size}\n{}", found.graph);
        }
    }
    assert!(means > 140 && skipped > 140, "{means} have a mean, {skipped} skip keys");
}

/// Where weights will be dropped a row without a key is the mean of some values: none is computed apart, and with nothing dropped the graph
/// computes what it did.
#[test]
fn no_mean_is_computed_apart_where_weights_are_dropped() {
    for (i, form) in forms().iter().enumerate().filter(|(i, _)| i % 3 == 0) {
        let graph = form.graph();
        let found = find_attentions(&graph, &FindOptions::default().drop_weights(0.0, 9)).unwrap();
        assert_eq!((found.attentions.len(), skips(&found.graph).1), (1, 0), "{form:?}");
        assert!(found.graph.to_string().contains("dropout=0.0, seed="), "{form:?}");
        let inputs = form.inputs(&graph, 1.0, i as u64);
        let want = eval(&graph, &inputs, Precision::F64).unwrap();
        let got = eval(&found.graph, &inputs, Precision::F64).unwrap();
        let atol = if matches!(form.dtype, "f16" | "bf16") { 1e-2 } else { 1e-9 };
        assert_eq!(differs(&got, &want, atol), None, "{form:?}\n{}", found.graph);
    }
}

/// Every layout and strategy, an odd number of ranks and more ranks than rows.
#[test]
fn ranks_compute_rows_without_a_key_as_one_does() {
    let mut reduced = 0;
    for (i, form) in forms().iter().enumerate().filter(|(i, _)| i % 7 == 0) {
        let graph = form.graph();
        let inputs = form.inputs(&graph, 1.0, i as u64);
        let want = eval(&graph, &inputs, Precision::F64).unwrap();
        let layout = LayoutKind::ALL[i % 5];
        let strategy = [None, Some(Strategy::Ring), Some(Strategy::AllGather)][i % 3];
        for ranks in [1, 3, 8] {
            let mut options = Options::new(ranks).layout(layout);
            if let Some(strategy) = strategy {
                options = options.strategy(strategy);
            }
            let Ok(compiled) = compile(&graph, &options) else {
                // A layout by documents needs documents.
                assert_eq!(layout, LayoutKind::Document, "{form:?}");
                continue;
            };
            let got = annulus::run(&compiled, &inputs, i as u64).unwrap();
            let atol = if matches!(form.dtype, "f16" | "bf16") { 5e-2 } else { 1e-4 };
            assert_eq!(differs(&got.outputs, &want, atol), None, "{form:?}, {ranks} ranks, {layout}");
            reduced += usize::from(
                annulus::dump::report::report(&compiled).gathered.iter().any(|g| g.kind == "reduce"),
            );
        }
    }
    assert!(reduced > 10, "{reduced}");
}

/// Where the class of what differs on rows without a key is not admitted, the fill stays what it is.
#[test]
fn the_class_is_asked_for() {
    let form = &forms()[0];
    let graph = form.graph();
    let none = FindOptions::default().numerics(vec![Numerics::Exact, Numerics::Reassociation]);
    let found = find_attentions(&graph, &none).unwrap();
    assert_eq!(found.attentions.len(), 1, "{:?}", found.missed);
    assert!(!skips(&found.graph).0);
}

/// A fill that does not swallow scores stays; so does one beside a bias that may be as large as it.
#[test]
fn what_is_not_swallowed_stays() {
    let base = &forms()[0];
    for form in [
        Form { fill: "-1e9", ..base.clone() },
        Form { fill: "-1e9", how: How::Chosen, ..base.clone() },
        Form { fill: "-1e29", ..base.clone() },
        Form { band: Band::All, ..base.clone() },
    ] {
        let graph = form.graph();
        let found = find_attentions(&graph, &FindOptions::default()).unwrap();
        assert_eq!(skips(&found.graph), (false, 0), "{form:?}");
        let inputs = form.inputs(&graph, 1.0, 3);
        let want = eval(&graph, &inputs, Precision::F64).unwrap();
        assert_eq!(differs(&eval(&found.graph, &inputs, Precision::F64).unwrap(), &want, 1e-9), None);
    }
}

mod long {
    use super::*;

    fn plan(form: &Form, ranks: usize) -> Compiled {
        compile(&form.graph(), &Options::new(ranks)).unwrap()
    }

    /// The forms of Llama and of Mistral: what they send and how long they take is within 2 % of the same with −∞.
    #[test]
    fn a_finite_fill_costs_what_an_infinite_one_does() {
        for band in [Band::Causal, Band::Window(4096)] {
            let of = |fill| Form {
                batch: 1,
                heads: 32,
                kv_heads: 8,
                rows: 32_768,
                keys: 32_768,
                size: 128,
                v_size: 128,
                dtype: "f32",
                band,
                fill,
                how: How::Added,
                bias: false,
                activations: true,
            };
            let (finite, infinite) = (plan(&of(LEAST), 8), plan(&of("-inf"), 8));
            let report = |c: &Compiled| annulus::dump::report::report(c);
            let (a, b) = (report(&finite), report(&infinite));
            let sent = |r: &annulus::dump::report::Report| r.traffic.bytes_sent.iter().sum::<usize>() as f64;
            let time = |r: &annulus::dump::report::Report| {
                r.schedule.makespan_us + r.gathered.iter().map(|g| g.makespan_us).sum::<f64>()
            };
            assert!(sent(&a) / sent(&b) < 1.02, "{band:?}: {} and {} bytes", sent(&a), sent(&b));
            assert!(time(&a) / time(&b) < 1.02, "{band:?}: {} and {} µs", time(&a), time(&b));
            assert_eq!(
                (a.islands[0].strategy, a.islands[0].layout),
                (b.islands[0].strategy, b.islands[0].layout)
            );
        }
    }
}
