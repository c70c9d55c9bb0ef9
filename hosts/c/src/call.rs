//! Calls: raw device pointers and the host's stream in, work enqueued on it.

use crate::open::AnnulusPart;
use crate::status::{AnnulusStatus, Failure, guarded, many, some};
use annulus::exec::cuda::ranks::{Call, Part, enqueue_all};
use std::ffi::c_void;
use std::sync::MutexGuard;

/// Where one call of a rank finds its memory: addresses on the GPU (CUdeviceptr), each a multiple of ANNULUS_ALIGNMENT; 0 where there
/// are no bytes. What is written (out, lse, workspace) shares bytes with nothing else of the call.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AnnulusCall {
    /// The rank's own rows of queries, keys and values, then what else the attention takes, dense.
    pub arguments: *const u64,
    /// How many arguments.
    pub arguments_count: usize,
    /// The rank's rows of the result.
    pub out: u64,
    /// Of its log-sum-exp.
    pub lse: u64,
    /// Memory that the call may use as it likes; nothing is kept there from one call to the next.
    pub workspace: u64,
    /// How many bytes the workspace has.
    pub workspace_bytes: usize,
}

impl AnnulusCall {
    /// # Safety
    /// The arguments are as many as it says.
    unsafe fn read(&self) -> Result<Call<'_>, Failure> {
        // SAFETY: the caller's promise.
        let arguments = unsafe { many(self.arguments, self.arguments_count, "arguments") }?;
        let AnnulusCall { out, lse, workspace, workspace_bytes, .. } = *self;
        Ok(Call { arguments, out, lse, workspace, workspace_bytes })
    }
}

/// Tells the device one rank's share of a call, behind what the stream was told and before what it is told next. Nothing waits for the
/// device, and nothing is allocated there. The k-th calls of all ranks belong together: they are made from a thread each, and wait for
/// each other on the host, as long as the patience of the parts.
///
/// `stream` is a CUstream or cudaStream_t of the device's primary context; null is its default stream. Where it fails, the other ranks' calls fail as
/// well and name this one, and all later ones are refused with ANNULUS_GIVEN_UP until annulus_parts_restart. A call with null in the place of the
/// part, the call or its arguments is as if it had not been made.
///
/// # Safety
/// The part lives; the memory is the device's, as large as the part says, and neither moved nor used by anybody else until the stream
/// has done the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn annulus_part_enqueue(
    part: *mut AnnulusPart,
    call: *const AnnulusCall,
    stream: *mut c_void,
) -> AnnulusStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let mut part = unsafe { some(part.cast_const(), "part") }?.held()?;
        // SAFETY: the same.
        let call = unsafe { some(call, "call") }?;
        // SAFETY: the same.
        let call = unsafe { call.read() }?;
        // SAFETY: the same.
        Ok(unsafe { part.enqueue(&call, stream) }?)
    })
}

/// Tells the device all ranks' shares of a call from one thread: `calls[r]` is that of `parts[r]`, which are all ranks of one attention, rank 0
/// first. The second call with the same pointers, and those behind it, are one launch of a graph. A stream under capture takes the call
/// into the graph that the host makes.
///
/// # Safety
/// As annulus_part_enqueue, for each rank.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn annulus_parts_enqueue_all(
    parts: *const *mut AnnulusPart,
    calls: *const AnnulusCall,
    count: usize,
    stream: *mut c_void,
) -> AnnulusStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let mut held = unsafe { all_held(parts, count) }?;
        // SAFETY: the same.
        let calls = unsafe { many(calls, count, "calls") }?;
        // SAFETY: the same.
        let calls = calls.iter().map(|call| unsafe { call.read() }).collect::<Result<Vec<_>, _>>()?;
        let mut parts: Vec<&mut Part> = held.iter_mut().map(|part| &mut **part).collect();
        // SAFETY: the same.
        unsafe { enqueue_all(&mut parts, &calls, stream) }?;
        Ok(())
    })
}

/// Begins anew after a call failed, with all ranks of one attention, rank 0 first. What comes next runs behind everything that the device
/// was told.
///
/// # Safety
/// The parts live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn annulus_parts_restart(
    parts: *const *mut AnnulusPart,
    count: usize,
) -> AnnulusStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let mut held = unsafe { all_held(parts, count) }?;
        Ok(Part::restart(&mut held.iter_mut().map(|part| &mut **part).collect::<Vec<_>>())?)
    })
}

/// # Safety
/// So many pointers lie there, and each is null or a part that lives.
unsafe fn all_held<'a>(
    parts: *const *mut AnnulusPart,
    count: usize,
) -> Result<Vec<MutexGuard<'a, Part>>, Failure> {
    // SAFETY: the caller's promise.
    let parts = unsafe { many(parts, count, "parts") }?;
    // SAFETY: the same.
    parts.iter().map(|part| unsafe { some(part.cast_const(), "a part") }?.held()).collect()
}
