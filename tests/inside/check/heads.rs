//! What the head of a schedule says of its arenas, slots and labels: whatever of it is planted wrong is refused.

use super::case::Case;
use super::corpus::{corpus, example};
use crate::inside::support::cases::snapshot;
use crate::inside::support::layouts::layout_of;
use annulus::check::check;
use annulus::ir::{Strategy, parse};
use annulus::layout::{Layout, LayoutKind};
use annulus::mask::Mask;
use annulus::schedule::{Schedule, Slot, Step, StepOp, Stream, View};
use annulus::{Options, compile};
use rayon::prelude::*;
use std::fmt::Write;

/// A kind of fault of the head or of an arena, and the check that must name it.
struct Kind {
    name: &'static str,
    check: &'static str,
    plant: fn(&Case, &Schedule) -> Vec<Schedule>,
}

/// The same of each rank that has slots.
fn each_rank(s: &Schedule, change: impl Fn(&mut Schedule, usize)) -> Vec<Schedule> {
    let with = |r: usize| {
        let mut s = s.clone();
        change(&mut s, r);
        s
    };
    (0..s.ranks.len()).filter(|&r| !s.ranks[r].slots.is_empty()).map(with).collect()
}

fn exchanges(s: &Schedule) -> usize {
    let of = |s: &&Step| matches!(s.op, StepOp::Exchange { .. });
    s.ranks.iter().map(|r| r.steps.iter().filter(of).count()).sum()
}

/// Another slot behind all others.
fn more(s: &mut Schedule, r: usize, bytes: usize) -> usize {
    let rank = &mut s.ranks[r];
    let offset = rank.arena_bytes.next_multiple_of(256);
    rank.slots.push(Slot { name: "more".into(), offset, bytes });
    rank.arena_bytes = offset + bytes;
    rank.slots.len() - 1
}

const KINDS: &[Kind] = &[
    Kind {
        name: "the head says other receive slots",
        check: "memory",
        plant: |_, s| {
            let other = [0, 1, 2, 3, s.slots + 1, 1_000_000_000, usize::MAX];
            let with = |slots: usize| Schedule { slots, ..s.clone() };
            other.into_iter().filter(|&n| n != s.slots).map(with).collect()
        },
    },
    Kind {
        name: "an arena has bytes behind its last slot",
        check: "memory",
        plant: |_, s| {
            let bytes = [1, 255, 256, 1_000_000_000_000];
            bytes.iter().flat_map(|more| each_rank(s, |s, r| s.ranks[r].arena_bytes += more)).collect()
        },
    },
    Kind {
        name: "a slot begins later than it need",
        check: "memory",
        plant: |_, s| {
            let later = |by: usize| {
                each_rank(s, |s, r| {
                    s.ranks[r].slots.last_mut().unwrap().offset += by;
                    s.ranks[r].arena_bytes += by;
                })
            };
            [1, 256, 1 << 40].into_iter().flat_map(later).collect()
        },
    },
    Kind {
        name: "a slot is longer than what fills it",
        check: "memory",
        plant: |_, s| {
            let longer = |nth: usize| {
                each_rank(s, |s, r| {
                    let rank = &mut s.ranks[r];
                    let nth = nth.min(rank.slots.len() - 1);
                    rank.slots[nth].bytes += 1;
                    // Slots share bytes where there is no room between them.
                    rank.arena_bytes = rank.slots.iter().map(|s| s.offset + s.bytes).max().unwrap();
                })
            };
            (0..3).flat_map(longer).collect()
        },
    },
    Kind {
        name: "a slot is there that no step uses",
        check: "memory",
        plant: |_, s| {
            let unused = |bytes: usize| each_rank(s, |s, r| _ = more(s, r, bytes));
            [0, 1, 2048].into_iter().flat_map(unused).collect()
        },
    },
    Kind {
        name: "own keys are packed twice",
        check: "memory",
        plant: |_, s| {
            let packs = |s: &Step| match &s.op {
                StepOp::Pack { pieces } => Some(pieces.clone()),
                _ => None,
            };
            let mut out = vec![];
            for r in 0..s.ranks.len() {
                let Some(mut pieces) = s.ranks[r].steps.iter().find_map(packs) else { continue };
                let mut s = s.clone();
                let slot = more(&mut s, r, pieces.iter().map(|p| p.at.bytes).sum());
                let mut end = 0;
                for p in &mut pieces {
                    p.at = View { slot, start: end, bytes: p.at.bytes };
                    end += p.at.bytes;
                }
                let (waits, records, reason) = (vec![], None, String::new());
                let op = StepOp::Pack { pieces };
                s.ranks[r].steps.push(Step { stream: Stream::Compute, waits, records, op, reason });
                out.push(s);
            }
            out
        },
    },
    Kind {
        name: "the head names another strategy",
        check: "labels",
        plant: |_, s| {
            let ring = |strategy: Strategy| strategy.is_ring();
            // Without a message all are one, and between two ranks a ring has no direction.
            let one = |other| exchanges(s) == 0 || s.ranks.len() == 2 && ring(other) && ring(s.strategy);
            let other = Strategy::ALL.into_iter().filter(|&o| o != s.strategy && !one(o));
            other.map(|strategy| Schedule { strategy, ..s.clone() }).collect()
        },
    },
    Kind {
        name: "the head names another layout",
        check: "labels",
        plant: |case, s| {
            let mut out = vec![];
            for kind in LayoutKind::ALL {
                for queries in [true, false] {
                    let mut s = s.clone();
                    let all = s.attention.scores.mask();
                    let one = s.q_layout.rows == s.kv_layout.rows;
                    // Where every pair is computed, whatever the masks keep, rows are equal work.
                    let mask = if kind == LayoutKind::Document { &all } else { s.attention.scores.live() };
                    let made = layout_of(kind, &case.sizes, case.ranks, mask, queries || one);
                    let layout = if queries { &mut s.q_layout } else { &mut s.kv_layout };
                    // Documents that are none are zigzag.
                    if made.kind == kind && made.rows == layout.rows && has_documents(case, kind) {
                        continue;
                    }
                    layout.kind = kind;
                    out.push(s);
                }
            }
            out
        },
    },
];

fn has_documents(case: &Case, kind: LayoutKind) -> bool {
    kind != LayoutKind::Document || case.attention.scores.to_string().contains("segments")
}

/// The names that the schedules of the corpus have are those that were asked for.
#[test]
fn labels_are_kept_where_the_head_shows_them() {
    for (name, case, schedule) in corpus() {
        let named = |kind: LayoutKind, layout: &Layout| {
            // Whether more pairs are computed than masks keep.
            let scores = &schedule.attention.scores;
            let filled = scores.live().terms != scores.mask().terms;
            match kind {
                // Of one document.
                LayoutKind::Document if !has_documents(&case, kind) => layout.kind == LayoutKind::Zigzag,
                LayoutKind::Balanced if filled => [kind, LayoutKind::Given].contains(&layout.kind),
                _ => layout.kind == kind,
            }
        };
        assert!(named(case.q_kind, &schedule.q_layout), "{name}: {}", schedule.q_layout.kind);
        assert!(named(case.kv_kind, &schedule.kv_layout), "{name}: {}", schedule.kv_layout.kind);
    }
}

#[test]
fn messages() {
    let case = Case::new(32, 4, LayoutKind::Zigzag, Mask::causal(0));
    let mut out = String::new();
    let mut tell = |what: &str, s: &Schedule| {
        let _ = writeln!(out, "{what}");
        let failed = check(s).failed;
        assert!(!failed.is_empty(), "{what}");
        for f in failed.iter().take(2) {
            let _ =
                writeln!(out, "    {}: rank {}, step {}, {}: {}", f.check, f.rank, f.step, f.op, f.message);
        }
        if failed.len() > 2 {
            let _ = writeln!(out, "    and {} more", failed.len() - 2);
        }
    };
    let schedule = example();
    for kind in KINDS.iter().filter(|k| k.check == "memory") {
        let all = (kind.plant)(&case, &schedule);
        tell(kind.name, &all[all.len() / 2]);
    }
    for kind in LayoutKind::ALL.into_iter().filter(|k| *k != LayoutKind::Zigzag) {
        let mut s = schedule.clone();
        s.q_layout.kind = kind;
        tell(&format!("queries are called {kind}"), &s);
    }
    for made in Strategy::ALL {
        let schedule = case.schedule(made);
        for strategy in Strategy::ALL.into_iter().filter(|s| *s != made) {
            tell(&format!("{made} is called {strategy}"), &Schedule { strategy, ..schedule.clone() });
        }
    }
    snapshot("check", "planted_heads", &out);
}

/// Two layers of other masks on one sequence: it is dealt out for both, which neither shows alone. Equal ones show it.
#[test]
fn rows_that_other_attentions_ask_for_are_given() {
    let compiled = |masks: [&str; 2], layout: LayoutKind| {
        let text = format!(
            "graph \"two\" {{\n  input %x: f32[1,2,48,4]\n  \
             %a: f32[1,2,48,4] = attention %x, %x, %x {{scores=[factor 0.5 | fill -inf unless {}], acc=f32, empty=zero}}\n  \
             %b: f32[1,2,48,4] = attention %a, %a, %a {{scores=[factor 0.5 | fill -inf unless {}], acc=f32, empty=zero}}\n  \
             output \"out\" = %b\n}}\n",
            masks[0], masks[1]
        );
        let compiled = compile(&parse(&text).unwrap(), &Options::new(3).layout(layout)).unwrap();
        let kinds: Vec<LayoutKind> = compiled.islands.iter().map(|i| i.schedule.q_layout.kind).collect();
        let report = annulus::dump::report::report(&compiled);
        assert!(report.islands.iter().all(|i| i.layout == layout.name() && i.kv_layout == layout.name()));
        for island in &compiled.islands {
            assert_eq!(check(&island.schedule).failed, []);
            assert_eq!(island.schedule.kv_layout.kind, island.schedule.q_layout.kind);
        }
        kinds
    };
    use LayoutKind::{Balanced, Document, Given};
    assert_eq!(compiled(["causal(0)", "causal(0)"], Balanced), [Balanced]);
    assert_eq!(compiled(["causal(0)", "prefix(40;0)"], Balanced), [Given; 2]);
    assert_eq!(compiled(["segments(7;0)", "segments(7;0)"], Document), [Document]);
    assert_eq!(compiled(["segments(7,30;0)", "segments(7;0)"], Document), [Document, Given]);
    assert_eq!(compiled(["segments(7;0)", "causal(0)"], Document), [Document, Given]);
}

/// Left out while working: `--skip ::long::`.
mod long {
    use super::*;

    /// Each kind at every place of every few schedules of the corpus: none passes, and none that is not changed is refused.
    #[test]
    fn every_planted_head_is_refused() {
        let corpus = corpus();
        let counts: Vec<[usize; KINDS.len()]> = corpus
            .par_iter()
            .skip(3)
            .step_by(6)
            .map(|(name, case, schedule)| {
                assert_eq!(check(schedule).failed, [], "{name}");
                let mut counts = [0; KINDS.len()];
                for (kind, count) in KINDS.iter().zip(&mut counts) {
                    for planted in (kind.plant)(case, schedule) {
                        assert_ne!(&planted, schedule, "{} in {name}", kind.name);
                        let report = check(&planted);
                        let told = report.failed.iter().any(|f| f.check == kind.check);
                        assert!(told, "{} in {name}: {:?}\n{planted}", kind.name, report.failed);
                        *count += 1;
                    }
                }
                counts
            })
            .collect();
        for (i, kind) in KINDS.iter().enumerate() {
            let planted: usize = counts.iter().map(|c| c[i]).sum();
            assert!(planted >= 100, "{}: {planted}", kind.name);
        }
    }
}
