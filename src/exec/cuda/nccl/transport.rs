//! Groups of messages between ranks that are processes, over NCCL.
//!
//! In: groups, as the walker posts them. Out: groups of NCCL on the streams of transfers. Invariants: a group is issued only when all groups
//! before it in the program are, whatever their streams: all ranks use all communicators in one order, which NCCL asks for; nothing is
//! issued behind a group on its stream before the library has told the stream of it. A rank that fails says so to all others.

use super::communicator::{Communicator, Message};
use super::error::NcclError;
use super::lanes::{Lane, Lanes};
use super::pieces::Pieces;
use crate::exec::cuda::error::CudaError;
use crate::exec::group::{Abort, Group as Others};
use crate::exec::walk::{Engine, Polled, Transport, TransportError};
use crate::lower::program::{Action, Group, Program};
use cudarc::driver::sys::CUstream;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A device whose streams NCCL is told of.
pub(in crate::exec::cuda) trait Streams: Engine<Pointer = u64> {
    /// The stream, which is about to be told something, with its context current on this thread.
    ///
    /// # Errors
    /// There is none of this number, or the driver's.
    fn handle(&mut self, stream: usize) -> Result<CUstream, CudaError>;
}

/// This rank's end.
#[derive(Debug)]
pub(in crate::exec::cuda) struct Nccl {
    lanes: Lanes,
    /// By which ranks hear of each other, where there is one.
    others: Option<Arc<Others>>,
    pieces: Pieces,
    /// How many groups of the call are issued.
    issued: usize,
    under_way: Vec<UnderWay>,
    over: Option<String>,
}

/// How long it may take until it is known who is gone.
const NAMED: Duration = Duration::from_secs(1);

/// A group that was posted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum UnderWay {
    #[default]
    Nothing,
    /// Groups come before it. Its number, and how many multiprocessors it may hold.
    Posted(usize, Option<usize>),
    /// The library prepares it; how many it may hold.
    Begun(Option<usize>),
}

impl Nccl {
    /// The end of rank `rank` of the programs.
    ///
    /// # Errors
    /// They send what cannot be told NCCL, or the communicators are of other ranks.
    pub(in crate::exec::cuda) fn new(
        programs: &[Program],
        rank: usize,
        lanes: Lanes,
        others: Option<Arc<Others>>,
    ) -> Result<Nccl, NcclError> {
        for lane in lanes.all() {
            let lane = lock(lane);
            if (lane.rank(), lane.size()) != (rank, programs.len()) {
                return Err(NcclError::Foreign(format!(
                    "is of rank {} of {}, and the program is that of rank {rank} of {}",
                    lane.rank(),
                    lane.size(),
                    programs.len()
                )));
            }
        }
        let pieces = Pieces::of(programs, rank)?;
        for op in programs.get(rank).into_iter().flat_map(|p| &p.ops) {
            if let Action::Group(group) = &op.action
                && lanes.of(op.stream, group.sms).is_none()
            {
                let why =
                    "none of the communicators that were joined is for its axis and its multiprocessors"
                        .into();
                return Err(NcclError::Program { rank, group: group.group, why });
            }
        }
        Ok(Nccl { lanes, others, pieces, issued: 0, under_way: vec![], over: None })
    }

    /// A call begins.
    pub(in crate::exec::cuda) fn begin(&mut self) {
        self.issued = 0;
        self.under_way.clear();
    }

    /// Why this rank, or another one, was given up.
    pub(in crate::exec::cuda) fn aborted(&self) -> Option<String> {
        self.over.clone()
    }

    /// Whether nothing is known to have failed, here or on other ranks. It does not block; only where NCCL says that some rank is gone it
    /// takes a moment to learn which.
    ///
    /// # Errors
    /// What failed.
    pub(in crate::exec::cuda) fn well(&mut self) -> Result<(), TransportError> {
        if let Some(why) = &self.over {
            return Err(TransportError::Others(why.clone()));
        }
        // Who died is told before what that does to messages.
        if let Some(others) = &self.others {
            others.poll().map_err(|e| TransportError::Others(e.to_string()))?;
        }
        let named = |e| named(self.others.as_deref(), &e);
        self.lanes.all().try_for_each(|lane| lock(lane).ready().map(drop).map_err(named))
    }

    fn lane(&self, stream: usize, sms: Option<usize>) -> Result<&Lane, TransportError> {
        let lane = self.lanes.of(stream, sms);
        lane.ok_or_else(|| TransportError::Failed("there is no communicator for it".into()))
    }

    fn begin_group<E: Streams>(
        &mut self,
        engine: &mut E,
        stream: usize,
        (group, sms): (usize, Option<usize>),
    ) -> Result<bool, TransportError> {
        let found = self.pieces.of_group(group);
        let (place, pieces) =
            found.ok_or_else(|| TransportError::Failed(format!("the program has no group {group}")))?;
        if place > self.issued {
            return Ok(false);
        }
        let message = |piece: &super::pieces::Piece| Message {
            sends: piece.sends,
            peer: piece.peer,
            at: engine.pointer(piece.at),
            bytes: piece.bytes,
        };
        let messages: Vec<Message> = pieces.iter().map(message).collect();
        let on = engine.handle(stream).map_err(|e| TransportError::Failed(e.to_string()))?;
        let mut lane = lock(self.lane(stream, sms)?);
        // SAFETY: the stream is the engine's, and so are the pointers, into memory that the program says it has.
        unsafe { lane.exchange(&messages, on.cast()) }.map_err(said)?;
        Ok(true)
    }

    fn turn(&mut self, stream: usize) -> &mut UnderWay {
        if self.under_way.len() <= stream {
            self.under_way.resize(stream + 1, UnderWay::Nothing);
        }
        &mut self.under_way[stream]
    }
}

/// The communicator, for this thread alone.
pub(super) fn lock(lane: &Lane) -> MutexGuard<'_, Communicator> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What failed, by the name of the rank that is gone: NCCL says that one is, and a moment later it is known which.
pub(super) fn named(others: Option<&Others>, error: &NcclError) -> TransportError {
    let begin = Instant::now();
    while let Some(others) = others.filter(|_| begin.elapsed() < NAMED) {
        if let Err(fault) = others.poll() {
            return TransportError::Others(fault.to_string());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    TransportError::Failed(error.to_string())
}

fn said(e: NcclError) -> TransportError {
    TransportError::Failed(e.to_string())
}

impl<E: Streams> Transport<E> for Nccl {
    fn post(&mut self, _: &mut E, stream: usize, group: &Group) -> Result<(), TransportError> {
        *self.turn(stream) = UnderWay::Posted(group.group, group.sms);
        Ok(())
    }

    fn poll(&mut self, engine: &mut E, stream: usize) -> Result<Polled, TransportError> {
        self.well()?;
        let sms = match *self.turn(stream) {
            UnderWay::Nothing => return Ok(Polled::Issued),
            UnderWay::Posted(group, sms) => {
                // One group at a time is prepared, so that they reach the device in their order.
                let begun = |u: &UnderWay| matches!(u, UnderWay::Begun(_));
                if self.under_way.iter().any(begun) || !self.begin_group(engine, stream, (group, sms))? {
                    return Ok(Polled::Waits);
                }
                *self.turn(stream) = UnderWay::Begun(sms);
                sms
            }
            UnderWay::Begun(sms) => sms,
        };
        let ready = lock(self.lane(stream, sms)?).ready();
        if !ready.map_err(|e| named(self.others.as_deref(), &e))? {
            return Ok(Polled::Waits);
        }
        *self.turn(stream) = UnderWay::Nothing;
        self.issued += 1;
        Ok(Polled::Issued)
    }

    fn well(&mut self) -> Result<(), TransportError> {
        Nccl::well(self)
    }

    fn abort(&mut self, why: &str) {
        if self.over.is_some() {
            return;
        }
        self.over = Some(why.to_owned());
        if let Some(others) = &self.others {
            others.abort(Abort::because(why));
        }
        self.lanes.all().for_each(|lane| lock(lane).give_up());
    }
}
