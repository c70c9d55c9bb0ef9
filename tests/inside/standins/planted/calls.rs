//! Faults in the host code that runs device programs: calls of CUDA that are left out or made otherwise. They are planted in the stand-in,
//! so that the host code stays as it is.

use super::{ANY, Fault, Told};
use annulus::lower::program::Program;

/// A host that waits too little, or that forgets who waits: two accesses without an order; or, where a graph is made, streams that are not
/// part of it.
const UNORDERED: &[Told] = &[Told::Race, Told::Finding, Told::Refused];

/// How often a call was made, as the line at the end of a trial says.
fn count(said: &str, call: &str) -> usize {
    let line = said.lines().rev().find(|line| line.starts_with("calls ")).unwrap();
    let found = line.split(' ').find_map(|word| word.strip_prefix(call)?.strip_prefix(':'));
    found.map_or(0, |n| n.parse().unwrap())
}

/// All that there are, in calls that were made so often.
pub(super) fn faults(programs: &[Program], said: &str) -> Vec<Fault> {
    let mut all = vec![];
    let mut plant = |kind, call: &str, how: &str, told| {
        for n in 1..=count(said, call) {
            let call = format!("{call}:{n}:{how}");
            all.push(Fault { kind, place: call.clone(), programs: programs.to_vec(), call, told });
        }
    };
    plant("a wait not asked for", "cuStreamWaitEvent", "left out", UNORDERED);
    plant("an event not recorded", "cuEventRecord", "left out", ANY);
    plant("a wait for another event", "cuStreamWaitEvent", "another", ANY);
    plant("another event recorded", "cuEventRecord", "another", ANY);
    plant("a launch not asked for", "cuLaunchKernel", "left out", ANY);
    plant("a copy to the device not asked for", "cuMemcpyHtoDAsync_v2", "left out", ANY);
    plant("a copy to the device of fewer bytes", "cuMemcpyHtoDAsync_v2", "less:4", ANY);
    plant("a copy to the host not asked for", "cuMemcpyDtoHAsync_v2", "left out", ANY);
    plant("a copy to the host of fewer bytes", "cuMemcpyDtoHAsync_v2", "less:4", ANY);
    plant("a copy on the device not asked for", "cuMemcpyDtoDAsync_v2", "left out", ANY);
    plant("a copy on the device of fewer bytes", "cuMemcpyDtoDAsync_v2", "less:4", ANY);
    plant("a copy on the device of more bytes", "cuMemcpyDtoDAsync_v2", "more:4096", ANY);
    plant("runs copied on the device not asked for", "cuMemcpy2DAsync_v2", "left out", ANY);
    plant("runs copied on the device of fewer bytes", "cuMemcpy2DAsync_v2", "less:4", ANY);
    plant("a fill not asked for", "cuMemsetD8Async", "left out", ANY);
    plant("a graph not launched", "cuGraphLaunch", "left out", ANY);
    // Buffers by the order in which they are taken: tables, then of each rank the arguments, the result, its log-sum-exp, the arena.
    let buffers = count(said, "cuMemAllocAsync");
    let of_rank = programs.first().map_or(0, |p| p.attention.arguments.len() + 3);
    assert_eq!(buffers, 1 + programs.len() * of_rank);
    // The first copy to the device of the second run, which replays a graph.
    let second = count(said, "cuMemcpyHtoDAsync_v2").div_ceil(2) + 1;
    let mut of = |kind, call: String| {
        all.push(Fault { kind, place: call.clone(), programs: programs.to_vec(), call, told: ANY });
    };
    for n in 0..buffers {
        of("a buffer too small", format!("cuMemAllocAsync:{}:less:4", n + 1));
        if n == 0 {
            continue;
        }
        of("a buffer freed before a launch", format!("cuLaunchKernel:2:freed before:{n}"));
        of("a buffer freed before a graph", format!("cuGraphLaunch:1:freed before:{n}"));
        of("a buffer given out twice", format!("cuMemAllocAsync:{}:again:{}", n + 1, n - 1));
        of(
            "other pointers, and the old ones freed",
            format!("cuMemcpyHtoDAsync_v2:{second}:moved and freed:{n}"),
        );
        if n % of_rank != 0 {
            // The host fills and reads all but the arena.
            of("a graph of other pointers replayed", format!("cuMemcpyHtoDAsync_v2:{second}:moved:{n}"));
        }
    }
    all
}
