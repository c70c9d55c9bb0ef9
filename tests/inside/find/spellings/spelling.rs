//! What can differ between two ways of writing one attention, and how much of it occurs together.

use super::masks::{Fill, How, Layer, layers};
use annulus::ir::DType;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
pub(super) enum Softmax {
    Operator,
    /// exp(x − max) over its sum.
    Quotient,
    /// exp(x − (max + ln Σ exp(x − max))).
    LogSumExp,
    /// exp((x − max) − ln Σ exp(x − max)).
    Logarithm,
}

/// How the quotient of exp and its sum is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quotient {
    /// Powers of two, with log₂e in the scale.
    pub(super) base_two: bool,
    /// The sum divides the product with V.
    pub(super) after: bool,
    /// By a product with its reciprocal.
    pub(super) reciprocal: bool,
    /// What keeps the sum from 0.
    pub(super) sum: Sum,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sum {
    Plain,
    /// At least a number.
    Bounded,
    /// With a number added that is lost in rounding.
    AndALittle,
    /// The maximum and the sum of a row without a key are replaced: zeros come of it.
    Replaced,
}

/// A column beside the scores.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sinks {
    /// Before the keys, not after them.
    pub(super) first: bool,
    /// One number a head, repeated, not one for each row.
    pub(super) by_head: bool,
    /// The maximum is subtracted before the softmax too.
    pub(super) shifted: bool,
    /// A guard against NaN stands before the column is dropped, not after.
    pub(super) guarded_first: bool,
}

/// How a number for each row, (batch, head, row, 1), is laid out on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    AsIs,
    /// Without its last axis, which is put back.
    Squeezed,
    /// As (batch, row, head), and back.
    BeforeHeads,
    /// As (batch, head, 1, row), and back.
    Back,
    /// As (batch, head, 1, row), where it meets the keys: a number for each key, not row. Only where there are as many.
    Across,
}

/// Where halves become f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Widened {
    Nowhere,
    BeforeMasks,
    BeforeSoftmax,
}

/// One more step of the scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extra {
    /// Times an input of (batch, 1, 1, 1), (1, heads, 1, 1), (1, 1, 1, keys) or (1, 1, rows, keys).
    Factor(Over),
    /// Divided by an input of each batch entry.
    Divisor,
    /// c·tanh(x/c).
    Cap,
    /// Times a constant that is 0 above the diagonal and one number below it.
    Switch,
}

/// What a factor tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    Batch,
    Heads,
    Keys,
    Pairs,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Spelling {
    /// One more step before the masks, and one behind them.
    pub(super) extras: [Option<Extra>; 2],
    pub(super) batch: usize,
    pub(super) kv_heads: usize,
    pub(super) repeat: usize,
    pub(super) q_len: usize,
    pub(super) kv_len: usize,
    pub(super) depth: usize,
    pub(super) depth_v: usize,
    /// Rows before heads in the inputs, as a projection leaves them.
    pub(super) rows_first: bool,
    /// Batch and heads in one axis for the products.
    pub(super) flat: bool,
    /// K transposed before the product.
    pub(super) transposed: bool,
    /// Factors on Q and K and the scores, and a divisor of the scores.
    pub(super) scales: [Option<f64>; 4],
    /// What is masked, one after the other.
    pub(super) masks: [Option<Layer>; 2],
    /// Of causal masks.
    pub(super) offset: i64,
    /// Keys that each batch entry has, of masks by lengths.
    pub(super) lengths: [usize; 2],
    pub(super) guarded: bool,
    pub(super) softmax: Softmax,
    /// A factor on scores that are masked already.
    pub(super) late: bool,
    pub(super) sinks: Option<Sinks>,
    pub(super) dtype: DType,
    pub(super) widened: Widened,
    pub(super) quotient: Quotient,
    /// Key heads are repeated by a look-up.
    pub(super) looked_up: bool,
    /// A factor for each row, on the scores before they are masked.
    pub(super) row_factor: bool,
    /// A factor for each row, on the probabilities.
    pub(super) row_factor_after: bool,
    /// How the factors of rows are laid out, and the maxima and sums of the softmax.
    pub(super) rows: [Rows; 2],
    /// Keys before this one are stored apart, and products with them are joined to those with the others.
    pub(super) past: usize,
}

impl Spelling {
    pub(super) fn masks(&self) -> impl Iterator<Item = Layer> + use<> {
        self.masks.into_iter().flatten()
    }

    pub(super) fn is_half(&self) -> bool {
        matches!(self.dtype, DType::F16 | DType::BF16)
    }

    /// Whether exp is written as powers of two.
    pub(super) fn powers_of_two(&self) -> bool {
        matches!(self.softmax, Softmax::Quotient) && self.quotient.base_two
    }

    /// Whether the sum divides the product with V.
    pub(super) fn divides_after(&self) -> bool {
        let plain = self.sinks.is_none() && !self.guarded && !self.row_factor_after && self.past == 0;
        let plain = plain && self.widened == Widened::Nowhere && self.rows[1] != Rows::Across;
        matches!(self.softmax, Softmax::Quotient) && self.quotient.after && plain
    }

    /// Whether a number of each row meets the keys instead, so that this is no attention.
    pub(super) fn is_across(&self) -> bool {
        let factors = self.row_factor || self.row_factor_after;
        factors && self.rows[0] == Rows::Across
            || !matches!(self.softmax, Softmax::Operator) && self.rows[1] == Rows::Across
    }
}

pub(super) fn spelling() -> impl Strategy<Value = Spelling> {
    let sizes = (1usize..3, 1usize..4, 1usize..4, 1usize..6, 1usize..7, 1usize..4, 1usize..4);
    let factor = || proptest::option::of(prop_oneof![Just(0.5), Just(0.3), Just(2.0), Just(-1.0)]);
    let softmax = prop_oneof![
        2 => Just(Softmax::Operator),
        3 => Just(Softmax::Quotient),
        1 => Just(Softmax::LogSumExp),
        1 => Just(Softmax::Logarithm),
    ];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), softmax);
    let dtype = prop_oneof![
        3 => Just(DType::F32),
        2 => Just(DType::F64),
        1 => Just(DType::F16),
        1 => Just(DType::BF16),
    ];
    let widened =
        prop_oneof![Just(Widened::Nowhere), Just(Widened::BeforeMasks), Just(Widened::BeforeSoftmax)];
    let sinks = any::<[bool; 4]>().prop_map(|[first, by_head, shifted, guarded_first]| Sinks {
        first,
        by_head,
        shifted,
        guarded_first,
    });
    let sum = prop_oneof![Just(Sum::Plain), Just(Sum::Bounded), Just(Sum::AndALittle), Just(Sum::Replaced)];
    let quotient = (any::<[bool; 3]>(), sum).prop_map(|([base_two, after, reciprocal], sum)| Quotient {
        base_two,
        after,
        reciprocal,
        sum,
    });
    let rows = || {
        prop_oneof![
            4 => Just(Rows::AsIs),
            1 => Just(Rows::Squeezed),
            1 => Just(Rows::BeforeHeads),
            1 => Just(Rows::Back),
            1 => Just(Rows::Across),
        ]
    };
    let more = (any::<[bool; 3]>(), [rows(), rows()], proptest::option::weighted(0.3, 1usize..6));
    let rest = (dtype, widened, proptest::option::weighted(0.3, sinks), quotient, more);
    let over = prop_oneof![Just(Over::Batch), Just(Over::Heads), Just(Over::Keys), Just(Over::Pairs)];
    let extra = prop_oneof![
        3 => over.prop_map(Extra::Factor),
        1 => Just(Extra::Divisor),
        2 => Just(Extra::Cap),
        1 => Just(Extra::Switch),
    ];
    let extra = move || proptest::option::weighted(0.25, extra.clone());
    let masks = ((layers(), [extra(), extra()]), -3i64..4, [0usize..8, 0usize..8]);
    (sizes, flags, [factor(), factor(), factor(), factor()], masks, rest).prop_map(
        |((batch, kv_heads, repeat, q_len, kv_len, depth, depth_v), f, scales, masks, rest)| {
            let (dtype, widened, sinks, quotient, (more, rows, past)) = rest;
            let [looked_up, row_factor, row_factor_after] = more;
            let ((masks, extras), offset, lengths) = masks;
            Spelling {
                extras,
                batch,
                kv_heads,
                repeat,
                q_len,
                kv_len,
                depth,
                depth_v,
                rows_first: f.0,
                flat: f.1,
                transposed: f.2,
                scales,
                masks,
                offset,
                lengths,
                guarded: f.3,
                late: f.4,
                softmax: f.5,
                sinks,
                dtype,
                widened,
                quotient,
                looked_up,
                row_factor,
                row_factor_after,
                rows,
                past: past.filter(|&p| p < kv_len && !f.1).unwrap_or(0),
            }
            .that_means_something()
        },
    )
}

impl Spelling {
    /// Without what cannot be together.
    fn that_means_something(mut self) -> Spelling {
        if !self.is_half() {
            self.widened = Widened::Nowhere;
        }
        if self.q_len != self.kv_len || self.q_len == 1 {
            self.rows = self.rows.map(|r| if r == Rows::Across { Rows::Back } else { r });
        }
        // With a column more there are not as many.
        if self.sinks.is_some() && self.rows[1] == Rows::Across {
            self.rows[1] = Rows::Back;
        }
        // What is masked after exp has its sum there, of no other keys, which may be any number above 0: any guard decides.
        if let Some(Layer { how: How::AfterExp { .. }, .. }) = self.masks[0] {
            (self.softmax, self.sinks) = (Softmax::Quotient, None);
            self.masks[1] = None;
            // Zeros everywhere are no mask.
            self.offset = self.offset.max(1 - self.q_len as i64);
            // What a large score leaves of the others is lost before it is dropped.
            let [q, k, ..] = self.scales.map(|f| f.map(|f| if f == 2.0 { 0.5 } else { f }));
            (self.scales, self.row_factor) = ([q, k, None, None], false);
        }
        // A product with 0 everywhere is no mask either, nor is one of −∞ with 0.
        let infinite = self.masks[0].is_some_and(|m| m.how.fill() == Some(Fill::Infinity));
        for n in 0..self.masks.len() {
            if let Some(Layer { how: How::Multiplied(fill), .. }) = self.masks[n]
                && (n > 0 && infinite || !self.masks[n].is_some_and(|m| m.keeps_any(&self)))
            {
                self.masks[n] = self.masks[n].map(|m| Layer { how: How::Add(fill), ..m });
            }
        }
        // A multiple of the least number is −∞.
        self.quotient.base_two &= !self.masks().any(|m| m.how.fill() == Some(Fill::Least));
        // Twice the least number is −∞, half of each is not: no guard may make of the one what it would not of the other.
        if self.masks().filter(|m| m.how.fill() == Some(Fill::Least)).count() == 2 {
            self.late &= !self.guarded && !matches!(self.quotient.sum, Sum::Replaced);
        }
        // −∞ less −∞ is NaN, of which nothing makes zeros any more.
        if let (Sum::Replaced, Some(sinks)) = (self.quotient.sum, &mut self.sinks) {
            sinks.shifted = false;
        }
        // ln Σ is lost beside a large finite number, so that this is no softmax then.
        let lossy = |m: Layer| m.how.fill().is_some_and(|f| f != Fill::Infinity) || m.how == How::Bias;
        if matches!(self.softmax, Softmax::LogSumExp) && (self.is_half() || self.masks().any(lossy)) {
            self.softmax = Softmax::Logarithm;
        }
        self
    }
}
