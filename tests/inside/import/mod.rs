//! The importer against real models, against operators written by hand, and against broken files.

mod attention;
mod broken;
pub(crate) mod build;
mod cases;
mod contrib;
mod external;
mod functions;
mod models;
mod opaque;
mod operators;
mod table;

pub(crate) use annulus::import::proto;
