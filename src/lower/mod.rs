//! lower: from steps of a schedule to kernels.
//!
//! In: a [`KernelKey`], a few integers and enums that say which attention a kernel computes. Out: its text, the compiler's
//! options, threads and shared memory, and the layout of its argument. Nothing here touches a device, and nothing of a model but
//! the key reaches a text: equal keys give equal bytes.

mod key;
mod params;
mod text;
mod tile;

pub use key::{Arch, Element, Family, Fill, KernelKey};
pub use params::{FAR, KvPiece, Leaf, MAX_PIECES, Params, QPiece, Rows};
pub use text::{CONTRACT, HOPPER, PTX, PTX_HOPPER, TYPES, body, checks, options, prelude, text, wgmma};
pub use tile::{PANEL, SHARED_LIMIT, Tiling, tiling};
