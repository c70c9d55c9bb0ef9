//! lower: from steps of a schedule to kernels.
//!
//! In: the facts of an attention and of a step, from which [`kernel`] makes a [`KernelKey`]: a few integers and enums, and
//! [`KernelScores`] says what numbers and tensors the launch is handed for the scores. Out: the kernel's text, the compiler's options, threads and shared memory, and the layout of its argument. Nothing here touches a
//! device, and nothing of a model but the key reaches a text: equal keys give equal bytes. [`program`] makes of a schedule what each rank's
//! device is told.

mod arch;
mod choose;
mod element;
mod helper;
mod key;
mod layout;
#[cfg(test)]
mod list;
mod params;
pub mod program;
mod scores;
mod steps;
mod text;
mod tile;

pub use arch::{Arch, Unknown};
pub use choose::{Launch, Refusal, Sight, kernel, sight};
pub use element::Element;
pub use helper::Helper;
#[cfg(any(feature = "cuda", test))]
pub(crate) use helper::{Copy as PackCopy, Finish, MAX_COPIES, Merge, Paced, Pack, THREADS};
pub use key::{KernelKey, Operand, Tiling};
#[cfg(test)]
pub(crate) use list::{listed, listed_with_steps};
pub use params::Rows;
#[cfg(any(feature = "cuda", test))]
pub(crate) use params::{Band, FAR, KvPiece, Leaf, MAX_PIECES, Params, QPiece, StepParams};
pub use scores::KernelScores;
pub use steps::{MAX_LEAVES, MAX_STEPS, MaskedScore, StepKind, Steps};
#[cfg(test)]
pub(crate) use text::{CONTRACT, STEP_PARAMS, body, prelude};
pub use text::{options, text};
#[cfg(test)]
pub(crate) use tile::HopperTiling;
#[cfg(any(feature = "cuda", test))]
pub(crate) use tile::PANEL;
