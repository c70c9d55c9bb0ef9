//! What terms mean: evaluation in the types that graphs have, with their rounding. Only tests need it.

use super::term::Expr;
use crate::ir::DType;
use crate::ir::narrow::{bf16_from_f64, f16_from_f64};
use egg::{Id, RecExpr};

/// A matrix; an extent of 1 broadcasts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Matrix {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) data: Vec<f64>,
    /// The type to which it is rounded; numbers take that of what they meet.
    dtype: Option<DType>,
    /// One more score of each row in a softmax; empty for none.
    sink: Vec<f64>,
}

/// Half the distance from 1 to the next number.
pub(crate) fn epsilon(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::EPSILON / 2.0,
        DType::F32 => f64::from(f32::EPSILON) / 2.0,
        DType::F16 => 0.5f64.powi(11),
        _ => 0.5f64.powi(8),
    }
}

fn round(dtype: Option<DType>, x: f64) -> f64 {
    match dtype {
        Some(DType::F32) => f64::from(x as f32),
        Some(DType::F16) => f16_from_f64(x).to_f64(),
        Some(DType::BF16) => bf16_from_f64(x).to_f64(),
        _ => x,
    }
}

/// The type of a result: the wider one.
fn wider(a: Option<DType>, b: Option<DType>) -> Option<DType> {
    let digits = |d: DType| -epsilon(d).log2();
    match (a, b) {
        (Some(a), Some(b)) => Some(if digits(a) >= digits(b) { a } else { b }),
        (a, b) => a.or(b),
    }
}

impl Matrix {
    pub(crate) fn at(&self, i: usize, j: usize) -> f64 {
        let i = if self.rows == 1 { 0 } else { i };
        let j = if self.cols == 1 { 0 } else { j };
        self.data[i * self.cols + j]
    }

    fn make(dtype: Option<DType>, rows: usize, cols: usize, f: impl Fn(usize, usize) -> f64) -> Matrix {
        let data = (0..rows).flat_map(|i| (0..cols).map(move |j| (i, j)));
        let data = data.map(|(i, j)| round(dtype, f(i, j))).collect();
        Matrix { rows, cols, data, dtype, sink: vec![] }
    }

    /// Elements by row and column, exact in every type or of no type.
    pub(crate) fn new(rows: usize, cols: usize, f: impl Fn(usize, usize) -> f64) -> Matrix {
        Matrix::make(None, rows, cols, f)
    }

    /// Rounded to a type, which it then has.
    pub(crate) fn cast(&self, dtype: DType) -> Matrix {
        let data = self.data.iter().map(|&x| round(Some(dtype), x)).collect();
        Matrix { data, dtype: Some(dtype), ..self.clone() }
    }

    /// In the type in which an attention keeps its scores.
    fn wide(&self) -> Matrix {
        Matrix { dtype: wider(self.dtype, Some(DType::F32)), ..self.clone() }
    }

    pub(crate) fn map(&self, f: impl Fn(f64) -> f64) -> Matrix {
        Matrix { data: self.data.iter().map(|&x| round(self.dtype, f(x))).collect(), ..self.clone() }
    }

    fn zip(&self, o: &Matrix, f: impl Fn(f64, f64) -> f64) -> Matrix {
        let dtype = wider(self.dtype, o.dtype);
        let (rows, cols) = (self.rows.max(o.rows), self.cols.max(o.cols));
        Matrix::make(dtype, rows, cols, |i, j| f(self.at(i, j), o.at(i, j)))
    }

    fn rows_by(&self, f: impl Fn(&[f64]) -> f64) -> Matrix {
        Matrix::make(self.dtype, self.rows, 1, |i, _| f(&self.data[i * self.cols..(i + 1) * self.cols]))
    }

    fn max(&self) -> Matrix {
        let larger = |a: f64, b: f64| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) };
        self.rows_by(|r| r.iter().copied().fold(f64::NEG_INFINITY, larger))
    }

    fn join(&self, b: &Matrix) -> Matrix {
        let of = |i, j| if j < self.cols { self.at(i, j) } else { b.at(i, 0) };
        Matrix::make(self.dtype, self.rows, self.cols + 1, of)
    }

    fn drop(&self) -> Matrix {
        Matrix::make(self.dtype, self.rows, self.cols - 1, |i, j| self.data[i * self.cols + j])
    }

    /// Rounded once, at the end.
    fn softmax(&self) -> Matrix {
        let exact = Matrix { dtype: None, ..self.clone() };
        if !self.sink.is_empty() {
            let column = Matrix::new(self.rows, 1, |i, _| self.sink[i]);
            let joined = Matrix { sink: vec![], ..exact }.join(&column);
            return Matrix { dtype: self.dtype, ..joined.softmax().drop() }.map(|x| x);
        }
        let e = exact.zip(&exact.max(), |x, m| (x - m).exp());
        let sum = e.rows_by(|r| r.iter().sum());
        Matrix { dtype: self.dtype, ..e.zip(&sum, |e, s| e / s) }.map(|x| x)
    }

    /// The softmax, but zeros for a row of nothing but −∞.
    fn softmax_or_zeros(&self) -> Matrix {
        let empty = self.max();
        let sunk = |i: usize| self.sink.get(i).is_some_and(|&s| s != f64::NEG_INFINITY);
        let p = self.softmax();
        Matrix::make(p.dtype, p.rows, p.cols, |i, j| {
            if empty.at(i, 0) == f64::NEG_INFINITY && !sunk(i) { 0.0 } else { p.at(i, j) }
        })
    }

    fn times(&self, v: &Matrix) -> Matrix {
        let dtype = wider(self.dtype, v.dtype);
        let of = |i, j| (0..v.rows).map(|t| self.at(i, t) * v.at(t, j)).sum();
        Matrix::make(dtype, self.rows, v.cols, of)
    }
}

/// Evaluates a term, and says of which rows a sum left the numbers of its type, or came so near to 0 that it lost digits.
pub(crate) fn meaning(term: &RecExpr<Expr>, leaves: &[Matrix]) -> (Matrix, Vec<bool>) {
    let mut values: Vec<Matrix> = Vec::new();
    let mut lost = vec![];
    for node in term.as_ref() {
        let x = |id: &Id| &values[usize::from(*id)];
        let masked = |s: &Matrix, c: &Matrix, f: f64| s.zip(c, |s, c| if c != 0.0 { s } else { f });
        let new = match node {
            Expr::Number(n) => Matrix::new(1, 1, |_, _| n.get()),
            Expr::Leaf(l) => leaves[l.0].clone(),
            Expr::Qk([q, k]) => scores(x(q), x(k), 1.0),
            Expr::Scores([q, k, s]) => scores(&x(q).wide(), x(k), x(s).data[0]),
            Expr::Pv([p, v]) => x(p).times(x(v)),
            Expr::Softmax([a]) | Expr::Loose([a]) => x(a).softmax(),
            Expr::Add([a, b]) => x(a).zip(x(b), |a, b| a + b),
            Expr::Bias([a, b]) => x(a).wide().zip(x(b), |a, b| a + b),
            Expr::Sub([a, b]) => x(a).zip(x(b), |a, b| a - b),
            Expr::Mul([a, b]) => x(a).zip(x(b), |a, b| a * b),
            Expr::Div([a, b]) => x(a).zip(x(b), |a, b| a / b),
            Expr::Neg([a]) => x(a).map(|a| -a),
            Expr::Tanh([a]) => x(a).map(f64::tanh),
            Expr::Pow([a, b]) => x(a).zip(x(b), f64::powf),
            Expr::Max([a, b]) | Expr::Floor([a, b]) => {
                x(a).zip(x(b), |a, b| if a.is_nan() { a } else { a.max(b) })
            }
            Expr::Exp([a]) => x(a).map(f64::exp),
            Expr::Reciprocal([a]) => x(a).map(f64::recip),
            Expr::Log([a]) => x(a).map(f64::ln),
            Expr::IsInf([a]) => x(a).map(|a| f64::from(u8::from(a.is_infinite()))),
            Expr::Eq([a, b]) => x(a).zip(x(b), |a, b| f64::from(u8::from(a == b))),
            Expr::RowMin([a]) => x(a).rows_by(|r| r.iter().copied().fold(f64::INFINITY, f64::min)),
            Expr::Times([a, b]) => x(a).zip(x(b), |a, b| a * b),
            // −∞ stays −∞, whatever it is multiplied by.
            Expr::Factor([a, b]) => {
                x(a).wide().zip(x(b), |a, b| if a == f64::NEG_INFINITY { a } else { a * b })
            }
            Expr::IsNan([a]) => x(a).map(|a| f64::from(u8::from(a.is_nan()))),
            Expr::Not([a]) => x(a).map(|a| f64::from(u8::from(a == 0.0))),
            Expr::Nonzero([a]) => x(a).map(|a| f64::from(u8::from(a != 0.0))),
            Expr::Where([c, a, b]) => {
                let full = x(a).zip(x(b), |_, _| 0.0).zip(x(c), |_, _| 0.0);
                Matrix::make(full.dtype, full.rows, full.cols, |i, j| {
                    if x(c).at(i, j) != 0.0 { x(a).at(i, j) } else { x(b).at(i, j) }
                })
            }
            Expr::RowMax([a]) => x(a).max(),
            Expr::RowMaxOrZero([a]) => x(a).max().map(|m| if m == f64::NEG_INFINITY { 0.0 } else { m }),
            Expr::RowMean([a]) => x(a).rows_by(|r| r.iter().sum::<f64>() / r.len() as f64),
            Expr::RowSum([a]) => {
                let sums = x(a).rows_by(|r| r.iter().sum());
                let least = least_sum(sums.dtype);
                lost.resize(lost.len().max(sums.rows), false);
                let out = |s: &f64| s.is_infinite() || (*s != 0.0 && s.abs() < least);
                lost.iter_mut().zip(&sums.data).for_each(|(lost, s)| *lost |= out(s));
                sums
            }
            Expr::ToF64([a]) => x(a).cast(DType::F64),
            Expr::ToF32([a]) => x(a).cast(DType::F32),
            Expr::Narrow([a, n]) | Expr::Round([a, n]) => x(a).cast(match x(n).data[0] {
                8.0 => DType::BF16,
                11.0 => DType::F16,
                _ => DType::F32,
            }),
            Expr::Cap([a, c]) => {
                let c = x(c).data[0];
                x(a).wide().map(|a| c * (a / c).tanh())
            }
            Expr::RowEmpty([a]) => {
                x(a).rows_by(|r| f64::from(u8::from(r.iter().all(|&x| x == f64::NEG_INFINITY))))
            }
            Expr::Join([a, b]) => x(a).join(x(b)),
            Expr::Drop([a]) => x(a).drop(),
            Expr::Sink([a, b]) => {
                let (a, b) = (x(a), x(b));
                Matrix { sink: (0..a.rows).map(|i| b.at(i, 0)).collect(), ..a.clone() }
            }
            Expr::Weighted([v, m]) => {
                let (v, m) = (x(v), x(m));
                Matrix::make(wider(v.dtype, m.dtype), v.rows, v.cols, |j, e| v.at(j, e) * m.at(0, j))
            }
            Expr::Only([b, c]) => masked(x(b), x(c), 0.0),
            Expr::Keep([a, c]) => masked(x(a), x(c), f64::NEG_INFINITY),
            Expr::Replace([a, c, f]) => masked(x(a), x(c), x(f).data[0]),
            Expr::ZeroEmpty([a]) => x(a).softmax_or_zeros(),
            Expr::ZeroNan([a]) => x(a).softmax().map(|p| if p.is_nan() { 0.0 } else { p }),
            Expr::Attention([a, v]) => x(a).softmax().times(x(v)),
            Expr::AttentionZero([a, v]) => x(a).softmax_or_zeros().times(x(v)),
            Expr::AttentionZeroNan([a, v]) => {
                x(a).softmax().map(|p| if p.is_nan() { 0.0 } else { p }).times(x(v))
            }
            Expr::Unknown(op, of) => {
                let (a, b) = (x(&of[0]), x(&of[1]));
                let truth = |t: bool| f64::from(u8::from(t));
                match op.0.as_str() {
                    "gt" => a.zip(b, |a, b| truth(a > b)),
                    "and" => a.zip(b, |a, b| truth(a != 0.0 && b != 0.0)),
                    other => unreachable!("examples do not use {other}"),
                }
            }
        };
        values.push(new);
    }
    (values.pop().unwrap(), lost)
}

/// Below this a sum of exponentials has lost digits.
fn least_sum(dtype: Option<DType>) -> f64 {
    match dtype {
        Some(DType::F16) => 0.5f64.powi(14 - 11),
        Some(d @ (DType::F32 | DType::BF16)) => f64::from(f32::MIN_POSITIVE) / epsilon(d),
        _ => f64::MIN_POSITIVE / f64::EPSILON,
    }
}

/// Accumulated exactly, rounded once.
fn scores(q: &Matrix, k: &Matrix, scale: f64) -> Matrix {
    let dot = |i, j| scale * (0..q.cols).map(|d| q.at(i, d) * k.at(j, d)).sum::<f64>();
    Matrix::make(wider(q.dtype, k.dtype), q.rows, k.rows, dot)
}
