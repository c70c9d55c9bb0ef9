//! Device programs for GPUs, every launch by the kernel's own text on the C++ machine, against the CPU's engine.
//!
//! What is shown: the arguments that the lowering makes (addresses, strides, tables, pieces in several launches) are those that the
//! kernels want, bytes for bytes as they would be handed to a device.

use super::build::{Compiler, compiler};
use super::run::Script;
use crate::inside::exec::build::{Way, build};
use crate::inside::ring::case::{Case, LeafCase};
use crate::inside::ring::oracle;
use annulus::exec::walk::{Engine, Local, Marks, Pointer, Spread, run_local, walk_all};
use annulus::ir::{DType, Tensor};
use annulus::layout::{Layout, LayoutKind, Progression};
use annulus::lower::program::{
    Address, Addresses, Base, Kernel, KernelParams, Launch, Program, Target, Work, kernel_params, lower,
};
use annulus::lower::{
    Arch, CONTRACT, Element, Finish, Helper, KvPiece, Leaf, Merge, Pack, Params, QPiece, StepParams,
};
use annulus::mask::Mask;
use annulus::ring::Strategy as Plan;
use annulus::schedule::Schedule;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

/// Bytes of arguments, field by field.
#[derive(Default)]
struct Words(Vec<u8>);

impl Words {
    fn int(&mut self, x: i32) -> &mut Self {
        self.0.extend(x.to_le_bytes());
        self
    }

    fn ints(&mut self, all: &[i32]) -> &mut Self {
        for &x in all {
            self.int(x);
        }
        self
    }

    fn long(&mut self, x: i64) -> &mut Self {
        self.0.extend(x.to_le_bytes());
        self
    }

    fn at(&mut self, x: u64) -> &mut Self {
        self.long(x as i64)
    }

    fn float(&mut self, x: f32) -> &mut Self {
        self.int(x.to_bits() as i32)
    }

    fn leaf(&mut self, l: &Leaf) -> &mut Self {
        self.at(l.at).long(l.batch).long(l.head).long(l.row).long(l.key).ints(&[l.local_rows, 0])
    }

    fn query(&mut self, q: &QPiece) -> &mut Self {
        self.ints(&[q.rows.start, q.rows.step, q.rows.len, q.rows.local]);
        self.at(q.carry).at(q.q).at(q.out).at(q.lse).ints(&[q.q_rows, q.q_heads, q.out_rows, q.out_heads])
    }

    fn key(&mut self, k: &KvPiece) -> &mut Self {
        self.ints(&[k.rows.start, k.rows.step, k.rows.len, k.rows.local]);
        self.at(k.k).at(k.v).ints(&[k.head_rows, k.batch_heads])
    }

    fn usual(&mut self, p: &Params) -> &mut Self {
        self.at(p.counter).at(p.odd);
        for q in &p.q_piece {
            self.query(q);
        }
        for k in &p.kv_piece {
            self.key(k);
        }
        self.ints(&[p.q_pieces, p.kv_pieces, p.batch, p.q_heads, p.kv_heads, p.group, p.head_shift]);
        self.ints(&[p.dk, p.dv, p.tiles, p.head_group]);
        self.float(p.scale).float(p.softcap).float(p.fill).float(p.empty_row);
        self.ints(&[p.low, p.high, p.entry_rows]);
        self.at(p.shift).at(p.first_key).at(p.end_key).leaf(&p.bias).leaf(&p.mask).leaf(&p.sinks)
    }

    fn steps(&mut self, p: &StepParams) -> &mut Self {
        self.usual(&p.usual);
        for &x in &p.number {
            self.float(x);
        }
        for b in &p.band {
            self.ints(&[b.low, b.high]).at(b.first_key).at(b.end_key).long(b.entry_rows);
        }
        for l in &p.leaf {
            self.leaf(l);
        }
        self
    }

    fn of(params: &KernelParams) -> Vec<u8> {
        let mut w = Words::default();
        let size = match params {
            KernelParams::Usual(p) => {
                w.usual(p);
                size_of::<Params>()
            }
            KernelParams::Steps(p) => {
                w.steps(p);
                size_of::<StepParams>()
            }
            KernelParams::Merge(p) => {
                w.at(p.a).at(p.b).at(p.to).long(p.rows).ints(&[p.dv, 0]);
                size_of::<Merge>()
            }
            KernelParams::Finish(p) => {
                w.query(&p.piece).ints(&[p.batch, p.q_heads, p.dv]).float(p.empty_row).leaf(&p.sinks);
                size_of::<Finish>()
            }
            KernelParams::Pack(p) => {
                for c in &p.copy {
                    w.at(c.from).at(c.to).long(c.from_head).long(c.to_head).long(c.bytes);
                }
                w.ints(&[p.copies, p.heads]);
                size_of::<Pack>()
            }
        };
        assert_eq!(w.0.len(), size);
        w.0
    }
}

/// The program of a kernel on the machine.
fn machine(compiler: &Compiler, kernel: &Kernel) -> PathBuf {
    match kernel {
        Kernel::Cpu(_) => panic!("a kernel of the CPU"),
        Kernel::Attention(key) => compiler.program(key, None),
        Kernel::Helper(helper, work) => {
            let enter = match work {
                Work::Merge => "merge(*(const Merge*)params);",
                Work::Finish => "finish(*(const Finish*)params);",
                Work::Pack => "pack(*(const Pack*)params);",
                Work::Attention => panic!("no kernel around attention"),
            };
            let bf16 = matches!(helper, Helper::Cast { element: Element::Bf16, .. });
            compiler.link(&format!(
                "#include \"cuda.h\"
#include \"kernel.h\"
#undef INFINITY
{}{CONTRACT}{}
__attribute__((no_sanitize(\"thread\"))) static void enter(const void* params, const void*) {{
    {enter}
}}
const Kernel kernel{{1, 1, 256, 16, {bf16}, false, enter}};
",
                helper.prelude(),
                helper.body()
            ))
        }
    }
}

/// The memory of a rank: tables, arena, result, log-sum-exp, and from 4 on arguments.
struct Rank<'p> {
    program: &'p Program,
    buffers: Vec<Vec<u8>>,
    /// What the kernels write at once.
    units: Vec<usize>,
}

/// The machine as a device on which everything runs when it is issued.
#[derive(Clone)]
struct Machine<'p> {
    rank: usize,
    ranks: Rc<RefCell<Vec<Rank<'p>>>>,
}

#[derive(Clone, Copy)]
struct At {
    rank: usize,
    buffer: usize,
    byte: usize,
}

impl Pointer for At {
    fn plus(self, bytes: usize) -> At {
        At { byte: self.byte + bytes, ..self }
    }
}

const MULTIPROCESSORS: usize = 2;

fn place(program: &Program, at: Address) -> (usize, usize) {
    match at.base {
        Base::Arena => (1, at.offset),
        Base::Scratch(n) => (1, program.scratch[n].offset + at.offset),
        Base::Zeroed(n) => (1, program.zeroed[n].offset + at.offset),
        Base::Out => (2, at.offset),
        Base::Lse => (3, at.offset),
        Base::Argument(n) => (4 + n, at.offset),
    }
}

impl Engine for Machine<'_> {
    type Pointer = At;
    type Error = String;

    fn pointer(&self, at: Address) -> At {
        let (buffer, byte) = place(self.ranks.borrow()[self.rank].program, at);
        At { rank: self.rank, buffer, byte }
    }

    fn launch(&mut self, _: usize, _: usize, launch: &Launch) -> Result<(), String> {
        let mut ranks = self.ranks.borrow_mut();
        let rank = &mut ranks[self.rank];
        let program = rank.program;
        let address = |buffer: usize, byte: usize| 0x5a << 56 | (buffer as u64) << 48 | byte as u64;
        let of = |at: Address| {
            let (buffer, byte) = place(program, at);
            address(buffer, byte)
        };
        let params = kernel_params(program, launch, &Addresses { of: &of, tables: address(0, 0) });
        let bytes = Words::of(&params);
        let mut script = Script::default();
        for (i, (buffer, &unit)) in rank.buffers.iter().zip(&rank.units).enumerate() {
            script.buffer(&format!("b{i}"), buffer, unit);
            script.line(format!("region {i} b{i}"));
        }
        script.raw(&bytes, launch.grid.on(MULTIPROCESSORS));
        (1..4).for_each(|i| script.line(format!("dump b{i}")));
        let run = machine(compiler(), &program.kernels[launch.kernel]);
        let mut got = script.run(&run, &[1, 2])?;
        for buffer in &mut rank.buffers[1..4] {
            let rest = got.split_off(buffer.len());
            *buffer = std::mem::replace(&mut got, rest);
        }
        Ok(())
    }

    fn copy(&mut self, _: usize, copy: Spread<At>) -> Result<(), String> {
        let mut ranks = self.ranks.borrow_mut();
        for i in 0..copy.count {
            let (from, to) = (copy.from.plus(i * copy.from_stride), copy.to.plus(i * copy.to_stride));
            let bytes = ranks[from.rank].buffers[from.buffer][from.byte..from.byte + copy.bytes].to_vec();
            ranks[to.rank].buffers[to.buffer][to.byte..to.byte + copy.bytes].copy_from_slice(&bytes);
        }
        Ok(())
    }

    fn record(&mut self, _: usize, _: usize) -> Result<(), String> {
        Ok(())
    }

    fn wait(&mut self, _: usize, _: usize) -> Result<(), String> {
        Ok(())
    }

    fn query(&mut self, _: usize) -> Result<bool, String> {
        Ok(true)
    }
}

impl Marks for Machine<'_> {
    type Mark = ();

    fn mark(&mut self, _: usize) -> Result<(), String> {
        Ok(())
    }

    fn wait_mark(&mut self, _: usize, _: &()) -> Result<(), String> {
        Ok(())
    }
}

/// Runs the schedule's programs for an architecture on the machine, and holds them against the CPU's. Returns their text.
fn check(schedule: &Schedule, args: &[Vec<Tensor>], arch: Arch) -> String {
    let programs = lower(schedule, Target::Cuda(arch)).unwrap();
    let text: String = programs.iter().map(Program::to_string).collect();
    let dtype = schedule.attention.dtype;
    let rank = |(program, args): (&'static Program, &Vec<Tensor>)| {
        let tables = program.tables.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut arena = vec![0xff; program.arena_bytes];
        program.zeroed.iter().for_each(|r| arena[r.offset..r.offset + r.bytes].fill(0));
        let shared = &program.attention;
        let mut buffers = vec![tables, arena, vec![0xff; shared.out_bytes], vec![0xff; shared.lse_bytes]];
        buffers.extend(args.iter().map(Tensor::to_le_bytes));
        let mut units = vec![0; buffers.len()];
        units[1..4].copy_from_slice(&[1, dtype.bytes(), 4]);
        Rank { program, buffers, units }
    };
    let kept: &'static [Program] = Vec::leak(programs);
    let ranks: Vec<Rank<'static>> = kept.iter().zip(args).map(rank).collect();
    let ranks = Rc::new(RefCell::new(ranks));
    let mut engines: Vec<Machine<'static>> =
        (0..kept.len()).map(|rank| Machine { rank, ranks: ranks.clone() }).collect();
    walk_all(kept, &mut engines, &mut Local::ends(kept.len())).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let within = if dtype == DType::F32 { 2e-5 } else { 0.02 };
    let right = run_local(schedule, args, 3).unwrap();
    for (rank, (got, want)) in ranks.borrow().iter().zip(&right).enumerate() {
        for (which, want) in want.iter().enumerate() {
            let bytes = &got.buffers[2 + which];
            let got = Tensor::from_le_bytes(want.dtype(), want.shape(), bytes).unwrap().to_f64();
            for (i, (&g, &w)) in got.iter().zip(&want.to_f64()).enumerate() {
                let same = g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= within * (1.0 + w.abs());
                assert!(same, "rank {rank}, result {which}, number {i}: {g} is not {w}\n{schedule}\n{text}");
            }
        }
        // What kernels count with is as it was.
        for region in &got.program.zeroed {
            let zeroed = &got.buffers[1][region.offset..region.offset + region.bytes];
            assert!(zeroed.iter().all(|&b| b == 0), "rank {rank}: marks are left\n{text}");
        }
    }
    text
}

fn local(case: &Case, seed: u64) -> Vec<Vec<Tensor>> {
    let whole = oracle::arguments(case, seed);
    (0..case.ranks).map(|rank| oracle::local(case, &whole, rank)).collect()
}

/// Queries of two batch entries that see keys of their own travel, with a bias and sinks of single rows; what comes home is merged.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn queries_with_their_leaves() {
    let mut case = Case::travelling(2, LayoutKind::Zigzag);
    case.attention.scores =
        "factor 0.5 | add 3 | fill -inf unless batch(causal(0) ; keys(2,9))".parse().unwrap();
    case.attention.sinks = Some(4);
    case.sizes.batch = 2;
    let leaf = |shape: Vec<usize>| LeafCase { dtype: DType::F32, shape, by_query_rows: true };
    case.leaves = vec![leaf(vec![4, 10, 10]), leaf(vec![4, 10, 1])];
    let text = check(&case.schedule(Plan::Queries), &local(&case, 1), Arch::Sm80);
    assert!(
        text.contains("merge") && text.contains("finish f32, sinks f32") && text.contains("by 10 an entry"),
        "{text}"
    );
}

/// Heads that ranks do not divide, rows in many runs, which are packed and unpacked, and a mask with rows of odd length.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn heads_of_packed_rows() {
    let mask: Mask = "causal(0) & segments(4,7) & tensor(3)".parse().unwrap();
    let mut case = Case::new(11, 3, LayoutKind::Document, mask);
    (case.dtype, case.sizes.batch, case.sizes.q_heads, case.sizes.kv_heads) = (DType::BF16, 2, 4, 2);
    (case.sizes.head_dim, case.sizes.v_head_dim, case.attention.lse) = (8, 6, true);
    case.leaves = vec![LeafCase { dtype: DType::Bool, shape: vec![11, 11], by_query_rows: true }];
    let text = check(&case.schedule(Plan::Heads), &local(&case, 2), Arch::Sm80);
    assert!(text.contains("pack copies of") && text.contains("copies of 1"), "{text}");
}

/// A causal ring on Hopper, with the kernel behind that does the rows which are left.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn a_ring_on_hopper() {
    let mut case = Case::travelling(3, LayoutKind::Zigzag);
    (case.dtype, case.sizes.head_dim, case.sizes.v_head_dim) = (DType::BF16, 64, 64);
    let text = check(&case.schedule(Plan::Ring), &local(&case, 3), Arch::Sm90a);
    assert!(text.contains("hopper") && text.contains("odd zeroed+256"), "{text}");
}

/// More pieces than a kernel takes.
#[test]
#[cfg_attr(not(test_cxx), ignore = "there is no C++ compiler `c++`: set CXX")]
fn many_pieces() {
    let rows =
        |r: usize| -> Vec<Progression> { (0..9).map(|i| Progression::range(4 * i + 2 * r, 2)).collect() };
    let layout = Layout::given(36, vec![rows(0), rows(1)]).unwrap();
    let mut case = Case::new(36, 2, LayoutKind::Contiguous, Mask::none());
    case.attention.lse = true;
    let facts = case.schedule(Plan::Ring).attention;
    let schedule = build(&facts, &layout, &layout, Way::AllGather);
    let whole = oracle::arguments(&case, 5);
    let args: Vec<Vec<Tensor>> = (0..2)
        .map(|r| whole.iter().map(|x| x.rows(2, &layout.rows[r]).tensor(DType::F32)).collect())
        .collect();
    let text = check(&schedule, &args, Arch::Sm80);
    assert!(text.contains("carry scratch+0"), "{text}");
}
