//! Kernels that run score programs step by step, and programs that come to the usual order.
//!
//! Each is chosen as `lower` chooses it, runs what `lower` hands over, and is held against the program as it was written, read pair
//! by pair (`support::scores`).

use super::faults;
use super::problem::{Leaf, Problem, Random, ScoreProgram, rows};
use super::{SEEDS, build, run};
use annulus::ir::{AttentionSizes, DType, EmptyRow, Scores};
use annulus::lower::{Arch, Element, KernelKey, Launch, Operand, Tiling, kernel};
use annulus::mask::Tile;
use annulus::schedule::{self, AttentionFacts};

fn dtype(element: Element) -> DType {
    match element {
        Element::F16 => DType::F16,
        Element::Bf16 => DType::BF16,
        Element::F32 => DType::F32,
    }
}

/// Gives the problem this program, with leaves that differ along the axes that the n-th of `axes` names: b, h, q, k. Every second
/// one that is no truth is in f32.
fn with(p: &mut Problem, program: &str, axes: &[&str]) {
    let scores: Scores = program.parse().unwrap();
    let mut leaves: Vec<(Leaf, DType)> = vec![];
    for (i, (operand, truth)) in scores.leaves().enumerate() {
        assert_eq!(operand, i + 3, "{program}: leaves are named in the order in which they are read");
        let has = ['b', 'h', 'q', 'k'].map(|axis| axes[i % axes.len()].contains(axis));
        let leaf = p.leaf(has, i % 2 == 0);
        if truth {
            leaves.push((leaf.map(|x| f32::from(x > -0.7)), DType::Bool));
            continue;
        }
        let kind = if i % 2 == 0 { DType::F32 } else { dtype(p.element) };
        // Now and then a key takes no part.
        leaves.push((leaf.map(|x| if x > 2.2 { f32::NEG_INFINITY } else { x }), kind));
    }
    p.program = Some(ScoreProgram { scores, leaves });
}

/// The kernel of the problem's last launch.
fn key(p: &Problem, arch: Arch) -> KernelKey {
    let program = p.program.as_ref().unwrap();
    let leaves = program.leaves.iter().map(|(_, dtype)| *dtype);
    let leaves = leaves.chain(p.sinks.iter().map(|_| DType::F32));
    let facts = AttentionFacts {
        sizes: AttentionSizes {
            batch: p.batch,
            q_heads: p.q_heads,
            kv_heads: p.kv_heads,
            q_len: 1 << 20,
            kv_len: 1 << 20,
            head_dim: p.dk,
            v_head_dim: p.dv,
        },
        dtype: dtype(p.element),
        acc: DType::F32,
        scores: program.scores.clone(),
        sinks: p.sinks.as_ref().map(|_| 3 + program.leaves.len()),
        dropout: None,
        empty_row: EmptyRow::Zero,
        lse: true,
        leaves: leaves.map(|dtype| schedule::Leaf { dtype, shape: [1; 4], by_query_rows: false }).collect(),
    };
    let sinks_here = p.cast_out && p.sinks.is_some();
    let step = Launch { sinks_here, cast_out: p.cast_out, ..Launch::whole(Tile::Partial, 1 << 20) };
    let key = kernel(&facts, step, arch).unwrap();
    assert!(key.exists() && key.redo(arch).is_none_or(|k| k.exists()), "{key}");
    assert_eq!(key.sinks != Operand::None, sinks_here);
    key
}

fn check(p: &Problem, arch: Arch) {
    let key = key(p, arch);
    run::check(build::compiler(), &key, p, [None; 2], &SEEDS)
        .unwrap_or_else(|e| panic!("{key}\n{}\n{e}", p.program.as_ref().unwrap().scores));
}

/// Two batch entries, grouped heads, Dv ≠ Dk, rows that no block divides, keys in two launches and not in order.
fn problem(element: Element, program: &str) -> Problem {
    let mut p = Problem::new(4, 2, 64, 48);
    (p.element, p.batch, p.gap) = (element, 2, 1);
    p.queries(&[rows(3, 2, 21), rows(50, 1, 17)]).chunk(&[rows(40, 1, 33)]).chunk(&[rows(0, 1, 40)]);
    with(&mut p, program, &["bhqk", "qk", "k", "bk", "h", "hq"]);
    p
}

const F16_MODEL: &str =
    "factor 0.125 | round f16 | add 3 | round f16 | fill replace(-65504.0) unless causal(0) | round f16";

/// As half-precision models write it, with an additive mask and rounding after each operation.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn sums_rounded_to_halves() {
    check(&problem(Element::F16, F16_MODEL), Arch::Sm90a);
}

/// One row, one key; no row sees a key.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn rows_that_see_little() {
    for empty_row in [0.0, f32::NAN] {
        let mut p = Problem::new(2, 1, 64, 64);
        (p.element, p.empty_row) = (Element::F32, empty_row);
        p.queries(&[rows(0, 1, 1), rows(5, 1, 30)]).chunk(&[rows(0, 1, 1)]).chunk(&[rows(9, 1, 9)]);
        with(&mut p, "factor leaf 3 | add 4 | fill -inf unless causal(-3) & tensor(5)", &["bhqk", "qk"]);
        check(&p, Arch::Sm80);
    }
}

/// Programs that need no steps: factors meet, fills of −∞ wait and become one.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn programs_that_come_to_the_usual_order() {
    for program in [
        "fill -inf unless causal(1) | factor 0.5 | factor 0.25 | add 3 | fill -inf unless window(9,2,0) & tensor(4)",
        "factor 0.125 | fill -inf unless causal(-20) | factor -1.0 | fill -inf unless keys(3,60)",
    ] {
        let p = problem(Element::F16, program);
        assert!(key(&p, Arch::Sm90a).steps.is_empty(), "{program}");
        check(&p, Arch::Sm90a);
    }
}

/// Each batch entry sees keys of its own: in the usual order, on Hopper too, and in steps.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn batch_entries_that_see_other_keys() {
    let usual =
        "factor 0.125 | fill -inf unless causal(3) & batch(keys(0,31) & window(12,9,0) ; prefix(20;-2))";
    let steps = "factor 0.125 | fill replace(0.5) unless batch(keys(4,60) ; segments(9,30;0)) | round f16 | \
         fill -inf unless batch(causal(9) ; keys(0,44))";
    for (element, program, arch, apart) in [
        (Element::Bf16, usual, Arch::Sm90a, true),
        (Element::F32, usual, Arch::Sm80, false),
        (Element::F16, steps, Arch::Sm80, true),
        (Element::F32, steps, Arch::Sm80, false),
    ] {
        let mut p = problem(element, program);
        p.apart = apart;
        check(&p, arch);
    }
}

/// Every kind of step, in an order in which no two can change places: what the faults are planted in.
pub(crate) const ALL_KINDS: &str = "round bf16 | add 3 | factor -0.25 | factor leaf 4 | fill add(-1.5) unless causal(2) & tensor(5) & tensor(6) | \
     softcap 3.0 | fill replace(0.5) unless segments(7,23;0) & tensor(7) | fill -inf unless window(30,9,0) & tensor(8)";

/// Left out while working: `--skip ::long::`.
mod long {
    use super::*;
    use crate::inside::kernels::faults::Fault;

    /// A kind of step as text, in which L stands for the next leaf, and N for a number that tells steps apart.
    const KINDS: [&str; 13] = [
        "factor 1.N",
        "factor leaf L",
        "factor leaf L",
        "softcap 1.N",
        "add L",
        "add L",
        "fill -inf unless window(N,4,0)",
        "fill -inf unless tensor(L) & causal(30)",
        "fill replace(-1.N) unless causal(N)",
        "fill replace(-2.5) unless tensor(L)",
        "fill add(-2.N) unless segments(7,N;0) & tensor(L)",
        "round f16",
        "round bf16",
    ];

    /// The text of the kinds, with leaves and numbers put in, behind a scale: where scores are far apart, an error hides behind the
    /// largest.
    fn text(kinds: &[&str]) -> String {
        let mut leaf = 3;
        let steps = kinds.iter().enumerate().map(|(n, kind)| {
            let mut step = kind.replace('N', &(n + 20).to_string());
            while step.contains('L') {
                step = step.replacen('L', &leaf.to_string(), 1);
                leaf += 1;
            }
            step
        });
        std::iter::once("factor 0.125".to_owned()).chain(steps).collect::<Vec<_>>().join(" | ")
    }

    /// Seven steps behind a scale, such that every kind stands at each of the seven places.
    fn every_kind_at_every_place(element: Element, arch: Arch) {
        for first in 0..KINDS.len() {
            let kinds: Vec<&str> = (0..7).map(|i| KINDS[(first + 2 * i) % KINDS.len()]).collect();
            let mut p = problem(element, &text(&kinds));
            // Every third one is compiled twice: a launch that hands on a carry before the last.
            p.chunks.truncate(if first % 3 == 0 { 2 } else { 1 });
            assert!(!key(&p, arch).steps.is_empty());
            check(&p, arch);
        }
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn every_kind_at_every_place_in_f16() {
        every_kind_at_every_place(Element::F16, Arch::Sm90a);
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn every_kind_at_every_place_in_bf16() {
        every_kind_at_every_place(Element::Bf16, Arch::Sm80);
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn every_kind_at_every_place_in_f32() {
        every_kind_at_every_place(Element::F32, Arch::Sm80);
    }

    /// Of one to eight steps, with what else a key may ask for.
    fn at_random(seed: u64) {
        let mut random = Random(seed);
        let mut below = |n: u64| (random.next() % n) as usize;
        let kinds: Vec<&str> = (0..1 + below(7)).map(|_| KINDS[below(KINDS.len() as u64)]).collect();
        let element = [Element::F16, Element::Bf16, Element::F32][below(3)];
        let (dk, dv) = [(64, 64), (36, 20), (128, 72), (192, 128), (7, 5), (256, 40)][below(6)];
        let mut p = Problem::new(2 + 2 * below(2), 2, dk, dv);
        (p.element, p.batch, p.gap, p.cast_out) = (element, 1 + below(2), below(3), below(4) > 0);
        p.random = Random(seed);
        let step = 1 + below(3) as i32;
        p.queries(&[rows(below(9) as i32, step, 1 + below(40)), rows(130, 1, below(30))]);
        for i in 0..1 + below(3) as i32 {
            p.chunk(&[rows(70 * i, step, 1 + below(23)), rows(70 * i + 69, 1, below(2))]);
        }
        with(&mut p, &text(&kinds), &["bhqk", "k", "qk", "", "hk", "bq"]);
        if below(3) == 0 {
            p.sinks = Some(p.leaf([false, true, false, false], false));
        }
        let arch = [Arch::Sm80, Arch::Sm90a, Arch::Sm100][below(3)];
        check(&p, arch);
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn programs_at_random() {
        (0..10).for_each(at_random);
    }

    #[test]
    #[ignore = "a sweep that is run by hand"]
    fn more_programs_at_random() {
        (10..150).for_each(at_random);
    }

    /// Scores of ±1e4, in f32 and rounded, where a half has steps of 8.
    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn large_scores() {
        for (element, program) in [
            (Element::F32, "factor 0.125 | add 3 | fill replace(-10000.0) unless causal(0)"),
            (Element::F16, "factor 0.125 | round f16 | add 3 | round f16 | fill -inf unless causal(0)"),
            (Element::Bf16, "factor 0.125 | round bf16 | softcap 9000.0 | fill -inf unless causal(0)"),
        ] {
            let mut p = Problem::new(2, 1, 64, 64);
            (p.element, p.size) = (element, 4000.0);
            p.queries(&[rows(0, 1, 90)]).chunk(&[rows(0, 1, 45)]).chunk(&[rows(45, 1, 45)]);
            with(&mut p, program, &["hqk"]);
            for arch in [Arch::Sm80, Arch::Sm90a] {
                check(&p, arch);
            }
        }
    }

    /// A key whose products are so low that halves do not hold them: it takes no part, though its value is infinite.
    fn overflow(element: Element, dk: usize, program: &str) -> Problem {
        let mut p = Problem::new(2, 1, dk, dk);
        p.element = element;
        p.queries(&[rows(0, 1, 100)]).chunk(&[rows(0, 1, 50)]).chunk(&[rows(50, 1, 50)]);
        p.q.iter_mut().for_each(|x| *x = x.abs());
        let far = &mut p.chunks[1][0];
        far.k[7 * dk..8 * dk].fill(-2000.0);
        far.v[7 * dk..8 * dk].fill(f32::INFINITY);
        with(&mut p, program, &[""]);
        p
    }

    const OVERFLOW: &str = "round f16 | factor 0.13 | round bf16 | fill -inf unless causal(20)";

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn halves_that_overflow() {
        for (element, dk) in [(Element::F16, 64), (Element::Bf16, 128), (Element::F32, 64)] {
            for arch in [Arch::Sm80, Arch::Sm90a] {
                check(&overflow(element, dk, OVERFLOW), arch);
            }
        }
    }

    /// On Hopper: every number of warpgroups and keys that its kernels with steps have, both ends of a carry, sinks.
    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn steps_on_hopper() {
        for (dk, dv, element) in [
            (128, 128, Element::Bf16),
            (64, 64, Element::F16),
            (192, 128, Element::F16),
            (256, 256, Element::Bf16),
            (72, 200, Element::F16),
        ] {
            let mut p = Problem::new(4, 2, dk, dv);
            (p.element, p.gap) = (element, 2);
            p.queries(&[rows(9, 1, 140), rows(200, 2, 30)])
                .chunk(&[rows(100, 1, 90)])
                .chunk(&[rows(0, 1, 100)]);
            with(
                &mut p,
                "factor -0.2 | softcap 7.0 | round f16 | factor 1.7 | round bf16 | fill -inf unless window(90,3,0)",
                &[""],
            );
            p.sinks = Some(p.leaf([false, true, false, false], false));
            assert!(matches!(key(&p, Arch::Sm90a).tiling, Tiling::Hopper(_)));
            check(&p, Arch::Sm90a);
            p.cast_out = false;
            check(&p, Arch::Sm90a);
        }
    }

    /// Each fault in the kernel's text is found.
    fn plant(p: &Problem, arch: Arch, faults: &[Fault]) {
        let key = key(p, arch);
        run::check(build::compiler(), &key, p, [None; 2], &SEEDS).unwrap();
        for fault in faults {
            let said =
                run::check(build::compiler(), &key, p, [Some(fault), None], &[1]).expect_err(fault.name);
            assert!(said.contains(fault.found), "{}: {said}", fault.name);
        }
    }

    /// Keys of every third row, one of them with an infinite value where no row may use it.
    fn to_plant_in(element: Element) -> Problem {
        let mut p = Problem::new(2, 1, 32, 32);
        (p.element, p.gap) = (element, 1);
        p.queries(&[rows(3, 1, 40)]).chunk(&[rows(30, 1, 17)]).chunk(&[rows(0, 3, 19)]);
        with(&mut p, ALL_KINDS, &["bhqk", "hqk", "qk", "k", "bk", "hk"]);
        let (mask, _) = &mut p.program.as_mut().unwrap().leaves[5];
        let keys = mask.strides[1];
        (0..2).for_each(|head| mask.numbers[head * keys + 9] = 0.0);
        p.chunks[1][0].v[3 * 32..4 * 32].fill(f32::INFINITY); // of key 9
        p
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn planted_faults_are_caught() {
        plant(&to_plant_in(Element::F16), Arch::Sm80, faults::STEPS);
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn planted_revivals_are_caught() {
        for element in [Element::Bf16, Element::F32] {
            let p = problem(element, "add 3 | factor -2.0 | add 4 | factor leaf 5 | softcap 3.0");
            plant(&p, Arch::Sm80, faults::REVIVALS);
        }
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn planted_faults_in_f32_are_caught() {
        let shared = &faults::STEPS[..faults::STEPS.len() - 2];
        plant(&to_plant_in(Element::F32), Arch::Sm80, shared);
        plant(&to_plant_in(Element::F32), Arch::Sm80, faults::STEPS_IN_F32);
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn planted_faults_on_hopper_are_caught() {
        plant(&overflow(Element::F16, 64, OVERFLOW), Arch::Sm90a, faults::STEPS_ON_HOPPER);
        let p = problem(Element::F16, "round f16 | softcap 2.0 | fill -inf unless causal(0)");
        plant(&p, Arch::Sm90a, faults::SOFTCAP_ON_HOPPER);
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn planted_faults_in_sums_of_halves_are_caught() {
        plant(&problem(Element::F32, F16_MODEL), Arch::Sm80, faults::HALVES);
        plant(&problem(Element::F16, F16_MODEL), Arch::Sm80, &faults::HALVES[1..]);
    }
}
