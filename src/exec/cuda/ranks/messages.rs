//! How the messages of a part come: from the ranks of this process, or from other processes.

use super::rank::Rank;
use crate::exec::cuda::nccl::Nccl;
use crate::exec::walk::{Local, Polled, Transport, TransportError};
use crate::lower::program::Group;
use cudarc::driver::CudaEvent;
use std::sync::Arc;

/// One rank's end.
pub(super) enum Messages {
    /// All ranks are in this process, on one GPU.
    Local(Local<u64, Arc<CudaEvent>>),
    /// The others are processes.
    Nccl(Box<Nccl>),
}

impl Messages {
    /// A call begins.
    pub(super) fn begin(&mut self) {
        if let Messages::Nccl(nccl) = self {
            nccl.begin();
        }
    }

    /// Why the ranks were given up, if one of them was.
    pub(super) fn aborted(&self) -> Option<String> {
        match self {
            Messages::Local(local) => local.aborted(),
            Messages::Nccl(nccl) => nccl.aborted(),
        }
    }
}

impl Transport<Rank> for Messages {
    fn post(&mut self, engine: &mut Rank, stream: usize, group: &Group) -> Result<(), TransportError> {
        match self {
            Messages::Local(local) => local.post(engine, stream, group),
            Messages::Nccl(nccl) => nccl.post(engine, stream, group),
        }
    }

    fn poll(&mut self, engine: &mut Rank, stream: usize) -> Result<Polled, TransportError> {
        match self {
            Messages::Local(local) => local.poll(engine, stream),
            Messages::Nccl(nccl) => nccl.poll(engine, stream),
        }
    }

    fn well(&mut self) -> Result<(), TransportError> {
        match self {
            Messages::Local(local) => Transport::<Rank>::well(local),
            Messages::Nccl(nccl) => nccl.well(),
        }
    }

    fn abort(&mut self, why: &str) {
        match self {
            Messages::Local(local) => Transport::<Rank>::abort(local, why),
            Messages::Nccl(nccl) => Transport::<Rank>::abort(&mut **nccl, why),
        }
    }
}
