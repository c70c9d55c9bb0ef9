//! What the side condition of a rule may ask of the terms that its variables stand for.
//!
//! Every question is answered from the facts that egg keeps of a class, and is answered with no where it is not known.

use super::term::{DIGITS_F16, Expr, Facts, LeafId};
use crate::find::magnitude::{HUGE, HUGE_F16, MODERATE_FACTOR};
use egg::{EGraph, Id, Subst, Var};

/// A variable by its name, which begins with `?`.
pub(super) fn var(name: &str) -> Var {
    name.parse().expect("names of variables begin with ?")
}

/// What a number that is subtracted from scores may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Least {
    /// Not below any of them.
    Scores,
    /// About their maximum, or a choice of that and a small number.
    Any,
    /// As low as their mean or their minimum, for none of them is a fill.
    Mean,
}

/// What a side condition may look at.
pub(crate) struct View<'a> {
    pub(crate) egraph: &'a EGraph<Expr, Facts>,
    pub(super) subst: &'a Subst,
}

impl View<'_> {
    /// The class that a variable stands for.
    fn id(&self, name: &str) -> Id {
        self.subst[var(name)]
    }

    /// What is known of a variable.
    pub(crate) fn fact(&self, name: &str) -> &super::term::Fact {
        &self.egraph[self.id(name)].data
    }

    /// The finite number that it is.
    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        self.fact(name).number.map(super::term::Number::get).filter(|x| x.is_finite())
    }

    /// Whether it depends on QKᵀ.
    pub(crate) fn scores(&self, name: &str) -> bool {
        self.fact(name).score
    }

    /// Whether it is a finite number.
    pub(crate) fn is_number(&self, name: &str) -> bool {
        self.number(name).is_some()
    }

    /// Whether it is a finite number above 0.
    pub(crate) fn positive(&self, name: &str) -> bool {
        self.number(name).is_some_and(|c| c > 0.0)
    }

    /// Whether it is a finite number so low that it leaves nothing of a masked key beside scores that may be of f16.
    pub(crate) fn huge_beside(&self, name: &str, x: &str) -> bool {
        let half = self.egraph.analysis.f16 || self.fact(x).half == Some(DIGITS_F16);
        self.number(name).is_some_and(|f| f <= if half { HUGE_F16 } else { HUGE })
    }

    /// Whether it is a finite number so low that it leaves nothing of a masked key.
    pub(crate) fn huge(&self, name: &str) -> bool {
        self.number(name).is_some_and(|f| f <= HUGE)
    }

    /// Whether `m` is a leaf that is 1 where the condition `c` is true, and 0 elsewhere.
    pub(crate) fn truth_of(&self, m: &str, c: &str) -> bool {
        let truth = self.egraph.analysis.leaf(self.fact(m)).and_then(|l| l.truth);
        truth.is_some() && truth == self.fact(c).leaf
    }

    /// Whether `x` is known to stay what it is times `m`.
    pub(crate) fn unchanged_by(&self, x: &str, m: &str) -> bool {
        let product = self.egraph.lookup(Expr::Mul([self.id(x), self.id(m)]));
        product.is_some_and(|id| self.egraph.find(id) == self.egraph.find(self.id(x)))
    }

    /// The number by which a leaf multiplies, where it is not 0.
    pub(crate) fn switch(&self, m: &str) -> Option<f64> {
        self.egraph.analysis.leaf(self.fact(m)).and_then(|l| l.switch).map(super::term::Number::get)
    }

    /// Whether the logarithm of a number times another is 1, but for what f32 rounds.
    pub(crate) fn near_one(&self, c: &str, factor: &str) -> bool {
        let Some((c, factor)) = self.number(c).filter(|&c| c > 0.0).zip(self.number(factor)) else {
            return false;
        };
        (c.ln() * factor - 1.0).abs() <= f64::from(f32::EPSILON)
    }

    /// Whether these scores are computed in a half type.
    pub(crate) fn half_product(&self, q: &str, k: &str, scale: &str) -> bool {
        let scores = self.egraph.lookup(Expr::Scores([self.id(q), self.id(k), self.id(scale)]));
        scores.is_some_and(|id| self.egraph[id].data.half.is_some())
    }

    /// Whether the product of these scores and this factor is computed in a half type.
    pub(crate) fn half_factor(&self, x: &str, by: &str) -> bool {
        let product = self.egraph.lookup(Expr::Factor([self.id(x), self.id(by)]));
        product.is_some_and(|id| self.egraph[id].data.half.is_some())
    }

    /// Whether two factors of `x` one after the other are not known as one already. Factors that undo each other but for the last
    /// digit would become ever more of them.
    pub(crate) fn new_factor(&self, x: &str, a: &str, b: &str) -> bool {
        let Some(n) = self.number(a).zip(self.number(b)).map(|(a, b)| a * b) else { return false };
        let inner = self.egraph.lookup(Expr::Factor([self.id(x), self.id(a)]));
        let both = inner.and_then(|inner| self.egraph.lookup(Expr::Factor([inner, self.id(b)])));
        let Some(both) = both.map(|id| self.egraph.find(id)) else { return false };
        let of = self.egraph.find(self.id(x));
        let near = |m: f64| (m - n).abs() <= 1e-12 * n.abs();
        let known = |node: &Expr| match node {
            Expr::Factor([y, m]) => {
                let number = self.egraph[*m].data.number;
                self.egraph.find(*y) == of && number.is_some_and(|m| near(m.get()))
            }
            _ => false,
        };
        both != of && !self.egraph[both].nodes.iter().any(known)
    }

    /// Scores in normal form.
    pub(crate) fn normal(&self, name: &str) -> bool {
        self.fact(name).normal
    }

    /// Scores in normal form, perhaps with sinks.
    pub(crate) fn ready(&self, name: &str) -> bool {
        let f = self.fact(name);
        f.normal || f.sunk
    }

    /// The same, or with one more column.
    pub(crate) fn ready_or_joined(&self, name: &str) -> bool {
        self.ready(name) || self.fact(name).joined
    }

    /// A leaf that is the same for all keys of a row.
    pub(crate) fn row_leaf(&self, name: &str) -> bool {
        let f = self.fact(name);
        f.row && f.leaf.is_some()
    }

    /// A leaf that is the same for all rows of Q, but not for all keys.
    pub(crate) fn column_leaf(&self, name: &str) -> bool {
        let f = self.fact(name);
        !f.row && self.egraph.analysis.leaf(f).is_some_and(|l| l.column)
    }

    /// Made of scores, and the same for all keys of a row.
    pub(crate) fn of_rows(&self, name: &str) -> bool {
        let f = self.fact(name);
        f.row && f.score
    }

    /// Whether `m` is a number a row that x may lose without losing digits: of the order of its maximum. Fills of −1e9 in a mean
    /// or a least, or a multiple of a maximum, would round the scores away, and the result stay finite.
    pub(crate) fn peak(&self, x: &str, m: &str) -> bool {
        if !self.scores(x) || !self.of_rows(m) {
            return false;
        }
        let under = self.unmasked(self.id(x));
        let least = if self.fact(x).plain { Least::Mean } else { Least::Any };
        self.is_peak(&under, least, self.id(m), 0)
    }

    /// Whether `m` is a number a row that is not below any of `x`: no exponential of x − m is above 1.
    pub(crate) fn crest(&self, x: &str, m: &str) -> bool {
        if !self.peak(x, m) {
            return false;
        }
        // Masks only take scores away.
        let mut under = vec![self.egraph.find(self.id(x))];
        let mut next = 0;
        while let Some(&at) = under.get(next) {
            next += 1;
            for node in &self.egraph[at].nodes {
                if let Expr::Keep([y, _]) = node
                    && !under.contains(&self.egraph.find(*y))
                {
                    under.push(self.egraph.find(*y));
                }
            }
        }
        self.is_peak(&under, Least::Scores, self.id(m), 0)
    }

    /// Whether `m` is the maximum of `x`, or 0 where there is none: a sum of exponentials of x − m is 1 or more, or NaN.
    pub(crate) fn top(&self, x: &str, m: &str) -> bool {
        let x = self.egraph.find(self.id(x));
        let is =
            |n: &Expr| matches!(n, Expr::RowMax([y]) | Expr::RowMaxOrZero([y]) if self.egraph.find(*y) == x);
        self.egraph[x].data.score && self.egraph[self.id(m)].nodes.iter().any(is)
    }

    /// [`View::crest`], but not the maximum itself.
    pub(crate) fn crest_alone(&self, x: &str, m: &str) -> bool {
        self.crest(x, m) && !self.top(x, m)
    }

    /// [`View::peak`], but not the maximum itself.
    pub(crate) fn peak_alone(&self, x: &str, m: &str) -> bool {
        self.peak(x, m) && !self.top(x, m)
    }

    /// The classes of the scores `x` before masks and biases.
    fn unmasked(&self, x: Id) -> Vec<Id> {
        let mut all = vec![self.egraph.find(x)];
        let mut next = 0;
        while let Some(&at) = all.get(next) {
            next += 1;
            for node in &self.egraph[at].nodes {
                let inner = match node {
                    Expr::Keep([y, _]) | Expr::Replace([y, _, _]) | Expr::Floor([y, _]) => vec![*y],
                    Expr::Bias([y, _]) | Expr::Sink([y, _]) | Expr::Join([y, _]) | Expr::Drop([y]) => {
                        vec![*y]
                    }
                    Expr::Add([a, b]) | Expr::Max([a, b]) | Expr::Where([_, a, b]) => vec![*a, *b],
                    Expr::Sub([y, _]) | Expr::Narrow([y, _]) => vec![*y],
                    Expr::ToF32([y]) | Expr::ToF64([y]) => vec![*y],
                    _ => vec![],
                };
                for y in inner.into_iter().map(|y| self.egraph.find(y)) {
                    let fact = &self.egraph[y].data;
                    if fact.score && !fact.row && !all.contains(&y) {
                        all.push(y);
                    }
                }
            }
        }
        all
    }

    fn is_peak(&self, under: &[Id], least: Least, m: Id, depth: usize) -> bool {
        // Guards in guards; classes may hold themselves.
        const DEEPEST: usize = 4;
        let small =
            |y: &Id| self.egraph[*y].data.number.is_some_and(|n| n.get().abs() <= self.egraph.analysis.small);
        let peak = |y: &Id| depth < DEEPEST && self.is_peak(under, least, *y, depth + 1);
        let of = |y: &Id| under.contains(&self.egraph.find(*y));
        self.egraph[m].nodes.iter().any(|node| match node {
            Expr::RowMax([y]) | Expr::RowMaxOrZero([y]) => of(y),
            // Of finite scores without a fill.
            Expr::RowMean([y]) | Expr::RowMin([y]) => {
                least == Least::Mean && self.egraph.find(*y) == under[0]
            }
            Expr::Where([_, a, b]) if least != Least::Scores => {
                (small(a) || peak(a)) && (small(b) || peak(b)) && !(small(a) && small(b))
            }
            Expr::Max([a, b]) => {
                let below = |y: &Id| {
                    self.egraph[*y].data.number.is_some_and(|n| n.get() <= self.egraph.analysis.small)
                };
                (peak(a) && (below(b) || peak(b))) || (below(a) && peak(b))
            }
            Expr::Narrow([y, _]) | Expr::ToF32([y]) | Expr::ToF64([y]) => peak(y),
            _ => false,
        })
    }

    /// Scores as finite as Q and K are.
    pub(crate) fn finite(&self, name: &str) -> bool {
        self.fact(name).finite
    }

    /// Scores that are as finite as Q and K are, or as what they are multiplied by, which an attention does just as the graph does.
    pub(crate) fn alike(&self, name: &str) -> bool {
        self.fact(name).finite || self.fact(name).bare
    }

    /// Scores of which none is as low as a huge fill.
    pub(crate) fn above_fills(&self, name: &str) -> bool {
        self.fact(name).sizes.is_some_and(|s| s.large() == 0)
    }

    /// One number a row that is not −∞.
    pub(crate) fn above_infinity(&self, m: &str) -> bool {
        if !self.of_rows(m) {
            return false;
        }
        let id = self.id(m);
        let is = |node: &Expr| match node {
            Expr::RowMaxOrZero(_) => true,
            Expr::RowMax([x]) | Expr::RowMin([x]) | Expr::RowMean([x]) => {
                self.egraph[*x].data.finite || self.egraph[*x].data.plainly
            }
            Expr::Max([_, c]) => self.egraph[*c].data.number.is_some_and(|c| c.get().is_finite()),
            _ => false,
        };
        self.egraph[id].nodes.iter().any(is)
    }

    /// A number by which scores and what is subtracted from them may be multiplied apart: neither overflows.
    pub(crate) fn factor_of_shifted(&self, x: &str, c: &str) -> bool {
        let (f, Some(c)) = (self.fact(x), self.number(c)) else { return false };
        let small = f.plainly || f.sizes.is_some_and(|s| s.large() == 0);
        c.abs() <= 1.0 || (small && c.abs() <= MODERATE_FACTOR)
    }

    /// Scores that a type of so many digits holds, or what comes of exponentials.
    pub(crate) fn holds(&self, x: &str, digits: &str) -> bool {
        let Some(digits) = self.number(digits) else { return false };
        let f = self.fact(x);
        let fits = |s: super::term::Sizes| s.large() == 0 && (digits > 11.0 || s.moderate == 0);
        f.real && (f.plainly || f.weights || (f.normal && f.sizes.is_some_and(fits)))
    }

    /// Neither scores nor a number.
    pub(crate) fn outside(&self, name: &str) -> bool {
        let f = self.fact(name);
        !f.score && f.number.is_none()
    }
}

/// Whether a factor of it changes an exponent alone.
pub(crate) fn power_of_two(x: f64) -> bool {
    x.is_normal() && x.to_bits() & ((1 << 52) - 1) == 0
}

/// Whether `?k` is a leaf of 0 and 1.
pub(crate) fn binary(v: &View<'_>) -> bool {
    v.egraph.analysis.leaf(v.fact("?k")).is_some_and(|l| l.binary)
}

/// Whether the number `?c` is above 0 and does not change a sum of at least 1 to which it is added.
pub(crate) fn swallowed(v: &View<'_>) -> bool {
    v.number("?c").is_some_and(|c| c > 0.0 && c <= v.egraph.analysis.swallowed)
}

/// Whether the number `?c` is above 0, and not above 1.
pub(crate) fn at_most_one(v: &View<'_>) -> bool {
    v.number("?c").is_some_and(|c| c > 0.0 && c <= 1.0)
}

/// Whether `?m` and `?k` are leaves of 0 and 1, and one is 1 less the other.
pub(crate) fn complementary(v: &View<'_>) -> bool {
    let facts = &v.egraph.analysis;
    let (m, k) = (v.fact("?m"), v.fact("?k"));
    let (Some(one), Some(other)) = (facts.leaf(m), facts.leaf(k)) else { return false };
    let numbers = || {
        let ((axes, a), (others, b)) = (one.constant.as_ref()?, other.constant.as_ref()?);
        let truth = |x: f64| x == 0.0 || x == 1.0;
        let all = a.len() == b.len() && a.iter().zip(b).all(|(&a, &b)| truth(a) && a + b == 1.0);
        (axes == others && all).then_some(())
    };
    let is =
        |inverse: Option<(LeafId, f64)>, of: Option<LeafId>| of.is_some_and(|of| inverse == Some((of, 1.0)));
    let spelled = is(one.inverse, k.leaf) || is(other.inverse, m.leaf);
    spelled || numbers().is_some()
}

/// The fill of a multiplied mask: `m` is 0 or 1, and `a` (negated if `sign` is −1) is 0 where m is 1 and one number
/// where m is 0.
pub(crate) fn multiplied(v: &View<'_>, sign: f64) -> Option<f64> {
    if !v.normal("?x") {
        return None;
    }
    let facts = &v.egraph.analysis;
    let (m, a) = (facts.leaf(v.fact("?m"))?, facts.leaf(v.fact("?a"))?);
    if let Some((of, f)) = a.inverse {
        let fill = sign * f;
        return (Some(of) == v.fact("?m").leaf && fill.is_finite()).then_some(fill);
    }
    let ((ms, m), (as_, a)) = (m.constant.as_ref()?, a.constant.as_ref()?);
    if ms != as_ || !m.iter().all(|&x| x == 0.0 || x == 1.0) {
        return None;
    }
    let fill = sign * m.iter().zip(a).find(|(m, _)| **m == 0.0)?.1;
    let fits = m.iter().zip(a).all(|(&m, &a)| if m == 1.0 { a == 0.0 } else { sign * a == fill });
    (fits && fill.is_finite()).then_some(fill)
}
