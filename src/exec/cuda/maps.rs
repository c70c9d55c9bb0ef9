//! Descriptions of tensors for the copy engine of Hopper.

use super::error::{CudaError, driver};
use crate::lower::{KernelKey, MAX_PIECES, PANEL, Params};
use cudarc::driver::{DeviceRepr, sys};
use std::mem::MaybeUninit;

#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
struct TensorMap([u64; 16]);

/// The maps of one launch.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Maps {
    q: [TensorMap; MAX_PIECES],
    k: [TensorMap; MAX_PIECES],
    v: [TensorMap; MAX_PIECES],
}

// SAFETY: 128-byte maps one after another, as in the kernel.
unsafe impl DeviceRepr for Maps {}

/// The tensors as the copy engine reads them: boxes of a panel of columns by the rows of a tile. Heads of all batch entries lie evenly
/// apart.
pub(super) fn maps(key: &KernelKey, p: &Params) -> Result<Maps, CudaError> {
    let none = TensorMap([0; 16]);
    let mut maps = Maps { q: [none; MAX_PIECES], k: [none; MAX_PIECES], v: [none; MAX_PIECES] };
    let heads = p.batch as u64 * p.q_heads as u64;
    let kv_heads = p.batch as u64 * p.kv_heads as u64;
    let keys = key.keys() as u32;
    for (to, piece) in maps.q.iter_mut().zip(&p.q_piece).take(p.q_pieces as usize) {
        let extents = [p.dk as u64, piece.rows.len as u64, heads];
        *to = map(piece.q, extents, piece.q_rows as u64, key.rows() as u32)?;
    }
    for (i, piece) in p.kv_piece.iter().enumerate().take(p.kv_pieces as usize) {
        let [k, v] = [p.dk, p.dv].map(|d| [d as u64, piece.rows.len as u64, kv_heads]);
        maps.k[i] = map(piece.k, k, piece.head_rows as u64, keys)?;
        maps.v[i] = map(piece.v, v, piece.head_rows as u64, keys)?;
    }
    Ok(maps)
}

/// Two-byte elements, extents with the inner one first, heads so many rows apart; what lies outside reads as zero.
fn map(at: u64, extents: [u64; 3], head_rows: u64, rows: u32) -> Result<TensorMap, CudaError> {
    use sys::{
        CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
        CUtensorMapSwizzle,
    };
    let strides = [extents[0] * 2, extents[0] * head_rows * 2];
    let boxes = [PANEL as u32, rows, 1];
    let mut map = MaybeUninit::<sys::CUtensorMap>::uninit();
    // SAFETY: three extents, two strides, a box and steps of three; the map is written as a whole.
    let status = unsafe {
        sys::cuTensorMapEncodeTiled(
            map.as_mut_ptr(),
            CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
            3,
            at as *mut _,
            extents.as_ptr(),
            strides.as_ptr(),
            boxes.as_ptr(),
            [1u32; 3].as_ptr(),
            CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    driver("describing a tensor to the copy engine", status.result())?;
    // SAFETY: the call above succeeded.
    Ok(TensorMap(unsafe { map.assume_init() }.opaque))
}
