//! Who owns which rows, and how much memory a rank's calls take.

use crate::program::AnnulusProgram;
use crate::status::{AnnulusStatus, Failure, fill, guarded, invalid, place, some, text, unsupported};
use annulus::exec::cuda::Gpu;
use annulus::lower::Arch;
use annulus::lower::program::{Program, Target, lower};
use std::ffi::c_char;

/// Every pointer of a call is a multiple of so many bytes.
pub const ANNULUS_ALIGNMENT: u64 = 16;
const _: () = assert!(ANNULUS_ALIGNMENT == annulus::exec::cuda::ranks::ALIGNMENT);

/// The rows start, start + step, ..., as many as len.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AnnulusRows {
    /// The first row.
    pub start: usize,
    /// How many.
    pub len: usize,
    /// From one to the next.
    pub step: usize,
}

/// Whose rows.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnulusSequence {
    /// Of queries, and of the result.
    ANNULUS_QUERIES = 0,
    /// Of keys and values.
    ANNULUS_KEYS = 1,
}

/// How many bytes a rank's calls take, each at an address of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct AnnulusSizes {
    /// Of workspace.
    pub workspace: usize,
    /// Of the result.
    pub out: usize,
    /// Of its log-sum-exp; 0: there is none.
    pub lse: usize,
    /// How many arguments there are.
    pub arguments: usize,
}

impl AnnulusSizes {
    pub(crate) fn of(program: &Program) -> AnnulusSizes {
        let a = &program.attention;
        let (out, lse, arguments) = (a.out_bytes, a.lse_bytes, a.arguments.len());
        AnnulusSizes { workspace: program.arena_bytes, out, lse, arguments }
    }
}

/// The rows that a rank owns, in the order in which its memory holds them. There are `count`; as many as there is room for are written.
///
/// `sequence` is an AnnulusSequence.
///
/// # Safety
/// The program lives, and `rows` has room for `capacity`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn annulus_program_rows(
    program: *const AnnulusProgram,
    island: usize,
    rank: usize,
    sequence: u32,
    rows: *mut AnnulusRows,
    capacity: usize,
    count: *mut usize,
) -> AnnulusStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let program = unsafe { some(program, "program") }?;
        // SAFETY: the same.
        let count = unsafe { place(count, "count") }?;
        let schedule = &program.island(island)?.schedule;
        let layout = match sequence {
            n if n == AnnulusSequence::ANNULUS_QUERIES as u32 => &schedule.q_layout,
            n if n == AnnulusSequence::ANNULUS_KEYS as u32 => &schedule.kv_layout,
            n => return Err(invalid(format!("there is no sequence {n}"))),
        };
        let own = layout.rows.get(rank).ok_or_else(|| no_rank(rank, layout.rows.len()))?;
        let own: Vec<AnnulusRows> =
            own.iter().map(|p| AnnulusRows { start: p.start, len: p.len, step: p.step }).collect();
        *count = own.len();
        // SAFETY: the same.
        unsafe { fill(&own, rows, capacity, "rows") }
    })
}

fn no_rank(rank: usize, ranks: usize) -> Failure {
    invalid(format!("there is no rank {rank} of {ranks}"))
}

/// How much memory the calls of a rank take on GPUs of an architecture, like "sm_90a"; null: of the device whose context is current. Of
/// the arguments' bytes as many are written as there is room for.
///
/// # Safety
/// The program lives, `arch` is null or ends with a null byte, and `argument_bytes` has room for `capacity`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn annulus_program_sizes(
    program: *const AnnulusProgram,
    island: usize,
    rank: usize,
    arch: *const c_char,
    sizes: *mut AnnulusSizes,
    argument_bytes: *mut usize,
    capacity: usize,
) -> AnnulusStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let program = unsafe { some(program, "program") }?;
        // SAFETY: the same.
        let sizes = unsafe { place(sizes, "sizes") }?;
        // SAFETY: the same.
        let arch = match unsafe { text(arch, "arch") }? {
            Some(name) => Arch::ALL.into_iter().find(|a| a.name() == name),
            None => Gpu::current()?.arch(),
        };
        let arch = arch.ok_or_else(|| unsupported("there are no kernels for this architecture"))?;
        let programs = lower(&program.island(island)?.schedule, Target::Cuda(arch)).map_err(unsupported)?;
        let own = programs.get(rank).ok_or_else(|| no_rank(rank, programs.len()))?;
        *sizes = AnnulusSizes::of(own);
        // SAFETY: the same.
        unsafe { fill(&own.attention.arguments, argument_bytes, capacity, "argument_bytes") }
    })
}
