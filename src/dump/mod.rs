//! dump: pictures. In: graphs and schedules. Out: DOT and SVG text.
