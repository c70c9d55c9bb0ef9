//! A score program read once more, for oracles: pair by pair, from the definition in words, with a bound of how far off a number of the
//! type of accumulation may be. Shares no code with what it judges, only the types.

use annulus::ir::{DType, Factor, ScoreStep};
use annulus::mask::{Fill, Mask, Term};

/// What a score is, every operation rounded to the type of accumulation, and how far off one is at most that is computed in another
/// order within a step: infinitely far where rounding decides whether it is finite.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Score {
    pub(crate) value: f64,
    pub(crate) error: f64,
}

/// Reads the steps in a type of accumulation.
pub(crate) struct Reading<'a> {
    pub(crate) steps: &'a [ScoreStep],
    pub(crate) acc: DType,
}

/// A number, and between which numbers another one lies that is meant to be the same.
#[derive(Clone, Copy)]
struct Span {
    value: f64,
    low: f64,
    high: f64,
}

impl Span {
    fn point(x: f64) -> Span {
        Span { value: x, low: x, high: x }
    }

    /// What a function that grows makes of it.
    fn grow(self, by: impl Fn(f64) -> f64) -> Span {
        Span { value: by(self.value), low: by(self.low), high: by(self.high) }
    }

    fn any(value: f64) -> Span {
        Span { value, low: f64::NEG_INFINITY, high: f64::INFINITY }
    }
}

/// Half a unit in the last place of the type, relatively.
pub(crate) fn epsilon(acc: DType) -> f64 {
    if acc == DType::F32 { 2f64.powi(-24) } else { 2f64.powi(-53) }
}

impl Reading<'_> {
    /// The score of row `q` and key `k` of batch entry `b`, whose product q·k is off by no more than `error`. Leaves are read at the pair;
    /// truth is 1 or 0.
    pub(crate) fn score(
        &self,
        [b, q, k]: [usize; 3],
        product: f64,
        error: f64,
        leaf: &dyn Fn(usize) -> f64,
    ) -> Score {
        let acc = |x: f64| nearest(x, self.acc);
        let mut x = Span { value: acc(product), low: acc(product - error), high: acc(product + error) };
        for step in self.steps {
            x = match step {
                ScoreStep::Factor(Factor::Number(c)) => self.times(x, *c),
                ScoreStep::Factor(Factor::Leaf(n)) => self.times(x, leaf(*n)),
                ScoreStep::Softcap(c) => {
                    let Span { value, low, high } = x.grow(|x| acc(c * (x / c).tanh()));
                    let margin = 8.0 * epsilon(self.acc) * c;
                    Span { value, low: low - margin, high: high + margin }
                }
                ScoreStep::Add(n) => self.plus(x, leaf(*n)),
                ScoreStep::Fill(m) if kept(&m.terms, [b, q, k], leaf) => x,
                ScoreStep::Fill(m) => match m.fill {
                    Fill::NegInf => Span::point(f64::NEG_INFINITY),
                    Fill::Replace(y) => Span::point(acc(y)),
                    Fill::Add(y) => self.plus(x, y),
                },
                ScoreStep::Round(t) => x.grow(|x| nearest(x, *t)),
            };
        }
        let ordered = x.value.is_nan() || (x.low <= x.value && x.value <= x.high);
        assert!(ordered, "{} is not from {} to {}", x.value, x.low, x.high);
        // Of equal infinities the difference is none.
        let off = |end: f64| if end == x.value { 0.0 } else { (end - x.value).abs() };
        Score { value: x.value, error: off(x.low).max(off(x.high)) }
    }

    /// A score of −∞ stays.
    fn times(&self, x: Span, by: f64) -> Span {
        let by = nearest(by, self.acc);
        let times = |x: f64| if x == f64::NEG_INFINITY { x } else { nearest(x * by, self.acc) };
        let (value, a, b) = (times(x.value), times(x.low), times(x.high));
        if a.is_nan() || b.is_nan() || (x.low == f64::NEG_INFINITY) != (x.high == f64::NEG_INFINITY) {
            return Span::any(value);
        }
        let margin = |x: f64| if x.is_finite() { 4.0 * epsilon(self.acc) * x.abs() } else { 0.0 };
        let (low, high) = (a.min(b), a.max(b));
        Span { value, low: low - margin(low), high: high + margin(high) }
    }

    /// A score of −∞ stays, and −∞ makes one. A sum is rounded once, and rounding keeps the order.
    fn plus(&self, x: Span, y: f64) -> Span {
        if y == f64::NEG_INFINITY {
            return Span::point(y);
        }
        // The sum of two numbers of f32 in f64, rounded to f32, is as if it were rounded once.
        let more = nearest(y, self.acc);
        x.grow(|x| if x == f64::NEG_INFINITY { x } else { nearest(x + more, self.acc) })
    }
}

/// How far the weights exp(score − `most`) / `total` of a row may be off, all together.
pub(crate) fn wobble(row: &[Score], most: f64, total: f64) -> f64 {
    let one = |s: &Score| match s.error {
        0.0 => 0.0,
        e if e.is_infinite() => f64::INFINITY,
        e => ((s.value + e - most).exp() - (s.value - e - most).exp()) / total,
    };
    row.iter().map(one).sum()
}

/// Whether the score of the pair is −∞ whatever the tensors hold.
pub(crate) fn dead(steps: &[ScoreStep], pair: [usize; 3]) -> bool {
    let (all, none) = (|_| 1.0, |_| 0.0);
    steps.iter().fold(false, |dead, step| match step {
        ScoreStep::Fill(Mask { terms, fill: Fill::NegInf }) => dead || !kept(terms, pair, &all),
        // A tensor might mask it here.
        ScoreStep::Fill(Mask { terms, fill: Fill::Replace(_) }) => dead && kept(terms, pair, &none),
        ScoreStep::Softcap(_) => false,
        _ => dead,
    })
}

/// Whether all terms keep the pair.
pub(crate) fn kept(terms: &[Term], [b, q, k]: [usize; 3], leaf: &dyn Fn(usize) -> f64) -> bool {
    let (row, key) = (q as i128, k as i128);
    terms.iter().all(|t| match *t {
        Term::Causal { offset } => key <= row + i128::from(offset),
        Term::Window { left, right, offset } => {
            let ahead = key - row - i128::from(offset);
            left.is_none_or(|l| ahead >= -i128::from(l)) && right.is_none_or(|r| ahead <= i128::from(r))
        }
        Term::Segments { ref starts, offset } => {
            starts.iter().all(|&s| (row + i128::from(offset) < s as i128) == (k < s))
        }
        Term::Prefix { length, offset } => k < length || key <= row + i128::from(offset),
        Term::Keys { start, end } => start <= k && k < end,
        Term::Batch { ref entries } => kept(&entries[b], [b, q, k], leaf),
        Term::Tensor { operand } => leaf(operand) != 0.0,
        // From outside of the crate (tests/gpu) the terms may be more.
        #[allow(unreachable_patterns)]
        _ => unreachable!("a mask term that is not known here"),
    })
}

/// The nearest number of a floating type, of two the even one; beyond the largest it is infinite.
pub(crate) fn nearest(x: f64, to: DType) -> f64 {
    let (digits, least, largest) = match to {
        DType::F16 => (11, -24, 65504.0),
        DType::BF16 => (8, -133, 255.0 * 2f64.powi(120)),
        DType::F32 => (24, -149, f64::from(f32::MAX)),
        _ => return x,
    };
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let exponent = (((x.to_bits() >> 52) & 0x7ff) as i32 - 1023).max(-1022);
    let unit = 2f64.powi((exponent - (digits - 1)).max(least));
    let near = (x / unit).round_ties_even() * unit;
    if near.abs() > largest { near.signum() * f64::INFINITY } else { near }
}
