//! dump: pictures and listings for people. In: graphs, programs and schedules. Out: DOT, SVG, Perfetto's JSON and text, and the report.
//!
//! Invariants: the same input gives the same text, and nothing outside it is read. Names come from untrusted models: all
//! text is escaped. A schedule that cannot run is drawn as far as it gets, and the picture says so.

mod dot;
mod escape;
mod perfetto;
pub mod program;
pub mod report;
pub mod stages;
pub mod support;
mod svg;
mod words;

pub use dot::dot;
pub use perfetto::perfetto;
pub use svg::timeline_svg;
