//! What one element, or a run of them, can be: a number, a progression of numbers, a few numbers, or anything in a range.
//!
//! Invariant: what a [`Cell`] says of an element holds every number that the element can have, whatever the inputs are. A
//! progression is exact: its elements are whole numbers that their type holds.

use crate::ir::{Binary, DType, Op, Unary};
use std::collections::HashMap;

/// Most numbers of one set.
const SET: usize = 8;

/// What the elements of a run can be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cell {
    /// The numbers at, at + step, at + 2·step, …: of step 0 one number, else whole numbers without rounding.
    Line { at: f64, step: f64 },
    /// One of at least two numbers: a place in [`Sets`].
    Set(usize),
    /// Any number from `lo` to `hi`, or NaN if `nan`.
    Range { lo: f64, hi: f64, nan: bool },
}

/// Sets of numbers, each kept once.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    lists: Vec<Vec<f64>>,
    index: HashMap<Vec<u64>, usize>,
}

/// A test of numbers: passed within any of these intervals, ends included. NaN never passes.
pub(crate) type Pass<'a> = &'a [(f64, f64)];

/// Every number but 0: what a truth value is if it is true.
pub(crate) const TRUE: Pass<'static> =
    &[(f64::NEG_INFINITY, -f64::from_bits(1)), (f64::from_bits(1), f64::INFINITY)];

/// Whole numbers up to here are numbers of the type.
fn whole(dtype: DType) -> f64 {
    match dtype {
        DType::F64 | DType::I64 => 9_007_199_254_740_992.0,
        DType::F32 => 16_777_216.0,
        DType::F16 => 2048.0,
        DType::BF16 => 256.0,
        DType::I32 => 2_147_483_647.0,
        DType::Bool => 1.0,
    }
}

impl Cell {
    /// One number.
    pub(crate) fn number(at: f64) -> Cell {
        Cell::Line { at, step: 0.0 }
    }

    /// A progression, if it is exact in the type; else its range.
    pub(crate) fn line(at: f64, step: f64, len: usize, dtype: DType) -> Cell {
        let end = at + step * (len.max(1) - 1) as f64;
        if step == 0.0 || len <= 1 {
            return Cell::number(at);
        }
        let fits = |x: f64| x.fract() == 0.0 && x.abs() <= whole(dtype);
        if fits(at) && fits(end) && fits(step) {
            return Cell::Line { at, step };
        }
        Cell::within(at.min(end), at.max(end), false, dtype)
    }

    /// Any number of the type.
    pub(crate) fn any(dtype: DType) -> Cell {
        match dtype {
            DType::I64 => Cell::Range { lo: -9.3e18, hi: 9.3e18, nan: false },
            DType::I32 => Cell::Range { lo: -2_147_483_648.0, hi: 2_147_483_647.0, nan: false },
            DType::Bool => Cell::Range { lo: 0.0, hi: 1.0, nan: false },
            _ => Cell::Range { lo: f64::NEG_INFINITY, hi: f64::INFINITY, nan: true },
        }
    }

    /// A range, rounded outwards as the type may round; anything where an integer could wrap.
    fn within(lo: f64, hi: f64, nan: bool, dtype: DType) -> Cell {
        if lo.is_nan() || hi.is_nan() {
            return Cell::any(dtype);
        }
        if !dtype.is_float() {
            let limit = if dtype == DType::I32 { 2_147_483_647.0 } else { 9.0e18 };
            if nan || lo < -limit || hi > limit {
                return Cell::any(dtype);
            }
            return Cell::Range { lo: lo.floor(), hi: hi.ceil(), nan: false };
        }
        let (slack, most) = match dtype {
            DType::F64 => (1e-15, f64::MAX),
            DType::F32 => (1e-6, f64::from(f32::MAX)),
            DType::F16 => (1e-3, 65504.0),
            _ => (1e-2, 3.38e38),
        };
        // Numbers close to 0 may be lost altogether, numbers close to the end of the type become infinite.
        let tiny = if matches!(dtype, DType::F64) { f64::MIN_POSITIVE } else { 1e-7 };
        let slack = |x: f64| if x == 0.0 || x.is_infinite() { 0.0 } else { x.abs() * slack + tiny };
        let (lo, hi) = (lo - slack(lo), hi + slack(hi));
        let lo = if lo < -most { f64::NEG_INFINITY } else { lo };
        let hi = if hi > most { f64::INFINITY } else { hi };
        Cell::Range { lo, hi, nan }
    }

    /// The cell of the elements from number `n` on.
    pub(crate) fn after(self, n: usize) -> Cell {
        match self {
            Cell::Line { at, step } if step != 0.0 => Cell::Line { at: at + step * n as f64, step },
            other => other,
        }
    }

    /// The cell of its first element alone.
    pub(crate) fn first(self) -> Cell {
        match self {
            Cell::Line { at, .. } => Cell::number(at),
            other => other,
        }
    }

    /// The cell of `len` elements that it holds and `more` further ones of `next`, if one cell says it.
    pub(crate) fn joined(self, len: usize, next: Cell, more: usize) -> Option<Cell> {
        let same = match (self, next) {
            (Cell::Line { at, step: 0.0 }, Cell::Line { at: b, step: 0.0 }) => at.to_bits() == b.to_bits(),
            (Cell::Line { at, step }, Cell::Line { at: b, step: s }) => {
                let goes_on = step != 0.0 && at + step * len as f64 == b;
                goes_on && (s == step || more == 1)
            }
            (a, b) => a == b,
        };
        same.then_some(self)
    }

    /// The two ends between which its `len` elements lie, and whether one may be NaN.
    pub(crate) fn ends(self, sets: &Sets, len: usize) -> (f64, f64, bool) {
        match self {
            Cell::Line { at, .. } if at.is_nan() => (f64::NEG_INFINITY, f64::INFINITY, true),
            Cell::Line { at, step } => {
                let end = at + step * (len.max(1) - 1) as f64;
                (at.min(end), at.max(end), false)
            }
            Cell::Set(s) => {
                let list = &sets.lists[s];
                let nan = list.iter().any(|x| x.is_nan());
                let lo = list.iter().copied().fold(f64::INFINITY, f64::min);
                (lo, list.iter().copied().fold(f64::NEG_INFINITY, f64::max), nan)
            }
            Cell::Range { lo, hi, nan } => (lo, hi, nan),
        }
    }

    /// Whether some element may pass a test, and whether some may fail it.
    pub(crate) fn certain(self, sets: &Sets, len: usize, pass: Pass<'_>) -> (bool, bool) {
        if let Cell::Set(s) = self {
            let passes = |x: &f64| pass.iter().any(|&(lo, hi)| lo <= *x && *x <= hi);
            let list = &sets.lists[s];
            return (list.iter().any(passes), !list.iter().all(passes));
        }
        // A set was looked at number by number; of the others their ends say enough.
        let (lo, hi, nan) = self.ends(sets, len);
        let some = pass.iter().any(|&(a, b)| a <= hi && lo <= b);
        let all = !nan && pass.iter().any(|&(a, b)| a <= lo && hi <= b);
        (some, !all)
    }

    /// The numbers that it can be, if they are few.
    pub(crate) fn numbers(self, sets: &Sets, len: usize) -> Option<Vec<f64>> {
        match self {
            Cell::Line { at, step: 0.0 } => Some(vec![at]),
            Cell::Line { at, step } => (len <= SET).then(|| (0..len).map(|i| at + step * i as f64).collect()),
            Cell::Set(s) => Some(sets.lists[s].clone()),
            Cell::Range { .. } => None,
        }
    }

    /// Of one element or a run of equal ones: what it can be.
    fn few(self, sets: &Sets) -> Option<Vec<f64>> {
        match self {
            Cell::Line { step, .. } if step != 0.0 => None,
            _ => self.numbers(sets, 1),
        }
    }
}

/// Puts together single numbers that count up by 1, from place `from` of a row on.
pub(crate) fn count(runs: &mut Vec<(usize, Cell)>, from: usize) {
    // Shorter ones are rather numbers of a few kinds than positions.
    const SHORTEST: usize = 4;
    let number = |r: &(usize, Cell)| match *r {
        (1, Cell::Line { at, .. }) if at.fract() == 0.0 && at.abs() < whole(DType::I64) => Some(at),
        _ => None,
    };
    let (mut read, mut write) = (from, from);
    while read < runs.len() {
        let first = number(&runs[read]);
        let next = |r: &&(usize, Cell), n: usize| number(r) == first.map(|x| x + n as f64);
        let len =
            first.map_or(1, |_| runs[read..].iter().enumerate().take_while(|(n, r)| next(r, *n)).count());
        if let (Some(at), true) = (first, len >= SHORTEST) {
            runs[write] = (len, Cell::Line { at, step: 1.0 });
            (read, write) = (read + len, write + 1);
            continue;
        }
        for _ in 0..len {
            runs[write] = runs[read];
            (read, write) = (read + 1, write + 1);
        }
    }
    runs.truncate(write);
}

impl Sets {
    /// The cell of these numbers.
    pub(crate) fn cell(&mut self, numbers: impl IntoIterator<Item = f64>, dtype: DType) -> Cell {
        let mut list: Vec<f64> = vec![];
        for x in numbers {
            if !list.iter().any(|y| y.to_bits() == x.to_bits()) {
                list.push(x);
            }
        }
        match list.as_slice() {
            [] => return Cell::any(dtype),
            [x] => return Cell::number(*x),
            _ if list.len() > SET => {
                let nan = list.iter().any(|x| x.is_nan());
                let lo = list.iter().copied().fold(f64::INFINITY, f64::min);
                let hi = list.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                return Cell::Range { lo, hi, nan };
            }
            _ => {}
        }
        list.sort_by(f64::total_cmp);
        let bits: Vec<u64> = list.iter().map(|x| x.to_bits()).collect();
        Cell::Set(*self.index.entry(bits).or_insert_with(|| {
            self.lists.push(list);
            self.lists.len() - 1
        }))
    }

    /// What is one or the other.
    pub(crate) fn either(&mut self, a: Cell, b: Cell, len: usize, dtype: DType) -> Cell {
        if a == b {
            return a;
        }
        if let (Some(mut x), Some(y)) = (a.few(self), b.few(self)) {
            x.extend(y);
            return self.cell(x, dtype);
        }
        let ((l, h, n), (m, i, o)) = (a.ends(self, len), b.ends(self, len));
        Cell::Range { lo: l.min(m), hi: h.max(i), nan: n || o }
    }
}

/// What comes of an operation on one run.
pub(crate) enum Verdict {
    /// Runs of the result.
    Runs(Vec<(usize, Cell)>),
    /// Each combination of these numbers; nothing but the operation itself says what it gives. For every element of the
    /// run the same, or one after the other.
    Numbers(Vec<Vec<Vec<f64>>>),
}

/// An elementwise operation on a run of `len` elements of `from`, giving `to`. `None` if nothing is known of the result.
pub(crate) fn apply(sets: &Sets, op: &Op, (from, to): (DType, DType), x: &[Cell], len: usize) -> Verdict {
    // A progression does not know the sign of its zero.
    let signed =
        from.is_float() && matches!(op, Op::Binary(Binary::Div | Binary::Pow) | Op::Unary(Unary::Reciprocal));
    let few = |c: Cell| {
        let mut list = c.few(sets)?;
        if signed && list.contains(&0.0) {
            list.extend([0.0, -0.0]);
        }
        Some(list)
    };
    if let Some(few) = x.iter().map(|&c| few(c)).collect() {
        return Verdict::Numbers(vec![few]);
    }
    if let Some(runs) = on_lines(op, from, to, x, len) {
        return Verdict::Runs(runs);
    }
    // A short progression, number by number.
    let each = |i: usize| x.iter().map(|c| few(c.after(i).first())).collect::<Option<Vec<_>>>();
    if len <= 64
        && let Some(all) = (0..len).map(each).collect()
    {
        return Verdict::Numbers(all);
    }
    Verdict::Runs(vec![(len, on_ranges(sets, op, to, x, len))])
}

/// The places at which a test that changes once changes: the number of leading elements with the test's first answer.
fn turn(len: usize, test: impl Fn(usize) -> bool) -> usize {
    let first = test(0);
    let (mut low, mut high) = (0, len);
    while low < high {
        let mid = (low + high) / 2;
        if test(mid) == first {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    low
}

fn parts(cuts: &[usize], len: usize) -> Vec<(usize, usize)> {
    let mut all: Vec<usize> = cuts.iter().copied().filter(|&c| c > 0 && c < len).collect();
    all.sort_unstable();
    all.dedup();
    let ends = all.iter().copied().chain([len]);
    let mut at = 0;
    ends.map(|end| (std::mem::replace(&mut at, end), end)).collect()
}

/// Exact results where progressions are compared, moved, folded or cut.
fn on_lines(op: &Op, from: DType, to: DType, x: &[Cell], len: usize) -> Option<Vec<(usize, Cell)>> {
    let line = |c: Cell| match c {
        Cell::Line { at, step } if !at.is_nan() => Some((at, step)),
        _ => None,
    };
    let (a, s) = line(x[0])?;
    let (b, t) = if x.len() > 1 { line(x[1])? } else { (0.0, 0.0) };
    let at = |i: usize| a + s * i as f64;
    let other = |i: usize| b + t * i as f64;
    let one = |c: Cell| Some(vec![(len, c)]);
    let truth = |cuts: &[usize], test: &dyn Fn(usize) -> bool| {
        let number = |i: usize| Cell::number(f64::from(u8::from(test(i))));
        Some(parts(cuts, len).into_iter().map(|(p, q)| (q - p, number(p))).collect())
    };
    let piece = |p: usize, q: usize, at: f64, step: f64| (q - p, Cell::line(at, step, q - p, to));
    match op {
        Op::Binary(Binary::Add) => one(Cell::line(a + b, s + t, len, to)),
        Op::Binary(Binary::Sub) => one(Cell::line(a - b, s - t, len, to)),
        Op::Binary(Binary::Mul) => {
            let whole = |x: f64, step: f64| step == 0.0 && x.fract() == 0.0 && (x != 0.0 || !to.is_float());
            let folds = whole(a, s) || whole(b, t);
            folds.then(|| vec![(len, Cell::line(a * b, a * t + b * s, len, to))])
        }
        Op::Binary(c @ (Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge)) => {
            let test = |i: usize| match c {
                Binary::Lt => at(i) < other(i),
                Binary::Le => at(i) <= other(i),
                Binary::Gt => at(i) > other(i),
                _ => at(i) >= other(i),
            };
            truth(&[turn(len, test)], &test)
        }
        Op::Binary(Binary::Eq) => {
            let test = |i: usize| at(i) == other(i);
            let above = turn(len, |i| at(i) > other(i));
            let below = turn(len, |i| at(i) < other(i));
            truth(&[above, below], &test)
        }
        Op::Binary(m @ (Binary::Min | Binary::Max)) => {
            let first = |i: usize| if *m == Binary::Min { at(i) <= other(i) } else { at(i) >= other(i) };
            let runs = parts(&[turn(len, first)], len)
                .into_iter()
                .map(|(p, q)| if first(p) { piece(p, q, at(p), s) } else { piece(p, q, other(p), t) });
            Some(runs.collect())
        }
        Op::Binary(d @ (Binary::Div | Binary::Mod)) if !from.is_float() && t == 0.0 && b >= 1.0 => {
            // Of numbers that are not negative alone, where every way to round is one.
            if at(0) < 0.0 || at(len - 1) < 0.0 {
                return None;
            }
            let whole = |i: usize| (at(i) / b).floor();
            let mut runs = vec![];
            let mut p = 0;
            while p < len {
                let q = p + turn(len - p, |i| whole(p + i) == whole(p));
                runs.push(if *d == Binary::Div {
                    (q - p, Cell::number(whole(p)))
                } else {
                    piece(p, q, at(p) - b * whole(p), s)
                });
                p = q;
            }
            Some(runs)
        }
        Op::Unary(Unary::Neg) => one(Cell::line(-a, -s, len, to)),
        Op::Unary(Unary::Floor | Unary::Ceil | Unary::Round) => one(x[0]),
        Op::Unary(Unary::Abs) => {
            let positive = |i: usize| at(i) >= 0.0;
            let runs = parts(&[turn(len, positive)], len);
            let sign = |p: usize| if positive(p) { 1.0 } else { -1.0 };
            Some(runs.into_iter().map(|(p, q)| piece(p, q, sign(p) * at(p), sign(p) * s)).collect())
        }
        Op::Cast(DType::Bool) => {
            let (above, below) = (turn(len, |i| at(i) > 0.0), turn(len, |i| at(i) < 0.0));
            truth(&[above, below], &|i| at(i) != 0.0)
        }
        Op::Cast(_) => one(Cell::line(a, s, len, to)),
        _ => None,
    }
}

/// What is left to say of ranges.
fn on_ranges(sets: &Sets, op: &Op, to: DType, x: &[Cell], len: usize) -> Cell {
    let (a, b, nan) = x[0].ends(sets, len);
    let (c, d, nan2) = if x.len() > 1 { x[1].ends(sets, len) } else { (0.0, 0.0, false) };
    let nan = nan || nan2;
    let any = Cell::any(to);
    let hull = |v: [f64; 4]| {
        if v.iter().any(|x| x.is_nan()) {
            return any;
        }
        let fold = |f: fn(f64, f64) -> f64| v.iter().copied().reduce(f).unwrap_or(f64::NAN);
        Cell::within(fold(f64::min), fold(f64::max), nan, to)
    };
    let truth = |yes: bool, no: bool| match (yes && !nan, no && !nan) {
        (true, _) => Cell::number(1.0),
        (_, true) => Cell::number(0.0),
        _ => any,
    };
    let monotone = |f: fn(f64) -> f64| hull([f(a), f(b), f(a), f(b)]);
    match op {
        Op::Binary(Binary::Add) => hull([a + c, b + d, a + c, b + d]),
        Op::Binary(Binary::Sub) => hull([a - d, b - c, a - d, b - c]),
        Op::Binary(Binary::Mul) => hull([a * c, a * d, b * c, b * d]),
        Op::Binary(Binary::Div) if to.is_float() && (c > 0.0 || d < 0.0) => {
            hull([a / c, a / d, b / c, b / d])
        }
        Op::Binary(Binary::Min) => hull([a.min(c), b.min(d), a.min(c), b.min(d)]),
        Op::Binary(Binary::Max) => hull([a.max(c), b.max(d), a.max(c), b.max(d)]),
        Op::Binary(Binary::Lt) => truth(b < c, a >= d),
        Op::Binary(Binary::Le) => truth(b <= c, a > d),
        Op::Binary(Binary::Gt) => truth(a > d, b <= c),
        Op::Binary(Binary::Ge) => truth(a >= d, b < c),
        Op::Binary(Binary::Eq) => truth(false, b < c || d < a),
        Op::Unary(Unary::Neg) => hull([-a, -b, -a, -b]),
        Op::Unary(Unary::Abs) if a <= 0.0 && b >= 0.0 => hull([0.0, 0.0, -a, b]),
        Op::Unary(Unary::Abs) => hull([a.abs(), b.abs(), a.abs(), b.abs()]),
        Op::Unary(Unary::Exp) => monotone(f64::exp),
        Op::Unary(Unary::Log) if a > 0.0 => monotone(f64::ln),
        Op::Unary(Unary::Sqrt) if a >= 0.0 => monotone(f64::sqrt),
        Op::Unary(Unary::Tanh | Unary::Sin | Unary::Cos | Unary::Erf) if a.is_finite() && b.is_finite() => {
            Cell::within(-1.0, 1.0, nan, to)
        }
        Op::Unary(Unary::Sigmoid) => Cell::within(0.0, 1.0, nan, to),
        Op::Unary(Unary::Floor | Unary::Ceil | Unary::Round) => Cell::within(a.floor(), b.ceil(), nan, to),
        Op::Unary(Unary::IsNan) if !nan => Cell::number(0.0),
        Op::Unary(Unary::IsInf) if a.is_finite() && b.is_finite() && !nan => Cell::number(0.0),
        Op::Cast(DType::Bool) => truth(a > 0.0 || b < 0.0, false),
        Op::Cast(_) => Cell::within(a, b, nan, to),
        _ => any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{Precision, apply as evaluate};
    use crate::ir::Tensor;
    use proptest::prelude::*;

    fn operation() -> impl Strategy<Value = Op> {
        let unary = proptest::sample::select(Unary::ALL).prop_map(Op::Unary);
        let binary = proptest::sample::select(Binary::ALL).prop_map(Op::Binary);
        let cast = proptest::sample::select(&DType::ALL[..]).prop_map(Op::Cast);
        prop_oneof![unary, binary, cast]
    }

    fn cell(sets: &mut Sets, kind: u8, at: i32, step: i32, len: usize, dtype: DType) -> (Cell, Vec<f64>) {
        let (a, s) = (f64::from(at), f64::from(step));
        match kind {
            0 => (Cell::number(a / 2.0), vec![a / 2.0; len]),
            1 => (sets.cell([a, s], dtype), (0..len).map(|i| if i % 2 == 0 { a } else { s }).collect()),
            2 => {
                let width = f64::from(step.unsigned_abs());
                let values =
                    (0..len).map(|i| (a + width * i as f64 / len as f64).trunc().clamp(a, a + width));
                (Cell::Range { lo: a, hi: a + width, nan: false }, values.collect())
            }
            _ => (Cell::line(a, s, len, dtype), (0..len).map(|i| a + s * i as f64).collect()),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        /// Whatever the operation gives lies in what is said of it.
        #[test]
        fn what_is_said_holds_every_number(
            op in operation(), kinds in [0u8..4, 0..4], at in [-40i32..40, -40..40], step in [-9i32..9, -9..9],
            len in 1usize..90, half in any::<bool>(), dtype in proptest::sample::select(&DType::ALL[..]),
        ) {
            let n = if matches!(op, Op::Binary(_)) { 2 } else { 1 };
            let mut sets = Sets::default();
            let mut x = vec![];
            let mut tensors = vec![];
            for i in 0..n {
                let kind = if dtype == DType::Bool { 1 } else { kinds[i] };
                let (at, step) = match dtype {
                    DType::Bool => (at[i] & 1, step[i] & 1),
                    _ if kind == 0 && !(half && dtype.is_float()) => (at[i] * 2, step[i]),
                    _ => (at[i], step[i]),
                };
                let (c, values) = cell(&mut sets, kind, at, step, len, dtype);
                x.push(c);
                tensors.push(Tensor::from_f64(dtype, [len], &values).unwrap());
            }
            let Ok(got) = evaluate(&op, &tensors, Precision::Declared) else { return Ok(()) };
            let (to, got) = (got[0].dtype(), got[0].to_f64());
            match apply(&sets, &op, (dtype, to), &x, len) {
                Verdict::Runs(runs) => {
                    prop_assert_eq!(runs.iter().map(|r| r.0).sum::<usize>(), len);
                    let mut place = 0;
                    for (n, c) in runs {
                        for i in 0..n {
                            let y = got[place + i];
                            let (lo, hi, nan) = c.after(i).first().ends(&sets, 1);
                            let held = if y.is_nan() { nan } else { lo <= y && y <= hi };
                            prop_assert!(held, "{y} is not in {c:?} of {op:?} {x:?} {dtype} at {i}");
                        }
                        place += n;
                    }
                }
                Verdict::Numbers(all) => prop_assert!(all.len() == 1 || all.len() == len),
            }
        }
    }
}
