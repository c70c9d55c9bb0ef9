//! One rank of a program in this process, the others in those that were started with it.

use super::error::MpiError;
use super::transport::Mpi;
use super::world::World;
use crate::exec::cpu::{ExecError, Ranks, Traffic, whole_of};
use crate::exec::walk::{LocalError, run_rank};
use crate::ir::{Tensor, Type};
use crate::lower::program::{Program, Target, lower};
use crate::schedule::Schedule;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// The rank of this process, over MPI, on the CPU.
#[derive(Debug)]
pub struct OverMpi<'w> {
    world: &'w mut World,
    patience: Duration,
    seed: u64,
    /// Of each island that was run this rank's program.
    programs: Vec<(Arc<Schedule>, Program)>,
}

impl<'w> OverMpi<'w> {
    /// One of as many ranks as processes were started. It waits for others no longer than `patience`; `seed` picks an order of streams.
    ///
    /// # Errors
    /// There are more ranks, or fewer.
    pub fn new(
        world: &'w mut World,
        ranks: usize,
        (seed, patience): (u64, Duration),
    ) -> Result<OverMpi<'w>, MpiError> {
        match world.size() {
            size if size == ranks => Ok(OverMpi { world, patience, seed, programs: vec![] }),
            size => Err(MpiError::Ranks { size, ranks }),
        }
    }

    fn program(&mut self, schedule: &Arc<Schedule>) -> Result<&Program, LocalError> {
        let known = self.programs.iter().position(|(s, _)| Arc::ptr_eq(s, schedule));
        let at = match known {
            Some(at) => at,
            None => {
                let (all, rank) = (lower(schedule, Target::Cpu)?, self.world.rank());
                let own = all.into_iter().nth(rank).ok_or_else(|| ExecError {
                    rank,
                    at: "its island".into(),
                    why: format!("the schedule is of {} ranks", schedule.ranks.len()),
                })?;
                self.programs.push((schedule.clone(), own));
                self.programs.len() - 1
            }
        };
        Ok(&self.programs[at].1)
    }
}

impl Ranks for OverMpi<'_> {
    fn here(&self, _: usize) -> Range<usize> {
        self.world.rank()..self.world.rank() + 1
    }

    fn everyone(&mut self, own: Vec<Tensor>, types: &[Type]) -> Result<Vec<Tensor>, String> {
        whole_of(&own, types, |bytes, lengths| {
            let all = self.world.exchange(bytes, lengths, self.patience);
            all.inspect_err(|e| self.world.fail(&e.to_string()))
        })
    }

    fn island(
        &mut self,
        schedule: &Arc<Schedule>,
        arguments: &[Vec<Tensor>],
        segment: usize,
        _: &mut dyn FnMut(usize, usize),
    ) -> Result<(Vec<Vec<Tensor>>, Traffic), ExecError> {
        let rank = self.world.rank();
        let failed = |e: LocalError| match e {
            LocalError::Invalid(e) => e,
            LocalError::Walk(e) => e.into(),
            e => ExecError { rank, at: "its island".into(), why: e.to_string() },
        };
        let program = self.program(schedule).map_err(failed)?.clone();
        let own = arguments.first().map_or(&[][..], Vec::as_slice);
        let order = if self.seed == 0 { 0 } else { self.seed.wrapping_add((segment as u64) << 32) };
        let mut transport = Mpi::new(self.world);
        let results = run_rank((schedule, &program), own, &mut transport, (order, self.patience));
        let mut traffic = Traffic { bytes_sent: vec![0; program.ranks], messages: vec![0; program.ranks] };
        (traffic.bytes_sent[rank], traffic.messages[rank]) = program.sent();
        Ok((vec![results.map_err(failed)?], traffic))
    }
}
