//! What a rewrite rule is, and what its side condition may ask.

#[cfg(test)]
use super::examples::{Dice, Example};
use super::term::{Facts, Term};
use crate::find::types::Numerics;
use egg::{Applier, EGraph, Id, Pattern, PatternAst, Rewrite, Subst, Symbol, Var};

/// What a generator of examples takes and gives.
#[cfg(test)]
pub(crate) type Generator = fn(&mut Dice) -> Example;

/// A rewrite rule.
pub(crate) struct Rule {
    /// Its name, as `--explain` prints it.
    pub(crate) name: &'static str,
    /// What it does, for the reader.
    pub(crate) what: &'static str,
    /// How far it changes numbers.
    pub(crate) numerics: Numerics,
    pub(crate) left: &'static str,
    pub(crate) right: &'static str,
    /// Computes the number `?n` of the right side and decides whether the rule applies.
    pub(crate) when: When,
    /// Random instances of the left side.
    #[cfg(test)]
    pub(crate) example: Generator,
}

/// A side condition. `None`: the rule does not apply. `Some(x)`: it does, and `?n` is x.
pub(crate) type When = fn(&View<'_>) -> Option<f64>;

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
    pub(crate) egraph: &'a EGraph<Term, Facts>,
    subst: &'a Subst,
}

impl View<'_> {
    pub(crate) fn fact(&self, name: &str) -> &crate::find::algebra::term::Fact {
        let var: Var = name.parse().expect("names of variables begin with ?");
        &self.egraph[self.subst[var]].data
    }

    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        self.fact(name).number.map(crate::find::algebra::term::Number::get).filter(|x| x.is_finite())
    }

    pub(crate) fn normal(&self, name: &str) -> Option<f64> {
        self.fact(name).normal.then_some(0.0)
    }

    /// Scores in normal form, perhaps with sinks.
    pub(crate) fn ready(&self, name: &str) -> Option<f64> {
        let f = self.fact(name);
        (f.normal || f.sunk).then_some(0.0)
    }

    /// The same, or with one more column.
    pub(crate) fn ready_or_joined(&self, name: &str) -> Option<f64> {
        self.ready(name).or(self.fact(name).joined.then_some(0.0))
    }

    /// A leaf that is the same for all keys of a row.
    pub(crate) fn row_leaf(&self, name: &str) -> Option<f64> {
        let f = self.fact(name);
        (f.row && f.leaf.is_some()).then_some(0.0)
    }

    /// A leaf that is the same for all rows of Q, but not for all keys.
    pub(crate) fn column_leaf(&self, name: &str) -> Option<f64> {
        let f = self.fact(name);
        let column = self.egraph.analysis.leaf(f)?.column;
        (column && !f.row).then_some(0.0)
    }

    /// Made of scores, and the same for all keys of a row.
    pub(crate) fn of_rows(&self, name: &str) -> Option<f64> {
        let f = self.fact(name);
        (f.row && f.score).then_some(0.0)
    }

    /// Whether `m` is a number a row that x may lose without losing digits: of the order of its maximum. Fills of −1e9 in a mean
    /// or a least, or a multiple of a maximum, would round the scores away, and the result stay finite.
    pub(crate) fn peak(&self, x: &str, m: &str) -> Option<f64> {
        self.fact(x).score.then_some(0.0).and(self.of_rows(m))?;
        let id = |name: &str| self.subst[name.parse::<Var>().expect("names of variables begin with ?")];
        let under = self.unmasked(id(x));
        let least = if self.fact(x).plain { Least::Mean } else { Least::Any };
        self.is_peak(&under, least, id(m), 0).then_some(0.0)
    }

    /// Whether `m` is a number a row that is not below any of `x`: no exponential of x − m is above 1.
    pub(crate) fn crest(&self, x: &str, m: &str) -> Option<f64> {
        self.peak(x, m)?;
        let id = |name: &str| self.subst[name.parse::<Var>().expect("names of variables begin with ?")];
        // Masks only take scores away.
        let mut under = vec![self.egraph.find(id(x))];
        let mut next = 0;
        while let Some(&at) = under.get(next) {
            next += 1;
            for node in &self.egraph[at].nodes {
                if let Term::Keep([y, _]) = node
                    && !under.contains(&self.egraph.find(*y))
                {
                    under.push(self.egraph.find(*y));
                }
            }
        }
        self.is_peak(&under, Least::Scores, id(m), 0).then_some(0.0)
    }

    /// Whether `m` is the maximum of `x`, or 0 where there is none: a sum of exponentials of x − m is 1 or more, or NaN.
    pub(crate) fn top(&self, x: &str, m: &str) -> Option<f64> {
        let id = |name: &str| self.subst[name.parse::<Var>().expect("names of variables begin with ?")];
        let x = self.egraph.find(id(x));
        let is =
            |n: &Term| matches!(n, Term::RowMax([y]) | Term::RowMaxOrZero([y]) if self.egraph.find(*y) == x);
        (self.egraph[x].data.score && self.egraph[id(m)].nodes.iter().any(is)).then_some(0.0)
    }

    /// [`View::crest`], but not the maximum itself.
    pub(crate) fn crest_alone(&self, x: &str, m: &str) -> Option<f64> {
        self.crest(x, m).filter(|_| self.top(x, m).is_none())
    }

    /// [`View::peak`], but not the maximum itself.
    pub(crate) fn peak_alone(&self, x: &str, m: &str) -> Option<f64> {
        self.peak(x, m).filter(|_| self.top(x, m).is_none())
    }

    /// The classes of the scores `x` before masks and biases.
    fn unmasked(&self, x: Id) -> Vec<Id> {
        let mut all = vec![self.egraph.find(x)];
        let mut next = 0;
        while let Some(&at) = all.get(next) {
            next += 1;
            for node in &self.egraph[at].nodes {
                let inner = match node {
                    Term::Keep([y, _]) | Term::Replace([y, _, _]) | Term::Floor([y, _]) => vec![*y],
                    Term::Bias([y, _]) | Term::Sink([y, _]) | Term::Join([y, _]) | Term::Drop([y]) => {
                        vec![*y]
                    }
                    Term::Add([a, b]) | Term::Max([a, b]) | Term::Where([_, a, b]) => vec![*a, *b],
                    Term::Sub([y, _]) | Term::Narrow([y, _]) => vec![*y],
                    Term::ToF32([y]) | Term::ToF64([y]) => vec![*y],
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
            Term::RowMax([y]) | Term::RowMaxOrZero([y]) => of(y),
            // Of finite scores without a fill.
            Term::RowMean([y]) | Term::RowMin([y]) => {
                least == Least::Mean && self.egraph.find(*y) == under[0]
            }
            Term::Where([_, a, b]) if least != Least::Scores => {
                (small(a) || peak(a)) && (small(b) || peak(b)) && !(small(a) && small(b))
            }
            Term::Max([a, b]) => {
                let below = |y: &Id| {
                    self.egraph[*y].data.number.is_some_and(|n| n.get() <= self.egraph.analysis.small)
                };
                (peak(a) && (below(b) || peak(b))) || (below(a) && peak(b))
            }
            Term::Narrow([y, _]) | Term::ToF32([y]) | Term::ToF64([y]) => peak(y),
            _ => false,
        })
    }

    /// Scores as finite as Q and K are.
    pub(crate) fn finite(&self, name: &str) -> Option<f64> {
        self.fact(name).finite.then_some(0.0)
    }

    /// Scores of which none is as low as a huge fill.
    pub(crate) fn above_fills(&self, name: &str) -> Option<f64> {
        (self.fact(name).sizes?.large() == 0).then_some(0.0)
    }

    /// One number a row that is not −∞.
    pub(crate) fn above_infinity(&self, m: &str) -> Option<f64> {
        self.of_rows(m)?;
        let id = self.subst[m.parse::<Var>().expect("names of variables begin with ?")];
        let is = |node: &Term| match node {
            Term::RowMaxOrZero(_) => true,
            Term::RowMax([x]) | Term::RowMin([x]) | Term::RowMean([x]) => {
                self.egraph[*x].data.finite || self.egraph[*x].data.plainly
            }
            Term::Max([_, c]) => self.egraph[*c].data.number.is_some_and(|c| c.get().is_finite()),
            _ => false,
        };
        self.egraph[id].nodes.iter().any(is).then_some(0.0)
    }

    /// A number by which scores and what was added to them may be multiplied apart: nothing of what one swallowed comes back,
    /// and a sum of two that overflowed still does.
    pub(crate) fn factor_of_both(&self, x: &str, b: &str, c: &str) -> Option<f64> {
        let c = self.number(c).filter(|&c| c != 1.0)?;
        let (x, b) = (self.fact(x).sizes?, self.fact(b).sizes?);
        let large = x.large().saturating_add(b.large());
        let known = x.unknown == 0 && b.unknown == 0;
        ((known && (c.abs() >= 1.0 || large <= 1)) || (power_of_two(c.abs()) && large <= 1)).then_some(0.0)
    }

    /// A number by which scores and what is subtracted from them may be multiplied apart: neither overflows.
    pub(crate) fn factor_of_shifted(&self, x: &str, c: &str) -> Option<f64> {
        let (f, c) = (self.fact(x), self.number(c)?);
        let small = f.plainly || f.sizes.is_some_and(|s| s.large() == 0);
        (c.abs() <= 1.0 || (small && c.abs() <= 1e3)).then_some(0.0)
    }

    /// Scores that a type of so many digits holds, or what comes of exponentials.
    pub(crate) fn holds(&self, x: &str, digits: &str) -> Option<f64> {
        let digits = self.number(digits)?;
        let f = self.fact(x);
        let fits =
            |s: crate::find::algebra::term::Sizes| s.large() == 0 && (digits > 11.0 || s.moderate == 0);
        (f.real && (f.plainly || f.weights || (f.normal && f.sizes.is_some_and(fits)))).then_some(0.0)
    }

    /// Neither scores nor a number.
    pub(crate) fn outside(&self, name: &str) -> Option<f64> {
        let f = self.fact(name);
        (!f.score && f.number.is_none()).then_some(0.0)
    }
}

/// Applies the right side after the condition has been asked.
struct Conditional {
    right: Pattern<Term>,
    when: When,
}

impl Applier<Term, Facts> for Conditional {
    fn apply_one(
        &self,
        egraph: &mut EGraph<Term, Facts>,
        eclass: Id,
        subst: &Subst,
        searcher_ast: Option<&PatternAst<Term>>,
        rule_name: Symbol,
    ) -> Vec<Id> {
        let Some(n) = (self.when)(&View { egraph, subst }) else { return vec![] };
        let mut subst = subst.clone();
        let var: Var = "?n".parse().expect("a variable");
        let id = egraph.add(Term::Number(crate::find::algebra::term::Number::new(n)));
        subst.insert(var, id);
        self.right.apply_one(egraph, eclass, &subst, searcher_ast, rule_name)
    }
}

impl Rule {
    /// The rule as egg runs it.
    pub(crate) fn rewrite(&self) -> Rewrite<Term, Facts> {
        let left: Pattern<Term> = self.left.parse().expect("the left side of a rule parses");
        let right: Pattern<Term> = self.right.parse().expect("the right side of a rule parses");
        Rewrite::new(self.name, left, Conditional { right, when: self.when })
            .expect("the right side uses variables of the left")
    }
}

pub(crate) const ALWAYS: When = |_| Some(0.0);

/// A list of rules: name, class, left side => right side, condition; what it does; a generator of examples.
macro_rules! rules {
    ($(#[$doc:meta])* $list:ident: $($name:literal $numerics:ident $left:literal => $right:literal if $when:expr;
        $what:literal; $example:expr;)*) => {
        $(#[$doc])*
        pub(crate) const $list: &[Rule] = &[$(Rule {
            name: $name,
            what: $what,
            numerics: crate::find::types::Numerics::$numerics,
            left: $left,
            right: $right,
            when: $when,
            #[cfg(test)]
            example: $example,
        },)*];
    };
}
pub(crate) use rules;

pub(crate) fn power_of_two(x: f64) -> bool {
    x.is_normal() && x.to_bits() & ((1 << 52) - 1) == 0
}

/// Whether `?k` is a leaf of 0 and 1.
pub(crate) fn binary(v: &View<'_>) -> Option<f64> {
    v.egraph.analysis.leaf(v.fact("?k"))?.binary.then_some(0.0)
}

/// Whether the number `?c` is above 0 and does not change a sum of at least 1 to which it is added.
pub(crate) fn swallowed(v: &View<'_>) -> Option<f64> {
    v.number("?c").filter(|&c| c > 0.0 && c <= v.egraph.analysis.swallowed)
}

/// Whether the number `?c` is above 0, and not above 1.
pub(crate) fn at_most_one(v: &View<'_>) -> Option<f64> {
    v.number("?c").filter(|&c| c > 0.0 && c <= 1.0)
}

/// Whether `?m` and `?k` are leaves of 0 and 1, and one is 1 less the other.
pub(crate) fn complementary(v: &View<'_>) -> Option<f64> {
    let facts = &v.egraph.analysis;
    let (m, k) = (v.fact("?m"), v.fact("?k"));
    let (one, other) = (facts.leaf(m)?, facts.leaf(k)?);
    let numbers = || {
        let ((axes, a), (others, b)) = (one.constant.as_ref()?, other.constant.as_ref()?);
        let truth = |x: f64| x == 0.0 || x == 1.0;
        let all = a.len() == b.len() && a.iter().zip(b).all(|(&a, &b)| truth(a) && a + b == 1.0);
        (axes == others && all).then_some(())
    };
    let spelled = one.inverse == Some((k.leaf?, 1.0)) || other.inverse == Some((m.leaf?, 1.0));
    (spelled || numbers().is_some()).then_some(0.0)
}

/// The fill of a multiplied mask: `m` is 0 or 1, and `a` (negated if `sign` is −1) is 0 where m is 1 and one number
/// where m is 0.
pub(crate) fn multiplied(v: &View<'_>, sign: f64) -> Option<f64> {
    v.normal("?x")?;
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
