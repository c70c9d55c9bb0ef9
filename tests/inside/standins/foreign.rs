//! Communicators of a host, for a group inside of a larger mesh: the ranks of a program are some of a communicator's, in another order.

// The calls take raw pointers and handles.
#![allow(unsafe_code)]

use super::builder::build::{on_standins, standins};
use super::islands::{case, handed};
use crate::inside::ring::oracle::{arguments, attention, differs};
use annulus::exec::cuda::Gpu;
use annulus::exec::cuda::nccl::Communicator;
use annulus::exec::cuda::ranks::{Call, Kernels, Part, RunOptions, enqueue_all};
use annulus::ir::{DType, Tensor};
use annulus::layout::LayoutKind;
use annulus::ring::Strategy;
use libloading::os::unix::Library;
use std::ffi::{c_int, c_void};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The process's rank in the communicator of four.
const INSIDE: &str = "ANNULUS_TEST_FOREIGN";
/// Which ranks of it are those of the program.
const RANKS: [usize; 3] = [3, 1, 0];

#[repr(C)]
#[derive(Clone, Copy)]
struct Id([u8; 128]);

type Init = unsafe extern "C" fn(*mut *mut c_void, c_int, Id, c_int) -> c_int;

fn library() -> Library {
    // SAFETY: what runs when the stand-in is loaded asks nothing of the process.
    unsafe { Library::new(standins().join("libnccl.so.2")) }.unwrap()
}

/// A blocking communicator, as a host makes it; rank 0 prints its name, the others read it.
fn hosts(library: &Library, rank: usize) -> *mut c_void {
    let mut id = Id([0; 128]);
    if rank == 0 {
        // SAFETY: NCCL declares it so.
        let make =
            unsafe { library.get::<unsafe extern "C" fn(*mut Id) -> c_int>(b"ncclGetUniqueId\0") }.unwrap();
        // SAFETY: the pointer is to what lives.
        assert_eq!(unsafe { make(&mut id) }, 0);
        println!("id {}", id.0.map(|b| format!("{b:02x}")).concat());
        std::io::stdout().flush().unwrap();
    } else {
        let mut text = String::new();
        std::io::stdin().read_line(&mut text).unwrap();
        for (i, byte) in id.0.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap();
        }
    }
    // SAFETY: NCCL declares it so.
    let init = unsafe { library.get::<Init>(b"ncclCommInitRank\0") }.unwrap();
    let mut handle = std::ptr::null_mut();
    // SAFETY: the pointer is to what lives.
    assert_eq!(unsafe { init(&mut handle, 4, id, rank as c_int) }, 0);
    handle
}

#[test]
#[ignore = "another test runs it, as ranks"]
fn a_rank_of_a_host() {
    let Ok(rank) = std::env::var(INSIDE) else { return };
    let rank: usize = rank.parse().unwrap();
    let gpu = Gpu::open(0).unwrap();
    let library = library();
    let handle = hosts(&library, rank);
    // SAFETY: the communicator lives until the process ends.
    let of = |handle, ranks: &[usize]| unsafe { Communicator::of_host(&gpu, handle, ranks) };
    if rank == 2 {
        let why = of(handle, &RANKS).unwrap_err().to_string();
        println!("right: {why}");
    } else {
        let wrong =
            [&[0, 1, 3, 4][..], &[0, 1, 1, 3], &[2]].map(|ranks| of(handle, ranks).unwrap_err().to_string());
        assert!(wrong[0].contains("has 4 ranks") && wrong[1].contains("names one twice"), "{wrong:?}");
        assert!(wrong[2].contains("which is none of [2]"), "{wrong:?}");
        assert!(of(std::ptr::null_mut(), &RANKS).unwrap_err().to_string().contains("is null"));
        let communicator = of(handle, &RANKS).unwrap();
        let own = communicator.rank();
        assert_eq!((RANKS[own], communicator.size()), (rank, 3));
        attend(&gpu, communicator, own);
        println!("right: rank {own}");
    }
    std::io::stdout().flush().unwrap();
    // A process that ends while others still ask would be an error of theirs.
    std::io::stdin().read_to_string(&mut String::new()).unwrap();
}

/// The attention of the rank, twice eagerly and once of a graph.
fn attend(gpu: &Gpu, communicator: Communicator, own: usize) {
    let case = case(3, 1, LayoutKind::Zigzag);
    let options = RunOptions { cache: None, graph: true, patience: Duration::from_secs(30) };
    let schedule = case.schedule(Strategy::Ring);
    let mut part =
        Part::over_communicators(gpu, &mut Kernels::new(), &schedule, vec![communicator], options).unwrap();
    assert_eq!((part.rank(), part.ranks()), (own, 3));
    for seed in 1..=3 {
        let given: Vec<_> = handed(&case, seed)[own].iter().map(|bytes| gpu.upload(bytes).unwrap()).collect();
        let at: Vec<u64> = given.iter().map(|b| b.address()).collect();
        let [out, lse, workspace] = [part.out_bytes(), part.lse_bytes(), part.workspace_bytes()]
            .map(|bytes| gpu.filled(bytes.max(1), 0xa5).unwrap());
        gpu.finish().unwrap();
        let call = Call {
            arguments: &at,
            out: out.address(),
            lse: lse.address(),
            workspace: workspace.address(),
            workspace_bytes: part.workspace_bytes(),
        };
        let null = std::ptr::null_mut();
        for _ in 0..2 {
            match seed {
                // SAFETY: as many bytes lie there as the part says, until they are done.
                1 => unsafe { part.enqueue(&call, null) }.unwrap(),
                // SAFETY: the same.
                _ => drop(unsafe { enqueue_all(&mut [&mut part], &[call], null) }.unwrap()),
            }
        }
        // SAFETY: the default stream is always there.
        unsafe { cudarc::driver::result::stream::synchronize(null.cast()) }.unwrap();
        part.well().unwrap();
        let s = &case.sizes;
        let rows = case.q_rows()[own].iter().map(|p| p.len).sum::<usize>();
        let [out, lse] = [&out, &lse].map(|buffer| gpu.download(buffer).unwrap());
        let results = [
            Tensor::from_le_bytes(case.dtype, [s.batch, s.q_heads, rows, s.v_head_dim], &out).unwrap(),
            Tensor::from_le_bytes(DType::F32, [s.batch, s.q_heads, rows], &lse).unwrap(),
        ];
        let wrong = differs(&case, own, &attention(&case, &arguments(&case, seed)), &results, 2e-5);
        assert!(wrong.is_none(), "{wrong:?}");
    }
}

#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn a_group_inside_of_a_communicator_of_the_host() {
    let start = |rank: usize| {
        let mut program = Command::new(std::env::current_exe().unwrap());
        program.args(["--exact", "inside::standins::foreign::a_rank_of_a_host", "--ignored", "--nocapture"]);
        on_standins(&mut program, rank as u64 + 1).env(INSIDE, rank.to_string()).env("RUST_BACKTRACE", "0");
        program.env("NCCL_MULTI_RANK_GPU_ENABLE", "1").env("ANNULUS_STANDINS_QUICK", "1");
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    // What one says from the word on, up to the end of its line.
    let until = |child: &mut Child, word: &str| {
        let (mut said, mut byte) = (String::new(), [0]);
        while !(said.contains(word) && said.ends_with('\n'))
            && child.stdout.as_mut().unwrap().read(&mut byte).unwrap() == 1
        {
            said.push(char::from(byte[0]));
        }
        let line = said.lines().find_map(|line| line.find(word).map(|at| line[at..].to_owned()));
        line.unwrap_or_else(|| format!("not a word of {word}: {said}"))
    };
    let mut all = vec![start(0)];
    let id = until(&mut all[0], "id ");
    all.extend((1..4).map(start));
    for other in &mut all[1..] {
        writeln!(other.stdin.as_mut().unwrap(), "{}", &id[3..]).unwrap();
    }
    let said: Vec<String> = all.iter_mut().map(|child| until(child, "right: ")).collect();
    for child in all {
        // Its input ends.
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{said:?} {}", String::from_utf8_lossy(&done.stderr));
    }
    assert!(said[2].contains("has this process as rank 2, which is none of [3, 1, 0]"), "{said:?}");
    assert_eq!([&said[3], &said[1], &said[0]], ["right: rank 0", "right: rank 1", "right: rank 2"]);
}
