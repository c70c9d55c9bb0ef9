//! The island graphs of all ranks evaluated side by side, transfers resolved by hand, against attention written out.

use super::case::{Case, cases};
use super::oracle::{arguments, attention, differs, local};
use annulus::eval::{Precision, apply};
use annulus::ir::{Collective, DType, Graph, Op, OpId, Tensor, Type, ValueId};
use annulus::layout::LayoutKind;
use annulus::mask::Mask;
use annulus::ring::Strategy;
use proptest::prelude::*;
use std::collections::HashMap;

/// One rank on its way through its graph.
struct Rank<'a> {
    graph: &'a Graph,
    order: Vec<OpId>,
    next: usize,
    values: HashMap<ValueId, Tensor>,
}

/// What was posted: by group and sender, and where each rank gets something else, by receiver and name.
type Post = HashMap<(usize, usize, Option<(usize, String)>), Tensor>;

/// Runs every rank until it waits for what is not posted yet, again and again. Results of each rank.
fn lockstep(graphs: &[Graph], args: &[Vec<Tensor>]) -> Vec<Vec<Tensor>> {
    let mut post = Post::new();
    let mut ranks: Vec<Rank<'_>> = graphs
        .iter()
        .zip(args)
        .map(|(graph, args)| {
            let values = graph.inputs().into_iter().zip(args.iter().cloned()).collect();
            Rank { graph, order: graph.ops(), next: 0, values }
        })
        .collect();
    loop {
        let progress: usize = ranks.iter_mut().enumerate().map(|(r, rank)| rank.advance(r, &mut post)).sum();
        if ranks.iter().all(|r| r.next == r.order.len()) {
            let outputs = |r: &Rank<'_>| {
                r.graph.outputs().iter().map(|o| r.values[&o.value].clone()).collect::<Vec<_>>()
            };
            return ranks.iter().map(outputs).collect();
        }
        assert!(progress > 0, "deadlock");
    }
}

impl Rank<'_> {
    fn advance(&mut self, rank: usize, post: &mut Post) -> usize {
        let begin = self.next;
        while let Some(&op) = self.order.get(self.next) {
            let operands: Vec<ValueId> = self.graph.operands(op);
            let results = match self.graph.op(op) {
                Op::Input(_) => vec![],
                Op::Start(c, _) => {
                    if let Collective::AllToAll { to, .. } = &**c {
                        for (peer, v) in to.iter().zip(&operands) {
                            let name = self.graph.value(self.graph.result(op)).name.clone();
                            post.insert((c.group(), rank, Some((*peer, name))), self.values[v].clone());
                        }
                    } else if let Some(v) = operands.first() {
                        post.insert((c.group(), rank, None), self.values[v].clone());
                    }
                    vec![]
                }
                Op::Wait => match self.arrived(rank, operands[0].op, post) {
                    Some(tensor) => vec![tensor],
                    None => break,
                },
                op => {
                    let x: Vec<Tensor> = operands.iter().map(|v| self.values[v].clone()).collect();
                    apply(op, &x, Precision::Declared).unwrap()
                }
            };
            for (v, tensor) in self.graph.results(op).into_iter().zip(results) {
                assert_eq!(tensor.ty(), *self.graph.ty(v));
                self.values.insert(v, tensor);
            }
            self.next += 1;
        }
        self.next - begin
    }

    /// The result of a transfer, if everything of it is posted.
    fn arrived(&self, rank: usize, start: OpId, post: &Post) -> Option<Tensor> {
        let Op::Start(c, ty) = self.graph.op(start) else { panic!("a wait for nothing") };
        match &**c {
            Collective::SendRecv { from: None, .. } => Tensor::from_f64(ty.dtype, ty.shape.clone(), &[]),
            Collective::SendRecv { group, from: Some(from), .. } => post.get(&(*group, *from, None)).cloned(),
            Collective::AllGather { group, rows } => {
                let senders = (0..rows.len()).filter(|&r| !rows[r].is_empty());
                let parts: Vec<Tensor> =
                    senders.map(|r| post.get(&(*group, r, None)).cloned()).collect::<Option<_>>()?;
                Some(apply(&Op::Concat { axis: 2 }, &parts, Precision::Declared).unwrap().remove(0))
                    .filter(|t| t.ty() == *ty)
            }
            Collective::AllToAll { group, axis, rows, .. } => {
                let name = &self.graph.value(self.graph.result(start)).name;
                let senders = (0..rows.len()).filter(|&r| !rows[r].is_empty());
                let of = |r: usize| post.get(&(*group, r, Some((rank, name.clone())))).cloned();
                let parts: Vec<Tensor> = senders.map(of).collect::<Option<_>>()?;
                if parts.is_empty() {
                    return Tensor::from_f64(ty.dtype, ty.shape.clone(), &[]);
                }
                let all = apply(&Op::Concat { axis: *axis }, &parts, Precision::Declared).unwrap().remove(0);
                assert_eq!(all.ty(), *ty, "{name}");
                Some(all)
            }
        }
    }
}

fn agrees(case: &Case, seed: u64, tolerance: f64) -> Result<(), TestCaseError> {
    let whole = arguments(case, seed);
    let want = attention(case, &whole);
    let args: Vec<Vec<Tensor>> = (0..case.ranks).map(|r| local(case, &whole, r)).collect();
    for way in Strategy::ALL {
        for (rank, results) in lockstep(&case.islands(way), &args).iter().enumerate() {
            let fault = differs(case, rank, &want, results, tolerance);
            prop_assert!(fault.is_none(), "{way:?}: {}", fault.unwrap_or_default());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn island_graphs_compute_the_attention(case in cases(), seed in 0u64..1000) {
        agrees(&case, seed, 1e-11)?;
    }
}

#[test]
fn half_precision_is_merged_in_f32() {
    for dtype in [DType::F16, DType::BF16, DType::F32] {
        let mut case = Case::new(29, 4, LayoutKind::Zigzag, Mask::causal(0));
        case.dtype = dtype;
        let tolerance = match dtype {
            DType::BF16 => 4e-3,
            DType::F16 => 5e-4,
            _ => 1e-6,
        };
        agrees(&case, 5, tolerance).unwrap();
    }
}

/// A planted fault: the test must see it.
#[test]
fn a_lost_partial_is_seen() {
    let case = Case::new(16, 4, LayoutKind::Zigzag, Mask::causal(0));
    let whole = arguments(&case, 1);
    let want = attention(&case, &whole);
    let mut args: Vec<Vec<Tensor>> = (0..4).map(|r| local(&case, &whole, r)).collect();
    let ty: Type = args[2][2].ty();
    args[2][2] = Tensor::from_f64(DType::F32, ty.shape.clone(), &vec![0.0; ty.elements()]).unwrap();
    let results = lockstep(&case.islands(Strategy::Ring), &args);
    assert!((0..4).any(|r| differs(&case, r, &want, &results[r], 1e-6).is_some()));
}
