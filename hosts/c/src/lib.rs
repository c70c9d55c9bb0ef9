//! The C interface of annulus, for hosts in other languages or with another CUDA crate.
//!
//! In: a graph in annulus's text form, once; then raw device pointers and the host's stream. Out: work on that stream. The header
//! `include/annulus.h` is made of these files, and says what each function does; `README.md` has an example. Invariants: no panic leaves a function;
//! null where something must be is an error with a message; what is handed out is opaque, and freed by the function of its name.

mod call;
mod open;
mod program;
mod rows;
mod status;

pub use call::{AnnulusCall, annulus_part_enqueue, annulus_parts_enqueue_all, annulus_parts_restart};
pub use open::{AnnulusPart, AnnulusRun, annulus_part_free, annulus_part_sizes, annulus_parts_open};
pub use program::{
    AnnulusIsland, AnnulusOptions, AnnulusProgram, annulus_compile, annulus_program_free,
    annulus_program_graph, annulus_program_island, annulus_program_islands, annulus_program_ranks,
    annulus_text_free,
};
pub use rows::{
    ANNULUS_ALIGNMENT, AnnulusRows, AnnulusSequence, AnnulusSizes, annulus_program_rows,
    annulus_program_sizes,
};
pub use status::{AnnulusStatus, annulus_last_error, annulus_version};
