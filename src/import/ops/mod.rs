//! The operators that the importer knows: one table, and one file for each family of them.

mod activation;
mod attention;
mod contraction;
mod contrib;
mod conv;
mod einsum;
mod elementwise;
mod flex;
mod index;
mod reduce;
mod rotary;
mod shape;
mod table;

pub(super) use table::{Schema, schema};
