//! The portable kernels, of 16 bits and of 32.

use super::problem::{Problem, rows};
use super::{faults, plant, run};
use annulus::lower::{Arch, Element, KernelKey, MaskedScore, Operand};

fn portable(p: &Problem) -> KernelKey {
    KernelKey::portable(p.element, p.dk, p.dv, p.positions(), Arch::Sm80).unwrap()
}

const ELEMENTS: [Element; 3] = [Element::Bf16, Element::F16, Element::F32];

/// Sliding windows, a shift for each batch entry, offsets that leave rows without keys, documents.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn masks_by_position() {
    for element in [Element::F16, Element::F32] {
        let mut p = Problem::new(2, 1, 64, 64);
        p.element = element;
        p.batch = 2;
        p.queries(&[rows(100, 1, 100)]).chunk(&[rows(0, 1, 100), rows(100, 1, 100)]);
        (p.low, p.high, p.shift) = (-40, 17, Some(vec![-3, 70]));
        run(portable, &p);
        for empty_row in [0.0, f32::NAN] {
            let mut p = Problem::new(1, 1, 64, 64);
            p.element = element;
            p.queries(&[rows(0, 1, 200)])
                .chunk(&[rows(130, 1, 60)])
                .chunk(&[rows(0, 1, 70)])
                .chunk(&[])
                .causal(-30);
            p.low = -90;
            p.empty_row = empty_row;
            run(portable, &p);
        }
        let mut p = Problem::new(2, 2, 64, 64);
        p.element = element;
        p.queries(&[rows(0, 1, 80), rows(120, 1, 30)]).chunk(&[rows(0, 1, 160)]).causal(0);
        p.documents = Some(vec![0, 1, 50, 65, 130, 145]);
        run(portable, &p);
    }
}

/// Rows of other pieces and heads of other launches lie between those of a launch; query heads begin within those of a key head; where
/// queries lie and where results go has nothing to do with each other.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn rows_and_heads_that_lie_apart() {
    for element in [Element::Bf16, Element::F32] {
        for (heads, sharing, head_shift) in [((5, 2), Some(3), 1), ((3, 3), None, 0), ((4, 3), Some(2), 1)] {
            let mut p = Problem::new(heads.0, heads.1, 64, 48);
            (p.element, p.apart, p.batch, p.gap) = (element, true, 2, 1);
            (p.sharing, p.head_shift) = (sharing, head_shift);
            p.queries(&[rows(2, 1, 33), rows(50, 1, 20)]).causal(0);
            p.chunk(&[rows(0, 1, 40), rows(40, 1, 9)]).chunk(&[rows(49, 1, 30)]);
            run(portable, &p);
        }
    }
}

/// Left out while working: `--skip ::long::`.
mod long {
    use super::*;

    /// Lengths that no block divides, rows that start anywhere, grouped heads.
    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn tails_and_grouped_heads() {
        for element in ELEMENTS {
            for (queries, keys) in [(130, 193), (1, 1), (65, 64), (3, 300)] {
                let mut p = Problem::new(4, 2, 64, 64);
                p.element = element;
                p.queries(&[rows(keys - queries, 1, queries as usize)]).chunk(&[rows(0, 1, keys as usize)]);
                run(portable, &p);
                run(portable, p.causal(0));
            }
        }
    }

    /// Every pair of head sizes that has tiles of its own, and sizes that are padded, down to rows of odd length.
    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn head_sizes() {
        for element in [Element::Bf16, Element::F32] {
            for (dk, dv) in
                [(32, 32), (96, 96), (128, 128), (192, 128), (256, 256), (80, 40), (6, 10), (1, 3), (61, 61)]
            {
                let mut p = Problem::new(2, 1, dk, dv);
                p.element = element;
                run(portable, p.queries(&[rows(0, 1, 70)]).chunk(&[rows(0, 1, 70)]).causal(0));
            }
        }
    }

    /// Chunks in an order that no ring has, with more pieces than one on both sides; rows of a stripe.
    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn carries() {
        for element in ELEMENTS {
            for (parts, step) in [(2, 1), (5, 1), (8, 4)] {
                let mut p = Problem::new(2, 1, 64, 64);
                p.element = element;
                p.gap = 3;
                p.queries(&[rows(1, step, 40), rows(150, 1, 50)]).causal(0);
                let length = 200 / parts;
                for i in [3, 0, 6, 2, 7, 1, 5, 4].into_iter().filter(|&i| i < parts) {
                    if step > 1 {
                        p.chunk(&[rows(i, parts, length as usize)]);
                    } else {
                        p.chunk(&[rows(i * length, 1, 20), rows(i * length + 20, 1, length as usize - 20)]);
                    }
                }
                run(portable, &p);
                p.cast_out = false;
                run(portable, &p);
            }
        }
    }

    /// A boolean mask and a bias, broadcast in several ways, their rows counted in both ways, over chunks in shuffled order.
    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn masks_and_biases() {
        for (element, operand) in
            [(Element::Bf16, Operand::Element), (Element::F16, Operand::F32), (Element::F32, Operand::F32)]
        {
            for (has, local) in
                [([true; 4], true), ([false, true, true, true], false), ([true, false, false, true], false)]
            {
                let mut p = Problem::new(2, 1, 64, 64);
                p.element = element;
                (p.bias_in, p.sinks_in) = (operand, operand);
                p.batch = 2;
                p.gap = 1;
                p.queries(&[rows(5, 2, 50)]).chunk(&[rows(64, 1, 64)]).chunk(&[rows(0, 1, 64)]);
                p.mask = Some(p.leaf(has, local).map(|x| f32::from(x > -0.3)));
                p.bias = Some(p.leaf(has, !local).map(|x| if x > 2.0 { f32::NEG_INFINITY } else { x }));
                p.sinks = Some(p.leaf([false, true, true, false], local));
                run(portable, &p);
                p.bias = None;
                run(portable, p.causal(0));
            }
        }
    }

    /// A masked score that becomes a number: rows without a key that is kept then attend to all of them.
    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn finite_fills() {
        for element in [Element::Bf16, Element::F32] {
            for fill in [
                (MaskedScore::Replace, -1e4),
                (MaskedScore::Add, -1e4),
                (MaskedScore::Replace, f32::MIN),
                (MaskedScore::Add, f32::MIN),
            ] {
                let mut p = Problem::new(2, 1, 64, 64);
                p.element = element;
                p.fill = fill;
                p.queries(&[rows(0, 1, 90)]).chunk(&[rows(50, 1, 50)]).chunk(&[rows(0, 1, 50)]).causal(-20);
                run(portable, &p);
                p.mask = Some(p.leaf([false, false, true, true], false).map(|x| f32::from(x > 0.5)));
                p.cast_out = false;
                run(portable, &p);
            }
        }
    }

    /// A masked key takes no part, even if its value is infinite or NaN.
    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn masked_values_that_are_not_finite() {
        for element in ELEMENTS {
            let mut p = Problem::new(2, 1, 64, 64);
            p.element = element;
            p.queries(&[rows(0, 1, 100)]).chunk(&[rows(40, 1, 60)]).chunk(&[rows(0, 1, 40)]).causal(0);
            let mut mask = p.leaf([false, false, false, true], false).map(|_| 1.0);
            for (chunk, i, value) in [(0, 3, f32::INFINITY), (0, 59, f32::NAN), (1, 20, f32::NEG_INFINITY)] {
                let piece = &mut p.chunks[chunk][0];
                mask.numbers[piece.rows.global(i) as usize] = 0.0;
                piece.v[i * 64 + i % 7..(i + 1) * 64].fill(value);
            }
            p.mask = Some(mask);
            run(portable, &p);
        }
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn softcap_and_large_scores() {
        for element in ELEMENTS {
            let mut p = Problem::new(2, 1, 64, 64);
            p.element = element;
            p.softcap = Some(15.0);
            p.size = 10.0;
            run(
                portable,
                p.queries(&[rows(0, 1, 70)]).chunk(&[rows(35, 1, 35)]).chunk(&[rows(0, 1, 35)]).causal(0),
            );
            let mut p = Problem::new(2, 1, 64, 64);
            p.element = element;
            p.size = 4000.0;
            run(
                portable,
                p.queries(&[rows(0, 1, 70)]).chunk(&[rows(35, 1, 35)]).chunk(&[rows(0, 1, 35)]).causal(0),
            );
        }
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn planted_faults_are_caught() {
        let mut p = Problem::new(2, 1, 64, 64);
        p.size = 16.0; // so that maxima grow
        p.queries(&[rows(170, 1, 70)]).chunk(&[rows(170, 1, 70)]).chunk(&[rows(0, 1, 170)]).causal(0);
        p.cast_out = false;
        plant(portable, &p, faults::PORTABLE);
    }
}
