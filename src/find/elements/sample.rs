//! Single elements of a value that depends on constants alone, however large it is: each operation is applied to the elements
//! that are asked for.

use crate::eval::{Constants, Precision, apply};
use crate::find::axes::trace::CONSTANT_LIMIT;
use crate::ir::types::strides;
use crate::ir::{DType, Graph, Op, Tensor, ValueId};
use std::collections::HashMap;

/// Most operations that are applied for one answer.
const LIMIT: usize = 1024;
/// Values up to here are evaluated whole.
const SMALL: usize = 1 << 16;

/// Elements of values at flat places.
pub(crate) struct Points<'a> {
    graph: &'a Graph,
    constants: Constants,
    known: HashMap<(ValueId, Vec<usize>), Option<Vec<f64>>>,
}

impl<'a> Points<'a> {
    pub(crate) fn new(graph: &'a Graph) -> Points<'a> {
        Points { graph, constants: Constants::default(), known: HashMap::new() }
    }

    /// The elements at these places, row-major; `None` if they depend on inputs or on an operation that is not followed.
    pub(crate) fn at(&mut self, v: ValueId, places: &[usize]) -> Option<Vec<f64>> {
        self.depth(v, places, 0)
    }

    fn depth(&mut self, v: ValueId, places: &[usize], depth: usize) -> Option<Vec<f64>> {
        if let Some(t) = self.constants.value(self.graph, v, SMALL) {
            let all = t.to_f64();
            return places.iter().map(|&p| all.get(p).copied()).collect();
        }
        let key = (v, places.to_vec());
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        if self.known.len() > LIMIT || depth > 128 {
            return None;
        }
        let found = self.step(v, places, depth + 1).or_else(|| {
            let all = self.constants.value(self.graph, v, CONSTANT_LIMIT)?.to_f64();
            places.iter().map(|&p| all.get(p).copied()).collect()
        });
        self.known.insert(key, found.clone());
        found
    }

    fn step(&mut self, v: ValueId, places: &[usize], depth: usize) -> Option<Vec<f64>> {
        let graph = self.graph;
        let op = graph.op(v.op);
        let x = graph.operands(v.op);
        let shape = &graph.ty(v).shape;
        let own = strides(shape);
        let index = |p: usize, axis: usize| p / own[axis] % shape[axis];
        let broadcast = |o: ValueId| -> Vec<usize> {
            let from = &graph.ty(o).shape;
            let (lead, steps) = (shape.len() - from.len(), strides(from));
            let place = |p: usize| {
                (0..from.len()).filter(|&a| from[a] != 1).map(|a| index(p, lead + a) * steps[a]).sum()
            };
            places.iter().map(|&p| place(p)).collect()
        };
        let tensor = |dtype: DType, values: &[f64]| Tensor::from_f64(dtype, [values.len()], values);
        match op {
            Op::Iota { ty, axis } => {
                let counts: Vec<f64> = places.iter().map(|&p| index(p, *axis) as f64).collect();
                Some(tensor(ty.dtype, &counts)?.to_f64())
            }
            Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast(_) => {
                let mut operands = vec![];
                for &o in &x {
                    let values = self.depth(o, &broadcast(o), depth)?;
                    operands.push(tensor(graph.ty(o).dtype, &values)?);
                }
                Some(apply(op, &operands, Precision::Declared).ok()?.first()?.to_f64())
            }
            Op::Reshape(_) => self.depth(x[0], places, depth),
            Op::Broadcast(_) => self.depth(x[0], &broadcast(x[0]), depth),
            Op::Permute(perm) => {
                let steps = strides(&graph.ty(x[0]).shape);
                let place = |p: usize| perm.iter().enumerate().map(|(i, &a)| index(p, i) * steps[a]).sum();
                let places: Vec<usize> = places.iter().map(|&p| place(p)).collect();
                self.depth(x[0], &places, depth)
            }
            Op::Slice { axis, start, step, .. } => {
                let steps = strides(&graph.ty(x[0]).shape);
                let along = |i: usize| (*start as i64 + i as i64 * step) as usize;
                let place = |p: usize| -> usize {
                    let at = |a: usize| if a == *axis { along(index(p, a)) } else { index(p, a) };
                    (0..shape.len()).map(|a| at(a) * steps[a]).sum()
                };
                let places: Vec<usize> = places.iter().map(|&p| place(p)).collect();
                self.depth(x[0], &places, depth)
            }
            Op::Gather { axis } => {
                let (data, indices) = (graph.ty(x[0]), graph.ty(x[1]));
                let (steps, inner) = (strides(&data.shape), strides(&indices.shape));
                let n = indices.shape.len();
                let which = |p: usize| -> usize { (0..n).map(|a| index(p, axis + a) * inner[a]).sum() };
                let which: Vec<usize> = places.iter().map(|&p| which(p)).collect();
                let picked = self.depth(x[1], &which, depth)?;
                let extent = data.shape[*axis] as f64;
                let place = |(&p, i): (&usize, f64)| {
                    let i = if i < 0.0 { i + extent } else { i };
                    let at = |a: usize| match a {
                        a if a < *axis => index(p, a),
                        a if a == *axis => i as usize,
                        a => index(p, a + n - 1),
                    };
                    (0.0..extent).contains(&i).then(|| (0..data.shape.len()).map(|a| at(a) * steps[a]).sum())
                };
                let places: Vec<usize> = places.iter().zip(picked).map(place).collect::<Option<_>>()?;
                self.depth(x[0], &places, depth)
            }
            _ => None,
        }
    }
}
