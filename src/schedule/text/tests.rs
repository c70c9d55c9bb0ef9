//! Round trips of random schedules, and texts that are cut or changed at random.

use super::chars::unsafe_to_show;
use super::parse;
use crate::ir::{AttentionSizes, DType, Dropout, EmptyRow, Factor, ScoreStep, Scores};
use crate::layout::{Layout, LayoutKind, Progression};
use crate::mask::{Fill, Mask, Term, Tile};
use crate::schedule::{
    AttentionFacts, Block, ExchangeKind, Heads, KvPiece, Leaf, Merged, Mesh, MeshAxis, Packed, Place, Port,
    QPiece, RankProgram, SLOTS, Schedule, Slot, Step, StepOp, Stream, Transfer, View,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z.]{1,6}", "\\PC{0,6}", vec(any::<char>(), 0..6).prop_map(|c| c.into_iter().collect())]
}

fn number() -> impl Strategy<Value = usize> {
    prop_oneof![0usize..100, any::<usize>()]
}

fn progression() -> impl Strategy<Value = Progression> {
    (number(), number(), prop_oneof![Just(1usize), number()]).prop_map(|(start, len, step)| Progression {
        start,
        len,
        step,
    })
}

fn view() -> impl Strategy<Value = View> {
    (0usize..4, number(), number()).prop_map(|(slot, start, bytes)| View { slot, start, bytes })
}

fn layout() -> impl Strategy<Value = Layout> {
    (select(LayoutKind::ALL.to_vec()), number(), vec(vec(progression(), 0..3), 0..20))
        .prop_map(|(kind, length, rows)| Layout { kind, length, rows })
}

fn mask() -> impl Strategy<Value = Mask> {
    let positions = prop_oneof![
        any::<i64>().prop_map(|offset| Term::Causal { offset }),
        (option::of(any::<u64>()), option::of(any::<u64>()), any::<i64>())
            .prop_map(|(left, right, offset)| Term::Window { left, right, offset }),
        (number(), any::<i64>()).prop_map(|(length, offset)| Term::Prefix { length, offset }),
        (0usize..9, number()).prop_map(|(start, n)| Term::Keys { start, end: n.max(start) }),
    ];
    let batch = vec(vec(positions.clone(), 0..3), 1..4).prop_map(|e| Term::Batch { entries: e.into() });
    let term = prop_oneof![
        4 => positions,
        1 => number().prop_map(|operand| Term::Tensor { operand }),
        1 => batch,
    ];
    let fill =
        prop_oneof![Just(Fill::NegInf), finite().prop_map(Fill::Add), finite().prop_map(Fill::Replace)];
    (vec(term, 0..3), fill).prop_map(|(terms, fill)| Mask {
        // Without a term nothing is filled, and the text of a mask does not say with what.
        fill: if terms.is_empty() { Fill::NegInf } else { fill },
        terms,
    })
}

/// Steps of every kind in any order.
fn scores() -> impl Strategy<Value = Scores> {
    let step = prop_oneof![
        2 => finite().prop_map(|x| ScoreStep::Factor(Factor::Number(x))),
        1 => number().prop_map(|n| ScoreStep::Factor(Factor::Leaf(n))),
        1 => finite().prop_map(ScoreStep::Softcap),
        2 => number().prop_map(ScoreStep::Add),
        4 => mask().prop_map(ScoreStep::Fill),
        1 => select(DType::ALL.to_vec()).prop_map(ScoreStep::Round),
    ];
    vec(step, 0..7).prop_map(Scores::new)
}

fn finite() -> impl Strategy<Value = f64> {
    any::<f64>().prop_filter("finite", |x| x.is_finite())
}

/// Some heads; those of all, which the text leaves out, are put in by [`whole`].
fn heads() -> impl Strategy<Value = Heads> {
    (number(), number()).prop_map(|(start, len)| Heads { start, len })
}

fn block() -> impl Strategy<Value = Block> {
    let port =
        prop_oneof![select(vec![Port::Q, Port::Kv, Port::Out, Port::Lse]), number().prop_map(Port::Leaf),];
    (port, progression(), heads()).prop_map(|(port, rows, heads)| Block { port, rows, heads })
}

fn op() -> impl Strategy<Value = StepOp> {
    let kv = (progression(), heads(), option::of(view()));
    let kv = vec(kv.prop_map(|(rows, heads, at)| KvPiece { rows, heads, at }), 0..3);
    let place = || prop_oneof![view().prop_map(Place::Arena), block().prop_map(Place::Own)];
    let transfers = || {
        let one = (number(), vec(place(), 0..3)).prop_map(|(peer, parts)| Transfer { peer, parts });
        vec(one, 0..3)
    };
    let kind = select(ExchangeKind::ALL.to_vec());
    let packed = || vec((block(), view()).prop_map(|(block, at)| Packed { block, at }), 0..3);
    let views = || vec(view(), 0..3);
    let q = (progression(), heads(), views(), option::of(view()), views());
    let q = q.prop_map(|(rows, heads, at, carry, out)| QPiece { rows, heads, at, carry, out });
    let merged = (progression(), heads(), views(), option::of(view()), views())
        .prop_map(|(rows, heads, partials, carry, out)| Merged { rows, heads, partials, carry, out });
    let tile = select(vec![Tile::Full, Tile::Partial, Tile::Skip]);
    prop_oneof![
        packed().prop_map(|pieces| StepOp::Pack { pieces }),
        packed().prop_map(|pieces| StepOp::Unpack { pieces }),
        (vec(merged, 0..3), any::<[bool; 3]>()).prop_map(|(q, [carry_in, sinks_here, cast_out])| {
            StepOp::Merge { q, carry_in, sinks_here, cast_out }
        }),
        (number(), kind, option::of(number()), transfers(), transfers())
            .prop_map(|(group, kind, sms, sends, recvs)| StepOp::Exchange { group, kind, sms, sends, recvs }),
        (vec(q, 0..3), kv, tile, any::<[bool; 3]>()).prop_map(
            |(q, kv, tile, [carry_in, sinks_here, cast_out])| {
                StepOp::AttnPartial { q, kv, tile, carry_in, sinks_here, cast_out }
            }
        ),
    ]
}

fn program() -> impl Strategy<Value = RankProgram> {
    let slot = (name(), number(), number()).prop_map(|(name, offset, bytes)| Slot { name, offset, bytes });
    let stream = prop_oneof![
        1 => Just(Stream::Compute), 3 => (0usize..4).prop_map(Stream::Comm), 1 => number().prop_map(Stream::Comm)
    ];
    let step = (stream, vec(number(), 0..3), option::of(number()), op(), name())
        .prop_map(|(stream, waits, records, op, reason)| Step { stream, waits, records, op, reason });
    (number(), vec(slot, 0..4), vec(step, 0..5)).prop_map(|(arena_bytes, slots, steps)| RankProgram {
        arena_bytes,
        slots,
        steps,
    })
}

fn schedule() -> impl Strategy<Value = Schedule> {
    let dtype = || select(DType::ALL.to_vec());
    let sizes = vec(number(), 7).prop_map(|n| AttentionSizes {
        batch: n[0],
        q_heads: n[1],
        kv_heads: n[2],
        q_len: n[3],
        kv_len: n[4],
        head_dim: n[5],
        v_head_dim: n[6],
    });
    let leaf = (dtype(), [number(), number(), number(), number()], any::<bool>())
        .prop_map(|(dtype, shape, by_query_rows)| Leaf { dtype, shape, by_query_rows });
    let named = || option::of(number());
    let dropout =
        option::of((0.0f64..1.0, number(), any::<[bool; 2]>()).prop_map(
            |(ratio, seed, [same_batch, same_heads])| Dropout { ratio, seed, same_batch, same_heads },
        ));
    let facts = (sizes, dtype(), dtype(), scores(), (named(), dropout), any::<[bool; 2]>());
    let attention = (facts, vec(leaf, 0..3)).prop_map(
        |((sizes, dtype, acc, scores, (sinks, dropout), [nan, lse]), leaves)| AttentionFacts {
            sizes,
            dtype,
            acc,
            scores,
            sinks,
            dropout,
            empty_row: if nan { EmptyRow::Nan } else { EmptyRow::Zero },
            lse,
            leaves,
        },
    );
    let strategy = select(crate::ir::Strategy::ALL.to_vec());
    let slots = prop_oneof![1 => Just(SLOTS), 1 => number()];
    let axis = (prop_oneof![1 => Just("x".to_owned()), 3 => name()], number())
        .prop_map(|(name, size)| MeshAxis { name, size });
    let mesh = option::of(vec(axis, 1..4).prop_map(|axes| Mesh { axes }));
    let head = (name(), strategy, slots, mesh, any::<u64>());
    (head, attention, layout(), layout(), vec(program(), 0..4)).prop_map(
        |((name, strategy, slots, mesh, some), attention, q_layout, kv_layout, mut ranks)| {
            whole(&mut ranks, &attention, some);
            let mesh = mesh.unwrap_or_else(|| Mesh::flat(ranks.len()));
            Schedule { name, strategy, mesh, slots, attention, q_layout, kv_layout, ranks }
        },
    )
}

/// Some of the heads become all that there are.
fn whole(ranks: &mut [RankProgram], facts: &AttentionFacts, mut some: u64) {
    let mut visit = |port: Port, heads: &mut Heads| {
        if some & 1 == 1 {
            *heads = facts.heads_of(port);
        }
        some = some.rotate_right(1);
    };
    for step in ranks.iter_mut().flat_map(|r| &mut r.steps) {
        match &mut step.op {
            StepOp::Pack { pieces } | StepOp::Unpack { pieces } => {
                pieces.iter_mut().for_each(|p| visit(p.block.port, &mut p.block.heads));
            }
            StepOp::Exchange { sends, recvs, .. } => {
                for part in sends.iter_mut().chain(recvs).flat_map(|t| &mut t.parts) {
                    if let Place::Own(block) = part {
                        visit(block.port, &mut block.heads);
                    }
                }
            }
            StepOp::AttnPartial { q, kv, .. } => {
                q.iter_mut().for_each(|p| visit(Port::Q, &mut p.heads));
                kv.iter_mut().for_each(|p| visit(Port::Kv, &mut p.heads));
            }
            StepOp::Merge { q, .. } => q.iter_mut().for_each(|p| visit(Port::Q, &mut p.heads)),
        }
    }
}

/// Nothing in it moves a cursor or hides.
fn tame(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !unsafe_to_show(c))
}

proptest! {
    #[test]
    fn text_parses_back_to_the_same(schedules in vec(schedule(), 1..3)) {
        let text: String = schedules.iter().map(Schedule::to_string).collect();
        prop_assert!(tame(&text));
        let back = parse(&text).map_err(|e| TestCaseError::fail(e.rendered))?;
        prop_assert_eq!(back.iter().map(Schedule::to_string).collect::<String>(), text);
        prop_assert_eq!(back, schedules);
    }

    #[test]
    fn a_damaged_text_is_refused_or_read_but_never_a_panic(
        schedule in schedule(),
        hits in vec((any::<prop::sample::Index>(), any::<char>(), any::<bool>()), 1..4),
        cut in option::of(any::<prop::sample::Index>()),
    ) {
        let mut chars: Vec<char> = schedule.to_string().chars().collect();
        for (at, c, insert) in hits {
            let at = at.index(chars.len());
            if insert { chars.insert(at, c) } else { chars[at] = c }
        }
        if let Some(cut) = cut {
            chars.truncate(cut.index(chars.len()));
        }
        if let Err(e) = parse(&chars.into_iter().collect::<String>()) {
            prop_assert!(tame(&e.rendered), "{:?}", e.rendered);
        }
    }

    #[test]
    fn any_text_is_refused_or_read(text in any::<String>()) {
        prop_assert!(parse(&text).is_err_and(|e| tame(&e.rendered)));
    }
}

#[test]
fn the_usual_order_is_read_in_short() {
    let text = |facts: &str, scores: &str| {
        format!(
            "schedule \"s\" ring {{\n  attention q f32[1,1,2,1] k f32[1,1,2,1] v f32[1,1,2,1] acc f32{facts} sinks 4 empty zero\n  \
             {scores}\n  leaf 3 f32[1,1,2,2]\n  leaf 4 f32[1,1,1,1]\n  q_layout  contiguous 2 {{ 0:2 }}\n  kv_layout contiguous 2 {{ 0:2 }}\n}}\n"
        )
    };
    for (facts, mask, scores) in [
        (" scale 0.5", "none", "factor 0.5"),
        (" scale -1 softcap 30 bias 3", "none", "factor -1 | softcap 30 | add 3"),
        (
            " scale 2 bias 3",
            "causal(0) fill add(-1e4) // why",
            "factor 2 | add 3 | fill add(-10000.0) unless causal(0)",
        ),
    ] {
        let short = parse(&text(facts, &format!("mask {mask}"))).unwrap();
        assert_eq!(short, parse(&text("", &format!("scores {scores}"))).unwrap());
    }
    // One or the other.
    assert!(parse(&text(" scale 0.5", "scores none")).is_err());
    assert!(parse(&text("", "mask none")).is_err());
}

#[test]
fn every_prefix_of_a_schedule_is_refused() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let text = schedule().new_tree(&mut runner).unwrap().current().to_string();
    let end = text.trim_end().len();
    for (cut, _) in text.char_indices().take_while(|&(i, _)| i < end) {
        assert!(parse(&text[..cut]).is_err(), "{}", &text[..cut]);
    }
}

#[test]
fn a_long_line_is_shown_in_part() {
    let text = format!("schedule \"{}\" ring ?", "é".repeat(100_000));
    let shown = parse(&text).unwrap_err().rendered;
    assert!(shown.len() < 2_000, "{}", shown.len());
}

#[test]
fn errors() {
    let right = "schedule \"s\" ring {
  attention q f32[1,1,2,1] k f32[1,1,2,1] v f32[1,1,2,1] acc f32 empty zero
  scores factor 1.0 | fill -inf unless causal(0)
  q_layout  contiguous 2 { 0:2 }
  kv_layout contiguous 2 { 0:2 }

  rank 0 arena 16 {
    slot kv.local 0..16
    #0 compute  record e0  pack kv 0:2@kv.local[0..16]  // why
    #1 compute  attn_partial partial cast_out q 0:2 k 0:2@kv.local[0..16]
  }
}
";
    assert!(parse(right).is_ok());
    let damages = [
        ("schedule \"s\" ring", "schedule s ring"),
        ("\"s\"", "\"s"),
        ("\"s\"", "\"a\\qb\""),
        ("\"s\"", "\"\u{202e}\""),
        ("\"s\" ring", "\"s\" torus"),
        ("k f32[1,1,2,1]", "k f32[1,1,2,7]"),
        ("v f32[1,1,2,1]", "v f16[1,1,2,1]"),
        ("q f32[1,1,2,1]", "q f32[1,2,1]"),
        ("factor 1.0", "factor 1e"),
        ("factor 1.0", "factor leaf x"),
        ("factor 1.0", "factor"),
        ("factor 1.0", "times 1.0"),
        ("factor 1.0", "softcap"),
        ("factor 1.0", "add -1"),
        ("factor 1.0", "round f15"),
        ("factor 1.0 |", "factor 1.0 | |"),
        ("-inf unless", "replace(inf) unless"),
        ("-inf unless", "-inf if"),
        ("scores factor", "mask factor"),
        ("causal(0)", "causal(x)"),
        ("contiguous 2 { 0:2 }", "spiral 2 { 0:2 }"),
        ("{ 0:2 }", "{ 0:2, }"),
        ("rank 0", "rank 1"),
        ("arena 16", "arena 99999999999999999999999999999999999999999"),
        ("0..16", "16..0"),
        ("#1 compute", "#2 compute"),
        ("#1 compute", "#1 copy"),
        ("record e0", "record 0"),
        ("pack kv 0:2@kv.local[0..16]", "pack kv 0:2@kv.1[0..16]"),
        ("pack kv 0:2@kv.local[0..16]", "pack 0:2@kv.local[0..16]"),
        ("pack kv 0:2@kv.local[0..16]", "pack kv 0:2 h1..0@kv.local[0..16]"),
        ("pack kv 0:2@kv.local[0..16]", "pack leafx 0:2@kv.local[0..16]"),
        ("q 0:2 k", "q 0:2@kv.local[0..8]+ k"),
        ("q 0:2 k", "q 0:2 carry k"),
        ("q 0:2 k", "q 0:2 out none k"),
        ("attn_partial partial cast_out q 0:2 k 0:2@kv.local[0..16]", "merge cast_out q 0:2"),
        ("#1 compute", "#1 comm.node"),
        ("ring {", "ring mesh node {"),
        ("ring {", "ring mesh node 2 x {"),
        ("pack kv 0:2@kv.local[0..16]", "pack kv 0:2"),
        ("pack kv 0:2@kv.local[0..16]  // why", "pack kv 0:2@kv.local[0..16] why"),
        ("k 0:2@kv.local[0..16]\n  }\n}\n", "k 0:2@kv.local[0..16]\n  }\n"),
        (right, "// nothing but a comment\n"),
    ];
    let mut out = String::new();
    for (from, to) in damages {
        let text = right.replacen(from, to, 1);
        assert_ne!(text, right, "{from}");
        out += &format!("{}\n\n", parse(&text).expect_err(to).rendered);
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots/schedule"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("parse_errors", out));
}
