//! guide: what a reader needs who did not write annulus. Every chapter is a module without code of its own; what it shows is
//! run as a test, and every file that it names is there.
//!
//! Read first:
//!
//! 1. [`graphs`]: the IR and its text form, with the whole grammar.
//! 2. [`layouts`]: who owns which rows of a sequence.
//! 3. [`schedules`]: how to read a schedule, word by word.
//! 4. [`proof`]: what each check shows, what it rests on, and what it does not show.
//! 5. [`numerics`]: how far a rewriting may change numbers, and how to restrict it.
//! 6. [`opaque`]: operators that annulus does not compute, and what is left to the host.
//! 7. [`ranks`]: ranks that are processes of their own, who starts them, and how they find each other.
//!
//! How something is added, each as the list of files to touch, in order:
//!
//! 8. [`new_operator`]: an operator of ONNX, or an operation of the IR.
//! 9. [`new_rule`]: a rule by which attention is recognised.
//! 10. [`new_mask_term`]: a condition that a mask may state.
//! 11. [`new_device_field`]: a number of a device description.
//! 12. [`new_numerics_class`]: a class of rewriting.
//!
//! Whole programs are in `examples/`: `compile.rs` goes the whole way, `host.rs` drives what is handed back, and `device.rs` describes a
//! device of its own. The map of all rooms and the commands of daily work are in `CONTRIBUTING.md`.

#[doc = include_str!("graphs.md")]
pub mod graphs {}

#[doc = include_str!("layouts.md")]
pub mod layouts {}

#[doc = include_str!("schedules.md")]
pub mod schedules {}

#[doc = include_str!("proof.md")]
pub mod proof {}

#[doc = include_str!("numerics.md")]
pub mod numerics {}

#[doc = include_str!("opaque.md")]
pub mod opaque {}

#[doc = include_str!("ranks.md")]
pub mod ranks {}

#[doc = include_str!("new_operator.md")]
pub mod new_operator {}

#[doc = include_str!("new_rule.md")]
#[doc = ""]
#[doc = include_str!("../find/algebra/rules/README.md")]
pub mod new_rule {}

#[doc = include_str!("new_mask_term.md")]
pub mod new_mask_term {}

#[doc = include_str!("new_device_field.md")]
pub mod new_device_field {}

#[doc = include_str!("new_numerics_class.md")]
pub mod new_numerics_class {}

#[cfg(test)]
mod tests;
