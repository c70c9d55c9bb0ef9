//! What a host does wrong, or what fails: it is told, by every rank that it concerns, and once it is mended all is right.

use super::host::{Handle, Host, Set};
use annulus::exec::cuda::ranks::{Call, CallError, IslandError, Part, Place, Told, enqueue_all};
use std::ffi::c_void;

/// What a call with such changes is refused for.
fn refused(host: &mut Host, set: &Set, change: impl Fn(&mut Vec<Call<'_>>)) -> String {
    let mut calls: Vec<Call<'_>> = set.ranks.iter().map(|memory| memory.call()).collect();
    change(&mut calls);
    let mut parts: Vec<&mut Part> = host.parts.iter_mut().collect();
    // SAFETY: it is refused, and nothing is read or written.
    let told = unsafe { enqueue_all(&mut parts, &calls, std::ptr::null_mut()) };
    told.unwrap_err().to_string()
}

/// What is wrong with a call is said by name, nothing of it is enqueued, and the next one is right.
pub(super) fn wrong_calls(host: &mut Host) -> Result<(), IslandError> {
    let set = host.set(1, 0)?;
    let (arena, out) = (host.parts[1].workspace_bytes(), set.ranks[1].call().out);
    assert!(arena > 0);
    let said = [
        (
            refused(host, &set, |c| c[0].arguments = &c[0].arguments[1..]),
            "rank 0: 2 arguments, and the island takes 3".into(),
        ),
        (refused(host, &set, |c| c[1].out = 0), "rank 1: out is null".into()),
        (refused(host, &set, |c| c[1].lse = 0), "rank 1: lse is null".into()),
        (refused(host, &set, |c| c[0].workspace = 0), "rank 0: the workspace is null".into()),
        (
            refused(host, &set, |c| c[1].out += 8),
            format!("rank 1: out lies at {:#x}, which is no multiple of 16", out + 8),
        ),
        (
            refused(host, &set, |c| c[1].workspace_bytes -= 1),
            format!("rank 1: a workspace of {} bytes, and {arena} are needed", arena - 1),
        ),
        (refused(host, &set, |c| c[1].out = u64::MAX - 15), {
            let bytes = host.parts[1].out_bytes();
            format!("rank 1: {bytes} bytes of out from {:#x} on leave what addresses count", u64::MAX - 15)
        }),
        (refused(host, &set, |c| c[0].lse = c[0].out), "rank 0: lse overlaps out of rank 0".into()),
        (
            refused(host, &set, |c| c[1].workspace = c[0].workspace),
            "rank 1: the workspace overlaps the workspace of rank 0".into(),
        ),
        (
            refused(host, &set, |c| c.truncate(1)),
            "1 ranks are handed over, and the island has 2, each with 3 arguments".into(),
        ),
    ];
    for (got, want) in said {
        assert_eq!(got, want);
    }
    host.parts.swap(0, 1);
    let why = refused(host, &set, |_| ());
    assert_eq!(why, "2 parts are handed over: wanted are all 2 of one island, each once, rank 0 first");
    host.parts.swap(0, 1);
    assert_eq!(host.together(&set, std::ptr::null_mut())?, Told::Eagerly);
    host.context.synchronize().unwrap();
    host.judge(&set)
}

/// After a failure everything is refused, until all begin anew; then it is right, from many threads and from one.
fn mended(host: &mut Host, set: &mut Set, why: &str) -> Result<(), IslandError> {
    let null = vec![Handle(std::ptr::null_mut()); set.ranks.len()];
    for told in host.threads(set, &null) {
        let Err(IslandError::GivenUp(said)) = told else { panic!("{told:?}") };
        assert!(said.contains(why), "{said}: {why}");
    }
    host.context.synchronize().unwrap();
    Part::restart(&mut host.parts.iter_mut().collect::<Vec<_>>())?;
    host.fill(set, 7)?;
    host.threads(set, &null).into_iter().collect::<Result<(), _>>()?;
    host.context.synchronize().unwrap();
    host.judge(set)?;
    host.fill(set, 9)?;
    host.together(set, std::ptr::null_mut())?;
    host.context.synchronize().unwrap();
    host.judge(set)
}

/// One rank is not called, or with a pointer that it cannot take: the others say which.
pub(super) fn a_rank_that_does_not_come(host: &mut Host) -> Result<(), IslandError> {
    let mut set = host.set(1, 0)?;
    let null: *mut c_void = std::ptr::null_mut();
    let mut call = set.ranks[0].call();
    // SAFETY: the memory is as large as the part says, and stays until the device is waited for.
    let alone = unsafe { host.parts[0].enqueue(&call, null) }.unwrap_err();
    let late = "waits for rank 1 to reach the same group, for 1s";
    assert!(matches!(&alone, IslandError::Walk(e) if e.rank == 0 && e.why == late), "{alone}");
    mended(host, &mut set, late)?;
    // The other rank is told at once, and does not wait for its deadline.
    call = set.ranks[1].call();
    call.out = 0;
    // SAFETY: it is refused.
    let wrong = unsafe { host.parts[1].enqueue(&call, null) }.unwrap_err();
    let null_out = CallError::Null(Place::Out);
    assert!(matches!(&wrong, IslandError::Call { rank: 1, why } if *why == null_out), "{wrong}");
    mended(host, &mut set, "rank 1: rank 1: out is null")
}

/// A call of the driver fails for one rank: it says so, the other one names it or was told all of its share before.
pub(super) fn a_rank_that_fails(host: &mut Host) -> Result<(), IslandError> {
    let mut set = host.set(1, 0)?;
    let told = host.threads(&set, &vec![Handle(std::ptr::null_mut()); set.ranks.len()]);
    let said: Vec<String> = told.into_iter().filter_map(|t| t.err().map(|e| e.to_string())).collect();
    assert!(!said.is_empty(), "nothing failed");
    let named = said.iter().filter(|why| why.contains("given up: rank")).count();
    assert!(named + 1 >= said.len(), "{said:?}");
    mended(host, &mut set, "rank")
}
