//! The Hopper kernel.

use super::problem::{Problem, rows};
use super::{faults, plant, plant_in, run};
use annulus::lower::{Element, HopperTiling, KernelKey, Tiling};

fn hopper(p: &Problem) -> KernelKey {
    let key = KernelKey::hopper(p.element, p.dk, p.dv, p.positions()).unwrap();
    KernelKey { softcap: p.softcap.is_some(), ..key }.for_keys(1)
}

/// Lengths that no block divides, rows that start anywhere, grouped heads.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn tails_and_grouped_heads() {
    for (queries, keys) in [(200, 333), (1, 1), (129, 127), (64, 256), (3, 700)] {
        let mut p = Problem::new(4, 2, 128, 128);
        p.queries(&[rows(keys - queries, 1, queries as usize)]).chunk(&[rows(0, 1, keys as usize)]).causal(0);
        run(hopper, &p);
    }
    let mut p = Problem::new(6, 1, 128, 128);
    run(hopper, p.queries(&[rows(0, 1, 150)]).chunk(&[rows(0, 1, 400)]));
}

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn half_precision() {
    let mut p = Problem::new(2, 1, 128, 128);
    p.element = Element::F16;
    run(hopper, p.queries(&[rows(0, 1, 140)]).chunk(&[rows(0, 1, 140)]).causal(0));
}

/// Sliding windows, a shift for each batch entry, offsets that leave rows without keys, documents.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn masks_by_position() {
    let mut p = Problem::new(2, 1, 128, 128);
    p.batch = 2;
    p.queries(&[rows(100, 1, 200)]).chunk(&[rows(0, 1, 150), rows(150, 1, 150)]);
    (p.low, p.high, p.shift) = (-40, 17, Some(vec![-3, 120]));
    run(hopper, &p);
    for empty_row in [0.0, f32::NAN] {
        let mut p = Problem::new(1, 1, 128, 128);
        p.queries(&[rows(0, 1, 300)]).chunk(&[rows(200, 1, 60)]).chunk(&[rows(0, 1, 70)]).causal(-30);
        p.low = -90;
        p.empty_row = empty_row;
        run(hopper, &p);
    }
    let mut p = Problem::new(2, 2, 128, 128);
    p.queries(&[rows(0, 1, 140), rows(200, 1, 60)]).chunk(&[rows(0, 1, 260)]).causal(0);
    p.documents = Some(vec![0, 1, 90, 129, 210, 255]);
    run(hopper, &p);
}

/// Rows of other pieces lie between those of a launch, and query heads begin within those of a key head.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn rows_that_lie_apart() {
    for (heads, sharing, head_shift) in [((5, 2), Some(3), 1), ((2, 2), None, 0)] {
        let mut p = Problem::new(heads.0, heads.1, 64, 64);
        (p.apart, p.batch, p.gap) = (true, 2, 1);
        (p.sharing, p.head_shift) = (sharing, head_shift);
        p.queries(&[rows(2, 1, 33), rows(150, 1, 140)]).causal(0);
        p.chunk(&[rows(0, 1, 140), rows(140, 1, 9)]).chunk(&[rows(149, 1, 150)]);
        run(hopper, &p);
    }
}

/// No key at all, in a launch or in a tile.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn nothing_to_see() {
    for cast_out in [true, false] {
        let mut p = Problem::new(3, 1, 128, 128);
        p.cast_out = cast_out;
        p.queries(&[rows(0, 1, 200)])
            .chunk(&[])
            .chunk(&[rows(100, 1, 50)])
            .chunk(&[rows(400, 1, 50)])
            .causal(0);
        run(hopper, &p);
        let mut p = Problem::new(1, 1, 128, 128);
        p.cast_out = cast_out;
        run(hopper, p.queries(&[rows(0, 1, 20)]).chunk(&[]));
    }
}

/// A problem whose rows see some infinite values and not others, and NaN where no row sees it: in the last launch, and in one
/// before, whose carry the rest goes on from.
fn odd_values(dk: usize, dv: usize) -> Problem {
    let mut p = Problem::new(2, 1, dk, dv);
    p.gap = 2;
    p.queries(&[rows(0, 1, 170), rows(400, 1, 37)])
        .chunk(&[rows(150, 1, 100)])
        .chunk(&[rows(0, 1, 150)])
        .causal(0);
    for (chunk, i, value) in [(0, 16, f32::INFINITY), (0, 99, f32::NAN), (1, 140, f32::NEG_INFINITY)] {
        p.chunks[chunk][0].v[i * dv + i % 7..(i + 1) * dv].fill(value);
    }
    p
}

/// Scores of ±1e4, where exp of an absolute score would be 0 or ∞.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn large_scores() {
    for chunks in [1, 3] {
        let mut p = Problem::new(2, 1, 128, 128);
        p.size = 4000.0;
        p.queries(&[rows(0, 1, 150)]).causal(0);
        for i in 0..chunks {
            p.chunk(&[rows(i * 150 / chunks, 1, (150 / chunks) as usize)]);
        }
        run(hopper, &p);
    }
}

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn planted_faults_in_tiles_without_keys_are_caught() {
    let mut p = Problem::new(8, 1, 128, 128);
    p.queries(&[rows(0, 1, 500)]).chunk(&[]);
    plant(|p| hopper(p).for_keys(1 << 20), &p, faults::EMPTY_TILES);
}

/// Left out while working: `--skip ::long::`.
mod long {
    use super::*;

    /// Every pair of head sizes that has tiles of its own, and sizes that are padded.
    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn head_sizes() {
        for (dk, dv) in [(64, 64), (192, 128), (256, 256), (192, 192), (80, 40), (8, 96), (72, 200)] {
            let mut p = Problem::new(2, 1, dk, dv);
            p.queries(&[rows(0, 1, 140)]).chunk(&[rows(0, 1, 300)]);
            run(hopper, &p);
            run(hopper, p.causal(0));
        }
    }

    /// Chunks of a sequence in an order that no ring has, with more pieces than one on both sides; rows of a stripe.
    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn carries() {
        for (parts, step) in [(1, 1), (2, 1), (5, 1), (8, 4)] {
            let mut p = Problem::new(2, 1, 128, 128);
            p.gap = 3;
            p.queries(&[rows(1, step, 70), rows(300, 1, 100)]).causal(0);
            // Part i has rows i, i + parts, … of a stripe, or a run of rows.
            let length = 400 / parts;
            for i in [3, 0, 6, 2, 7, 1, 5, 4].into_iter().filter(|&i| i < parts) {
                if step > 1 {
                    p.chunk(&[rows(i, parts, length as usize)]);
                } else {
                    p.chunk(&[rows(i * length, 1, 20), rows(i * length + 20, 1, length as usize - 20)]);
                }
            }
            run(hopper, &p);
            p.cast_out = false;
            run(hopper, &p);
        }
    }

    /// A hidden key takes no part, even if its value is infinite or NaN; one that is seen does.
    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn hidden_values_that_are_not_finite() {
        let mut p = odd_values(64, 64);
        p.cast_out = false;
        run(hopper, &p);
        let mut p = odd_values(192, 128);
        p.sinks = Some(p.leaf([false, true, false, false], false));
        run(hopper, &p);
        let mut p = odd_values(128, 128);
        p.low = -60;
        run(|p| hopper(p).for_keys(1 << 20), &p);
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn planted_faults_in_rows_that_are_left_are_caught() {
        let mut p = odd_values(128, 128);
        p.cast_out = false;
        plant(hopper, &p, faults::LEFT_ROWS);
        // The tile of 192 rows that is left ends within one of 128 of the kernel behind.
        let mut p = Problem::new(2, 1, 64, 64);
        p.queries(&[rows(0, 1, 260)]).chunk(&[rows(150, 1, 100)]).chunk(&[rows(0, 1, 150)]).causal(0);
        p.chunks[1][0].v[100 * 64..101 * 64].fill(f32::INFINITY);
        (p.low, p.cast_out) = (-60, false);
        plant_in(hopper, &p, faults::BEHIND, |fault| [None, Some(fault)]);
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn softcap_and_sinks() {
        // Heads of 64 have fewer warpgroups with a softcap.
        for head in [128, 64] {
            let mut p = Problem::new(2, 1, head, head);
            p.softcap = Some(15.0);
            p.size = 10.0;
            p.queries(&[rows(0, 1, 140)]).chunk(&[rows(70, 1, 70)]).chunk(&[rows(0, 1, 70)]).causal(0);
            p.sinks = Some(p.leaf([false, true, false, false], false));
            run(hopper, &p);
        }
        let mut p = Problem::new(3, 3, 64, 64);
        p.gap = 2;
        p.queries(&[rows(0, 2, 100)]).chunk(&[rows(0, 1, 100)]).causal(-10);
        // Some far above all scores, some −∞.
        let sinks = p.leaf([false, true, true, false], true);
        p.sinks = Some(sinks.map(|x| if x < -0.5 { f32::NEG_INFINITY } else { 40.0 * x }));
        run(hopper, &p);
    }

    /// Warpgroups, turns, slots for q, and how many products go ahead of the softmax; the cut for long rows of keys.
    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn tilings() {
        let mut p = Problem::new(2, 1, 64, 64);
        p.queries(&[rows(0, 1, 330)]).chunk(&[rows(0, 1, 330)]).causal(0);
        for (warpgroups, turns, q_slots, values_ahead) in
            [(2, false, 1, 3), (3, true, 2, 4), (1, false, 2, 1), (2, true, 1, 2)]
        {
            let tiling = Tiling::Hopper(HopperTiling { warpgroups, turns, q_slots, values_ahead, keys: 64 });
            run(|p| KernelKey { tiling, ..hopper(p) }, &p);
        }
        let mut p = Problem::new(2, 1, 128, 128);
        p.queries(&[rows(0, 1, 330)]).chunk(&[rows(0, 1, 400)]);
        run(|p| hopper(p).for_keys(1 << 20), &p);
        run(|p| hopper(p).for_keys(1 << 20), p.causal(70));
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn planted_faults_are_caught() {
        let mut p = Problem::new(3, 1, 128, 128);
        p.size = 16.0; // so that maxima grow
        p.queries(&[rows(450, 1, 150)]).chunk(&[rows(450, 1, 150)]).chunk(&[rows(0, 1, 450)]).causal(0);
        p.cast_out = false;
        plant(hopper, &p, faults::HOPPER);
    }
}
