//! Faults in what orders the operations of a device program: events, streams, places.

use super::numbers::readdress;
use super::{ANY, Fault, Told};
use annulus::lower::program::{Action, Address, Base, Message, Op, Program};

/// The fault of a wait that is not there.
pub(super) const WAIT_LEFT_OUT: &str = "a wait left out";

const RACE: &[Told] = &[Told::Race];
const REFUSED: &[Told] = &[Told::Refused];

/// All that there are in these programs.
pub(super) fn faults(programs: &[Program]) -> Vec<Fault> {
    let mut all = vec![];
    for (rank, program) in programs.iter().enumerate() {
        for at in 0..program.ops.len() {
            of_op(programs, rank, at, &mut all);
        }
        reused_early(programs, rank, &mut all);
    }
    all
}

fn fault(
    programs: &[Program],
    (rank, place): (usize, String),
    kind: &'static str,
    told: &'static [Told],
    change: impl FnOnce(&mut Vec<Op>),
) -> Fault {
    let mut programs = programs.to_vec();
    change(&mut programs[rank].ops);
    Fault { kind, place: format!("rank {rank}, {place}"), programs, call: String::new(), told }
}

fn of_op(programs: &[Program], rank: usize, at: usize, all: &mut Vec<Fault>) {
    let ops = &programs[rank].ops;
    let op = &ops[at];
    let place = || (rank, format!("step {}, {} on stream {}", op.step, op.action.name(), op.stream));
    let before = (0..at).rev().find(|&i| ops[i].stream == op.stream);
    let works = |i: &usize| matches!(ops[*i].action, Action::Launch(_) | Action::Copy(_) | Action::Group(_));
    match &op.action {
        Action::Wait(event) => {
            all.push(fault(programs, place(), WAIT_LEFT_OUT, RACE, |ops| drop(ops.remove(at))));
            if let Some(behind) = (at + 1..ops.len()).find(|&i| ops[i].stream == op.stream && works(&i)) {
                let change = |ops: &mut Vec<Op>| {
                    let wait = ops.remove(at);
                    ops.insert(behind, wait);
                };
                all.push(fault(programs, place(), "a wait behind what it is for", RACE, change));
            }
            let recorded = ops.iter().position(|o| o.action == Action::Record(*event));
            let earlier = |o: &Op| match o.action {
                Action::Record(other) if other != *event => Some(other),
                _ => None,
            };
            if let Some(other) = recorded.and_then(|r| ops[..r].iter().rev().find_map(earlier)) {
                let change = |ops: &mut Vec<Op>| ops[at].action = Action::Wait(other);
                all.push(fault(programs, place(), "a wait for an earlier event", RACE, change));
            }
            let never = programs[rank].events;
            let change = |ops: &mut Vec<Op>| ops[at].action = Action::Wait(never);
            all.push(fault(programs, place(), "a wait for no event", REFUSED, change));
        }
        Action::Record(_) => {
            all.push(fault(programs, place(), "an event left out", REFUSED, |ops| drop(ops.remove(at))));
            if let Some(before) = before {
                let change = |ops: &mut Vec<Op>| ops.swap(before, at);
                all.push(fault(programs, place(), "an event before what it is for", RACE, change));
            }
        }
        action => {
            let to = usize::from(op.stream == 0);
            let kind = match action {
                Action::Launch(_) => "a launch on the stream of transfers",
                Action::Copy(_) => "a copy on the stream of transfers",
                _ => "a group on the stream of kernels",
            };
            all.push(fault(programs, place(), kind, ANY, |ops| ops[at].stream = to));
            let streams = programs[rank].streams.len();
            if streams > 2 && op.stream > 0 {
                let kind = "a group on the stream of another axis";
                let change = |ops: &mut Vec<Op>| ops[at].stream = 3 - op.stream;
                all.push(fault(programs, place(), kind, ANY, change));
            }
            if let Some(before) = before.filter(works) {
                let change = |ops: &mut Vec<Op>| ops.swap(before, at);
                all.push(fault(programs, place(), "an operation before the one it follows", ANY, change));
            }
            let kind = match action {
                Action::Launch(_) => "a launch left out",
                Action::Copy(_) => "a copy left out",
                _ => "a group left out",
            };
            all.push(fault(programs, place(), kind, ANY, |ops| drop(ops.remove(at))));
        }
    }
}

/// What arrives by one group is put where another one's arrives, which is read there too.
fn reused_early(programs: &[Program], rank: usize, all: &mut Vec<Fault>) {
    let arrives = |op: &Op| match &op.action {
        Action::Group(g) => {
            Some((g.recvs.first()?.parts.first()?.at, g.recvs.iter().map(Message::bytes).sum(), g.group))
        }
        _ => None,
    };
    let places: Vec<(Address, usize, usize)> = programs[rank].ops.iter().filter_map(arrives).collect();
    for pair in places.windows(2) {
        let [(first, _, _), (second, bytes, group)] = *pair else { continue };
        let in_arena = first.base == Base::Arena && second.base == Base::Arena;
        if !in_arena || first == second {
            continue;
        }
        let moved = |at: Address| match at.offset.checked_sub(second.offset) {
            Some(within) if at.base == Base::Arena && within < bytes => first.plus(within),
            _ => at,
        };
        let mut programs = programs.to_vec();
        programs[rank].ops.iter_mut().for_each(|op| readdress(&mut op.action, &moved));
        let place = format!("rank {rank}, what comes by group {group}");
        all.push(Fault { kind: "a slot reused early", place, programs, call: String::new(), told: ANY });
    }
}
