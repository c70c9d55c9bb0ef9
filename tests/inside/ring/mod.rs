//! Island graphs: what meets what, what travels, and what comes out.

pub(crate) mod case;
mod coverage;
pub(crate) mod oracle;
mod snapshots;
mod tables;
mod traffic;
mod values;
