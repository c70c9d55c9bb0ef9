//! Arrays of f64 by index, random tensors, and what "close" means.

use annulus::eval::{Precision, apply};
use annulus::ir::{DType, Op, Tensor};
use proptest::prelude::*;

/// A tensor's elements as f64, read by index.
#[derive(Clone, Debug)]
pub(crate) struct Nd {
    pub(crate) shape: Vec<usize>,
    pub(crate) v: Vec<f64>,
}

impl Nd {
    pub(crate) fn of(t: &Tensor) -> Nd {
        Nd { shape: t.shape().to_vec(), v: t.to_f64() }
    }

    pub(crate) fn at(&self, index: &[usize]) -> f64 {
        assert_eq!(index.len(), self.shape.len());
        let flat = index.iter().zip(&self.shape).fold(0, |p, (&i, &e)| {
            assert!(i < e, "{index:?} in {:?}", self.shape);
            p * e + i
        });
        self.v[flat]
    }

    /// Aligned at the last axis; an extent of 1 stays where it is.
    pub(crate) fn broadcast_at(&self, index: &[usize]) -> f64 {
        let missing = index.len() - self.shape.len();
        let own: Vec<usize> =
            self.shape.iter().zip(&index[missing..]).map(|(&e, &i)| if e == 1 { 0 } else { i }).collect();
        self.at(&own)
    }
}

/// Every index of a shape, row-major.
pub(crate) fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
    let n: usize = shape.iter().product();
    (0..n)
        .map(|flat| {
            let mut rest = flat;
            let mut index = vec![0; shape.len()];
            for (i, e) in index.iter_mut().zip(shape).rev() {
                *i = rest % e;
                rest /= e;
            }
            index
        })
        .collect()
}

pub(crate) fn from_fn(shape: &[usize], f: impl Fn(&[usize]) -> f64) -> Vec<f64> {
    indices(shape).iter().map(|i| f(i)).collect()
}

pub(crate) fn tensor(dtype: DType, shape: &[usize], v: &[f64]) -> Tensor {
    Tensor::from_f64(dtype, shape, v).unwrap()
}

/// A deterministic spread of numbers in −1 … 1.
pub(crate) fn noise(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect()
}

pub(crate) fn random(dtype: DType, shape: &[usize], seed: u64) -> Tensor {
    tensor(dtype, shape, &noise(shape.iter().product(), seed))
}

/// The first result of an operation in its declared type.
pub(crate) fn run(op: Op, x: &[Tensor]) -> Result<Tensor, String> {
    apply(&op, x, Precision::Declared).map(|mut r| r.swap_remove(0))
}

/// Half a unit in the last place of a type, relative, and its smallest step.
pub(crate) fn unit(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::F64 => (2f64.powi(-53), f64::from_bits(1)),
        DType::F32 => (2f64.powi(-24), 2f64.powi(-149)),
        DType::F16 => (2f64.powi(-11), 2f64.powi(-24)),
        DType::BF16 => (2f64.powi(-8), 2f64.powi(-133)),
        _ => (0.0, 0.0),
    }
}

pub(crate) fn largest(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 65504.0,
        DType::BF16 => f64::from(f32::from_bits(0x7f7f_0000)),
        DType::F32 => f64::from(f32::MAX),
        _ => f64::MAX,
    }
}

/// Whether `got` is `want` within `units` halves of a unit in the last place; NaN is NaN, infinities agree, and what
/// is beyond the type is infinite.
pub(crate) fn is_close(dtype: DType, got: f64, want: f64, units: f64) -> bool {
    if want.is_nan() || got.is_nan() {
        return want.is_nan() && got.is_nan();
    }
    let (relative, step) = unit(dtype);
    if got == want || (got.is_infinite() && got.signum() == want.signum() && want.abs() >= largest(dtype)) {
        return true;
    }
    (got - want).abs() <= units * (relative * want.abs() + step)
}

pub(crate) fn assert_close(dtype: DType, got: &[f64], want: &[f64], units: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        assert!(is_close(dtype, g, w, units), "element {i}: got {g:e}, want {w:e} in {dtype}");
    }
}

pub(crate) fn floats() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F64), Just(DType::F32), Just(DType::F16), Just(DType::BF16)]
}

pub(crate) fn numbers() -> impl Strategy<Value = DType> {
    prop_oneof![3 => floats(), 1 => Just(DType::I64), 1 => Just(DType::I32)]
}

pub(crate) fn dtypes() -> impl Strategy<Value = DType> {
    prop_oneof![3 => floats(), 1 => Just(DType::I64), 1 => Just(DType::I32), 1 => Just(DType::Bool)]
}

pub(crate) fn shapes(rank: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(prop_oneof![1 => Just(0usize), 2 => Just(1usize), 6 => 2usize..5], rank)
}

fn value(dtype: DType) -> BoxedStrategy<f64> {
    if dtype == DType::Bool {
        return prop_oneof![Just(0.0), Just(1.0)].boxed();
    }
    if !dtype.is_float() {
        return prop_oneof![4 => (-6i32..7).prop_map(f64::from), 1 => (-2e9f64..2e9).prop_map(f64::trunc)]
            .boxed();
    }
    prop_oneof![
        8 => -4.0f64..4.0,
        4 => (-8i32..9).prop_map(|x| f64::from(x) / 2.0),
        1 => prop_oneof![
            Just(0.0), Just(-0.0), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(f64::NAN),
            Just(1e4), Just(-1e4), Just(65504.0), Just(1e-7)
        ],
    ]
    .boxed()
}

/// A tensor with awkward values.
pub(crate) fn values(dtype: DType, shape: Vec<usize>) -> impl Strategy<Value = Tensor> {
    let n = shape.iter().product::<usize>();
    proptest::collection::vec(value(dtype), n).prop_map(move |v| tensor(dtype, &shape, &v))
}

pub(crate) fn tensors(
    dtype: impl Strategy<Value = DType>,
    shape: impl Strategy<Value = Vec<usize>>,
) -> impl Strategy<Value = Tensor> {
    (dtype, shape).prop_flat_map(|(d, s)| values(d, s))
}

/// A shape that broadcasts to `shape`.
pub(crate) fn narrowed(shape: Vec<usize>) -> impl Strategy<Value = Vec<usize>> {
    (0..=shape.len(), proptest::collection::vec(any::<bool>(), shape.len())).prop_map(move |(skip, one)| {
        shape.iter().zip(one).skip(skip).map(|(&e, one)| if one { 1 } else { e }).collect()
    })
}
