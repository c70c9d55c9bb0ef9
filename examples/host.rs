//! A host: a program that has a graph compiler of its own, and hands annulus nothing but the attention.
//!
//! For each rank the host gets back an ordinary graph in which every island, and every value that must be put together or folded over
//! the ranks, is one `call` operation. It knows no attention, no transfer and no schedule: it evaluates the other operations as it likes, and at a
//! `call` it hands over the operands and takes the results. Here all ranks live in one process and stop at each call until all
//! have arrived; on real ranks each enters the call by itself.
//!
//! `cargo run --example host`

#![allow(clippy::print_stdout)]

use annulus::eval::{Precision, apply, compare, eval};
use annulus::exec::cpu::{fold, run_island};
use annulus::host::{CallKind, HandBack};
use annulus::ir::{DType, Op, OpId, Tensor, ValueId, parse};
use annulus::layout::Progression;
use annulus::shard::Placement;
use annulus::{Compiled, Options, compile};
use std::collections::BTreeMap;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Attention between two elementwise parts; a mean over all rows, to which each rank adds its part; and the last row, for which
/// every rank needs all of them.
const GRAPH: &str = r#"graph "host" {
  input %x: f32[1,2,12,4]
  %h: f32[1,2,12,4] = tanh %x
  %a: f32[1,2,12,4] = attention %h, %h, %x {scores=[factor 0.5 | fill -inf unless causal(0)], acc=f32, empty=zero}
  %b: f32[1,2,12,4] = add %a, %x
  %mean: f32[1,2,1,4] = reduce %b {mean, axes=[2], keep}
  %c: f32[1,2,12,4] = sub %b, %mean
  %last: f32[1,2,1,4] = slice %c {axis=2, start=11, len=1}
  %y: f32[1,2,12,4] = sub %c, %last
  output "y" = %y
}"#;

/// One rank of the host: its graph, and how far it has come.
struct Rank {
    graph: HandBack,
    order: Vec<OpId>,
    next: usize,
    values: BTreeMap<ValueId, Tensor>,
}

impl Rank {
    /// A rank with its inputs. What the host hands over whole goes to every rank as it is.
    fn new(compiled: &Compiled, rank: usize, inputs: &[Tensor]) -> Result<Rank> {
        let graph = compiled.hand_back(rank)?;
        let order = graph.graph.ops();
        let values = graph.graph.inputs().into_iter().zip(inputs.iter().cloned()).collect();
        Ok(Rank { graph, order, next: 0, values })
    }

    /// Evaluates ordinary operations up to the next call, whose number is given back, or to the end.
    fn advance(&mut self) -> Result<Option<usize>> {
        let graph = &self.graph.graph;
        while let Some(&id) = self.order.get(self.next) {
            let results = match graph.op(id) {
                Op::Call { number, .. } => return Ok(Some(*number)),
                Op::Input(_) => vec![],
                Op::Constant(c) => vec![c.data.as_deref().ok_or("a weight without data")?.clone()],
                // This is where a real host has its own kernels.
                ordinary => apply(ordinary, &self.operands(id), Precision::Declared)?,
            };
            self.values.extend(graph.results(id).into_iter().zip(results));
            self.next += 1;
        }
        Ok(None)
    }

    fn operands(&self, id: OpId) -> Vec<Tensor> {
        self.graph.graph.operands(id).iter().map(|v| self.values[v].clone()).collect()
    }

    /// The operands of the call at which the rank stands.
    fn handed_over(&self) -> Vec<Tensor> {
        self.operands(self.order[self.next])
    }

    /// The call came back.
    fn take(&mut self, results: Vec<Tensor>) {
        let id = self.order[self.next];
        self.values.extend(self.graph.graph.results(id).into_iter().zip(results));
        self.next += 1;
    }

    fn outputs(&self) -> Vec<Tensor> {
        self.graph.graph.outputs().iter().map(|o| self.values[&o.value].clone()).collect()
    }
}

/// The whole value of which each rank holds its rows of axis 2.
fn together(parts: &[Tensor], rows: &[Vec<Progression>]) -> Tensor {
    let shape = parts[0].shape();
    let (heads, size) = (shape[0] * shape[1], shape[3]);
    let length: usize = parts.iter().map(|p| p.shape()[2]).sum();
    let mut out = vec![0.0; heads * length * size];
    for (part, rows) in parts.iter().zip(rows) {
        let values = part.to_f64();
        let mut from = values.chunks(size);
        for head in 0..heads {
            for row in rows.iter().flat_map(Progression::rows) {
                let to = (head * length + row) * size;
                out[to..to + size].copy_from_slice(from.next().expect("a row for each that the rank owns"));
            }
        }
    }
    Tensor::from_f64(DType::F32, [shape[0], shape[1], length, size], &out).expect("as many as the shape says")
}

/// Drives the graphs of all ranks and gives each rank's outputs.
fn drive(compiled: &Compiled, inputs: &[Tensor]) -> Result<Vec<Vec<Tensor>>> {
    let program = &compiled.program;
    let schedules = compiled.schedules();
    let mut ranks = (0..program.ranks).map(|r| Rank::new(compiled, r, inputs)).collect::<Result<Vec<_>>>()?;
    loop {
        let stopped = ranks.iter_mut().map(Rank::advance).collect::<Result<Vec<_>>>()?;
        // Calls have the same numbers in the same order on every rank.
        let Some(number) = stopped[0] else { break };
        assert!(stopped.iter().all(|&s| s == Some(number)));
        let operands: Vec<Vec<Tensor>> = ranks.iter().map(Rank::handed_over).collect();
        let call = &ranks[0].graph.calls[number];
        let results = match call.kind {
            CallKind::Island(op) => {
                println!("call {number}: attention, {} bytes of workspace on rank 0", call.workspace_bytes);
                run_island(&schedules[&op], &operands, 0)?.0
            }
            CallKind::Reduce(value, kind) => {
                let (name, dtype) = (&program.graph.value(value).name, program.graph.ty(value).dtype);
                println!("call {number}: the ranks' parts of {name} are folded by {}", kind.name());
                let parts: Vec<Tensor> = operands.into_iter().map(|mut o| o.remove(0)).collect();
                vec![vec![fold(&parts, kind, dtype)?]; program.ranks]
            }
            CallKind::Gather(value) => {
                println!("call {number}: {} is put together on every rank", program.graph.value(value).name);
                let Placement::Sharded(split) = &program.placements[&value] else {
                    return Err("what is whole already is not put together".into());
                };
                let rows: Vec<Vec<Progression>> =
                    (0..program.ranks).map(|r| program.rows(split, r).to_vec()).collect();
                let parts: Vec<Tensor> = operands.into_iter().map(|mut o| o.remove(0)).collect();
                vec![vec![together(&parts, &rows)]; program.ranks]
            }
        };
        ranks.iter_mut().zip(results).for_each(|(rank, results)| rank.take(results));
    }
    Ok(ranks.iter().map(Rank::outputs).collect())
}

/// Compiles for three ranks, drives their graphs, puts the output together, and compares with the graph itself.
/// It is an error if anything fails, or a result is not what the graph itself gives.
pub(crate) fn main() -> Result<()> {
    let graph = parse(GRAPH)?;
    let compiled = compile(&graph, &Options::new(3))?;
    println!("what the host of rank 1 gets back:\n{}", compiled.hand_back(1)?.graph);

    let numbers: Vec<f64> = (0..96).map(|i| f64::from(i * 37 % 19) / 7.0 - 1.0).collect();
    let x = Tensor::from_f64(DType::F32, [1, 2, 12, 4], &numbers).expect("96 numbers");
    let outputs = drive(&compiled, std::slice::from_ref(&x))?;

    // Each rank holds its rows of the output; the program says which.
    let program = &compiled.program;
    let output = program.graph.outputs()[0].value;
    let parts: Vec<Tensor> = outputs.into_iter().map(|mut o| o.remove(0)).collect();
    let whole = match program.held(output, program.segments.len()) {
        Placement::Whole | Placement::Parts(_) => parts[0].clone(),
        Placement::Sharded(split) => {
            let rows: Vec<Vec<Progression>> =
                (0..program.ranks).map(|r| program.rows(split, r).to_vec()).collect();
            together(&parts, &rows)
        }
    };
    let want = eval(&graph, &[x], Precision::F64)?;
    let apart = compare(&whole, &want[0], 1e-5, 1e-5, false)?;
    println!("largest difference from the graph evaluated in f64: {:.1e}", apart.max_abs_error);
    if apart.within { Ok(()) } else { Err("the host computed something else".into()) }
}
