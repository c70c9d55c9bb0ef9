//! The command line of annulus.

fn main() {}
