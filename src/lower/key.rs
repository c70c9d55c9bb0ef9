//! What a kernel is made from: integers and enums, nothing else.

use super::arch::Arch;
use super::element::Element;
use super::steps::{MaskedScore, Steps};
use super::tile::{
    HopperTiling, LONG, LONG_FROM, PortableTiling, head_class, hopper_tiling, portable_tiling,
};
use std::fmt;

/// One kernel `attn_partial`. Equal keys give equal text; nothing of a model but these facts reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelKey {
    /// Which text it is made from, and how it cuts its work.
    pub tiling: Tiling,
    /// Type of q, k, v and the output.
    pub element: Element,
    /// Head size of q and k as the kernel sees it: what is beyond the true one is zeros.
    pub dk: u16,
    /// The same of v and the output.
    pub dv: u16,
    /// Bytes of one copy from global memory: a power of two that divides the rows of q, k, v and out.
    pub copy: u8,
    /// Whether some pair of rows is masked by position; a step whose tile is Full has none.
    pub positions: bool,
    /// Whether there is a boolean mask.
    pub mask: bool,
    /// Whether a bias is added to the scores.
    pub bias: Operand,
    /// What a masked score becomes.
    pub fill: MaskedScore,
    /// Whether scores go through cap·tanh(score/cap).
    pub softcap: bool,
    /// Whether it goes on from a carry.
    pub carry_in: bool,
    /// Whether it divides, casts and writes the output; else it writes the carry.
    pub cast_out: bool,
    /// Whether it counts the sinks; only with `cast_out`.
    pub sinks: Operand,
    /// The steps of a score program beyond the usual order; then mask, bias, fill and softcap say nothing.
    pub steps: Steps,
}

/// The texts in `kernels/` that make `attn_partial`, with the cut of their work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tiling {
    /// For sm_90a: copy engine, products of warpgroups.
    Hopper(HopperTiling),
    /// For sm_80 and later.
    Portable(PortableTiling),
}

/// A tensor beyond q, k and v.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operand {
    /// There is none.
    None,
    /// In f32.
    F32,
    /// In the type of q.
    Element,
}

impl fmt::Display for KernelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let element = self.element.name();
        match self.tiling {
            Tiling::Hopper(t) => {
                write!(f, "hopper {}x64x{}", t.warpgroups, t.keys)?;
                let turns = if t.turns { "turns" } else { "no turns" };
                write!(f, " q{} values{} {turns}", t.q_slots, t.values_ahead)?;
            }
            Tiling::Portable(t) => {
                write!(f, "portable {}x{}x{}", t.warps, t.row_tiles(self.tight()), t.keys)?;
                write!(f, " {} a multiprocessor, copies of {}", t.blocks, self.copy)?;
            }
        }
        write!(f, ", {element} {}/{}", self.dk, self.dv)?;
        let operand = |name: &str, o: Operand| match o {
            Operand::None => String::new(),
            Operand::F32 => format!("{name} f32"),
            Operand::Element => format!("{name} as q"),
        };
        let flag = |name: &str, set: bool| if set { name.into() } else { String::new() };
        let fill = match self.fill {
            MaskedScore::NegInf => "",
            MaskedScore::Replace => "replaced",
            MaskedScore::Add => "added",
        };
        let parts = [
            flag("positions", self.positions),
            flag("mask", self.mask),
            operand("bias", self.bias),
            fill.into(),
            flag("softcap", self.softcap),
            flag("carry in", self.carry_in),
            flag("carry out", !self.cast_out),
            operand("sinks", self.sinks),
            if self.steps.is_empty() { String::new() } else { format!("steps {}", self.steps) },
        ];
        parts.iter().filter(|p| !p.is_empty()).try_for_each(|part| write!(f, ", {part}"))
    }
}

impl KernelKey {
    /// The plain Hopper kernel for these head sizes: no carry, no sinks. `None` if there is none.
    pub fn hopper(element: Element, dk: usize, dv: usize, positions: bool) -> Option<KernelKey> {
        if element == Element::F32 || !dk.is_multiple_of(8) || !dv.is_multiple_of(8) {
            return None;
        }
        let (dk, dv) = head_class(&super::tile::HOPPER_HEADS, dk, dv)?;
        Some(KernelKey::plain(Tiling::Hopper(hopper_tiling(dk, dv)), element, (dk, dv), 16, positions))
    }

    /// The plain portable kernel for these head sizes on this architecture. `None` if a head is too large.
    pub fn portable(
        element: Element,
        dk: usize,
        dv: usize,
        positions: bool,
        arch: Arch,
    ) -> Option<KernelKey> {
        let rows = [dk, dv].map(|d| d * element.bytes());
        let copy = [16, 4, 2].into_iter().find(|c| rows.iter().all(|r| r % usize::from(*c) == 0))?;
        let classes = match element {
            Element::F32 => super::tile::F32_HEADS.as_slice(),
            Element::F16 | Element::Bf16 => super::tile::PORTABLE_HEADS.as_slice(),
        };
        let (dk, dv) = head_class(classes, dk, dv)?;
        let tiling = portable_tiling(element, dk, dv, positions, arch)?;
        Some(KernelKey::plain(Tiling::Portable(tiling), element, (dk, dv), copy, positions))
    }

    /// The kernel to launch behind this one, with the same arguments: it does the rows that this one leaves because a hidden
    /// key's value may be infinite or NaN. `None` if this one leaves none.
    pub fn redo(&self, arch: Arch) -> Option<KernelKey> {
        if !self.positions || !matches!(self.tiling, Tiling::Hopper(_)) {
            return None;
        }
        let plain = KernelKey::portable(self.element, self.dk.into(), self.dv.into(), true, arch)?;
        Some(KernelKey {
            softcap: self.softcap,
            carry_in: self.carry_in,
            cast_out: self.cast_out,
            sinks: self.sinks,
            steps: self.steps,
            ..plain
        })
    }

    /// The same kernel in the cut that is best for so many key rows a launch.
    #[must_use]
    pub fn for_keys(self, rows: usize) -> KernelKey {
        // The softcap's intermediate numbers, or those of steps, would not fit the registers beside 176 scores.
        let tight = self.softcap || !self.steps.is_empty();
        let heads = (self.dk, self.dv) == (128, 128) && !tight;
        match self.tiling {
            Tiling::Hopper(_) if heads && rows >= LONG_FROM => {
                KernelKey { tiling: Tiling::Hopper(LONG), ..self }
            }
            // Nor beside 128 in 160 registers.
            Tiling::Hopper(t) if tight && t.warpgroups == 3 => {
                KernelKey { tiling: Tiling::Hopper(HopperTiling { warpgroups: 2, ..t }), ..self }
            }
            _ => self,
        }
    }

    fn plain(tiling: Tiling, element: Element, (dk, dv): (u16, u16), copy: u8, positions: bool) -> KernelKey {
        KernelKey {
            tiling,
            element,
            dk,
            dv,
            copy,
            positions,
            mask: false,
            bias: Operand::None,
            fill: MaskedScore::NegInf,
            softcap: false,
            carry_in: false,
            cast_out: true,
            sinks: Operand::None,
            steps: Steps::default(),
        }
    }

    /// Whether there is such a kernel.
    pub fn exists(&self) -> bool {
        let sinks = self.sinks == Operand::None || self.cast_out;
        let fill = self.fill == MaskedScore::NegInf || self.positions || self.mask;
        let unused =
            !self.mask && self.bias == Operand::None && self.fill == MaskedScore::NegInf && !self.softcap;
        let steps = self.steps.is_empty() || (unused && self.steps.exist(self.element));
        let family = match self.tiling {
            Tiling::Hopper(_) => {
                let plain = !self.mask && self.bias == Operand::None && self.fill == MaskedScore::NegInf;
                let steps = !self.steps.read() && (self.positions || self.steps.is_empty());
                plain
                    && steps
                    && self.element != Element::F32
                    && self.copy == 16
                    && self.sinks != Operand::Element
            }
            // One type, one name for it.
            Tiling::Portable(_) if self.element == Element::F32 => {
                self.bias != Operand::Element && self.sinks != Operand::Element && self.copy >= 4
            }
            Tiling::Portable(_) => true,
        };
        sinks && fill && steps && family
    }

    /// The kernel's name in its module.
    pub fn entry(&self) -> &'static str {
        "attn_partial"
    }

    /// Whether a portable kernel needs the registers of a second tile of rows for its masks, its bias, steps that read such, or its
    /// narrow copies, or, beside fragments of long rows of q and k, for the softcap's intermediate numbers.
    pub(super) fn tight(&self) -> bool {
        self.steps.read()
            || self.mask
            || self.bias != Operand::None
            || self.copy < 16
            || (self.softcap && self.dk > 128)
    }

    /// Query rows of a unit of work.
    pub fn rows(&self) -> usize {
        match self.tiling {
            Tiling::Hopper(t) => t.rows(),
            Tiling::Portable(t) => t.rows(self.element, self.tight()),
        }
    }

    /// Key rows of a block.
    pub fn keys(&self) -> usize {
        match self.tiling {
            Tiling::Hopper(t) => t.keys.into(),
            Tiling::Portable(t) => t.keys.into(),
        }
    }

    /// Threads of a block.
    pub fn threads(&self) -> usize {
        match self.tiling {
            // A producer beside those that multiply.
            Tiling::Hopper(t) => (usize::from(t.warpgroups) + 1) * 128,
            Tiling::Portable(t) => usize::from(t.warps) * 32,
        }
    }

    /// Dynamic shared memory of a block in bytes.
    pub fn shared_bytes(&self) -> usize {
        match self.tiling {
            Tiling::Hopper(t) => t.shared_bytes(self.dk, self.dv),
            Tiling::Portable(t) => {
                t.shared_bytes(self.element, self.dk, self.dv, self.positions, self.tight())
            }
        }
    }
}
