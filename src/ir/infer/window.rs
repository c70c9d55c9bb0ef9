//! Convolutions and pooling.

use super::check::count;
use crate::ir::op::{Reduction, Windows};
use crate::ir::types::{DType, MAX_DATA, Type};

pub(super) fn conv(windows: &Windows, groups: usize, x: &[&Type]) -> Result<Vec<Type>, String> {
    count(x, 2)?;
    let (t, w) = (x[0], x[1]);
    if t.dtype != w.dtype || t.dtype == DType::Bool {
        return Err(format!("does not take {t} and {w}"));
    }
    let channels = match (t.shape.get(1), w.shape.get(..2)) {
        (Some(&c), Some(&[out, own])) if t.rank() == w.rank() && groups > 0 => {
            let fits = out.is_multiple_of(groups) && own.checked_mul(groups) == Some(c);
            fits.then_some(out)
        }
        _ => None,
    };
    let Some(channels) = channels else {
        return Err(format!("{t} and kernels {w} do not fit in {groups} groups"));
    };
    let mut shape = vec![t.shape[0], channels];
    shape.extend(window_counts(windows, &w.shape[2..], &t.shape[2..])?);
    Ok(vec![Type::new(t.dtype, shape)])
}

pub(super) fn pool(
    kind: Reduction,
    kernel: &[usize],
    windows: &Windows,
    x: &[&Type],
) -> Result<Vec<Type>, String> {
    count(x, 1)?;
    let t = x[0];
    let takes = match kind {
        Reduction::Max => t.dtype != DType::Bool,
        Reduction::Mean => t.dtype.is_float(),
        _ => return Err(format!("has no {}: want max or mean", kind.name())),
    };
    if !takes || t.rank() < 2 {
        return Err(format!("does not take {t}"));
    }
    let mut shape = t.shape[..2].to_vec();
    shape.extend(window_counts(windows, kernel, &t.shape[2..])?);
    Ok(vec![Type::new(t.dtype, shape)])
}

/// How many windows there are along each axis.
fn window_counts(w: &Windows, kernel: &[usize], extents: &[usize]) -> Result<Vec<usize>, String> {
    let n = extents.len();
    if [&w.strides[..], &w.dilations, &w.low, &w.high, kernel].iter().any(|list| list.len() != n) {
        return Err(format!("windows want one entry for each of {n} axes"));
    }
    (0..n)
        .map(|i| {
            let (stride, dilation, k) = (w.strides[i], w.dilations[i], kernel[i]);
            let all = extents[i].saturating_add(w.low[i]).saturating_add(w.high[i]);
            let reach = k.checked_sub(1).and_then(|n| n.checked_mul(dilation)?.checked_add(1));
            match reach {
                Some(reach) if reach <= all && all <= MAX_DATA && stride > 0 && dilation > 0 => {
                    Ok((all - reach) / stride + 1)
                }
                _ => Err(format!(
                    "windows of {k} taps {dilation} apart, every {stride}, do not fit {} + {} + {} elements",
                    w.low[i], extents[i], w.high[i]
                )),
            }
        })
        .collect()
}
