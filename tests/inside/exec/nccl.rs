//! What groups are for NCCL: runs that both ends cut alike, in one order on all ranks; and what NVIDIA's own library does without a GPU.

use crate::inside::check::corpus;
use crate::inside::ring::case::Case as Attention;
use annulus::exec::cuda::nccl::{Pieces, Wanted};
use annulus::layout::LayoutKind;
use annulus::lower::program::{Action, Group, Program, Target, lower};
use annulus::ring::Strategy as Plan;
use annulus::schedule::{Schedule, StepOp, Stream};

fn groups(program: &mut Program) -> Vec<&mut Group> {
    let ops = program.ops.iter_mut().filter_map(|op| match &mut op.action {
        Action::Group(group) => Some(group),
        _ => None,
    });
    ops.collect()
}

/// Every message has the same runs at both ends, all of its bytes, and groups come in the order of the programs.
fn alike(name: &str, schedule: &Schedule) -> usize {
    let programs = lower(schedule, Target::Cpu).unwrap();
    let all: Vec<Pieces> = (0..programs.len())
        .map(|rank| Pieces::of(&programs, rank).unwrap_or_else(|e| panic!("{name}: {e}")))
        .collect();
    let mut runs = 0;
    for (rank, program) in programs.iter().enumerate() {
        let mut place = 0;
        for op in &program.ops {
            let Action::Group(group) = &op.action else { continue };
            let (at, pieces) = all[rank].of_group(group.group).unwrap();
            assert_eq!(at, place, "{name}: rank {rank}, group {}", group.group);
            place += 1;
            for sends in [true, false] {
                let messages = if sends { &group.sends } else { &group.recvs };
                let whole: usize = messages.iter().map(|m| m.bytes()).sum();
                assert_eq!(pieces.iter().filter(|p| p.sends == sends).map(|p| p.bytes).sum::<usize>(), whole);
            }
            for peer in 0..programs.len() {
                let of = |all: &[_], sends, with| -> Vec<usize> {
                    let all: &[annulus::exec::cuda::nccl::Piece] = all;
                    all.iter().filter(|p| p.sends == sends && p.peer == with).map(|p| p.bytes).collect()
                };
                let there = all[peer].of_group(group.group).map_or(&[][..], |g| g.1);
                assert_eq!(of(pieces, true, peer), of(there, false, rank), "{name}: {rank} to {peer}");
            }
            runs += pieces.len();
        }
    }
    runs
}

#[test]
fn both_ends_cut_messages_alike() {
    let mut runs = 0;
    for (name, _, schedule) in corpus::corpus().into_iter().chain(corpus::travelling()) {
        runs += alike(&name, &schedule);
    }
    for (ranks, nodes) in [(4, 2), (6, 3), (6, 2)] {
        for way in Plan::ALL {
            let mut case = Attention::travelling(ranks, LayoutKind::Zigzag);
            case.nodes = nodes;
            runs += alike(&format!("{way} on {nodes} nodes"), &case.schedule(way));
        }
    }
    assert!(runs > 1000, "{runs}");
}

#[test]
fn what_cannot_be_told_is_refused() {
    let schedule =
        Attention::new(11, 3, LayoutKind::Contiguous, annulus::mask::Mask::causal(11)).schedule(Plan::Ring);
    let programs = lower(&schedule, Target::Cpu).unwrap();
    let refused = |change: &dyn Fn(&mut Vec<Program>), says: &str| {
        let mut changed = programs.clone();
        change(&mut changed);
        let why = Pieces::of(&changed, 0).map(|_| ()).unwrap_err().to_string();
        assert!(why.starts_with("rank 0, group ") && why.contains(says), "{why}");
    };
    let swapped = |all: &mut Vec<Program>| {
        let [first, second] = [0, 1].map(|i| groups(&mut all[0])[i].group);
        groups(&mut all[0])[0].group = second;
        groups(&mut all[0])[1].group = first;
    };
    refused(&swapped, "ranks come to it and to other groups in different orders");
    refused(&|all| groups(&mut all[0])[0].recvs[0].peer = 7, "rank 7 has no other end of it");
    refused(&|all| groups(&mut all[1])[0].recvs.clear(), "rank 1 has no other end of it");
    refused(&|all| groups(&mut all[0])[0].sends[0].parts[0].bytes -= 1, "bytes here, and");
    refused(&|all| all[0].attention.arguments[1] -= 1, "which has");
    let many = |all: &mut Vec<Program>| {
        let runs = |m: &mut annulus::lower::program::Message| {
            let at = m.parts[0].at;
            m.parts = vec![annulus::lower::program::Runs { at, count: 1 << 20, stride: 2, bytes: 1 }];
        };
        runs(&mut groups(&mut all[0])[0].recvs[0]);
        let from = groups(&mut all[0])[0].recvs[0].peer;
        runs(&mut groups(&mut all[from])[0].sends[0]);
    };
    refused(&many, "more than 65536 runs");
    // Who lets a message hold other multiprocessors is in another communicator.
    refused(&|all| groups(&mut all[1])[0].sms = Some(4), "rank 1 has no other end of it");
    let copied = |all: &mut Vec<Program>| all.iter_mut().for_each(|p| groups(p)[0].sms = Some(0));
    refused(&copied, "copy engines are to move it");
}

/// A communicator for each axis and each number, those of all schedules together, in one order.
#[test]
fn communicators_are_wanted_by_axis_and_number() {
    let case = |nodes| {
        let mut case = Attention::new(12, 4, LayoutKind::Contiguous, annulus::mask::Mask::none());
        case.nodes = nodes;
        case.schedule(Plan::Queries)
    };
    let set = |mut schedule: Schedule, axes: &[usize], sms: usize| {
        for step in schedule.ranks.iter_mut().flat_map(|r| &mut r.steps) {
            if let (StepOp::Exchange { sms: own, .. }, Stream::Comm(axis)) = (&mut step.op, step.stream) {
                *own = axes.contains(&axis).then_some(sms);
            }
        }
        schedule
    };
    let by = |all: &[Schedule]| Wanted::by(all).into_iter().map(|w| (w.axis, w.sms)).collect::<Vec<_>>();
    assert_eq!(by(&[]), [(0, None)]);
    assert_eq!(by(&[case(1)]), [(0, None)]);
    let two = [set(case(2), &[0, 1], 4), set(case(2), &[1], 8), set(case(1), &[0], 4)];
    assert_eq!(by(&two), [(0, None), (0, Some(4)), (1, Some(4)), (1, Some(8))]);
}

#[test]
#[ignore = "another test runs it, in a process where the loader finds NVIDIA's library"]
fn the_library_itself() {
    let ids = [(); 2].map(|()| annulus::exec::cuda::nccl::new_id().unwrap());
    println!("version {}, other ids {}", annulus::exec::cuda::nccl::version().unwrap(), ids[0] != ids[1]);
}

/// It has every function that is called, says its version, and makes names.
#[test]
#[cfg_attr(not(test_nccl), ignore = "set ANNULUS_NCCL to the folder of libnccl.so.2")]
fn nvidias_library_answers_without_a_gpu() {
    let folder = std::env::var("ANNULUS_NCCL").expect("ANNULUS_NCCL names a folder");
    let mut program = std::process::Command::new(std::env::current_exe().unwrap());
    program.args(["--exact", "inside::exec::nccl::the_library_itself", "--ignored", "--nocapture"]);
    let done = program.env("LD_LIBRARY_PATH", folder).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        said.contains("version 2.") && said.contains(", other ids true"),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
}
