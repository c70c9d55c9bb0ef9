//! Where the ranks of a program run: all of them in this process, or some here and the others elsewhere.

use super::error::ExecError;
use super::outcome::Traffic;
use crate::ir::{Tensor, Type};
use crate::schedule::Schedule;
use std::ops::Range;
use std::sync::Arc;

/// What a run asks of its ranks beyond what each computes by itself. Every process asks the same, in the same order.
pub trait Ranks {
    /// Those of so many ranks that run here.
    fn here(&self, ranks: usize) -> Range<usize>;

    /// Everyone's tensor in the order of ranks, with these types: those of the ranks here are handed in.
    ///
    /// # Errors
    /// The others' do not come.
    fn everyone(&mut self, own: Vec<Tensor>, types: &[Type]) -> Result<Vec<Tensor>, String>;

    /// Runs the island of a segment for the ranks here: the arguments of each in, its results and what all of them sent out. `watch` is told
    /// how many steps have begun, of how many.
    ///
    /// # Errors
    /// An operation fails, or other ranks do.
    fn island(
        &mut self,
        schedule: &Arc<Schedule>,
        arguments: &[Vec<Tensor>],
        segment: usize,
        watch: &mut dyn FnMut(usize, usize),
    ) -> Result<(Vec<Vec<Tensor>>, Traffic), ExecError>;
}

/// All ranks run here; islands are run by the function.
pub(super) struct AllHere<F>(pub(super) F);

impl<F> Ranks for AllHere<F>
where
    F: FnMut(
        &Arc<Schedule>,
        &[Vec<Tensor>],
        usize,
        &mut dyn FnMut(usize, usize),
    ) -> Result<(Vec<Vec<Tensor>>, Traffic), ExecError>,
{
    fn here(&self, ranks: usize) -> Range<usize> {
        0..ranks
    }

    fn everyone(&mut self, own: Vec<Tensor>, _: &[Type]) -> Result<Vec<Tensor>, String> {
        Ok(own)
    }

    fn island(
        &mut self,
        schedule: &Arc<Schedule>,
        arguments: &[Vec<Tensor>],
        segment: usize,
        watch: &mut dyn FnMut(usize, usize),
    ) -> Result<(Vec<Vec<Tensor>>, Traffic), ExecError> {
        (self.0)(schedule, arguments, segment, watch)
    }
}

/// Everyone's tensor, where bytes are what ranks exchange: this rank's are handed to `exchange` with how many each rank has, and everyone's
/// come back.
///
/// # Errors
/// That of `exchange`, or what came is none of these types.
#[cfg(all(any(feature = "cuda", feature = "mpi"), target_os = "linux"))]
pub(in crate::exec) fn whole_of<E: ToString>(
    own: &[Tensor],
    types: &[Type],
    exchange: impl FnOnce(&[u8], &[usize]) -> Result<Vec<Vec<u8>>, E>,
) -> Result<Vec<Tensor>, String> {
    let lengths: Vec<usize> = types.iter().map(Type::bytes).collect();
    let bytes: Vec<u8> = own.iter().flat_map(|x| x.data().to_le_bytes()).collect();
    let all = exchange(&bytes, &lengths).map_err(|e| e.to_string())?;
    let tensors = all.iter().zip(types).map(|(bytes, ty)| {
        Tensor::from_le_bytes(ty.dtype, ty.shape.clone(), bytes)
            .map_err(|e| format!("what came is no {ty}: {e}"))
    });
    tensors.collect()
}
