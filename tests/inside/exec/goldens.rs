//! float64 references that others computed, against what the pass makes of them: within their own tolerances, and no
//! further off on eight ranks than on one.

use super::case::Case;
use super::golden::{Golden, files, read};
use super::{on_nodes, program_of};
use annulus::exec::cpu::run;
use annulus::ir::{DType, Tensor};
use annulus::layout::LayoutKind;
use annulus::ring::Strategy as Plan;
use rayon::prelude::*;
use std::sync::Arc;

/// Every golden.
fn all() -> Vec<Golden> {
    let all: Vec<Golden> = files().iter().map(|path| read(path)).collect();
    assert_eq!(all.len(), 41);
    assert!(all.iter().filter(|g| g.documents).count() >= 2);
    assert_eq!(all.iter().filter(|g| g.after_cast.is_some()).count(), 8);
    all
}

impl Golden {
    /// The layouts that apply: documents only where there are some.
    fn layouts(&self) -> impl Iterator<Item = LayoutKind> {
        let documents = self.documents;
        LayoutKind::ALL.into_iter().filter(move |&l| documents || l != LayoutKind::Document)
    }

    /// The same numbers in f32: what comes out of them is what is there before the cast.
    fn before_cast(&self) -> Case {
        let mut case = self.case.clone();
        case.facts.dtype = DType::F32;
        for x in &mut case.args[..3] {
            *x = Tensor::from_f64(DType::F32, x.shape(), &x.to_f64()).unwrap();
        }
        case
    }
}

/// A strategy, and on how many nodes the ranks stand.
type Way = (Plan, usize);

/// Output and log-sum-exp.
fn results(case: &Case, layout: LayoutKind, ranks: usize, (plan, nodes): Way) -> Vec<Tensor> {
    let case = Case { layout, ranks, ..case.clone() };
    let (program, op) = program_of(&case);
    let schedules = [(op, Arc::new(on_nodes(&program, op, plan, nodes)))].into();
    run(&program, &schedules, &case.args, ranks as u64).unwrap().outputs
}

fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    a.ty() == b.ty() && a.data().to_le_bytes() == b.data().to_le_bytes()
}

/// The first number further off than it may be.
fn too_far(got: &Tensor, want: &[f64], tolerance: f64) -> Option<String> {
    let got = got.to_f64();
    assert_eq!(got.len(), want.len());
    let right = |(g, w): (&f64, &f64)| g == w || (g - w).abs() <= tolerance;
    let wrong = got.iter().zip(want).position(|pair| !right(pair));
    wrong.map(|i| format!("element {i} is {}, not {} within {tolerance:e}", got[i], want[i]))
}

/// How many times the golden was run on so many ranks in this layout.
fn on(golden: &Golden, ranks: usize, layout: LayoutKind, plans: &[Way]) -> usize {
    let wide = golden.before_cast();
    for &plan in plans {
        let what = format!("{}, {ranks} ranks, {layout}, {}", golden.name, plan.0.name());
        let before = results(&wide, layout, ranks, plan);
        for (i, got) in before.iter().enumerate() {
            if let Some(wrong) = too_far(got, &golden.want[i], golden.tolerance[i]) {
                panic!("{what}, output {i} before the cast: {wrong}");
            }
        }
        let Some(tolerance) = golden.after_cast else { continue };
        let dtype = golden.case.facts.dtype;
        assert!(matches!(dtype, DType::F16 | DType::BF16), "{what}");
        let after = results(&golden.case, layout, ranks, plan);
        if let Some(wrong) = too_far(&after[0], &golden.want[0], tolerance) {
            panic!("{what}, after the cast: {wrong}");
        }
        // Nothing was rounded on the way but once, at the end; the log-sum-exp not at all.
        let cast = Tensor::from_f64(dtype, before[0].shape(), &before[0].to_f64()).unwrap();
        assert!(same_bits(&after[0], &cast) && same_bits(&after[1], &before[1]), "{what}");
    }
    plans.len()
}

/// Root mean square of what the output before the cast is off by.
fn rms(golden: &Golden, layout: LayoutKind, ranks: usize, plan: Way) -> f64 {
    let got = results(&golden.before_cast(), layout, ranks, plan)[0].to_f64();
    let squares: f64 = got.iter().zip(&golden.want[0]).map(|(g, w)| (g - w) * (g - w)).sum();
    (squares / got.len() as f64).sqrt()
}

/// Left out while working: `--skip ::long::`.
mod long {
    use super::*;

    /// At the rank counts that a case names every layout with every strategy, where levels are used on two nodes as well; on 1, 3 and 5 ranks
    /// queries and heads that travel, and one of the other strategies in turn.
    #[test]
    #[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
    fn goldens_within_their_own_tolerance() {
        let goldens = all();
        let runs = goldens.par_iter().enumerate().map(|(i, golden)| {
            let of_keys = Plan::ALL.into_iter().filter(|plan| !plan.uses_levels());
            let mut turn = of_keys.cycle().skip(i);
            let travelling = [(Plan::Queries, 1), (Plan::Heads, 1)];
            let mut runs = 0;
            for layout in golden.layouts() {
                for &ranks in &golden.ranks {
                    assert!(ranks.is_multiple_of(2));
                    let all = Plan::ALL.map(|plan| (plan, 1));
                    runs += on(
                        golden,
                        ranks,
                        layout,
                        &[&all[..], &[(Plan::Queries, 2), (Plan::Heads, 2)]].concat(),
                    );
                }
                for ranks in [1, 3, 5] {
                    runs +=
                        on(golden, ranks, layout, &[&travelling[..], &[(turn.next().unwrap(), 1)]].concat());
                }
            }
            runs
        });
        let runs: usize = runs.sum();
        let documents = goldens.iter().filter(|g| g.documents).count();
        assert_eq!(runs, (goldens.len() * 4 + documents) * (3 * (Plan::ALL.len() + 2) + 9));
    }

    /// Merging costs no digits: the error on eight ranks is that on one.
    #[test]
    #[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
    fn the_error_does_not_grow_with_the_ranks() {
        let goldens = all();
        let ratios = goldens.par_iter().flat_map_iter(|golden| {
            let one = rms(golden, LayoutKind::Contiguous, 1, (Plan::Ring, 1));
            let ways = golden.layouts().flat_map(|l| Plan::ALL.map(|plan| (l, plan)));
            let ratio = move |(layout, plan): (LayoutKind, Plan)| {
                let eight = rms(golden, layout, 8, (plan, if plan.uses_levels() { 2 } else { 1 }));
                let ratio = if eight == one { 1.0 } else { eight / one };
                (
                    ratio,
                    format!(
                        "{}, {layout}, {}: {eight:.3e} on 8 ranks, {one:.3e} on 1",
                        golden.name,
                        plan.name()
                    ),
                )
            };
            ways.map(ratio).collect::<Vec<_>>()
        });
        let ratios: Vec<(f64, String)> = ratios.collect();
        let worst = ratios.iter().max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        let mean = (ratios.iter().map(|r| r.0.ln()).sum::<f64>() / ratios.len() as f64).exp();
        crate::inside::support::data::say(&format!(
            "error on 8 ranks over that on 1, {} ways: geometric mean {mean:.3}, most {:.3} ({})",
            ratios.len(),
            worst.0,
            worst.1
        ));
        assert!(mean <= 1.1 && worst.0 <= 1.5);
    }
}
