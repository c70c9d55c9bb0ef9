//! The processes of a run, a rank each, and what they exchange beside the messages of islands.
//!
//! Invariants: rank 0 makes the names of communicators and lives until all have joined them; every rank calls the same methods in the
//! same order.

use super::communicator::{Communicator, ID_BYTES, Message, new_id};
use super::error::NcclError;
use super::lanes::{Lanes, Wanted};
use super::transport::{lock, named};
use crate::exec::cuda::current::Entered;
use crate::exec::cuda::error::driver;
use crate::exec::cuda::gpu::Gpu;
use crate::exec::cuda::settle::{END, settle};
use crate::exec::group::{Abort, Group};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The rank of this process, and its ways to the others.
#[derive(Debug)]
pub struct Processes {
    group: Arc<Group>,
    lanes: Lanes,
    patience: Duration,
}

impl Processes {
    /// Joins the communicators that schedules [want](Wanted::by), which are the same on every rank. `group` has met; no wait is longer
    /// than `patience`.
    ///
    /// # Errors
    /// There is no library for it, it refuses, or a rank fails or does not come.
    pub fn join(
        gpu: &Gpu,
        mut group: Group,
        wanted: &[Wanted],
        patience: Duration,
    ) -> Result<Processes, NcclError> {
        let over = |e: crate::exec::group::Fault| NcclError::Over(e.to_string());
        let (rank, size) = (group.rank(), group.size());
        let mut ids = vec![];
        if rank == 0 {
            for _ in wanted {
                ids.extend(new_id().inspect_err(|e| group.abort(Abort::because(e.to_string())))?);
            }
        }
        let ids = group.share(&ids, patience).map_err(over)?;
        let (ids, rest) = ids.as_chunks::<ID_BYTES>();
        if ids.len() != wanted.len() || !rest.is_empty() {
            let (made, wanted) = (ids.len(), wanted.len());
            return Err(NcclError::Over(format!("rank 0 made {made} names, and {wanted} are wanted")));
        }
        let mut joined = BTreeMap::new();
        for (id, wanted) in ids.iter().zip(wanted) {
            let mut well = || group.poll().map_err(|e| e.to_string());
            let lane = Communicator::join(gpu, *id, (rank, size, wanted.sms), patience, &mut well);
            let lane = lane.inspect_err(|e| group.abort(Abort::because(e.to_string())))?;
            joined.insert(*wanted, Arc::new(Mutex::new(lane)));
        }
        Ok(Processes { group: Arc::new(group), lanes: Lanes::Own(joined), patience })
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.group.rank()
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.group.size()
    }

    pub(in crate::exec::cuda) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    pub(in crate::exec::cuda) fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Whether all ranks are well. It never blocks.
    ///
    /// # Errors
    /// One died, gave up, or left early.
    pub fn well(&self) -> Result<(), String> {
        self.group.poll().map_err(|e| e.to_string())
    }

    /// Tells all others why this rank cannot go on.
    pub fn fail(&self, why: &str) {
        self.group.abort(Abort::because(why));
    }

    /// Every rank's bytes, of which each has so many. They go by the GPUs.
    ///
    /// # Errors
    /// The library's, or a rank fails or does not come.
    pub fn everyone(&self, gpu: &Gpu, own: &[u8], lengths: &[usize]) -> Result<Vec<Vec<u8>>, NcclError> {
        let exchanged = self.exchange(gpu, own, lengths).map_err(|e| match e {
            NcclError::Call { .. } => NcclError::Over(named(Some(&self.group), &e).to_string()),
            e => e,
        });
        exchanged.inspect_err(|e| {
            self.fail(&e.to_string());
            // What was given up holds up nothing: the device soon reads none of the bytes any more.
            self.lanes.all().for_each(|lane| lock(lane).give_up());
            let end = driver("making an event", gpu.context().new_event(None));
            let _ =
                end.map(|end| settle(&gpu.stream, &end, self.patience.min(END), || Ok::<(), NcclError>(())));
        })
    }

    fn exchange(&self, gpu: &Gpu, own: &[u8], lengths: &[usize]) -> Result<Vec<Vec<u8>>, NcclError> {
        let wrong = |why: String| Err(NcclError::Over(why));
        let rank = self.rank();
        if lengths.len() != self.size() || lengths.get(rank) != Some(&own.len()) {
            return wrong(format!("rank {rank} has {} bytes for all, and {lengths:?} are told", own.len()));
        }
        let _entered = Entered::new(gpu.context())?;
        let mut here = gpu.unwritten(own.len())?;
        gpu.write(own, &mut here)?;
        let mut messages = vec![];
        let mut there = vec![];
        for (peer, &bytes) in lengths.iter().enumerate().filter(|(peer, _)| *peer != rank) {
            let buffer = gpu.unwritten(bytes)?;
            messages.push(Message { sends: false, peer, at: buffer.address(), bytes });
            messages.push(Message { sends: true, peer, at: here.address(), bytes: own.len() });
            there.push((peer, buffer));
        }
        let Some(lane) = self.lanes.all().next() else { return wrong("there is no communicator".into()) };
        let mut well = || self.well();
        let mut lane = lock(lane);
        // SAFETY: the stream is the GPU's own, on which the buffers are written before, and freed behind.
        unsafe { lane.exchange(&messages, gpu.stream.cu_stream().cast()) }?;
        lane.wait("the library to begin an exchange", self.patience, &mut well)?;
        let ask = || {
            lane.ready()?;
            well().map_err(NcclError::Over)
        };
        let end = driver("making an event", gpu.context().new_event(None))?;
        if !settle(&gpu.stream, &end, self.patience, ask)? {
            return Err(NcclError::Late { rank, what: "the others' parts", patience: self.patience });
        }
        drop(lane);
        let mut all = vec![vec![]; self.size()];
        all[rank] = own.to_vec();
        for (peer, buffer) in there {
            all[peer] = gpu.read(&buffer, lengths[peer])?;
        }
        driver("copying from the device", gpu.stream.synchronize())?;
        Ok(all)
    }

    /// The end in order: comes back when every rank has come to it.
    ///
    /// # Errors
    /// A rank failed, or did not come within `patience`.
    pub fn leave(self) -> Result<(), NcclError> {
        let Processes { group, lanes, patience } = self;
        drop(lanes);
        let Some(group) = Arc::into_inner(group) else {
            return Err(NcclError::Over("a rank leaves while its islands are still there".into()));
        };
        group.leave(patience).map_err(|e| NcclError::Over(e.to_string()))
    }
}
