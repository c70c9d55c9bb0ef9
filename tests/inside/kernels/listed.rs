//! Every kernel that the list names, so that each pair of values of two fields runs.

use super::problem::{Problem, rows};
use super::{build, run};
use annulus::lower::{Arch, Element, KernelKey, MaskedScore, Operand, Tiling, listed};

/// A small problem that needs this key: heads a little smaller than those that the kernel is made for, where it copies in small
/// parts; a chunk before the last where it takes a carry.
fn problem(key: &KernelKey) -> Problem {
    let less = if key.copy == 16 { 0 } else { usize::from(key.copy) / key.element.bytes() };
    let mut p = Problem::new(2, 1, usize::from(key.dk) - less, usize::from(key.dv) - less);
    p.element = key.element;
    p.gap = 1;
    p.cast_out = key.cast_out;
    p.queries(&[rows(3, 2, 30), rows(64, 1, key.rows() / 2 + 5)]);
    if key.carry_in {
        p.chunk(&[rows(100, 1, 40)]);
    }
    p.chunk(&[rows(0, 1, key.keys() + 7), rows(30, 3, 9)]);
    if key.positions {
        p.causal(1);
    }
    if key.mask {
        p.mask = Some(p.leaf([false, true, true, true], true).map(|x| f32::from(x > -1.0)));
    }
    if key.bias != Operand::None {
        (p.bias, p.bias_in) = (Some(p.leaf([true, true, true, true], false)), key.bias);
    }
    if key.sinks != Operand::None {
        (p.sinks, p.sinks_in) = (Some(p.leaf([false, true, false, false], false)), key.sinks);
    }
    p.softcap = key.softcap.then_some(20.0);
    p.fill = (key.fill, if key.fill == MaskedScore::NegInf { 0.0 } else { -30.0 });
    p
}

fn every(nth: usize, of: usize, chosen: impl Fn(&KernelKey) -> bool) {
    let compiler = build::compiler();
    let mut keys = [Arch::Sm90a, Arch::Sm80, Arch::Sm100, Arch::Sm120].map(listed).concat();
    keys.sort();
    keys.dedup();
    keys.retain(chosen);
    assert!(keys.len() > of);
    for (i, key) in keys.iter().enumerate().filter(|(i, _)| i % of == nth) {
        let seed = i as u64;
        run::check(compiler, key, &problem(key), [None; 2], &[seed, seed + 1])
            .unwrap_or_else(|e| panic!("{key:?}: {e}"));
    }
}

fn hopper(key: &KernelKey) -> bool {
    matches!(key.tiling, Tiling::Hopper(_))
}

/// Left out while working: `--skip ::long::`.
mod long {
    use super::*;

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn hopper_kernels() {
        every(0, 1, hopper);
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn portable_kernels() {
        every(0, 2, |key| !hopper(key) && key.element != Element::F32);
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn more_portable_kernels() {
        every(1, 2, |key| !hopper(key) && key.element != Element::F32);
    }

    #[test]
    #[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
    fn kernels_of_f32() {
        every(0, 1, |key| key.element == Element::F32);
    }
}
