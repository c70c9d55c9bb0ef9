//! Whatever a file says, the proof ends and does not panic.

use super::case::Case;
use super::corpus::{example, travelling};
use super::right::CHECKS;
use super::sound::computes;
use super::travel::OF_NO_STRATEGY;
use annulus::check::{MOST_FAILURES, check};
use annulus::schedule::{Schedule, parse};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::sync::OnceLock;

/// No bound is lent to a strategy by another name: a text that names one is no schedule.
#[test]
fn a_strategy_without_a_bound_is_refused() {
    let text = example().to_string();
    assert!(check(&parse(&text).unwrap()[0]).failed.is_empty());
    let other = text.replacen(" ring ", " foo ", 1);
    assert_ne!(other, text);
    let error = parse(&other).unwrap_err().rendered;
    assert!(
        error.contains(
            "want one of ring, ring-reverse, all-gather, all-gather-staged, queries, heads, found `foo`"
        ),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    /// Numbers of a right schedule are changed at random.
    #[test]
    fn strange_numbers_are_reported(changes in changes()) {
        let text = changed(example().to_string(), changes);
        if let Ok(schedules) = parse(&text) {
            let report = check(&schedules[0]);
            prop_assert!(report.failed.len() <= MOST_FAILURES);
            prop_assert!(!report.failed.is_empty() || report.passed.len() == CHECKS.len());
        }
    }

    /// The same where queries and heads travel; what is found right there is computed, and the rest is refused, or runs to its end.
    #[test]
    fn strange_numbers_of_what_travels_are_reported(changes in changes(), which in any::<Index>()) {
        static ALL: OnceLock<Vec<(String, Case, Schedule)>> = OnceLock::new();
        let all = ALL.get_or_init(travelling);
        let (_, case, schedule) = &all[which.index(all.len())];
        let text = changed(schedule.to_string(), changes);
        if let Ok(schedules) = parse(&text) {
            let report = check(&schedules[0]);
            prop_assert!(report.failed.len() <= MOST_FAILURES);
            let ran = computes(case, &schedules[0], 7);
            let told = |f: &annulus::check::Failure| !OF_NO_STRATEGY.contains(&f.check);
            // How large arenas are is the business of `memory`.
            let large = ran.as_ref().is_err_and(|e| e.contains("the island can use"));
            if !report.failed.iter().any(told) && report.failed.len() < MOST_FAILURES {
                prop_assert!(ran.is_ok() || large, "{:?}", ran);
            }
        }
    }
}

/// Where a number is changed, and what it becomes.
pub(crate) fn changes() -> impl Strategy<Value = Vec<(Index, usize)>> {
    let large =
        vec![0usize, 1, 2, 3, 1 << 31, usize::MAX / 2, usize::MAX / 2 + 1, usize::MAX - 1, usize::MAX];
    let number = prop_oneof![select(large), 0usize..40, any::<usize>()];
    proptest::collection::vec((any::<Index>(), number), 1..4)
}

/// Numbers behind the head are changed.
pub(crate) fn changed(mut text: String, changes: Vec<(Index, usize)>) -> String {
    let body = text.find("q_layout").unwrap();
    for (at, number) in changes {
        let numbers: Vec<usize> = text
            .char_indices()
            .filter(|&(i, c)| {
                c.is_ascii_digit()
                    && i > body
                    && !text[..i].ends_with(|c: char| c.is_ascii_digit() || c == '#')
            })
            .map(|(i, _)| i)
            .collect();
        let begin = numbers[at.index(numbers.len())];
        let end = begin + text[begin..].find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len() - begin);
        text.replace_range(begin..end, &number.to_string());
    }
    text
}

#[test]
fn huge_sizes_are_counted_or_refused() {
    let mut schedule = example();
    for (i, huge) in [1usize << 62, usize::MAX, usize::MAX / 2].into_iter().enumerate() {
        schedule.attention.sizes.batch = if i == 0 { huge } else { 1 };
        schedule.attention.sizes.q_len = if i == 1 { huge } else { 32 };
        schedule.attention.sizes.v_head_dim = if i == 2 { huge } else { 3 };
        assert_eq!(check(&schedule).failed[0].check, "form");
    }
}

#[test]
fn no_more_faults_are_told_than_anyone_reads() {
    let mut schedule = example();
    for rank in &mut schedule.ranks {
        for step in &mut rank.steps {
            step.waits = (100..200).collect();
        }
    }
    assert_eq!(check(&schedule).failed.len(), MOST_FAILURES);
}
