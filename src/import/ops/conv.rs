//! Convolutions whose windows do not overlap, as patch embeddings are: a reshape and a contraction.

use super::super::node::{Cx, Outcome, malformed, one, unsupported};
use crate::ir::{Binary, Contract, Op};

/// Axes beside batch and channels that have letters: (patch, within the patch).
const PATCHES: [(char, char); 3] = [('h', 'i'), ('w', 'j'), ('d', 'k')];

/// Conv with a stride of the kernel's size, without padding, dilation or groups; others are refused.
pub(super) fn conv(cx: &mut Cx<'_>) -> Outcome {
    let (x, w, bias) = (cx.arg(0)?, cx.arg(1)?, cx.opt(2)?);
    let (xs, ws) = (cx.shape(x), cx.shape(w));
    let spatial = xs.len().saturating_sub(2);
    if ws.len() != xs.len() || spatial == 0 || spatial > PATCHES.len() {
        return unsupported(format!("{spatial} spatial axes"));
    }
    let kernel = &ws[2..];
    let named = |list: Option<Vec<i64>>, default: i64, n: usize| list.unwrap_or_else(|| vec![default; n]);
    let strides = named(cx.int_list("strides")?, 1, spatial);
    let pads = named(cx.int_list("pads")?, 0, 2 * spatial);
    let dilations = named(cx.int_list("dilations")?, 1, spatial);
    let group = cx.int("group")?.unwrap_or(1);
    let auto = cx.string("auto_pad", "NOTSET")?;
    let says = cx.int_list("kernel_shape")?;
    let as_i64 = |v: &[usize]| v.iter().map(|&k| k as i64).collect::<Vec<_>>();
    if says.is_some_and(|s| s != as_i64(kernel)) || kernel.contains(&0) {
        return malformed(format!("its kernel has the shape {kernel:?}"));
    }
    if group != 1 || xs[1] != ws[1] {
        return unsupported(format!("{group} groups"));
    }
    let plain = pads.iter().all(|&p| p == 0) && (auto == "NOTSET" || auto == "VALID");
    let apart = strides == as_i64(kernel) && dilations.iter().all(|&d| d == 1);
    if !plain || !apart {
        return unsupported(format!(
            "windows that overlap, leave gaps or are padded: {kernel:?} every {strides:?}"
        ));
    }
    let mut patches = x;
    let mut split = vec![xs[0], xs[1]];
    let (mut lhs, mut rhs, mut out) = ("bc".to_owned(), "oc".to_owned(), "bo".to_owned());
    for (i, (&k, (patch, inside))) in kernel.iter().zip(PATCHES).enumerate() {
        let count = xs[2 + i] / k;
        // What is left over at the end is in no window.
        patches = cx.slice("whole", patches, 2 + i, 0, count * k)?;
        split.extend([count, k]);
        lhs.extend([patch, inside]);
        rhs.push(inside);
        out.push(patch);
    }
    let patches = cx.reshape("patches", patches, &split)?;
    let op = Op::Contract(Contract { lhs, rhs, out });
    let Some(bias) = bias else { return one(cx.out(op, &[patches, w])?) };
    if cx.shape(bias) != [ws[0]] {
        return malformed("its bias is no vector with one entry a channel");
    }
    let product = cx.sub("product", op, &[patches, w])?;
    let mut column = vec![1; 1 + spatial];
    column[0] = ws[0];
    let bias = cx.reshape("bias", bias, &column)?;
    one(cx.out(Op::Binary(Binary::Add), &[product, bias])?)
}
