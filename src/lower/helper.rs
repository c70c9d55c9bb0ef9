//! The kernels around `attn_partial`: merges of partials that arrive by themselves, packing, casts, and what takes the place of a link.

use super::element::Element;
use super::key::Operand;
use super::layout::{ParamLayout, assertions, layout};
use super::params::{Leaf, QPiece};
use super::text::{CONTRACT, PTX, PTX_TIME, TYPES};

/// Threads of a block.
pub(crate) const THREADS: usize = 256;
/// Runs of bytes in one launch of `pack`, at most.
pub(crate) const MAX_COPIES: usize = 16;

/// The argument of `merge`; meanings in `kernels/merge.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub(crate) struct Merge {
    pub a: u64,
    pub b: u64,
    pub to: u64,
    pub rows: i64,
    pub dv: i32,
}

/// One of the copies of `pack`; meanings in `kernels/pack.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub(crate) struct Copy {
    pub from: u64,
    pub to: u64,
    pub from_head: i64,
    pub to_head: i64,
    pub bytes: i64,
}

/// The argument of `pack`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub(crate) struct Pack {
    pub copy: [Copy; MAX_COPIES],
    pub copies: i32,
    pub heads: i32,
}

/// The argument of `finish`; meanings in `kernels/cast.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub(crate) struct Finish {
    pub piece: QPiece,
    pub batch: i32,
    pub q_heads: i32,
    pub dv: i32,
    pub empty_row: f32,
    pub sinks: Leaf,
}

/// The argument of `paced`; meanings in `kernels/paced.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub(crate) struct Paced {
    pub from: u64,
    pub to: u64,
    pub bytes: i64,
    pub nanoseconds: i64,
}

const MERGE: &[ParamLayout] = layout! { Merge { a, b, to, rows, dv } };
const PACK: &[ParamLayout] =
    layout! { Copy { from, to, from_head, to_head, bytes } Pack { copy, copies, heads } };
const PACED: &[ParamLayout] = layout! { Paced { from, to, bytes, nanoseconds } };
const FINISH: &[ParamLayout] = layout! { Finish { piece, batch, q_heads, dv, empty_row, sinks } };

/// One of them; each is a text of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Helper {
    /// `merge`: of two carries.
    Merge,
    /// `pack`: runs of rows from one layout to another, so many bytes (16, 8, 4, 2 or 1) at a time.
    Pack {
        /// Divides every address and length.
        copy: u8,
    },
    /// `cast_from_f32`, `cast_to_f32`, and `finish`: the end of a carry, which counts sinks of this type.
    Cast {
        /// The type beside f32.
        element: Element,
        /// Of the sinks.
        sinks: Operand,
    },
    /// `paced`: a copy that takes as long as a link would, for a rank that is played alone.
    Paced,
}

impl Helper {
    /// Every one that there is, in order.
    pub fn all() -> Vec<Helper> {
        let mut all = vec![Helper::Merge];
        all.extend([16, 8, 4, 2, 1].map(|copy| Helper::Pack { copy }));
        for element in [Element::Bf16, Element::F16, Element::F32] {
            let operands = [Operand::None, Operand::F32, Operand::Element];
            // One type, one name for it.
            let sinks = operands.into_iter().filter(|o| element != Element::F32 || *o != Operand::Element);
            all.extend(sinks.map(|sinks| Helper::Cast { element, sinks }));
        }
        all.push(Helper::Paced);
        all
    }

    /// The definitions that make the text this kernel's.
    pub fn prelude(self) -> String {
        let infinity = "#define INFINITY __int_as_float(0x7f800000)\n";
        let (element, numbers) = match self {
            Helper::Merge | Helper::Paced => (Element::F32, String::new()),
            Helper::Pack { copy } => (Element::F32, format!("#define COPY {copy}\n")),
            Helper::Cast { element, sinks } => (element, format!("#define SINKS {}\n", sinks as u8)),
        };
        format!(
            "{infinity}#define ELEMENT_BF16 {}\n#define ELEMENT_F32 {}\n#define POSITIONS 0\n{numbers}",
            u8::from(element == Element::Bf16),
            u8::from(element == Element::F32),
        )
    }

    /// The file with the entry points; it stands behind the contract.
    pub fn body(self) -> &'static str {
        match self {
            Helper::Merge => include_str!("../../kernels/merge.cuh"),
            Helper::Pack { .. } => include_str!("../../kernels/pack.cuh"),
            Helper::Cast { .. } => include_str!("../../kernels/cast.cuh"),
            Helper::Paced => include_str!("../../kernels/paced.cuh"),
        }
    }

    /// The whole text.
    pub fn text(self) -> String {
        let (layouts, time) = match self {
            Helper::Merge => (MERGE, ""),
            Helper::Pack { .. } => (PACK, ""),
            Helper::Cast { .. } => (FINISH, ""),
            Helper::Paced => (PACED, PTX_TIME),
        };
        [&self.prelude(), TYPES, PTX, time, CONTRACT, self.body(), &assertions(layouts)].concat()
    }

    /// The kernels' names in their module.
    pub fn entries(self) -> &'static [&'static str] {
        match self {
            Helper::Merge => &["merge"],
            Helper::Pack { .. } => &["pack"],
            Helper::Cast { .. } => &["cast_from_f32", "cast_to_f32", "finish"],
            Helper::Paced => &["paced"],
        }
    }
}
