//! Every number that decides what is large or small, each with its reason.
//!
//! A number is added to a score or put in its place. Whether the graph and an attention then agree depends on how large it is
//! beside a score: whether it leaves the score as it is, is rounded as a score is, or swallows it whole. A score is a product of
//! Q and K; no number is known of its size, and models keep it within some tens.
//!
//! | numbers from | to | what they do beside a score |
//! |---|---|---|
//! | 0 | [`SMALL_SUM_BF16`], [`SMALL_SUM_F16`], [`SMALL_SUM`] | are rounded as a score is, in that type |
//! | | [`SAFE_EXPONENT`] | have exponentials that neither over- nor underflow |
//! | | [`MODERATE`] | leave a row of nothing else three digits of its probabilities |
//! | [`MASKING`] | | stand for a masked key where the other numbers are 0 |
//! | | [`SMALL_BIAS`], [`SMALL_BIAS_F16`] | do not reach a huge fill |
//! | | [`SWALLOWED`] | are swallowed whole by a huge number |
//! | [`HUGE`], [`HUGE_F16`] | −∞ | leave nothing of a masked key, and swallow what is as large as scores |

use crate::ir::DType;

/// A fill at or below this leaves nothing of a masked key, unless scores are of its size: exp(fill − score) is 0 in every type
/// for scores above −10³⁰, and models write the least number of f32 or bf16 (−3.4·10³⁸), rarely −10³⁰ or below.
pub(crate) const HUGE: f64 = -1e30;
/// As [`HUGE`], of f16: its least finite number, which is what models write in it.
pub(crate) const HUGE_F16: f64 = -65504.0;
/// An addend of two values of which one is 0 is a mask if the other is at or below this; above, it is a bias. Models mask with
/// −10⁴ and below, and learned biases stay within some tens.
pub(crate) const MASKING: f64 = -1e3;
/// A factor of this size makes a mask of whatever whole number is not 0: models write 10⁹ and above.
pub(crate) const MASKING_ALL: f64 = 1e9;
/// A bias within this bound does not reach a huge fill: 24 binary digits below [`HUGE`] its size is lost beside it.
pub(crate) const SMALL_BIAS: f64 = 1e6;
/// As [`SMALL_BIAS`], of f16, whose least number is −65504.
pub(crate) const SMALL_BIAS_F16: f64 = 1e3;
/// Up to here an addend's rounding in f32, 2⁻²⁴ of it, is that of a score.
pub(crate) const SMALL_SUM: f64 = 1e3;
/// As [`SMALL_SUM`], of f16, whose rounding is 2⁻¹¹ of a number.
pub(crate) const SMALL_SUM_F16: f64 = 16.0;
/// As [`SMALL_SUM`], of bf16, whose rounding is 2⁻⁹ of a number.
pub(crate) const SMALL_SUM_BF16: f64 = 4.0;
/// A number up to this that is added to a sum of exponentials, or from which it is kept, guards against 0, and changes nothing that
/// counts where the sum is known to be 1 or above: models write 10⁻²⁰ to 1.2·10⁻⁷, the step from 1 to the next number of f32. Beside a
/// sum of which nothing is known it decides the result ([`decides_only_below`]).
pub(crate) const SMALL_GUARD: f64 = 1.2e-7;
/// Up to here a number rounds away nothing of f32 scores that it is subtracted from and that is read in three digits.
pub(crate) const SMALL_SHIFT: f64 = 1e4;
/// Up to here, where −10000 stands for masked keys, a row of nothing else keeps three digits of its probabilities.
pub(crate) const MODERATE: f64 = 2e4;
/// Exponentials of numbers within this bound, of their differences, and sums of as many as there are keys are numbers of f32: e⁸⁰ is
/// 5·10³⁴.
pub(crate) const SAFE_EXPONENT: f64 = 40.0;
/// A factor up to this, or down to its reciprocal, leaves a size what it is.
pub(crate) const MODERATE_FACTOR: f64 = 1e3;

/// Whether a guard beside a sum of this type is so small that it decides nothing before the sum has left the numbers that keep all
/// their digits in the type: up to the least of these for f32 and bf16, and f64, and in f16, of which it is a half digit, two units of
/// what is left below them.
pub(crate) fn decides_only_below(guard: f64, dtype: DType) -> bool {
    let least = match dtype {
        DType::F16 => SMALL_GUARD,
        DType::F64 => f64::MIN_POSITIVE,
        _ => f64::from(f32::MIN_POSITIVE),
    };
    guard <= least
}

/// Whether a fill is huge in this type.
pub(crate) fn huge(x: f64, dtype: DType) -> bool {
    x <= huge_bound(dtype)
}

/// The bound of [`huge`].
pub(crate) fn huge_bound(dtype: DType) -> f64 {
    if dtype == DType::F16 { HUGE_F16 } else { HUGE }
}

/// A bias within this bound does not reach a fill that is huge in this type.
pub(crate) fn small_bias(dtype: DType) -> f64 {
    if dtype == DType::F16 { SMALL_BIAS_F16 } else { SMALL_BIAS }
}

/// Up to here an addend's rounding is that of a score.
pub(crate) fn small_sum(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => SMALL_SUM_F16,
        DType::BF16 => SMALL_SUM_BF16,
        _ => SMALL_SUM,
    }
}

/// How large what is added to scores may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Size {
    /// So small that a half type still tells scores apart beside it, or −∞.
    Tame,
    /// As large as scores are, whatever that is, or −∞.
    Moderate,
    /// That, or so low that it swallows any score.
    Swallowing,
    /// Anything.
    #[default]
    Unknown,
}

impl Size {
    /// Of a number that stands for masked scores.
    pub(crate) fn of_fill(f: f64) -> Size {
        if f <= HUGE {
            Size::Swallowing
        } else if f.abs() <= -HUGE {
            Size::Moderate
        } else {
            Size::Unknown
        }
    }
}
