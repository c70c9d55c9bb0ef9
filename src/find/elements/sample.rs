//! Single elements of a value that depends on constants alone, however large it is: each operation is applied to the elements
//! that are asked for.

use crate::eval::{Constants, Precision, apply};
use crate::find::axes::trace::CONSTANT_LIMIT;
use crate::ir::axes::maps_of;
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
        let maps = maps_of(graph, v.op);
        // Where the elements are in an operand, if they are moved from there.
        let shape = &graph.ty(v).shape;
        let from = |i: usize| -> Option<Vec<usize>> {
            let source = maps[i].source(&graph.ty(x[i]).shape, shape);
            places.iter().map(|&p| source(p, &[])).collect()
        };
        let tensor = |dtype: DType, values: &[f64]| Tensor::from_f64(dtype, [values.len()], values);
        match op {
            Op::Iota { ty, axis } => {
                let apart = strides(shape)[*axis];
                let counts: Vec<f64> = places.iter().map(|&p| (p / apart % shape[*axis]) as f64).collect();
                Some(tensor(ty.dtype, &counts)?.to_f64())
            }
            Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Cast(_) => {
                let mut operands = vec![];
                for (i, &o) in x.iter().enumerate() {
                    let values = self.depth(o, &from(i)?, depth)?;
                    operands.push(tensor(graph.ty(o).dtype, &values)?);
                }
                Some(apply(op, &operands, Precision::Declared).ok()?.first()?.to_f64())
            }
            Op::Reshape(_) | Op::Broadcast(_) | Op::Permute(_) | Op::Slice { .. } => {
                self.depth(x[0], &from(0)?, depth)
            }
            Op::Gather { axis } => {
                let picked = self.depth(x[1], &from(1)?, depth)?;
                let data = &graph.ty(x[0]).shape;
                let (extent, source) = (data[*axis] as f64, maps[0].source(data, shape));
                let place = |(&p, i): (&usize, f64)| {
                    let i = if i < 0.0 { i + extent } else { i };
                    (0.0..extent).contains(&i).then(|| source(p, &[i as usize])).flatten()
                };
                let places: Vec<usize> = places.iter().zip(picked).map(place).collect::<Option<_>>()?;
                self.depth(x[0], &places, depth)
            }
            _ => None,
        }
    }
}
