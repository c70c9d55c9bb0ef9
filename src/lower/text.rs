//! The text of a kernel: a prelude of definitions made from the key, then the files of `kernels/`.
//!
//! The parts are handed out one by one, so that a test can put a C++ twin in the place of the instructions.

use super::arch::Arch;
use super::element::Element;
use super::key::{KernelKey, Operand, Tiling};
use super::params::layout_checks;
use super::steps::MaskedScore;
use super::steps::{StepKind, Steps};
use std::fmt::Write;

/// The basic types of all texts.
pub(crate) const TYPES: &str = include_str!("../../kernels/types.cuh");
/// Instructions from sm_80 on.
pub(crate) const PTX: &str = include_str!("../../kernels/ptx.cuh");
/// Instructions of sm_90a.
pub(crate) const PTX_HOPPER: &str = include_str!("../../kernels/ptx_hopper.cuh");
/// What a kernel is handed, and the arithmetic of rows.
pub(crate) const CONTRACT: &str = include_str!("../../kernels/contract.cuh");
/// The instructions of steps.
pub(crate) const PTX_STEPS: &str = include_str!("../../kernels/ptx_steps.cuh");
/// The instructions of time.
pub(crate) const PTX_TIME: &str = include_str!("../../kernels/ptx_time.cuh");
/// What kernels with steps are handed besides.
pub(crate) const STEP_PARAMS: &str = include_str!("../../kernels/step_params.cuh");
const STEPS: &str = include_str!("../../kernels/steps.cuh");
const SOFTMAX: &str = include_str!("../../kernels/softmax.cuh");
const PLAN: &str = include_str!("../../kernels/plan.cuh");
// Each kernel in three parts, of which the middle one gives the scores their bias and masks, or runs the steps.
const HOPPER: [&str; 2] =
    [include_str!("../../kernels/hopper.cuh"), include_str!("../../kernels/hopper_kernel.cuh")];
const HOPPER_MASKS: &str = include_str!("../../kernels/hopper_masks.cuh");
const HOPPER_STEPS: &str = include_str!("../../kernels/hopper_steps.cuh");
const PORTABLE: [&str; 2] =
    [include_str!("../../kernels/portable.cuh"), include_str!("../../kernels/portable_kernel.cuh")];
const PORTABLE_MASKS: &str = include_str!("../../kernels/portable_masks.cuh");
const PORTABLE_STEPS: &str = include_str!("../../kernels/portable_steps.cuh");
const PORTABLE_F32: [&str; 2] =
    [include_str!("../../kernels/portable_f32.cuh"), include_str!("../../kernels/portable_f32_kernel.cuh")];
const PORTABLE_F32_MASKS: &str = include_str!("../../kernels/portable_f32_masks.cuh");
const PORTABLE_F32_STEPS: &str = include_str!("../../kernels/portable_f32_steps.cuh");

/// The whole text, in the order in which its parts use each other.
pub fn text(key: &KernelKey) -> String {
    let hopper = match key.tiling {
        Tiling::Hopper(_) => [PTX_HOPPER, &wgmma(key)].concat(),
        Tiling::Portable(_) => String::new(),
    };
    let steps = if key.steps.is_empty() { "" } else { PTX_STEPS };
    [&prelude(key), TYPES, PTX, steps, &hopper, CONTRACT, &body(key), &checks(key)].concat()
}

/// The definitions that make the text this kernel's.
pub(crate) fn prelude(key: &KernelKey) -> String {
    let operand = |o: Operand| match o {
        Operand::None => 0,
        Operand::F32 => 1,
        Operand::Element => 2,
    };
    let fill = match key.fill {
        MaskedScore::NegInf => 0,
        MaskedScore::Replace => 1,
        MaskedScore::Add => 2,
    };
    let mut numbers: Vec<(&str, usize)> = vec![
        ("FILL_NEG_INF", 0),
        ("FILL_REPLACE", 1),
        ("FILL_ADD", 2),
        ("ELEMENT_BF16", usize::from(key.element == Element::Bf16)),
        ("ELEMENT_F32", usize::from(key.element == Element::F32)),
        ("DK", key.dk.into()),
        ("DV", key.dv.into()),
        ("BN", key.keys()),
        ("POSITIONS", key.positions.into()),
        ("MASK", key.mask.into()),
        // With steps every score is looked at, as with a bias.
        ("BIAS", if key.steps.is_empty() { operand(key.bias) } else { 1 }),
        ("FILL", fill),
        ("SOFTCAP", key.softcap.into()),
        ("CARRY_IN", key.carry_in.into()),
        ("CAST_OUT", key.cast_out.into()),
        ("SINKS", operand(key.sinks)),
    ];
    match key.tiling {
        Tiling::Hopper(t) => {
            let (producer, consumer) = t.registers();
            numbers.extend([
                ("WGS", t.warpgroups.into()),
                ("PINGPONG", t.turns.into()),
                ("Q_SLOTS", t.q_slots.into()),
                ("VALUES_AHEAD", t.values_ahead.into()),
                ("COPY", key.copy.into()),
                ("PRODUCER_REGISTERS", producer),
                ("CONSUMER_REGISTERS", consumer),
            ]);
        }
        Tiling::Portable(t) => numbers.extend([
            ("COPY", key.copy.into()),
            ("WARPS", t.warps.into()),
            ("ROW_TILES", t.row_tiles(key.tight()).into()),
            ("BLOCKS_PER_SM", t.blocks.into()),
        ]),
    }
    let mut out =
        String::from("#define INFINITY __int_as_float(0x7f800000)\n#define NAN __int_as_float(0x7fffffff)\n");
    for (name, value) in numbers {
        let _ = writeln!(out, "#define {name} {value}");
    }
    if !key.steps.is_empty() {
        out += &steps(&key.steps);
    }
    out
}

/// The kinds of steps, by their names in `kernels/steps.cuh`.
const STEP_KINDS: [&str; 11] = [
    "STEP_FACTOR",
    "STEP_FACTOR_F32",
    "STEP_FACTOR_ELEMENT",
    "STEP_SOFTCAP",
    "STEP_ADD_F32",
    "STEP_ADD_ELEMENT",
    "STEP_FILL_NEG_INF",
    "STEP_FILL_REPLACE",
    "STEP_FILL_ADD",
    "STEP_ROUND_F16",
    "STEP_ROUND_BF16",
];

/// The definitions that say what the steps are.
fn steps(steps: &Steps) -> String {
    let mut out = String::from("#define Params UsualParams\n");
    for (i, name) in STEP_KINDS.iter().enumerate() {
        let _ = writeln!(out, "#define {name} {i}");
    }
    let name = |kind: StepKind| match kind {
        StepKind::Factor => "STEP_FACTOR",
        StepKind::FactorLeaf(Element::F32) => "STEP_FACTOR_F32",
        StepKind::FactorLeaf(_) => "STEP_FACTOR_ELEMENT",
        StepKind::Softcap => "STEP_SOFTCAP",
        StepKind::Add(Element::F32) => "STEP_ADD_F32",
        StepKind::Add(_) => "STEP_ADD_ELEMENT",
        StepKind::Fill { score: MaskedScore::NegInf, .. } => "STEP_FILL_NEG_INF",
        StepKind::Fill { score: MaskedScore::Replace, .. } => "STEP_FILL_REPLACE",
        StepKind::Fill { score: MaskedScore::Add, .. } => "STEP_FILL_ADD",
        StepKind::Round(Element::Bf16) => "STEP_ROUND_BF16",
        StepKind::Round(_) => "STEP_ROUND_F16",
    };
    let parts = |kind: StepKind| match kind {
        StepKind::Fill { positions, masks, .. } => (u8::from(positions), masks),
        _ => (0, 0),
    };
    let list = |each: &dyn Fn(StepKind) -> String| steps.iter().map(each).collect::<Vec<_>>().join(", ");
    let _ = writeln!(out, "#define STEPS {}", steps.len());
    let _ = writeln!(out, "#define STEP_KINDS {}", list(&|k| name(k).into()));
    let _ = writeln!(out, "#define STEP_POSITIONS {}", list(&|k| parts(k).0.to_string()));
    let _ = writeln!(out, "#define STEP_MASKS {}", list(&|k| parts(k).1.to_string()));
    out
}

/// The files behind the contract; the last holds the entry point.
pub(crate) fn body(key: &KernelKey) -> String {
    let plain = key.steps.is_empty();
    let around =
        |[first, last]: [&str; 2], masks, steps| [first, if plain { masks } else { steps }, last].concat();
    let kernel = match (key.tiling, key.element) {
        (Tiling::Hopper(_), _) => SOFTMAX.to_owned() + &around(HOPPER, HOPPER_MASKS, HOPPER_STEPS),
        (Tiling::Portable(_), Element::F32) => {
            PLAN.to_owned() + &around(PORTABLE_F32, PORTABLE_F32_MASKS, PORTABLE_F32_STEPS)
        }
        (Tiling::Portable(_), _) => {
            [SOFTMAX, PLAN, &around(PORTABLE, PORTABLE_MASKS, PORTABLE_STEPS)].concat()
        }
    };
    if plain { kernel } else { [STEP_PARAMS, STEPS, &kernel].concat() }
}

/// What the text and Rust must agree on, as assertions of the compiler.
fn checks(key: &KernelKey) -> String {
    let used = match key.tiling {
        Tiling::Hopper(_) => "BARRIERS_AT + sizeof(Barriers) <=",
        Tiling::Portable(_) => "SHARED_BYTES ==",
    };
    let shared = format!("static_assert({used} {}, \"shared memory\");\n", key.shared_bytes());
    layout_checks(!key.steps.is_empty())
        + &shared
        + &format!("static_assert(BM == {}, \"rows\");\n", key.rows())
}

/// `Wgmma<N>` for the widths of the key: products of a warpgroup, 64 rows by N columns, 16 deep. Instructions of this shape name
/// every register, so C++ cannot write them for all N.
fn wgmma(key: &KernelKey) -> String {
    let element = match key.element {
        Element::F16 => "f16",
        _ => "bf16",
    };
    let mut widths = vec![key.keys(), usize::from(key.dv)];
    widths.sort_unstable();
    widths.dedup();
    let mut out = String::from("template <int N> struct Wgmma;\n");
    for n in widths {
        let count = n / 2;
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
