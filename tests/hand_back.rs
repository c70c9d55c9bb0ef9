//! The hand-back: a host that knows no attention runs the ranks' graphs, and asks for islands and gathers by number.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use annulus::eval::compare::compare;
use annulus::eval::{Precision, apply};
use annulus::exec::cpu::run_island;
use annulus::host::{CallKind, HandBack};
use annulus::import::case;
use annulus::ir::text::{Form, parse, print};
use annulus::ir::{Data, Op, Tensor, ValueId};
use annulus::layout::LayoutKind;
use annulus::shard::{Placement, Sharding};
use annulus::{Compiled, Options, compile};
use std::collections::HashMap;
use std::path::Path;

/// A rank of the host: its graph, and how far it is.
struct Host {
    back: HandBack,
    next: usize,
    values: HashMap<ValueId, Tensor>,
}

impl Host {
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
    let program = &compiled.program;
    let schedules = compiled.schedules();
    let mut hosts: Vec<Host> = (0..program.ranks)
        .map(|rank| {
            let back = compiled.hand_back(rank).unwrap();
            let whole = program.graph.inputs().into_iter().zip(inputs);
            let own = whole.map(|(v, x)| own(compiled, v, x, rank));
            let values = back.graph.inputs().into_iter().zip(own).collect();
            Host { back, next: 0, values }
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
        match program.held(o.value, end) {
            Placement::Whole => parts[0].clone(),
            Placement::Sharded(s) => together(compiled, o.value, s, &parts),
        }
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
fn a_gather_is_a_call() {
    let text = r#"graph "mean" {
  input %x: f64[1,2,9,4]
  %a: f64[1,2,9,4] = attention %x, %x, %x {scale=0.5, mask=causal(0), acc=f64, empty=zero}
  %m: f64[1,2,1,4] = reduce %a {mean, axes=[2], keep}
  %y: f64[1,2,9,4] = sub %a, %m
  output "y" = %y
}"#;
    let graph = parse(text).unwrap();
    let x: Vec<f64> = (0..72).map(|i| f64::from(i * 37 % 19) / 7.0 - 1.0).collect();
    let x = [Tensor::from_f64(annulus::ir::DType::F64, [1, 2, 9, 4], &x).unwrap()];
    let want = annulus::eval::eval(&graph, &x, Precision::Declared).unwrap();
    for ranks in [1, 2, 4, 11] {
        let compiled = compile(&graph, &Options::new(ranks)).unwrap();
        let got = drive(&compiled, &x);
        assert!(compare(&got[0], &want[0], 1e-12, 1e-12, false).unwrap().within, "{ranks} ranks");
        let kinds: Vec<bool> = compiled
            .hand_back(0)
            .unwrap()
            .calls
            .iter()
            .map(|c| matches!(c.kind, CallKind::Gather(_)))
            .collect();
        assert_eq!(kinds, [false, true]);
    }
}
