//! What terms mean, by evaluation in f64, and random examples for the rules. Only tests need it.

use super::lang::{Facts, Leaf, LeafFacts, Term};
use super::rules::RULES;
use super::space::Dim;
use crate::ir::narrow::{bf16_from_f64, f16_from_f64};
use egg::{AstSize, Extractor, Id, Language, RecExpr, Runner};

/// A matrix; an extent of 1 broadcasts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Matrix {
    rows: usize,
    cols: usize,
    data: Vec<f64>,
    /// One more score of each row in a softmax; empty for none.
    sink: Vec<f64>,
}

impl Matrix {
    fn at(&self, i: usize, j: usize) -> f64 {
        let i = if self.rows == 1 { 0 } else { i };
        let j = if self.cols == 1 { 0 } else { j };
        self.data[i * self.cols + j]
    }

    fn make(rows: usize, cols: usize, f: impl Fn(usize, usize) -> f64) -> Matrix {
        let data = (0..rows).flat_map(|i| (0..cols).map(move |j| (i, j))).map(|(i, j)| f(i, j)).collect();
        Matrix { rows, cols, data, sink: vec![] }
    }

    fn scalar(x: f64) -> Matrix {
        Matrix::make(1, 1, |_, _| x)
    }

    fn map(&self, f: impl Fn(f64) -> f64) -> Matrix {
        Matrix { data: self.data.iter().map(|&x| f(x)).collect(), ..self.clone() }
    }

    fn zip(&self, o: &Matrix, f: impl Fn(f64, f64) -> f64) -> Matrix {
        Matrix::make(self.rows.max(o.rows), self.cols.max(o.cols), |i, j| f(self.at(i, j), o.at(i, j)))
    }

    fn rows_by(&self, f: impl Fn(&[f64]) -> f64) -> Matrix {
        Matrix::make(self.rows, 1, |i, _| f(&self.data[i * self.cols..(i + 1) * self.cols]))
    }

    fn join(&self, b: &Matrix) -> Matrix {
        Matrix::make(self.rows, self.cols + 1, |i, j| if j < self.cols { self.at(i, j) } else { b.at(i, 0) })
    }

    fn drop(&self) -> Matrix {
        Matrix::make(self.rows, self.cols - 1, |i, j| self.data[i * self.cols + j])
    }

    fn softmax(&self) -> Matrix {
        if !self.sink.is_empty() {
            let column = Matrix::make(self.rows, 1, |i, _| self.sink[i]);
            return self.join(&column).softmax().drop();
        }
        let max = self.rows_by(|r| r.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        let e = self.zip(&max, |x, m| (x - m).exp());
        let sum = e.rows_by(|r| r.iter().sum());
        e.zip(&sum, |e, s| e / s)
    }

    fn times(&self, v: &Matrix) -> Matrix {
        Matrix::make(self.rows, v.cols, |i, j| (0..v.rows).map(|t| self.at(i, t) * v.at(t, j)).sum())
    }
}

/// A term with its leaves: 0 q, 1 k, 2 bias, 3 condition (and 10, as a number), 4 a mask of 0 and 1, 5 zeros and a fill by that mask, 6 v, 7 sinks, 8 a bias with −∞, 9 one number a row.
pub(super) struct Example {
    term: RecExpr<Term>,
    leaves: Vec<Matrix>,
    tolerance: f64,
}

impl Example {
    /// An example whose sides differ by roundings of a half type.
    pub(super) fn rough(self) -> Example {
        Example { tolerance: 1e-2, ..self }
    }
}

/// A source of random numbers.
pub(super) struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> usize {
        (self.next() % n) as usize
    }

    /// A number between −2 and 2, not close to 0.
    pub(super) fn number(&mut self) -> f64 {
        // Exact in f32, so that widening rules are exact.
        let x = self.below(1 << 11) as f64 / 1024.0;
        if self.below(2) == 0 { x + 0.0078125 } else { -x - 0.0078125 }
    }

    /// One of them.
    pub(super) fn pick(&mut self, from: &[f64]) -> f64 {
        from[self.below(from.len() as u64)]
    }

    /// One of them.
    pub(super) fn pick_term(&mut self, from: &[&'static str]) -> &'static str {
        from[self.below(from.len() as u64)]
    }

    fn matrix(&mut self, rows: usize, cols: usize) -> Matrix {
        let data = (0..rows * cols).map(|_| self.number()).collect();
        Matrix { rows, cols, data, sink: vec![] }
    }

    /// An example of a term over query rows × keys.
    pub(super) fn scores(&mut self, term: &str) -> Example {
        let (s, t, d) = (1 + self.below(4), 2 + self.below(4), 1 + self.below(4));
        let broadcast = |dice: &mut Dice, n: usize| if dice.below(3) == 0 { 1 } else { n };
        let (r, c) = (broadcast(self, s), broadcast(self, t));
        let mut bias = self.matrix(r, c);
        if self.below(3) == 0 {
            bias.data[0] = f64::NEG_INFINITY;
        }
        let (r, c) = (broadcast(self, s), broadcast(self, t));
        let mut keep = Matrix::make(r, c, |_, _| 0.0);
        keep.data.iter_mut().for_each(|x| *x = self.below(2) as f64);
        let mut ones = Matrix::make(s, t, |_, _| 0.0);
        ones.data.iter_mut().for_each(|x| *x = self.below(2) as f64);
        ones.data[0] = 0.0;
        let fill = ones.map(|m| if m == 1.0 { 0.0 } else { -1e4 });
        let r = broadcast(self, s);
        let mut sinks = self.matrix(r, 1);
        if self.below(3) == 0 {
            sinks.data[0] = f64::NEG_INFINITY;
        }
        let (q, k, v) = (self.matrix(s, d), self.matrix(t, d), self.matrix(t, 3));
        let mut holes = self.matrix(s, t);
        let empty = self.below(s as u64);
        for (at, x) in holes.data.iter_mut().enumerate() {
            if at / t == empty || self.below(3) == 0 {
                *x = f64::NEG_INFINITY;
            }
        }
        let r = broadcast(self, s);
        let column = self.matrix(r, 1);
        let number = keep.clone();
        let leaves = vec![q, k, bias, keep, ones, fill, v, sinks, holes, column, number];
        Example { term: term.parse().unwrap(), leaves, tolerance: 1e-11 }
    }

    /// An example of a term over query rows × output columns.
    pub(super) fn output(&mut self, term: &str) -> Example {
        self.scores(term)
    }
}

/// Evaluates a term.
fn meaning(term: &RecExpr<Term>, leaves: &[Matrix]) -> Matrix {
    let mut values: Vec<Matrix> = Vec::new();
    for node in term.as_ref() {
        let x = |id: &Id| &values[usize::from(*id)];
        let masked = |s: &Matrix, c: &Matrix, f: f64| s.zip(c, |s, c| if c != 0.0 { s } else { f });
        let new = match node {
            Term::Number(n) => Matrix::scalar(n.get()),
            Term::Leaf(l) => leaves[l.0].clone(),
            Term::Qk([q, k]) => scores(x(q), x(k), 1.0),
            Term::Scores([q, k, s]) => scores(x(q), x(k), x(s).data[0]),
            Term::Pv([p, v]) => x(p).times(x(v)),
            Term::Softmax([a]) => x(a).softmax(),
            Term::Add([a, b]) | Term::Bias([a, b]) => x(a).zip(x(b), |a, b| a + b),
            Term::Sub([a, b]) => x(a).zip(x(b), |a, b| a - b),
            Term::Mul([a, b]) => x(a).zip(x(b), |a, b| a * b),
            Term::Div([a, b]) => x(a).zip(x(b), |a, b| a / b),
            Term::Neg([a]) => x(a).map(|a| -a),
            Term::Tanh([a]) => x(a).map(f64::tanh),
            Term::Pow([a, b]) => x(a).zip(x(b), f64::powf),
            Term::Max([a, b]) | Term::Floor([a, b]) => {
                x(a).zip(x(b), |a, b| if a.is_nan() { a } else { a.max(b) })
            }
            Term::Exp([a]) => x(a).map(f64::exp),
            Term::Reciprocal([a]) => x(a).map(f64::recip),
            Term::Log([a]) => x(a).map(f64::ln),
            Term::IsInf([a]) => x(a).map(|a| f64::from(u8::from(a.is_infinite()))),
            Term::Eq([a, b]) => x(a).zip(x(b), |a, b| f64::from(u8::from(a == b))),
            Term::RowMin([a]) => x(a).rows_by(|r| r.iter().copied().fold(f64::INFINITY, f64::min)),
            Term::Scaled([a, b]) | Term::Times([a, b]) => x(a).zip(x(b), |a, b| a * b),
            Term::IsNan([a]) => x(a).map(|a| f64::from(u8::from(a.is_nan()))),
            Term::Not([a]) => x(a).map(|a| f64::from(u8::from(a == 0.0))),
            Term::Nonzero([a]) => x(a).map(|a| f64::from(u8::from(a != 0.0))),
            Term::Where([c, a, b]) => {
                let full = x(a).zip(x(b), |_, _| 0.0).zip(x(c), |_, _| 0.0);
                Matrix::make(full.rows, full.cols, |i, j| {
                    if x(c).at(i, j) != 0.0 { x(a).at(i, j) } else { x(b).at(i, j) }
                })
            }
            Term::RowMax([a]) => x(a).rows_by(|r| r.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
            Term::RowMaxOrZero([a]) => {
                let max = x(a).rows_by(|r| r.iter().copied().fold(f64::NEG_INFINITY, f64::max));
                max.map(|m| if m == f64::NEG_INFINITY { 0.0 } else { m })
            }
            Term::RowMean([a]) => x(a).rows_by(|r| r.iter().sum::<f64>() / r.len() as f64),
            Term::RowSum([a]) => x(a).rows_by(|r| r.iter().sum()),
            Term::ToF64([a]) => x(a).clone(),
            Term::ToF32([a]) => x(a).map(|a| f64::from(a as f32)),
            Term::ToF16([a]) => x(a).map(|a| f16_from_f64(a).to_f64()),
            Term::ToBf16([a]) => x(a).map(|a| bf16_from_f64(a).to_f64()),
            Term::Cap([a, c]) => {
                let c = x(c).data[0];
                x(a).map(|a| c * (a / c).tanh())
            }
            Term::RowEmpty([a]) => {
                x(a).rows_by(|r| f64::from(u8::from(r.iter().all(|&x| x == f64::NEG_INFINITY))))
            }
            Term::Join([a, b]) => x(a).join(x(b)),
            Term::Drop([a]) => x(a).drop(),
            Term::Sink([a, b]) => {
                let (a, b) = (x(a), x(b));
                Matrix { sink: (0..a.rows).map(|i| b.at(i, 0)).collect(), ..a.clone() }
            }
            Term::Keep([a, c]) => masked(x(a), x(c), f64::NEG_INFINITY),
            Term::Replace([a, c, f]) => masked(x(a), x(c), x(f).data[0]),
            Term::ZeroEmpty([a]) => x(a).softmax().map(|p| if p.is_nan() { 0.0 } else { p }),
            Term::Attention([a, v]) => x(a).softmax().times(x(v)),
            Term::AttentionZero([a, v]) => {
                x(a).softmax().map(|p| if p.is_nan() { 0.0 } else { p }).times(x(v))
            }
            Term::Unknown(..) => unreachable!("examples use known operations"),
        };
        values.push(new);
    }
    values.pop().unwrap()
}

fn scores(q: &Matrix, k: &Matrix, scale: f64) -> Matrix {
    Matrix::make(q.rows, k.rows, |i, j| scale * (0..q.cols).map(|d| q.at(i, d) * k.at(j, d)).sum::<f64>())
}

/// Both sides of every rule, on random examples.
#[test]
fn every_rule_means_the_same_on_both_sides() {
    for rule in RULES {
        let mut fired = 0;
        for seed in 1..40u64 {
            let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let Example { term, mut leaves, tolerance } = (rule.example)(&mut dice);
            if rule.name == "multiplied-mask-sub" {
                leaves[5] = leaves[5].map(|x| -x);
            }
            let facts = leaves
                .iter()
                .enumerate()
                .map(|(n, m)| LeafFacts {
                    constant: Some((vec![vec![Dim(m.rows)], vec![Dim(m.cols)]], m.data.clone())),
                    row: m.cols == 1,
                    truth: (n == 10).then_some(Leaf(3)),
                    binary: n == 10,
                    inverse: None,
                })
                .collect();
            let want = meaning(&term, &leaves);
            // Everything that leads to the left side's own shape must hold first: normal terms are facts.
            let runner = Runner::<Term, Facts>::new(Facts { leaves: facts, swallowed: 1e-17 })
                .with_expr(&term)
                .with_iter_limit(1)
                .run(&[rule.rewrite()]);
            let root = runner.egraph.find(runner.roots[0]);
            let extractor = Extractor::new(&runner.egraph, AstSize);
            let class = &runner.egraph[root];
            // A cast is removed by making two classes one.
            fired += usize::from(class.nodes.len() > 1);
            for node in &class.nodes {
                if node.children().iter().any(|&c| runner.egraph.find(c) == root) {
                    continue;
                }
                let mut expr = RecExpr::default();
                let other = node.clone().map_children(|c| {
                    let (_, part) = extractor.find_best(c);
                    append(&mut expr, &part)
                });
                expr.add(other);
                let got = meaning(&expr, &leaves);
                assert_eq!((got.rows, got.cols), (want.rows, want.cols), "{}: {expr}", rule.name);
                for (g, w) in got.data.iter().zip(&want.data) {
                    let same = g == w || (g.is_nan() && w.is_nan());
                    let near = (g - w).abs() <= tolerance * (1.0 + w.abs());
                    assert!(same || near, "{}: {term} is {w}, {expr} is {g}", rule.name);
                }
            }
        }
        assert!(fired > 20, "{} fired on {fired} of 39 examples", rule.name);
    }
}

/// Appends a term and gives the place of its root.
fn append(to: &mut RecExpr<Term>, part: &RecExpr<Term>) -> Id {
    let base = to.as_ref().len();
    for node in part.as_ref() {
        to.add(node.clone().map_children(|c| Id::from(usize::from(c) + base)));
    }
    Id::from(to.as_ref().len() - 1)
}
