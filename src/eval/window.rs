//! Convolutions and pooling: folds over windows.
//!
//! A convolution becomes matrix products, kernels × windows: the windows are written out for a block of positions at a
//! time, so that memory is bounded whatever the sizes. How it is cut depends on the sizes alone.

use super::matrix::{Matrix, Product};
use super::number::{Scalar, same, with_scalar, wrap};
use crate::ir::{Data, Reduction, Tensor, Windows};
use rayon::prelude::*;

/// The most elements of windows that are written out at once.
const WRITTEN: usize = 1 << 18;

/// The axes over which windows lie: a row-major grid of elements and one of windows.
struct Grid<'a> {
    windows: &'a Windows,
    kernel: &'a [usize],
    elements: &'a [usize],
    counts: &'a [usize],
}

/// The taps of one window that are there, along one axis: the first of them, how many, and where the first lies.
#[derive(Clone, Copy, Default)]
struct Run {
    tap: usize,
    len: usize,
    at: usize,
}

impl Grid<'_> {
    fn run(&self, axis: usize, window: usize) -> Run {
        let (step, low) = (self.windows.dilations[axis], self.windows.low[axis]);
        // Relative to the padded axis; inference has checked that no product overflows.
        let begin = window * self.windows.strides[axis];
        let tap = low.saturating_sub(begin).div_ceil(step);
        let end = low + self.elements[axis];
        let past = if begin >= end { 0 } else { (end - begin).div_ceil(step) };
        let len = past.min(self.kernel[axis]).saturating_sub(tap);
        Run { tap, len, at: if len == 0 { 0 } else { begin + tap * step - low } }
    }

    /// Calls `f` with the flat numbers of each tap that is there and of its element, in the order of the taps.
    fn taps(&self, mut window: usize, f: &mut dyn FnMut(usize, usize)) {
        let rank = self.kernel.len();
        let mut runs = vec![Run::default(); rank];
        for axis in (0..rank).rev() {
            runs[axis] = self.run(axis, window % self.counts[axis]);
            window /= self.counts[axis];
        }
        if runs.iter().any(|r| r.len == 0) {
            return;
        }
        let mut index = vec![0; rank];
        loop {
            let (mut tap, mut element) = (0usize, 0usize);
            for (axis, r) in runs.iter().enumerate() {
                // Taps of pooling are not numbered by memory, and may be more than fit.
                tap = tap.wrapping_mul(self.kernel[axis]).wrapping_add(r.tap + index[axis]);
                element = element * self.elements[axis] + r.at + index[axis] * self.windows.dilations[axis];
            }
            f(tap, element);
            let mut axis = rank;
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                index[axis] += 1;
                if index[axis] < runs[axis].len {
                    break;
                }
                index[axis] = 0;
            }
        }
    }
}

/// x ∗ w; the result has elements.
pub(super) fn conv(
    x: &Tensor,
    w: &Tensor,
    windows: &Windows,
    groups: usize,
    shape: &[usize],
) -> Result<Data, String> {
    let grid = Grid { windows, kernel: &w.shape()[2..], elements: &x.shape()[2..], counts: &shape[2..] };
    let sizes = Sizes {
        batch: shape[0],
        groups,
        rows: shape[1] / groups,
        channels: w.shape()[1],
        taps: grid.kernel.iter().product(),
        elements: grid.elements.iter().product(),
        windows: grid.counts.iter().product(),
    };
    match x.data() {
        Data::F64(v) => Ok(wrap(sizes.run::<f64>(v, same(w.data())?, &grid))),
        Data::F32(v) => Ok(wrap(sizes.run::<f32>(v, same(w.data())?, &grid))),
        Data::I64(v) => Ok(wrap(sizes.run::<i64>(v, same(w.data())?, &grid))),
        Data::I32(v) => Ok(wrap(sizes.run::<i32>(v, same(w.data())?, &grid))),
        other => Err(format!("does not take {}", other.dtype())),
    }
}

struct Sizes {
    batch: usize,
    groups: usize,
    /// Channels of the result, and of the operand, in one group.
    rows: usize,
    channels: usize,
    taps: usize,
    elements: usize,
    windows: usize,
}

impl Sizes {
    fn run<T: Scalar + Product>(&self, x: &[T], w: &[T], grid: &Grid<'_>) -> Vec<T> {
        let depth = self.channels * self.taps;
        let plane = self.rows * self.windows;
        let mut out = vec![T::ZERO; self.batch * self.groups * plane];
        if depth == 0 {
            return out;
        }
        let block = (WRITTEN / depth).clamp(1, self.windows);
        out.par_chunks_mut(plane).enumerate().for_each(|(n, out)| {
            let x = &x[n * self.channels * self.elements..][..self.channels * self.elements];
            let w = &w[n % self.groups * self.rows * depth..][..self.rows * depth];
            let kernels = Matrix { data: w, rows: self.rows, cols: depth, row_stride: depth, col_stride: 1 };
            let mut written = vec![T::ZERO; block * depth];
            let mut products = vec![T::ZERO; block * self.rows];
            for first in (0..self.windows).step_by(block) {
                let len = block.min(self.windows - first);
                written.fill(T::ZERO);
                for (i, row) in written.chunks_mut(depth).take(len).enumerate() {
                    grid.taps(first + i, &mut |tap, element| {
                        for c in 0..self.channels {
                            row[c * self.taps + tap] = x[c * self.elements + element];
                        }
                    });
                }
                let columns =
                    Matrix { data: &written, rows: depth, cols: len, row_stride: 1, col_stride: depth };
                let products = &mut products[..len * self.rows];
                T::product(kernels, columns, products);
                for (r, row) in products.chunks(len).enumerate() {
                    out[r * self.windows + first..][..len].copy_from_slice(row);
                }
            }
        });
        out
    }
}

/// The fold of each window; the result has elements.
pub(super) fn pool(
    x: &Tensor,
    kind: Reduction,
    kernel: &[usize],
    windows: &Windows,
    shape: &[usize],
) -> Result<Data, String> {
    let grid = Grid { windows, kernel, elements: &x.shape()[2..], counts: &shape[2..] };
    let planes = shape[0] * shape[1];
    with_scalar!(x.data(), v => fold(v, kind, planes, &grid), Err(format!("does not take {}", x.dtype())))
}

fn fold<T: Scalar>(v: &[T], kind: Reduction, planes: usize, grid: &Grid<'_>) -> Result<Data, String> {
    let elements: usize = grid.elements.iter().product();
    let count: usize = grid.counts.iter().product();
    let mut out = vec![T::ZERO; planes * count];
    let mut taken = Vec::new();
    for window in 0..count {
        taken.clear();
        grid.taps(window, &mut |_, element| taken.push(element));
        for plane in 0..planes {
            let row = taken.iter().map(|&e| v[plane * elements + e]);
            out[plane * count + window] = match kind {
                Reduction::Max => row.fold(T::LEAST, T::max),
                _ => T::mean(row.fold(T::ZERO, T::add), taken.len()).ok_or("the integer mean of nothing")?,
            };
        }
    }
    Ok(wrap(out))
}
