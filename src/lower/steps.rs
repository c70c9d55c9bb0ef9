//! The steps of a kernel's score program: what the kernel does, without the numbers and tensors that it does it with.

use super::element::Element;
use std::fmt;

/// What a masked score becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MaskedScore {
    /// −∞: the key takes no part.
    NegInf,
    /// A finite number in its place.
    Replace,
    /// A finite number added to it.
    Add,
}

/// Steps of a kernel, at most.
pub const MAX_STEPS: usize = 8;
/// Tensors that the steps of a kernel read, at most.
pub const MAX_LEAVES: usize = 8;

/// What one step does to a score. Its number, the keys that its positions keep and its tensors are arguments of the launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StepKind {
    /// Multiplies it by a number.
    Factor,
    /// Multiplies it by a number of a tensor of this type: f32 or that of q.
    FactorLeaf(Element),
    /// cap·tanh(score/cap).
    Softcap,
    /// Adds a number of a tensor of this type: f32 or that of q.
    Add(Element),
    /// Changes it where the pair is not kept.
    Fill {
        /// What it becomes.
        score: MaskedScore,
        /// Whether positions decide over what is kept.
        positions: bool,
        /// How many boolean tensors do, each of which must be true.
        masks: u8,
    },
    /// Rounds it to this type of 16 bits.
    Round(Element),
}

impl StepKind {
    /// How many tensors it reads.
    pub fn leaves(self) -> usize {
        match self {
            StepKind::FactorLeaf(_) | StepKind::Add(_) => 1,
            StepKind::Fill { masks, .. } => masks.into(),
            StepKind::Factor | StepKind::Softcap | StepKind::Round(_) => 0,
        }
    }

    /// Whether it needs to know nothing of the query row and the key but their score.
    pub fn knows_the_score_alone(self) -> bool {
        matches!(self, StepKind::Factor | StepKind::Softcap | StepKind::Round(_))
    }

    /// Whether a kernel of elements of this type can have it.
    fn exists(self, element: Element) -> bool {
        match self {
            StepKind::FactorLeaf(leaf) | StepKind::Add(leaf) => leaf == Element::F32 || leaf == element,
            StepKind::Fill { positions, masks, .. } => positions || masks > 0,
            StepKind::Round(to) => to != Element::F32,
            StepKind::Factor | StepKind::Softcap => true,
        }
    }
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |leaf: Element| if leaf == Element::F32 { "f32" } else { "as q" };
        match *self {
            StepKind::Factor => f.write_str("factor"),
            StepKind::FactorLeaf(leaf) => write!(f, "factor {}", of(leaf)),
            StepKind::Softcap => f.write_str("softcap"),
            StepKind::Add(leaf) => write!(f, "add {}", of(leaf)),
            StepKind::Fill { score, positions, masks } => {
                f.write_str(match score {
                    MaskedScore::NegInf => "fill -inf",
                    MaskedScore::Replace => "replace",
                    MaskedScore::Add => "fill add",
                })?;
                f.write_str(if positions { " by position" } else { "" })?;
                match masks {
                    0 => Ok(()),
                    1 => f.write_str(" by mask"),
                    n => write!(f, " by {n} masks"),
                }
            }
            StepKind::Round(to) => write!(f, "round {}", to.name()),
        }
    }
}

/// The steps of a score program beyond the usual order, in theirs; none for a kernel of the usual order, which has fields for what it
/// does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Steps([Option<StepKind>; MAX_STEPS]);

impl Steps {
    /// These steps; `None` if they are more than [`MAX_STEPS`], or read more than [`MAX_LEAVES`] tensors.
    pub fn new(kinds: &[StepKind]) -> Option<Steps> {
        let leaves: usize = kinds.iter().map(|k| k.leaves()).sum();
        if kinds.len() > MAX_STEPS || leaves > MAX_LEAVES {
            return None;
        }
        let mut steps = Steps::default();
        steps.0.iter_mut().zip(kinds).for_each(|(at, kind)| *at = Some(*kind));
        Some(steps)
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = StepKind> + '_ {
        self.0.iter().map_while(|kind| *kind)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is none: the kernel is one of the usual order.
    pub fn is_empty(&self) -> bool {
        self.0[0].is_none()
    }

    /// Whether some step must know more of the query row and the key than their score.
    pub(super) fn read(&self) -> bool {
        !self.iter().all(StepKind::knows_the_score_alone)
    }

    /// Whether a kernel of elements of this type can have them.
    pub(super) fn exist(&self, element: Element) -> bool {
        self.iter().all(|kind| kind.exists(element))
    }
}

/// Joined by ` | `.
impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, kind) in self.iter().enumerate() {
            write!(f, "{}{kind}", if i > 0 { " | " } else { "" })?;
        }
        Ok(())
    }
}
