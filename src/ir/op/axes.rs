//! Which axes a contraction sums, and where the windows of a convolution or a pooling lie.

/// Where the windows of a convolution or a pooling lie: one entry an axis behind the first two. Window p of an axis begins at
/// element p·stride − low, and its taps are `dilation` apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Windows {
    /// Distance of a window from the one before, at least 1.
    pub strides: Vec<usize>,
    /// Distance of taps within a window, at least 1.
    pub dilations: Vec<usize>,
    /// Elements that are not there, before the first.
    pub low: Vec<usize>,
    /// Elements that are not there, behind the last.
    pub high: Vec<usize>,
}

/// A contraction over named axes, as in einsum: axes are letters; an axis in both operands and not in the result is summed.
/// Every axis of the result stands in an operand; within one list a letter stands once. Sums of f16 and bf16 are kept in f32.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Contract {
    /// Axes of the first operand.
    pub lhs: String,
    /// Axes of the second operand.
    pub rhs: String,
    /// Axes of the result.
    pub out: String,
}
