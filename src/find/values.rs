//! What the elements of a mask can be, whatever the inputs are.
//!
//! In: a value of the graph. Out: for each element the set of numbers that it may hold, of at most eight per tensor. A mask
//! is made of few numbers (true and false; 0 and a fill), and truth values that depend on inputs are true or false: that is
//! enough to see which pairs are masked for every input, whatever operations spell the mask.
//!
//! Invariant: the set of an element holds every number that the element can have.

use super::trace::CONSTANT_LIMIT;
use crate::eval::{Constants, Precision, apply};
use crate::ir::types::broadcast;
use crate::ir::{DType, Data, Graph, Op, OpId, Tensor, ValueId};
use std::collections::HashMap;
use std::sync::Arc;

/// Most distinct numbers of a tensor that is followed.
const TABLE: usize = 8;
/// Most operations that are followed behind one mask.
const CONE_LIMIT: usize = 2048;
/// Values with more elements are not followed, unless they are constants.
const LIMIT: usize = 1 << 22;

/// Sets of possible numbers, one per element.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Possible {
    /// Extents.
    pub(super) shape: Vec<usize>,
    /// Element type.
    pub(super) dtype: DType,
    /// The numbers.
    pub(super) table: Vec<f64>,
    /// For each element, row-major, which numbers of the table it may hold, one bit each.
    pub(super) sets: Vec<u8>,
}

impl Possible {
    fn all(shape: &[usize], dtype: DType, table: Vec<f64>) -> Possible {
        let full = ((1u16 << table.len()) - 1) as u8;
        Possible { shape: shape.to_vec(), dtype, table, sets: vec![full; shape.iter().product()] }
    }

    fn of(t: &Tensor) -> Option<Possible> {
        let values = t.to_f64();
        let mut table: Vec<f64> = Vec::new();
        let mut sets = Vec::with_capacity(values.len());
        for x in values {
            sets.push(1u8 << place(&mut table, x)?);
        }
        Some(Possible { shape: t.shape().to_vec(), dtype: t.dtype(), table, sets })
    }

    /// The elements' sets as a tensor, so that operations which only move elements can move them.
    fn carrier(&self) -> Option<Tensor> {
        let bits = self.sets.iter().map(|&s| i32::from(s)).collect();
        Tensor::new(self.shape.clone(), Data::I32(Arc::new(bits)))
    }

    fn carried(&self, t: &Tensor) -> Option<Possible> {
        let Data::I32(bits) = t.data() else { return None };
        let sets = bits.iter().map(|&b| b as u8).collect();
        Some(Possible { shape: t.shape().to_vec(), dtype: self.dtype, table: self.table.clone(), sets })
    }

    /// The set of numbers of an element for which `f` holds may be: none of them, some of them, all of them.
    pub(super) fn certain(&self, f: impl Fn(f64) -> bool) -> Vec<(bool, bool)> {
        let yes = self.table.iter().enumerate().filter(|(_, x)| f(**x)).fold(0u8, |m, (i, _)| m | 1 << i);
        self.sets.iter().map(|s| (s & yes != 0, s & !yes != 0)).collect()
    }
}

/// The number's place in the table, which grows; `None` if it is full.
fn place(table: &mut Vec<f64>, x: f64) -> Option<usize> {
    if let Some(i) = table.iter().position(|y| y.to_bits() == x.to_bits()) {
        return Some(i);
    }
    (table.len() < TABLE).then(|| {
        table.push(x);
        table.len() - 1
    })
}

/// Possible values, found once per value.
#[derive(Default)]
pub(super) struct Values {
    known: HashMap<ValueId, Option<Arc<Possible>>>,
}

impl Values {
    /// What the elements of `v` can be; `None` if that is not followed.
    pub(super) fn get(
        &mut self,
        graph: &Graph,
        constants: &mut Constants,
        v: ValueId,
    ) -> Option<Arc<Possible>> {
        let mut stack = vec![(v, false)];
        let mut visited = 0;
        while let Some((at, ready)) = stack.pop() {
            if self.known.contains_key(&at) {
                continue;
            }
            if !ready {
                visited += 1;
                if visited > CONE_LIMIT {
                    return None;
                }
                if let Some(t) = constants.value(graph, at, CONSTANT_LIMIT) {
                    self.known.insert(at, Possible::of(&t).map(Arc::new));
                    continue;
                }
                if graph.ty(at).elements() > LIMIT {
                    self.known.insert(at, None);
                    continue;
                }
                stack.push((at, true));
                if follows(graph, at.op) {
                    stack.extend(graph.operands(at.op).into_iter().map(|x| (x, false)));
                }
                continue;
            }
            let found = self.step(graph, constants, at).or_else(|| {
                let t = graph.ty(at);
                (t.dtype == DType::Bool).then(|| Possible::all(&t.shape, DType::Bool, vec![0.0, 1.0]))
            });
            self.known.insert(at, found.map(Arc::new));
        }
        self.known.get(&v).cloned().flatten()
    }

    fn step(&self, graph: &Graph, constants: &mut Constants, v: ValueId) -> Option<Possible> {
        let x = graph.operands(v.op);
        let known = |i: usize| self.known.get(&x[i])?.clone();
        let op = graph.op(v.op);
        match op {
            Op::Unary(_) | Op::Cast(_) => {
                let a = known(0)?;
                elementwise(op, graph.ty(v).dtype, &graph.ty(v).shape, &[&a])
            }
            Op::Binary(_) => {
                let (a, b) = (known(0)?, known(1)?);
                elementwise(op, graph.ty(v).dtype, &graph.ty(v).shape, &[&a, &b])
            }
            Op::Select => {
                let c = known(0)?;
                let a = known(1).or_else(|| zero_unless(graph, x[0], x[1], false).map(Arc::new))?;
                let b = known(2).or_else(|| zero_unless(graph, x[0], x[2], true).map(Arc::new))?;
                select(graph, v, &c, &a, &b)
            }
            Op::Reshape(_) | Op::Permute(_) | Op::Broadcast(_) | Op::Slice { .. } => {
                let a = known(0)?;
                a.carried(&apply(op, &[a.carrier()?], Precision::Declared).ok()?.remove(0))
            }
            Op::Gather { .. } | Op::GatherNd { .. } => {
                let a = known(0)?;
                let i = constants.value(graph, x[1], CONSTANT_LIMIT)?;
                a.carried(&apply(op, &[a.carrier()?, i], Precision::Declared).ok()?.remove(0))
            }
            Op::Concat { .. } | Op::ScatterNd { how: None } => {
                // One table for all that is put together.
                let mut parts = vec![];
                let mut table = vec![];
                let indices = matches!(op, Op::ScatterNd { .. }).then_some(1);
                for (i, &operand) in x.iter().enumerate() {
                    if Some(i) == indices {
                        parts.push(constants.value(graph, operand, CONSTANT_LIMIT)?);
                        continue;
                    }
                    let p = known(i)?;
                    let map: Vec<usize> =
                        p.table.iter().map(|&y| place(&mut table, y)).collect::<Option<_>>()?;
                    let sets = p.sets.iter().map(|&s| remap(s, &map)).collect();
                    parts.push(Possible { sets, ..(*p).clone() }.carrier()?);
                }
                let t = apply(op, &parts, Precision::Declared).ok()?.remove(0);
                let like = Possible { shape: vec![], dtype: graph.ty(v).dtype, table, sets: vec![] };
                like.carried(&t)
            }
            _ => None,
        }
    }
}

/// Operations whose operands are worth following.
fn follows(graph: &Graph, id: OpId) -> bool {
    matches!(
        graph.op(id),
        Op::Unary(_)
            | Op::Cast(_)
            | Op::Binary(_)
            | Op::Select
            | Op::Reshape(_)
            | Op::Permute(_)
            | Op::Broadcast(_)
            | Op::Slice { .. }
            | Op::Gather { .. }
            | Op::GatherNd { .. }
            | Op::Concat { .. }
            | Op::ScatterNd { how: None }
    )
}

fn remap(set: u8, map: &[usize]) -> u8 {
    map.iter().enumerate().filter(|(i, _)| set & (1 << i) != 0).fold(0, |m, (_, &j)| m | 1 << j)
}

/// What is left of `x` where `condition`, which is "x is not 0", was false (or true, if not `when_false`): where it was
/// false, x is 0.
fn zero_unless(graph: &Graph, condition: ValueId, x: ValueId, when_false: bool) -> Option<Possible> {
    let tests_x = matches!(graph.op(condition.op), Op::Cast(DType::Bool))
        && graph.operands(condition.op).first() == Some(&x);
    let t = graph.ty(x);
    (when_false && tests_x && t.dtype.is_float()).then(|| Possible::all(&t.shape, t.dtype, vec![0.0]))
}

/// Positions of a broadcast operand for every element of the result.
fn walk(shape: &[usize], operand: &[usize]) -> Vec<usize> {
    let own = crate::ir::types::strides(operand);
    let lead = shape.len() - operand.len();
    let stride: Vec<usize> = (0..shape.len())
        .map(|i| if i < lead || operand[i - lead] == 1 { 0 } else { own[i - lead] })
        .collect();
    let total: usize = shape.iter().product();
    let (mut at, mut index) = (0usize, vec![0usize; shape.len()]);
    let mut out = Vec::with_capacity(total);
    for _ in 0..total {
        out.push(at);
        for i in (0..shape.len()).rev() {
            index[i] += 1;
            at += stride[i];
            if index[i] < shape[i] {
                break;
            }
            at -= stride[i] * index[i];
            index[i] = 0;
        }
    }
    out
}

/// An elementwise operation of one or two operands, number by number.
fn elementwise(op: &Op, dtype: DType, shape: &[usize], x: &[&Possible]) -> Option<Possible> {
    let one = [Possible::all(&[], DType::Bool, vec![0.0])];
    let (a, b) = (x[0], x.get(1).copied().unwrap_or(&one[0]));
    let mut table = vec![];
    // Place in the result's table of each pair of numbers.
    let mut places = [[0usize; TABLE]; TABLE];
    for (&u, row) in a.table.iter().zip(&mut places) {
        for (&w, to) in b.table.iter().zip(row) {
            let mut operands = vec![Tensor::scalar(a.dtype, u)];
            if x.len() == 2 {
                operands.push(Tensor::scalar(b.dtype, w));
            }
            let y = apply(op, &operands, Precision::Declared).ok()?.first()?.to_f64();
            *to = place(&mut table, *y.first()?)?;
        }
    }
    let mut memo: HashMap<(u8, u8), u8> = HashMap::new();
    let mut combine = |s: u8, t: u8| {
        *memo.entry((s, t)).or_insert_with(|| {
            let pairs = (0..TABLE).flat_map(|i| (0..TABLE).map(move |j| (i, j)));
            pairs
                .filter(|(i, j)| s & (1 << i) != 0 && t & (1 << j) != 0)
                .fold(0, |m, (i, j)| m | 1 << places[i][j])
        })
    };
    let (pa, pb) = (walk(shape, &a.shape), walk(shape, &b.shape));
    let sets = pa.iter().zip(&pb).map(|(&i, &j)| combine(a.sets[i], b.sets[j])).collect();
    Some(Possible { shape: shape.to_vec(), dtype, table, sets })
}

fn select(graph: &Graph, v: ValueId, c: &Possible, a: &Possible, b: &Possible) -> Option<Possible> {
    let t = graph.ty(v);
    debug_assert!(broadcast(&a.shape, &b.shape).is_some());
    let mut table = a.table.clone();
    let map: Vec<usize> = b.table.iter().map(|&y| place(&mut table, y)).collect::<Option<_>>()?;
    let choice = c.certain(|x| x != 0.0);
    let (pc, pa, pb) = (walk(&t.shape, &c.shape), walk(&t.shape, &a.shape), walk(&t.shape, &b.shape));
    let sets = (0..pc.len())
        .map(|i| {
            let (yes, no) = choice[pc[i]];
            let from_a = if yes { a.sets[pa[i]] } else { 0 };
            let from_b = if no { remap(b.sets[pb[i]], &map) } else { 0 };
            from_a | from_b
        })
        .collect();
    Some(Possible { shape: t.shape.clone(), dtype: t.dtype, table, sets })
}
