//! What the elements of a mask can be, whatever the inputs are.
//!
//! In: a value of the graph. Out: for each element what it can be ([`Cell`]), row by row as runs ([`Runs`]). Positions are
//! progressions, a mask is made of few numbers (true and false; 0 and a fill), and truth values that depend on inputs are
//! true or false: that is enough to see which pairs are masked for every input, whatever operations spell the mask, and in
//! memory linear in the number of rows where positions decide.
//!
//! Invariant: what is said of an element holds every number that the element can have.

use super::abstract_value::{Cell, Pass, Sets, Verdict, apply};
use super::runs::{RUNS, Runs, meet, places};
use crate::eval::{self, Constants, Precision};
use crate::find::axes::trace::CONSTANT_LIMIT;
use crate::ir::{DType, Graph, Op, Tensor, Type, ValueId};
use std::collections::HashMap;
use std::sync::Arc;

/// Most operations that are followed behind one mask.
const CONE_LIMIT: usize = 2048;
/// Most elements that are moved one by one.
const MOVED: usize = 1 << 22;
/// Most combinations of numbers that are put to one operation.
const ASKED: usize = 1 << 20;

/// What the elements of a tensor can be.
#[derive(Clone, Debug)]
pub(crate) struct Possible {
    /// Element type.
    dtype: DType,
    /// The elements.
    pub(crate) cells: Runs<Cell>,
}

/// For each element whether it may pass a test, and whether it may fail it.
pub(crate) type Known = Runs<(bool, bool)>;

/// Possible values, found once per value.
pub(crate) struct Values {
    sets: Sets,
    known: HashMap<ValueId, Option<Arc<Possible>>>,
    /// Constants of more elements are evaluated only if they cannot be followed as runs.
    small: usize,
}

impl Default for Values {
    fn default() -> Values {
        Values { sets: Sets::default(), known: HashMap::new(), small: 1 << 16 }
    }
}

impl Values {
    /// For each element whether it may pass, and whether it may fail.
    pub(crate) fn certain(&self, p: &Possible, pass: Pass<'_>) -> Known {
        p.cells.map(|len, c| c.certain(&self.sets, len, pass))
    }

    /// Whether every element certainly passes.
    pub(crate) fn all(&self, p: &Possible, pass: Pass<'_>) -> bool {
        p.cells.runs().iter().all(|&(len, c)| !c.certain(&self.sets, len, pass).1)
    }

    /// The numbers that elements can be, in the order in which they come, if there are at most `most`.
    pub(crate) fn numbers(&self, p: &Possible, most: usize) -> Option<Vec<f64>> {
        let mut all: Vec<f64> = vec![];
        for &(len, c) in p.cells.runs() {
            for x in c.numbers(&self.sets, len)? {
                if !all.iter().any(|y| y.to_bits() == x.to_bits()) {
                    all.push(x);
                }
            }
            if all.len() > most {
                return None;
            }
        }
        Some(all)
    }

    /// What the elements of `v` can be; `None` if that is not followed.
    pub(crate) fn get(
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
                if let Some(t) = constants.value(graph, at, self.small) {
                    self.known.insert(at, Possible::of(&t).map(Arc::new));
                    continue;
                }
                stack.push((at, true));
                if follows(graph.op(at.op)) {
                    stack.extend(graph.operands(at.op).into_iter().map(|x| (x, false)));
                }
                continue;
            }
            let found = self.step(graph, constants, at);
            let vague = |p: &Possible| p.cells.runs().iter().any(|r| matches!(r.1, Cell::Range { .. }));
            let found = match found {
                Some(p) if !vague(&p) => Some(p),
                vague => {
                    let t = constants.value(graph, at, CONSTANT_LIMIT);
                    t.and_then(|t| Possible::of(&t)).or(vague).or_else(|| {
                        let t = graph.ty(at);
                        (t.dtype == DType::Bool).then(|| self.unknown(t))
                    })
                }
            };
            self.known.insert(at, found.map(Arc::new));
        }
        self.known.get(&v).cloned().flatten()
    }

    /// Any truth value, or any number.
    fn unknown(&mut self, t: &Type) -> Possible {
        let cell =
            if t.dtype == DType::Bool { self.sets.cell([0.0, 1.0], t.dtype) } else { Cell::any(t.dtype) };
        Possible { dtype: t.dtype, cells: Runs::all(&t.shape, cell) }
    }

    fn step(&mut self, graph: &Graph, constants: &mut Constants, v: ValueId) -> Option<Possible> {
        let x = graph.operands(v.op);
        let op = graph.op(v.op);
        let ty = graph.ty(v);
        let known = |values: &Values, i: usize| values.known.get(&x[i])?.clone();
        let with = |cells| Some(Possible { dtype: ty.dtype, cells });
        let indices = |constants: &mut Constants, i: usize| {
            let t = constants.value(graph, x[i], CONSTANT_LIMIT)?;
            Some((t.to_f64(), t))
        };
        match op {
            Op::Constant(c) => Possible::of(c.data.as_deref()?),
            Op::Iota { axis, .. } => with(count(ty, *axis)?),
            Op::Unary(_) | Op::Cast(_) => {
                let a = known(self, 0)?;
                self.elementwise(op, ty, [&a])
            }
            Op::Binary(_) => {
                // Of an operand of which nothing is known at least the type is.
                let (a, b) = (known(self, 0), known(self, 1));
                if a.is_none() && b.is_none() {
                    return None;
                }
                let a = a.unwrap_or_else(|| Arc::new(self.unknown(graph.ty(x[0]))));
                let b = b.unwrap_or_else(|| Arc::new(self.unknown(graph.ty(x[1]))));
                self.elementwise(op, ty, [&a, &b])
            }
            Op::Select => {
                let c = known(self, 0)?;
                let zero = |when_false| zero_unless(graph, x[0], x[1 + usize::from(when_false)], when_false);
                let a = zero(false).map(Arc::new).or_else(|| known(self, 1));
                let b = zero(true).map(Arc::new).or_else(|| known(self, 2));
                let a = a.unwrap_or_else(|| Arc::new(self.unknown(ty)));
                let b = b.unwrap_or_else(|| Arc::new(self.unknown(ty)));
                self.select(ty, [&c, &a, &b])
            }
            Op::Reshape(shape) => with(known(self, 0)?.cells.reshape(shape)?),
            Op::Permute(perm) => with(known(self, 0)?.cells.permute(perm)?),
            Op::Broadcast(shape) => with(known(self, 0)?.cells.broadcast(shape)?),
            Op::Slice { axis, start, len, step } => {
                with(known(self, 0)?.cells.slice(*axis, *start, *len, *step)?)
            }
            Op::Gather { axis } => {
                let a = known(self, 0)?;
                let extent = graph.ty(x[0]).shape[*axis] as f64;
                let place = |i: f64| {
                    let i = if i < 0.0 { i + extent } else { i };
                    (0.0..extent).contains(&i).then_some(i as usize)
                };
                if let Some((i, t)) = indices(constants, 1)
                    && let Some(which) = i.into_iter().map(place).collect::<Option<Vec<_>>>()
                {
                    let picked = a.cells.pick(*axis, &which)?;
                    let mut shape = picked.shape().to_vec();
                    shape.splice(axis..=axis, t.shape().iter().copied());
                    return with(picked.reshape(&shape)?);
                }
                self.anywhere(&a, ty)
            }
            Op::GatherNd { .. } => {
                let a = known(self, 0)?;
                if let Some(i) = constants.value(graph, x[1], CONSTANT_LIMIT) {
                    return self.moved(op, ty, &[(*a).clone()], &[i]);
                }
                self.anywhere(&a, ty)
            }
            Op::Concat { axis } => {
                let parts: Vec<Runs<Cell>> =
                    (0..x.len()).map(|i| Some(known(self, i)?.cells.clone())).collect::<Option<_>>()?;
                with(Runs::concat(&parts, *axis)?)
            }
            Op::Pad { low, high } => {
                let (mut a, fill) = (known(self, 0)?.cells.clone(), known(self, 1)?);
                let fill = fill.cells.runs().first()?.1;
                for (axis, (&l, &h)) in low.iter().zip(high).enumerate() {
                    let side = |n: usize| {
                        let mut shape = a.shape().to_vec();
                        shape[axis] = n;
                        Runs::all(&shape, fill)
                    };
                    let (before, after) = (side(l), side(h));
                    let parts: Vec<Runs<Cell>> = [(l, before), (1, a), (h, after)]
                        .into_iter()
                        .filter(|p| p.0 > 0)
                        .map(|p| p.1)
                        .collect();
                    a = Runs::concat(&parts, axis)?;
                }
                with(a)
            }
            Op::ScatterNd { how: None } => {
                let (a, updates) = (known(self, 0)?, known(self, 2)?);
                let i = constants.value(graph, x[1], CONSTANT_LIMIT)?;
                self.moved(op, ty, &[(*a).clone(), (*updates).clone()], &[i])
            }
            _ => None,
        }
    }

    /// Of a look-up at unknown places: anything that stands there.
    fn anywhere(&mut self, p: &Possible, ty: &Type) -> Option<Possible> {
        let mut all: Option<Cell> = None;
        for &(len, c) in p.cells.runs() {
            // Of a progression only its range.
            let (lo, hi, nan) = c.ends(&self.sets, len);
            let c = if matches!(c, Cell::Line { step, .. } if step != 0.0) {
                Cell::Range { lo, hi, nan }
            } else {
                c
            };
            all = Some(match all {
                Some(a) => self.sets.either(a, c, 1, ty.dtype),
                None => c,
            });
        }
        Some(Possible { dtype: ty.dtype, cells: Runs::all(&ty.shape, all?) })
    }

    /// An operation that only moves elements, of few enough: done to the places of their cells.
    fn moved(&mut self, op: &Op, ty: &Type, x: &[Possible], indices: &[Tensor]) -> Option<Possible> {
        let mut all: Vec<Cell> = vec![];
        let mut operands = vec![];
        for p in x {
            let shape = p.cells.shape();
            if shape.iter().product::<usize>() > MOVED {
                return None;
            }
            let rank = shape.len().saturating_sub(1);
            let mut numbers: Vec<f64> = vec![];
            for [i] in places(&shape[..rank], [p.cells.strides(shape.len())]) {
                for &(n, c) in p.cells.row(i) {
                    for e in 0..n {
                        all.push(c.after(e).first());
                        numbers.push((all.len() - 1) as f64);
                    }
                }
            }
            operands.push(Tensor::from_f64(DType::I64, shape, &numbers)?);
        }
        operands.splice(1..1, indices.iter().cloned());
        let t = eval::apply(op, &operands, Precision::Declared).ok()?.remove(0);
        let mut numbers = t.to_f64().into_iter();
        let mut cells = Runs::new(&ty.shape, ty.shape[..ty.shape.len().saturating_sub(1)].to_vec());
        for _ in 0..cells.held().iter().product::<usize>() {
            for n in numbers.by_ref().take(ty.shape.last().copied().unwrap_or(1)) {
                cells.push(1, *all.get(n as usize)?);
            }
            cells.end()?;
        }
        Some(Possible { dtype: ty.dtype, cells })
    }

    fn elementwise<const N: usize>(&mut self, op: &Op, ty: &Type, x: [&Possible; N]) -> Option<Possible> {
        let types = (x[0].dtype, ty.dtype);
        // Runs of the result. Where only the operation itself can say what numbers give, all of them are put to it at once.
        enum Draft {
            Cell(Cell),
            Numbers(usize),
            End,
        }
        let mut draft: Vec<(usize, Draft)> = vec![];
        let mut asked: Vec<Vec<f64>> = vec![vec![]; N];
        let mut answers: Vec<std::ops::Range<usize>> = vec![];
        let mut memo: HashMap<[(usize, u64, u64); N], usize> = HashMap::new();
        let (held, rows) = joined(&ty.shape, x.map(|p| &p.cells))?;
        let last = ty.shape.last().copied().unwrap_or(1);
        for at in rows {
            let mut i = 0;
            let spread = x.map(|p| {
                i += 1;
                spread(p.cells.row(at[i - 1]), last)
            });
            let sets = &self.sets;
            meet(std::array::from_fn(|i| &spread[i][..]), |len, cells: [Cell; N]| {
                let key = cells.map(|c| match c {
                    Cell::Line { at, step } => (0, at.to_bits(), step.to_bits()),
                    Cell::Set(s) => (1, s as u64, 0),
                    Cell::Range { lo, hi, nan } => (2 + usize::from(nan), lo.to_bits(), hi.to_bits()),
                });
                if let Some(&n) = memo.get(&key) {
                    draft.push((len, Draft::Numbers(n)));
                    return;
                }
                match apply(sets, op, types, &cells, len) {
                    Verdict::Runs(runs) => draft.extend(runs.into_iter().map(|(n, c)| (n, Draft::Cell(c)))),
                    Verdict::Numbers(all) => {
                        let each = if all.len() == 1 { len } else { 1 };
                        for lists in &all {
                            let begin = asked[0].len();
                            combine(lists, &mut asked);
                            answers.push(begin..asked[0].len());
                            draft.push((each, Draft::Numbers(answers.len() - 1)));
                        }
                        // What a progression gives depends on how long it is.
                        if !cells.iter().any(|c| matches!(c, Cell::Line { step, .. } if *step != 0.0)) {
                            memo.insert(key, answers.len() - 1);
                        }
                    }
                }
            });
            draft.push((0, Draft::End));
            if draft.len() > 2 * RUNS || asked[0].len() > ASKED {
                return None;
            }
        }
        let mut tensors = vec![];
        for (list, p) in asked.iter().zip(x) {
            tensors.push(Tensor::from_f64(p.dtype, [list.len()], list)?);
        }
        let numbers = if asked[0].is_empty() {
            vec![]
        } else {
            eval::apply(op, &tensors, Precision::Declared).ok()?.first()?.to_f64()
        };
        let results: Vec<Cell> =
            answers.into_iter().map(|r| self.sets.cell(numbers[r].iter().copied(), ty.dtype)).collect();
        let either = self.sets.cell([0.0, 1.0], DType::Bool);
        let mut cells = Runs::new(&ty.shape, held);
        for (len, d) in draft {
            match d {
                Draft::Cell(Cell::Range { .. }) if ty.dtype == DType::Bool => cells.push(len, either),
                Draft::Cell(c) => cells.push(len, c),
                Draft::Numbers(n) => cells.push(len, results[n]),
                Draft::End => cells.end()?,
            }
        }
        Some(Possible { dtype: ty.dtype, cells })
    }

    fn select(&mut self, ty: &Type, x: [&Possible; 3]) -> Option<Possible> {
        let (held, rows) = joined(&ty.shape, x.map(|p| &p.cells))?;
        let last = ty.shape.last().copied().unwrap_or(1);
        let mut cells = Runs::new(&ty.shape, held);
        for at in rows {
            let spread: [Vec<(usize, Cell)>; 3] =
                std::array::from_fn(|i| spread(x[i].cells.row(at[i]), last));
            let sets = &mut self.sets;
            meet(std::array::from_fn(|i| &spread[i][..]), |len, [c, a, b]: [Cell; 3]| {
                cells.push(
                    len,
                    match c.certain(sets, len, crate::find::elements::abstract_value::TRUE) {
                        (true, false) => a,
                        (false, _) => b,
                        (true, true) => sets.either(a, b, len, ty.dtype),
                    },
                );
            });
            cells.end()?;
        }
        Some(Possible { dtype: ty.dtype, cells })
    }
}

impl Possible {
    fn of(t: &Tensor) -> Option<Possible> {
        let shape = t.shape();
        let values = t.to_f64();
        // Beyond this an f64 does not hold every integer.
        let inexact = |x: f64| t.dtype() == DType::I64 && x.abs() > 9e15;
        let cell = |x: f64| {
            if inexact(x) {
                Cell::Range { lo: x - 4096.0, hi: x + 4096.0, nan: false }
            } else {
                Cell::number(x)
            }
        };
        let mut cells = Runs::new(shape, shape[..shape.len().saturating_sub(1)].to_vec());
        let rows: usize = cells.held().iter().product();
        let last = shape.last().copied().unwrap_or(1);
        for i in 0..rows {
            for &x in &values[i * last..(i + 1) * last] {
                cells.push(1, cell(x));
            }
            cells.end()?;
        }
        Some(Possible { dtype: t.dtype(), cells: cells.condensed() })
    }
}

/// Every combination of one number of each list, appended column by column.
fn combine(lists: &[Vec<f64>], to: &mut [Vec<f64>]) {
    let total: usize = lists.iter().map(Vec::len).product();
    let mut every = total;
    for (list, column) in lists.iter().zip(to) {
        every /= list.len();
        column.extend((0..total).map(|i| list[i / every % list.len()]));
    }
}

/// A row of the operand for a result of `last` elements a row.
fn spread(row: &[(usize, Cell)], last: usize) -> Vec<(usize, Cell)> {
    match row {
        [(1, c)] => vec![(last, *c)],
        _ => row.to_vec(),
    }
}

/// What is held of the rows of an elementwise result, and for each of them the rows of the operands.
#[allow(clippy::type_complexity)] // a pair
fn joined<const N: usize>(
    shape: &[usize],
    x: [&Runs<Cell>; N],
) -> Option<(Vec<usize>, impl Iterator<Item = [usize; N]> + use<N>)> {
    let rank = shape.len();
    let held: Vec<usize> = (2..=rank)
        .rev()
        .map(|n| if shape[rank - n] == 0 { 0 } else { x.iter().map(|r| r.held_extent(n)).max().unwrap_or(1) })
        .collect();
    let rows = held.iter().fold(1usize, |n, &h| n.saturating_mul(h));
    (rows <= RUNS).then(|| (held.clone(), places(&held, x.map(|r| r.strides(rank)))))
}

/// A count along an axis.
fn count(ty: &Type, axis: usize) -> Option<Runs<Cell>> {
    let n = ty.shape[axis];
    // The counts are rounded to the type; of a half type they soon repeat.
    if !matches!(Cell::line(0.0, 1.0, n.max(2), ty.dtype), Cell::Line { .. }) {
        return None;
    }
    if axis + 1 == ty.shape.len() {
        return Some(Runs::all(&ty.shape, Cell::line(0.0, 1.0, n, ty.dtype)));
    }
    let mut held = crate::find::elements::runs::repeated(&ty.shape);
    if !ty.shape.contains(&0) {
        held[axis] = n;
    }
    let mut cells = Runs::new(&ty.shape, held.clone());
    for i in 0..held.iter().product::<usize>() {
        cells.push(ty.shape.last().copied().unwrap_or(1), Cell::number(i as f64));
        cells.end()?;
    }
    Some(cells)
}

/// Operations whose operands are worth following.
fn follows(op: &Op) -> bool {
    matches!(
        op,
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
            | Op::Pad { .. }
            | Op::ScatterNd { how: None }
    )
}

/// What is left of `x` where `condition`, which is "x is not 0", was false (or true, if not `when_false`): where it was
/// false, x is 0.
fn zero_unless(graph: &Graph, condition: ValueId, x: ValueId, when_false: bool) -> Option<Possible> {
    let tests_x = matches!(graph.op(condition.op), Op::Cast(DType::Bool))
        && graph.operands(condition.op).first() == Some(&x);
    let t = graph.ty(x);
    (when_false && tests_x && t.dtype.is_float())
        .then(|| Possible { dtype: t.dtype, cells: Runs::all(&t.shape, Cell::number(0.0)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Binary, Unary};
    use proptest::prelude::*;

    /// A graph of random operations on positions, numbers and inputs; every value is an output.
    fn graph(codes: &[[u8; 4]], rows: usize, keys: usize) -> Graph {
        let mut g = Graph::new("mask");
        let mut values = vec![g.input("pad", Type::new(DType::Bool, [1, keys]))];
        values.push(g.input("ids", Type::new(DType::I64, [rows, 1])));
        values.push(g.input("bias", Type::new(DType::F32, [rows, keys])));
        let i = Op::Iota { ty: Type::new(DType::I64, [rows, 1]), axis: 0 };
        values.push(g.add1(i, &[], "i", "").unwrap());
        let j = Op::Iota { ty: Type::new(DType::I64, [1, keys]), axis: 1 };
        values.push(g.add1(j, &[], "j", "").unwrap());
        for (n, x) in [-3.0, 0.0, 2.0].into_iter().enumerate() {
            values.push(g.constant(&format!("n{n}"), Tensor::scalar(DType::I64, x)));
        }
        for (n, x) in [0.0, 0.5, -1e4, f64::NEG_INFINITY, f64::from(f32::MIN)].into_iter().enumerate() {
            values.push(g.constant(&format!("f{n}"), Tensor::scalar(DType::F32, x)));
        }
        for &[op, a, b, c] in codes {
            let pick = |n: u8| values[values.len() - 1 - usize::from(n) % values.len()];
            let (a, b, c) = (pick(a), pick(b), pick(c));
            let op = match op % 8 {
                0..4 => Op::Binary(Binary::ALL[usize::from(op) / 8 % Binary::ALL.len()]),
                4 => Op::Unary(Unary::ALL[usize::from(op) / 8 % Unary::ALL.len()]),
                5 => Op::Cast([DType::Bool, DType::F32, DType::I64, DType::F16][usize::from(op) / 8 % 4]),
                6 => Op::Select,
                _ => Op::Permute(vec![1, 0]),
            };
            let x: &[ValueId] = match op {
                Op::Binary(_) => &[a, b],
                Op::Select => &[a, b, c],
                _ => &[a],
            };
            // What does not fit together is left out.
            if let Ok(v) = g.add1(op, x, "v", "") {
                values.push(v);
            }
        }
        for (n, v) in values.into_iter().enumerate() {
            g.output(&format!("o{n}"), v);
        }
        g
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

        #[test]
        fn what_is_said_of_an_element_holds_it(
            codes in proptest::collection::vec(any::<[u8; 4]>(), 1..24), rows in 1usize..6, keys in 1usize..9,
            numbers in proptest::collection::vec(-4i8..5, 128), small in prop_oneof![Just(0usize), Just(1 << 16)],
        ) {
            let g = graph(&codes, rows, keys);
            let mut at = numbers.iter().cycle();
            let inputs: Vec<Tensor> = g
                .inputs()
                .into_iter()
                .map(|v| {
                    let t = g.ty(v);
                    let x: Vec<f64> = (0..t.elements()).map(|_| f64::from(*at.next().unwrap())).collect();
                    Tensor::from_f64(t.dtype, t.shape.clone(), &x).unwrap()
                })
                .collect();
            let Ok(got) = eval::eval(&g, &inputs, Precision::Declared) else { return Ok(()) };
            let mut values = Values { small, ..Values::default() };
            let mut constants = Constants::default();
            for (o, t) in g.outputs().iter().zip(got) {
                let Some(p) = values.get(&g, &mut constants, o.value) else { continue };
                let shape = p.cells.shape();
                prop_assert_eq!(shape, t.shape());
                let rank = shape.len().saturating_sub(1);
                let mut numbers = t.to_f64().into_iter();
                for [i] in places(&shape[..rank], [p.cells.strides(shape.len())]) {
                    for &(n, c) in p.cells.row(i) {
                        for (e, y) in (0..n).zip(numbers.by_ref()) {
                            let (lo, hi, nan) = c.after(e).first().ends(&values.sets, 1);
                            let mut held = if y.is_nan() { nan } else { lo <= y && y <= hi };
                            if let Some(list) = c.after(e).first().numbers(&values.sets, 1) {
                                held = list.iter().any(|&x| x == y || (x.is_nan() && y.is_nan()));
                            }
                            prop_assert!(held, "{y} is not in {c:?}, element {e} of a run of {} in\n{g}", o.name);
                        }
                    }
                }
                prop_assert_eq!(numbers.next(), None);
            }
        }
    }
}
