//! Contractions: a batch of matrix products.
//!
//! The operands are read as (batch, m, k) and (batch, k, n), permuted where their strides do not allow that as they
//! stand. One thread computes a product of at most [`BLOCK`] rows; how a product is cut depends on its size alone, so
//! that bits do not depend on the number of threads.

use super::matrix::{Matrix, Product};
use super::number::{Scalar, same, wrap};
use super::walk::{Walk, copy, strides};
use crate::ir::{Contract, Data, Tensor};
use rayon::prelude::*;
use std::borrow::Cow;

/// Rows of one product.
const BLOCK: usize = 128;

pub(super) fn contract(c: &Contract, a: &Tensor, b: &Tensor) -> Result<Data, String> {
    let plan = ContractPlan::new(c, a.shape(), b.shape())?;
    match a.data() {
        Data::F64(v) => Ok(wrap(plan.run::<f64>(v, same(b.data())?))),
        Data::F32(v) => Ok(wrap(plan.run::<f32>(v, same(b.data())?))),
        Data::I64(v) => Ok(wrap(plan.run::<i64>(v, same(b.data())?))),
        Data::I32(v) => Ok(wrap(plan.run::<i32>(v, same(b.data())?))),
        other => Err(format!("does not take {}", other.dtype())),
    }
}

/// One operand as (batch, rows, columns): the extents and strides of its axes, each list in the order of the plan.
struct Side {
    batch: Vec<isize>,
    rows: Axes,
    cols: Axes,
}

#[derive(Clone, Default)]
struct Axes {
    extents: Vec<usize>,
    strides: Vec<isize>,
}

impl Axes {
    fn count(&self) -> usize {
        self.extents.iter().product()
    }

    /// The axes as one, if their elements lie evenly.
    fn joined(&self) -> Option<usize> {
        let mut one: Option<(usize, isize)> = None;
        for (&e, &s) in self.extents.iter().zip(&self.strides).filter(|(e, _)| **e != 1) {
            one = match one {
                None => Some((e, s)),
                Some((n, t)) if t == s * e as isize => Some((n * e, s)),
                Some(_) => return None,
            };
        }
        Some(one.map_or(1, |(_, s)| s as usize))
    }
}

struct ContractPlan {
    batch: Vec<usize>,
    a: Side,
    b: Side,
    /// Extents of (batch, rows of a, columns of b), and the place of each axis of the result among them.
    extents: Vec<usize>,
    order: Vec<usize>,
}

impl ContractPlan {
    fn new(c: &Contract, a: &[usize], b: &[usize]) -> Result<ContractPlan, String> {
        let (a_strides, b_strides) = (strides(a), strides(b));
        let lhs: Vec<char> = c.lhs.chars().collect();
        let rhs: Vec<char> = c.rhs.chars().collect();
        let find = |axes: &[char], l: char| {
            axes.iter().position(|&m| m == l).ok_or_else(|| format!("there is no axis {l}"))
        };
        let pick = |letters: &[char], axes: &[char], shape: &[usize], strides: &[isize]| {
            let at: Vec<usize> = letters.iter().map(|&l| find(axes, l)).collect::<Result<_, String>>()?;
            Ok::<Axes, String>(Axes {
                extents: at.iter().map(|&i| shape[i]).collect(),
                strides: at.iter().map(|&i| strides[i]).collect(),
            })
        };
        let letters = |keep: &dyn Fn(char) -> bool, axes: &[char]| -> Vec<char> {
            axes.iter().copied().filter(|&l| keep(l)).collect()
        };
        let batch = letters(&|l| rhs.contains(&l) && c.out.contains(l), &lhs);
        let summed = letters(&|l| rhs.contains(&l) && !c.out.contains(l), &lhs);
        let m = letters(&|l| !rhs.contains(&l), &lhs);
        let n = letters(&|l| !lhs.contains(&l), &rhs);
        let batch_a = pick(&batch, &lhs, a, &a_strides)?;
        let batch_b = pick(&batch, &rhs, b, &b_strides)?;
        let rows = pick(&m, &lhs, a, &a_strides)?;
        let cols = pick(&n, &rhs, b, &b_strides)?;
        let made: Vec<char> = batch.iter().chain(&m).chain(&n).copied().collect();
        let order = c.out.chars().map(|l| find(&made, l)).collect::<Result<_, String>>()?;
        let extents = [&batch_a.extents[..], &rows.extents, &cols.extents].concat();
        Ok(ContractPlan {
            batch: batch_a.extents,
            a: Side { batch: batch_a.strides, rows, cols: pick(&summed, &lhs, a, &a_strides)? },
            b: Side { batch: batch_b.strides, rows: pick(&summed, &rhs, b, &b_strides)?, cols },
            extents,
            order,
        })
    }

    /// The result has elements.
    fn run<T: Scalar + Product>(&self, a: &[T], b: &[T]) -> Vec<T> {
        let (m, k, n) = (self.a.rows.count(), self.a.cols.count(), self.b.cols.count());
        let (a, a_batch, a_steps) = self.a.settle(a, &self.batch);
        let (b, b_batch, b_steps) = self.b.settle(b, &self.batch);
        let mut starts: Vec<[usize; 2]> = Vec::new();
        let walk = Walk::new(&self.batch, [&a_batch, &b_batch]);
        walk.runs([0, 0], &mut |[i, j]| {
            starts.extend(
                (0..walk.len).map(|x| [i + x * walk.step[0] as usize, j + x * walk.step[1] as usize]),
            );
        });
        let mut out = vec![T::ZERO; starts.len() * m * n];
        if k > 0 {
            let one = |([i, j], into): (&[usize; 2], &mut [T])| {
                let x =
                    Matrix { data: &a[*i..], rows: m, cols: k, row_stride: a_steps.0, col_stride: a_steps.1 };
                let y =
                    Matrix { data: &b[*j..], rows: k, cols: n, row_stride: b_steps.0, col_stride: b_steps.1 };
                let block = |(r, into): (usize, &mut [T])| {
                    T::product(x.from(r * BLOCK, into.len() / n), y, into);
                };
                if m * n * k > SMALL {
                    into.par_chunks_mut(BLOCK * n).enumerate().for_each(block);
                } else {
                    into.chunks_mut(BLOCK * n).enumerate().for_each(block);
                }
            };
            if out.len() * k > SMALL {
                starts.par_iter().zip(out.par_chunks_mut(m * n)).for_each(one);
            } else {
                starts.iter().zip(out.chunks_mut(m * n)).for_each(one);
            }
        }
        if self.order.is_sorted() {
            return out;
        }
        let own = strides(&self.extents);
        let shape: Vec<usize> = self.order.iter().map(|&i| self.extents[i]).collect();
        let view: Vec<isize> = self.order.iter().map(|&i| own[i]).collect();
        copy(&out, &shape, &view, 0)
    }
}

/// Multiplications below which threads cost more than they gain. The bits are the same either way.
const SMALL: usize = 1 << 16;

impl Side {
    /// The elements with the strides of the batch axes and of (rows, columns): as they are if rows and columns lie evenly,
    /// else permuted to (batch, rows, columns).
    fn settle<'a, T: Copy>(&self, x: &'a [T], batch: &[usize]) -> (Cow<'a, [T]>, Vec<isize>, (usize, usize)) {
        if let (Some(r), Some(c)) = (self.rows.joined(), self.cols.joined()) {
            return (Cow::Borrowed(x), self.batch.clone(), (r, c));
        }
        let shape = [batch, &self.rows.extents, &self.cols.extents].concat();
        let view = [&self.batch[..], &self.rows.strides, &self.cols.strides].concat();
        let own = strides(&shape);
        (Cow::Owned(copy(x, &shape, &view, 0)), own[..batch.len()].to_vec(), (self.cols.count(), 1))
    }
}
