//! f32 and f64: scalars with the functions of analysis.

use super::matrix::Product;
use super::number::Scalar;

/// A scalar with the functions of analysis: f32 or f64.
pub(super) trait Real: Scalar + Product {
    fn exp(self) -> Self;
    fn ln(self) -> Self;
    fn sqrt(self) -> Self;
    fn sin(self) -> Self;
    fn cos(self) -> Self;
    fn tanh(self) -> Self;
    fn erf(self) -> Self;
    fn floor(self) -> Self;
    fn ceil(self) -> Self;
    fn round_ties_even(self) -> Self;
    fn is_nan(self) -> bool;
    fn is_infinite(self) -> bool;
    fn is_finite(self) -> bool;
    fn from_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;

    /// 1/(1+e^−x), without overflow on either side.
    fn sigmoid(self) -> Self {
        if self < Self::ZERO {
            let e = self.exp();
            e.div(Self::ONE.add(e))
        } else {
            Self::ONE.div(Self::ONE.add(self.neg().exp()))
        }
    }
}

macro_rules! real {
    ($($t:ident),*) => {$(
        impl Real for $t {
            fn exp(self) -> Self {
                $t::exp(self)
            }
            fn ln(self) -> Self {
                $t::ln(self)
            }
            fn sqrt(self) -> Self {
                $t::sqrt(self)
            }
            fn sin(self) -> Self {
                $t::sin(self)
            }
            fn cos(self) -> Self {
                $t::cos(self)
            }
            fn tanh(self) -> Self {
                $t::tanh(self)
            }
            fn erf(self) -> Self {
                libm::erf(f64::from(self)) as $t
            }
            fn floor(self) -> Self {
                $t::floor(self)
            }
            fn ceil(self) -> Self {
                $t::ceil(self)
            }
            fn round_ties_even(self) -> Self {
                $t::round_ties_even(self)
            }
            fn is_nan(self) -> bool {
                $t::is_nan(self)
            }
            fn is_infinite(self) -> bool {
                $t::is_infinite(self)
            }
            fn is_finite(self) -> bool {
                $t::is_finite(self)
            }
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
        }
    )*};
}
real!(f32, f64);

/// Runs `$body` with `$v` bound to the elements of f64 or f32; every other type takes `$other`.
macro_rules! with_real {
    ($data:expr, $v:ident => $body:expr, $other:expr) => {
        match $data {
            $crate::ir::Data::F64($v) => $body,
            $crate::ir::Data::F32($v) => $body,
            _ => $other,
        }
    };
}
pub(super) use with_real;
