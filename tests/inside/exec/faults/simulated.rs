//! Ranks, engines and messages in virtual time, with one fault planted somewhere: no threads, no clock, nothing is kept in between, so that a
//! fault plays the same each time.

use annulus::exec::flight::Record;
use annulus::exec::walk::{
    Cpu, Device, Engine, HostMemory, Patient, Polled, Spread, Transport, TransportError, WalkError,
};
use annulus::lower::program::{Address, Group, Launch, Message, Program, Runs};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// How long a rank waits while nothing moves.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// By when a dead rank is known to be dead, where that is told at all.
const KNOWN: Duration = Duration::from_millis(700);
/// How far time goes at once, where nothing moves.
const STEP: Duration = Duration::from_secs(1);

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The messages that the operation sends never come.
    Drop,
    /// They come late, but in time.
    Late,
    /// They come when nobody waits any more.
    TooLate,
    /// They come twice.
    Twice,
    /// They lack their last byte.
    Short,
    /// They go to another rank.
    Astray,
    /// The rank is killed at the operation, which the others are told.
    Killed,
    /// The same, and nobody tells.
    Silent,
    /// The rank leaves the run at the operation.
    Leaves,
    /// The rank does everything a hundred times as slowly from there on.
    Slow,
    /// The operation is refused.
    Refused,
    /// It is refused, and everything else after it.
    Broken,
    /// What carries messages fails when it is asked at the operation.
    Carrier,
    /// Somebody gives the run up.
    Cancelled,
    /// The clock jumps forward, or back.
    Forward,
    /// The same.
    Back,
    /// The rank's program lacks the operation, if it is a group.
    Forgotten,
}

impl Kind {
    pub(super) const ALL: [Kind; 17] = [
        Kind::Drop,
        Kind::Late,
        Kind::TooLate,
        Kind::Twice,
        Kind::Short,
        Kind::Astray,
        Kind::Killed,
        Kind::Silent,
        Kind::Leaves,
        Kind::Slow,
        Kind::Refused,
        Kind::Broken,
        Kind::Carrier,
        Kind::Cancelled,
        Kind::Forward,
        Kind::Back,
        Kind::Forgotten,
    ];

    /// Whether it is about messages, and so about groups alone.
    pub(super) fn of_messages(self) -> bool {
        use Kind::{Astray, Drop, Forgotten, Late, Short, TooLate, Twice};
        matches!(self, Drop | Late | TooLate | Twice | Short | Astray | Forgotten)
    }

    /// Whether nothing of it should show in the end.
    pub(super) fn is_harmless(self) -> bool {
        matches!(self, Kind::Late | Kind::Slow | Kind::Back | Kind::Twice)
    }
}

/// What goes wrong, at which rank and at which of the operations that it issues.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) rank: usize,
    pub(super) op: usize,
}

type Name = (usize, usize, usize, usize);

#[derive(Default)]
struct Board {
    /// As it passes, whatever a rank's clock says.
    now: Duration,
    /// What the clock of the rank with the fault says more or less.
    shift: i64,
    /// By group, from, to, and which of several: the bytes, when they come, and what stands on them.
    letters: BTreeMap<Name, (Vec<u8>, Duration, Name)>,
    taken: BTreeSet<Name>,
    /// What comes once more when it has been taken.
    again: BTreeMap<Name, Vec<u8>>,
    given_up: Option<String>,
    /// The rank that is gone, and when that is known.
    gone: Option<(usize, Option<Duration>)>,
    moves: usize,
}

type Shared = Rc<RefCell<Board>>;

/// A rank's engine, which may be told to refuse.
struct Faulty<'p> {
    cpu: Cpu<'p>,
    board: Shared,
    fault: Option<Fault>,
    issued: usize,
}

const KILLED: &str = "the rank is killed";

impl Faulty<'_> {
    fn one(&mut self) -> Result<(), String> {
        let at = self.issued;
        self.issued += 1;
        self.board.borrow_mut().moves += 1;
        let Some(fault) = self.fault else { return Ok(()) };
        let now = self.board.borrow().now;
        match fault.kind {
            Kind::Broken if at >= fault.op => Err("the device is lost".into()),
            Kind::Refused if at == fault.op => Err("the device refuses".into()),
            Kind::Killed | Kind::Silent | Kind::Leaves if at >= fault.op => {
                let known = match fault.kind {
                    Kind::Killed => Some(now + KNOWN),
                    Kind::Leaves => Some(now),
                    _ => None,
                };
                self.board.borrow_mut().gone.get_or_insert((fault.rank, known));
                Err(KILLED.into())
            }
            Kind::Forward | Kind::Back if at == fault.op => {
                self.board.borrow_mut().shift = if fault.kind == Kind::Forward { 1000 } else { -1000 };
                Ok(())
            }
            Kind::Cancelled if at == fault.op => {
                self.board.borrow_mut().given_up = Some("somebody has had enough".into());
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl<'p> Engine for Faulty<'p> {
    type Pointer = <Cpu<'p> as Engine>::Pointer;
    type Error = String;

    fn pointer(&self, at: Address) -> Self::Pointer {
        self.cpu.pointer(at)
    }

    fn launch(&mut self, stream: usize, op: usize, launch: &Launch) -> Result<(), String> {
        self.one()?;
        self.cpu.launch(stream, op, launch)
    }

    fn copy(&mut self, stream: usize, copy: Spread<Self::Pointer>) -> Result<(), String> {
        self.one()?;
        self.cpu.copy(stream, copy)
    }

    fn record(&mut self, stream: usize, event: usize) -> Result<(), String> {
        self.one()?;
        self.cpu.record(stream, event)
    }

    fn wait(&mut self, stream: usize, event: usize) -> Result<(), String> {
        self.one()?;
        self.cpu.wait(stream, event)
    }

    fn query(&mut self, stream: usize) -> Result<bool, String> {
        if let Some(Fault { kind: Kind::Broken, op, .. }) = self.fault
            && self.issued > op
        {
            return Err("the device is lost".into());
        }
        self.cpu.query(stream)
    }

    fn worked(&mut self) -> bool {
        self.cpu.worked()
    }
}

/// A rank's end of the messages.
struct End {
    rank: usize,
    ranks: usize,
    board: Shared,
    under_way: BTreeMap<usize, UnderWay>,
    counts: BTreeMap<(usize, bool, usize), usize>,
    fault: Option<Fault>,
}

enum UnderWay {
    Posted(Group, usize),
    Begun { going: Vec<Name>, coming: Vec<(Name, Vec<Runs>)> },
}

fn failed(why: impl Into<String>) -> TransportError {
    TransportError::Failed(why.into())
}

impl End {
    fn name(&mut self, sends: bool, group: usize, message: &Message) -> Name {
        let count = self.counts.entry((group, sends, message.peer)).or_insert(0);
        *count += 1;
        let (from, to) = if sends { (self.rank, message.peer) } else { (message.peer, self.rank) };
        (group, from, to, *count)
    }

    fn send(&mut self, name: Name, mut bytes: Vec<u8>, op: usize) {
        let mut board = self.board.borrow_mut();
        let now = board.now;
        let kind = self.fault.filter(|f| f.op == op).map(|f| f.kind);
        let (mut to, mut at) = (name, now);
        match kind {
            Some(Kind::Drop) => return,
            Some(Kind::Late) => at = now + PATIENCE / 2,
            Some(Kind::TooLate) => at = now + 3 * PATIENCE,
            Some(Kind::Short) => _ = bytes.pop(),
            Some(Kind::Astray) => to.2 = (name.2 + 1) % self.ranks,
            _ => {}
        }
        if kind == Some(Kind::Twice) {
            board.again.insert(to, bytes.clone());
        }
        board.letters.insert(to, (bytes, at, name));
        board.moves += 1;
    }
}

impl<'p> Transport<Faulty<'p>> for End {
    fn post(&mut self, engine: &mut Faulty<'p>, stream: usize, group: &Group) -> Result<(), TransportError> {
        let op = engine.issued;
        engine.one().map_err(failed)?;
        self.under_way.insert(stream, UnderWay::Posted(group.clone(), op));
        Ok(())
    }

    fn poll(&mut self, engine: &mut Faulty<'p>, stream: usize) -> Result<Polled, TransportError> {
        Transport::<Faulty<'_>>::well(self)?;
        if let Some(Fault { kind: Kind::Carrier, op, .. }) = self.fault
            && engine.issued > op
        {
            return Err(failed("the carrier is broken"));
        }
        match self.under_way.remove(&stream) {
            None => Ok(Polled::Issued),
            Some(UnderWay::Posted(group, op)) => {
                if !engine.cpu.settled(stream).map_err(failed)? {
                    self.under_way.insert(stream, UnderWay::Posted(group, op));
                    return Ok(Polled::Waits);
                }
                let (mut going, mut coming) = (vec![], vec![]);
                for message in &group.recvs {
                    coming.push((self.name(false, group.group, message), message.parts.clone()));
                }
                for message in &group.sends {
                    let name = self.name(true, group.group, message);
                    let bytes = engine.cpu.read(&message.parts).map_err(failed)?;
                    self.send(name, bytes, op);
                    going.push(name);
                }
                self.under_way.insert(stream, UnderWay::Begun { going, coming });
                Ok(Polled::Moved)
            }
            Some(UnderWay::Begun { mut going, mut coming }) => {
                let before = going.len() + coming.len();
                let mut board = self.board.borrow_mut();
                let mut wrong = None;
                let now = board.now;
                coming.retain(|(name, runs)| {
                    if wrong.is_some() || board.letters.get(name).is_none_or(|l| l.1 > now) {
                        return true;
                    }
                    let (bytes, _, says) = board.letters.remove(name).unwrap_or_default();
                    let wanted: usize = runs.iter().map(Runs::total).sum();
                    if says != *name {
                        wrong = Some(format!("what came from rank {} is for rank {}", name.1, says.2));
                    } else if bytes.len() != wanted {
                        let got = bytes.len();
                        wrong = Some(format!(
                            "{got} bytes came from rank {}, and {wanted} are waited for",
                            name.1
                        ));
                    } else {
                        wrong = engine.cpu.write(runs, &bytes).err();
                    }
                    board.taken.insert(*name);
                    if let Some(again) = board.again.remove(name) {
                        board.letters.insert(*name, (again, now, *name));
                    }
                    false
                });
                going.retain(|name| !board.taken.contains(name));
                let left = going.len() + coming.len();
                if left < before {
                    board.moves += 1;
                }
                drop(board);
                if let Some(why) = wrong {
                    return Err(failed(why));
                }
                if left == 0 {
                    return Ok(Polled::Issued);
                }
                self.under_way.insert(stream, UnderWay::Begun { going, coming });
                Ok(if left < before { Polled::Moved } else { Polled::Waits })
            }
        }
    }

    fn well(&mut self) -> Result<(), TransportError> {
        let board = self.board.borrow();
        if let Some(why) = &board.given_up {
            return Err(TransportError::Others(format!("given up: {why}")));
        }
        match board.gone {
            Some((rank, Some(known))) if known <= board.now => {
                Err(TransportError::Others(format!("rank {rank} died")))
            }
            _ => Ok(()),
        }
    }

    fn abort(&mut self, why: &str) {
        let mut board = self.board.borrow_mut();
        // Who is killed tells nobody, and where nobody tells, nobody hears.
        if !why.contains(KILLED) && self.fault.is_none_or(|f| f.kind != Kind::Silent) {
            board.given_up.get_or_insert_with(|| why.to_owned());
        }
    }
}

/// How a rank ended.
pub(super) struct Ended {
    pub(super) outcome: Result<[Vec<u8>; 2], WalkError>,
    /// What it left, if it failed and was not killed.
    pub(super) record: Option<Record>,
}

/// How all ranks ended, and whether the fault was met at all.
pub(super) struct Played {
    pub(super) ranks: Vec<Ended>,
    pub(super) met: bool,
}

/// Plays all ranks with a fault; says so if one of them does not end in time.
pub(super) fn play(
    programs: &[Program],
    arguments: &[Vec<Vec<u8>>],
    fault: Option<Fault>,
    seed: u64,
) -> Result<Played, String> {
    let board = Shared::default();
    let ranks = programs.len();
    let own = |rank: usize| fault.filter(|f| f.rank == rank);
    // Each process has a device of its own.
    let mut engines: Vec<Faulty<'_>> = (0..ranks)
        .map(|rank| {
            let device = Device::new(
                std::slice::from_ref(&programs[rank]),
                vec![arguments[rank].clone()],
                seed + rank as u64,
            );
            let cpu = Cpu::engines(device).remove(0);
            Faulty { cpu, board: board.clone(), fault: own(rank), issued: 0 }
        })
        .collect();
    let end = |rank| End {
        rank,
        ranks,
        board: board.clone(),
        under_way: BTreeMap::new(),
        counts: BTreeMap::new(),
        // Silence is everyone's.
        fault: fault.filter(|f| f.rank == rank || f.kind == Kind::Silent),
    };
    let mut ends: Vec<End> = (0..ranks).map(end).collect();
    let mut runs: Vec<Patient<'_>> = programs.iter().map(|p| Patient::new(p, PATIENCE, true)).collect();
    let mut ended: Vec<Option<Ended>> = (0..ranks).map(|_| None).collect();
    // The time that passed, whatever the clock says.
    let (mut passed, mut moved_at, mut round) = (Duration::ZERO, Duration::ZERO, 0usize);
    while ended.iter().any(Option::is_none) {
        let before = board.borrow().moves;
        let mut worked = false;
        for rank in 0..ranks {
            let slow =
                fault.is_some_and(|f| f.kind == Kind::Slow && f.rank == rank && engines[rank].issued >= f.op);
            if ended[rank].is_some() || (slow && !round.is_multiple_of(100)) {
                continue;
            }
            let shift = if own(rank).is_some() { board.borrow().shift } else { 0 };
            let now = board.borrow().now + Duration::from_secs(5000u64.saturating_add_signed(shift));
            let polled = runs[rank].poll(&mut engines[rank], &mut ends[rank], now);
            worked |= matches!(polled, Ok(true));
            match polled {
                Ok(false) => {}
                Ok(true) => {
                    ended[rank] = Some(Ended { outcome: Ok(engines[rank].cpu.results()), record: None })
                }
                Err(e) => {
                    // Asked again, it says the same and does nothing.
                    let told = board.borrow().given_up.clone();
                    let again = runs[rank].poll(&mut engines[rank], &mut ends[rank], now);
                    if again.as_ref() != Err(&e) || board.borrow().given_up != told {
                        return Err(format!("rank {rank} says {e}, and then {again:?}"));
                    }
                    let record = (!e.why.contains(KILLED)).then(|| runs[rank].walk().record(&e));
                    ended[rank] = Some(Ended { outcome: Err(e), record });
                }
            }
        }
        round += 1;
        let still = board.borrow().moves == before && !worked;
        let slow = fault.is_some_and(|f| f.kind == Kind::Slow);
        if still {
            // A slow rank is slow, and not still.
            let step = if slow { Duration::from_millis(1) } else { STEP };
            passed += step;
            board.borrow_mut().now += step;
        } else {
            moved_at = passed;
        }
        // A message that is late moves when it comes.
        let late = if fault.is_some_and(|f| f.kind == Kind::Late) { PATIENCE } else { Duration::ZERO };
        if passed > moved_at + late + PATIENCE + 2 * STEP {
            let left: Vec<usize> = (0..ranks).filter(|&r| ended[r].is_none()).collect();
            return Err(format!("ranks {left:?} do not end"));
        }
    }
    let met = fault.is_none_or(|f| engines[f.rank].issued > f.op);
    Ok(Played { ranks: ended.into_iter().flatten().collect(), met })
}
