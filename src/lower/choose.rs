//! Which kernel computes a step, or why none does.

use super::arch::Arch;
use super::element::Element;
use super::key::{KernelKey, MaskedScore, Operand};
use super::params::FAR;
use crate::ir::{DType, Factor, ScoreStep, Scores};
use crate::mask::{self, Mask, Term, Tile};
use crate::schedule::AttentionFacts;

/// Why there is no kernel for an attention.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The element type has no kernel.
    #[error(
        "no GPU kernel computes attention in {0}: cast q, k and v to f32, bf16 or f16, or run on the CPU"
    )]
    Element(&'static str),
    /// A head is too large.
    #[error("head sizes {dk} and {dv}: the kernels take heads up to 256")]
    Heads {
        /// Of q and k.
        dk: usize,
        /// Of v.
        dv: usize,
    },
    /// A number does not fit.
    #[error("{what} is {value}, beyond what f32 holds")]
    Number {
        /// Which.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// An operand has a type that no kernel reads.
    #[error("{what} is {found}: the kernels read it in f32 or in the type of q")]
    Operand {
        /// `bias`, `sinks`.
        what: &'static str,
        /// Its type.
        found: &'static str,
    },
    /// Two boolean masks.
    #[error("{0} boolean masks: the kernels read one; combine them with And before the attention")]
    Masks(usize),
    /// Another mask for each batch entry.
    #[error("{0}: the kernels see the same positions in every batch entry; hand it over as a boolean mask")]
    PerEntry(String),
    /// Steps of the scores.
    #[error(
        "scores of the steps {0}: the kernels know a factor, a softcap, a bias and a mask, in this order"
    )]
    Steps(String),
    /// Too many rows.
    #[error("{0} rows: the kernels count rows below 2^30")]
    Rows(usize),
}

/// A step `attn_partial`; the fields without a word are the step's of the same name ([`crate::schedule::StepOp`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Launch {
    pub tile: Tile,
    /// Key rows of all its pieces.
    pub keys: usize,
    pub carry_in: bool,
    pub sinks_here: bool,
    pub cast_out: bool,
}

/// The kernel of one step; behind it goes [`KernelKey::redo`], where there is one.
///
/// # Errors
/// No kernel computes it.
pub fn kernel(facts: &AttentionFacts, step: Launch, arch: Arch) -> Result<KernelKey, Refusal> {
    let Launch { tile, keys, carry_in, sinks_here, cast_out } = step;
    let sizes = &facts.sizes;
    let usual = Usual::of(&facts.scores).ok_or_else(|| Refusal::Steps(facts.scores.to_string()))?;
    let element = match facts.dtype {
        DType::F16 => Element::F16,
        DType::BF16 => Element::Bf16,
        DType::F32 => Element::F32,
        other => return Err(Refusal::Element(other.name())),
    };
    if let Some(rows) = [sizes.q_len, sizes.kv_len].into_iter().find(|n| *n >= FAR as usize) {
        return Err(Refusal::Rows(rows));
    }
    let fill_value = match usual.mask.fill {
        mask::Fill::NegInf => 0.0,
        mask::Fill::Replace(x) | mask::Fill::Add(x) => x,
    };
    for (what, value) in [("scale", usual.scale), ("softcap", usual.softcap), ("the mask's fill", fill_value)]
    {
        if !(value as f32).is_finite() || (what == "softcap" && value > 0.0 && value as f32 == 0.0) {
            return Err(Refusal::Number { what, value });
        }
    }
    let masks = usual.mask.terms.iter().filter(|t| matches!(t, Term::Tensor { .. })).count();
    if masks > 1 {
        return Err(Refusal::Masks(masks));
    }
    if let Some(batch) = usual.mask.terms.iter().find(|t| matches!(t, Term::Batch { .. })) {
        return Err(Refusal::PerEntry(batch.to_string()));
    }
    let operand = |what, argument: Option<usize>| match argument {
        None => Ok(Operand::None),
        Some(i) => match facts.leaves.get(i.wrapping_sub(3)).map(|leaf| leaf.dtype) {
            Some(DType::F32) => Ok(Operand::F32),
            Some(dtype) if dtype == facts.dtype => Ok(Operand::Element),
            other => Err(Refusal::Operand { what, found: other.map_or("missing", DType::name) }),
        },
    };
    let bias = operand("bias", usual.bias)?;
    let sinks = if sinks_here { operand("sinks", facts.sinks)? } else { Operand::None };
    let masked = tile != Tile::Full;
    let positions = masked && usual.mask.terms.len() > masks;
    let mask = masked && masks > 0;
    let fill = match usual.mask.fill {
        mask::Fill::Replace(_) if positions || mask => MaskedScore::Replace,
        mask::Fill::Add(_) if positions || mask => MaskedScore::Add,
        _ => MaskedScore::NegInf,
    };
    let softcap = usual.softcap > 0.0;
    let (dk, dv) = (sizes.head_dim, sizes.v_head_dim);
    // The Hopper kernel takes maxima before it scales, and knows nothing but positions.
    let simple = !mask && bias == Operand::None && fill == MaskedScore::NegInf && sinks != Operand::Element;
    let hopper = (arch == Arch::Sm90a && simple && usual.scale as f32 > 0.0)
        .then(|| KernelKey::hopper(element, dk, dv, positions))
        .flatten();
    let plain = hopper
        .or_else(|| KernelKey::portable(element, dk, dv, positions, arch))
        .ok_or(Refusal::Heads { dk, dv })?;
    Ok(KernelKey { mask, bias, fill, softcap, carry_in, cast_out, sinks, ..plain }.for_keys(keys))
}

/// What positions let a query row see, as the kernels read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Row r sees keys r + low ≤ k < r + high; `None` where nothing binds.
    pub window: [Option<i32>; 2],
    /// Per query row the first key and one past the last that documents, a prefix and padding leave it.
    pub documents: Option<Vec<[i32; 2]>>,
}

/// The terms of a mask that depend on positions, for query rows up to `q_rows`; those of single batch entries left out, which
/// [`kernel`] refuses.
pub fn sight(mask: &Mask, q_rows: usize) -> Sight {
    let clamp = |x: i128| x.clamp(-i128::from(FAR), i128::from(FAR)) as i32;
    let mut window = [None::<i32>; 2];
    let mut low = |x: i128| window[0] = Some(window[0].map_or(clamp(x), |old| old.max(clamp(x))));
    let mut highs = vec![];
    let mut documents: Option<Vec<[i32; 2]>> = None;
    let mut rows = |seen: &dyn Fn(i128) -> (i128, i128)| {
        let all = documents.get_or_insert_with(|| vec![[-FAR, FAR]; q_rows]);
        for (row, old) in all.iter_mut().enumerate() {
            let (first, end) = seen(row as i128);
            *old = [old[0].max(clamp(first)), old[1].min(clamp(end))];
        }
    };
    for term in &mask.terms {
        match term {
            Term::Causal { offset } => highs.push(i128::from(*offset) + 1),
            Term::Window { left, right, offset } => {
                left.iter().for_each(|l| low(i128::from(*offset) - i128::from(*l)));
                highs.extend(right.iter().map(|r| i128::from(*offset) + i128::from(*r) + 1));
            }
            Term::Segments { starts, offset } => {
                rows(&|row| {
                    let at = row + i128::from(*offset);
                    let i = starts.partition_point(|s| *s as i128 <= at);
                    let first = if i == 0 { -i128::from(FAR) } else { starts[i - 1] as i128 };
                    (first, starts.get(i).map_or(i128::from(FAR), |s| *s as i128))
                });
            }
            Term::Prefix { length, offset } => {
                let causal = |row: i128| row + i128::from(*offset) + 1;
                rows(&|row| (-i128::from(FAR), causal(row).max(*length as i128)));
            }
            Term::Keys { start, end } => rows(&|_| (*start as i128, *end as i128)),
            Term::Batch { .. } | Term::Tensor { .. } => {}
        }
    }
    window[1] = highs.into_iter().min().map(clamp);
    Sight { window, documents }
}

/// A score program in the order that the kernels know.
struct Usual {
    scale: f64,
    softcap: f64,
    bias: Option<usize>,
    mask: mask::Mask,
}

impl Usual {
    /// Of a program that is one.
    fn of(scores: &Scores) -> Option<Usual> {
        let mut usual = Usual { scale: 1.0, softcap: 0.0, bias: None, mask: mask::Mask::none() };
        let mut place = 0;
        for step in scores.steps() {
            let own = match step {
                ScoreStep::Factor(Factor::Number(c)) => {
                    usual.scale *= c;
                    0
                }
                ScoreStep::Softcap(c) => {
                    usual.softcap = *c;
                    1
                }
                ScoreStep::Add(n) => {
                    usual.bias = Some(*n);
                    2
                }
                ScoreStep::Fill(m) => {
                    usual.mask = m.clone();
                    3
                }
                ScoreStep::Factor(Factor::Leaf(_)) | ScoreStep::Round(_) => return None,
            };
            if own < place || (own == place && own > 0) {
                return None;
            }
            place = own;
        }
        Some(usual)
    }
}
