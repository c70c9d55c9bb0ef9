//! The kernels around `attn_partial`: merges of partials that arrive by themselves, packing, casts.

use super::key::{Element, Operand};
use super::text::{CONTRACT, PTX, TYPES};

/// One of them; each is a text of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Helper {
    /// `merge`: of two carries.
    Merge,
    /// `pack`: runs of rows from one layout to another, so many bytes (16, 8, 4 or 2) at a time.
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
}

impl Helper {
    /// The definitions that make the text this kernel's.
    pub fn prelude(self) -> String {
        let infinity = "#define INFINITY __int_as_float(0x7f800000)\n";
        let (element, numbers) = match self {
            Helper::Merge => (Element::F32, String::new()),
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
        }
    }

    /// The whole text.
    pub fn text(self) -> String {
        [&self.prelude(), TYPES, PTX, CONTRACT, self.body()].concat()
    }
}
