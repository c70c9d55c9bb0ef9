//! rules: what leads a written-out attention to its normal form, one topic a file.
//!
//! Each rule rewrites in one direction, towards the normal form of [`term`](super::term), and says how far it changes numbers.
//! Each carries a generator of random examples; a test evaluates both sides of every example. README.md in this folder says how a
//! rule is added.

mod casts;
mod empty_rows;
mod masks;
mod scale;
mod sinks;
mod softmax;

use super::rule::Rule;
use super::term::{Expr, Facts};
use egg::Rewrite;
use std::sync::LazyLock;

/// Every rule, in the order in which they run.
pub(crate) fn all() -> impl Iterator<Item = &'static Rule> {
    [scale::RULES, casts::RULES, masks::RULES, empty_rows::RULES, sinks::RULES, softmax::RULES]
        .into_iter()
        .flatten()
}

/// The rules as egg runs them, in the order of [`all`]: parsed once.
pub(super) static REWRITES: LazyLock<Vec<Rewrite<Expr, Facts>>> =
    LazyLock::new(|| all().map(Rule::rewrite).collect());

#[cfg(test)]
mod tests {
    use super::all;
    use std::collections::BTreeSet;

    /// An explanation names a rule, and the rule's guard is asked.
    #[test]
    fn no_two_rules_have_one_name() {
        let names: BTreeSet<&str> = all().map(|r| r.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(all().filter(|r| r.guard.is_some()).count() >= 5);
    }
}
