//! Compares two tensors element by element within tolerances.

use crate::ir::{Data, Tensor};

/// How far one tensor is from another.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Largest |got − want|; infinite if an infinity or a NaN does not match. 0 for tensors without elements.
    pub max_abs_error: f64,
    /// Largest |got − want| / |want| over elements with a finite want that is not 0.
    pub max_rel_error: f64,
    /// Whether every element is within the tolerances.
    pub within: bool,
    /// How many elements are not.
    pub outside: usize,
    /// The element that is furthest beyond its tolerance, or nearest to it; `None` for tensors without elements.
    pub worst: Option<Worst>,
}

/// One element of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Worst {
    /// Its place, one number an axis.
    pub index: Vec<usize>,
    /// What was got there.
    pub got: f64,
    /// What was wanted there.
    pub want: f64,
}

/// Compares: an element passes if |got − want| ≤ atol + rtol·|want|, infinities must agree in place and sign, and a NaN
/// matches a NaN only if `nan_ok`. Element types may differ.
///
/// # Errors
/// If the shapes differ.
pub fn compare(
    got: &Tensor,
    want: &Tensor,
    atol: f64,
    rtol: f64,
    nan_ok: bool,
) -> Result<Comparison, String> {
    if got.shape() != want.shape() {
        return Err(format!("got {}, want {}", got.ty(), want.ty()));
    }
    let (a, b) = (got.to_f64(), want.to_f64());
    let mut result =
        Comparison { max_abs_error: 0.0, max_rel_error: 0.0, within: true, outside: 0, worst: None };
    let mut furthest: Option<(f64, usize)> = None;
    for (i, (&x, &y)) in a.iter().zip(&b).enumerate() {
        let (error, allowed) = if x == y && !big_integers(got, want) || nan_ok && x.is_nan() && y.is_nan() {
            (0.0, 0.0)
        } else if let (Data::I64(a), Data::I64(b)) = (got.data(), want.data()) {
            (a[i].abs_diff(b[i]) as f64, atol + rtol * y.abs())
        } else if x.is_finite() && y.is_finite() {
            ((x - y).abs(), atol + rtol * y.abs())
        } else {
            (f64::INFINITY, 0.0)
        };
        // Written so that a tolerance of NaN passes nothing.
        let passes = error <= allowed;
        result.outside += usize::from(!passes);
        result.max_abs_error = result.max_abs_error.max(error);
        if y.is_finite() && y != 0.0 {
            result.max_rel_error = result.max_rel_error.max(error / y.abs());
        }
        let beyond = if error.is_infinite() { error } else { error - allowed };
        if furthest.is_none_or(|(f, _)| beyond > f) {
            furthest = Some((beyond, i));
        }
    }
    result.within = result.outside == 0;
    result.worst = furthest.map(|(_, i)| Worst { index: unravel(i, got.shape()), got: a[i], want: b[i] });
    Ok(result)
}

/// Whether both are i64, which an f64 does not hold exactly.
fn big_integers(a: &Tensor, b: &Tensor) -> bool {
    matches!((a.data(), b.data()), (Data::I64(_), Data::I64(_)))
}

fn unravel(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, &extent) in index.iter_mut().zip(shape).rev() {
        *i = flat % extent;
        flat /= extent;
    }
    index
}
