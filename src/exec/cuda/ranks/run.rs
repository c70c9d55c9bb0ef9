//! A program whose islands run on one GPU, and the rest on the CPU.

use super::error::IslandError;
use super::island::Island;
use super::loaded::Kernels;
use super::options::RunOptions;
use crate::exec::cpu::{self, ExecError, Progress, Ranks, Run, Traffic, whole_of};
use crate::exec::cuda::gpu::Gpu;
use crate::exec::cuda::nccl::Processes;
use crate::ir::{OpId, Tensor, Type};
use crate::lower::program::Program as DeviceProgram;
use crate::schedule::Schedule;
use crate::shard::Program;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// The islands of a program, ready on a GPU.
pub struct OnGpu<'g> {
    islands: Vec<(Arc<Schedule>, Island<'g>)>,
    kernels: Kernels,
    gpu: &'g Gpu,
    /// Where each rank is one.
    processes: Option<&'g Processes>,
}

impl<'g> OnGpu<'g> {
    /// Makes all islands ready: what no kernel computes, or does not fit, is refused before anything runs.
    ///
    /// # Errors
    /// See [`Island::new`].
    pub fn prepare(
        gpu: &'g Gpu,
        schedules: &BTreeMap<OpId, Arc<Schedule>>,
        options: RunOptions<'_>,
    ) -> Result<OnGpu<'g>, IslandError> {
        OnGpu::made(gpu, schedules, None, options)
    }

    /// Makes the islands of this process's rank ready, where each rank is a process with a GPU of its own.
    ///
    /// # Errors
    /// See [`Island::of_process`].
    pub fn prepare_process(
        gpu: &'g Gpu,
        schedules: &BTreeMap<OpId, Arc<Schedule>>,
        processes: &'g Processes,
        options: RunOptions<'_>,
    ) -> Result<OnGpu<'g>, IslandError> {
        OnGpu::made(gpu, schedules, Some(processes), options)
    }

    fn made(
        gpu: &'g Gpu,
        schedules: &BTreeMap<OpId, Arc<Schedule>>,
        processes: Option<&'g Processes>,
        options: RunOptions<'_>,
    ) -> Result<OnGpu<'g>, IslandError> {
        let mut on = OnGpu { islands: vec![], kernels: Kernels::new(), gpu, processes };
        for schedule in schedules.values() {
            if on.islands.iter().any(|(s, _)| Arc::ptr_eq(s, schedule)) {
                continue;
            }
            let island = match processes {
                None => Island::new(gpu, &mut on.kernels, schedule, options)?,
                Some(all) => Island::of_process(gpu, &mut on.kernels, schedule, all, options)?,
            };
            on.islands.push((schedule.clone(), island));
        }
        Ok(on)
    }

    /// The processes of which each is a rank, if ranks are processes.
    pub fn processes(&self) -> Option<&'g Processes> {
        self.processes
    }

    /// What was loaded.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Runs the program on whole inputs. `schedules` are those that it was prepared for.
    ///
    /// # Errors
    /// If an operation fails on a rank, or an island on the GPU.
    pub fn run(
        &mut self,
        program: &Program,
        schedules: &BTreeMap<OpId, Arc<Schedule>>,
        inputs: &[Tensor],
        watch: &mut dyn FnMut(Progress),
    ) -> Result<Run, ExecError> {
        cpu::run_with(program, schedules, inputs, watch, self)
    }
}

impl Ranks for OnGpu<'_> {
    fn here(&self, ranks: usize) -> Range<usize> {
        self.processes.map_or(0..ranks, |all| all.rank()..all.rank() + 1)
    }

    fn everyone(&mut self, own: Vec<Tensor>, types: &[Type]) -> Result<Vec<Tensor>, String> {
        let Some(processes) = self.processes else { return Ok(own) };
        whole_of(&own, types, |bytes, lengths| processes.everyone(self.gpu, bytes, lengths))
    }

    fn island(
        &mut self,
        schedule: &Arc<Schedule>,
        args: &[Vec<Tensor>],
        _: usize,
        _: &mut dyn FnMut(usize, usize),
    ) -> Result<(Vec<Vec<Tensor>>, Traffic), ExecError> {
        let rank = self.processes.map_or(0, Processes::rank);
        let at = |why: String| ExecError { rank, at: "its island on the GPU".into(), why };
        let found = self.islands.iter_mut().find(|(s, _)| Arc::ptr_eq(s, schedule));
        let (_, island) = found.ok_or_else(|| at("it was not prepared".into()))?;
        run_island(schedule, island, args).map_err(|e| match e {
            IslandError::Walk(e) => e.into(),
            IslandError::Late { late: Some((rank, _)), .. } => ExecError { rank, ..at(e.to_string()) },
            e => at(e.to_string()),
        })
    }
}

/// Every rank's results, and what was sent.
fn run_island(
    schedule: &Schedule,
    island: &mut Island<'_>,
    args: &[Vec<Tensor>],
) -> Result<(Vec<Vec<Tensor>>, Traffic), IslandError> {
    let bytes = |args: &Vec<Tensor>| args.iter().map(|x| x.data().to_le_bytes()).collect();
    let given = island.run(&args.iter().map(bytes).collect::<Vec<_>>())?;
    let (facts, s) = (&schedule.attention, &schedule.attention.sizes);
    let mut results = vec![];
    for ([out, lse], args) in given.into_iter().zip(args) {
        let rows = args.first().and_then(|q| q.shape().get(2).copied()).unwrap_or(0);
        // As many bytes as the program says, which is what the shapes have.
        let mut all = Vec::from_iter(Tensor::from_le_bytes(
            facts.dtype,
            [s.batch, s.q_heads, rows, s.v_head_dim],
            &out,
        ));
        if facts.lse {
            all.extend(Tensor::from_le_bytes(facts.acc, [s.batch, s.q_heads, rows], &lse));
        }
        results.push(all);
    }
    let (bytes_sent, messages) = island.programs().iter().map(DeviceProgram::sent).unzip();
    Ok((results, Traffic { bytes_sent, messages }))
}
