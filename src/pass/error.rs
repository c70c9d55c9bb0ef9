//! One error for the whole pass; each room's own error is its source.

#[cfg(feature = "onnx")]
use crate::import;
use crate::{check, device, eval, exec, host, ir, ring, search, shard};

/// Why the pass stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model could not be read.
    #[cfg(feature = "onnx")]
    #[error(transparent)]
    Import(#[from] import::ImportError),
    /// A graph is not well formed after a stage. After any stage but the import it is a fault of annulus.
    #[error("the graph is not well formed after {stage}: {}", some(.errors))]
    Verify {
        /// The stage.
        stage: ir::Stage,
        /// Every broken invariant.
        errors: Vec<ir::verify::VerifyError>,
    },
    /// The program is not well formed after the graph was split, which is a fault of annulus.
    #[error("internal fault: the program is not well formed after shard: {}; annulus is at fault, not the graph: please report it with the graph and the options", some(.faults))]
    Program {
        /// Every broken invariant, in words.
        faults: Vec<String>,
    },
    /// A value is bound to what is no input, or to one of another type.
    #[error("{input} cannot be bound to a {value}: {}", match .is { Some(ty) => format!("it is {ty}"), None => "there is no such input".into() })]
    Bind {
        /// The name.
        input: String,
        /// Type of the value.
        value: ir::Type,
        /// Type of the input, if there is one.
        is: Option<ir::Type>,
    },
    /// An input has another value than what was compiled is bound to.
    #[error(
        "input {input} has another value than the one it was bound to: what was found holds for that value alone; compile again"
    )]
    Guard {
        /// The input.
        input: String,
    },
    /// The graph could not be split.
    #[error(transparent)]
    Shard(#[from] shard::ShardError),
    /// The island graph of an attention cannot be made.
    #[error(transparent)]
    Ring(#[from] ring::RingError),
    /// No schedule can be chosen for an attention.
    #[error(transparent)]
    Search(#[from] search::SearchError),
    /// A schedule did not pass the proof.
    #[error("the schedule of {island} is wrong, and is not used: {}", failures(.report))]
    Check {
        /// Name of the island.
        island: String,
        /// What is wrong.
        report: check::Report,
    },
    /// A number that is asked for is not in its range.
    #[error("{option} is {value}: want {least} to {most}")]
    Option {
        /// The option, a field of [`Options`](crate::Options).
        option: &'static str,
        /// What is asked for.
        value: usize,
        /// The least that it may be.
        least: usize,
        /// The most.
        most: usize,
    },
    /// Ranks cannot be put on so many nodes.
    #[error("{ranks} ranks cannot stand on {nodes} nodes, equally many on each")]
    Nodes {
        /// How many ranks are asked for.
        ranks: usize,
        /// On how many nodes.
        nodes: usize,
    },
    /// A part of the weights that cannot be dropped is asked for.
    #[error("{0}")]
    Dropout(String),
    /// Transfers cannot hold so many multiprocessors.
    #[error("transfers cannot hold {sms} multiprocessors: {why}")]
    CommSms {
        /// How many are asked for.
        sms: usize,
        /// Why not.
        why: String,
    },
    /// A figure of the device is not in its range.
    #[error(transparent)]
    Figures(#[from] device::DeviceError),
    /// The device has fewer ranks than are asked for.
    #[error(
        "{wanted} ranks, and {device} has {has}: name another device (a description of your own, or cpu, which has any number)"
    )]
    Device {
        /// The device.
        device: String,
        /// How many it has.
        has: usize,
        /// How many are asked for.
        wanted: usize,
    },
    /// Rows cannot be handed out or put together as asked.
    #[error(transparent)]
    Rows(#[from] host::RowsError),
    /// An island cannot be made ready on a GPU.
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    #[error(transparent)]
    Gpu(#[from] exec::cuda::ranks::IslandError),
    /// Ranks that are processes, each with a GPU, did not come together, or one of them failed.
    #[cfg(all(feature = "cuda", target_os = "linux"))]
    #[error(transparent)]
    Nccl(#[from] exec::cuda::nccl::NcclError),
    /// Ranks in processes of their own did not come together.
    #[cfg(all(feature = "mpi", target_os = "linux"))]
    #[error(transparent)]
    Mpi(#[from] exec::mpi::MpiError),
    /// A run failed.
    #[error(transparent)]
    Exec(#[from] exec::cpu::ExecError),
    /// An evaluation failed.
    #[error(transparent)]
    Eval(#[from] eval::EvalError),
}

/// The first of them, and how many there are besides.
fn some<E: ToString>(errors: &[E]) -> String {
    let all: Vec<String> = errors.iter().take(5).map(ToString::to_string).collect();
    let more = errors.len().saturating_sub(all.len());
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{rest}", all.join("; "))
}

fn failures(report: &check::Report) -> String {
    let all: Vec<String> = report
        .failed
        .iter()
        .take(5)
        .map(|f| format!("{}: rank {}, step {} ({}): {}", f.check, f.rank, f.step, f.op, f.message))
        .collect();
    all.join("; ")
}
