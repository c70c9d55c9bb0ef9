//! What kind of bias an additive tensor is, by its elements. One that masks is none: see [`added`](crate::find::masks::additive).

use crate::find::elements::sample::Points;
use crate::find::magnitude::SMALL_BIAS;
use crate::ir::{Graph, ValueId};

/// Relative error within which steps are one slope.
const SLOPE: f64 = 1e-3;
/// Most rows and most keys that are looked at. Of more, that many are, spread evenly.
const LOOK: usize = 64;

/// `alibi`: every head adds one slope times the key's position, up to what is the same for a whole row. `relative`: the
/// elements depend on the distance of key and row alone. `tensor`: anything else, and what depends on inputs.
pub(crate) fn kind(graph: &Graph, bias: ValueId) -> &'static str {
    let shape = &graph.ty(bias).shape;
    let extent = |from_last: usize| shape.len().checked_sub(from_last).map_or(1, |a| shape[a]);
    let (rows, keys) = (extent(2), extent(1));
    // Two keys lie on a line whatever they are.
    if keys < 3 || rows == 0 || shape.contains(&0) {
        return "tensor";
    }
    let heads = shape.iter().product::<usize>() / (rows * keys);
    // Pairs of which the next key, and the pair one further on the diagonal, are looked at too.
    let at = |h: usize, i: usize, j: usize| (h * rows + i) * keys + j;
    let (mut line, mut diagonal) = (vec![], vec![]);
    for h in spread(heads) {
        for i in spread(rows) {
            for j in spread(keys - 1) {
                line.push((h, at(h, i, j), at(h, i, j + 1)));
                if i + 1 < rows {
                    diagonal.push((h, at(h, i, j), at(h, i + 1, j + 1)));
                }
            }
        }
    }
    let mut points = Points::new(graph);
    if is_line(&mut points, bias, &line) {
        "alibi"
    } else if !diagonal.is_empty() && is_relative(&mut points, bias, &diagonal) {
        "relative"
    } else {
        "tensor"
    }
}

/// Numbers below `n`, evenly spread, the first and the last among them.
fn spread(n: usize) -> impl Iterator<Item = usize> + Clone {
    let count = n.min(LOOK);
    (0..count).map(move |i| if count < 2 { 0 } else { i * (n - 1) / (count - 1) })
}

/// A head, and the places of two elements.
type Pair = (usize, usize, usize);

/// The elements at both places of each pair; a masked one is none.
fn both(points: &mut Points<'_>, v: ValueId, pairs: &[Pair]) -> Option<Vec<[Option<f64>; 2]>> {
    let live = |x: f64| (x > -SMALL_BIAS && x.is_finite()).then_some(x);
    let first = points.at(v, &pairs.iter().map(|p| p.1).collect::<Vec<_>>())?;
    let second = points.at(v, &pairs.iter().map(|p| p.2).collect::<Vec<_>>())?;
    Some(first.into_iter().zip(second).map(|(a, b)| [live(a), live(b)]).collect())
}

/// Whether all steps from key to key are one number of each head that is not 0.
fn is_line(points: &mut Points<'_>, v: ValueId, pairs: &[Pair]) -> bool {
    let Some(elements) = both(points, v, pairs) else { return false };
    let mut slope: Option<(usize, f64)> = None;
    let mut same = true;
    for (&(head, ..), ends) in pairs.iter().zip(elements) {
        let [Some(a), Some(b)] = ends else { continue };
        match slope {
            // Far from 0 a step is what the rounding of both ends leaves of it.
            Some((h, s)) if h == head => {
                let rounding = f64::from(f32::EPSILON) * (a.abs() + b.abs());
                same &= (b - a - s).abs() <= SLOPE * s.abs() + rounding;
            }
            _ => {
                slope = Some((head, b - a));
                same &= b != a;
            }
        }
    }
    same && slope.is_some()
}

/// Whether elements along each diagonal are the same.
fn is_relative(points: &mut Points<'_>, v: ValueId, pairs: &[Pair]) -> bool {
    let Some(elements) = both(points, v, pairs) else { return false };
    elements.into_iter().all(|ends| match ends {
        [Some(a), Some(b)] => (a - b).abs() <= 1e-6 * (1.0 + a.abs()),
        _ => true,
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
        assert_eq!(of(|h, i, j| slope(h) * j as f64 - if j > i { 1e9 } else { 0.0 }), "alibi");
        assert_eq!(of(|h, i, j| ((j + 4 - i) * (j + 5 - i)) as f64 * slope(h)), "relative");
        assert_eq!(of(|_, i, j| (i * j) as f64), "tensor");
        assert_eq!(of(|_, _, _| 1.0), "relative");
    }
}
