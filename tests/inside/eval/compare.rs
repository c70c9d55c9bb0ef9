//! Comparing within tolerances.

use super::util::*;
use annulus::eval::compare;
use annulus::ir::{DType, Data, Tensor};

fn f(v: &[f64]) -> Tensor {
    tensor(DType::F64, &[v.len()], v)
}

#[test]
fn tolerances_add_up() {
    let c = compare(&f(&[1.0, 102.0]), &f(&[1.5, 100.0]), 0.5, 0.01, false).unwrap();
    assert_eq!((c.within, c.outside, c.max_abs_error), (false, 1, 2.0));
    assert!((c.max_rel_error - 1.0 / 3.0).abs() < 1e-15);
    let worst = c.worst.unwrap();
    assert_eq!((worst.index, worst.got, worst.want), (vec![1], 102.0, 100.0));
    assert!(compare(&f(&[1.0, 102.0]), &f(&[1.5, 100.0]), 1.0, 0.01, false).unwrap().within);
}

#[test]
fn infinities_agree_in_place_and_sign_and_nan_is_never_right() {
    let (inf, nan) = (f64::INFINITY, f64::NAN);
    for (got, want, nan_ok, within) in [
        (inf, inf, false, true),
        (-inf, -inf, false, true),
        (inf, -inf, false, false),
        (inf, 1e300, false, false),
        (1e300, inf, false, false),
        (nan, nan, false, false),
        (nan, nan, true, true),
        (nan, 1.0, true, false),
        (1.0, nan, true, false),
        (nan, inf, true, false),
    ] {
        let c = compare(&f(&[0.0, got]), &f(&[0.0, want]), 1e9, 1e9, nan_ok).unwrap();
        assert_eq!(c.within, within, "{got} {want} {nan_ok}");
        assert_eq!(c.max_abs_error, if within { 0.0 } else { inf });
        if !within {
            assert_eq!(c.worst.unwrap().index, [1]);
        }
    }
}

#[test]
fn shapes_must_agree_and_types_need_not() {
    let two = tensor(DType::F16, &[2, 1], &[1.0, 2.0]);
    assert!(compare(&two, &f(&[1.0, 2.0]), 0.0, 0.0, false).is_err());
    let c = compare(&two, &tensor(DType::F64, &[2, 1], &[1.0, 2.5]), 0.0, 0.0, false).unwrap();
    assert_eq!(c.worst.unwrap().index, [1, 0]);
    let none = compare(&f(&[]), &f(&[]), 0.0, 0.0, false).unwrap();
    assert!(none.within && none.worst.is_none());
}

#[test]
fn large_integers_are_compared_exactly() {
    let i = |v: i64| Tensor::new([1], Data::I64(vec![v].into())).unwrap();
    let c = compare(&i((1 << 60) + 1), &i(1 << 60), 0.0, 0.0, false).unwrap();
    assert_eq!((c.within, c.max_abs_error), (false, 1.0));
    assert!(compare(&i(1 << 60), &i(1 << 60), 0.0, 0.0, false).unwrap().within);
}

#[test]
fn a_tolerance_that_is_no_number_passes_nothing() {
    assert!(!compare(&f(&[1.0]), &f(&[2.0]), f64::NAN, 0.0, false).unwrap().within);
}
