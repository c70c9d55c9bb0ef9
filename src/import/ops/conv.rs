//! Convolutions, pooling and the normalisation that belongs to them.
//!
//! A convolution whose windows lie side by side, as patch embeddings do, becomes a reshape and a contraction, which keep
//! rows apart; any other becomes [`Op::Conv`].

use super::super::node::Cx;
use super::super::outcome::{LoweredNode, Refusal, malformed, one, unsupported};
use super::reduce::instance;
use crate::ir::{Binary, Contract, Op, Reduction, ValueId, WayOut, Windows};

/// Axes beside batch and channels that have letters: (patch, within the patch).
const PATCHES: [(char, char); 3] = [('h', 'i'), ('w', 'j'), ('d', 'k')];

/// Conv.
pub(super) fn conv(cx: &mut Cx<'_>) -> LoweredNode {
    let (x, w, bias) = (cx.arg(0)?, cx.arg(1)?, cx.opt(2)?);
    let (xs, ws) = (cx.shape(x), cx.shape(w));
    if ws.len() != xs.len() || xs.len() < 3 {
        return malformed("its operands have no spatial axes, or not the same number");
    }
    let kernel = &ws[2..];
    let says = cx.int_list("kernel_shape")?;
    let as_i64 = |v: &[usize]| v.iter().map(|&k| k as i64).collect::<Vec<_>>();
    if says.is_some_and(|s| s != as_i64(kernel)) || kernel.contains(&0) {
        return malformed(format!("its kernel has the shape {kernel:?}"));
    }
    let windows = windows(cx, kernel, &xs[2..], false)?;
    let groups = match cx.int("group")?.map_or(Ok(1), usize::try_from) {
        Ok(g) if g > 0 => g,
        _ => return malformed("its number of groups is not positive"),
    };
    if bias.is_some_and(|b| cx.shape(b) != [ws[0]]) {
        return malformed("its bias is no vector with one entry a channel");
    }
    let spatial = kernel.len();
    let side_by_side = windows.strides == kernel
        && windows.low.iter().chain(&windows.high).all(|&p| p == 0)
        && windows.dilations.iter().all(|&d| d == 1);
    let (op, operands) = if groups == 1 && side_by_side && xs[1] == ws[1] && spatial <= PATCHES.len() {
        patches(cx, x, w)?
    } else {
        (Op::Conv { windows, groups }, [x, w])
    };
    let Some(bias) = bias else { return one(cx.out(op, &operands)?) };
    let product = cx.sub("product", op, &operands)?;
    let mut column = vec![1; 1 + spatial];
    column[0] = ws[0];
    let bias = cx.reshape("bias", bias, &column)?;
    one(cx.out(Op::Binary(Binary::Add), &[product, bias])?)
}

/// The contraction of kernels with windows that share no element.
fn patches(cx: &mut Cx<'_>, x: ValueId, w: ValueId) -> Result<(Op, [ValueId; 2]), Refusal> {
    let (xs, ws) = (cx.shape(x), cx.shape(w));
    let mut patches = x;
    let mut split = vec![xs[0], xs[1]];
    let (mut lhs, mut rhs, mut out) = ("bc".to_owned(), "oc".to_owned(), "bo".to_owned());
    for (i, (&k, (patch, inside))) in ws[2..].iter().zip(PATCHES).enumerate() {
        let count = xs[2 + i] / k;
        // What is left over at the end is in no window.
        patches = cx.slice("whole", patches, 2 + i, 0, count * k)?;
        split.extend([count, k]);
        lhs.extend([patch, inside]);
        rhs.push(inside);
        out.push(patch);
    }
    let patches = cx.reshape("patches", patches, &split)?;
    Ok((Op::Contract(Contract { lhs, rhs, out }), [patches, w]))
}

/// MaxPool and AveragePool, one result.
pub(super) fn pool(cx: &mut Cx<'_>, kind: Reduction) -> LoweredNode {
    let mut x = cx.arg(0)?;
    let shape = cx.shape(x);
    let Some(kernel) = cx.int_list("kernel_shape")? else {
        return malformed("attribute kernel_shape is missing");
    };
    let kernel: Vec<usize> = kernel.iter().map(|&k| usize::try_from(k).unwrap_or(0)).collect();
    if shape.len() < 3 || kernel.len() != shape.len() - 2 || kernel.contains(&0) {
        return malformed(format!("a window {kernel:?} over {}", cx.ty(x)));
    }
    // How indices would be counted; there are none.
    cx.int("storage_order")?;
    let count_padding = cx.flag("count_include_pad", false)?;
    let past_the_end = cx.flag("ceil_mode", false)?;
    let declared = windows(cx, &kernel, &shape[2..], false)?;
    let mut windows = if past_the_end { windows(cx, &kernel, &shape[2..], true)? } else { declared.clone() };
    if count_padding && kind == Reduction::Mean {
        // The padding that is declared counts; what a last window reaches beyond it never does.
        let zero = cx.scalar("zero", cx.dtype(x), 0.0);
        let (low, high) = ([&[0, 0], &declared.low[..]].concat(), [&[0, 0], &declared.high[..]].concat());
        if low.iter().chain(&high).any(|&p| p > 0) {
            x = cx.sub("padded", Op::Pad { low, high }, &[x, zero])?;
        }
        windows.low.fill(0);
        windows.high.iter_mut().zip(&declared.high).for_each(|(high, &own)| *high -= own);
    }
    one(cx.out(Op::Pool { kind, kernel, windows }, &[x])?)
}

/// GlobalAveragePool and GlobalMaxPool.
pub(super) fn global(cx: &mut Cx<'_>, kind: Reduction) -> LoweredNode {
    let x = cx.arg(0)?;
    let rank = cx.ty(x).rank();
    if rank < 3 || !cx.dtype(x).is_float() {
        return malformed(format!("no spatial axes in {}", cx.ty(x)));
    }
    one(cx.out(Op::Reduce { kind, axes: (2..rank).collect(), keep: true }, &[x])?)
}

/// InstanceNormalization: each plane of a channel for itself, then scale and bias of the channel.
pub(super) fn instance_norm(cx: &mut Cx<'_>) -> LoweredNode {
    let (x, scale, bias) = (cx.arg(0)?, cx.arg(1)?, cx.arg(2)?);
    let shape = cx.shape(x);
    if shape.len() < 3 || cx.shape(scale) != shape[1..2] || cx.shape(bias) != shape[1..2] {
        return malformed("scale and bias are not one number a channel");
    }
    let mut column = vec![1; shape.len() - 1];
    column[0] = shape[1];
    let scale = cx.reshape("scale", scale, &column)?;
    let bias = cx.reshape("bias", bias, &column)?;
    instance(cx, x, scale, bias, (2..shape.len()).collect())
}

/// Where the windows lie, from strides, dilations, and pads or auto_pad. With `past_the_end`, a last window may reach beyond
/// the padding if it begins before the end.
fn windows(
    cx: &mut Cx<'_>,
    kernel: &[usize],
    extents: &[usize],
    past_the_end: bool,
) -> Result<Windows, Refusal> {
    let n = kernel.len();
    let mut list = |name: &str, usual: usize, least: usize, len: usize| -> Result<Vec<usize>, Refusal> {
        let given = cx.int_list(name)?;
        let list: Vec<usize> = match &given {
            None => vec![usual; len],
            Some(list) => list.iter().map_while(|&i| usize::try_from(i).ok()).collect(),
        };
        if list.len() != len || list.iter().any(|&i| i < least || i >= crate::ir::MAX_DATA) {
            return malformed(format!("attribute {name} is {given:?} for {n} spatial axes"));
        }
        Ok(list)
    };
    let (strides, dilations) = (list("strides", 1, 1, n)?, list("dilations", 1, 1, n)?);
    let pads = list("pads", 0, 0, 2 * n)?;
    let auto = cx.string("auto_pad", "NOTSET")?;
    let (mut low, mut high) = (pads[..n].to_vec(), pads[n..].to_vec());
    for i in 0..n {
        let reach = (kernel[i] - 1).saturating_mul(dilations[i]).saturating_add(1);
        match auto.as_str() {
            "NOTSET" => {}
            "VALID" => (low[i], high[i]) = (0, 0),
            // As many windows as strides begin within the axis.
            "SAME_UPPER" | "SAME_LOWER" => {
                let count = extents[i].div_ceil(strides[i]);
                let covered = count.saturating_sub(1).saturating_mul(strides[i]).saturating_add(reach);
                let missing = covered.saturating_sub(extents[i]);
                let (less, more) = (missing / 2, missing - missing / 2);
                (low[i], high[i]) = if auto == "SAME_UPPER" { (less, more) } else { (more, less) };
            }
            other => return unsupported(format!("its auto_pad is {other:?}"), WayOut::StatePads),
        }
        if past_the_end && auto == "NOTSET" {
            let all = extents[i].saturating_add(low[i]).saturating_add(high[i]);
            let Some(room) = all.checked_sub(reach) else { continue };
            let mut last = room.div_ceil(strides[i]);
            if last.saturating_mul(strides[i]) >= extents[i].saturating_add(low[i]) {
                last = last.saturating_sub(1);
            }
            let end = last.saturating_mul(strides[i]).saturating_add(reach);
            high[i] = high[i].saturating_add(end.saturating_sub(all));
        }
    }
    Ok(Windows { strides, dilations, low, high })
}
