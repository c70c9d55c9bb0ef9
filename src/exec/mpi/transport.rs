//! Groups of messages between processes, whose devices have memory that the host reaches.
//!
//! Invariants: what a group sends is read when everything before it on its stream is done; what it receives is there before anything
//! behind it on the stream begins. Between two ranks the messages of a stream come in the order of their groups.

use super::message::{Coming, Going};
use super::world::{GROUPS, World};
use crate::exec::walk::{HostMemory, Polled, Transport, TransportError};
use crate::lower::program::{Group, Runs};
use std::ffi::c_int;

/// This rank's end.
#[derive(Debug)]
pub(super) struct Mpi<'w> {
    pub(super) world: &'w mut World,
    /// By stream.
    under_way: Vec<UnderWay>,
}

/// A group that was posted.
#[derive(Debug, Default)]
enum UnderWay {
    #[default]
    Nothing,
    /// Its stream has work before it.
    Posted(Group),
    Begun {
        going: Vec<Going>,
        coming: Vec<(Coming, Vec<Runs>)>,
    },
}

impl Mpi<'_> {
    pub(super) fn new(world: &mut World) -> Mpi<'_> {
        Mpi { world, under_way: vec![] }
    }

    /// Begins all messages of a group.
    fn begin<E: HostMemory>(
        &mut self,
        engine: &mut E,
        stream: usize,
        group: &Group,
    ) -> Result<UnderWay, TransportError> {
        let tag = c_int::try_from(stream).map_err(|e| TransportError::Failed(e.to_string()))? + GROUPS;
        let (functions, rank) = (self.world.functions, self.world.rank());
        let (mut going, mut coming) = (vec![], vec![]);
        for message in &group.recvs {
            let begun = Coming::begin(functions, [rank, message.peer], tag, message.bytes()).map_err(said)?;
            coming.push((begun, message.parts.clone()));
        }
        for message in &group.sends {
            let bytes = engine.read(&message.parts).map_err(|e| TransportError::Failed(e.to_string()))?;
            going.push(Going::begin(functions, message.peer, tag, bytes).map_err(said)?);
        }
        Ok(UnderWay::Begun { going, coming })
    }
}

fn said(e: super::MpiError) -> TransportError {
    TransportError::Failed(e.to_string())
}

impl<E: HostMemory> Transport<E> for Mpi<'_> {
    fn post(&mut self, _: &mut E, stream: usize, group: &Group) -> Result<(), TransportError> {
        if self.under_way.len() <= stream {
            self.under_way.resize_with(stream + 1, UnderWay::default);
        }
        self.under_way[stream] = UnderWay::Posted(group.clone());
        Ok(())
    }

    fn poll(&mut self, engine: &mut E, stream: usize) -> Result<Polled, TransportError> {
        self.world.others_live().map_err(|e| TransportError::Others(e.to_string()))?;
        match self.under_way.get_mut(stream).map(std::mem::take).unwrap_or_default() {
            UnderWay::Nothing => Ok(Polled::Issued),
            UnderWay::Posted(group) => {
                let settled = engine.settled(stream).map_err(|e| TransportError::Failed(e.to_string()))?;
                if !settled {
                    self.under_way[stream] = UnderWay::Posted(group);
                    return Ok(Polled::Waits);
                }
                self.under_way[stream] = self.begin(engine, stream, &group)?;
                Ok(Polled::Moved)
            }
            UnderWay::Begun { going, coming } => {
                let before = going.len() + coming.len();
                let (mut still_going, mut still_coming) = (vec![], vec![]);
                for (mut message, runs) in coming {
                    match message.poll().map_err(said)? {
                        Some(bytes) => {
                            engine.write(&runs, &bytes).map_err(|e| TransportError::Failed(e.to_string()))?;
                        }
                        None => still_coming.push((message, runs)),
                    }
                }
                for mut message in going {
                    if !message.poll().map_err(said)? {
                        still_going.push(message);
                    }
                }
                let left = still_going.len() + still_coming.len();
                if left == 0 {
                    return Ok(Polled::Issued);
                }
                self.under_way[stream] = UnderWay::Begun { going: still_going, coming: still_coming };
                Ok(if left < before { Polled::Moved } else { Polled::Waits })
            }
        }
    }

    fn abort(&mut self, why: &str) {
        self.world.fail(why);
    }
}
