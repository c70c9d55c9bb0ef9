//! One rank of a program in this process, the others in those that were started with it.

use super::error::MpiError;
use super::transport::Mpi;
use super::world::World;
use crate::exec::cpu::{ExecError, Ranks, Traffic};
use crate::exec::walk::{LocalError, run_rank};
use crate::ir::{Tensor, Type};
use crate::lower::program::{Action, Group, Message, Program, Target, lower};
use crate::schedule::Schedule;
use sha2::{Digest, Sha256};
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
        let lengths: Vec<usize> = types.iter().map(Type::bytes).collect();
        let bytes: Vec<u8> = own.iter().flat_map(|x| x.data().to_le_bytes()).collect();
        let all = self.world.exchange(&bytes, &lengths, self.patience);
        let all = all.inspect_err(|e| self.world.fail(&e.to_string())).map_err(|e| e.to_string())?;
        let tensors = all.iter().zip(types).map(|(bytes, ty)| {
            Tensor::from_le_bytes(ty.dtype, ty.shape.clone(), bytes)
                .map_err(|e| format!("what came is no {ty}: {e}"))
        });
        tensors.collect()
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
            LocalError::Walk(e) => {
                let step = e.step.map_or(String::new(), |step| format!("step {step}, "));
                ExecError { rank: e.rank, at: format!("{step}{}", e.op), why: e.why }
            }
            e => ExecError { rank, at: "its island".into(), why: e.to_string() },
        };
        let program = self.program(schedule).map_err(failed)?.clone();
        let own = arguments.first().map_or(&[][..], Vec::as_slice);
        let order = if self.seed == 0 { 0 } else { self.seed.wrapping_add((segment as u64) << 32) };
        let mut transport = Mpi::new(self.world);
        let results = run_rank((schedule, &program), own, &mut transport, (order, self.patience));
        Ok((vec![results.map_err(failed)?], traffic(&program, self.world.size())))
    }
}

/// What this rank sends of an island.
fn traffic(program: &Program, ranks: usize) -> Traffic {
    let groups = program.ops.iter().filter_map(|op| match &op.action {
        Action::Group(Group { sends, .. }) if !sends.is_empty() => Some(sends),
        _ => None,
    });
    let (mut bytes_sent, mut messages) = (vec![0; ranks], vec![0; ranks]);
    for sends in groups {
        bytes_sent[program.rank] += sends.iter().map(Message::bytes).sum::<usize>();
        messages[program.rank] += 1;
    }
    Traffic { bytes_sent, messages }
}

/// What all ranks should have alike.
#[derive(Clone, Debug)]
pub struct Fact<'a> {
    /// What it is.
    pub name: &'a str,
    /// In a few words.
    pub shown: String,
    /// All of it: what is compared.
    pub whole: String,
}

/// Compares what ranks are about to run, before the first message of it.
///
/// # Errors
/// A rank has another fact than rank 0, or does not come.
pub fn agree(world: &mut World, facts: &[Fact<'_>], patience: Duration) -> Result<(), MpiError> {
    /// Bytes of what is shown of a fact, and of its hash.
    const SHOWN: usize = 96;
    const EACH: usize = SHOWN + 32;
    let mut own = vec![];
    for fact in facts {
        let mut shown: Vec<u8> = fact.shown.bytes().collect();
        shown.resize(SHOWN, 0);
        own.extend(shown);
        own.extend(Sha256::digest(fact.whole.as_bytes()));
    }
    let all = world.exchange(&own, &vec![own.len(); world.size()], patience)?;
    let words = |fact: &[u8]| {
        let text = fact.iter().take(SHOWN).copied().take_while(|b| *b != 0).collect::<Vec<u8>>();
        String::from_utf8_lossy(&text).into_owned()
    };
    let zero = all.first().map_or(&[][..], Vec::as_slice);
    for (rank, theirs) in all.iter().enumerate() {
        let pairs = theirs.chunks(EACH).zip(zero.chunks(EACH));
        if let Some((i, (theirs, ours))) = pairs.enumerate().find(|(_, (theirs, ours))| theirs != ours) {
            let what = facts.get(i).map_or("fact", |f| f.name).to_owned();
            return Err(MpiError::Other { rank, what, ours: words(ours), theirs: words(theirs) });
        }
    }
    Ok(())
}
