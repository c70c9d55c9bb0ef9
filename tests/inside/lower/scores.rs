//! lower: which kernel a score program gets, and that programs of the usual order get what they always got.

use crate::inside::support::cases::snapshot;
use annulus::ir::{AttentionSizes, DType, EmptyRow, Scores};
use annulus::lower::{
    Arch, Element, KernelKey, KernelScores, Launch, MAX_STEPS, MaskedScore, Operand, Refusal, Tiling, kernel,
    prelude, text,
};
use annulus::mask::{self, Mask, Term, Tile};
use annulus::schedule::{AttentionFacts, Leaf};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Of the commit before kernels could run steps: for some architectures how many kernels of the usual order and a hash of their texts,
/// and for all how many attentions and a hash of what was chosen for their steps. Those that came later are as those that they are like.
const BEFORE: &str = "\
sm_80 480 texts 0e23b1f330e97524520eba8feb8d51f9c4b1c362cabc0a5f7a8d5b3f8e5f6729
sm_86 480 texts 49f28137c1ae71c08578a32ec98ed050a359b4622a4a3bcf5d74b9b968b5ea89
sm_90a 600 texts 8f7ee521306198407423ed4f20d4040de8484dd2f41141e4d687ad69c41278e7
sm_100 480 texts f3f3f991c75c06791609554b03cc1073b8dd5dcf5ed11ca1c6bd47aa36a1a5bc
sm_80 5760 choices 026db63a4ac885f4802e71b39096caba78c591a15f5753f37d2544deff301e04
sm_86 5760 choices 8fef7b31114bb1ae554af64019b1cb9d5bb82761a600e63ec702b7128895fd9c
sm_87 5760 choices 026db63a4ac885f4802e71b39096caba78c591a15f5753f37d2544deff301e04
sm_88 5760 choices 8fef7b31114bb1ae554af64019b1cb9d5bb82761a600e63ec702b7128895fd9c
sm_89 5760 choices 8fef7b31114bb1ae554af64019b1cb9d5bb82761a600e63ec702b7128895fd9c
sm_90a 5760 choices d279e8a24f30f6b653b8e73f69601b8012ca7b6d1fa43793933cbfc210618a17
sm_100 5760 choices be89a800d57e3b1c09c674cb8a34c2b208b7ef0f0508fa64f2b81f5727aa9937
sm_103 5760 choices be89a800d57e3b1c09c674cb8a34c2b208b7ef0f0508fa64f2b81f5727aa9937
sm_110 5760 choices be89a800d57e3b1c09c674cb8a34c2b208b7ef0f0508fa64f2b81f5727aa9937
sm_120 5760 choices 8fef7b31114bb1ae554af64019b1cb9d5bb82761a600e63ec702b7128895fd9c
sm_121 5760 choices 8fef7b31114bb1ae554af64019b1cb9d5bb82761a600e63ec702b7128895fd9c
";

/// Byte for byte: a kernel that was compiled and tried is the same kernel. The texts are those since pieces say where their rows lie,
/// and each batch entry which keys it sees.
#[test]
fn kernels_of_the_usual_order_are_those_of_before() {
    assert_eq!(texts() + &choices(), BEFORE);
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// For every architecture, type and size of heads: every field of a usual key at each of its values beside the plain ones, and all at once.
fn usual_keys(arch: Arch) -> Vec<KernelKey> {
    let heads = [(32, 32), (64, 64), (96, 96), (128, 128), (192, 128), (192, 192), (256, 256)];
    let mut all = vec![];
    for element in [Element::F16, Element::Bf16, Element::F32] {
        for (dk, dv) in heads {
            for positions in [false, true] {
                let hopper =
                    if arch == Arch::Sm90a { KernelKey::hopper(element, dk, dv, positions) } else { None };
                let long = hopper.map(|key| key.for_keys(usize::MAX));
                let portable = KernelKey::portable(element, dk, dv, positions, arch);
                for plain in [hopper, long, portable].into_iter().flatten() {
                    all.push(plain);
                    all.push(KernelKey { softcap: true, ..plain }.for_keys(1));
                    all.push(KernelKey { carry_in: true, ..plain });
                    all.push(KernelKey { cast_out: false, ..plain });
                    all.push(KernelKey { mask: true, ..plain });
                    all.extend([4, 2].map(|copy| KernelKey { copy, ..plain }));
                    for operand in [Operand::F32, Operand::Element] {
                        all.push(KernelKey { bias: operand, ..plain });
                        all.push(KernelKey { sinks: operand, ..plain });
                        all.push(KernelKey {
                            bias: operand,
                            sinks: operand,
                            mask: true,
                            carry_in: true,
                            softcap: true,
                            ..plain
                        });
                    }
                    for fill in [MaskedScore::Replace, MaskedScore::Add] {
                        all.push(KernelKey { fill, ..plain });
                        all.push(KernelKey { fill, mask: true, bias: Operand::F32, ..plain });
                    }
                }
            }
        }
    }
    all.retain(KernelKey::exists);
    all.sort();
    all.dedup();
    all
}

/// A line for each architecture: how many kernels of the usual order, and a hash of their texts.
fn texts() -> String {
    let mut out = String::new();
    for arch in [Arch::Sm80, Arch::Sm86, Arch::Sm90a, Arch::Sm100] {
        let keys = usual_keys(arch);
        let mut hash = Sha256::new();
        keys.iter().for_each(|key| hash.update(text(key)));
        out += &format!("{} {} texts {}\n", arch.name(), keys.len(), hex(hash));
    }
    out
}

/// A line for each architecture: how many attentions of the usual order, and a hash of what is chosen for their steps.
fn choices() -> String {
    let leaf = |dtype| Leaf { dtype, shape: [1, 1, 64, 64], by_query_rows: false };
    let tensor = Term::Tensor { operand: 4 };
    let masks = [
        vec![],
        vec![Term::Causal { offset: 0 }],
        vec![tensor.clone()],
        vec![Term::Window { left: Some(3), right: None, offset: 0 }, tensor],
    ];
    let mut out = String::new();
    for arch in Arch::ALL {
        let (mut count, mut hash) = (0, Sha256::new());
        for dtype in [DType::F16, DType::BF16, DType::F32] {
            for (scale, softcap) in [(0.125, 0.0), (0.125, 30.0), (-1.0, 0.0), (1.0, 0.0), (0.0, 50.0)] {
                for (bias, bias_in) in [(None, DType::F32), (Some(3), DType::F32), (Some(3), dtype)] {
                    for (terms, fill) in masks.iter().flat_map(|m| {
                        [mask::Fill::NegInf, mask::Fill::Replace(-1e4), mask::Fill::Add(-1e4)].map(|f| (m, f))
                    }) {
                        for (head_dim, v_head_dim) in [(64, 64), (128, 128), (60, 40), (192, 128)] {
                            let sizes = AttentionSizes {
                                batch: 1,
                                q_heads: 4,
                                kv_heads: 2,
                                q_len: 64,
                                kv_len: 64,
                                head_dim,
                                v_head_dim,
                            };
                            let facts = AttentionFacts {
                                sizes,
                                dtype,
                                acc: DType::F32,
                                scores: Scores::usual(
                                    scale,
                                    softcap,
                                    bias,
                                    Mask { terms: terms.clone(), fill },
                                ),
                                sinks: Some(5),
                                dropout: None,
                                empty_row: EmptyRow::Zero,
                                lse: false,
                                leaves: vec![leaf(bias_in), leaf(DType::Bool), leaf(DType::F32)],
                            };
                            for (tile, keys, flag) in [
                                (Tile::Full, 64, false),
                                (Tile::Partial, 64, true),
                                (Tile::Partial, 1 << 14, false),
                            ] {
                                // A fill that replaces scores acts on a bias of −∞ too, which kernels of the usual order leave out.
                                if bias.is_some()
                                    && matches!(fill, mask::Fill::Replace(_))
                                    && !terms.is_empty()
                                    && tile == Tile::Partial
                                {
                                    continue;
                                }
                                let step = Launch {
                                    carry_in: flag,
                                    sinks_here: !flag,
                                    cast_out: !flag,
                                    ..Launch::whole(tile, keys)
                                };
                                let key = kernel(&facts, step, arch).unwrap();
                                count += 1;
                                hash.update(key.to_string());
                                hash.update(key.redo(arch).map_or(String::new(), |k| k.to_string()));
                                hash.update("\n");
                            }
                        }
                    }
                }
            }
        }
        out += &format!("{} {count} choices {}\n", arch.name(), hex(hash));
    }
    out
}

/// An attention of heads of 128 in f16 with these scores; leaves of operands 3 to 10 are f32, f16 and truth values in turn.
fn attention(scores: &str) -> AttentionFacts {
    let types = [DType::F32, DType::F16, DType::Bool];
    let leaf = |i: usize| Leaf { dtype: types[i % 3], shape: [1, 1, 64, 64], by_query_rows: false };
    AttentionFacts {
        sizes: AttentionSizes {
            batch: 1,
            q_heads: 4,
            kv_heads: 2,
            q_len: 64,
            kv_len: 64,
            head_dim: 128,
            v_head_dim: 128,
        },
        dtype: DType::F16,
        acc: DType::F32,
        scores: scores.parse().unwrap(),
        sinks: None,
        dropout: None,
        empty_row: EmptyRow::Zero,
        lse: false,
        leaves: (0..24).map(leaf).collect(),
    }
}

fn step(tile: Tile) -> Launch {
    Launch::whole(tile, 64)
}

/// Programs with what becomes of them: tiles that fills act on, and those that none does.
#[test]
fn keys_of_score_programs() {
    let programs = [
        // Of the usual order, or equal to one that is.
        "none",
        "factor 0.125 | fill -inf unless causal(0)",
        "fill -inf unless causal(0) | factor 0.5 | softcap 30.0 | add 3 | fill -inf unless tensor(5)",
        "factor 0.5 | fill -inf unless causal(0) | factor 0.25 | add 4 | fill -inf unless window(9,-1,0) & tensor(5)",
        "factor 0.125 | round f32 | add 3 | fill add(-10000.0) unless causal(0)",
        // A key that the bias leaves out comes back.
        "factor 0.125 | add 3 | fill replace(-10000.0) unless causal(0)",
        // Half precision.
        "factor 0.125 | round f16 | fill -inf unless causal(0)",
        "factor 0.125 | round f16 | round f16 | add 4 | round f16 | fill replace(-65504.0) unless causal(0)",
        // Orders of their own.
        "add 3 | factor 0.125",
        "softcap 30.0 | factor 2.0",
        "factor 2.0 | round bf16 | softcap 30.0 | factor -1.0",
        "factor leaf 3 | factor leaf 4 | add 3 | add 4",
        "fill -inf unless causal(0) & tensor(5) & tensor(8) | factor 2.0",
        "fill -inf unless causal(0) | fill -inf unless tensor(5) | softcap 30.0 | fill -inf unless keys(0,40)",
        "fill add(-3.0) unless tensor(5) & tensor(8) & causal(0) | fill add(-4.0) unless tensor(5) | fill replace(0.0) unless keys(1,9)",
        // Eight steps, once they are brought together, and many tensors.
        "factor 2.0 | factor 3.0 | round f16 | add 3 | softcap 9.0 | fill -inf unless causal(3) | fill -inf unless causal(0) \
         | factor leaf 4 | softcap 9.0 | fill -inf unless causal(0)",
        "fill -inf unless tensor(5) & tensor(8) & tensor(11) & tensor(14) & tensor(17) & tensor(20) & tensor(23) & tensor(26)",
    ];
    let mut table = String::new();
    for program in programs {
        writeln!(table, "{program}").unwrap();
        for (name, tile) in [("fills act", Tile::Partial), ("no fill acts", Tile::Full)] {
            for arch in [Arch::Sm90a, Arch::Sm80] {
                let key = kernel(&attention(program), step(tile), arch).unwrap();
                assert!(key.exists(), "{key}");
                assert_eq!(prelude(&key).contains("STEPS"), !key.steps.is_empty());
                writeln!(table, "  {name}, {}: {key}", arch.name()).unwrap();
                if let Some(redo) = key.redo(arch) {
                    assert!(redo.exists() && redo.redo(arch).is_none());
                    writeln!(table, "    behind it: {redo}").unwrap();
                }
            }
        }
    }
    snapshot("lower", "score_programs", &table);
}

/// What the launch is handed is the program with what meets brought together, and positions of the last fill of −∞ apart.
#[test]
fn what_a_launch_is_handed_of_a_score_program() {
    let handed = |program: &str, tile| match KernelScores::of(&program.parse().unwrap(), tile) {
        KernelScores::Usual { scale, softcap, bias, mask } => {
            format!("usual {}", Scores::usual(scale, softcap, bias, mask))
        }
        KernelScores::Steps { steps, seen } => format!("{} | seen {seen}", Scores::new(steps)),
    };
    for (program, tile, want) in [
        ("none", Tile::Partial, "usual factor 1.0"),
        (
            "factor 0.5 | fill -inf unless causal(0) | factor 0.5",
            Tile::Partial,
            "usual factor 0.25 | fill -inf unless causal(0)",
        ),
        ("factor 0.5 | fill -inf unless causal(0) | factor 0.5", Tile::Full, "usual factor 0.25"),
        (
            "fill -inf unless causal(0) | add 3 | round f16 | fill -inf unless causal(0) & tensor(4) | add 5",
            Tile::Partial,
            "add 3 | round f16 | add 5 | fill -inf unless tensor(4) | seen causal(0)",
        ),
        // A softcap and a number in their place make −∞ a number: there fills wait no longer.
        (
            "fill -inf unless causal(0) | factor 2.0 | fill -inf unless keys(1,9) | softcap 5.0",
            Tile::Partial,
            "factor 2.0 | fill -inf unless causal(0) & keys(1,9) | softcap 5.0 | seen none",
        ),
        (
            "factor 2.0 | fill -inf unless causal(0) | fill replace(1.0) unless keys(1,9) | add 3",
            Tile::Partial,
            "factor 2.0 | fill -inf unless causal(0) | fill replace(1.0) unless keys(1,9) | add 3 | seen none",
        ),
        (
            "factor 2.0 | round f16 | factor 3.0 | fill add(1.0) unless causal(0) | factor 4.0",
            Tile::Full,
            "factor 2.0 | round f16 | factor 12.0 | seen none",
        ),
        ("round f64 | factor 2.0 | round f32", Tile::Partial, "usual factor 2.0"),
        (
            "round f16 | fill -inf unless causal(0) | round f16 | round bf16 | round f16",
            Tile::Partial,
            "round f16 | round bf16 | round f16 | seen causal(0)",
        ),
    ] {
        assert_eq!(handed(program, tile), want, "{program}");
    }
}

#[test]
fn programs_without_a_kernel_are_refused_whatever_the_tile() {
    let refused = |program: &str| {
        let of = |tile| kernel(&attention(program), step(tile), Arch::Sm90a).unwrap_err();
        assert_eq!(of(Tile::Full), of(Tile::Partial));
        of(Tile::Partial)
    };
    let long = ["round f16 | round bf16"; 4].join(" | ") + " | fill replace(0.0) unless causal(0)";
    let refusal = refused(&long);
    assert_eq!(refusal, Refusal::Steps { count: MAX_STEPS + 1, program: long.clone() });
    let said = refusal.to_string();
    for part in ["9 steps", &long, "at most 8", "run on the CPU"] {
        assert!(said.contains(part), "{said}");
    }
    let tensors = (0..9).map(|i| format!("tensor({})", 5 + i)).collect::<Vec<_>>().join(" & ");
    assert_eq!(refused(&format!("fill add(1.0) unless {tensors}")), Refusal::Leaves(9));
    let number = |what, value| Refusal::Number { what, value };
    assert_eq!(refused("factor 1e300 | round f16"), number("scale", 1e300));
    assert_eq!(refused("round f16 | factor 1e300"), number("a factor", 1e300));
    assert_eq!(refused("factor 1e200 | factor 1e200"), number("scale", f64::INFINITY));
    assert!(kernel(&attention("factor 1e200 | factor 1e-200"), step(Tile::Full), Arch::Sm80).is_ok());
    assert_eq!(refused("round f16 | softcap 1e-39"), number("softcap", 1e-39));
    assert_eq!(refused("add 3 | fill add(-1e39) unless causal(0)"), number("the mask's fill", -1e39));
    assert_eq!(refused("factor leaf 5"), Refusal::Operand { what: "a factor", found: "bool" });
    assert_eq!(refused("add 3 | add 99"), Refusal::Operand { what: "bias", found: "missing" });
}

/// Where a step needs more than the score, or the type is f32, there is no Hopper kernel; its text holds what the key says.
#[test]
fn steps_that_need_the_score_alone_run_on_hopper() {
    let hopper = |program: &str| {
        let key = kernel(&attention(program), step(Tile::Partial), Arch::Sm90a).unwrap();
        assert!(text(&key).contains("attn_partial"));
        matches!(key.tiling, Tiling::Hopper(_))
    };
    assert!(hopper("factor -0.125 | round f16 | softcap 20.0 | round bf16 | fill -inf unless causal(0)"));
    for step in ["add 3", "factor leaf 4", "fill -inf unless tensor(5)", "fill add(1.0) unless causal(0)"] {
        assert!(!hopper(&format!("factor -0.125 | round f16 | {step}")), "{step}");
    }
}
