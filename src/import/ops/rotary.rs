//! RotaryEmbedding, in the layout of its operand: each pair of a row turns by the angle of its position.

use super::super::node::Cx;
use super::super::outcome::{LoweredNode, Refusal, malformed, one, unsupported};
use crate::ir::{Binary, DType, Op, Type, ValueId, WayOut};

/// Where the rows of an operand stand, (batch, head, row, size) or (batch, row, head, size).
struct Layout {
    shape: Vec<usize>,
    row: usize,
    head: usize,
}

/// RotaryEmbedding of version 23. The tables hold one column for each pair: (batch, row, pairs), or (position, pairs) with
/// the positions as a fourth operand.
pub(super) fn rotary(cx: &mut Cx<'_>) -> LoweredNode {
    let interleaved = cx.flag("interleaved", false)?;
    let heads = cx.int("num_heads")?.unwrap_or(0);
    let turned = cx.int("rotary_embedding_dim")?.unwrap_or(0);
    let x = cx.arg(0)?;
    let whole = cx.shape(x);
    let layout = match *whole.as_slice() {
        [_, _, _, _] => Layout { shape: whole.clone(), head: 1, row: 2 },
        [b, s, hidden] => match usize::try_from(heads) {
            Ok(h) if h > 0 && hidden % h == 0 => Layout { shape: vec![b, s, h, hidden / h], row: 1, head: 2 },
            _ => return malformed(format!("{heads} heads of a hidden size of {hidden}")),
        },
        _ => return malformed("its operand has neither 3 nor 4 axes"),
    };
    let size = layout.shape[3];
    let turned = match usize::try_from(turned) {
        Ok(0) => size,
        Ok(n) if n <= size => n,
        _ => return malformed(format!("{turned} of {size} elements are turned")),
    };
    if !turned.is_multiple_of(2) {
        return malformed(format!("{turned} elements are no pairs"));
    }
    let (cos, sin, positions) = (cx.arg(1)?, cx.arg(2)?, cx.opt(3)?);
    let tables = [(cos, "cos"), (sin, "sin")];
    turn(cx, x, &layout, turned, interleaved, tables, positions)
}

/// com.microsoft RotaryEmbedding. The tables are (position, pairs); positions come before them, and may be one number, at
/// which the rows begin.
pub(super) fn contrib(cx: &mut Cx<'_>) -> LoweredNode {
    let interleaved = cx.flag("interleaved", false)?;
    let heads = cx.int("num_heads")?.unwrap_or(0);
    let part = cx.int("rotary_embedding_dim")?.unwrap_or(0);
    if cx.flag("is_packed_batching", false)? || cx.float("scale")?.is_some_and(|s| s != 1.0) {
        return unsupported("it packs batches, or scales its angles", WayOut::RotaryOperator);
    }
    let (x, positions, cos, sin) = (cx.arg(0)?, cx.arg(1)?, cx.arg(2)?, cx.arg(3)?);
    let (whole, pairs) = (cx.shape(x), cx.shape(cos).last().copied().unwrap_or(0));
    let Some(turned) = pairs.checked_mul(2).filter(|&n| n > 0) else {
        return malformed("its tables are empty");
    };
    if part != 0 && usize::try_from(part) != Ok(turned) {
        return malformed(format!("{part} elements are turned, and its tables have {pairs} pairs"));
    }
    let layout = match (whole.as_slice(), usize::try_from(heads)) {
        (&[_, _, _, _], _) => Layout { shape: whole.clone(), head: 1, row: 2 },
        (&[b, s, hidden], Ok(h)) if part != 0 && h > 0 && hidden % h == 0 => {
            Layout { shape: vec![b, s, h, hidden / h], row: 1, head: 2 }
        }
        // A head is what the tables turn.
        (&[b, s, hidden], _) if part == 0 && hidden % turned == 0 => {
            Layout { shape: vec![b, s, hidden / turned, turned], row: 1, head: 2 }
        }
        _ => return malformed(format!("{heads} heads of {}, {turned} elements turned", cx.ty(x))),
    };
    if turned > layout.shape[3] || cx.dtype(positions) != DType::I64 {
        return malformed(format!("{turned} of {} elements are turned", layout.shape[3]));
    }
    let rows = layout.shape[layout.row];
    let positions = if cx.shape(positions) == [1] {
        let count = cx.sub("row", Op::Iota { ty: Type::new(DType::I64, [1, rows]), axis: 1 }, &[])?;
        cx.binary("position", Binary::Add, count, positions)?
    } else {
        positions
    };
    turn(cx, x, &layout, turned, interleaved, [(cos, "cos"), (sin, "sin")], Some(positions))
}

/// The rows of x, the first `turned` elements of each head turned.
fn turn(
    cx: &mut Cx<'_>,
    x: ValueId,
    layout: &Layout,
    turned: usize,
    interleaved: bool,
    tables: [(ValueId, &str); 2],
    positions: Option<ValueId>,
) -> LoweredNode {
    let (whole, size) = (cx.shape(x), layout.shape[3]);
    let cos = table(cx, tables[0], positions, layout, turned / 2)?;
    let sin = table(cx, tables[1], positions, layout, turned / 2)?;
    let heads_apart = cx.reshape("heads", x, &layout.shape)?;
    let part = cx.slice("turned", heads_apart, 3, 0, turned)?;
    let [first, second] = halves(cx, part, turned, interleaved)?;
    let product = |cx: &mut Cx<'_>, what: &str, a, b| cx.binary(what, Binary::Mul, a, b);
    let (fc, ss) = (product(cx, "first.cos", first, cos)?, product(cx, "second.sin", second, sin)?);
    let (fs, sc) = (product(cx, "first.sin", first, sin)?, product(cx, "second.cos", second, cos)?);
    let real = cx.binary("real", Binary::Sub, fc, ss)?;
    let imaginary = cx.binary("imaginary", Binary::Add, fs, sc)?;

    let mut parts = if interleaved {
        let mut pair = layout.shape.clone();
        pair[3] = turned / 2;
        pair.push(1);
        let real = cx.reshape("real.pair", real, &pair)?;
        let imaginary = cx.reshape("imaginary.pair", imaginary, &pair)?;
        let pairs = cx.sub("pairs", Op::Concat { axis: 4 }, &[real, imaginary])?;
        let mut flat = layout.shape.clone();
        flat[3] = turned;
        vec![cx.reshape("interleaved", pairs, &flat)?]
    } else {
        vec![real, imaginary]
    };
    if turned < size {
        parts.push(cx.slice("kept", heads_apart, 3, turned, size - turned)?);
    }
    if whole.len() == 4 && parts.len() > 1 {
        return one(cx.out(Op::Concat { axis: 3 }, &parts)?);
    }
    let joined = match parts.as_slice() {
        [part] => *part,
        _ => cx.sub("joined", Op::Concat { axis: 3 }, &parts)?,
    };
    // The last reshape of an interleaved form made this shape already.
    if cx.shape(joined) == whole { one(joined) } else { one(cx.out(Op::Reshape(whole), &[joined])?) }
}

/// The first and the second element of every pair.
fn halves(cx: &mut Cx<'_>, x: ValueId, turned: usize, interleaved: bool) -> Result<[ValueId; 2], Refusal> {
    let half = turned / 2;
    let (second, step) = if interleaved { (1, 2) } else { (half, 1) };
    let cut = |start| Op::Slice { axis: 3, start, len: half, step };
    Ok([cx.sub("first", cut(0), &[x])?, cx.sub("second", cut(second), &[x])?])
}

/// A table with an axis for the heads, so that it broadcasts to the operand.
fn table(
    cx: &mut Cx<'_>,
    (mut table, what): (ValueId, &str),
    positions: Option<ValueId>,
    layout: &Layout,
    pairs: usize,
) -> Result<ValueId, Refusal> {
    if let Some(positions) = positions {
        if cx.ty(table).rank() != 2 || cx.ty(positions).rank() != 2 {
            return malformed("with positions, tables are (position, pairs) and positions (batch, row)");
        }
        table = cx.sub(what, Op::Gather { axis: 0 }, &[table, positions])?;
    }
    let shape = cx.shape(table);
    let fits = |have: usize, want: usize| have == want || have == 1;
    let &[b, s, n] = shape.as_slice() else { return malformed(format!("its {what} table has no 3 axes")) };
    if !fits(b, layout.shape[0]) || !fits(s, layout.shape[layout.row]) || n != pairs {
        return malformed(format!("its {what} table {shape:?} does not fit {:?}", layout.shape));
    }
    let mut spread = vec![b, 1, 1, n];
    spread[layout.row] = s;
    debug_assert_ne!(layout.row, layout.head);
    cx.reshape(&format!("{what}.heads"), table, &spread)
}
