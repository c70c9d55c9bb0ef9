//! What kind of bias an additive tensor is, by its elements.

use super::items::HUGE;
use super::trace::CONSTANT_LIMIT;
use crate::eval::Constants;
use crate::ir::{Graph, ValueId};

/// Relative error within which steps are one slope.
const SLOPE: f64 = 1e-3;

/// `alibi`: every head adds one slope times the key's position, up to what is the same for a whole row. `relative`: the
/// elements depend on the distance of key and row alone. `tensor`: anything else, and what depends on inputs.
pub(super) fn kind(graph: &Graph, bias: ValueId) -> &'static str {
    let Some(t) = Constants::default().value(graph, bias, CONSTANT_LIMIT) else { return "tensor" };
    let extent = |from_last: usize| t.shape().len().checked_sub(from_last).map_or(1, |a| t.shape()[a]);
    let (rows, keys) = (extent(2), extent(1));
    // Two keys lie on a line whatever they are.
    if keys < 3 || rows == 0 {
        return "tensor";
    }
    let values = t.to_f64();
    let mut heads = values.chunks_exact(rows * keys);
    if heads.clone().all(|h| is_line(h, keys)) {
        "alibi"
    } else if rows > 1 && heads.all(|h| is_relative(h, rows, keys)) {
        "relative"
    } else {
        "tensor"
    }
}

fn live(x: f64) -> Option<f64> {
    (x > HUGE && x.is_finite()).then_some(x)
}

/// Whether all steps from key to key are one number that is not 0; masked elements do not count.
fn is_line(head: &[f64], keys: usize) -> bool {
    let mut steps = head
        .chunks_exact(keys)
        .flat_map(|row| row.windows(2))
        .filter_map(|w| Some(live(w[1])? - live(w[0])?));
    let Some(slope) = steps.next() else { return false };
    slope != 0.0 && steps.all(|s| (s - slope).abs() <= SLOPE * slope.abs())
}

/// Whether elements along each diagonal are the same; masked elements do not count.
fn is_relative(head: &[f64], rows: usize, keys: usize) -> bool {
    let at = |i: usize, j: usize| live(head[i * keys + j]);
    (1..rows).all(|i| {
        (1..keys).all(|j| match (at(i, j), at(i - 1, j - 1)) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * (1.0 + a.abs()),
            _ => true,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Tensor};

    fn of(f: impl Fn(usize, usize, usize) -> f64) -> &'static str {
        let mut g = Graph::new("bias");
        let values: Vec<f64> = (0..2 * 4 * 5).map(|at| f(at / 20, at / 5 % 4, at % 5)).collect();
        let v = g.constant("b", Tensor::from_f64(DType::F32, [1, 2, 4, 5], &values).unwrap());
        kind(&g, v)
    }

    #[test]
    fn kinds_are_told_apart() {
        let slope = |h: usize| 0.5f64.powi(h as i32 + 1);
        assert_eq!(of(|h, i, j| slope(h) * (j as f64 - i as f64)), "alibi");
        assert_eq!(of(|h, _, j| slope(h) * j as f64), "alibi");
        assert_eq!(of(|h, i, j| if j > i { -3.4e38 } else { slope(h) * j as f64 }), "alibi");
        assert_eq!(of(|h, i, j| ((j + 4 - i) * (j + 5 - i)) as f64 * slope(h)), "relative");
        assert_eq!(of(|_, i, j| (i * j) as f64), "tensor");
        assert_eq!(of(|_, _, _| 1.0), "relative");
    }
}
