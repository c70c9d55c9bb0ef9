//! What is supported, as the table of the README: made from the types that decide it where there are such, so that it cannot say
//! more. The architectures of the kernels are held to their list by a test.

use crate::device::Device;
use crate::find::Numerics;
use crate::ir::{Binary, DType, Reduction, Unary};
use crate::layout::LayoutKind;
use crate::lower::MAX_STEPS;
use crate::ring::Strategy;
use crate::shard::MAX_RANKS;
use std::fmt::Write;

/// The table, in Markdown.
pub fn table() -> String {
    let rows = [
        ("Models in", "ONNX opsets 13 to 26; annulus's own text".to_owned()),
        (
            "Attention",
            "self and cross, grouped heads, past keys, Dv ≠ Dk; written out, or one operator".to_owned(),
        ),
        (
            "Masks",
            "causal (any offset), window, documents, prefix, padding, for all batch entries or each its own; boolean tensor; −∞ or finite fills"
                .to_owned(),
        ),
        (
            "Scores",
            "factors, softcaps, biases, masks and roundings to f16 or bf16, any number in the model's own order; sinks; sums of products; softmaxes in blocks of keys"
                .to_owned(),
        ),
        (
            "Other operators",
            "carried for the host where the file declares the types of their results; `eval` and `run` refuse them by name"
                .to_owned(),
        ),
        ("Strategies", strategies()),
        ("Layouts", list(LayoutKind::ALL.map(LayoutKind::name))),
        ("Sequence and ranks", format!("any length from 0 on, 1 to {MAX_RANKS} ranks, uneven shares")),
        ("Element types", list(DType::ALL.map(DType::name))),
        ("Classes of rewriting", list(Numerics::ALL.map(Numerics::name))),
        (
            "Elementwise functions",
            format!("{} of one element, {} of two", Unary::ALL.len(), Binary::ALL.len()),
        ),
        ("Dropout", "of attention's weights, by position and a seed at run, the same on any number of ranks; on the CPU".to_owned()),
        ("Gradients", "of one attention, whole (`attention_backward`)".to_owned()),
        ("Reductions", list(Reduction::ALL.iter().map(|r| r.name()))),
        ("Devices described", list(Device::bundled()) + ", or a file"),
        ("Runs on", "CPU, every rank in one process or, over MPI, in one of its own; attentions on GPUs of NVIDIA, every rank in one process on one of them or, over NCCL, in one of its own (`run --backend cuda`, or on a host's own stream, also from C; no GPU has run it yet)".to_owned()),
        (
            "GPU kernels",
            format!(
                "attention of heads up to 256 in f16, bf16, f32, scores of at most {MAX_STEPS} steps, for sm_80, sm_86, sm_87, sm_88, sm_89, sm_90a, sm_100, sm_103, sm_110, sm_120, sm_121"
            ),
        ),
        ("Not yet", "the backward pass over ranks, search for new strategies, dropout in kernels and over MPI".to_owned()),
    ];
    let mut out = String::from("| | |\n|---|---|\n");
    for (what, how) in rows {
        let _ = writeln!(out, "| {what} | {how} |");
    }
    out
}

fn list(names: impl IntoIterator<Item = &'static str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// All of them, and which travel along the levels of a machine.
fn strategies() -> String {
    let levels: Vec<&str> =
        Strategy::ALL.into_iter().filter(|s| s.uses_levels()).map(Strategy::name).collect();
    format!("{}; on several nodes {} along two levels", Strategy::names(), levels.join(" and "))
}
