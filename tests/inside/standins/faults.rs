//! Faults planted in a program of two streams, `tests/standins/programs/faults.cpp`: each is caught under every one of twenty
//! seeds, and the program without one is right under all of them.

use super::builder::build::{on_standins, standins};
use super::builder::cxx;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

const SEEDS: usize = 20;

fn program() -> PathBuf {
    static ONE: LazyLock<PathBuf> = LazyLock::new(|| {
        let text = include_str!("../../standins/programs/faults.cpp");
        let source = standins().join(format!("faults-{}.cpp", cxx::hash(text)));
        cxx::write(&source, text.as_bytes());
        let program = source.with_extension("run");
        let libraries = ["libcuda.so.1", "libnvrtc.so.13"].map(|name| standins().join(name));
        let arguments = [&source, &libraries[0], &libraries[1]].map(|path| path.display().to_string());
        cxx::compile(&arguments, &program);
        program
    });
    ONE.clone()
}

/// What the program says under each seed.
fn said(fault: &str) -> Vec<String> {
    under(fault, SEEDS, ("SECONDS", "120"))
}

/// The same under so many seeds, and with one more word to the stand-ins.
fn under(fault: &str, seeds: usize, (name, value): (&str, &str)) -> Vec<String> {
    let mut program = Command::new(program());
    on_standins(&mut program, 1).args([fault, &seeds.to_string()]);
    program.env(format!("ANNULUS_STANDINS_{name}"), value);
    let done = program.output().unwrap();
    let lines: Vec<String> = String::from_utf8(done.stdout).unwrap().lines().map(String::from).collect();
    assert_eq!(lines.len(), seeds, "{fault}: {lines:?} {}", String::from_utf8_lossy(&done.stderr));
    lines
}

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn right_programs_are_right() {
    for name in ["none", "graph", "pinned", "host between", "recorded again", "default stream"] {
        for line in said(name) {
            assert!(line.contains("exit 0: right"), "{name}: {line}");
        }
    }
}

/// A race is told with both of its operations, whichever came first.
const RACE: &str = "stand-in: race: ";
const UNORDERED: &str = "nothing orders the one after the other";
const UNWRITTEN: &str = "which nobody has written";
const FREED: &str = "use after free";

/// Faults in what streams, events and copies are asked for, in an eager program and in a captured one.
const ORDERS: [(&str, &[&str]); 9] = [
    ("no event before the copy", &[RACE, UNORDERED, "launch of twice", "copy of 1024 bytes"]),
    ("no event after the copy", &[RACE, UNORDERED, "launch of twice", "copy of 1024 bytes"]),
    ("wait on the wrong event", &[RACE, UNORDERED, "launch of twice", "copy of 1024 bytes"]),
    ("wait on an old event", &[RACE, UNORDERED, "launch of twice", "copy of 1024 bytes"]),
    ("copy before its kernel", &[RACE, UNORDERED, "launch of twice", "copy of 1024 bytes"]),
    ("reused early", &[RACE, UNORDERED, "fill of 1024 bytes", "copy of 1024 bytes"]),
    ("too few bytes", &["launch of twice", "bytes 1020 to 1024", UNWRITTEN]),
    ("copy of another buffer", &["launch of twice", UNWRITTEN]),
    ("a grid too small", &["launch of twice", "bytes 768 to 1024", UNWRITTEN]),
];

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn wrong_orders_are_found_under_every_seed() {
    for (name, words) in ORDERS {
        let captured = format!("graph: {name}");
        // Without its event the copy is not captured at all: see below.
        let captured = (name != "no event before the copy").then_some(captured);
        for name in [name.to_owned()].into_iter().chain(captured) {
            for line in said(&name) {
                assert!(words.iter().all(|word| line.contains(word)), "{name}: {line}");
                assert!(line.contains("exit 97"), "{name}: {line}");
            }
        }
    }
}

/// One of these stands in what is said.
const OTHERS: [(&str, &[&str]); 51] = [
    ("wait before the record", &["deadlock: stream 1 waits for event 2, which nobody has recorded"]),
    ("host asks for nothing", &["deadlock: the host asks for event 6, which nobody has recorded"]),
    ("host waits for nothing", &["deadlock: the host waits for event 6, which nobody has recorded"]),
    ("a launch beside its stream", &[RACE]),
    ("recorded again too late", &[RACE]),
    ("beside the default stream", &[RACE]),
    ("freed before the copy by the other stream", &[RACE, FREED]),
    ("freed before the copy by the host", &[RACE, FREED]),
    ("use after free", &[FREED]),
    ("double free", &["double free of allocation 1"]),
    ("double free by the host", &["double free of allocation 1"]),
    ("free of a middle", &["where no allocation begins"]),
    ("used before it is made", &[RACE]),
    ("reads what nobody wrote", &[UNWRITTEN]),
    ("moved", &[UNWRITTEN]),
    ("by_call", &["launch of by_call, 1 blocks, on stream 0 reads bytes 60 to 64"]),
    ("takes home what nobody wrote", &[UNWRITTEN]),
    ("too many bytes", &["reach beyond the end of allocation 3 (1024 bytes"]),
    ("a grid too large", &["outside of device memory"]),
    ("an error that stays", &["returns 700"]),
    ("blocks that race", &["of the same launch writes"]),
    ("a barrier that is missed", &["deadlock; at barrier 0"]),
    ("a crooked address", &["misaligned: 4 bytes"]),
    ("too many threads", &["by 128 threads, which was compiled for 64"]),
    ("too much shared memory", &["of which 49152 are allowed"]),
    ("too large", &["returns 2"]),
    ("host reads", &["the host reads device memory at"]),
    ("host writes", &["the host writes device memory at"]),
    ("host reads beyond", &["there is no allocation"]),
    ("source changed", &["the host has changed its source"]),
    ("pinned memory changed", &["the host has changed its source"]),
    ("pinned memory freed twice", &["freed before"]),
    ("result taken early", &["wrong: element 0 is 2779096485"]),
    ("unknown call", &["cuMemcpy3DAsync_v2 is none of the calls that the stand-in knows"]),
    ("an event destroyed twice", &["no event, or was destroyed before"]),
    ("a stream destroyed twice", &["no stream, or was destroyed before"]),
    ("a kernel of an unloaded module", &["returns 400"]),
    ("another architecture", &["an image for sm_80 on a device of sm_90a"]),
    ("no context", &["returns 201"]),
    ("time", &["returns 801"]),
    ("synchronise in a capture", &["returns 900"]),
    ("allocate in a capture", &["returns 900"]),
    ("wait for the outside in a capture", &["returns 905"]),
    ("a stream that does not come back", &["returns 904"]),
    ("replay of freed memory", &[FREED]),
    ("replay beside its input", &[RACE]),
    ("replay of a destroyed graph", &["returns 400"]),
    ("graph: no event before the copy", &["returns 905"]),
    ("graph: a launch beside its stream", &[RACE]),
    ("graph: a grid too large", &["outside of device memory"]),
    ("graph: too many bytes", &["reach beyond the end of allocation 3 (1024 bytes"]),
];

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn other_faults_are_found_under_every_seed() {
    for (name, words) in OTHERS {
        for line in said(name) {
            assert!(words.iter().any(|word| line.contains(word)), "{name}: {line}");
            assert!(!line.contains("right") && !line.contains("signal"), "{name}: {line}");
        }
    }
}

/// Every wait has a limit.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn a_kernel_that_does_not_end_is_named() {
    for line in under("a kernel that does not end", 1, ("SECONDS", "1")) {
        assert!(
            line.contains("launch of forever, 1 blocks, on stream 0 has not ended after 1 seconds"),
            "{line}"
        );
    }
}

/// Who asks is told that it is not ready, and may go; who waits is told what he waits for.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn work_that_is_stuck() {
    // The first four are allocations.
    for line in under("stuck", SEEDS, ("STUCK", "5")) {
        assert!(line.contains("exit 0: right"), "{line}");
    }
    for line in under("stuck and waited for", SEEDS, ("STUCK", "5")) {
        let whole = "deadlock: the host waits, and nothing can be done; stream 0 has 1 operations, the first of which is stuck";
        assert!(line.contains(whole), "{line}");
    }
}
