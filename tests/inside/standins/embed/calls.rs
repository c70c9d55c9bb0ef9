//! What a host does with parts, and that all of it is right.

use super::host::{Handle, Host};
use annulus::exec::cuda::ranks::{IslandError, Told};
use cudarc::driver::CudaStream;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use std::ffi::c_void;
use std::sync::Arc;

fn handle(stream: &CudaStream) -> *mut c_void {
    stream.cu_stream().cast()
}

fn handles(streams: &[Arc<CudaStream>]) -> Vec<Handle> {
    streams.iter().map(|s| Handle(handle(s))).collect()
}

fn finish(streams: &[Arc<CudaStream>]) {
    streams.iter().for_each(|s| s.synchronize().unwrap());
}

/// Two sets of pointers in turn, with other arguments each time; between calls the workspace serves the host.
pub(super) fn a_thread_for_each_rank(host: &mut Host) -> Result<(), IslandError> {
    let streams: Vec<_> = (0..host.parts.len()).map(|_| host.stream()).collect();
    let mut sets = [host.set(1, 0)?, host.set(2, 16)?];
    for (turn, at) in [0, 1, 0].into_iter().enumerate() {
        let set = &mut sets[at];
        host.fill(set, turn as u64 + 1)?;
        set.ranks.iter().zip(&streams).for_each(|(memory, on)| memory.scribble(handle(on)));
        host.threads(set, &handles(&streams)).into_iter().collect::<Result<(), _>>()?;
        set.ranks.iter().zip(&streams).for_each(|(memory, on)| memory.scribble(handle(on)));
        finish(&streams);
        host.judge(set)?;
    }
    Ok(())
}

/// The same from one thread: each set eagerly at first, then as a graph.
pub(super) fn one_thread_for_all(host: &mut Host) -> Result<(), IslandError> {
    let stream = host.stream();
    let mut sets = [host.set(1, 0)?, host.set(2, 16)?];
    for (turn, at) in [0, 1, 1, 0].into_iter().enumerate() {
        let set = &mut sets[at];
        host.fill(set, turn as u64 + 1)?;
        set.ranks.iter().for_each(|memory| memory.scribble(handle(&stream)));
        let told = host.together(set, handle(&stream))?;
        assert_eq!(told, if turn < 2 { Told::Eagerly } else { Told::Replayed });
        set.ranks.iter().for_each(|memory| memory.scribble(handle(&stream)));
        finish(std::slice::from_ref(&stream));
        host.judge(set)?;
    }
    Ok(())
}

/// Threads that make call after call: one rank may be in the next while another one is still in the one before.
pub(super) fn ranks_that_run_ahead(host: &mut Host) -> Result<(), IslandError> {
    let streams: Vec<_> = (0..host.parts.len()).map(|_| host.stream()).collect();
    let (a, b) = (host.set(1, 0)?, host.set(2, 16)?);
    host.turns(&[&a, &b, &a, &b, &a, &b], &handles(&streams)).into_iter().collect::<Result<(), _>>()?;
    finish(&streams);
    host.judge(&a)?;
    host.judge(&b)
}

/// Calls on other streams, while the ones before have not been waited for: they have one workspace, and come one behind the other.
pub(super) fn two_calls_in_flight(host: &mut Host) -> Result<(), IslandError> {
    let streams: Vec<_> = (0..2 * host.parts.len()).map(|_| host.stream()).collect();
    let set = host.set(3, 0)?;
    let (some, others) = streams.split_at(host.parts.len());
    for on in [some, others, others, some] {
        host.threads(&set, &handles(on)).into_iter().collect::<Result<(), _>>()?;
    }
    // From one thread, eagerly and as a graph, and again from many.
    for on in [&some[0], &others[0], &some[1]] {
        host.together(&set, handle(on))?;
    }
    host.threads(&set, &handles(others)).into_iter().collect::<Result<(), _>>()?;
    assert_eq!(host.together(&set, handle(&some[0]))?, Told::Replayed);
    finish(&streams);
    host.judge(&set)
}

/// What is told a stream under capture becomes a part of the host's own graph.
pub(super) fn a_stream_under_capture(host: &mut Host) -> Result<(), IslandError> {
    let stream = host.stream();
    let mut set = host.set(1, 0)?;
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    set.ranks.iter().for_each(|memory| memory.scribble(handle(&stream)));
    assert_eq!(host.together(&set, handle(&stream))?, Told::Eagerly);
    let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
    for seed in [2, 3] {
        host.fill(&mut set, seed)?;
        graph.launch().unwrap();
        finish(std::slice::from_ref(&stream));
        host.judge(&set)?;
    }
    // Calls that are not captured know nothing of it.
    for told in [Told::Eagerly, Told::Replayed] {
        host.fill(&mut set, 5)?;
        assert_eq!(host.together(&set, handle(&stream))?, told);
        finish(std::slice::from_ref(&stream));
        host.judge(&set)?;
    }
    Ok(())
}

/// Ranks whose streams are captured into one graph, from a thread each.
pub(super) fn ranks_of_one_capture(host: &mut Host) -> Result<(), IslandError> {
    let streams: Vec<_> = (0..host.parts.len()).map(|_| host.stream()).collect();
    let mut set = host.set(1, 0)?;
    let event = || host.context.new_event(None).unwrap();
    let (fork, joins): (_, Vec<_>) = (event(), streams.iter().map(|_| event()).collect());
    streams[0].begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).unwrap();
    fork.record(&streams[0]).unwrap();
    streams[1..].iter().for_each(|s| s.wait(&fork).unwrap());
    host.threads(&set, &handles(&streams)).into_iter().collect::<Result<(), _>>()?;
    for (join, stream) in joins.iter().zip(&streams).skip(1) {
        join.record(stream).unwrap();
        streams[0].wait(join).unwrap();
    }
    let graph = streams[0].end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
    for seed in [2, 3] {
        host.fill(&mut set, seed)?;
        graph.launch().unwrap();
        finish(&streams);
        host.judge(&set)?;
    }
    Ok(())
}

/// The context's default stream, which has no handle.
pub(super) fn the_default_stream(host: &mut Host) -> Result<(), IslandError> {
    let null = std::ptr::null_mut();
    let mut set = host.set(1, 16)?;
    for (seed, told) in [(1, Told::Eagerly), (2, Told::Replayed), (3, Told::Replayed)] {
        host.fill(&mut set, seed)?;
        assert_eq!(host.together(&set, null)?, told);
        set.ranks.iter().for_each(|memory| memory.scribble(null));
        host.context.synchronize().unwrap();
        host.judge(&set)?;
    }
    host.fill(&mut set, 5)?;
    host.threads(&set, &vec![Handle(null); set.ranks.len()]).into_iter().collect::<Result<(), _>>()?;
    host.context.synchronize().unwrap();
    host.judge(&set)
}

/// More sets of pointers than graphs are kept: none is given up while it may still run.
pub(super) fn more_pointers_than_graphs(host: &mut Host) -> Result<(), IslandError> {
    let stream = host.stream();
    let on = handle(&stream);
    let sets = (0..9).map(|seed| host.set(seed + 1, 0)).collect::<Result<Vec<_>, _>>()?;
    let (last, first) = sets.split_last().unwrap();
    for set in first {
        assert_eq!([host.together(set, on)?, host.together(set, on)?], [Told::Eagerly, Told::Replayed]);
    }
    // All graphs are under way.
    assert_eq!([host.together(last, on)?, host.together(last, on)?], [Told::Eagerly; 2]);
    stream.synchronize().unwrap();
    sets.iter().try_for_each(|set| host.judge(set))?;
    assert_eq!([host.together(last, on)?, host.together(last, on)?], [Told::Eagerly, Told::Replayed]);
    // The graph that was launched longest ago went.
    assert_eq!([host.together(&sets[1], on)?, host.together(&sets[0], on)?], [Told::Replayed, Told::Eagerly]);
    stream.synchronize().unwrap();
    sets.iter().try_for_each(|set| host.judge(set))
}

/// The parts are dropped while what they were told has not been done.
pub(super) fn parts_that_go_while_they_run(host: &mut Host) -> Result<(), IslandError> {
    let stream = host.stream();
    let set = host.set(1, 0)?;
    for told in [Told::Eagerly, Told::Replayed] {
        assert_eq!(host.together(&set, handle(&stream))?, told);
    }
    host.parts.clear();
    stream.synchronize().unwrap();
    host.judge(&set)
}

/// As often as may be, with all memory allocated before the first call.
pub(super) fn many_turns(host: &mut Host) -> Result<(), IslandError> {
    let streams: Vec<_> = (0..host.parts.len()).map(|_| host.stream()).collect();
    let set = host.set(1, 0)?;
    for _ in 0..3 {
        host.together(&set, handle(&streams[0]))?;
        host.threads(&set, &handles(&streams)).into_iter().collect::<Result<(), _>>()?;
    }
    finish(&streams);
    host.judge(&set)
}
