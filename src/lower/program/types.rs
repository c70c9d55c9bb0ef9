//! The device program as plain data.

use super::args::{AttentionArg, FinishArg, MergeArg, PackArg};
use super::bytes::Runs;
use crate::ir::{DType, EmptyRow, Scores};
use crate::lower::{Arch, Helper, KernelKey};
use std::sync::Arc;

/// What a program is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The kernels of the CPU executor, which take every attention.
    Cpu,
    /// Kernels for GPUs of this architecture.
    Cuda(Arch),
}

/// What one rank's device is told, in order of issue. What is issued to one stream runs in this order; beyond that only events
/// and groups order it. The arena, arguments and results begin at multiples of 16 bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Name of the island.
    pub name: String,
    /// Which rank, and of how many.
    pub rank: usize,
    /// How many ranks there are.
    pub ranks: usize,
    /// What it is made for.
    pub target: Target,
    /// Names of the streams; an operation's stream is an index into them. The first one is for kernels, the others for transfers.
    pub streams: Vec<String>,
    /// What is computed, as far as all launches share it.
    pub attention: Shared,
    /// Bytes of the rank's arena: the schedule's slots, and behind them what the lowering adds.
    pub arena_bytes: usize,
    /// Per stream the part of the arena for what lives within a step.
    pub scratch: Vec<Region>,
    /// Per stream the part of the arena that is zero before the first launch, and after each.
    pub zeroed: Vec<Region>,
    /// Which keys rows see, where positions say more than a window; the same bytes on every rank, uploaded once.
    pub tables: Arc<Vec<i32>>,
    /// The kernels that are launched, by their number.
    pub kernels: Vec<Kernel>,
    /// How many events there are; their numbers are below it.
    pub events: usize,
    /// What is done.
    pub ops: Vec<Op>,
}

impl Program {
    /// How many bytes the rank sends, and in how many messages: groups that send something.
    pub fn sent(&self) -> (usize, usize) {
        let groups = self.ops.iter().filter_map(|op| match &op.action {
            Action::Group(group) if !group.sends.is_empty() => {
                Some(group.sends.iter().map(Message::bytes).sum::<usize>())
            }
            _ => None,
        });
        groups.fold((0, 0), |(bytes, messages), sent| (bytes + sent, messages + 1))
    }
}

/// What all launches of a program share.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    /// Type of q, k, v and the output.
    pub dtype: DType,
    /// Type of carries and of the log-sum-exp.
    pub acc: DType,
    /// What a row without a live key yields.
    pub empty_row: EmptyRow,
    /// What happens to q·k before the softmax; leaves by number of the argument.
    pub scores: Scores,
    /// Bytes of each argument of the rank, of its result, and of its log-sum-exp (0 if there is none).
    pub arguments: Vec<usize>,
    /// Of the result.
    pub out_bytes: usize,
    /// Of the log-sum-exp; 0 if there is none.
    pub lse_bytes: usize,
}

/// A part of the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub offset: usize,
    /// Length.
    pub bytes: usize,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    /// Index of its stream.
    pub stream: usize,
    /// The step of the schedule that it belongs to.
    pub step: usize,
    /// What it does.
    pub action: Action,
}

/// What an operation does.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Action {
    /// Starts a kernel.
    Launch(Launch),
    /// Copies bytes of the rank's own.
    Copy(Copy),
    /// An event happens when all before it on the stream is done.
    Record(usize),
    /// Nothing behind it on the stream starts before the event has happened.
    Wait(usize),
    /// Messages to and from other ranks, all of which are under way together and done together.
    Group(Group),
}

impl Action {
    /// The word in text.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Launch(_) => "launch",
            Action::Copy(_) => "copy",
            Action::Record(_) => "record",
            Action::Wait(_) => "wait",
            Action::Group(_) => "group",
        }
    }
}

/// A kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// That of the CPU executor for an argument of this kind.
    Cpu(Work),
    /// `attn_partial` of this key.
    Attention(KernelKey),
    /// One of those around it: its text, and the entry point.
    Helper(Helper, Work),
}

/// What a kernel does, which is the kind of its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Work {
    /// Query rows over key rows.
    Attention,
    /// Two partial results become one.
    Merge,
    /// The end of a carry.
    Finish,
    /// Rows from one layout to another.
    Pack,
}

impl Work {
    /// The entry point's name.
    pub fn name(self) -> &'static str {
        match self {
            Work::Attention => "attn_partial",
            Work::Merge => "merge",
            Work::Finish => "finish",
            Work::Pack => "pack",
        }
    }
}

/// A kernel is started.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Its number among the program's kernels.
    pub kernel: usize,
    /// Over how many blocks.
    pub grid: Grid,
    /// What it is handed.
    pub argument: Argument,
}

/// How many blocks of threads a launch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// As many as there are parts of the work.
    pub blocks: usize,
    /// But no more than so many for each multiprocessor of the device; the kernel then takes one part after another.
    pub most: Option<usize>,
    /// Of all multiprocessors these are left to transfers that may be under way beside it. Of meaning where there is a most.
    pub leaves: usize,
    /// A multiple of this, and at least this.
    pub multiple: usize,
    /// Threads of a block.
    pub threads: usize,
}

impl Grid {
    /// The blocks on a device with so many multiprocessors.
    pub fn on(&self, multiprocessors: usize) -> usize {
        let own = multiprocessors.saturating_sub(self.leaves).max(1);
        let most = self.most.map_or(self.blocks, |most| most.saturating_mul(own));
        let multiple = self.multiple.max(1);
        (self.blocks.min(most) / multiple).max(1) * multiple
    }
}

/// What a kernel is handed: addresses, strides and numbers, and nothing of the schedule.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// Of `attn_partial`.
    Attention(Arc<AttentionArg>),
    /// Of `merge`.
    Merge(MergeArg),
    /// Of `finish`.
    Finish(Box<FinishArg>),
    /// Of `pack`.
    Pack(PackArg),
}

/// Runs that are copied to as many of the same length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// What is read.
    pub from: Runs,
    /// What is written.
    pub to: Runs,
}

/// One group of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number, the same on every rank that takes part.
    pub group: usize,
    /// How many multiprocessors it may hold, the same on every rank that takes part; `None`: whatever moves it takes what it wants.
    pub sms: Option<usize>,
    /// What is sent.
    pub sends: Vec<Message>,
    /// What is received.
    pub recvs: Vec<Message>,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The other rank.
    pub peer: usize,
    /// Its bytes, in their order.
    pub parts: Vec<Runs>,
}

impl Message {
    /// Its length.
    pub fn bytes(&self) -> usize {
        self.parts.iter().fold(0, |sum, p| sum.saturating_add(p.total()))
    }
}
