//! exec: runs programs. [`cpu`] runs every rank in one process.

pub mod cpu;
