//! Operations of islands, transfers between ranks among them, and of a rank's printed program.

use super::attention::{partial_rows, sinks};
use super::check::{count, factored, with_axis};
use super::rows::{among, bounded, counted, distinct, show, union, within};
use crate::ir::dag::Dag;
use crate::ir::ids::ValueId;
use crate::ir::op::Collective;
use crate::ir::types::{DType, Type};
use crate::layout::Progression;

pub(super) fn chunk(of: &[Progression], rows: &[Progression], x: &[&Type]) -> Result<Vec<Type>, String> {
    count(x, 1)?;
    let held = x[0].shape.get(2).copied();
    if held != Some(counted(of)?) {
        return Err(format!("{} does not hold rows {}", x[0], show(of)));
    }
    among(of, rows)?;
    Ok(vec![with_axis(x[0], 2, counted(rows)?)])
}

pub(super) fn start(c: &Collective, ty: &Type, x: &[&Type]) -> Result<Vec<Type>, String> {
    let rows = counted(&c.result_rows())?;
    if ty.shape.get(2) != Some(&rows) {
        return Err(format!("{ty} does not hold {rows} rows"));
    }
    // Of heads each rank may have others.
    let mut heads = false;
    if let Collective::AllToAll { to, axis, rows, .. } = c {
        if to.len() != x.len() || to.windows(2).any(|w| w[0] >= w[1]) {
            return Err(format!("sends {} values to {} ranks, which are to ascend", x.len(), to.len()));
        }
        let mut come = rows.iter().filter(|r| !r.is_empty());
        let first = come.next();
        match axis {
            1 if come.any(|r| Some(r) != first) => {
                return Err("puts heads of other rows side by side".into());
            }
            1 | 2 => heads = true,
            _ => return Err(format!("puts what comes together along axis {axis}, not 1 or 2")),
        }
    } else if x.len() > 1 {
        return Err(format!("sends {} values, not one", x.len()));
    }
    if let Collective::SendRecv { to, from, .. } = c {
        if to.is_some() != (x.len() == 1) {
            return Err("sends a value to nobody, or no value to somebody".into());
        }
        if from.is_none() && rows > 0 {
            return Err(format!("receives {rows} rows from nobody"));
        }
    }
    let form = |t: &Type| {
        let t = with_axis(t, 2, 0);
        if heads { with_axis(&t, 1, 0) } else { t }
    };
    if let Some(s) = x.iter().find(|s| form(s) != form(ty)) {
        return Err(format!("sends {s} and receives {ty}"));
    }
    Ok(vec![ty.clone()])
}

pub(super) fn merge(a: &[Progression], b: &[Progression], x: &[&Type]) -> Result<Vec<Type>, String> {
    count(x, 6)?;
    partial_rows(&x[..3], a)?;
    partial_rows(&x[3..], b)?;
    if (0..3).any(|i| with_axis(x[i], 2, 0) != with_axis(x[i + 3], 2, 0)) {
        return Err(format!("{} and {} differ beside their rows", x[0], x[3]));
    }
    bounded(a, b)?;
    let joined = union(a, b);
    distinct(b).and_then(|()| distinct(&joined))?;
    let rows = counted(&joined)?;
    Ok(x[..3].iter().map(|t| with_axis(t, 2, rows)).collect())
}

pub(super) fn finish(
    of: &[Progression],
    rows: &[Progression],
    dtype: DType,
    lse: bool,
    x: &[&Type],
) -> Result<Vec<Type>, String> {
    if x.len() != 4 {
        count(x, 3)?;
    }
    partial_rows(x, of)?;
    if let Some(t) = x.get(3) {
        sinks(t, 3, &[&x[1].shape[..], &[1]].concat())?;
    }
    if counted(rows)? != counted(of)? {
        return Err(format!("rows {} are not those of {}", show(rows), show(of)));
    }
    among(of, rows)?;
    distinct(rows)?;
    if !dtype.is_float() {
        return Err(format!("does not give {dtype}"));
    }
    let mut out = vec![Type::new(dtype, x[0].shape.clone())];
    if lse {
        out.push(x[1].clone());
    }
    Ok(out)
}

pub(super) fn region<O>(g: &Dag<O>, x: &[&Type]) -> Result<Vec<Type>, String> {
    // What its own faults are, the verifier says; here they must do no harm.
    let missing = |v: &ValueId| !g.contains(*v);
    if g.inputs().iter().any(missing) || g.outputs().iter().any(|o| missing(&o.value)) {
        return Err("its graph has an input or output that does not exist".into());
    }
    let want: Vec<&Type> = g.inputs().into_iter().map(|v| g.ty(v)).collect();
    if want != x {
        let list = |t: &[&Type]| t.iter().map(|t| t.to_string()).collect::<Vec<_>>().join(", ");
        return Err(format!("its graph takes ({}), not ({})", list(&want), list(x)));
    }
    Ok(g.outputs().iter().map(|o| g.ty(o.value).clone()).collect())
}

pub(super) fn unshard(
    axis: usize,
    (outer, inner): (usize, usize),
    rows: &[Vec<Progression>],
    x: &[&Type],
) -> Result<Vec<Type>, String> {
    count(x, 1)?;
    let own = factored(x[0], axis, outer, inner)?;
    let all = rows.concat();
    let length = counted(&all)?;
    within(&all, length)?;
    distinct(&all)?;
    if !rows.iter().any(|r| counted(r) == Ok(own)) {
        return Err(format!("no rank has the {own} rows of {}", x[0]));
    }
    let extent = outer.saturating_mul(length).saturating_mul(inner);
    Ok(vec![with_axis(x[0], axis, extent)])
}
