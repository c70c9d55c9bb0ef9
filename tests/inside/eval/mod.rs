//! The oracle against formulas written out a second time, index by index in f64, and against stored references.

mod attention;
mod backward;
mod compare;
mod constants;
mod contract;
mod elementwise;
mod empty;
mod goldens;
mod graph;
mod index;
mod partial;
mod reduce;
mod shape;
mod steps;
mod util;
mod window;
