//! Messages between ranks of one process on one device: copies between their memories.
//!
//! In: groups, as they are posted. Out: copies on the streams of transfers. Invariants: a message is copied on the stream of its receiver,
//! after both ends have reached their groups; neither goes on before it is through. The k-th message from one rank to another in a group
//! is received by the k-th there, and has as many bytes.

use super::engine::{Marks, Pointer, Spread};
use super::transport::{Polled, Transport, TransportError};
use crate::lower::program::{Group, Message, Runs};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The group, from, and which of several.
type Name = (usize, usize, usize);

/// What all ranks see.
#[derive(Debug)]
struct Board<P, M> {
    /// By receiver.
    messages: Vec<BTreeMap<Name, Letter<P, M>>>,
    aborted: Option<String>,
}

/// A message of which one end was posted.
#[derive(Debug)]
enum Letter<P, M> {
    /// It may be fetched from here after the mark.
    Ready(Vec<Side<P>>, M),
    /// It is through at the mark.
    Through(M),
}

/// Evenly spread runs on one side of a message.
#[derive(Clone, Copy, Debug)]
struct Side<P> {
    at: P,
    count: usize,
    stride: usize,
    bytes: usize,
}

/// One rank's end.
#[derive(Debug)]
pub struct Local<P, M> {
    rank: usize,
    board: Arc<Mutex<Board<P, M>>>,
    /// By stream what its group still waits for.
    under_way: Vec<UnderWay<P>>,
    /// How many messages went to, or came from, a rank in a group.
    counts: BTreeMap<(usize, bool, usize), usize>,
}

#[derive(Debug)]
struct UnderWay<P> {
    /// To whom.
    sends: Vec<(usize, Name)>,
    recvs: Vec<(Name, Vec<Side<P>>)>,
}

impl<P> Default for UnderWay<P> {
    fn default() -> UnderWay<P> {
        UnderWay { sends: vec![], recvs: vec![] }
    }
}

impl<P, M> Local<P, M> {
    /// An end for each rank.
    pub fn ends(ranks: usize) -> Vec<Local<P, M>> {
        let messages = (0..ranks).map(|_| BTreeMap::new()).collect();
        let board = Arc::new(Mutex::new(Board { messages, aborted: None }));
        let end = |rank| Local { rank, board: board.clone(), under_way: vec![], counts: BTreeMap::new() };
        (0..ranks).map(end).collect()
    }

    /// Why the ranks were given up, if one of them was.
    pub fn aborted(&self) -> Option<String> {
        self.board().err().map(|e| e.to_string())
    }

    fn board(&self) -> Result<MutexGuard<'_, Board<P, M>>, TransportError> {
        let board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        match &board.aborted {
            Some(why) => Err(TransportError::Others(format!("given up: {why}"))),
            None => Ok(board),
        }
    }

    fn name(&mut self, sends: bool, peer: usize, group: usize) -> Name {
        let count = self.counts.entry((group, sends, peer)).or_insert(0);
        *count += 1;
        (group, if sends { self.rank } else { peer }, *count)
    }
}

impl<E: Marks> Transport<E> for Local<E::Pointer, E::Mark> {
    fn post(&mut self, engine: &mut E, stream: usize, group: &Group) -> Result<(), TransportError> {
        let said = |e: E::Error| TransportError::Failed(e.to_string());
        let begin = engine.mark(stream).map_err(said)?;
        let (mut sends, mut recvs) = (vec![], vec![]);
        for message in &group.sends {
            let name = self.name(true, message.peer, group.group);
            let ready = Letter::Ready(sides(engine, message), begin.clone());
            let mut board = self.board()?;
            let there = board.messages.get_mut(message.peer);
            there
                .ok_or_else(|| TransportError::Failed(format!("there is no rank {}", message.peer)))?
                .insert(name, ready);
            sends.push((message.peer, name));
        }
        for message in &group.recvs {
            recvs.push((self.name(false, message.peer, group.group), sides(engine, message)));
        }
        if self.under_way.len() <= stream {
            self.under_way.resize_with(stream + 1, UnderWay::default);
        }
        self.under_way[stream] = UnderWay { sends, recvs };
        Ok(())
    }

    fn poll(&mut self, engine: &mut E, stream: usize) -> Result<Polled, TransportError> {
        let said = |e: E::Error| TransportError::Failed(e.to_string());
        let Some(mut at) = self.under_way.get_mut(stream).map(std::mem::take) else {
            return Ok(Polled::Issued);
        };
        let mut board = self.board()?;
        let before = at.sends.len() + at.recvs.len();
        let mut wrong = None;
        let here = &mut board.messages[self.rank];
        at.recvs.retain(|(name, target)| {
            let Some(letter) = here.get_mut(name).filter(|_| wrong.is_none()) else { return true };
            let Letter::Ready(source, begin) = letter else { return true };
            let fetched = engine.wait_mark(stream, begin).map_err(said);
            let fetched =
                fetched.and_then(|()| fetch(source, target, |s| engine.copy(stream, s).map_err(said)));
            match fetched.and_then(|()| engine.mark(stream).map_err(said)) {
                Ok(through) => *letter = Letter::Through(through),
                Err(e) => wrong = Some(e),
            }
            false
        });
        at.sends.retain(|(peer, name)| {
            let there = &mut board.messages[*peer];
            let Some(Letter::Through(mark)) = there.get(name).filter(|_| wrong.is_none()) else {
                return true;
            };
            if let Err(e) = engine.wait_mark(stream, mark) {
                wrong = Some(said(e));
            }
            there.remove(name);
            false
        });
        drop(board);
        if let Some(e) = wrong {
            return Err(e);
        }
        let polled = match at.sends.len() + at.recvs.len() {
            0 => Polled::Issued,
            n if n < before => Polled::Moved,
            _ => Polled::Waits,
        };
        self.under_way[stream] = at;
        Ok(polled)
    }

    fn abort(&mut self, why: &str) {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        board.aborted.get_or_insert_with(|| format!("rank {}: {why}", self.rank));
    }
}

fn sides<E: Marks>(engine: &E, message: &Message) -> Vec<Side<E::Pointer>> {
    let parts = message.parts.iter().filter(|r| r.total() > 0);
    let side = |r: &Runs| Side { at: engine.pointer(r.at), count: r.count, stride: r.stride, bytes: r.bytes };
    parts.map(side).collect()
}

/// Copies the bytes of one side to the other, in as few spreads as runs allow.
fn fetch<P: Pointer>(
    source: &[Side<P>],
    target: &[Side<P>],
    mut copy: impl FnMut(Spread<P>) -> Result<(), TransportError>,
) -> Result<(), TransportError> {
    let total = |sides: &[Side<P>]| {
        sides.iter().fold(0, |n: usize, s| n.saturating_add(s.count.saturating_mul(s.bytes)))
    };
    if total(source) != total(target) {
        let why = format!("a message of {} bytes is received as {}", total(source), total(target));
        return Err(TransportError::Failed(why));
    }
    let (mut from, mut to) = (Cursor::of(source), Cursor::of(target));
    while let (Some((a, a_left)), Some((b, b_left))) = (from.here(), to.here()) {
        let spread = |from_stride, to_stride, count, bytes| Spread {
            from: a,
            to: b,
            from_stride,
            to_stride,
            count,
            bytes,
        };
        // Whole runs on both sides; one run on one side is as many as there are on the other.
        let even = match (from.whole(), to.whole()) {
            (Some((x, n)), Some((y, m))) if x.bytes == y.bytes => {
                Some(spread(x.stride, y.stride, n.min(m), x.bytes))
            }
            (Some((x, n)), _) if n > 1 && b_left >= x.bytes => {
                Some(spread(x.stride, x.bytes, n.min(b_left / x.bytes), x.bytes))
            }
            (_, Some((y, m))) if m > 1 && a_left >= y.bytes => {
                Some(spread(y.bytes, y.stride, m.min(a_left / y.bytes), y.bytes))
            }
            _ => None,
        };
        let bytes = a_left.min(b_left);
        let spread = even.unwrap_or_else(|| spread(bytes, bytes, 1, bytes));
        copy(spread)?;
        from.pass(spread.count * spread.bytes);
        to.pass(spread.count * spread.bytes);
    }
    Ok(())
}

/// A place in the runs of a side.
struct Cursor<'a, P> {
    sides: &'a [Side<P>],
    /// Which run of the first side, and which of its bytes.
    run: usize,
    byte: usize,
}

impl<'a, P: Pointer> Cursor<'a, P> {
    fn of(sides: &'a [Side<P>]) -> Cursor<'a, P> {
        Cursor { sides, run: 0, byte: 0 }
    }

    /// Where it is, and how many bytes the run still has.
    fn here(&self) -> Option<(P, usize)> {
        let side = self.sides.first()?;
        Some((side.at.plus(self.run * side.stride + self.byte), side.bytes - self.byte))
    }

    /// The side, and how many whole runs it still has, if it is at the begin of one.
    fn whole(&self) -> Option<(&'a Side<P>, usize)> {
        let side = self.sides.first().filter(|_| self.byte == 0)?;
        Some((side, side.count - self.run))
    }

    fn pass(&mut self, mut bytes: usize) {
        while let Some(side) = self.sides.first().filter(|_| bytes > 0) {
            let all = (self.run * side.bytes + self.byte).saturating_add(bytes);
            let size = side.count * side.bytes;
            if all < size {
                (self.run, self.byte) = (all / side.bytes, all % side.bytes);
                return;
            }
            bytes = all - size;
            (self.sides, self.run, self.byte) = (&self.sides[1..], 0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pointer to a place in a memory.
    impl Pointer for usize {
        fn plus(self, bytes: usize) -> usize {
            self + bytes
        }
    }

    fn bytes(sides: &[Side<usize>]) -> Vec<usize> {
        let runs = |s: &Side<usize>| {
            let s = *s;
            (0..s.count).flat_map(move |r| (0..s.bytes).map(move |b| s.at + r * s.stride + b))
        };
        sides.iter().flat_map(runs).collect()
    }

    #[test]
    fn every_byte_goes_where_its_place_in_the_message_is() {
        let side = |at, count, stride, bytes| Side { at, count, stride, bytes };
        let forms = [
            vec![side(0, 1, 24, 24)],
            vec![side(3, 4, 10, 6)],
            vec![side(0, 3, 9, 4), side(100, 2, 6, 6)],
            vec![side(7, 1, 5, 5), side(50, 1, 19, 19)],
            vec![side(0, 12, 3, 2)],
            vec![side(0, 2, 20, 11), side(90, 1, 2, 2)],
        ];
        for (a, b) in forms.iter().flat_map(|a| forms.iter().map(move |b| (a, b))) {
            let (mut from, mut to, mut copies) = (vec![], vec![], 0);
            fetch(a, b, |s| {
                from.extend(bytes(&[side(s.from, s.count, s.from_stride, s.bytes)]));
                to.extend(bytes(&[side(s.to, s.count, s.to_stride, s.bytes)]));
                copies += 1;
                Ok(())
            })
            .unwrap();
            assert_eq!((from, to), (bytes(a), bytes(b)));
            assert!(copies <= 24);
        }
        let short = fetch(&forms[0], &[side(0, 1, 23, 23)], |_| Ok(())).unwrap_err();
        assert_eq!(short.to_string(), "a message of 24 bytes is received as 23");
    }
}
