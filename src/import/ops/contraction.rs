//! Matrix products become contractions over named axes: a transposition is an order of letters, never an operation.

use super::super::node::Cx;
use super::super::outcome::{LoweredNode, Refusal, malformed, one, unsupported};
use crate::ir::{Binary, Contract, Op, ValueId, WayOut};

/// Letters of batch axes, outermost first; rows, sum and columns are m, k and n.
const BATCH: &str = "bhgacdefijlopqrstuvwxyz";

/// MatMul, as NumPy's.
pub(super) fn matmul(cx: &mut Cx<'_>) -> LoweredNode {
    let (a, b) = (cx.arg(0)?, cx.arg(1)?);
    one(product(cx, a, b, [false, false], 1.0)?)
}

/// com.microsoft FusedMatMul: MatMul of operands that may be transposed, times a number.
pub(super) fn fused_matmul(cx: &mut Cx<'_>) -> LoweredNode {
    let alpha = cx.float("alpha")?.unwrap_or(1.0);
    let trans = [cx.flag("transA", false)?, cx.flag("transB", false)?];
    if cx.flag("transBatchA", false)? || cx.flag("transBatchB", false)? {
        return unsupported("it transposes batch axes", WayOut::TransposeBefore);
    }
    let (a, b) = (cx.arg(0)?, cx.arg(1)?);
    one(product(cx, a, b, trans, alpha)?)
}

/// Gemm: alpha·A'·B' + beta·C, of matrices.
pub(super) fn gemm(cx: &mut Cx<'_>) -> LoweredNode {
    one(matrices(cx, true)?)
}

/// com.microsoft FusedGemm: an activation of Gemm.
pub(super) fn fused_gemm(cx: &mut Cx<'_>) -> LoweredNode {
    let name = cx.string("activation", "")?;
    let alpha = cx.float("activation_alpha")?;
    if name.is_empty() {
        return gemm(cx);
    }
    let x = matrices(cx, false)?;
    super::activation::named(cx, &name, x, alpha)
}

/// What Gemm computes: the node's output if `last`.
fn matrices(cx: &mut Cx<'_>, last: bool) -> Result<ValueId, Refusal> {
    let (alpha, beta) = (cx.float("alpha")?.unwrap_or(1.0), cx.float("beta")?.unwrap_or(1.0));
    let trans = [cx.flag("transA", false)?, cx.flag("transB", false)?];
    let (a, b, c) = (cx.arg(0)?, cx.arg(1)?, cx.opt(2)?);
    if cx.ty(a).rank() != 2 || cx.ty(b).rank() != 2 {
        return malformed("operands are no matrices");
    }
    if (alpha != 1.0 || beta != 1.0) && !cx.dtype(a).is_float() {
        return unsupported("its alpha or beta is a factor of integers", WayOut::ConvertToFloat);
    }
    let side =
        |transposed: bool, x: &str, y: &str| if transposed { format!("{y}{x}") } else { format!("{x}{y}") };
    let contract =
        Contract { lhs: side(trans[0], "m", "k"), rhs: side(trans[1], "k", "n"), out: "mn".to_owned() };
    let op = Op::Contract(contract);
    let Some(c) = c.filter(|_| beta != 0.0) else {
        return scaled(cx, op, [a, b], alpha, last);
    };
    let product = scaled(cx, op, [a, b], alpha, false)?;
    let shape = cx.shape(product);
    if !cx.fits(c, &shape) {
        return malformed("C does not broadcast to the product");
    }
    let c = if beta == 1.0 { c } else { cx.with_scalar("beta", Binary::Mul, c, beta)? };
    let add = Op::Binary(Binary::Add);
    if last { cx.out(add, &[product, c]) } else { cx.sub("affine", add, &[product, c]) }
}

/// The contraction, times `alpha`; its last operation makes the node's output if `last`.
fn scaled(
    cx: &mut Cx<'_>,
    op: Op,
    operands: [ValueId; 2],
    alpha: f64,
    last: bool,
) -> Result<ValueId, Refusal> {
    if alpha == 1.0 {
        return if last { cx.out(op, &operands) } else { cx.sub("product", op, &operands) };
    }
    let product = cx.sub("product", op, &operands)?;
    let dtype = cx.dtype(product);
    let c = cx.scalar("alpha", dtype, alpha);
    let op = Op::Binary(Binary::Mul);
    if last { cx.out(op, &[product, c]) } else { cx.sub("scaled", op, &[product, c]) }
}

/// The product of two stacks of matrices (or vectors). Batch axes that both have share a letter. An axis of extent 1 that
/// broadcasts is dropped by a reshape, so that no extent differs within a letter.
fn product(
    cx: &mut Cx<'_>,
    a: ValueId,
    b: ValueId,
    trans: [bool; 2],
    alpha: f64,
) -> Result<ValueId, Refusal> {
    let shapes = [cx.shape(a), cx.shape(b)];
    if shapes.iter().any(Vec::is_empty) {
        return malformed("an operand is a scalar");
    }
    // Batch axes of each operand, aligned at the last one.
    let batch: [&[usize]; 2] = [0, 1].map(|i: usize| &shapes[i][..shapes[i].len().saturating_sub(2)]);
    let rank = batch[0].len().max(batch[1].len());
    if rank > BATCH.len() {
        return unsupported(format!("its operands have {rank} batch axes"), WayOut::FewerAxes);
    }
    let mut kept: [Vec<usize>; 2] = [vec![], vec![]];
    let mut letters = [String::new(), String::new()];
    let mut out = String::new();
    for (axis, letter) in BATCH.chars().take(rank).enumerate() {
        let extent: [Option<usize>; 2] = [0, 1].map(|i: usize| {
            let missing = rank - batch[i].len();
            axis.checked_sub(missing).map(|j| batch[i][j])
        });
        out.push(letter);
        for i in 0..2 {
            let Some(mine) = extent[i] else { continue };
            let broadcasts = mine == 1 && extent[1 - i].is_some_and(|other| other != 1);
            if !broadcasts {
                kept[i].push(mine);
                letters[i].push(letter);
            }
        }
    }
    let mut operands = [a, b];
    for i in 0..2 {
        let matrix = &shapes[i][batch[i].len()..];
        let (row, column) = if i == 0 { ('m', 'k') } else { ('k', 'n') };
        match matrix {
            // A vector has no rows on the left and no columns on the right.
            [_] => letters[i].push('k'),
            _ if trans[i] => letters[i].extend([column, row]),
            _ => letters[i].extend([row, column]),
        }
        if matrix.len() == 2 {
            out.push(if i == 0 { 'm' } else { 'n' });
        }
        kept[i].extend(matrix);
        operands[i] = cx.reshape(if i == 0 { "lhs" } else { "rhs" }, operands[i], &kept[i])?;
    }
    let [lhs, rhs] = letters;
    scaled(cx, Op::Contract(Contract { lhs, rhs, out }), operands, alpha, true)
}
