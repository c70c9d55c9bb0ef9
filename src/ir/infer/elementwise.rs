//! Counting, functions of one and two elements, and choice.

use super::check::{axis_of, count};
use crate::ir::op::{Binary, Unary};
use crate::ir::types::{DType, Type, broadcast};

pub(super) fn iota(ty: &Type, axis: usize, x: &[&Type]) -> Result<Vec<Type>, String> {
    count(x, 0)?;
    axis_of(axis, ty)?;
    if ty.dtype == DType::Bool {
        return Err("cannot count in bool".into());
    }
    Ok(vec![ty.clone()])
}

pub(super) fn unary(u: Unary, x: &[&Type]) -> Result<Vec<Type>, String> {
    use Unary::{Abs, IsInf, IsNan, Neg, Not, Sign};
    count(x, 1)?;
    let t = x[0];
    let ok = match u {
        Not => t.dtype == DType::Bool,
        Neg | Abs | Sign => t.dtype != DType::Bool,
        _ => t.dtype.is_float(),
    };
    if !ok {
        return Err(format!("does not take {t}"));
    }
    let dtype = if matches!(u, IsNan | IsInf) { DType::Bool } else { t.dtype };
    Ok(vec![Type::new(dtype, t.shape.clone())])
}

pub(super) fn binary(b: Binary, x: &[&Type]) -> Result<Vec<Type>, String> {
    count(x, 2)?;
    let (a, c) = (x[0], x[1]);
    if a.dtype != c.dtype {
        return Err(format!("types differ: {a} and {c}"));
    }
    let bool_in = a.dtype == DType::Bool;
    if b.is_logical() != bool_in && !(bool_in && b == Binary::Eq) {
        return Err(format!("does not take {a}"));
    }
    let shape =
        broadcast(&a.shape, &c.shape).ok_or_else(|| format!("shapes do not broadcast: {a} and {c}"))?;
    let dtype = if b.is_comparison() { DType::Bool } else { a.dtype };
    Ok(vec![Type::new(dtype, shape)])
}

pub(super) fn select(x: &[&Type]) -> Result<Vec<Type>, String> {
    count(x, 3)?;
    if x[0].dtype != DType::Bool {
        return Err(format!("the condition is {}, not bool", x[0]));
    }
    if x[1].dtype != x[2].dtype {
        return Err(format!("types differ: {} and {}", x[1], x[2]));
    }
    let shape = broadcast(&x[1].shape, &x[2].shape)
        .and_then(|s| broadcast(&x[0].shape, &s))
        .ok_or_else(|| format!("shapes do not broadcast: {}, {}, {}", x[0], x[1], x[2]))?;
    Ok(vec![Type::new(x[1].dtype, shape)])
}
