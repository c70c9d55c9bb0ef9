//! The text of a kernel: a prelude of definitions made from the key, then the files of `kernels/`.
//!
//! The parts are handed out one by one, so that a test can put a C++ twin in the place of the instructions.

use super::key::{Arch, Element, Family, Fill, KernelKey};
use super::params::layout_checks;
use std::fmt::Write;

/// The basic types of all texts.
pub const TYPES: &str = include_str!("../../kernels/types.cuh");
/// What a kernel is handed, and the arithmetic of rows.
pub const CONTRACT: &str = include_str!("../../kernels/contract.cuh");
/// Instructions from sm_80 on.
pub const PTX: &str = include_str!("../../kernels/ptx.cuh");
/// Instructions of sm_90a.
pub const PTX_HOPPER: &str = include_str!("../../kernels/ptx_hopper.cuh");
/// `attn_partial` for sm_90a.
pub const HOPPER: &str = include_str!("../../kernels/hopper.cuh");

/// The whole text, in the order in which its parts use each other.
pub fn text(key: &KernelKey) -> String {
    [&prelude(key), TYPES, PTX, PTX_HOPPER, CONTRACT, &wgmma(key), body(key), &checks(key)].concat()
}

/// The definitions that make the text this kernel's.
pub fn prelude(key: &KernelKey) -> String {
    let (producer, consumer) = key.tiling.registers();
    let mut out = String::from("#define FILL_NEG_INF 0\n#define FILL_REPLACE 1\n#define FILL_ADD 2\n");
    out.push_str("#define INFINITY __int_as_float(0x7f800000)\n#define NAN __int_as_float(0x7fffffff)\n");
    let fill = match key.fill {
        Fill::NegInf => 0,
        Fill::Replace => 1,
        Fill::Add => 2,
    };
    let numbers = [
        ("ELEMENT_BF16", usize::from(key.element == Element::Bf16)),
        ("DK", key.dk.into()),
        ("DV", key.dv.into()),
        ("WGS", key.tiling.warpgroups.into()),
        ("BN", key.tiling.keys.into()),
        ("PINGPONG", key.tiling.turns.into()),
        ("Q_SLOTS", key.tiling.q_slots.into()),
        ("EXP2_BY_FMA", key.tiling.exp2_by_fma.into()),
        ("POSITIONS", key.positions.into()),
        ("SOFTCAP", key.softcap.into()),
        ("CARRY_IN", key.carry_in.into()),
        ("CAST_OUT", key.cast_out.into()),
        ("SINKS", key.sinks.into()),
        ("FILL", fill),
        ("PRODUCER_REGISTERS", producer),
        ("CONSUMER_REGISTERS", consumer),
    ];
    for (name, value) in numbers {
        let _ = writeln!(out, "#define {name} {value}");
    }
    out
}

/// The file with the entry point.
pub fn body(key: &KernelKey) -> &'static str {
    match key.family {
        Family::Hopper => HOPPER,
    }
}

/// What the text and Rust must agree on, as assertions of the compiler.
pub fn checks(key: &KernelKey) -> String {
    let mut out = layout_checks();
    let _ = writeln!(
        out,
        "static_assert(BARRIERS_AT + sizeof(Barriers) <= {}, \"shared memory\");",
        key.shared_bytes()
    );
    out
}

/// `Wgmma<N>` for the widths of the key: products of a warpgroup, 64 rows by N columns, 16 deep. Instructions of this shape name
/// every register, so C++ cannot write them for all N.
pub fn wgmma(key: &KernelKey) -> String {
    let element = match key.element {
        Element::F16 => "f16",
        Element::Bf16 => "bf16",
    };
    let mut widths = vec![key.tiling.keys, key.dv];
    widths.sort_unstable();
    widths.dedup();
    let mut out = String::from("template <int N> struct Wgmma;\n");
    for n in widths {
        let count = usize::from(n) / 2;
        let list = |each: &dyn Fn(usize) -> String| (0..count).map(each).collect::<Vec<_>>().join(", ");
        let (sum, registers) = (list(&|i| format!("\"+f\"(d[{i}])")), list(&|i| format!("%{i}")));
        let name = format!("wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{element}.{element} {{{registers}}}");
        let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|i| count + i);
        let _ = write!(
            out,
            "template <> struct Wgmma<{n}> {{
__device__ static inline void from_shared(float (&d)[{count}], u64 a, u64 b, int add) {{
asm volatile(\"{{\\n.reg .pred p;\\nsetp.ne.b32 p, %{c}, 0;\\n{name}, %{a}, %{b}, p, 1, 1, 0, 0;\\n}}\\n\"
: {sum} : \"l\"(a), \"l\"(b), \"r\"(add));
}}
__device__ static inline void from_registers(float (&d)[{count}], const u32 (&a)[4], u64 b) {{
asm volatile(\"{name}, {{%{a}, %{b}, %{c}, %{d}}}, %{e}, 1, 1, 1, 1;\\n\"
: {sum} : \"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"l\"(b));
}}
}};
"
        );
    }
    out
}

/// The compiler's options, from a fixed list.
pub fn options(arch: Arch) -> Vec<String> {
    let fixed = ["--std=c++17", "--ptxas-options=-v", "--ptxas-options=-warn-lmem-usage"];
    let arch = format!("--gpu-architecture={}", arch.name());
    std::iter::once(arch).chain(fixed.map(String::from)).collect()
}
