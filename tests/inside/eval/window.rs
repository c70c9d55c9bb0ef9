//! Convolutions and pooling against their definition, element by element.

use super::util::*;
use annulus::ir::{DType, Op, Reduction, Tensor, Windows};
use proptest::prelude::*;

/// One axis: its extent, the kernel, stride, dilation, and what is missing at both ends.
type Axis = (usize, usize, usize, usize, usize, usize);

fn axis() -> impl Strategy<Value = Axis> {
    (0usize..7, 1usize..4, 1usize..4, 1usize..3, 0usize..4, 0usize..4)
        .prop_filter("a window fits", |&(n, k, _, d, low, high)| (k - 1) * d < n + low + high)
}

fn windows(axes: &[Axis]) -> (Vec<usize>, Windows, Vec<usize>) {
    let w = Windows {
        strides: axes.iter().map(|a| a.2).collect(),
        dilations: axes.iter().map(|a| a.3).collect(),
        low: axes.iter().map(|a| a.4).collect(),
        high: axes.iter().map(|a| a.5).collect(),
    };
    let counts = axes.iter().map(|&(n, k, s, d, low, high)| (n + low + high - (k - 1) * d - 1) / s + 1);
    (axes.iter().map(|a| a.1).collect(), w, counts.collect())
}

/// The element under a tap of a window, if it is there.
fn under(axes: &[Axis], window: &[usize], tap: &[usize]) -> Option<Vec<usize>> {
    let one = |((&(n, _, s, d, low, _), &p), &t): ((&Axis, &usize), &usize)| {
        (p * s + t * d).checked_sub(low).filter(|&i| i < n)
    };
    axes.iter().zip(window).zip(tap).map(one).collect()
}

fn close(got: &Tensor, want: &[f64], tolerance: f64) -> Result<(), TestCaseError> {
    for (g, w) in got.to_f64().iter().zip(want) {
        let same = g == w || g.is_nan() && w.is_nan() || (g - w).abs() <= tolerance * (1.0 + w.abs());
        prop_assert!(same, "{g} for {w}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolutions(
        dtype in numbers(), batch in 0usize..3, groups in 1usize..3, own in 0usize..3, made in 0usize..3,
        axes in proptest::collection::vec(axis(), 0..=3), seed in any::<u64>(),
    ) {
        let (kernel, w, counts) = windows(&axes);
        let extents: Vec<usize> = axes.iter().map(|a| a.0).collect();
        let scale = if dtype.is_float() { 1.0 } else { 5.0 };
        let some = |shape: &[usize], seed| {
            let v: Vec<f64> = noise(shape.iter().product(), seed).iter().map(|x| x * scale).collect();
            tensor(dtype, shape, &v)
        };
        let x = some(&[&[batch, groups * own], &extents[..]].concat(), seed);
        let k = some(&[&[groups * made, own], &kernel[..]].concat(), seed ^ 1);
        let got = run(Op::Conv { windows: w, groups }, &[x.clone(), k.clone()]).unwrap();
        let shape = [&[batch, groups * made], &counts[..]].concat();
        prop_assert_eq!(got.shape(), &shape[..]);
        let (x, k) = (Nd::of(&x), Nd::of(&k));
        let want = from_fn(&shape, |at| {
            let mut sum = 0.0;
            for c in 0..own {
                for tap in indices(&kernel) {
                    let Some(e) = under(&axes, &at[2..], &tap) else { continue };
                    let channel = at[1] / made * own + c;
                    sum += x.at(&[&[at[0], channel], &e[..]].concat()) * k.at(&[&[at[1], c], &tap[..]].concat());
                }
            }
            sum
        });
        let tolerance = match dtype { DType::F16 => 2e-3, DType::BF16 => 2e-2, DType::F32 => 1e-5, _ => 1e-12 };
        close(&got, &want, tolerance)?;
    }

    #[test]
    fn pools(
        dtype in numbers(), mean in any::<bool>(), planes in proptest::array::uniform2(0usize..3),
        axes in proptest::collection::vec(axis(), 0..=3), seed in any::<u64>(),
    ) {
        let (kernel, w, counts) = windows(&axes);
        let shape = [&planes[..], &axes.iter().map(|a| a.0).collect::<Vec<_>>()].concat();
        let x = random(dtype, &shape, seed);
        let kind = if mean { Reduction::Mean } else { Reduction::Max };
        let got = run(Op::Pool { kind, kernel: kernel.clone(), windows: w }, std::slice::from_ref(&x));
        if mean && !dtype.is_float() {
            prop_assert!(got.is_err());
            return Ok(());
        }
        let got = got.unwrap();
        let shape = [&planes[..], &counts].concat();
        prop_assert_eq!(got.shape(), &shape[..]);
        let x = Nd::of(&x);
        let least = match dtype { DType::I64 => i64::MIN as f64, DType::I32 => i32::MIN.into(), _ => f64::NEG_INFINITY };
        let want = from_fn(&shape, |at| {
            let there: Vec<f64> = indices(&kernel)
                .iter()
                .filter_map(|tap| under(&axes, &at[2..], tap))
                .map(|e| x.at(&[&at[..2], &e].concat()))
                .collect();
            let sum: f64 = there.iter().sum();
            if mean { sum / there.len() as f64 } else { there.into_iter().fold(least, f64::max) }
        });
        let tolerance = match dtype { DType::F16 => 2e-3, DType::BF16 => 2e-2, DType::F32 => 1e-6, _ => 1e-12 };
        close(&got, &want, tolerance)?;
    }
}

#[test]
fn a_block_of_windows_is_written_out_at_a_time() {
    // More than one block, the last one short: a moving sum is the difference of two running ones.
    let n = 300_001;
    let x = tensor(DType::F64, &[1, 1, n], &(0..n).map(|i| i as f64).collect::<Vec<_>>());
    let w = tensor(DType::F64, &[1, 1, 3], &[1.0; 3]);
    let windows = Windows { strides: vec![1], dilations: vec![1], low: vec![0], high: vec![0] };
    let got = run(Op::Conv { windows, groups: 1 }, &[x, w]).unwrap().to_f64();
    assert_eq!(got.len(), n - 2);
    assert!(got.iter().enumerate().all(|(i, &y)| y == 3.0 * (i + 1) as f64));
}

#[test]
fn hostile_windows_end_soon() {
    let most = annulus::ir::MAX_DATA;
    let x = tensor(DType::F32, &[1, 1, 2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let huge = |n: usize| Windows {
        strides: vec![usize::MAX; 2],
        dilations: vec![1; 2],
        low: vec![n; 2],
        high: vec![n; 2],
    };
    let pool = |n: usize| Op::Pool { kind: Reduction::Mean, kernel: vec![n + 1; 2], windows: huge(n) };
    // The window holds very many taps, of which one is there.
    assert_eq!(run(pool(most / 4), std::slice::from_ref(&x)).unwrap().to_f64(), [1.0]);
    assert!(run(pool(most), std::slice::from_ref(&x)).is_err());
    assert!(run(pool(usize::MAX - 1), std::slice::from_ref(&x)).is_err());
    let w = tensor(DType::F32, &[1, 1, 1, 1], &[2.0]);
    for groups in [0, 2, usize::MAX] {
        assert!(run(Op::Conv { windows: huge(0), groups }, &[x.clone(), w.clone()]).is_err());
    }
}
