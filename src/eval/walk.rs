//! Strided walks: row-major over a shape, through N arrays at once, each with its own strides.

/// A walk over a shape. Adjacent axes that every array crosses evenly are joined, so that runs are long.
pub(super) struct Walk<const N: usize> {
    outer: Vec<(usize, [isize; N])>,
    /// Elements of a run.
    pub(super) len: usize,
    /// Strides within a run.
    pub(super) step: [isize; N],
}

impl<const N: usize> Walk<N> {
    pub(super) fn new(shape: &[usize], strides: [&[isize]; N]) -> Walk<N> {
        let mut axes: Vec<(usize, [isize; N])> = Vec::with_capacity(shape.len());
        for (i, &extent) in shape.iter().enumerate() {
            if extent == 1 {
                continue;
            }
            let here: [isize; N] = std::array::from_fn(|n| strides[n][i]);
            match axes.last_mut() {
                Some((e, s)) if (0..N).all(|n| s[n] == here[n] * extent as isize) => {
                    *e *= extent;
                    *s = here;
                }
                _ => axes.push((extent, here)),
            }
        }
        let (len, step) = axes.pop().unwrap_or((1, [0; N]));
        Walk { outer: axes, len, step }
    }

    /// Calls `f` with the offsets at which each run begins, in row-major order. Not for shapes without elements.
    pub(super) fn runs(&self, start: [isize; N], f: &mut dyn FnMut([usize; N])) {
        let mut at = start;
        let mut index = vec![0usize; self.outer.len()];
        loop {
            f(at.map(|x| x as usize));
            let mut axis = self.outer.len();
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                let (extent, step) = self.outer[axis];
                index[axis] += 1;
                if index[axis] < extent {
                    (0..N).for_each(|n| at[n] += step[n]);
                    break;
                }
                index[axis] = 0;
                (0..N).for_each(|n| at[n] -= step[n] * (extent as isize - 1));
            }
        }
    }
}

/// Row-major strides.
pub(super) fn strides(shape: &[usize]) -> Vec<isize> {
    crate::ir::types::strides(shape).into_iter().map(|s| s as isize).collect()
}

/// Strides with which an array of `shape` is read as one of shape `to`, to which it broadcasts.
pub(super) fn broadcast_strides(shape: &[usize], to: &[usize]) -> Vec<isize> {
    let mut out = vec![0; to.len() - shape.len()];
    out.extend(shape.iter().zip(strides(shape)).map(|(&e, s)| if e == 1 { 0 } else { s }));
    out
}

/// Copies a strided view into a new row-major array.
pub(super) fn copy<T: Copy>(x: &[T], shape: &[usize], strides: &[isize], start: isize) -> Vec<T> {
    let n: usize = shape.iter().product();
    let mut out = Vec::with_capacity(n);
    if n == 0 {
        return out;
    }
    let walk = Walk::new(shape, [strides]);
    let (len, [step]) = (walk.len, walk.step);
    walk.runs([start], &mut |[at]| match step {
        1 => out.extend_from_slice(&x[at..at + len]),
        0 => out.extend(std::iter::repeat_n(x[at], len)),
        _ => out.extend((0..len as isize).map(|i| x[(at as isize + i * step) as usize])),
    });
    out
}

/// An axis as (elements outside, its extent, elements inside).
pub(super) fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}
