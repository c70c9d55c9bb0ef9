//! Score programs: what they let skip, against every pair, and their text.

use crate::inside::support::programs::{build, drafts};
use crate::inside::support::scores::{Reading, dead, kept};
use annulus::ir::{DType, Factor, ScoreStep, Scores};
use annulus::layout::Progression;
use annulus::mask::{Fill, Mask, Term, Tile};
use proptest::prelude::*;

const BATCH: usize = 2;
const ROWS: usize = 14;

fn terms() -> impl Strategy<Value = Vec<Term>> + Clone {
    use proptest::collection::{btree_set, vec};
    let offset = || -6i64..7;
    let bound = || proptest::option::of(0u64..9);
    let documents = (btree_set(1usize..14, 0..4), offset())
        .prop_map(|(starts, offset)| Term::Segments { starts: starts.into_iter().collect(), offset });
    let one = prop_oneof![
        3 => offset().prop_map(|offset| Term::Causal { offset }),
        2 => (bound(), bound(), offset()).prop_map(|(left, right, offset)| Term::Window { left, right, offset }),
        1 => documents,
        1 => (0usize..9, offset()).prop_map(|(length, offset)| Term::Prefix { length, offset }),
        1 => (0usize..9, 0usize..12).prop_map(|(start, n)| Term::Keys { start, end: start + n }),
    ]
    .boxed();
    let own = proptest::option::weighted(0.2, vec(vec(one.clone(), 0..2), BATCH));
    let all = (vec(one, 0..3), own).prop_map(|(mut terms, own)| {
        terms.extend(own.map(|entries| Term::Batch { entries: entries.into() }));
        terms
    });
    all.boxed()
}

/// A program and how many tensors it reads.
fn programs() -> impl Strategy<Value = (Scores, usize)> {
    (drafts(terms()), any::<bool>()).prop_map(|(drafts, shared)| {
        let (scores, leaves) = build(&drafts, [BATCH, 1, ROWS, ROWS], 3, shared);
        (scores, leaves.len())
    })
}

fn progression() -> impl Strategy<Value = Progression> {
    (0usize..ROWS, 0usize..6, 1usize..4).prop_map(|(start, len, step)| Progression { start, len, step })
}

/// Whether a step makes a number of −∞.
fn undoes(step: &ScoreStep) -> bool {
    matches!(step, ScoreStep::Softcap(_) | ScoreStep::Fill(Mask { fill: Fill::Replace(_), .. }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Scores and tensors are any; a pair that is left out has a score of −∞ whatever they are.
    #[test]
    fn what_is_not_live_has_no_part_whatever_is_read(
        (scores, _) in programs(),
        product in prop_oneof![4 => -9.0f64..9.0, 1 => Just(f64::NAN), 1 => Just(1e300), 1 => Just(f64::INFINITY)],
        bits in any::<u64>(),
    ) {
        let steps = scores.steps();
        let number = |n: usize, b: usize, q: usize, k: usize| {
            let x = bits.rotate_left((n * 7 + b * 31 + q * 5 + k * 11) as u32 % 64);
            if x % 3 == 0 { 0.0 } else { (x % 64) as f64 - 32.0 }
        };
        for b in 0..BATCH {
            for (q, k) in (0..ROWS).flat_map(|q| (0..ROWS).map(move |k| (q, k))) {
                let read = |n| number(n, b, q, k);
                let live = scores.live().keeps(b, q, k);
                if !live {
                    let reading = Reading { steps, acc: DType::F64 };
                    let value = reading.score([b, q, k], product, 0.0, &read).value;
                    prop_assert_eq!(value, f64::NEG_INFINITY, "{}: {} × {}", scores, q, k);
                }
                prop_assert!(live || dead(steps, [b, q, k]), "{scores}");
                // And where nothing is undone nothing more could be left out.
                let simple = !steps.iter().any(undoes);
                prop_assert!(!simple || live != dead(steps, [b, q, k]), "{scores}: {q} × {k}");
            }
        }
    }

    #[test]
    fn tiles_are_true_of_every_pair((scores, _) in programs(), q in progression(), k in progression()) {
        let pairs = || (0..BATCH).flat_map(|b| q.rows().flat_map(move |q| k.rows().map(move |k| [b, q, k])));
        match scores.tile(&q, &k) {
            Tile::Skip => prop_assert!(pairs().all(|p| dead(scores.steps(), p)), "{scores} skips {q} × {k}"),
            Tile::Full => {
                // No tensor can be known to be true.
                let untouched = |m: &Mask| pairs().all(|p| kept(&m.terms, p, &|_| 0.0));
                prop_assert!(scores.masks().all(untouched), "{scores} is full in {q} × {k}");
            }
            Tile::Partial => prop_assert!(q.len > 0 && k.len > 0),
        }
        let none = Progression { len: 0, ..q };
        prop_assert_eq!(scores.tile(&none, &k), Tile::Skip);
    }

    #[test]
    fn a_program_prints_and_parses_back((scores, _) in programs(), x in any::<f64>(), n in any::<usize>()) {
        let mut steps = scores.steps().to_vec();
        if x.is_finite() {
            steps.push(ScoreStep::Factor(Factor::Number(x)));
            steps.push(ScoreStep::Add(n));
        }
        let scores = Scores::new(steps);
        let text = scores.to_string();
        prop_assert_eq!(text.parse::<Scores>().unwrap(), scores);
        let loose = format!("  {} ", text.replace(" | ", "|").replace(',', " , "));
        prop_assert_eq!(loose.parse::<Scores>().unwrap().to_string(), text);
    }

    /// A text with something left out, doubled or exchanged is another program or none, and never panics.
    #[test]
    fn a_damaged_program_is_refused_or_another(
        (scores, _) in programs(), at in any::<prop::sample::Index>(), with in "[ -~]{0,3}", cut in 0usize..4,
    ) {
        let text = scores.to_string();
        let begin = at.index(text.len() + 1);
        let end = (begin + cut).min(text.len());
        let damaged = format!("{}{with}{}", &text[..begin], &text[end..]);
        match damaged.parse::<Scores>() {
            Ok(other) => {
                // NaN is unlike itself.
                let again = other.to_string();
                prop_assert_eq!(again.parse::<Scores>().unwrap().to_string(), again);
            }
            Err(e) => prop_assert!(e.to_string().contains("is no step of the scores"), "{e}"),
        }
    }
}

#[test]
fn what_is_said_of_a_program() {
    let of = |text: &str| text.parse::<Scores>().unwrap();
    let all = of("factor 0.5 | fill -inf unless causal(0) | add 4 | factor 2.0 | softcap 3.0 | \
         fill add(-1.0) unless causal(0) & keys(2,9) | add 3 | fill -inf unless tensor(5)");
    assert_eq!((all.scale(), all.softcap()), (Some(1.0), 3.0));
    assert_eq!(all.added().collect::<Vec<_>>(), [4, 3]);
    assert_eq!(all.leaves().collect::<Vec<_>>(), [(4, false), (3, false), (5, true)]);
    assert_eq!(all.mask().to_string(), "causal(0) & keys(2,9) & tensor(5)");
    // The softcap makes numbers of what the first fill leaves out.
    assert_eq!(all.live().to_string(), "tensor(5)");
    let live = |text: &str| of(text).live().to_string();
    assert_eq!(
        live(
            "fill -inf unless causal(0) | factor -1.0 | add 3 | round f16 | fill add(-2.0) unless keys(0,2)"
        ),
        "causal(0)"
    );
    assert_eq!(live("fill -inf unless causal(0) | fill replace(-2.0) unless keys(0,2)"), "none");
    assert_eq!(live("fill replace(-2.0) unless keys(0,2) | fill -inf unless causal(0)"), "causal(0)");
    // A fill that keeps every pair is none.
    assert_eq!(live("fill -inf unless causal(0) | fill replace(-2.0) unless none"), "causal(0)");
    assert_eq!(of("fill add(-2.0) unless none").to_string(), "none");
    assert_eq!(of("factor leaf 3 | factor 2.0").scale(), None);
    assert_eq!(of("none").scale(), Some(1.0));
    let batch = of("fill -inf unless batch(causal(0); keys(1,2)) | softcap 1.0");
    assert!(batch.by_entry());
    assert_eq!(batch.of_entries(&[1]).to_string(), "fill -inf unless batch(keys(1,2)) | softcap 1.0");
}
