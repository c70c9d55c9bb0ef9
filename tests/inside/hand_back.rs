//! The hand-back: a host that knows no attention runs the ranks' graphs, and asks for islands and gathers by number.

use annulus::eval::compare;
use annulus::eval::{Precision, apply};
use annulus::exec::cpu::{fold, run_island};
use annulus::host::{CallKind, HandBack, RowsError, scatter_rows, unshard_rows};
use annulus::import::case;
use annulus::ir::text::{Form, parse, print};
use annulus::ir::{Data, Op, Opaque, Reduction, Tensor, Type, ValueId};
use annulus::layout::LayoutKind;
use annulus::shard::{Handed, Placement, Sharding, local_flops, local_graph};
use annulus::{Compiled, Options, compile};
use std::collections::HashMap;
use std::path::Path;

/// What a host makes of an operator that annulus does not compute.
pub(crate) type Own<'f> = &'f dyn Fn(&Opaque, &[Tensor]) -> Vec<Tensor>;

/// A rank of the host: its graph, and how far it is.
struct Host<'f> {
    back: HandBack,
    /// What the host knows that annulus does not compute.
    known: Own<'f>,
    next: usize,
    values: HashMap<ValueId, Tensor>,
}

impl Host<'_> {
    /// Runs up to the next call; its number and operands.
    fn run(&mut self) -> Option<(usize, Vec<Tensor>)> {
        let graph = &self.back.graph;
        for op in graph.ops().into_iter().skip(self.next) {
            let operands: Vec<Tensor> = graph.operands(op).iter().map(|v| self.values[v].clone()).collect();
            match graph.op(op) {
                Op::Input(_) => {}
                Op::Call { number, .. } => return Some((*number, operands)),
                Op::Attention(_) | Op::Partial(_) | Op::Region(..) | Op::Start(..) => {
                    panic!("{} is none of the host's business", graph.op(op).name())
                }
                Op::Constant(c) => {
                    self.values.insert(graph.result(op), c.data.as_deref().unwrap().clone());
                }
                Op::Opaque(o) => {
                    let results = (self.known)(o, &operands);
                    let types: Vec<Type> = results.iter().map(Tensor::ty).collect();
                    assert_eq!(types, o.results, "{} on a rank", o.name);
                    self.values.extend(graph.results(op).into_iter().zip(results));
                }
                plain => {
                    let results = apply(plain, &operands, Precision::Declared).unwrap();
                    self.values.extend(graph.results(op).into_iter().zip(results));
                }
            }
            self.next += 1;
        }
        None
    }

    /// A call came back.
    fn answer(&mut self, results: Vec<Tensor>) {
        let op = self.back.graph.ops()[self.next];
        for (v, x) in self.back.graph.results(op).into_iter().zip(results) {
            assert_eq!(x.ty(), *self.back.graph.ty(v));
            self.values.insert(v, x);
        }
        self.next += 1;
    }
}

/// For each row that a rank holds, in order, where its elements are in the whole: blocks of `unit`.
fn places(whole: &[usize], s: &Sharding, rows: &[usize]) -> (Vec<usize>, usize) {
    let length = whole[s.axis] / (s.outer * s.inner);
    let before: usize = whole[..s.axis].iter().product::<usize>() * s.outer;
    let unit: usize = whole[s.axis + 1..].iter().product::<usize>() * s.inner;
    ((0..before).flat_map(|b| rows.iter().map(move |r| b * length + r)).collect(), unit)
}

fn rows(compiled: &Compiled, s: &Sharding, rank: usize) -> Vec<usize> {
    compiled.program.rows(s, rank).iter().flat_map(|p| p.rows()).collect()
}

fn together(compiled: &Compiled, v: ValueId, s: &Sharding, parts: &[Tensor]) -> Tensor {
    let ty = compiled.program.graph.ty(v);
    let size = ty.dtype.bytes();
    let mut bytes = vec![0; ty.elements() * size];
    for (rank, part) in parts.iter().enumerate() {
        let from = part.data().to_le_bytes();
        let (to, unit) = places(&ty.shape, s, &rows(compiled, s, rank));
        for (i, place) in to.into_iter().enumerate() {
            let n = unit * size;
            bytes[place * n..(place + 1) * n].copy_from_slice(&from[i * n..(i + 1) * n]);
        }
    }
    Tensor::new(ty.shape.clone(), Data::from_le_bytes(ty.dtype, &bytes).unwrap()).unwrap()
}

fn own(compiled: &Compiled, v: ValueId, x: &Tensor, rank: usize) -> Tensor {
    let Some(Placement::Sharded(s)) = compiled.program.placements.get(&v) else { return x.clone() };
    let size = x.dtype().bytes();
    let from = x.data().to_le_bytes();
    let mine = rows(compiled, s, rank);
    let (places, unit) = places(x.shape(), s, &mine);
    let bytes: Vec<u8> =
        places.into_iter().flat_map(|p| from[p * unit * size..(p + 1) * unit * size].to_vec()).collect();
    let mut shape = x.shape().to_vec();
    shape[s.axis] = s.outer * mine.len() * s.inner;
    Tensor::new(shape, Data::from_le_bytes(x.dtype(), &bytes).unwrap()).unwrap()
}

/// Every rank's graph side by side; calls are answered when all ranks have made them.
fn drive(compiled: &Compiled, inputs: &[Tensor]) -> Vec<Tensor> {
    drive_with(compiled, inputs, &|o, _| panic!("{} is not known", o.name))
}

/// The same of a host that knows operators which annulus does not compute.
pub(crate) fn drive_with(compiled: &Compiled, inputs: &[Tensor], known: Own<'_>) -> Vec<Tensor> {
    let program = &compiled.program;
    let schedules = compiled.schedules();
    let mut hosts: Vec<Host> = (0..program.ranks)
        .map(|rank| {
            let back = compiled.hand_back(rank).unwrap();
            let whole = program.graph.inputs().into_iter().zip(inputs);
            let own = whole.map(|(v, x)| {
                let own = own(compiled, v, x, rank);
                assert_eq!(compiled.scatter(&program.graph.value(v).name, x, rank).unwrap(), own);
                own
            });
            let values = back.graph.inputs().into_iter().zip(own).collect();
            Host { back, known, next: 0, values }
        })
        .collect();
    let mut answered = 0;
    loop {
        let asked: Vec<Option<(usize, Vec<Tensor>)>> = hosts.iter_mut().map(Host::run).collect();
        if asked.iter().all(Option::is_none) {
            break;
        }
        let asked: Vec<(usize, Vec<Tensor>)> =
            asked.into_iter().map(|a| a.expect("every rank calls")).collect();
        let number = asked[0].0;
        assert!(number == answered && asked.iter().all(|a| a.0 == number), "calls in order, on every rank");
        for (host, (_, operands)) in hosts.iter().zip(&asked) {
            let call = &host.back.calls[number];
            assert_eq!(call.kind, hosts[0].back.calls[number].kind);
            for (port, x) in call.operands.iter().zip(operands) {
                assert_eq!((port.dtype, port.shape.as_slice()), (x.dtype(), x.shape()), "{}", port.name);
                let dense = |a: usize| port.shape[a + 1..].iter().product::<usize>();
                assert!(port.strides.iter().enumerate().all(|(a, &s)| s == dense(a)), "{port:?}");
            }
        }
        let operands: Vec<Vec<Tensor>> = asked.into_iter().map(|a| a.1).collect();
        let results: Vec<Vec<Tensor>> = match hosts[0].back.calls[number].kind {
            CallKind::Island(op) => {
                let schedule = &schedules[&op];
                for (host, rank) in hosts.iter().zip(&schedule.ranks) {
                    assert_eq!(host.back.calls[number].workspace_bytes, rank.arena_bytes);
                }
                run_island(schedule, &operands, number as u64).unwrap().0
            }
            CallKind::Reduce(v, kind) => {
                assert_eq!(program.placements[&v], Placement::Parts(kind));
                let parts: Vec<Tensor> = operands.into_iter().map(|mut o| o.remove(0)).collect();
                let whole = fold(&parts, kind, program.graph.ty(v).dtype).unwrap();
                vec![vec![whole]; program.ranks]
            }
            CallKind::Gather(v) => {
                let Placement::Sharded(s) = &program.placements[&v] else { panic!("gathers what is whole") };
                let parts: Vec<Tensor> = operands.into_iter().map(|mut o| o.remove(0)).collect();
                vec![vec![together(compiled, v, s, &parts)]; program.ranks]
            }
        };
        hosts.iter_mut().zip(results).for_each(|(host, results)| host.answer(results));
        answered += 1;
    }
    let end = program.segments.len();
    let outputs = program.graph.outputs().iter().enumerate().map(|(i, o)| {
        let parts: Vec<Tensor> =
            hosts.iter().map(|h| h.values[&h.back.graph.outputs()[i].value].clone()).collect();
        let whole = match program.held(o.value, end) {
            Placement::Parts(_) => panic!("parts are reduced before they are an output"),
            Placement::Whole => parts[0].clone(),
            Placement::Sharded(s) => together(compiled, o.value, s, &parts),
        };
        assert_eq!(compiled.unshard(&o.name, &parts).unwrap(), whole);
        whole
    });
    outputs.collect()
}

#[test]
fn a_host_that_knows_no_attention_runs_bundled_models() {
    for (name, ranks, layout) in [
        ("llama", 4, Some(LayoutKind::Zigzag)),
        ("llama", 1, None),
        ("gpt2", 3, Some(LayoutKind::Stripe)),
        ("mistral", 5, None),
    ] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(name);
        let case = case::load(&folder, &Default::default(), &Default::default()).unwrap();
        let compiled = compile(&case.graph, &Options::new(ranks).layout(layout)).unwrap();
        let got = drive(&compiled, &case.ordered_inputs().unwrap());
        for (i, (got, (output, want))) in got.iter().zip(&case.expected).enumerate() {
            let t = case.tolerance[i];
            let c = compare(got, want, t.atol, t.rtol, false).unwrap();
            assert!(c.within, "{name} on {ranks} ranks, {output}: {c:?}");
        }
        let graph = compiled.hand_back(ranks - 1).unwrap().graph;
        assert_eq!(graph.ops().iter().filter(|&&op| matches!(graph.op(op), Op::Call { .. })).count(), 2);
        assert_eq!(print(&parse(&print(&graph, Form::Full)).unwrap(), Form::Full), print(&graph, Form::Full));
    }
}

/// What mixes rows and is no attention gets its input by a call too.
#[test]
fn a_gather_is_a_call_and_so_is_a_reduce() {
    let text = r#"graph "mean" {
  input %x: f64[1,2,9,4]
  %a: f64[1,2,9,4] = attention %x, %x, %x {scores=[factor 0.5 | fill -inf unless causal(0)], acc=f64, empty=zero}
  %m: f64[1,2,1,4] = reduce %a {mean, axes=[2], keep}
  %y: f64[1,2,9,4] = sub %a, %m
  %all: f64[1,2,9,4] = cumsum %y {axis=2}
  output "all" = %all
}"#;
    let graph = parse(text).unwrap();
    let x: Vec<f64> = (0..72).map(|i| f64::from(i * 37 % 19) / 7.0 - 1.0).collect();
    let x = [Tensor::from_f64(annulus::ir::DType::F64, [1, 2, 9, 4], &x).unwrap()];
    let want = annulus::eval::eval(&graph, &x, Precision::Declared).unwrap();
    for ranks in [1, 2, 4, 11] {
        let compiled = compile(&graph, &Options::new(ranks)).unwrap();
        let got = drive(&compiled, &x);
        assert!(compare(&got[0], &want[0], 1e-12, 1e-12, false).unwrap().within, "{ranks} ranks");
        let calls = compiled.hand_back(0).unwrap().calls;
        let kinds: Vec<CallKind> = calls.iter().map(|c| c.kind).collect();
        assert!(
            matches!(
                kinds[..],
                [CallKind::Island(_), CallKind::Reduce(_, Reduction::Sum), CallKind::Gather(_)]
            ),
            "{kinds:?}"
        );
    }
}

/// Uneven shares, fewer rows than ranks, one row, one rank, two sequences and what every rank holds whole.
#[test]
fn rows_are_handed_out_and_put_together() {
    for (queries, keys) in [(13, 13), (8, 5), (3, 7), (1, 4), (2, 1)] {
        let text = format!(
            "graph \"rows\" {{
              input %q: f64[2,2,{queries},3]
              input %k: f64[2,1,{keys},3]
              input %w: f64[3]
              %s: f64[2,2,{queries},3] = mul %q, %w
              %a: f64[2,2,{queries},3] = attention %s, %k, %k {{scores=[factor 0.5], acc=f64, empty=zero}}
              %m: f64[2,2,1,3] = reduce %a {{sum, axes=[2], keep}}
              %t: f64[2,2,{queries},3] = mul %a, %w
              output \"a\" = %a
              output \"t\" = %t
              output \"m\" = %m
            }}"
        );
        let graph = parse(&text).unwrap_or_else(|e| panic!("{e}"));
        let tensor = |(i, v): (usize, ValueId)| {
            let ty = graph.ty(v);
            let values = (0..ty.elements()).map(|e| ((e * 37 + i * 11) % 19) as f64 / 7.0 - 1.0).collect();
            Tensor::from_vec::<f64>(ty.shape.clone(), values).unwrap()
        };
        let inputs: Vec<Tensor> = graph.inputs().into_iter().enumerate().map(tensor).collect();
        let want = annulus::eval::eval(&graph, &inputs, Precision::Declared).unwrap();
        for ranks in [1, 2, 3, 5] {
            for layout in
                [LayoutKind::Contiguous, LayoutKind::Zigzag, LayoutKind::Stripe, LayoutKind::Balanced]
            {
                for handed in [vec![], vec![Handed::new("q", 2), Handed::new("k", 2)]] {
                    let by_rows = !handed.is_empty();
                    let options = Options::new(ranks).layout(layout).inputs(handed);
                    let compiled = compile(&graph, &options).unwrap();
                    for (got, want) in drive(&compiled, &inputs).iter().zip(&want) {
                        assert!(compare(got, want, 1e-12, 1e-12, false).unwrap().within);
                    }
                    let parts = |name: &str, x: &Tensor| -> Vec<Tensor> {
                        (0..ranks).map(|rank| compiled.scatter(name, x, rank).unwrap()).collect()
                    };
                    let rows = |x: &Tensor| x.shape()[2];
                    let (q, w) = (parts("q", &inputs[0]), parts("w", &inputs[2]));
                    let held: usize = q.iter().map(rows).sum();
                    assert_eq!(held, if by_rows { queries } else { queries * ranks });
                    assert!(w.iter().all(|part| *part == inputs[2]));
                    if by_rows {
                        // The output's rows lie as the queries do.
                        assert_eq!(compiled.unshard("t", &q).unwrap(), inputs[0]);
                    }
                    let program = &compiled.program;
                    for layout in &program.layouts {
                        let x = Tensor::vector_i64(&(0..layout.length as i64).collect::<Vec<_>>());
                        let parts: Vec<Tensor> =
                            (0..ranks).map(|rank| scatter_rows(&x, 0, layout, rank).unwrap()).collect();
                        assert_eq!(unshard_rows(&parts, 0, layout).unwrap(), x);
                    }
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_handed_out_or_put_together_is_refused() {
    let text = r#"graph "rows" {
  input %x: f32[1,1,5,2]
  %y: f32[1,1,5,2] = attention %x, %x, %x {scores=[factor 1.0], acc=f32, empty=zero}
  output "y" = %y
}"#;
    let options = Options::new(2).layout(LayoutKind::Contiguous).input(Handed::new("x", 2));
    let compiled = compile(&parse(text).unwrap(), &options).unwrap();
    let zeros = |shape: [usize; 4]| Tensor::from_vec(shape, vec![0f32; shape.iter().product()]).unwrap();
    let (x, two, three) = (zeros([1, 1, 5, 2]), zeros([1, 1, 2, 2]), zeros([1, 1, 3, 2]));
    assert_eq!(
        (compiled.scatter("x", &x, 0).unwrap(), compiled.scatter("x", &x, 1).unwrap()),
        (two.clone(), three.clone())
    );
    let scatter = |name: &str, x: &Tensor, rank| compiled.scatter(name, x, rank).unwrap_err().to_string();
    assert_eq!(scatter("z", &x, 0), "there is no input z: there are x");
    assert_eq!(scatter("x", &x, 2), "there is no rank 2: there are 2, numbered from 0");
    assert_eq!(scatter("x", &two, 0), "input x is f32[1,1,2,2], and has to be f32[1,1,5,2]");
    let unshard = |name: &str, parts: &[&Tensor]| {
        let parts: Vec<Tensor> = parts.iter().map(|&x| x.clone()).collect();
        compiled.unshard(name, &parts).unwrap_err().to_string()
    };
    assert_eq!(unshard("x", &[&two, &three]), "there is no output x: there are y");
    assert_eq!(unshard("y", &[&two]), "1 parts are given, and there are 2 ranks");
    assert_eq!(unshard("y", &[]), "0 parts are given, and there are 2 ranks");
    assert_eq!(
        unshard("y", &[&three, &two]),
        "rank 0's part of output y is f32[1,1,3,2], and has to be f32[1,1,2,2]"
    );
    let none = "there is no rank 2: there are 2, numbered from 0";
    assert_eq!(compiled.hand_back(2).unwrap_err().to_string(), none);
    assert_eq!(
        compiled.rank_graph(usize::MAX).unwrap_err().to_string(),
        none.replace("rank 2", &format!("rank {}", usize::MAX))
    );
    let program = &compiled.program;
    assert_eq!(local_graph(program, 0, 2).unwrap_err().to_string(), none);
    assert_eq!(local_graph(program, 0, 0).unwrap_err().to_string(), "there is no local segment 0");
    assert_eq!(local_graph(program, 9, 0).unwrap_err().to_string(), "there is no local segment 9");
    assert!(local_flops(program, 2).is_err());
    let layout = &program.layouts[0];
    assert_eq!(layout.share(2), 0);
    let rows = |r: Result<Tensor, RowsError>| r.unwrap_err().to_string();
    assert_eq!(rows(scatter_rows(&x, 4, layout, 0)), "f32[1,1,5,2] has not 5 rows along axis 4");
    assert_eq!(rows(scatter_rows(&x, 3, layout, 0)), "f32[1,1,5,2] has not 5 rows along axis 3");
    assert_eq!(rows(scatter_rows(&x, 2, layout, 2)), none);
    assert_eq!(rows(unshard_rows(&[two.clone(), x], 2, layout)), "f32[1,1,5,2] has not 3 rows along axis 2");
    let other = zeros([1, 1, 3, 3]);
    let mixed = rows(unshard_rows(&[two, other], 2, layout));
    assert_eq!(mixed, "rank 1's part is f32[1,1,3,3], and has to be f32[1,1,3,2]");
}
