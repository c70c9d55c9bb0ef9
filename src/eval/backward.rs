//! The gradients of an attention, as [`crate::ir::AttentionBackward`] says.
//!
//! Row by row: the scores again with what each step was handed, the weights from m and ln l, and the weights' gradients back through the
//! steps. Sums over the query heads of a key head and over rows go in their order. What takes no part is not touched, whatever it
//! holds: 0 · ∞ is nowhere computed.

use super::attention::{Numbers, Problem};
use super::elementwise::cast;
use super::leaf::{LeafView, elements};
use super::number::wrap;
use super::real::Real;
use crate::ir::infer::attention_sizes;
use crate::ir::{AttentionBackward, DType, Data, Factor, ScoreStep, Tensor, Type};
use crate::mask::Fill;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// The gradients, in the types of the results; `acc` is the type of accumulation.
pub(super) fn backward(
    b: &AttentionBackward,
    x: &[Tensor],
    acc: DType,
    types: &[Type],
) -> Result<Vec<Data>, String> {
    let all = if acc == DType::F64 { run::<f64>(b, x) } else { run::<f32>(b, x) }?;
    Ok(all.iter().zip(types).map(|(data, ty)| cast(data, ty.dtype)).collect())
}

/// dq, dk, dv, and those of other operands, in the type of accumulation.
fn run<A: Real>(b: &AttentionBackward, x: &[Tensor]) -> Result<Vec<Data>, String> {
    let a = &b.attention;
    let more = 4 + usize::from(a.lse);
    let at = x.len().checked_sub(more).ok_or("lacks operands")?;
    let (forward, rest) = x.split_at(at);
    let s = attention_sizes(&x[0].ty(), &x[1].ty(), &x[2].ty())?;
    let rest = rest.iter().map(elements::<A>).collect::<Result<Vec<_>, _>>()?;
    let numbers = Numbers::<A>::of(forward)?;
    let problem = Problem::whole(a, s, forward, &numbers)?;
    let sinks = a.sinks.map(|n| Ok::<_, String>(LeafView::new(elements::<A>(&x[n])?, &x[n]))).transpose()?;
    let gradients = Gradients {
        problem: &problem,
        out: &rest[0],
        m: &rest[1],
        log_l: &rest[2],
        dout: &rest[3],
        dlse: rest.get(4).map(Vec::as_slice),
        sinks: a.sinks.zip(sinks),
        wrt: &b.wrt,
        operands: forward,
    };
    Ok(gradients.all())
}

/// An attention with the results and cotangents that its gradients are made of.
struct Gradients<'a, A> {
    problem: &'a Problem<'a, A>,
    out: &'a [A],
    m: &'a [A],
    log_l: &'a [A],
    dout: &'a [A],
    dlse: Option<&'a [A]>,
    /// Which operand they are, and what they hold.
    sinks: Option<(usize, LeafView<A>)>,
    wrt: &'a [usize],
    operands: &'a [Tensor],
}

/// What the query heads of one key head give.
struct Group<A> {
    dq: Vec<A>,
    dk: Vec<A>,
    dv: Vec<A>,
}

/// The gradients of leaves and sinks, by operand.
type Others<A> = BTreeMap<usize, LeafView<A>>;

impl<A: Real> Gradients<'_, A> {
    fn all(&self) -> Vec<Data> {
        let s = &self.problem.sizes;
        let mut others: Others<A> = self
            .wrt
            .iter()
            .map(|&n| (n, LeafView::new(vec![A::ZERO; self.operands[n].ty().elements()], &self.operands[n])))
            .collect();
        let groups = 0..s.batch * s.kv_heads;
        let groups: Vec<Group<A>> = match self.wrt.is_empty() {
            true => groups.into_par_iter().map(|g| self.group(g, &mut Others::new())).collect(),
            // A leaf has its sum over all heads, in their order.
            false => groups.map(|g| self.group(g, &mut others)).collect(),
        };
        let join =
            |of: fn(&Group<A>) -> &Vec<A>| wrap(groups.iter().flat_map(|g| of(g).iter().copied()).collect());
        let mut all = vec![join(|g| &g.dq), join(|g| &g.dk), join(|g| &g.dv)];
        all.extend(others.into_values().map(|leaf| wrap(leaf.into_data())));
        all
    }

    fn group(&self, group: usize, others: &mut Others<A>) -> Group<A> {
        let s = &self.problem.sizes;
        let (heads, keys) = (s.q_heads / s.kv_heads, s.kv_len);
        let (b, first) = (group / s.kv_heads, group % s.kv_heads * heads);
        let mut out = Group {
            dq: vec![A::ZERO; heads * s.q_len * s.head_dim],
            dk: vec![A::ZERO; keys * s.head_dim],
            dv: vec![A::ZERO; keys * s.v_head_dim],
        };
        let mut row = Row { group, scores: vec![A::ZERO; keys], ds: vec![A::ZERO; keys], steps: vec![] };
        for h in 0..heads {
            for i in 0..s.q_len {
                let at = (h * s.q_len + i) * s.head_dim;
                self.row([b, first + h, i], &mut row, (&mut out, at), others);
            }
        }
        out
    }

    /// Adds what one query row gives; its dq begins at `at`.
    fn row(
        &self,
        [b, h, i]: [usize; 3],
        row: &mut Row<A>,
        (out, at): (&mut Group<A>, usize),
        others: &mut Others<A>,
    ) {
        let (problem, s) = (self.problem, &self.problem.sizes);
        let n = (b * s.q_heads + h) * s.q_len + i;
        let (m, log_l) = (self.m[n], self.log_l[n]);
        // A row that nothing takes part in.
        if m == A::LEAST {
            return;
        }
        let (k, v) = (problem.k.head(row.group, s.kv_len), problem.v.head(row.group, s.kv_len));
        let q = &problem.q[n * s.head_dim..][..s.head_dim];
        let values = n * s.v_head_dim..(n + 1) * s.v_head_dim;
        let dout = &self.dout[values.clone()];
        let shift = self.dlse.map_or(A::ZERO, |d| d[n]).sub(dot(dout, &self.out[values]));
        row.scores.iter_mut().enumerate().for_each(|(j, x)| *x = dot(q, k.row(j)));
        let steps = &mut row.steps;
        let mut told = 0;
        problem.settle([b, h, i], &mut row.scores, |before| {
            match steps.get_mut(told) {
                Some(row) => row.clone_from_slice(before),
                None => steps.push(before.to_vec()),
            }
            told += 1;
        });
        let weight = |x: A| x.sub(m).sub(log_l).exp();
        let scale = problem.dropout.map_or(A::ONE, |(scale, _)| A::from_f64(scale));
        let mut kept = problem.dropout.map(|(_, mask)| mask.of_row([b, h, i]));
        for (j, (&x, ds)) in row.scores.iter().zip(&mut row.ds).enumerate() {
            *ds = A::ZERO;
            if x == A::LEAST {
                continue;
            }
            let p = weight(x);
            *ds = p.mul(shift);
            if kept.as_mut().is_none_or(|kept| kept(j)) {
                *ds = p.mul(dot(dout, v.row(j)).mul(scale).add(shift));
                add(&mut out.dv[j * s.v_head_dim..][..s.v_head_dim], p.mul(scale), dout);
            }
        }
        self.through([b, h, i], row, others);
        for (j, &ds) in row.ds.iter().enumerate().filter(|(_, ds)| **ds != A::ZERO) {
            add(&mut out.dq[at..at + s.head_dim], ds, k.row(j));
            add(&mut out.dk[j * s.head_dim..][..s.head_dim], ds, q);
        }
        if let Some((operand, sinks)) = &self.sinks
            && let Some(gradient) = others.get_mut(operand)
        {
            let sink = sinks.at([b, h, i, 0]);
            if sink != A::LEAST {
                gradient.add([b, h, i, 0], weight(sink).mul(shift));
            }
        }
    }

    /// The gradients of the scores become those of q·k, from the last step to the first.
    fn through(&self, [b, h, i]: [usize; 3], row: &mut Row<A>, others: &mut Others<A>) {
        let (problem, steps) = (self.problem, self.problem.scores.steps());
        for (n, step) in steps.iter().enumerate().rev() {
            let before = &row.steps[n];
            // What came of the step: what the next one was handed.
            let after = row.steps.get(n + 1).filter(|_| n + 1 < steps.len()).unwrap_or(&row.scores);
            let live = row.ds.iter_mut().enumerate().filter(|(_, ds)| **ds != A::ZERO);
            match step {
                ScoreStep::Factor(Factor::Number(c)) => {
                    let c = A::from_f64(*c);
                    live.for_each(|(_, ds)| *ds = ds.mul(c));
                }
                ScoreStep::Factor(Factor::Leaf(leaf)) => live.for_each(|(j, ds)| {
                    if let Some(gradient) = others.get_mut(leaf) {
                        gradient.add([b, h, i, j], ds.mul(before[j]));
                    }
                    *ds = ds.mul(problem.leaves.number(*leaf, [b, h, i, j]));
                }),
                ScoreStep::Softcap(c) => {
                    let c = A::from_f64(*c);
                    live.for_each(|(j, ds)| {
                        let y = after[j].div(c);
                        *ds = ds.mul(A::ONE.sub(y.mul(y)));
                    });
                }
                ScoreStep::Add(leaf) => {
                    if let Some(gradient) = others.get_mut(leaf) {
                        live.for_each(|(j, ds)| gradient.add([b, h, i, j], *ds));
                    }
                }
                ScoreStep::Fill(mask) if !matches!(mask.fill, Fill::Add(_)) => {
                    let kept = problem.keeps(step, mask, [b, h, i]);
                    live.filter(|(j, _)| !kept(*j)).for_each(|(_, ds)| *ds = A::ZERO);
                }
                ScoreStep::Fill(_) | ScoreStep::Round(_) => {}
            }
        }
    }
}

/// What is held of one query row.
struct Row<A> {
    /// The key head of its batch entry.
    group: usize,
    scores: Vec<A>,
    /// Gradients of the scores.
    ds: Vec<A>,
    /// What each step was handed.
    steps: Vec<Vec<A>>,
}

fn dot<A: Real>(a: &[A], b: &[A]) -> A {
    a.iter().zip(b).fold(A::ZERO, |sum, (&a, &b)| sum.add(a.mul(b)))
}

/// to += c · x.
fn add<A: Real>(to: &mut [A], c: A, x: &[A]) {
    to.iter_mut().zip(x).for_each(|(to, &x)| *to = to.add(c.mul(x)));
}
