//! Element types as Rust types: what a loop over elements may ask of them.
//!
//! [`Element`] is any of the seven, [`Scalar`] the four in which arithmetic happens, of which [`Real`](super::real::Real) has
//! f32 and f64. f16 and bf16 have no arithmetic of their own: an operation takes them in f32 and rounds its results once.

use crate::ir::Data;

pub(super) use crate::ir::Element;

/// The elements as a tensor's data.
pub(super) fn wrap<T: Element>(values: Vec<T>) -> Data {
    T::into_data(values)
}

/// The elements of `data`, which must be of the type that the caller has in hand.
pub(super) fn same<T: Element>(data: &Data) -> Result<&[T], String> {
    T::of_data(data).ok_or_else(|| format!("an operand is {}, unlike the others", data.dtype()))
}

/// A type in which arithmetic happens: integers wrap, floats are IEEE.
pub(super) trait Scalar: Element + PartialOrd {
    const ZERO: Self;
    const ONE: Self;
    /// Neutral for `max`.
    const LEAST: Self;
    /// Neutral for `min`.
    const GREATEST: Self;
    /// Whether division by zero is an error.
    const INTEGER: bool;
    fn add(self, b: Self) -> Self;
    fn sub(self, b: Self) -> Self;
    fn mul(self, b: Self) -> Self;
    /// Of integers truncating; of an integer by zero, zero: the caller refuses that before.
    fn div(self, b: Self) -> Self;
    /// With the sign of b.
    fn modulo(self, b: Self) -> Self;
    /// `None` where an integer zero has a negative exponent.
    fn pow(self, b: Self) -> Option<Self>;
    fn neg(self) -> Self;
    fn abs(self) -> Self;
    fn sign(self) -> Self;
    /// NaN if one is NaN; −0 is below +0.
    fn min(self, b: Self) -> Self;
    fn max(self, b: Self) -> Self;
    /// sum / n; `None` for an integer mean of nothing.
    fn mean(sum: Self, n: usize) -> Option<Self>;
}

macro_rules! real_scalar {
    ($($t:ty),*) => {$(
        impl Scalar for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LEAST: Self = <$t>::NEG_INFINITY;
            const GREATEST: Self = <$t>::INFINITY;
            const INTEGER: bool = false;
            fn add(self, b: Self) -> Self {
                self + b
            }
            fn sub(self, b: Self) -> Self {
                self - b
            }
            fn mul(self, b: Self) -> Self {
                self * b
            }
            fn div(self, b: Self) -> Self {
                self / b
            }
            fn modulo(self, b: Self) -> Self {
                let r = self % b;
                if r == 0.0 {
                    r.copysign(b)
                } else if (r < 0.0) != (b < 0.0) {
                    r + b
                } else {
                    r
                }
            }
            fn pow(self, b: Self) -> Option<Self> {
                Some(self.powf(b))
            }
            fn neg(self) -> Self {
                -self
            }
            fn abs(self) -> Self {
                <$t>::abs(self)
            }
            fn sign(self) -> Self {
                if self > 0.0 {
                    1.0
                } else if self < 0.0 {
                    -1.0
                } else if self == 0.0 {
                    0.0
                } else {
                    self
                }
            }
            fn min(self, b: Self) -> Self {
                if self.is_nan() || self < b || (self == b && self.is_sign_negative()) { self } else { b }
            }
            fn max(self, b: Self) -> Self {
                if self.is_nan() || self > b || (self == b && self.is_sign_positive()) { self } else { b }
            }
            fn mean(sum: Self, n: usize) -> Option<Self> {
                Some(sum / n as $t)
            }
        }
    )*};
}
real_scalar!(f32, f64);

macro_rules! integer_scalar {
    ($($t:ty),*) => {$(
        impl Scalar for $t {
            const ZERO: Self = 0;
            const ONE: Self = 1;
            const LEAST: Self = <$t>::MIN;
            const GREATEST: Self = <$t>::MAX;
            const INTEGER: bool = true;
            fn add(self, b: Self) -> Self {
                self.wrapping_add(b)
            }
            fn sub(self, b: Self) -> Self {
                self.wrapping_sub(b)
            }
            fn mul(self, b: Self) -> Self {
                self.wrapping_mul(b)
            }
            fn div(self, b: Self) -> Self {
                if b == 0 { 0 } else { self.wrapping_div(b) }
            }
            fn modulo(self, b: Self) -> Self {
                let r = if b == 0 { 0 } else { self.wrapping_rem(b) };
                if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
            }
            fn pow(self, b: Self) -> Option<Self> {
                if b < 0 {
                    // 1/a^|b| truncated.
                    return match self {
                        0 => None,
                        1 => Some(1),
                        -1 => Some(if b % 2 == 0 { 1 } else { -1 }),
                        _ => Some(0),
                    };
                }
                let (mut result, mut square, mut rest) = (1, self, b);
                while rest > 0 {
                    if rest & 1 == 1 {
                        result = <$t>::wrapping_mul(result, square);
                    }
                    square = square.wrapping_mul(square);
                    rest >>= 1;
                }
                Some(result)
            }
            fn neg(self) -> Self {
                self.wrapping_neg()
            }
            fn abs(self) -> Self {
                self.wrapping_abs()
            }
            fn sign(self) -> Self {
                self.signum()
            }
            fn min(self, b: Self) -> Self {
                Ord::min(self, b)
            }
            fn max(self, b: Self) -> Self {
                Ord::max(self, b)
            }
            fn mean(sum: Self, n: usize) -> Option<Self> {
                // The count of a row that is in memory fits an i64; one beyond i32 makes the mean of i32 sums zero.
                <$t>::try_from(n).map_or(Some(0), |n| sum.checked_div(n))
            }
        }
    )*};
}
integer_scalar!(i32, i64);

/// Runs `$body` with `$v` bound to the elements of a type with arithmetic; every other type takes `$other`.
macro_rules! with_scalar {
    ($data:expr, $v:ident => $body:expr, $other:expr) => {
        match $data {
            $crate::ir::Data::F64($v) => $body,
            $crate::ir::Data::F32($v) => $body,
            $crate::ir::Data::I64($v) => $body,
            $crate::ir::Data::I32($v) => $body,
            _ => $other,
        }
    };
}
pub(super) use with_scalar;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimum_and_maximum_know_nan_and_the_sign_of_zero() {
        assert!(Scalar::min(f64::NAN, 1.0).is_nan() && Scalar::min(1.0, f64::NAN).is_nan());
        assert!(Scalar::max(f32::NAN, 1.0).is_nan() && Scalar::max(1.0, f32::NAN).is_nan());
        assert!(Scalar::min(0.0f32, -0.0).is_sign_negative() && Scalar::min(-0.0f32, 0.0).is_sign_negative());
        assert!(Scalar::max(0.0f32, -0.0).is_sign_positive() && Scalar::max(-0.0f32, 0.0).is_sign_positive());
    }
}
