//! Messages that are under way.
//!
//! Invariant: bytes stay where they are, and allocated, until the library has done with them: those of a message that is given up are
//! never freed.

use super::calls::{count, ok};
use super::error::MpiError;
use super::library::{BYTE, COMM_WORLD, Functions, Handle, Status};
use std::ffi::c_int;

/// A request and the bytes that it is about.
#[derive(Debug)]
struct UnderWay {
    functions: &'static Functions,
    request: Handle,
    bytes: Vec<u8>,
    done: bool,
}

impl UnderWay {
    /// What the message turned out to be, when it is through.
    fn poll(&mut self, what: &'static str) -> Result<Option<Status>, MpiError> {
        let (mut done, mut status) = (0, Status::default());
        // SAFETY: the request was begun and is not through; the pointers are to what lives.
        let tested = unsafe { (self.functions.test)(&mut self.request, &mut done, &mut status) };
        ok(self.functions, what, tested)?;
        self.done = done != 0;
        Ok(self.done.then_some(status))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.done {
            std::mem::forget(std::mem::take(&mut self.bytes));
        }
    }
}

/// A message that is sent.
#[derive(Debug)]
pub(super) struct Going(UnderWay);

impl Going {
    pub(super) fn begin(
        functions: &'static Functions,
        peer: usize,
        tag: c_int,
        bytes: Vec<u8>,
    ) -> Result<Going, MpiError> {
        let (mut request, to) = (0, number(peer)?);
        let at = bytes.as_ptr().cast();
        // SAFETY: as many bytes lie there, and stay until the request is through; handles are the standard's.
        let status =
            unsafe { (functions.isend)(at, bytes.len() as i64, BYTE, to, tag, COMM_WORLD, &mut request) };
        let going = Going(UnderWay { functions, request, bytes, done: status != 0 });
        ok(functions, "sending", status)?;
        Ok(going)
    }

    /// Whether it is through.
    pub(super) fn poll(&mut self) -> Result<bool, MpiError> {
        Ok(self.0.done || self.0.poll("sending")?.is_some())
    }
}

/// A message that is received.
#[derive(Debug)]
pub(super) struct Coming {
    message: UnderWay,
    rank: usize,
    peer: usize,
}

impl Coming {
    /// To a rank from another one.
    pub(super) fn begin(
        functions: &'static Functions,
        [rank, peer]: [usize; 2],
        tag: c_int,
        wanted: usize,
    ) -> Result<Coming, MpiError> {
        let (mut request, from) = (0, number(peer)?);
        let mut bytes = vec![0; wanted];
        let at = bytes.as_mut_ptr().cast();
        // SAFETY: there is room for as many bytes, which stays until the request is through; handles are the standard's.
        let status =
            unsafe { (functions.irecv)(at, wanted as i64, BYTE, from, tag, COMM_WORLD, &mut request) };
        let coming =
            Coming { message: UnderWay { functions, request, bytes, done: status != 0 }, rank, peer };
        ok(functions, "receiving", status)?;
        Ok(coming)
    }

    /// Its bytes, when all of them are there.
    pub(super) fn poll(&mut self) -> Result<Option<Vec<u8>>, MpiError> {
        let Some(status) = self.message.poll("receiving")? else { return Ok(None) };
        let (got, wanted) = (count(self.message.functions, &status)?, self.message.bytes.len());
        if got != wanted {
            return Err(MpiError::Length { rank: self.rank, peer: self.peer, got, wanted });
        }
        Ok(Some(std::mem::take(&mut self.message.bytes)))
    }
}

fn number(peer: usize) -> Result<c_int, MpiError> {
    let message = || format!("rank {peer} is beyond what it counts");
    c_int::try_from(peer).map_err(|_| MpiError::Call { what: "naming a rank", message: message() })
}
