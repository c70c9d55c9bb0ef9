//! f64 to the half types, rounded once.
//!
//! The conversions of `half` cut an f64 off before they round, and so miss by one unit just above a tie; clippy refuses them.

use half::{bf16, f16};

/// f64 to f32, rounded to odd: a further rounding to a type of at most 22 bits is then the rounding of the f64 itself.
/// Two roundings to nearest, which conversions in hardware make, may miss by one unit.
fn to_odd(x: f64) -> f32 {
    let y = x as f32;
    let bits = y.to_bits();
    if y.is_nan() || f64::from(y) == x || bits & 1 == 1 {
        return y;
    }
    let outward = f64::from(y).abs() > x.abs();
    f32::from_bits(if outward { bits - 1 } else { bits + 1 })
}

/// The nearest f16, ties to even.
pub(crate) fn f16_from_f64(x: f64) -> f16 {
    f16::from_f32(to_odd(x))
}

/// The nearest bf16, ties to even.
pub(crate) fn bf16_from_f64(x: f64) -> bf16 {
    bf16::from_f32(to_odd(x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_once() {
        // Just above a tie of f16: through f32 it would fall back on the tie and round down.
        let tie = 1.0 + 2f64.powi(-11);
        assert_eq!(f16_from_f64(tie).to_f64(), 1.0);
        assert_eq!(f16_from_f64(tie + 2f64.powi(-40)).to_f64(), 1.0 + 2f64.powi(-10));
        let tie = 1.0 + 2f64.powi(-8);
        assert_eq!(bf16_from_f64(tie).to_f64(), 1.0);
        assert_eq!(bf16_from_f64(tie + 2f64.powi(-40)).to_f64(), 1.0 + 2f64.powi(-7));
        assert_eq!(f16_from_f64(65519.999).to_f64(), 65504.0);
        assert_eq!(f16_from_f64(65520.0).to_f64(), f64::INFINITY);
        assert_eq!(f16_from_f64(-1e300).to_f64(), f64::NEG_INFINITY);
        assert_eq!(bf16_from_f64(1e-300).to_bits(), 0);
        assert_eq!(f16_from_f64(-1e-300).to_bits(), 0x8000);
        assert!(f16_from_f64(f64::NAN).is_nan());
    }
}
