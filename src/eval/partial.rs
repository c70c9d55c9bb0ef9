//! Partial results of attention: slicing their rows, merging two, dividing at the end.
//!
//! Rows are found by their global numbers, not by how progressions happen to be cut.

use super::elementwise::cast;
use super::leaf::{LeafView, elements};
use super::number::{same, wrap};
use super::real::Real;
use super::shape::pick;
use super::walk::around;
use crate::ir::infer::union;
use crate::ir::tensor::with_data;
use crate::ir::{DType, Data, EmptyRow, Tensor};
use crate::layout::Progression;
use std::collections::HashMap;

/// Where each global row stands in a tensor that holds `rows` in this order.
struct Places(HashMap<usize, usize>);

impl Places {
    fn of(rows: &[Progression]) -> Result<Places, String> {
        let mut places = HashMap::new();
        for (at, row) in rows.iter().flat_map(Progression::rows).enumerate() {
            if places.insert(row, at).is_some() {
                return Err(format!("row {row} stands twice"));
            }
        }
        Ok(Places(places))
    }

    fn find(&self, rows: &[Progression]) -> Result<Vec<usize>, String> {
        rows.iter()
            .flat_map(Progression::rows)
            .map(|r| self.0.get(&r).copied().ok_or_else(|| format!("there is no row {r}")))
            .collect()
    }
}

/// Rows of axis 2 by global number.
pub(super) fn chunk(x: &Tensor, of: &[Progression], rows: &[Progression]) -> Result<Data, String> {
    let at = Places::of(of)?.find(rows)?;
    Ok(with_data!(x.data(), v => wrap(pick(v, around(x.shape(), 2), &at))))
}

/// out = o / l and lse = m + ln l, row by row; of a row with l = 0 `empty` and −∞.
pub(super) fn finish<A: Real>(o: &[A], m: &[A], l: &[A], width: usize, empty: EmptyRow) -> (Vec<A>, Vec<A>) {
    let none = match empty {
        EmptyRow::Zero => A::ZERO,
        EmptyRow::Nan => A::from_f64(f64::NAN),
    };
    let mut out = o.to_vec();
    for (row, &l) in out.chunks_mut(width.max(1)).zip(l) {
        row.iter_mut().for_each(|x| *x = if l == A::ZERO { none } else { x.div(l) });
    }
    let lse = m.iter().zip(l).map(|(&m, &l)| if l == A::ZERO { A::LEAST } else { m.add(l.ln()) }).collect();
    (out, lse)
}

/// Counts the sinks, which broadcast to (B, Hq, rows, 1), in (o, m, l) of these sizes: (B, Hq, rows, Dv). A sink of −∞ is
/// neutral to the bit.
pub(super) fn sink<A: Real>(
    [o, m, l]: [&mut [A]; 3],
    sinks: &Tensor,
    [batch, heads, rows, width]: [usize; 4],
) -> Result<(), String> {
    let sinks = LeafView::new(elements::<A>(sinks)?, sinks);
    for n in 0..batch * heads * rows {
        let sink = sinks.at([n / (heads * rows), n / rows % heads, n % rows, 0]);
        if sink == A::LEAST {
            continue;
        }
        let most = m[n].max(sink);
        let before = m[n].sub(most).exp();
        o[n * width..(n + 1) * width].iter_mut().for_each(|x| *x = x.mul(before));
        l[n] = l[n].mul(before).add(sink.sub(most).exp());
        m[n] = most;
    }
    Ok(())
}

/// [`crate::ir::Op::Finish`].
pub(super) fn divide(
    x: &[Tensor],
    of: &[Progression],
    rows: &[Progression],
    dtype: DType,
    empty: EmptyRow,
) -> Result<Vec<Data>, String> {
    fn run<A: Real>(x: &[Tensor], at: &[usize], dtype: DType, empty: EmptyRow) -> Result<Vec<Data>, String> {
        let &[batch, heads, rows, width] = x[0].shape() else { return Err("wants four axes".into()) };
        let all = |t: &Tensor| same::<A>(t.data()).map(<[A]>::to_vec);
        let (mut o, mut m, mut l) = (all(&x[0])?, all(&x[1])?, all(&x[2])?);
        if let Some(sinks) = x.get(3) {
            sink([&mut o, &mut m, &mut l], sinks, [batch, heads, rows, width])?;
        }
        let part = |v: &[A], t: &Tensor| pick(v, around(t.shape(), 2), at);
        let (out, lse) = finish(&part(&o, &x[0]), &part(&m, &x[1]), &part(&l, &x[2]), width, empty);
        Ok(vec![cast(&wrap(out), dtype), wrap(lse)])
    }
    let at = Places::of(of)?.find(rows)?;
    match x[0].dtype() {
        DType::F64 => run::<f64>(x, &at, dtype, empty),
        DType::F32 => run::<f32>(x, &at, dtype, empty),
        other => Err(format!("partial results are not kept in {other}")),
    }
}

/// [`crate::ir::Op::Merge`]: over the rows of a, then those of b that a lacks.
pub(super) fn merge(x: &[Tensor], a: &[Progression], b: &[Progression]) -> Result<Vec<Data>, String> {
    let (in_a, in_b) = (Places::of(a)?, Places::of(b)?);
    let rows = union(a, b);
    Places::of(&rows)?;
    let places: Vec<(Option<usize>, Option<usize>)> = rows
        .iter()
        .flat_map(Progression::rows)
        .map(|r| (in_a.0.get(&r).copied(), in_b.0.get(&r).copied()))
        .collect();
    match x[0].dtype() {
        DType::F64 => combine::<f64>(x, &places),
        DType::F32 => combine::<f32>(x, &places),
        other => Err(format!("partial results are not kept in {other}")),
    }
}

/// One row of a partial result.
#[derive(Clone, Copy)]
struct Row<'a, A> {
    o: &'a [A],
    m: A,
    l: A,
}

fn combine<A: Real>(x: &[Tensor], places: &[(Option<usize>, Option<usize>)]) -> Result<Vec<Data>, String> {
    let parts: Vec<&[A]> = x.iter().map(|t| same::<A>(t.data())).collect::<Result<_, _>>()?;
    let &[batch, heads, rows_a, width] = x[0].shape() else { return Err("wants four axes".into()) };
    let rows_b = x[3].shape()[2];
    if x[3].shape() != [batch, heads, rows_b, width] {
        return Err(format!("{} and {} are of different attentions", x[0].ty(), x[3].ty()));
    }
    let row = |first: usize, rows: usize, head: usize, at: usize| {
        let n = head * rows + at;
        Row { o: &parts[first][n * width..(n + 1) * width], m: parts[first + 1][n], l: parts[first + 2][n] }
    };
    let count = batch * heads * places.len();
    let mut o = Vec::with_capacity(count * width);
    let (mut m, mut l) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for head in 0..batch * heads {
        for &(a, b) in places {
            let a = a.map(|at| row(0, rows_a, head, at));
            let b = b.map(|at| row(3, rows_b, head, at));
            match (a, b) {
                // A part without a key is neutral to the bit.
                (Some(a), Some(b)) if a.m != A::LEAST && b.m != A::LEAST => {
                    let most = a.m.max(b.m);
                    let (wa, wb) = (a.m.sub(most).exp(), b.m.sub(most).exp());
                    o.extend(a.o.iter().zip(b.o).map(|(&x, &y)| x.mul(wa).add(y.mul(wb))));
                    m.push(most);
                    l.push(a.l.mul(wa).add(b.l.mul(wb)));
                }
                (Some(one), other) | (other, Some(one)) => {
                    let one = other.filter(|o| one.m == A::LEAST && o.m != A::LEAST).unwrap_or(one);
                    o.extend_from_slice(one.o);
                    m.push(one.m);
                    l.push(one.l);
                }
                (None, None) => return Err("a row is in neither part".into()),
            }
        }
    }
    Ok(vec![wrap(o), wrap(m), wrap(l)])
}
