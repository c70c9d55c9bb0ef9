//! Which kernel computes a step, or why none does.

use super::arch::Arch;
use super::element::Element;
use super::key::{KernelKey, Operand};
use super::params::FAR;
use super::scores::{KernelScores, rewritten};
use super::steps::MaskedScore;
use super::steps::{MAX_LEAVES, MAX_STEPS, StepKind, Steps};
use crate::ir::{DType, Factor, ScoreStep};
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
        /// `bias`, `sinks`, `a factor`.
        what: &'static str,
        /// Its type.
        found: &'static str,
    },
    /// A longer score program than kernels run.
    #[error(
        "scores go through {count} steps ({program}), and a GPU kernel runs at most {MAX_STEPS}: run on the CPU, which runs any number"
    )]
    Steps {
        /// How many, once those that meet are one.
        count: usize,
        /// The whole program.
        program: String,
    },
    /// More tensors than kernels read.
    #[error(
        "scores read {0} masks, biases and factors, and a GPU kernel reads at most {MAX_LEAVES}: combine boolean masks with And before the attention, or run on the CPU"
    )]
    Leaves(usize),
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
    /// Whether heads of all batch entries lie evenly apart in every tensor: the copy engine of Hopper takes them so alone.
    pub even_heads: bool,
    /// A power of two, at most 16, that divides where q, k, v and the result begin, in bytes.
    pub align: usize,
}

impl Launch {
    /// A launch over tensors that lie by themselves, which goes on from nothing and ends what it begins.
    pub fn whole(tile: Tile, keys: usize) -> Launch {
        Launch { tile, keys, carry_in: false, sinks_here: false, cast_out: true, even_heads: true, align: 16 }
    }
}

/// The kernel of one step; behind it goes [`KernelKey::redo`], where there is one.
///
/// # Errors
/// No kernel computes it.
pub fn kernel(facts: &AttentionFacts, step: Launch, arch: Arch) -> Result<KernelKey, Refusal> {
    let Launch { tile, keys, carry_in, sinks_here, cast_out, even_heads, align } = step;
    let sizes = &facts.sizes;
    let element = Element::of(facts.dtype).ok_or_else(|| Refusal::Element(facts.dtype.name()))?;
    if let Some(rows) = [sizes.q_len, sizes.kv_len].into_iter().find(|n| *n >= FAR as usize) {
        return Err(Refusal::Rows(rows));
    }
    // What holds of the attention is asked of all its steps alike, whatever their tiles leave of its scores.
    let whole = rewritten(facts.scores.steps());
    if whole.len() > MAX_STEPS {
        return Err(Refusal::Steps { count: whole.len(), program: facts.scores.to_string() });
    }
    let leaves = whole.iter().flat_map(ScoreStep::leaves).count();
    if leaves > MAX_LEAVES {
        return Err(Refusal::Leaves(leaves));
    }
    whole.iter().enumerate().try_for_each(|(i, step)| check_numbers(step, i == 0))?;
    let leaf = |what, argument: usize| {
        let found = facts.leaves.get(argument.wrapping_sub(3)).map(|leaf| leaf.dtype);
        let known = found.filter(|t| *t == DType::F32 || *t == facts.dtype).and_then(Element::of);
        known.ok_or_else(|| Refusal::Operand { what, found: found.map_or("missing", DType::name) })
    };
    let operand = |what, argument: Option<usize>| match argument.map(|i| leaf(what, i)).transpose()? {
        None => Ok(Operand::None),
        Some(Element::F32) => Ok(Operand::F32),
        Some(_) => Ok(Operand::Element),
    };
    whole.iter().try_for_each(|step| kind(step, &leaf).map(|_| ()))?;
    let sinks = if sinks_here { operand("sinks", facts.sinks)? } else { Operand::None };
    let (dk, dv) = (sizes.head_dim, sizes.v_head_dim);
    let portable = |positions| {
        let plain = KernelKey::portable(element, dk, dv, positions, arch).ok_or(Refusal::Heads { dk, dv })?;
        let copy = [16, 4, 2].into_iter().find(|c| usize::from(*c) <= align).unwrap_or(plain.copy);
        Ok(KernelKey { copy: plain.copy.min(copy), ..plain })
    };
    // Hopper's kernels read sinks in f32.
    let hopper = |positions, simple: bool| {
        let able = arch == Arch::Sm90a && simple && sinks != Operand::Element && even_heads && align >= 16;
        able.then(|| KernelKey::hopper(element, dk, dv, positions)).flatten()
    };
    let by_position = |mask: &Mask| mask.terms.iter().any(|t| !matches!(t, Term::Tensor { .. }));
    let key = match KernelScores::of(&facts.scores, tile) {
        KernelScores::Usual { scale, softcap, bias, mask } => {
            let positions = by_position(&mask);
            let bias = operand("bias", bias)?;
            let fill = masked_score(mask.fill);
            let softcap = softcap > 0.0;
            let mask = mask.terms.iter().any(|t| matches!(t, Term::Tensor { .. }));
            // The Hopper kernel takes maxima before it scales, and knows nothing but positions.
            let simple = !mask && bias == Operand::None && fill == MaskedScore::NegInf && scale as f32 > 0.0;
            let plain = hopper(positions, simple).map_or_else(|| portable(positions), Ok)?;
            KernelKey { mask, bias, fill, softcap, ..plain }
        }
        KernelScores::Steps { steps, seen } => {
            let kinds = steps.iter().map(|s| kind(s, &leaf)).collect::<Result<Vec<_>, _>>()?;
            let simple = kinds.iter().all(|k| k.knows_the_score_alone());
            // There is no Hopper kernel of steps without positions: a score may become −∞ by its size, which hides its key.
            let plain = hopper(true, simple).map_or_else(|| portable(by_position(&seen)), Ok)?;
            let steps = Steps::new(&kinds).ok_or(Refusal::Leaves(leaves))?;
            KernelKey { steps, ..plain }
        }
    };
    Ok(KernelKey { carry_in, cast_out, sinks, ..key }.for_keys(keys))
}

/// The numbers of a step are in the range of f32; `first` if it is the first.
fn check_numbers(step: &ScoreStep, first: bool) -> Result<(), Refusal> {
    let (what, value, able) = match step {
        ScoreStep::Factor(Factor::Number(c)) => {
            (if first { "scale" } else { "a factor" }, *c, (*c as f32).is_finite())
        }
        ScoreStep::Softcap(c) => ("softcap", *c, (*c as f32).is_finite() && (1.0 / *c as f32).is_finite()),
        ScoreStep::Fill(Mask { fill: mask::Fill::Replace(x) | mask::Fill::Add(x), .. }) => {
            ("the mask's fill", *x, (*x as f32).is_finite())
        }
        ScoreStep::Fill(_) | ScoreStep::Factor(Factor::Leaf(_)) | ScoreStep::Add(_) | ScoreStep::Round(_) => {
            return Ok(());
        }
    };
    able.then_some(()).ok_or(Refusal::Number { what, value })
}

fn masked_score(fill: mask::Fill) -> MaskedScore {
    match fill {
        mask::Fill::NegInf => MaskedScore::NegInf,
        mask::Fill::Replace(_) => MaskedScore::Replace,
        mask::Fill::Add(_) => MaskedScore::Add,
    }
}

/// The kind of a step; `leaf` gives the type of the tensor at an argument.
fn kind(
    step: &ScoreStep,
    leaf: &impl Fn(&'static str, usize) -> Result<Element, Refusal>,
) -> Result<StepKind, Refusal> {
    Ok(match step {
        ScoreStep::Factor(Factor::Number(_)) => StepKind::Factor,
        ScoreStep::Factor(Factor::Leaf(n)) => StepKind::FactorLeaf(leaf("a factor", *n)?),
        ScoreStep::Softcap(_) => StepKind::Softcap,
        ScoreStep::Add(n) => StepKind::Add(leaf("bias", *n)?),
        ScoreStep::Fill(mask) => {
            let masks = mask.terms.iter().filter(|t| matches!(t, Term::Tensor { .. })).count();
            StepKind::Fill {
                score: masked_score(mask.fill),
                positions: masks < mask.terms.len(),
                masks: u8::try_from(masks).map_err(|_| Refusal::Leaves(masks))?,
            }
        }
        ScoreStep::Round(to) => match Element::of(*to) {
            Some(to) => StepKind::Round(to),
            None => return Err(Refusal::Element(to.name())),
        },
    })
}

/// What positions let a query row see, as the kernels read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Row r sees keys r + low ≤ k < r + high; `None` where nothing binds.
    pub window: [Option<i32>; 2],
    /// Per query row the first key and one past the last that documents, a prefix and padding leave it; of one batch entry after
    /// another where they see different keys.
    pub documents: Option<Vec<[i32; 2]>>,
    /// Rows of `documents` from one batch entry to the next; 0 where all see the same.
    pub entry_rows: usize,
}

/// The terms of a mask that depend on positions, for query rows up to `q_rows` of so many batch entries.
pub fn sight(mask: &Mask, q_rows: usize, batch: usize) -> Sight {
    let clamp = |x: i128| x.clamp(-i128::from(FAR), i128::from(FAR)) as i32;
    if mask.by_entry() {
        let row = |entry: usize, row: usize| {
            let (first, last) = mask.keys_of(entry, row);
            [clamp(first), clamp(last.saturating_add(1))]
        };
        let all = (0..batch).flat_map(|entry| (0..q_rows).map(move |r| (entry, r)));
        let documents = all.map(|(entry, r)| row(entry, r)).collect();
        return Sight { window: [None; 2], documents: Some(documents), entry_rows: q_rows };
    }
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
    Sight { window, documents, entry_rows: 0 }
}
