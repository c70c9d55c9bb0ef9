//! What a rewrite rule is.

use super::condition::{View, var};
#[cfg(test)]
use super::examples::{Dice, Example};
use super::term::{Expr, Facts, Number};
use crate::find::types::Numerics;
use egg::{Applier, EGraph, Id, Pattern, PatternAst, Rewrite, Subst, Symbol};

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
    /// The pattern that it replaces.
    pub(crate) left: &'static str,
    /// What stands in its place.
    pub(crate) right: &'static str,
    /// Whether it applies.
    pub(crate) when: fn(&View<'_>) -> bool,
    /// The number `?n` of the right side; without one the rule does not apply. `None`: the right side has no `?n`.
    pub(crate) number: Option<fn(&View<'_>) -> Option<f64>>,
    /// What must hold besides of the region in which it was used, and is asked where that is known.
    pub(crate) guard: Option<Guard>,
    /// Where the left side is no number although the right side is one, for finite Q, K and V: nothing behind the attention may see it.
    pub(crate) hides: &'static [Hidden],
    /// Random instances of the left side.
    #[cfg(test)]
    pub(crate) example: Generator,
}

/// What must hold of a region in which a rule was used, beyond what the rule itself can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Scores stay so small that the logarithm of a sum is not lost beside them: neither a finite fill nor a large bias.
    KeepsLogarithm,
    /// No exponential is of f16, in which it overflows above 11 where its maximum was not subtracted.
    ExponentialsInRange,
}

/// What a graph gives as NaN (or ±∞) where the attention in its place gives a number, though Q, K and V are finite.
///
/// Where the outputs of the graph are not finite either, that changes nothing that counts. Where something behind the attention turns it
/// into a number, as IsNaN or a comparison do, the rule may be used only if it is proved not to happen
/// ([`observers`](crate::find::observers)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// Exponentials of scores from which the maximum of their row was not subtracted: they overflow, or all of a row underflow.
    Exponentials,
    /// The logarithm of a sum of exponentials that all underflowed: −∞, which makes infinite probabilities.
    Logarithms,
    /// A row without a key, which has no maximum.
    EmptyRows,
    /// A row of which another mask leaves no key than the one by which zeros are chosen.
    RowsOfOthers,
    /// A score of +∞ that a mask leaves out, but not the number that was subtracted from all scores.
    Infinities,
    /// A score of −∞ that is multiplied by 0 or by a number below it.
    Factors,
}

/// Applies the right side after the condition has been asked.
struct Conditional {
    right: Pattern<Expr>,
    when: fn(&View<'_>) -> bool,
    number: Option<fn(&View<'_>) -> Option<f64>>,
}

impl Applier<Expr, Facts> for Conditional {
    fn apply_one(
        &self,
        egraph: &mut EGraph<Expr, Facts>,
        eclass: Id,
        subst: &Subst,
        searcher_ast: Option<&PatternAst<Expr>>,
        rule_name: Symbol,
    ) -> Vec<Id> {
        let view = View { egraph, subst };
        if !(self.when)(&view) {
            return vec![];
        }
        let Some(number) = self.number else {
            return self.right.apply_one(egraph, eclass, subst, searcher_ast, rule_name);
        };
        let Some(n) = number(&view) else { return vec![] };
        let mut subst = subst.clone();
        let id = egraph.add(Expr::Number(Number::new(n)));
        subst.insert(var("?n"), id);
        self.right.apply_one(egraph, eclass, &subst, searcher_ast, rule_name)
    }
}

impl Rule {
    /// The rule as egg runs it.
    pub(crate) fn rewrite(&self) -> Rewrite<Expr, Facts> {
        let left: Pattern<Expr> = self.left.parse().expect("the left side of a rule parses");
        let right: Pattern<Expr> = self.right.parse().expect("the right side of a rule parses");
        Rewrite::new(self.name, left, Conditional { right, when: self.when, number: self.number })
            .expect("the right side uses variables of the left")
    }
}

/// The value of a part of a rule that may be left out.
macro_rules! given {
    (; $default:expr) => {
        $default
    };
    ($given:expr; $default:expr) => {
        $given
    };
}
pub(crate) use given;

/// A list of rules: name, class, left side => right side; the number `?n` of the right side, a condition, a guard and what the left
/// side hides, where there are any; what it does; a generator of examples.
macro_rules! rules {
    ($(#[$doc:meta])* $list:ident: $($name:literal $numerics:ident $left:literal => $right:literal
        $(, n = $number:expr)? $(, if $when:expr)? $(, guard $guard:ident)? $(, hides $($hidden:ident)+)?;
        $what:literal; $example:expr;)*) => {
        $(#[$doc])*
        pub(crate) const $list: &[crate::find::algebra::rule::Rule] = &[$(crate::find::algebra::rule::Rule {
            name: $name,
            what: $what,
            numerics: crate::find::types::Numerics::$numerics,
            left: $left,
            right: $right,
            when: crate::find::algebra::rule::given!($($when)?; |_| true),
            number: crate::find::algebra::rule::given!($(Some($number))?; None),
            guard: crate::find::algebra::rule::given!($(Some(crate::find::algebra::rule::Guard::$guard))?; None),
            hides: &[$($(crate::find::algebra::rule::Hidden::$hidden),+)?],
            #[cfg(test)]
            example: $example,
        },)*];
    };
}
pub(crate) use rules;
