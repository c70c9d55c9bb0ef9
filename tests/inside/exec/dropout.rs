//! Dropout over ranks: the same weights are dropped however the work is split.

use super::case::{Case, Numbers, cases};
use super::{join, on_nodes, plain, program_of, sizes};
use annulus::check::check;
use annulus::eval::{Precision, eval};
use annulus::exec::cpu::run_island;
use annulus::ir::{DType, Data, Dropout, ScoreStep, Tensor};
use annulus::layout::LayoutKind;
use annulus::mask::Mask;
use annulus::ring::{Plan as Rewrite, Strategy as Plan};
use annulus::schedule::{AttentionFacts, Leaf, Schedule, parse};
use proptest::prelude::*;

/// Gives the case dropout: its seed is one more argument, behind the others but for the sinks.
fn dropped(case: &mut Case, ratio: f64, seed: i64) -> Dropout {
    let at = case.facts.sinks.unwrap_or(case.args.len());
    case.args.insert(at, Tensor::new([], Data::I64(vec![seed].into())).unwrap());
    case.facts.leaves.insert(at - 3, Leaf { dtype: DType::I64, shape: [1; 4], by_query_rows: false });
    case.facts.sinks = case.facts.sinks.map(|sinks| sinks + 1);
    *case.facts.dropout.insert(Dropout::new(ratio, at))
}

/// Every schedule that the pass makes of a case: each strategy, and on two nodes where it uses levels.
fn schedules(case: &Case) -> Vec<(String, Schedule)> {
    let (program, op) = program_of(case);
    let mut all = vec![];
    for way in Plan::ALL {
        for nodes in [1, 2] {
            let levels = nodes == 1 || (way.uses_levels() && case.ranks.is_multiple_of(2));
            if levels && Rewrite::on_nodes(&program, op, way, nodes).is_ok() {
                all.push((format!("{way} on {nodes}"), on_nodes(&program, op, way, nodes)));
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// On any number of ranks, by every strategy, what one rank gives; proved, read back from text, in any order.
    #[test]
    fn weights_are_dropped_by_position_alone(
        case in cases(30), ratio in prop::sample::select(vec![0.0, 0.1, 0.5, 0.75]), same: [bool; 2], seed: u64,
    ) {
        let mut case = case;
        let rounds = case.facts.scores.steps().iter().any(|s| matches!(s, ScoreStep::Round(_)));
        // What has no numbers in its heads the pass does not split.
        let sizes = &case.facts.sizes;
        prop_assume!(case.facts.dtype == DType::F64 && !rounds && sizes.head_dim > 0 && sizes.v_head_dim > 0);
        let dropout = dropped(&mut case, ratio, seed.cast_signed());
        case.facts.dropout = Some(Dropout { same_batch: same[0], same_heads: same[1], ..dropout });
        let (program, _) = program_of(&case);
        let want = eval(&program.graph, &case.args, Precision::F64).unwrap();
        let (q, _) = case.layouts();
        for (name, schedule) in schedules(&case) {
            prop_assert!(check(&schedule).failed.is_empty(), "{}: {:?}", name, check(&schedule).failed);
            let again = parse(&schedule.to_string()).unwrap();
            prop_assert_eq!(&again[0], &schedule);
            let first = run_island(&schedule, &case.local(), 0).unwrap();
            prop_assert_eq!(&run_island(&schedule, &case.local(), seed | 1).unwrap(), &first, "other bits");
            let out = join(&first.0, 0, &q);
            let most = want[0].to_f64().iter().filter(|x| x.is_finite()).fold(1.0, |m: f64, x| m.max(x.abs()));
            for (have, want) in out.to_f64().iter().zip(want[0].to_f64()) {
                let same = have == &want || (have.is_nan() && want.is_nan());
                prop_assert!(same || (have - want).abs() <= 1e-9 * most, "{}: {}, not {}", name, have, want);
            }
        }
    }
}

/// Values that tell keys apart show which weights were dropped: to the bit those that their place says, on 1 to 8 ranks, in every layout, by
/// every strategy.
#[test]
fn the_mask_is_the_same_on_any_ranks() {
    let rows = 19;
    let mut size = sizes((4, 2), rows, 4);
    (size.batch, size.v_head_dim) = (2, rows);
    let seed = 0x1234_5678_9abc_def0;
    let mut numbers = Numbers(11);
    let identity: Vec<f64> =
        (0..4 * rows * rows).map(|n| f64::from(u8::from(n / rows % rows == n % rows))).collect();
    let args = vec![
        numbers.tensor(DType::F32, &[2, 4, rows, 4], 1.0),
        numbers.tensor(DType::F32, &[2, 2, rows, 4], 1.0),
        Tensor::from_f64(DType::F32, [2, 2, rows, rows], &identity).unwrap(),
    ];
    let mut runs = 0;
    for ranks in 1..=8 {
        for layout in LayoutKind::ALL {
            let mut facts = plain(size, DType::F32, Mask::causal(0));
            facts.lse = false;
            let mut case = Case { facts, args: args.clone(), layout, ranks, seed: 1 };
            let mask = dropped(&mut case, 0.4, seed).mask(seed);
            let (q, _) = case.layouts();
            for (name, schedule) in schedules(&case) {
                let (results, _) = run_island(&schedule, &case.local(), 3).unwrap();
                let out = join(&results, 0, &q).to_f64();
                for (n, weight) in out.iter().enumerate() {
                    let [b, h, i, j] =
                        [n / (4 * rows * rows), n / (rows * rows) % 4, n / rows % rows, n % rows];
                    let there = j <= i && mask.keeps([b, h, i, j]);
                    assert_eq!(
                        *weight != 0.0,
                        there,
                        "{name}, {layout} on {ranks}: batch {b}, head {h}, row {i}, key {j}"
                    );
                }
                runs += 1;
            }
        }
    }
    assert!(runs > 150, "{runs}");
}

/// Two layers, each with a seed of its own, are one island: the program of a training is the same in every step. Two batch entries are not
/// dealt out to ranks that would take each for the first one.
#[test]
fn layers_with_other_seeds_share_a_schedule() {
    let graph = annulus::ir::parse(
        r#"graph "layers" {
  input %x: f32[2,4,21,8]
  input %first: i64[]
  input %second: i64[]
  %a: f32[2,4,21,8] = attention %x, %x, %x, %first {scores=[factor 0.35 | fill -inf unless causal(0)], dropout=0.25, seed=3, acc=f32, empty=zero}
  %b: f32[2,4,21,8] = attention %a, %a, %a, %second {scores=[factor 0.35 | fill -inf unless causal(0)], dropout=0.25, seed=3, acc=f32, empty=zero}
  output "b" = %b
}
"#,
    )
    .unwrap();
    let x = Numbers(5).tensor(DType::F32, &[2, 4, 21, 8], 1.0);
    let seed = |n: i64| Tensor::new([], Data::I64(vec![n].into())).unwrap();
    let of = |first, second| [x.clone(), seed(first), seed(second)];
    let want = eval(&graph, &of(1, -2), Precision::F64).unwrap();
    for ranks in [1, 2, 3, 8] {
        let compiled = annulus::compile(&graph, &annulus::Options::new(ranks)).unwrap();
        assert_eq!((compiled.islands.len(), compiled.islands[0].uses.len()), (1, 2));
        let run = |first, second| annulus::run(&compiled, &of(first, second), 0).unwrap().outputs[0].to_f64();
        let have = run(1, -2);
        let off = have.iter().zip(want[0].to_f64()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off < 1e-5, "{ranks} ranks: {off}");
        assert_ne!(run(1, -3), have);
    }
}

/// Rows that have become batch entries are not left where they are: a rank would take each of its own for the first one. Where all entries have one
/// mask they may stay.
#[test]
fn a_batch_entry_knows_which_one_it_is() {
    for (same, split) in [("", false), ("same_batch, ", true)] {
        let graph = annulus::ir::parse(&format!(
            r#"graph "entries" {{
  input %x: f32[1,2,12,4]
  input %seed: i64[]
  %a: f32[1,2,12,4] = attention %x, %x, %x {{scores=[factor 0.5 | fill -inf unless causal(0)], acc=f32, empty=zero}}
  %p: f32[12,2,1,4] = permute %a {{perm=[2,1,0,3]}}
  %q: f32[12,1,2,4] = permute %p {{perm=[0,2,1,3]}}
  %b: f32[12,1,2,4] = attention %q, %q, %q, %seed {{scores=[factor 0.5], dropout=0.5, seed=3, {same}acc=f32, empty=zero}}
  output "b" = %b
}}
"#
        ))
        .unwrap();
        let inputs = [
            Numbers(5).tensor(DType::F32, &[1, 2, 12, 4], 1.0),
            Tensor::new([], Data::I64(vec![77].into())).unwrap(),
        ];
        let want = eval(&graph, &inputs, Precision::F64).unwrap()[0].to_f64();
        for ranks in [2, 3] {
            let compiled = annulus::compile(&graph, &annulus::Options::new(ranks)).unwrap();
            let told = compiled.program.refused.iter().any(|(_, why)| why.contains("its batch is split"));
            assert_eq!(told, split, "{same}{ranks}: {:?}", compiled.program.refused);
            let have = annulus::run(&compiled, &inputs, 0).unwrap().outputs[0].to_f64();
            let off = have.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(off < 1e-5, "{same}{ranks} ranks: {off}");
        }
    }
}

/// What no kernel does is refused by name, and the schedule says what it drops.
#[test]
fn kernels_refuse_it() {
    let mut case = super::causal(8, 2, LayoutKind::Contiguous);
    dropped(&mut case, 0.1, 7);
    for (_, schedule) in schedules(&case) {
        assert!(schedule.to_string().contains(" acc f32 dropout 0.1 seed 3 empty zero"));
        for target in [
            annulus::lower::program::Target::Cpu,
            annulus::lower::program::Target::Cuda(annulus::lower::Arch::Sm90a),
        ] {
            let why = annulus::lower::program::lower(&schedule, target).unwrap_err().to_string();
            assert!(why.contains("no kernel drops weights yet"), "{why}");
        }
        let mut wrong = schedule.clone();
        let moved = Schedule {
            attention: AttentionFacts { dropout: Some(Dropout::new(0.1, 2)), ..schedule.attention.clone() },
            ..schedule.clone()
        };
        assert!(check(&moved).failed.iter().any(|f| f.message.contains("no argument of one i64")));
        assert!(run_island(&moved, &case.local(), 0).unwrap_err().to_string().contains("not one i64"));
        wrong.attention.dropout = Some(Dropout::new(1.0, 3));
        assert!(check(&wrong).failed.iter().any(|f| f.message.contains("no part of the weights to drop")));
        assert!(run_island(&wrong, &case.local(), 0).unwrap_err().to_string().contains("dropout of 1"));
    }
}
