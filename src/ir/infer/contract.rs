//! Contractions over named axes.

use super::check::count;
use crate::ir::op::Contract;
use crate::ir::types::{DType, Type};

pub(super) fn contract(c: &Contract, x: &[&Type]) -> Result<Vec<Type>, String> {
    count(x, 2)?;
    product(c, x[0], x[1]).map(|t| vec![t])
}

fn product(c: &Contract, a: &Type, b: &Type) -> Result<Type, String> {
    if a.dtype != b.dtype || a.dtype == DType::Bool {
        return Err(format!("does not take {a} and {b}"));
    }
    let mut extent: Vec<(char, usize)> = Vec::new();
    if ![&c.lhs, &c.rhs, &c.out].iter().all(|axes| axes.bytes().all(|l| l.is_ascii_alphabetic())) {
        return Err("axes are letters".into());
    }
    for (axes, t) in [(&c.lhs, a), (&c.rhs, b)] {
        if axes.chars().count() != t.rank() {
            return Err(format!("axes {axes} do not fit {t}"));
        }
        for (i, l) in axes.chars().enumerate() {
            if axes.chars().filter(|&m| m == l).count() > 1 {
                return Err(format!("axis {l} stands twice in {axes}"));
            }
            match extent.iter().find(|(m, _)| *m == l) {
                Some(&(_, e)) if e != t.shape[i] => {
                    return Err(format!("axis {l} is {e} and {}: {a} and {b}", t.shape[i]));
                }
                Some(_) => {}
                None => extent.push((l, t.shape[i])),
            }
        }
    }
    let mut shape = Vec::new();
    for l in c.out.chars() {
        match extent.iter().find(|(m, _)| *m == l) {
            Some(&(_, e)) if c.out.chars().filter(|&m| m == l).count() == 1 => shape.push(e),
            _ => return Err(format!("axis {l} of {} is in no operand, or stands twice", c.out)),
        }
    }
    for (l, _) in &extent {
        let both = c.lhs.contains(*l) && c.rhs.contains(*l);
        if !both && !c.out.contains(*l) {
            return Err(format!("axis {l} is in one operand and not in the result; reduce it first"));
        }
    }
    Ok(Type::new(a.dtype, shape))
}
