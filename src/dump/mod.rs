//! dump: pictures and listings. In: graphs, programs and schedules. Out: DOT, SVG and text, and the report.

pub mod program;
pub mod report;
pub mod stages;
