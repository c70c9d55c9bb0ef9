//! Matrices within slices, and their products.

use super::number::Scalar;
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder};

/// A matrix within a slice: extents and strides.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    pub(super) data: &'a [T],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// `rows` rows from `row` on.
    pub(super) fn from(self, row: usize, rows: usize) -> Matrix<'a, T> {
        Matrix { data: &self.data[row * self.row_stride..], rows, ..self }
    }

    /// The elements of one row, which must be adjacent.
    pub(super) fn row(&self, row: usize) -> &'a [T] {
        &self.data[row * self.row_stride..][..self.cols]
    }

    /// The same elements with rows and columns exchanged.
    pub(super) fn transposed(self) -> Matrix<'a, T> {
        Matrix {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// A type of which matrices can be multiplied.
pub(super) trait Product: Sized {
    /// out = a · b; `out` is row-major. No extent of out is 0.
    fn product(a: Matrix<Self>, b: Matrix<Self>, out: &mut [Self]);
}

macro_rules! dense {
    ($($t:ty),*) => {$(
        impl Product for $t {
            fn product(a: Matrix<$t>, b: Matrix<$t>, out: &mut [$t]) {
                fn view<'a>(m: Matrix<'a, $t>) -> Option<ArrayView2<'a, $t>> {
                    let shape = (m.rows, m.cols).strides((m.row_stride, m.col_stride));
                    ArrayView2::from_shape(shape, m.data).ok()
                }
                let into = ArrayViewMut2::from_shape((a.rows, b.cols), out).ok();
                if a.cols > 0 && let (Some(a), Some(b), Some(mut into)) = (view(a), view(b), into) {
                    general_mat_mul(1.0, &a, &b, 0.0, &mut into);
                } else {
                    naive(a, b, out);
                }
            }
        }
    )*};
}
dense!(f32, f64);

macro_rules! wrapping {
    ($($t:ty),*) => {$(
        impl Product for $t {
            fn product(a: Matrix<$t>, b: Matrix<$t>, out: &mut [$t]) {
                naive(a, b, out);
            }
        }
    )*};
}
wrapping!(i32, i64);

fn naive<T: Scalar>(a: Matrix<T>, b: Matrix<T>, out: &mut [T]) {
    for (i, row) in out.chunks_mut(b.cols.max(1)).enumerate() {
        for (j, o) in row.iter_mut().enumerate() {
            *o = (0..a.cols).fold(T::ZERO, |s, k| {
                let x = a.data[i * a.row_stride + k * a.col_stride];
                let y = b.data[k * b.row_stride + j * b.col_stride];
                s.add(x.mul(y))
            });
        }
    }
}
